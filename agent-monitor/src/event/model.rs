//! The public schema of an event: one JSON object a line.
//!
//! Written by `event::enrich` and the daemon, read by `cli::events` and by whatever people point at the file. Within
//! one [`SCHEMA`] version fields are added and never renamed, removed or given another meaning; a reader ignores
//! fields that it does not know. Text that an agent chose has been through `event::escape`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use agent_monitor_common::counters::{Effect, Mode};
use agent_monitor_common::event::Hook;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// The value of every event's `schema`.
pub const SCHEMA: &str = "agent-monitor.event/1";

/// One event. Which sections it has depends on its `type`; a section that does not apply is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event<'a> {
    /// `agent-monitor.event/1`.
    pub schema: Cow<'a, str>,
    /// ULID; grows in the order in which the daemon saw the events.
    pub id: Id,
    /// When it happened: RFC 3339, UTC, nanoseconds.
    pub time: Time,
    #[serde(rename = "type")]
    pub kind: EventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent<'a>>,
    /// Who did it. Left out where the kernel can't know it (a packet on its way out).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Socket<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<Syscall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fork: Option<Fork>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileChange<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict<'a>>,
}

impl Event<'_> {
    /// An event with no sections yet.
    #[must_use]
    pub fn new(id: Ulid, time: Timestamp, kind: EventType) -> Self {
        Event {
            schema: Cow::Borrowed(SCHEMA),
            id: Id(id),
            time: Time(time),
            kind,
            agent: None,
            process: None,
            network: None,
            socket: None,
            syscall: None,
            exec: None,
            fork: None,
            exit: None,
            loss: None,
            flow: None,
            profile: None,
            verdict: None,
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    /// A destination or a local port was judged: `network`, `verdict`.
    #[serde(rename = "network")]
    Network,
    /// A kind of socket was judged: `socket`, `verdict`.
    #[serde(rename = "socket")]
    Socket,
    /// A listed system call was made: `syscall`, `verdict`.
    #[serde(rename = "syscall")]
    Syscall,
    /// A process of an agent runs another program: `exec`.
    #[serde(rename = "exec")]
    Exec,
    /// A process of an agent made another: `fork`.
    #[serde(rename = "fork")]
    Fork,
    /// A process of an agent ended: `exit`.
    #[serde(rename = "exit")]
    Exit,
    #[serde(rename = "agent.started")]
    AgentStarted,
    #[serde(rename = "agent.ended")]
    AgentEnded,
    /// An established flow lost its grant and was reset: `process`, `flow`.
    #[serde(rename = "flow.cut")]
    FlowCut,
    /// A profile was put in force, refused or taken away: `profile`.
    #[serde(rename = "profile")]
    Profile,
    /// Events are missing here: `loss`.
    #[serde(rename = "loss")]
    Loss,
}

impl EventType {
    /// Every type, in the order of the schema.
    pub const ALL: [Self; 11] = [
        Self::Network,
        Self::Socket,
        Self::Syscall,
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::AgentStarted,
        Self::AgentEnded,
        Self::FlowCut,
        Self::Profile,
        Self::Loss,
    ];

    /// The word in the JSON, the filters and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Socket => "socket",
            Self::Syscall => "syscall",
            Self::Exec => "exec",
            Self::Fork => "fork",
            Self::Exit => "exit",
            Self::AgentStarted => "agent.started",
            Self::AgentEnded => "agent.ended",
            Self::FlowCut => "flow.cut",
            Self::Profile => "profile",
            Self::Loss => "loss",
        }
    }
}

impl FromStr for EventType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            format!("{text:?} is no event type; there are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// A ULID, written in its 26 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub Ulid);

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Ulid::from_string(&text).map(Id).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Id {
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
    }
}

/// A moment, written as `2026-01-02T03:04:05.678901234Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.9}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map(Time).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// The governed process tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent<'a> {
    /// ULID of the agent; left out where a process' label was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    pub profile: Cow<'a, str>,
    /// How its first process came by its label: `run`, `attach`, `exec` or `scan`. In `agent.started` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Cow<'a, str>>,
}

/// A process, as it was when the event happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Process<'a> {
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<Cow<'a, str>>,
    /// Path of the executable in its mount namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub argv: Cow<'a, [String]>,
    /// argv had more than what is here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub argv_truncated: bool,
    /// Path in the cgroup v2 hierarchy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
}

impl Process<'_> {
    /// A process of which the number is known.
    #[must_use]
    pub fn numbered(pid: u32) -> Self {
        Process {
            pid,
            tid: None,
            parent: None,
            uid: None,
            comm: None,
            exe: None,
            argv: Cow::Borrowed(&[]),
            argv_truncated: false,
            cgroup: None,
            cgroup_id: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::ptr_arg, reason = "serde passes the field as it is")]
fn is_empty(value: &Cow<'_, [String]>) -> bool {
    value.is_empty()
}

/// A judged destination, or a judged local address and port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// `out` or `listen`.
    pub direction: Cow<'static, str>,
    /// IPv4 addresses are written as IPv4, however the agent spelt them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    pub port: u16,
    /// `tcp`, `udp`, `icmp` or `other`.
    pub protocol: Cow<'static, str>,
    /// The packet's own port, where a packet was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
}

/// What a `socket()` call asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Socket<'a> {
    /// The word of `network.sockets` in a profile.
    pub kind: Cow<'a, str>,
    /// `AF_*` number.
    pub family: u32,
    /// `SOCK_*` number.
    pub r#type: u32,
    /// Protocol number.
    pub protocol: u32,
}

/// A listed system call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Syscall<'a> {
    /// Number in the table of the calling ABI.
    pub nr: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// Entered through the 32-bit table.
    #[serde(default, skip_serializing_if = "is_false")]
    pub compat: bool,
    /// A signal was sent that kills the caller. The call itself may have happened: a kill is never a denial.
    pub killed: bool,
}

/// An exec; what runs now is in `process`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Exec {
    /// This exec made the process an agent: a profile claims the executable.
    pub claimed: bool,
    /// Inode of the executable.
    pub inode: u64,
}

/// A new process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fork {
    pub child: u32,
    /// The child's label could not be stored: it is denied everything.
    #[serde(default, skip_serializing_if = "is_false")]
    pub label_lost: bool,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u32>,
    /// It was its agent's last process.
    pub last: bool,
}

/// An established flow that lost its grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Flow<'a> {
    /// Descriptor in the process.
    pub fd: u32,
    /// Remote port.
    pub port: u32,
    /// `reset`, `shut` or `failed`; a flow that could not be cut is still dropped packet by packet.
    pub result: Cow<'a, str>,
}

/// Events that are missing from this stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Loss<'a> {
    /// Where they were lost: `ring-verdicts`, `ring-activity`, `decode`, `file`, `follower`.
    pub stage: Cow<'a, str>,
    pub lost: u64,
}

/// What happened to a profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileChange<'a> {
    pub name: Cow<'a, str>,
    /// `installed`, `unchanged`, `refused`, `removed` or `retained`.
    pub outcome: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
}

/// What was decided, by what and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict<'a> {
    pub effect: VerdictEffect,
    /// The profile's mode: `learn`, `audit` or `enforce`.
    pub mode: Cow<'a, str>,
    /// What the agent saw: `ENETUNREACH` and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<Cow<'a, str>>,
    /// The rule that decided: `coding-agent:network.deny[2]`; a default deny names its section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Cow<'a, str>>,
    /// `file:line` of that rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'a, str>>,
    /// `rule`, `default-deny`, `socket-kind`, `ip-options`, `malformed`, `helper-failed`, `label-lost`, `listed`.
    pub reason: Cow<'a, str>,
    /// The hook that decided: `cgroup/connect4`.
    pub mechanism: Cow<'a, str>,
    /// Generation of the profile that decided.
    pub generation: u32,
}

/// The outcome of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictEffect {
    Allow,
    Deny,
    /// The operation went on; a profile in `enforce` mode would have denied it.
    WouldDeny,
    /// The caller of a listed system call was killed. No denial: the call has begun, and may have happened.
    Kill,
    /// The call went on; a profile in `enforce` mode would have killed its caller.
    WouldKill,
}

impl VerdictEffect {
    pub const ALL: [Self; 5] = [Self::Allow, Self::Deny, Self::WouldDeny, Self::Kill, Self::WouldKill];

    /// What the kernel's effect means in this mode.
    #[must_use]
    pub const fn of(effect: Effect, mode: Mode) -> Self {
        match (effect, mode) {
            (Effect::Allow, _) => Self::Allow,
            (Effect::Deny, Mode::Enforce) => Self::Deny,
            (Effect::Deny, Mode::Audit | Mode::Learn) => Self::WouldDeny,
            (Effect::Kill, Mode::Enforce) => Self::Kill,
            (Effect::Kill, Mode::Audit | Mode::Learn) => Self::WouldKill,
        }
    }

    /// The word in the JSON and the filters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
            Self::Kill => "kill",
            Self::WouldKill => "would-kill",
        }
    }
}

impl FromStr for VerdictEffect {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|effect| effect.as_str() == text).ok_or_else(|| {
            format!("{text:?} is no verdict; there are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// The public name of a hook: how it is attached, and where.
#[must_use]
pub const fn mechanism(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect4 => "cgroup/connect4",
        Hook::Connect6 => "cgroup/connect6",
        Hook::Sendmsg4 => "cgroup/sendmsg4",
        Hook::Sendmsg6 => "cgroup/sendmsg6",
        Hook::Bind4 => "cgroup/bind4",
        Hook::Bind6 => "cgroup/bind6",
        Hook::SockCreate => "cgroup/sock_create",
        Hook::Egress => "cgroup_skb/egress",
        Hook::LsmSocketCreate => "lsm/socket_create",
        Hook::LsmSocketListen => "lsm/socket_listen",
        Hook::LsmSocketSendmsg => "lsm/socket_sendmsg",
        Hook::LsmFileReceive => "lsm/file_receive",
        Hook::LsmSocketConnect => "lsm/socket_connect",
        Hook::SysEnter => "raw_tp/sys_enter",
        Hook::Fork => "tp_btf/sched_process_fork",
        Hook::Exec => "tp_btf/sched_process_exec",
        Hook::Exit => "tp_btf/sched_process_exit",
    }
}

/// The name of an errno that a hook can return; `None` for 0.
#[must_use]
pub fn errno_name(errno: u16) -> Option<Cow<'static, str>> {
    let name = match i32::from(errno) {
        0 => return None,
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EINVAL => "EINVAL",
        other => return Some(Cow::Owned(other.to_string())),
    };
    Some(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_json_and_of_as_str_are_the_same() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        for effect in VerdictEffect::ALL {
            assert_eq!(serde_json::to_value(effect).unwrap(), effect.as_str());
            assert_eq!(effect.as_str().parse(), Ok(effect));
        }
        assert!("nonsense".parse::<EventType>().is_err());
    }

    #[test]
    fn time_is_rfc_3339_with_nanoseconds() {
        let time = Time(Timestamp::from_nanosecond(1_700_000_000_000_000_001).unwrap());
        assert_eq!(serde_json::to_value(time).unwrap(), "2023-11-14T22:13:20.000000001Z");
        let whole = Time(Timestamp::from_nanosecond(1_700_000_000_000_000_000).unwrap());
        assert_eq!(serde_json::to_value(whole).unwrap(), "2023-11-14T22:13:20.000000000Z");
    }

    #[test]
    fn an_event_goes_round_and_unknown_fields_are_ignored() {
        let mut event = Event::new(Ulid::from(7_u128), Timestamp::UNIX_EPOCH, EventType::Network);
        event.network = Some(Network {
            direction: "out".into(),
            address: Some("10.0.0.5".parse().unwrap()),
            port: 22,
            protocol: "tcp".into(),
            local_port: None,
        });
        event.process = Some(Process {
            pid: 4,
            tid: Some(5),
            parent: None,
            uid: Some(0),
            comm: Some("sh".into()),
            exe: Some("/bin/sh".into()),
            argv: vec!["sh".to_owned(), "-c".to_owned()].into(),
            argv_truncated: true,
            cgroup: Some("/a".into()),
            cgroup_id: Some(9),
        });
        let mut json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert!(json.get("verdict").is_none());
        json["future"] = 1.into();
        let back: Event<'static> = serde_json::from_str(&json.to_string()).unwrap();
        assert_eq!(back, event);
    }

    #[test]
    fn a_kill_is_never_a_denial() {
        assert_eq!(VerdictEffect::of(Effect::Kill, Mode::Enforce), VerdictEffect::Kill);
        assert_eq!(VerdictEffect::of(Effect::Kill, Mode::Audit), VerdictEffect::WouldKill);
    }

    #[test]
    fn a_denial_outside_enforce_mode_is_a_would_deny() {
        assert_eq!(VerdictEffect::of(Effect::Deny, Mode::Enforce), VerdictEffect::Deny);
        assert_eq!(VerdictEffect::of(Effect::Deny, Mode::Audit), VerdictEffect::WouldDeny);
        assert_eq!(VerdictEffect::of(Effect::Allow, Mode::Audit), VerdictEffect::Allow);
    }
}
