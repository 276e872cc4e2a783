//! Finds the rule behind a verdict: the kernel's automaton knows only *what* was decided.
//!
//! Called for every event that has a verdict, and by `explain`. Independent of the automaton: rules are looked up by
//! prefix in hash maps, one look-up per prefix length that the profile uses. Property tests hold it equal to
//! `naive.rs` (which says what rules mean and which of several is named) and to `decide()`.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agent_monitor_common::decide::Decision;
use agent_monitor_common::event::Reason;
use agent_monitor_common::path::{Right, Rights};
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{self, Direction, NetRequest};
use ipnet::IpNet;

use super::compile::{self, PathMatcher, kernel_kind};
use super::naive;
use super::{Membership, NameClasses, NetRule, PathRule, ResolvedProfile, Source, SyscallRule};

/// What decided, and where a person finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution<'p> {
    pub decision: Decision,
    /// The rule, where a network rule decided.
    pub rule: Option<&'p NetRule>,
    /// Its id, or `<profile>:network.default`, or `<profile>:network.sockets`.
    pub id: Cow<'p, str>,
    /// Where it is written.
    pub source: &'p Source,
}

/// Which rule decides `request` of a program. For single questions; for a stream of events see [`Attributor`].
#[must_use]
pub fn network<'p>(
    profile: &'p ResolvedProfile,
    program: &Membership,
    request: NetRequest,
) -> Attribution<'p> {
    let (decision, rule) = naive::decide(&profile.network, program, request);
    match rule {
        Some(rule) => {
            Attribution { decision, rule: Some(rule), id: Cow::Borrowed(&rule.id), source: &rule.source }
        }
        None => default_deny(profile),
    }
}

/// What decides about a socket of this kind.
#[must_use]
pub fn socket(profile: &ResolvedProfile, kind: request::SocketKind) -> Attribution<'_> {
    if !profile.network.sockets.iter().any(|granted| kernel_kind(granted) == kind) {
        return default_deny(profile);
    }
    Attribution {
        decision: Decision::Allow,
        rule: None,
        id: Cow::Owned(format!("{}:network.sockets", profile.name)),
        source: &profile.network.source,
    }
}

/// The rule that watches a system call; `None`: no rule does.
#[must_use]
pub fn syscall(profile: &ResolvedProfile, nr: u32) -> Option<&SyscallRule> {
    profile.syscalls.iter().find(|rule| rule.nr == nr)
}

/// What denies a privilege: the key that says no, else the section that does not grant it; `None`: no such section.
#[must_use]
pub fn privilege(profile: &ResolvedProfile, privilege: Privilege) -> Option<(String, &Source)> {
    let policy = profile.privileges.as_ref()?;
    let (key, written) = match privilege {
        Privilege::Capability => ("capabilities", None),
        Privilege::Setuid => ("setuid", policy.setuid.source.as_ref()),
        Privilege::UserNamespace => ("user_namespaces", policy.user_namespaces.source.as_ref()),
        Privilege::Ptrace => ("ptrace", policy.ptrace.source.as_ref()),
        Privilege::Signal => ("signals", policy.signals.source.as_ref()),
        Privilege::Mount => ("mounts", policy.mounts.source.as_ref()),
        Privilege::Module => ("modules", policy.modules.source.as_ref()),
        Privilege::Bpf => ("bpf", policy.bpf.source.as_ref()),
        Privilege::Perf => ("perf", policy.perf.source.as_ref()),
        Privilege::IoUring => ("io_uring", policy.io_uring.source.as_ref()),
    };
    Some((format!("{}:privileges.{key}", profile.name), written.unwrap_or(&policy.source)))
}

/// What decides about a path: of a denial the rule, or the default of the section that grants nothing.
#[must_use]
pub fn path<'p>(
    profile: &'p ResolvedProfile,
    matcher: &'p PathMatcher,
    program: &Membership,
    path: &[u8],
    needed: Rights,
    reason: Reason,
) -> Attribution<'p> {
    let by = |decision, rule: &'p PathRule| Attribution {
        decision,
        rule: None,
        id: Cow::Borrowed(&rule.id),
        source: &rule.source,
    };
    let denying = match reason {
        Reason::DeniedBelow => matcher.denying_below(program, path),
        // An open directory is judged by what lies in it too.
        _ => matcher
            .denying(program, path, needed)
            .or_else(|| matcher.denying(program, &[path, b"/"].concat(), needed)),
    };
    if let Some(rule) = denying.filter(|_| matches!(reason, Reason::Rule | Reason::DeniedBelow)) {
        return by(Decision::DenyRule, rule);
    }
    let auditing = || {
        let inside = [path, b"/"].concat();
        matcher.auditing(program, path, needed).or_else(|| matcher.auditing(program, &inside, needed))
    };
    if reason == Reason::Rule
        && let Some(rule) = auditing()
    {
        return by(Decision::Audit, rule);
    }
    let asked = |right: Right| needed & right as Rights != 0;
    let (section, source) = match (&profile.exec, &profile.unix, &profile.filesystem) {
        (Some(exec), ..) if asked(Right::Execute) => ("exec", &exec.source),
        (_, Some(unix), _) if asked(Right::Connect) => ("unix", &unix.source),
        (.., Some(files)) => ("files", &files.source),
        _ => ("network", &profile.network.source),
    };
    Attribution {
        decision: Decision::DenyDefault,
        rule: None,
        id: Cow::Owned(format!("{}:{section}.default", profile.name)),
        source,
    }
}

fn default_deny(profile: &ResolvedProfile) -> Attribution<'_> {
    Attribution {
        decision: Decision::DenyDefault,
        rule: None,
        id: Cow::Owned(format!("{}:network.default", profile.name)),
        source: &profile.network.source,
    }
}

/// Attributes a stream of events of one profile.
///
/// A question costs one hash look-up per prefix length in use (two for a destination: denies, then grants), and one
/// step for every rule that has the very same network.
#[derive(Debug)]
pub struct Attributor {
    profile: Arc<ResolvedProfile>,
    allow: Index,
    deny: Index,
    audited: Index,
    listen: Index,
    paths: PathMatcher,
    hosts: NameClasses,
    /// By class number; a class that the profile does not have is not known.
    classes: Vec<Membership>,
    /// The names of each class' sets.
    names: Vec<Vec<String>>,
    /// Id of the default deny.
    default: String,
}

impl Attributor {
    #[must_use]
    pub fn new(profile: Arc<ResolvedProfile>) -> Self {
        let policy = &profile.network;
        // A profile whose classes can't be had has no image, and so no events.
        let classes = compile::memberships(&profile).unwrap_or_default();
        Attributor {
            names: classes.iter().map(|class| class.names().map(str::to_owned).collect()).collect(),
            classes,
            allow: Index::new(&policy.allow),
            deny: Index::new(&policy.deny),
            audited: Index::new(&policy.audited),
            listen: Index::new(&policy.listen),
            paths: PathMatcher::new(&profile),
            hosts: NameClasses::of(policy).unwrap_or_default(),
            default: format!("{}:network.default", profile.name),
            profile,
        }
    }

    /// The profile whose rules these are.
    #[must_use]
    pub fn profile(&self) -> &Arc<ResolvedProfile> {
        &self.profile
    }

    /// The sets that a program of this class is in.
    #[must_use]
    pub fn program(&self, class: u32) -> &Membership {
        self.classes.get(class as usize).unwrap_or(&Membership::Unknown)
    }

    /// The names of these sets.
    #[must_use]
    pub fn program_names(&self, class: u32) -> &[String] {
        self.names.get(class as usize).map_or(&[], Vec::as_slice)
    }

    /// Which rule decides `request` of a program of this class; the same as [`network`].
    #[must_use]
    pub fn network(&self, class: u32, request: NetRequest) -> Attribution<'_> {
        let program = self.program(class);
        if let Some(v4) = request.address.as_v4() {
            return self.judge(program, request, Key::v4(v4));
        }
        let outer = self.judge(program, request, Key::v6(request.address.bytes()));
        match request.address.embedded_v4() {
            Some(v4) if outer.decision.passes() && request.direction == Direction::Out => {
                let inner = self.judge(program, request, Key::v4(v4));
                if inner.decision.allowed() { outer } else { inner }
            }
            _ => outer,
        }
    }

    /// Which rule grants a request to an address that stands for a name of class `name`.
    #[must_use]
    pub fn name(&self, class: u32, name: u16, port: u16, protocol: request::Protocol) -> Option<&NetRule> {
        let program = self.program(class);
        let rules =
            self.hosts.rules(name).iter().map(|&position| &self.profile.network.allow[position as usize]);
        rules
            .filter(|rule| rule.programs.grants(program))
            .filter(|rule| rule.protocols.contains(naive::protocol(protocol)))
            .filter(|rule| rule.ports.iter().any(|range| range.contains(&port)))
            .min_by_key(|rule| (rule.sni, naive::port_count(rule), &rule.id))
    }

    /// What decides about a path; see [`path`].
    #[must_use]
    pub fn path(&self, class: u32, path: &[u8], needed: Rights, reason: Reason) -> Attribution<'_> {
        self::path(&self.profile, &self.paths, self.program(class), path, needed, reason)
    }

    fn judge(&self, program: &Membership, request: NetRequest, key: Key) -> Attribution<'_> {
        let policy = &self.profile.network;
        let grants = |rule: &NetRule| rule.programs.grants(program);
        let denies = |rule: &NetRule| rule.programs.denies(program);
        let (found, decision) = match request.direction {
            Direction::Listen => (self.listen.find(&policy.listen, request, key, grants), Decision::Allow),
            Direction::Out => match self.deny.find(&policy.deny, request, key, denies) {
                Some(rule) => (Some(rule), Decision::DenyRule),
                None => match self.allow.find(&policy.allow, request, key, grants) {
                    Some(rule) => match self.audited.find(&policy.audited, request, key, denies) {
                        Some(audited) => (Some(audited), Decision::Audit),
                        None => (Some(rule), Decision::Allow),
                    },
                    None => (None, Decision::DenyDefault),
                },
            },
        };
        match found {
            Some(rule) => {
                Attribution { decision, rule: Some(rule), id: Cow::Borrowed(&rule.id), source: &rule.source }
            }
            None => Attribution {
                decision: Decision::DenyDefault,
                rule: None,
                id: Cow::Borrowed(&self.default),
                source: &policy.source,
            },
        }
    }
}

/// An address of one family; IPv4 in the high bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    v6: bool,
    bits: u128,
}

impl Key {
    /// From network byte order.
    fn v4(be: u32) -> Self {
        Key { v6: false, bits: u128::from(u32::from_be(be)) << 96 }
    }

    fn v6(bytes: [u8; 16]) -> Self {
        Key { v6: true, bits: u128::from_be_bytes(bytes) }
    }

    /// The network of this length that holds the address.
    fn network(self, length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Key { bits: self.bits & mask, ..self }
    }
}

/// Rules by network.
#[derive(Debug)]
struct Index {
    /// Family and prefix length, longest first → network → positions of its rules, fewest ports first, then by id.
    lengths: Vec<(bool, u8, HashMap<u128, Vec<u32>>)>,
}

impl Index {
    fn new(rules: &[NetRule]) -> Self {
        let mut lengths: BTreeMap<(bool, Reverse<u8>), HashMap<u128, Vec<u32>>> = BTreeMap::new();
        for (position, rule) in rules.iter().enumerate() {
            for net in &rule.nets {
                let (key, length) = key(*net);
                let networks = lengths.entry((key.v6, Reverse(length))).or_default();
                networks.entry(key.network(length).bits).or_default().push(position as u32);
            }
        }
        let mut ranks = lengths.into_iter().collect::<Vec<_>>();
        for positions in ranks.iter_mut().flat_map(|(_, networks)| networks.values_mut()) {
            positions.sort_by_key(|&position| {
                let rule = &rules[position as usize];
                (naive::port_count(rule), &rule.id)
            });
        }
        let lengths = ranks.into_iter().map(|((v6, Reverse(length)), networks)| (v6, length, networks));
        Index { lengths: lengths.collect() }
    }

    /// The most specific of `rules` (those the index was made of) that matches and `holds`.
    fn find<'p>(
        &self,
        rules: &'p [NetRule],
        request: NetRequest,
        key: Key,
        holds: impl Fn(&NetRule) -> bool,
    ) -> Option<&'p NetRule> {
        let protocol = naive::protocol(request.protocol);
        let lengths = self.lengths.iter().filter(|(v6, ..)| *v6 == key.v6);
        let positions = lengths.filter_map(|(_, length, networks)| networks.get(&key.network(*length).bits));
        positions.flatten().map(|&position| &rules[position as usize]).find(|rule| {
            rule.protocols.contains(protocol)
                && rule.ports.iter().any(|range| range.contains(&request.port))
                && holds(rule)
        })
    }
}

/// The first address of a network, and its prefix length in its family.
fn key(net: IpNet) -> (Key, u8) {
    match net {
        IpNet::V4(net) => (Key::v4(net.addr().to_bits().to_be()), net.prefix_len()),
        IpNet::V6(net) => match net.addr().to_ipv4_mapped() {
            Some(v4) if net.prefix_len() >= 96 => (Key::v4(v4.to_bits().to_be()), net.prefix_len() - 96),
            _ => (Key::v6(net.addr().octets()), net.prefix_len()),
        },
    }
}
