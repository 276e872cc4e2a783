//! What is said on the control socket: one JSON line with the request, one JSON line with the reply.
//!
//! A connection carries one request; only `events` goes on after the reply, with event lines until either side ends.
//! Within one [`VERSION`] operations and fields are added and never change their meaning.

use serde::{Deserialize, Serialize};

use crate::resolver::outlook::Servers;
use crate::sink::follow::Filter;

/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Longest request, its newline included.
pub const MAX_REQUEST: usize = 16 << 10;

/// A request line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    #[serde(flatten)]
    pub op: Op,
}

impl Request {
    #[must_use]
    pub fn new(op: Op) -> Self {
        Request { v: VERSION, op }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Answered by [`Status`].
    Status,
    /// Loads one profile anew, or all. Answered by [`Reloaded`].
    Reload {
        #[serde(default)]
        profile: Option<String>,
    },
    /// What the kernel enforces of a profile, and what a caller needs to make up for the rest. Answered by
    /// [`Enforcement`].
    Enforcement { profile: String },
    /// Makes the caller itself an agent, in a cgroup of its own. Answered by [`Labelled`]; the caller then executes
    /// its command.
    Run {
        profile: String,
        /// The caller has made Landlock and seccomp rules of the image of this generation, and puts them in force
        /// before it executes its command. Without it, a profile with sections that this kernel can't enforce is
        /// refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confined: Option<u32>,
    },
    /// Makes an agent of a living process and its descendants. Answered by [`Labelled`].
    Attach { pid: u32, profile: String },
    /// Event lines follow the (empty) reply.
    Events {
        #[serde(default)]
        filter: Filter,
    },
    /// Ends the daemon as SIGTERM does.
    Stop,
}

/// A reply line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply<T> {
    /// [`VERSION`].
    pub v: u32,
    #[serde(flatten)]
    pub outcome: Outcome<T>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome<T> {
    Ok(T),
    Error(Refusal),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: Code,
    /// For a person.
    pub message: String,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }
}

/// Why a request was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No request of this protocol.
    BadRequest,
    /// Longer than [`MAX_REQUEST`].
    TooLarge,
    UnsupportedVersion,
    /// The request did not come in time.
    Timeout,
    /// Too many clients or followers.
    Busy,
    /// Neither root nor of the control group.
    NotPermitted,
    /// The caller, or whoever opened the connection, belongs to an agent.
    LabelledCaller,
    UnknownProfile,
    NoProcess,
    AlreadyLabelled,
    /// A profile has errors; what was in force still is.
    BadProfile,
    /// This kernel can't enforce the profile; what was in force still is.
    CannotEnforce,
    /// The profile is another than the caller asked about before; it may ask again.
    Changed,
    /// The kernel or the cgroup file system refused.
    Kernel,
}

/// What the kernel enforces of a profile in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    pub generation: u32,
    /// What the profile asks and this kernel can't enforce; empty for profiles that only observe.
    pub gaps: Vec<GapStatus>,
    /// The image in force: what Landlock and seccomp rules are made of. Empty for profiles that only observe.
    pub image: Vec<u64>,
}

/// An agent was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// ULID.
    pub agent: String,
    pub profile: String,
    /// Its own cgroup, where it got one.
    pub cgroup: Option<String>,
    /// The socket at which it may ask what it was denied, where its profile has `notices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notices: Option<String>,
}

/// What a reload did, profile by profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    pub profiles: Vec<ReloadedProfile>,
    /// Flows that lost their grant and were reset.
    pub flows_cut: u32,
}

/// What a reload did to one profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadedProfile {
    pub name: String,
    pub outcome: ReloadOutcome,
    /// The generation in force now.
    pub generation: Option<u32>,
    /// Why it was refused, for programs.
    pub code: Option<Code>,
    /// Why it was refused: text with file, line and a snippet.
    pub error: Option<String>,
}

/// What happened to a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadOutcome {
    /// A new image is in force.
    Installed,
    /// The file makes the image that is in force.
    Unchanged,
    /// The old image stays in force, if there was one.
    Refused,
    /// Its file is gone, its image too.
    Removed,
    /// Its file is gone; it stays in force until its last agent ends.
    Retained,
}

impl ReloadOutcome {
    pub const ALL: [Self; 5] =
        [Self::Installed, Self::Unchanged, Self::Refused, Self::Removed, Self::Retained];

    /// The word in the JSON and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Removed => "removed",
            Self::Retained => "retained",
        }
    }
}

/// The daemon at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// Milliseconds from the start of the process until everything was in force.
    pub startup_ms: u64,
    /// The governed cgroup.
    pub cgroup: String,
    pub events_file: Option<String>,
    pub metrics: Option<String>,
    /// What no agent may write or call, whatever its profile grants.
    #[serde(default)]
    pub protected: Vec<String>,
    pub profiles: Vec<ProfileStatus>,
    pub agents: Vec<AgentStatus>,
    pub posture: Vec<MechanismStatus>,
    /// Who is asked for names that rules grant.
    #[serde(default)]
    pub names: Option<Servers>,
    /// Whether the system call hook is attached.
    pub syscall_hook: bool,
    pub losses: Losses,
    /// Helper failures in the kernel since the start, by site; sites without one are left out.
    pub helper_failures: Vec<(String, u64)>,
    pub followers: usize,
}

/// A profile in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileStatus {
    pub name: String,
    pub mode: String,
    pub generation: u32,
    /// SHA-256 of its image.
    pub digest: String,
    /// Every file that took part, its own first.
    pub files: Vec<String>,
    /// Its live agents.
    pub agents: u32,
    /// When the first of its leases ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ends: Option<String>,
    /// Why its newest file is not in force.
    pub refused: Option<String>,
    /// What it asks and this kernel can't enforce.
    pub gaps: Vec<GapStatus>,
}

/// Something that a profile asks and this kernel can't enforce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapStatus {
    pub mechanism: String,
    /// What goes unseen.
    pub blind: String,
    pub why: String,
    /// Whether the profile has a section that asks for it, beyond what every profile asks.
    #[serde(default)]
    pub asked: bool,
}

/// A live agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub id: String,
    pub profile: String,
    /// How its first process came by its label.
    pub origin: String,
    /// The process that was labelled first.
    pub root: u32,
    /// RFC 3339.
    pub started: String,
    pub processes: u64,
    pub denied: u64,
    /// Killed for a listed system call; not among the denials.
    pub killed: u64,
    pub allowed: u64,
    /// Records about it that found a ring full.
    pub lost: u64,
    pub cgroup: Option<String>,
    /// `run` put Landlock and seccomp rules in force for it.
    #[serde(default)]
    pub confined: bool,
}

/// A mechanism of this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MechanismStatus {
    pub name: String,
    /// `active`, `idle`, `refused` or `absent`.
    pub state: String,
    pub works: bool,
    /// Why it does not work.
    pub why: Option<String>,
    /// What goes unseen without it.
    pub blind: String,
    /// The mechanism that sees what this one would, on a kernel without its hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// Events that are missing, by the place where they were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    pub ring_verdicts: u64,
    pub ring_activity: u64,
    pub undecodable: u64,
    pub file: u64,
    pub followers: u64,
    /// The daemon's own events (agents, profiles, cut flows) that came faster than they could be written.
    #[serde(default)]
    pub own: u64,
}

impl Losses {
    /// Whether nothing was lost.
    #[must_use]
    pub fn none(&self) -> bool {
        *self == Losses::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_a_person_would_write() {
        let run: Request = serde_json::from_str(r#"{"v":1,"op":"run","profile":"coding-agent"}"#).unwrap();
        assert_eq!(run, Request::new(Op::Run { profile: "coding-agent".to_owned(), confined: None }));
        assert_eq!(serde_json::to_string(&run).unwrap(), r#"{"v":1,"op":"run","profile":"coding-agent"}"#);
        let all: Request = serde_json::from_str(r#"{"v":1,"op":"reload"}"#).unwrap();
        assert_eq!(all.op, Op::Reload { profile: None });
        let follow: Request =
            serde_json::from_str(r#"{"v":1,"op":"events","filter":{"verdicts":["deny"]}}"#).unwrap();
        assert!(matches!(follow.op, Op::Events { filter } if filter.verdicts.len() == 1));
        assert!(serde_json::from_str::<Request>(r#"{"v":1,"op":"explode"}"#).is_err());
    }

    #[test]
    fn replies_say_ok_or_error() {
        let ok = Reply { v: 1, outcome: Outcome::Ok(Reloaded::default()) };
        assert_eq!(serde_json::to_string(&ok).unwrap(), r#"{"v":1,"ok":{"profiles":[],"flows_cut":0}}"#);
        let refused: Reply<Reloaded> =
            Reply { v: 1, outcome: Outcome::Error(Refusal::new(Code::LabelledCaller, "no")) };
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(text, r#"{"v":1,"error":{"code":"labelled-caller","message":"no"}}"#);
        assert_eq!(serde_json::from_str::<Reply<Reloaded>>(&text).unwrap(), refused);
    }

    #[test]
    fn outcome_words_match_their_json() {
        for outcome in ReloadOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
