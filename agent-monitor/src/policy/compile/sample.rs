//! Makes profiles of any size out of a seed, for property tests, the kernel's differential test and `cargo xtask bench`.
//!
//! The shape is that of a real egress policy that grew: blocks of neighbouring networks of many lengths, a few hot
//! ports, some ranges, denies nested inside of grants. The same arguments give the same profile on every machine.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use agent_monitor_common::request::{self, Address, NetRequest};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::policy::{
    Condition, Denied, Mode, NetRule, NetworkPolicy, ProgramRef, Programs, Protocol, ProtocolSet,
    ResolvedProfile, SocketKinds, Source,
};

/// A profile of `rules` network rules: 3 % listen rules, 20 % denies, the rest grants; two thirds speak about IPv4.
#[must_use]
pub fn network_profile(rules: usize, seed: u64) -> ResolvedProfile {
    let file: Arc<Path> = Arc::from(Path::new("sample.yaml"));
    let mut random = Random::new(seed);
    // Rules gather in blocks, as a company's networks do.
    let blocks_v4: Vec<u32> = (0..64).map(|_| random.next() as u32).collect();
    let blocks_v6: Vec<u128> = (0..16).map(|_| 0x2 << 124 | u128::from(random.next() >> 20) << 80).collect();
    let (mut allow, mut deny, mut listen) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..rules {
        // By position, so that a profile of ten rules is made like one of ten thousand.
        let (key, list) = match index {
            _ if index % 33 == 32 => ("listen", &mut listen),
            _ if index % 5 == 4 => ("deny", &mut deny),
            _ => ("allow", &mut allow),
        };
        let net = if index % 3 != 1 { random.net_v4(&blocks_v4) } else { random.net_v6(&blocks_v6) };
        list.push(NetRule {
            id: format!("sample:network.{key}[{}]", list.len()),
            source: Source { file: file.clone(), line: index as u32 + 1, column: 1 },
            nets: vec![net],
            hosts: Vec::new(),
            sni: false,
            ports: random.ports(),
            protocols: random.protocols(),
            programs: Condition::default(),
        });
    }
    ResolvedProfile {
        name: "sample".into(),
        description: None,
        mode: Mode::Enforce,
        file: file.clone(),
        files: vec![file.clone()],
        claims: Vec::new(),
        programs: Programs::new(),
        network: NetworkPolicy {
            denied: Denied::Unreachable,
            allow,
            deny,
            listen,
            audited: Vec::new(),
            sockets: SocketKinds::NONE,
            source: Source { file, line: 1, column: 1 },
        },
        filesystem: None,
        exec: None,
        unix: None,
        privileges: None,
        audited: Vec::new(),
        notices: None,
        protected: Default::default(),
        homes: Vec::new(),
        workspace: Vec::new(),
        syscalls: Vec::new(),
    }
}

/// The same with rules for some programs only: a third of all, by four sets that overlap.
#[must_use]
pub fn profile_of_programs(rules: usize, seed: u64) -> ResolvedProfile {
    let mut profile = network_profile(rules, seed);
    let mut random = Random::new(seed ^ 0x70_726f_6772_616d);
    let sets =
        [("git", "/usr/bin/git"), ("tools", "/usr/bin/*"), ("own", "/home/*/bin/**"), ("node", "**/node")];
    profile.programs =
        sets.iter().map(|(name, glob)| ((*name).to_owned(), vec![(*glob).to_owned()])).collect();
    let network = &mut profile.network;
    for (rule, denies) in (network.allow.iter_mut().chain(&mut network.listen).map(|rule| (rule, false)))
        .chain(network.deny.iter_mut().map(|rule| (rule, true)))
    {
        if random.below(3) == 0 {
            let (name, _) = random.pick(&sets);
            let set = vec![ProgramRef::Name(name.to_owned())];
            let except = denies && random.below(2) == 0;
            rule.programs = match except {
                true => Condition { except: set, ..Condition::default() },
                false => Condition { exe: set, ..Condition::default() },
            };
        }
    }
    profile
}

/// Requests about a profile: most at the edges of its networks and port ranges, where mistakes would be, some through
/// forms of IPv6 that carry an IPv4 address, some anywhere.
#[must_use]
pub fn requests(profile: &ResolvedProfile, count: usize, seed: u64) -> Vec<NetRequest> {
    let mut random = Random::new(seed);
    let policy = &profile.network;
    let rules: Vec<&NetRule> = policy.allow.iter().chain(&policy.deny).chain(&policy.listen).collect();
    (0..count).map(|_| random.request(&rules)).collect()
}

/// SplitMix64 (Steele, Lea, Flood, 2014): small, and its numbers are the same for ever.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit` (not 0).
    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn net_v4(&mut self, blocks: &[u32]) -> IpNet {
        let address = if self.below(2) == 0 {
            self.pick(blocks) & 0xffff_0000 | self.next() as u32 & 0xffff
        } else {
            self.next() as u32
        };
        let length = self.pick(&[8, 12, 16, 16, 19, 20, 22, 24, 24, 24, 25, 28, 30, 32, 32, 32]);
        let net = Ipv4Net::new_assert(Ipv4Addr::from_bits(address), length);
        IpNet::V4(net.trunc())
    }

    fn net_v6(&mut self, blocks: &[u128]) -> IpNet {
        let address = self.pick(blocks) | u128::from(self.next()) << 16 & 0xffff_ffff_ffff_ffff_ffff | 1;
        let length = self.pick(&[32, 40, 44, 48, 48, 48, 56, 64, 64, 128]);
        let net = Ipv6Net::new_assert(Ipv6Addr::from_bits(address), length);
        IpNet::V6(net.trunc())
    }

    /// As profiles keep them: sorted, disjoint, not adjacent.
    fn ports(&mut self) -> Vec<RangeInclusive<u16>> {
        const HOT: [u16; 8] = [443, 443, 443, 80, 22, 53, 5432, 6379];
        let high = self.below(60_000) as u16 + 1_024;
        match self.below(20) {
            0..3 => vec![0..=65_535],
            3..12 => vec![self.pick(&HOT); 1].into_iter().map(|port| port..=port).collect(),
            12..14 => vec![high..=high],
            14..16 => vec![8_000..=8_100],
            16..18 => vec![high..=high.saturating_add(self.below(2_000) as u16)],
            18 => vec![80..=80, 443..=443],
            _ => vec![22..=22, 443..=443, 8_443..=8_443],
        }
    }

    fn protocols(&mut self) -> ProtocolSet {
        match self.below(20) {
            0..13 => ProtocolSet::of(Protocol::Tcp),
            13..15 => ProtocolSet::of(Protocol::Udp),
            15..19 => ProtocolSet::of(Protocol::Tcp).with(Protocol::Udp),
            _ => ProtocolSet::ANY,
        }
    }

    fn request(&mut self, rules: &[&NetRule]) -> NetRequest {
        let near = if rules.is_empty() { None } else { Some(self.pick(rules)) };
        let address = match near {
            Some(rule) if self.below(8) != 0 && !rule.nets.is_empty() => {
                let net = self.pick(&rule.nets);
                self.near(net)
            }
            _ if self.below(2) == 0 => Ipv4Addr::from_bits(self.next() as u32).to_ipv6_mapped(),
            _ => Ipv6Addr::from_bits(u128::from(self.next()) << 64 | u128::from(self.next())),
        };
        let port = match near {
            Some(rule) if self.below(8) != 0 && !rule.ports.is_empty() => {
                let at = self.below(rule.ports.len());
                let range = &rule.ports[at];
                let edge = if self.below(2) == 0 { *range.start() } else { *range.end() };
                edge.wrapping_add(self.pick(&[0, 0, 0, 1, u16::MAX, 256]))
            }
            _ => self.next() as u16,
        };
        let protocol = self.pick(request::Protocol::ALL);
        let address = Address::from_bytes(address.octets());
        if self.below(8) == 0 {
            NetRequest::listen(address, port, protocol)
        } else {
            NetRequest::out(address, port, protocol)
        }
    }

    /// The first or last address of a network, one before or behind it, or one inside.
    fn near(&mut self, net: IpNet) -> Ipv6Addr {
        match net {
            IpNet::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                let inside = first.wrapping_add(self.next() as u32 & (last ^ first));
                let v4 =
                    self.pick(&[first, last, first.wrapping_sub(1), last.wrapping_add(1), inside, inside]);
                self.carried(Ipv4Addr::from_bits(v4))
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                let wide = u128::from(self.next()) << 64 | u128::from(self.next());
                let inside = first.wrapping_add(wide & (last ^ first));
                Ipv6Addr::from_bits(self.pick(&[
                    first,
                    last,
                    first.wrapping_sub(1),
                    last.wrapping_add(1),
                    inside,
                    inside,
                ]))
            }
        }
    }

    /// An IPv4 address in mapped form, or now and then inside NAT64, 6to4, Teredo, IPv4-compatible.
    fn carried(&mut self, v4: Ipv4Addr) -> Ipv6Addr {
        let bits = u128::from(v4.to_bits());
        match self.below(16) {
            0 => Ipv6Addr::from_bits(0x0064_ff9b << 96 | bits),
            1 => Ipv6Addr::from_bits(0x0064_ff9b_0001 << 80 | bits),
            2 => Ipv6Addr::from_bits(0x2002 << 112 | bits << 80 | u128::from(self.next())),
            3 => Ipv6Addr::from_bits(0x2001_0000 << 96 | (bits ^ 0xffff_ffff)),
            4 => Ipv6Addr::from_bits(bits),
            _ => v4.to_ipv6_mapped(),
        }
    }
}
