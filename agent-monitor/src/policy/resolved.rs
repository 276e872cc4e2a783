//! A profile after loading: plain values, every name looked up, every base
//! merged in.
//!
//! Made by the loader; read by the image compiler, the daemon, the commands
//! that explain a verdict, and tests, which may build one by hand. Order of
//! rules carries no meaning: a deny wins over an allow, and what nothing
//! allows is denied. Every rule knows its id and the place it was written.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_monitor_common::path::Rights;
use ipnet::IpNet;

use super::names::HostPattern;
use super::programs::{Condition, Programs};
use super::protected::Protected;
use super::sockets::SocketKinds;

/// A place in a profile file; line and column count from 1, columns in
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub file: Arc<Path>,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            // Written nowhere: a rule of the monitor's own.
            return write!(out, "{}", self.file.display());
        }
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// How far a profile's verdicts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Nothing is denied; what the agent does is recorded, to write a profile from.
    Learn,
    /// Nothing is denied; what would have been is reported.
    Audit,
    /// What is not granted is denied.
    Enforce,
}

impl Mode {
    /// The word used in profiles, events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// What a denied network call returns to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// `ENETUNREACH`: the path does not exist.
    Unreachable,
    /// `ECONNREFUSED`: nobody listens there.
    Refused,
    /// `EACCES`: a filter said no.
    Denied,
    /// `EPERM`: a privilege is missing.
    NotPermitted,
}

impl Denied {
    /// The word used in profiles and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::NotPermitted => "not-permitted",
        }
    }

    /// The error number as a positive number.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::Unreachable => libc::ENETUNREACH,
            Self::Refused => libc::ECONNREFUSED,
            Self::Denied => libc::EACCES,
            Self::NotPermitted => libc::EPERM,
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The transport protocols that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    Tcp = 0,
    Udp = 1,
    /// ICMP and ICMPv6; has no ports, judged with port 0.
    Icmp = 2,
    /// Everything else (SCTP, DCCP, UDP-Lite, raw IP …).
    Other = 3,
}

impl Protocol {
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Icmp, Self::Other];

    /// The word used in profiles, events and metrics. `other` can't be written
    /// in a profile: it is reached by `any` only.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }
}

/// A set of [`Protocol`]s; bit *n* stands for the protocol of value *n*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProtocolSet(u8);

impl ProtocolSet {
    pub const EMPTY: Self = Self(0);
    /// What `any` means in a profile.
    pub const ANY: Self = Self(0b1111);

    #[must_use]
    pub const fn of(protocol: Protocol) -> Self {
        Self(1 << protocol as u8)
    }

    #[must_use]
    pub const fn with(self, protocol: Protocol) -> Self {
        Self(self.0 | Self::of(protocol).0)
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn contains(self, protocol: Protocol) -> bool {
        self.0 & Self::of(protocol).0 != 0
    }

    /// Whether every protocol of `other` is in this set.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Bit *n* set: the protocol of value *n* is in the set.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL.into_iter().filter(move |&protocol| self.contains(protocol))
    }
}

impl FromIterator<Protocol> for ProtocolSet {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Self {
        protocols.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// One rule about network peers (`allow`, `deny`) or about local addresses
/// (`listen`). It matches a request whose address is in any of `nets`, or stands
/// for a name of `hosts`, whose
/// port is in any of `ports` and whose protocol is in `protocols`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetRule {
    /// Profile name, key and index from 0 in that file:
    /// `coding-agent:network.allow[2]`.
    pub id: String,
    /// Where the rule begins.
    pub source: Source,
    /// No host bits set. Empty only where there are `hosts`. IPv4 addresses written in mapped form
    /// (`::ffff:10.0.0.1`) are IPv4 networks here. An IPv6 network never stands
    /// for IPv4: `::/0` is every IPv6 address and no IPv4-mapped one.
    pub nets: Vec<IpNet>,
    /// Names whose addresses the rule grants; only in `allow`.
    pub hosts: Vec<HostPattern>,
    /// What `hosts` grant holds for TLS clients that say a granted name first.
    pub sni: bool,
    /// Never empty; sorted, disjoint, not adjacent. A rule without `ports:` has
    /// `0..=65535`, which includes requests without a port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Never empty.
    pub protocols: ProtocolSet,
    /// The programs that it is about.
    pub programs: Condition,
}

/// The `network:` section with those of all bases added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// What a denied call returns; [`Denied::Unreachable`] unless the profile
    /// says otherwise.
    pub denied: Denied,
    pub allow: Vec<NetRule>,
    pub deny: Vec<NetRule>,
    pub listen: Vec<NetRule>,
    /// Denials that are tried out: what they match goes on where it is granted, and is told.
    pub audited: Vec<NetRule>,
    /// Socket kinds granted beyond TCP, UDP and Unix sockets.
    pub sockets: SocketKinds,
    /// Where the default deny is rooted: the `network:` key of the profile's
    /// own file, else its `name:`.
    pub source: Source,
}

/// One rule about paths: a glob, the programs it is about, and what it denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// `coding-agent:files.read[2]`.
    pub id: String,
    pub source: Source,
    /// As it was written, with variables replaced: `~` is not expanded.
    pub glob: String,
    /// The programs that it is about.
    pub programs: Condition,
    /// Of a rule in `files.deny`: the rights that it takes away; `None`: all. Of any other, `None`: its list says.
    pub access: Option<Rights>,
}

/// The `files:` section with those of all bases added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesPolicy {
    pub read: Vec<PathRule>,
    pub write: Vec<PathRule>,
    /// Neither read nor written nor executed, whatever is granted.
    pub deny: Vec<PathRule>,
    /// Where the default deny is rooted: the section's key in the nearest file that has it.
    pub source: Source,
}

/// A program that may be executed with one content only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub path: String,
    pub sha256: [u8; 32],
}

/// The `exec:` section with those of all bases added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecPolicy {
    pub allow: Vec<PathRule>,
    pub deny: Vec<PathRule>,
    /// Each grants its path to be executed, and denies it to be written.
    pub pinned: Vec<PathRule>,
    /// The content of each of `pinned`, in the same order.
    pub pins: Vec<Pin>,
    /// Where the default deny is rooted.
    pub source: Source,
}

/// The `unix:` section with those of all bases added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPolicy {
    /// Globs of paths, and of abstract names behind an `@`.
    pub allow: Vec<PathRule>,
    pub deny: Vec<PathRule>,
    /// Where the default deny is rooted.
    pub source: Source,
}

/// Which processes something may be aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Targets {
    /// No other process.
    None,
    /// Processes of the same agent.
    Own,
    /// Every process.
    Any,
}

impl Targets {
    /// The word used in profiles.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Own => "own",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A value of the `privileges:` section and, if it was written, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted<T> {
    pub value: T,
    pub source: Option<Source>,
}

impl<T> Granted<T> {
    /// A value that nobody wrote.
    pub const fn left_out(value: T) -> Self {
        Self { value, source: None }
    }
}

/// The `privileges:` section with those of all bases added. What is not granted is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivilegesPolicy {
    /// Bit *n*: the capability of number *n* may be used.
    pub capabilities: u64,
    pub setuid: Granted<bool>,
    pub user_namespaces: Granted<bool>,
    pub ptrace: Granted<Targets>,
    /// Never [`Targets::None`].
    pub signals: Granted<Targets>,
    pub mounts: Granted<bool>,
    pub modules: Granted<bool>,
    pub bpf: Granted<bool>,
    pub perf: Granted<bool>,
    pub io_uring: Granted<bool>,
    /// Where the default deny is rooted: the section's key in the nearest file that has it.
    pub source: Source,
}

impl PrivilegesPolicy {
    /// What an empty section at `source` grants.
    #[must_use]
    pub const fn nothing(source: Source) -> Self {
        const NO: Granted<bool> = Granted::left_out(false);
        Self {
            capabilities: 0,
            setuid: NO,
            user_namespaces: NO,
            ptrace: Granted::left_out(Targets::Own),
            signals: Granted::left_out(Targets::Own),
            mounts: NO,
            modules: NO,
            bpf: NO,
            perf: NO,
            io_uring: NO,
            source,
        }
    }
}

/// The `notices:` section: agents are told of their denials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// How to ask for what was denied; the operator's words.
    pub request: Option<String>,
}

/// One system call that is watched, and its caller killed if `kill`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallRule {
    /// `coding-agent:syscalls.kill[0]`.
    pub id: String,
    pub source: Source,
    pub name: String,
    /// The number on this machine's architecture.
    pub nr: u32,
    pub kill: bool,
}

/// What makes a process an agent of this profile; any one claim is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// `coding-agent:agents[0].exe[1]`.
    pub id: String,
    pub source: Source,
    pub what: ClaimKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClaimKind {
    /// A glob of executable paths, absolute or starting with `~/` (the home of
    /// every user; not expanded here).
    Exe(String),
    /// A glob of cgroup paths as in `/proc/<pid>/cgroup`, starting with `/`.
    Cgroup(String),
}

/// A profile ready to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedProfile {
    /// Lower-case letters, digits, `-`, `_` and `.`; at most 63 characters.
    pub name: String,
    pub description: Option<String>,
    pub mode: Mode,
    /// The profile's own file.
    pub file: Arc<Path>,
    /// Every file that took part, `file` first; for watching and reloading.
    pub files: Vec<Arc<Path>>,
    pub claims: Vec<Claim>,
    /// The named sets of programs, with those of all bases added.
    pub programs: Programs,
    pub network: NetworkPolicy,
    /// `None`: the profile does not speak about files, so none is judged.
    pub filesystem: Option<FilesPolicy>,
    /// `None`: the profile does not speak about programs, so none is judged.
    pub exec: Option<ExecPolicy>,
    /// `None`: the profile does not speak about Unix sockets, so none is judged.
    pub unix: Option<UnixPolicy>,
    /// `None`: the profile does not speak about privileges, so none is judged.
    pub privileges: Option<PrivilegesPolicy>,
    /// Denials of paths that are tried out, of every section; `access` says of which rights.
    pub audited: Vec<PathRule>,
    /// `None`: agents are not told of their denials.
    pub notices: Option<Notices>,
    /// What belongs to the monitor; empty until the daemon lays it under the profile.
    pub protected: Protected,
    /// The homes of the host's users when the profile was loaded: what `~` stands for in the path rules.
    pub homes: Vec<PathBuf>,
    /// The globs that `${workspace}` stood for.
    pub workspace: Vec<String>,
    /// At most one rule per system call, sorted by number; `kill` wins.
    pub syscalls: Vec<SyscallRule>,
}
