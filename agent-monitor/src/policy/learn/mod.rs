//! A least-agency profile from what an agent was seen to do.
//!
//! Called by `agent-monitor learn` with recorded events. What must stay true: nothing that the sensitive profile (the
//! shipped `base`) denies is granted, only listed as a comment with the reason; every grant says how often, when and by
//! which program it was used; what is written allows everything that it was written for (it is asked before it is
//! shown); and one odd run can't widen a profile that several were asked for (`runs`).

mod generalise;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use agent_monitor_common::path::Right;
use jiff::Timestamp;

pub use self::generalise::Thresholds;
pub use self::write::Learned;
use super::judge::{self, Destination, Effect, Judge, Reason, Request};
use crate::event::escape;
use crate::event::model::Event;

/// How a profile is to be written.
#[derive(Clone, Debug)]
pub struct Wishes {
    pub name: String,
    /// Profiles that it extends: what they grant is not written again.
    pub extends: Vec<String>,
    /// Directories that hold what the agent works on.
    pub workspace: Vec<String>,
    /// The homes of the host's users: written as `~`.
    pub homes: Vec<String>,
    pub thresholds: Thresholds,
    /// Files, programs, Unix sockets and privileges were watched.
    pub files_seen: bool,
    /// Runs in which something must have been seen to be granted.
    pub runs: usize,
}

/// What was seen of one request of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub times: u64,
    pub first: Timestamp,
    pub last: Timestamp,
    /// Numbers of the runs in which it was seen.
    pub runs: BTreeSet<usize>,
}

impl Seen {
    fn join(&mut self, other: &Self) {
        self.times += other.times;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.runs.extend(&other.runs);
    }
}

/// Requests that are kept apart: an agent may make up as many as it likes.
const MOST: usize = 200_000;

/// Everything that was seen, by program and request.
#[derive(Debug, Default)]
pub struct Observations {
    seen: BTreeMap<Key, Seen>,
    /// Packets of this run, by the socket's own port and what they went to: they name no program.
    packets: BTreeMap<(u16, What), Seen>,
    /// Recorded runs so far.
    runs: usize,
    /// Events lost on the way, as far as they tell of it: then the profile lacks something.
    pub lost: u64,
    /// Events whose request found no room.
    pub beyond: u64,
    /// Events with a verdict that no rule can be asked about.
    pub not_asked: u64,
}

/// What is learnt, by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    what: What,
    /// Path of the executable; `None`: not known.
    exe: Option<String>,
}

/// One thing that a profile can grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Path(Use, Vec<u8>),
    Host { name: String, port: u16, protocol: &'static str },
    Address { address: std::net::IpAddr, port: u16, protocol: &'static str },
    Listen { address: std::net::IpAddr, port: u16, protocol: &'static str },
    Socket(&'static str),
    Capability(u32),
    Privilege(&'static str),
}

/// A right, in the order of a profile's sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Read,
    Write,
    Execute,
    Connect,
}

impl Use {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Execute, Self::Connect];

    const fn right(self) -> Right {
        match self {
            Self::Read => Right::Read,
            Self::Write => Right::Write,
            Self::Execute => Right::Execute,
            Self::Connect => Right::Connect,
        }
    }
}

impl Observations {
    /// The events that follow are those of another run.
    pub fn next_run(&mut self) {
        let listened: BTreeSet<u16> = self
            .seen
            .keys()
            .filter_map(|key| if let What::Listen { port, .. } = key.what { Some(port) } else { None })
            .collect();
        for ((port, what), seen) in std::mem::take(&mut self.packets) {
            // An answer of the agent's own server, or a packet of a connection that a program is known to have made.
            let known = self.seen.keys().any(|key| key.what == what && key.exe.is_some());
            if !listened.contains(&port) && !known {
                self.note(Key { what, exe: None }, &seen);
            }
        }
        self.runs += 1;
    }

    /// Takes note of an event.
    pub fn event(&mut self, event: &Event<'_>) {
        if let Some(loss) = &event.loss {
            self.lost += loss.lost;
        }
        let exe = event.process.as_ref().and_then(|process| process.exe.as_deref());
        let exe = exe.and_then(escape::bytes).and_then(|exe| String::from_utf8(exe).ok());
        let request = match judge::of_event(event) {
            Ok(request) => request,
            Err(judge::NotAsked::NoVerdict) => return,
            Err(_) => {
                self.not_asked += 1;
                return;
            }
        };
        let seen = Seen {
            times: event.times(),
            first: event.time.0,
            last: event.time.0,
            runs: BTreeSet::from([self.runs]),
        };
        let host = event.network.as_ref().and_then(|network| network.host.clone());
        let own_port = event.network.as_ref().and_then(|network| network.local_port);
        for what in things(request, host) {
            if let (Some(port), None) = (own_port, &exe)
                && self.packets.len() < MOST
            {
                let packets = self.packets.entry((port, what)).or_insert_with(|| seen.clone());
                packets.times += 1;
                packets.last = packets.last.max(seen.last);
                continue;
            }
            self.note(Key { what, exe: exe.clone() }, &seen);
        }
    }

    fn note(&mut self, key: Key, seen: &Seen) {
        if let Some(known) = self.seen.get_mut(&key) {
            known.join(seen);
        } else if self.seen.len() < MOST {
            self.seen.insert(key, seen.clone());
        } else {
            self.beyond += seen.times;
        }
    }

    /// Whether something was seen that only BPF LSM shows.
    #[must_use]
    pub fn has_paths(&self) -> bool {
        self.seen.keys().any(|key| matches!(key.what, What::Path(..)))
    }

    /// How many different requests were seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Writes the profile. `base`: what it extends, whose grants are left out; `sensitive`: what is never granted without
    /// a person's word.
    #[must_use]
    pub fn profile(&self, wishes: &Wishes, base: Option<&Judge>, sensitive: &Judge) -> Learned {
        let mut granted: Vec<(&Key, &Seen)> = Vec::new();
        let mut held: Vec<(&Key, &Seen, String)> = Vec::new();
        for (key, seen) in &self.seen {
            let request = key.what.request();
            if base.is_some_and(|base| allowed(base, key.exe.as_deref(), &request)) {
                continue;
            }
            if let Some(why) = refusal(key, &request, base, sensitive) {
                held.push((key, seen, why));
            } else if seen.runs.len() < wishes.runs {
                held.push((
                    key,
                    seen,
                    format!("seen in {} of {} runs only", seen.runs.len(), self.runs.max(1)),
                ));
            } else {
                granted.push((key, seen));
            }
        }
        write::profile(wishes, &granted, &held)
    }

    /// Requests that `learned` denies although it was written for them: none, or this program is wrong.
    #[must_use]
    pub fn denied_by(&self, learned: &Judge, left_out: &Learned) -> Vec<String> {
        let held = |key: &Key| left_out.held.contains(&key.what.request().to_string());
        let asked = self.seen.keys().filter(|key| !held(key));
        let denied = asked.filter(|key| !allowed(learned, key.exe.as_deref(), &key.what.request()));
        denied.map(|key| key.what.request().to_string()).collect()
    }
}

fn allowed(judge: &Judge, exe: Option<&str>, request: &Request) -> bool {
    let class = judge.class_of(exe.map(str::as_bytes));
    judge
        .ask(class, request)
        .is_ok_and(|answer| answer.effect == Effect::Allow && answer.reason != Reason::NotJudged)
}

/// Why something is not granted without a person's word.
fn refusal(key: &Key, request: &Request, base: Option<&Judge>, sensitive: &Judge) -> Option<String> {
    for (judge, whose) in [(base, "what it extends"), (Some(sensitive), "the shipped base")] {
        let Some(judge) = judge else { continue };
        let class = judge.class_of(key.exe.as_deref().map(str::as_bytes));
        let answer = judge.ask(class, request).ok()?;
        if answer.reason == Reason::DeniedByRule
            && let Some((id, _)) = &answer.rule
        {
            return Some(format!("{whose} denies it ({id})"));
        }
    }
    match &key.what {
        What::Path(_, path) if std::str::from_utf8(path).is_err() => {
            Some("its path is no text, so no glob can name it alone".to_owned())
        }
        What::Capability(_) | What::Privilege(_) => {
            Some("a privilege of the host: say yes to it yourself".to_owned())
        }
        What::Socket(_) => Some("a kind of socket that goes round the rules about addresses".to_owned()),
        _ => None,
    }
}

/// What a profile must grant for a request. `host`: the name that a destination answered for.
fn things(request: Request, host: Option<String>) -> Vec<What> {
    match request {
        Request::Path { path, rights, .. } => Use::ALL
            .into_iter()
            .filter(|used| rights & used.right() as u32 != 0)
            .map(|used| What::Path(used, path.clone()))
            .collect(),
        Request::Connect { to, port, protocol } => {
            let protocol = protocol.name();
            vec![match (host, to) {
                (Some(name), _) | (None, Destination::Host(name)) => What::Host { name, port, protocol },
                (None, Destination::Address(address)) => What::Address { address, port, protocol },
            }]
        }
        // The connection that follows names the port; a name that is only asked for needs none of its own.
        Request::LookUp(_) | Request::Syscall(_) => Vec::new(),
        Request::Listen { address, port, protocol } => {
            vec![What::Listen { address, port, protocol: protocol.name() }]
        }
        Request::Socket(kind) => vec![What::Socket(kind.name())],
        Request::Capability(number) => vec![What::Capability(number)],
        Request::Privilege { privilege, .. } => vec![What::Privilege(privilege.name())],
    }
}

impl What {
    fn request(&self) -> Request {
        use agent_monitor_common::request::Protocol;
        let protocol = |name: &str| {
            Protocol::ALL.iter().copied().find(|known| known.name() == name).unwrap_or(Protocol::Other)
        };
        match self {
            Self::Path(used, path) => {
                Request::Path { path: path.clone(), rights: used.right() as u32, directory: false }
            }
            Self::Host { name, port, protocol: p } => {
                Request::Connect { to: Destination::Host(name.clone()), port: *port, protocol: protocol(p) }
            }
            Self::Address { address, port, protocol: p } => {
                Request::Connect { to: Destination::Address(*address), port: *port, protocol: protocol(p) }
            }
            Self::Listen { address, port, protocol: p } => {
                Request::Listen { address: *address, port: *port, protocol: protocol(p) }
            }
            // The words came from the requests themselves.
            Self::Socket(kind) => Request::socket(kind).unwrap_or(Request::Syscall(u32::MAX)),
            Self::Capability(number) => Request::Capability(*number),
            Self::Privilege(kind) => Request::privilege(kind).unwrap_or(Request::Syscall(u32::MAX)),
        }
    }
}
