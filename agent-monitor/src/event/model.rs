//! The public schema of an event: one JSON object a line.
//!
//! Written by `event::enrich` and the daemon, read by `cli::events` and by whatever people point at the file. Within
//! one [`SCHEMA`] version fields are added and never renamed, removed or given another meaning; a reader ignores
//! fields that it does not know. Text that an agent chose has been through `event::escape`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

pub use super::words::{EventType, VerdictEffect};

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
    /// Names of the profile's `programs` that the program is in, by which the kernel judged it; left out where it is in
    /// none. Of a packet, the program that used its socket last.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub program: Cow<'a, [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Lookup<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Socket<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<Syscall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privilege: Option<Privilege<'a>>,
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
    /// How many uses it tells of: one, and those of which it says that they are repeats.
    #[must_use]
    pub fn times(&self) -> u64 {
        let repeats = self
            .file
            .as_ref()
            .and_then(|file| file.repeats)
            .or_else(|| self.socket.as_ref().and_then(|socket| socket.repeats))
            .or_else(|| self.privilege.as_ref().and_then(|asked| asked.repeats));
        1 + u64::from(repeats.unwrap_or(0))
    }

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
            program: Cow::Borrowed(&[]),
            network: None,
            lookup: None,
            socket: None,
            syscall: None,
            file: None,
            privilege: None,
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
    /// The name that the agent's answer gave this address for, where it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub port: u16,
    /// `tcp`, `udp`, `icmp` or `other`.
    pub protocol: Cow<'static, str>,
    /// The packet's own port, where a packet was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// What a connection said first that had to say a granted name (`sni: require`): `named`, `not-tls`, `no-name` or
    /// `cut` (the name was not whole in the first packet and record).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<Cow<'static, str>>,
    /// The name that it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// A question about a name, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lookup<'a> {
    /// Lower case, without the last dot.
    pub name: Cow<'a, str>,
    /// `A`, `AAAA`, `TXT` …
    pub r#type: Cow<'a, str>,
    /// Addresses that answered for the name and may not: they were taken out of the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<IpAddr>,
    /// Of what looks like a tunnel: questions of the agent in this minute …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub questions: Option<u32>,
    /// … different names, 500 or more of which are one sign …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<u32>,
    /// … different labels that look like data, 10 or more of which are another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd: Option<u32>,
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
    /// As of a file: this event tells of so many more sockets of the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
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

/// An object of the file system, and what was to be done to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct File<'a> {
    /// As the kernel resolved it, from the root of its mount namespace, or `@` and the abstract name of a socket; bytes
    /// that are no text are escaped. Left out where the object has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Cow<'a, str>>,
    /// Only the beginning of the path fits an event.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// `read`, `write`, `execute`, `connect`: what the operation needed.
    pub access: Vec<Cow<'a, str>>,
    /// Left out where the object did not exist yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// The agent did this so many more times since the last event of it, which named the process. Of what is made in a
    /// directory, the event of the first stands for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
}

/// Something that a process asked of the host beyond what any process may.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Privilege<'a> {
    /// `capability`, `setuid`, `user-namespace`, `ptrace`, `signal`, `mount`, `module`, `bpf`, `perf` or `io-uring`.
    pub kind: Cow<'a, str>,
    /// Which one of its kind, where there are several: `net_admin`, `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// The number behind the name: of a capability, a signal, a `bpf` command, a user or group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// The process that it was aimed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
    /// As of a file: this event tells of so many more uses of the grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
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
    /// Where they were lost: `ring-verdicts`, `ring-activity`, `decode` or `follower`. What the event file loses is
    /// in `agent_monitor_sink_dropped_total`: the file can't tell of it.
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
    /// `rule`, `default-deny`, `socket-kind`, `ip-options`, `malformed`, `helper-failed`, `label-lost`, `listed`, `no-path`,
    /// `anonymous`, `denied-below`, `mount`, `outside-agent`, `name`, `no-resolver`, `rebinding`.
    pub reason: Cow<'a, str>,
    /// The hook that decided: `cgroup/connect4`.
    pub mechanism: Cow<'a, str>,
    /// Generation of the profile that decided.
    pub generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

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
            host: None,
            port: 22,
            protocol: "tcp".into(),
            local_port: None,
            hello: None,
            sni: None,
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
}
