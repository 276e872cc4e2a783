//! The compiled bytes of one profile (or of all claims), as they are installed in the kernel.
//!
//! Made by `compile::{profile, claims}`; read by `decide()` on both sides, and installed by `kernel`. The layout is
//! `agent_monitor_common::image`.

use agent_monitor_common::automaton::{FREE_CELL, TERMINAL, Words};
use agent_monitor_common::counters;
use agent_monitor_common::image::{
    Class, DeniedErrno, HAS_EXEC, HAS_FILES, HAS_NAMES, HAS_PRIVILEGES, HAS_PROGRAMS, HAS_PROTECTED,
    HAS_SYSCALLS, HAS_UNIX, MAGIC, MAX_CLASSES, Settings, class, header,
};
use agent_monitor_common::pin;
use agent_monitor_common::privilege::{
    CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETIDS, PTRACE_OWN, Privilege,
};
use agent_monitor_common::request::{self, STARTS};

use super::programs;
use crate::policy::{
    Denied, Mode, NameClasses, NetworkPolicy, Pin, PrivilegesPolicy, ResolvedProfile, SocketKind, Targets,
};

/// A policy image. Deterministic: the same profile (rules in any order) gives the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// At most `IMAGE_WORDS`, header included. Whoever installs it fills the rest of the map's value with zeros.
    pub words: Vec<u64>,
}

/// What a profile grants beside addresses and paths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Masks {
    sockets: u64,
    privileges: u64,
    capabilities: u64,
}

impl Masks {
    pub(super) fn of(profile: &ResolvedProfile) -> Self {
        let (privileges, capabilities) = profile.privileges.as_ref().map_or((0, 0), privileges);
        Masks { sockets: sockets(&profile.network), privileges, capabilities }
    }
}

impl Image {
    /// Words in use, header included.
    #[must_use]
    pub fn words_used(&self) -> usize {
        self.words.len()
    }

    /// Writes what every image has, and the answer "nothing" for every automaton; what the image does have replaces
    /// it afterwards.
    pub(super) fn seal(mut words: Vec<u64>) -> Self {
        words[header::MAGIC] = MAGIC;
        words[header::LENGTH] = words.len() as u64;
        words[header::START_EXE] = u64::from(TERMINAL);
        for record in 0..2 * MAX_CLASSES {
            let class = Class::of_record(record as u32);
            let first = class.at(class::START_V4);
            words[first..=first + class::START_PATH].fill(u64::from(TERMINAL));
            let first = class.at(class::START_NAME);
            words[first..first + class::NAME_STARTS].fill(u64::from(TERMINAL));
        }
        Image { words }
    }

    /// Writes the record of a class; `starts`: the start states for IPv4, then those for IPv6, then the paths', then
    /// those for names.
    pub(super) fn set_class(&mut self, class: Class, starts: &[u32], masks: Masks) {
        debug_assert_eq!(starts.len(), 2 * STARTS + 1 + class::NAME_STARTS);
        let (starts, names) = starts.split_at(starts.len() - class::NAME_STARTS);
        for (first, starts) in [(class::START_V4, starts), (class::START_NAME, names)] {
            for (index, &start) in starts.iter().enumerate() {
                self.words[class.at(first + index)] = u64::from(start);
            }
        }
        self.words[class.at(class::SOCKETS)] = masks.sockets;
        self.words[class.at(class::PRIVILEGES)] = masks.privileges;
        self.words[class.at(class::CAPABILITIES)] = masks.capabilities;
    }

    /// Writes what the name classes are: two profiles that differ in names only have different images.
    pub(super) fn name(&mut self, names: &NameClasses) {
        for (word, eight) in self.words[header::NAMES..].iter_mut().zip(names.digest().chunks_exact(8)) {
            *word = eight.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
    }

    /// Appends the table of pinned programs; of a path that is pinned twice the loader saw that both are the same.
    pub(super) fn pin(&mut self, pins: &[Pin]) {
        if pins.is_empty() {
            return;
        }
        self.words.resize(self.words.len() + pin::GAP, FREE_CELL);
        let mut table: Vec<[u64; pin::PIN_WORDS]> = pins
            .iter()
            .map(|program| {
                let [a, b, c, d] = pin::words(&program.sha256);
                [pin::PathHash::of(program.path.as_bytes()).0, a, b, c, d]
            })
            .collect();
        table.sort_unstable();
        table.dedup();
        self.words[header::PINS] = pin::table_word(self.words.len() as u32, table.len() as u32);
        self.words.extend(table.iter().flatten());
        self.words[header::LENGTH] = self.words.len() as u64;
    }
}

impl Words for Image {
    fn word(&self, index: u64) -> u64 {
        self.words.as_slice().word(index)
    }
}

/// The settings word of a profile.
pub(super) fn settings(profile: &ResolvedProfile) -> u64 {
    let mode = match profile.mode {
        Mode::Learn => counters::Mode::Learn,
        Mode::Audit => counters::Mode::Audit,
        Mode::Enforce => counters::Mode::Enforce,
    };
    let errno = match profile.network.denied {
        Denied::Unreachable => DeniedErrno::Unreachable,
        Denied::Refused => DeniedErrno::Refused,
        Denied::Denied => DeniedErrno::Denied,
        Denied::NotPermitted => DeniedErrno::NotPermitted,
    };
    let flags = [
        (!profile.syscalls.is_empty(), HAS_SYSCALLS),
        (profile.filesystem.is_some(), HAS_FILES),
        (profile.exec.is_some(), HAS_EXEC),
        (profile.unix.is_some(), HAS_UNIX),
        (profile.privileges.is_some(), HAS_PRIVILEGES),
        (programs::conditions(profile).any(|(condition, ..)| !condition.is_any()), HAS_PROGRAMS),
        (!profile.protected.paths.is_empty(), HAS_PROTECTED),
        (profile.network.allow.iter().any(|rule| !rule.hosts.is_empty()), HAS_NAMES),
    ];
    let flags = flags.into_iter().filter(|(has, _)| *has).fold(0, |all, (_, flag)| all | flag);
    Settings { mode: mode.code(), errno: errno.code(), flags }.to_word()
}

/// The masks of granted privileges and of granted capabilities.
pub(super) fn privileges(policy: &PrivilegesPolicy) -> (u64, u64) {
    let granted = [
        (policy.setuid.value, Privilege::Setuid),
        (policy.user_namespaces.value, Privilege::UserNamespace),
        (policy.ptrace.value == Targets::Any, Privilege::Ptrace),
        (policy.signals.value == Targets::Any, Privilege::Signal),
        (policy.mounts.value, Privilege::Mount),
        (policy.modules.value, Privilege::Module),
        (policy.bpf.value, Privilege::Bpf),
        (policy.perf.value, Privilege::Perf),
        (policy.io_uring.value, Privilege::IoUring),
    ];
    let mut privileges =
        granted.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, one)| all | 1 << one.code());
    if policy.ptrace.value != Targets::None {
        privileges |= PTRACE_OWN;
    }
    let mut capabilities = policy.capabilities;
    if policy.setuid.value {
        capabilities |= CAP_SETIDS;
    }
    // The kernel asks for the lesser one first and then for the greater one, at every directory: without this each
    // would be a denial of what is granted a moment later.
    if capabilities & CAP_DAC_OVERRIDE != 0 {
        capabilities |= CAP_DAC_READ_SEARCH;
    }
    (privileges, capabilities)
}

/// The mask of granted socket kinds.
pub(super) fn sockets(policy: &NetworkPolicy) -> u64 {
    policy.sockets.iter().map(|kind| 1 << kernel_kind(kind).code()).sum()
}

/// The kernel's name for a kind that a profile can grant. The kernel tells apart some more, which none can.
#[must_use]
pub const fn kernel_kind(kind: SocketKind) -> request::SocketKind {
    match kind {
        SocketKind::Mptcp => request::SocketKind::Mptcp,
        SocketKind::Sctp => request::SocketKind::Sctp,
        SocketKind::Dccp => request::SocketKind::Dccp,
        SocketKind::Udplite => request::SocketKind::Udplite,
        SocketKind::Ping => request::SocketKind::Ping,
        SocketKind::Raw => request::SocketKind::Raw,
        SocketKind::L2tp => request::SocketKind::L2tp,
        SocketKind::Smc => request::SocketKind::Smc,
        SocketKind::Netlink => request::SocketKind::Netlink,
        SocketKind::Packet => request::SocketKind::Packet,
        SocketKind::Vsock => request::SocketKind::Vsock,
        SocketKind::Alg => request::SocketKind::Alg,
        SocketKind::Key => request::SocketKind::Key,
        SocketKind::Xdp => request::SocketKind::Xdp,
        SocketKind::Can => request::SocketKind::Can,
        SocketKind::Bluetooth => request::SocketKind::Bluetooth,
        SocketKind::Tipc => request::SocketKind::Tipc,
        SocketKind::Rds => request::SocketKind::Rds,
        SocketKind::Kcm => request::SocketKind::Kcm,
    }
}
