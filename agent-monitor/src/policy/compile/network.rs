//! Builds the network automaton: CIDRs × port ranges × protocols of one profile, exactly.
//!
//! Called by `compile::profile`. There is one root per address family × direction × protocol, and one per protocol for
//! names. A walk reads the address (4 bytes for IPv4, 16 for IPv6) or the two bytes of a name class, then the port's
//! high and low byte.
//!
//! The networks of the rules, sorted, are their own trie: what shares the bytes read so far is one slice. So one
//! recursion over slices visits each trie node once; what the networks that ended above grant is carried along as a
//! port map. Where no longer network is left, only that map matters, and the walk skips to the port (`PORTS`).
//! States are made bottom-up and equal states are one, which is minimal because there are no loops; a state that can
//! end in one answer only is that answer.
//! Time and memory are linear in rules × prefix bytes, times the ports that nested networks add up to.
//!
//! What must stay true:
//! * rules are a union: their order, repetition and nesting do not matter, a deny wins over any allow;
//! * deny rules speak about destinations (`Direction::Out`); a listen is granted by listen rules only;
//! * an IPv6 network inside `::ffff:0:0/96` *is* an IPv4 network; any other IPv6 network (`::/0` too) says nothing
//!   about IPv4, because `decide()` sends mapped addresses to the IPv4 root.

use std::ops::Range;

use agent_monitor_common::automaton::{PORTS, TERMINAL};
use agent_monitor_common::image::class::NAME_STARTS;
use agent_monitor_common::request::{Direction, STARTS};
use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;

use super::cost::Ledger;
use super::ports::{NOTHING, PortMap, PortMaps, Said};
use super::programs::Holder;
use super::state::{State, Target, is_answer};
use crate::policy::{NameClasses, NetRule, NetworkPolicy, Protocol};

/// The automaton of a profile's network rules.
pub(super) struct Network {
    pub(super) states: Vec<State>,
    /// Of each holder.
    pub(super) roots: Vec<Roots>,
}

/// The roots of one holder.
#[derive(Clone, Copy)]
pub(super) struct Roots {
    /// By address family (IPv4, IPv6), each by `NetRequest::start()`.
    pub(super) addresses: [[Target; STARTS]; 2],
    /// By protocol.
    pub(super) names: [Target; NAME_STARTS],
}

/// The rules of a policy in the order of [`Entry::rule`].
pub(super) fn rules(policy: &NetworkPolicy) -> impl Iterator<Item = (&NetRule, Direction, Said)> {
    let allow = policy.allow.iter().map(|rule| (rule, Direction::Out, Said::ALLOW));
    let deny = policy.deny.iter().map(|rule| (rule, Direction::Out, Said::DENY));
    let listen = policy.listen.iter().map(|rule| (rule, Direction::Listen, Said::ALLOW));
    let audited = policy.audited.iter().map(|rule| (rule, Direction::Out, Said::AUDIT));
    allow.chain(deny).chain(listen).chain(audited)
}

/// Which rules, in the order of [`rules`], hold for a program.
fn holding(policy: &NetworkPolicy, holder: Holder<'_>) -> Vec<bool> {
    let holds = |(rule, _, said): (&NetRule, Direction, Said)| match said {
        Said::DENY | Said::AUDIT => holder.denied(&rule.programs),
        _ => holder.granted(&rule.programs),
    };
    rules(policy).map(holds).collect()
}

/// Builds the automaton for these programs; `ledger` hears which rules each state is made for.
pub(super) fn build(
    policy: &NetworkPolicy,
    names: &NameClasses,
    holders: &[Holder<'_>],
    mut ledger: Option<&mut Ledger>,
) -> Network {
    let mut builder = Builder::new();
    // Most classes differ in few rules or none: states are one where they are equal, and equal roots are built once.
    let mut built: HashMap<Vec<bool>, Roots> = HashMap::new();
    let mut roots = Vec::with_capacity(holders.len());
    for holder in holders {
        let holding = holding(policy, *holder);
        let of_class = match built.get(&holding) {
            Some(known) => *known,
            None => {
                let new = builder.roots(policy, names, &holding, ledger.as_deref_mut());
                built.insert(holding, new);
                new
            }
        };
        roots.push(of_class);
    }
    Network { states: builder.states, roots }
}

impl Builder {
    /// The roots for programs for which the rules that are `holding` hold.
    fn roots(
        &mut self,
        policy: &NetworkPolicy,
        names: &NameClasses,
        holding: &[bool],
        mut ledger: Option<&mut Ledger>,
    ) -> Roots {
        let builder = self;
        let mut roots = Roots { addresses: [[TERMINAL; STARTS]; 2], names: [TERMINAL; NAME_STARTS] };
        let named = named(policy, names, holding, &mut builder.maps);
        for protocol in Protocol::ALL {
            let bit = 1 << protocol as u8;
            let entries: Vec<Entry> =
                named.iter().filter(|entry| entry.protocols & bit != 0).cloned().collect();
            let ledger = ledger.as_deref_mut();
            let mut trie = Trie { builder, entries: &entries, ledger, ended: Vec::new() };
            roots.names[protocol as usize] = trie.root();
        }
        for direction in [Direction::Out, Direction::Listen] {
            let [v4, v6] = entries(policy, direction, holding, &mut builder.maps);
            for (family, entries) in [(0, v4), (1, v6)] {
                for protocol in Protocol::ALL {
                    let bit = 1 << protocol as u8;
                    let entries: Vec<Entry> =
                        entries.iter().filter(|entry| entry.protocols & bit != 0).cloned().collect();
                    let start = (direction as usize) << 2 | protocol as usize;
                    let ledger = ledger.as_deref_mut();
                    let mut trie = Trie { builder, entries: &entries, ledger, ended: Vec::new() };
                    roots.addresses[family][start] = trie.root();
                }
            }
        }
        roots
    }
}

/// One network of one rule.
#[derive(Clone)]
pub(super) struct Entry {
    /// Address bytes, IPv4 in the first four; zeros behind the prefix.
    network: [u8; 16],
    /// Prefix length.
    bits: u8,
    /// [`crate::policy::ProtocolSet::bits`].
    protocols: u8,
    ports: PortMap,
    /// Position in [`rules`].
    pub(super) rule: u32,
}

/// The networks of one direction by address family, in trie order.
fn entries(
    policy: &NetworkPolicy,
    direction: Direction,
    holding: &[bool],
    maps: &mut PortMaps,
) -> [Vec<Entry>; 2] {
    let mut families = [Vec::new(), Vec::new()];
    for (index, (rule, rule_direction, said)) in rules(policy).enumerate() {
        if rule_direction != direction || !holding[index] {
            continue;
        }
        let ports = maps.of(&rule.ports, said);
        for net in &rule.nets {
            let (family, network, bits) = key(net);
            let protocols = rule.protocols.bits();
            families[family].push(Entry { network, bits, protocols, ports, rule: index as u32 });
        }
    }
    for entries in &mut families {
        entries.sort_by_key(|entry| (entry.network, entry.bits));
    }
    families
}

/// What each name class is granted, in trie order; an entry is a network of the two bytes of the class.
fn named(policy: &NetworkPolicy, names: &NameClasses, holding: &[bool], maps: &mut PortMaps) -> Vec<Entry> {
    let mut entries = Vec::new();
    for class in 1..=names.len() as u16 {
        let mut network = [0; 16];
        network[..2].copy_from_slice(&class.to_be_bytes());
        // `allow` comes first in the order of `rules`.
        for &position in names.rules(class).iter().filter(|&&position| holding[position as usize]) {
            let rule = &policy.allow[position as usize];
            let granted = if rule.sni { Said::ALLOW_HELLO } else { Said::ALLOW };
            let ports = maps.of(&rule.ports, granted);
            let protocols = rule.protocols.bits();
            entries.push(Entry { network, bits: 16, protocols, ports, rule: position });
        }
    }
    entries
}

/// Family, address bytes and prefix length of a network, as the automaton reads addresses.
fn key(net: &IpNet) -> (usize, [u8; 16], u8) {
    let mut bytes = [0; 16];
    match net.trunc() {
        IpNet::V4(net) => {
            bytes[..4].copy_from_slice(&net.addr().octets());
            (0, bytes, net.prefix_len())
        }
        IpNet::V6(net) => match net.addr().to_ipv4_mapped() {
            Some(v4) if net.prefix_len() >= 96 => {
                bytes[..4].copy_from_slice(&v4.octets());
                (0, bytes, net.prefix_len() - 96)
            }
            _ => (1, net.addr().octets(), net.prefix_len()),
        },
    }
}

/// The states so far, and what finds them again.
struct Builder {
    states: Vec<State>,
    ids: HashMap<State, Target>,
    maps: PortMaps,
    /// The targets where only a port map matters.
    tails: HashMap<PortMap, Target>,
}

impl Builder {
    fn new() -> Self {
        Builder { states: Vec::new(), ids: HashMap::new(), maps: PortMaps::new(), tails: HashMap::new() }
    }

    /// The one state that is equal to `state`, or where it always ends without asking more of the address.
    fn intern(&mut self, state: State) -> Target {
        if let Some(target) = state.constant().filter(|&target| is_answer(target) || target & PORTS != 0) {
            return target;
        }
        if let Some(&known) = self.ids.get(&state) {
            return known;
        }
        let target = self.states.len() as Target;
        self.states.push(state.clone());
        self.ids.insert(state, target);
        target
    }

    /// Adds `ports` to what some bytes are covered by already.
    fn cover(&mut self, covers: &mut [PortMap], ports: PortMap) {
        let mut last = None;
        for cover in covers {
            // Neighbours are mostly equal.
            let union = match last {
                Some((before, union)) if before == *cover => union,
                _ => self.maps.union(*cover, ports),
            };
            last = Some((*cover, union));
            *cover = union;
        }
    }

    /// Where only the port matters.
    fn tail(&mut self, ports: PortMap) -> Target {
        if let Some(said) = self.maps.constant(ports) {
            return answer(said);
        }
        if let Some(&known) = self.tails.get(&ports) {
            return known;
        }
        let target = self.port_states(ports) | PORTS;
        self.tails.insert(ports, target);
        target
    }

    /// The state that reads a port's high byte. Time is linear in the runs, not in the ports.
    fn port_states(&mut self, ports: PortMap) -> Target {
        let runs = self.maps.runs(ports).to_vec();
        let mut high: Vec<(u8, Target)> = Vec::new();
        // `run` is the run that the first port of the page belongs to.
        let mut run = 0;
        for byte in 0..=255_u8 {
            let page = u16::from(byte) << 8;
            let end = run + 1 + runs[run + 1..].partition_point(|&(first, _)| first <= page | 0xff);
            if runs.get(run + 1).is_some_and(|&(first, _)| first == page) {
                run += 1;
            }
            let mut low = vec![(0, answer(runs[run].1))];
            low.extend(runs[run + 1..end].iter().map(|&(first, said)| (first as u8, answer(said))));
            let target = self.intern(State { accept: 0, runs: low.into() });
            if high.last().is_none_or(|&(_, last)| last != target) {
                high.push((byte, target));
            }
            run = end - 1;
        }
        self.intern(State { accept: 0, runs: high.into() })
    }
}

/// The networks of one root.
struct Trie<'a> {
    builder: &'a mut Builder,
    /// In trie order: by network, then by length.
    entries: &'a [Entry],
    ledger: Option<&'a mut Ledger>,
    /// For the ledger: the rules whose networks ended on the way to the present node.
    ended: Vec<u32>,
}

impl Trie<'_> {
    /// The target for every address.
    fn root(&mut self) -> Target {
        // A network of no bits ends before the first byte is read.
        let everywhere = self.entries.partition_point(|entry| entry.bits == 0);
        let mut cover = NOTHING;
        for entry in &self.entries[..everywhere] {
            cover = self.builder.maps.union(cover, entry.ports);
            self.ended.push(entry.rule);
        }
        let longer = everywhere..self.entries.len();
        if longer.is_empty() { self.builder.tail(cover) } else { self.node(longer, 0, cover) }
    }

    /// The target for addresses whose first `depth` bytes are those of `range`, a slice of networks longer than that.
    /// `cover` is what the networks that ended before grant.
    fn node(&mut self, range: Range<usize>, depth: usize, cover: PortMap) -> Target {
        // Nothing below can change a denial of every port.
        if self.builder.maps.constant(cover) == Some(Said::DENY) {
            return answer(Said::DENY);
        }
        let bits = 8 * (depth + 1);
        let mut covers = [cover; 256];
        let mut below = [const { 0..0 }; 256];
        // For the ledger: first and last byte of the networks that end here, and their rules.
        let mut ending_here: Vec<(u8, u8, u32)> = Vec::new();
        let mut next = range.start;
        while next < range.end {
            let byte = self.entries[next].network[depth];
            let rest = &self.entries[next..range.end];
            let same = rest.partition_point(|entry| entry.network[depth] == byte);
            // Zeros behind the prefix sort the networks that end in this byte before the longer ones.
            let ending = rest[..same].partition_point(|entry| usize::from(entry.bits) <= bits);
            for entry in &rest[..ending] {
                let span = 1 << (bits - usize::from(entry.bits));
                self.builder.cover(&mut covers[usize::from(byte)..][..span], entry.ports);
                if self.ledger.is_some() {
                    ending_here.push((byte, byte | (span - 1) as u8, entry.rule));
                }
            }
            below[usize::from(byte)] = next + ending..next + same;
            next += same;
        }

        let mut targets = [TERMINAL; 256];
        let mut last = None;
        for (byte, below) in below.into_iter().enumerate() {
            let cover = covers[byte];
            let ended = self.ended.len();
            let through = |&(first, last, rule): &(u8, u8, u32)| {
                (usize::from(first)..=usize::from(last)).contains(&byte).then_some(rule)
            };
            if !below.is_empty() {
                self.ended.extend(ending_here.iter().filter_map(through));
                targets[byte] = self.node(below, depth + 1, cover);
            } else if let Some((_, target)) = last.filter(|&(before, _)| before == cover) {
                targets[byte] = target;
            } else {
                targets[byte] = self.builder.tail(cover);
                last = Some((cover, targets[byte]));
                if let Some(ledger) = &mut self.ledger {
                    self.ended.extend(ending_here.iter().filter_map(through));
                    ledger.tail(targets[byte], &self.ended);
                }
            }
            self.ended.truncate(ended);
        }
        let target = self.builder.intern(State::from_bytes(0, &targets));
        if let Some(ledger) = &mut self.ledger {
            ledger.node(target, self.entries[range].iter().map(|entry| entry.rule));
        }
        target
    }
}

/// The target that is the answer to what is said.
fn answer(said: Said) -> Target {
    TERMINAL | said.decision().code()
}
