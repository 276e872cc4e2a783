//! What agents are told of their own denials, where their profile has `notices`.
//!
//! Offered every event by `daemon::pipeline`, emptied by `control::notices`, where an agent asks for its own. What must
//! stay true: a notice says what the agent asked for, which rule refused it and what the operator wrote about asking for
//! it, and nothing else: no other agent's doings, no path on the host that the agent did not name to the kernel itself,
//! no way around. An agent that does not read loses notices, counted, and costs nobody anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::event::model::{Event, VerdictEffect};
use crate::policy::Notices;

/// Bytes that wait for one agent.
const MAX_AGENT: usize = 64 << 10;
/// Bytes that wait for all.
const MAX_ALL: usize = 4 << 20;
/// Longest notice.
const MAX_LINE: usize = 8 << 10;
/// Agents that something waits for, or was lost of.
const MAX_AGENTS: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub struct Denials {
    state: Mutex<State>,
    /// So that the pipeline takes no lock where no profile wants notices.
    wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The profiles that have `notices`.
    profiles: HashMap<String, Notices>,
    waiting: HashMap<Ulid, Waiting>,
    /// Of all that waits.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    lost: u64,
    /// One found no room: nothing is made for later ones before this was read.
    full: bool,
}

/// A notice, as an agent reads it.
#[derive(Debug, Serialize)]
struct Line<'e> {
    time: String,
    #[serde(rename = "type")]
    kind: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<&'e str>,
    effect: VerdictEffect,
    denied: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'e str>,
    reason: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'e str>,
}

/// What the agent asked for: never what the monitor found out about it.
fn asked(event: &Event<'_>) -> Option<Value> {
    if let Some(network) = &event.network {
        return Some(json!({
            "direction": network.direction, "address": network.address, "host": network.host,
            "port": network.port, "protocol": network.protocol,
        }));
    }
    if let Some(lookup) = &event.lookup {
        return Some(json!({ "name": lookup.name, "type": lookup.r#type }));
    }
    if let Some(file) = &event.file {
        return Some(json!({ "path": file.path, "access": file.access }));
    }
    if let Some(socket) = &event.socket {
        return Some(json!({ "socket": socket.kind }));
    }
    if let Some(privilege) = &event.privilege {
        return Some(json!({ "privilege": privilege.kind, "name": privilege.name }));
    }
    event.syscall.as_ref().map(|call| json!({ "syscall": call.name, "nr": call.nr }))
}

impl Denials {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the agents of a profile are told.
    pub fn set_profile(&self, name: &str, notices: Option<&Notices>) {
        let mut state = self.lock();
        match notices {
            Some(notices) => state.profiles.insert(name.to_owned(), notices.clone()),
            None => state.profiles.remove(name),
        };
        self.wanted.store(!state.profiles.is_empty(), Ordering::Release);
    }

    /// Whether the agents of a profile are told.
    #[must_use]
    pub fn wanted_by(&self, profile: &str) -> bool {
        self.lock().profiles.contains_key(profile)
    }

    /// Keeps a notice of the event for the agent, if it is a denial that it shall know of.
    pub fn offer(&self, event: &Event<'_>) {
        if !self.wanted.load(Ordering::Acquire) {
            return;
        }
        let Some(verdict) = &event.verdict else { return };
        if !matches!(verdict.effect, VerdictEffect::Deny | VerdictEffect::Kill) {
            return;
        }
        let Some((id, agent)) = event.agent.as_ref().and_then(|agent| Some((agent.id?.0, agent))) else {
            return;
        };
        let mut state = self.lock();
        let State { profiles, waiting, bytes } = &mut *state;
        let Some(notices) = profiles.get(&*agent.profile) else { return };
        if waiting.len() >= MAX_AGENTS && !waiting.contains_key(&id) {
            return;
        }
        let of_agent = waiting.entry(id).or_default();
        if of_agent.full || *bytes >= MAX_ALL {
            of_agent.lost += 1;
            return;
        }
        let Some(denied) = asked(event) else { return };
        let process = event.process.as_ref();
        let line = Line {
            time: event.time.to_string(),
            kind: event.kind.as_str(),
            pid: process.map(|process| process.pid),
            comm: process.and_then(|process| process.comm.as_deref()),
            effect: verdict.effect,
            denied,
            rule: verdict.rule.as_deref(),
            reason: &verdict.reason,
            errno: verdict.errno.as_deref(),
            request: notices.request.as_deref(),
        };
        let Some(text) = serde_json::to_vec(&line).ok().filter(|text| text.len() < MAX_LINE) else {
            of_agent.lost += 1;
            return;
        };
        of_agent.full = of_agent.lines.len() + text.len() >= MAX_AGENT;
        if of_agent.full {
            of_agent.lost += 1;
            return;
        }
        *bytes += text.len() + 1;
        of_agent.lines.extend(text);
        of_agent.lines.push(b'\n');
    }

    /// Takes what waits for an agent: lines, the last of which says how many notices were lost, if any were.
    #[must_use]
    pub fn take(&self, agent: Ulid) -> Vec<u8> {
        let mut state = self.lock();
        let Some(Waiting { mut lines, lost, .. }) = state.waiting.remove(&agent) else { return Vec::new() };
        state.bytes -= lines.len();
        if lost > 0 {
            lines.extend(format!("{{\"lost\":{lost}}}\n").into_bytes());
        }
        lines
    }

    /// Forgets what waits for agents that are gone.
    pub fn keep(&self, lives: impl Fn(Ulid) -> bool) {
        let mut state = self.lock();
        state.waiting.retain(|id, _| lives(*id));
        state.bytes = state.waiting.values().map(|waiting| waiting.lines.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::model::{Agent, EventType, File, Id, Network, Process, Verdict};

    const ONE: u128 = 1;
    const TWO: u128 = 2;

    fn denials() -> Denials {
        let denials = Denials::default();
        denials.set_profile("p", Some(&Notices { request: Some("ask in #agents".to_owned()) }));
        denials
    }

    fn event(agent: u128, profile: &'static str, effect: VerdictEffect) -> Event<'static> {
        let mut event = Event::new(Ulid::from(9_u128), jiff::Timestamp::UNIX_EPOCH, EventType::Network);
        event.agent = Some(Agent { id: Some(Id(Ulid::from(agent))), profile: profile.into(), origin: None });
        event.process = Some(Process { cgroup: Some("/secret".into()), ..Process::numbered(7) });
        event.network = Some(Network {
            direction: "out".into(),
            address: "192.0.2.1".parse().ok(),
            host: None,
            port: 443,
            protocol: "tcp".into(),
            local_port: Some(40_000),
            hello: None,
            sni: None,
        });
        event.verdict = Some(Verdict {
            effect,
            mode: "enforce".into(),
            errno: Some("ENETUNREACH".into()),
            rule: Some("p:network.default".into()),
            source: Some("/etc/agent-monitor/profiles.d/p.yaml:3".into()),
            reason: "default-deny".into(),
            mechanism: "cgroup/connect4".into(),
            generation: 1,
        });
        event
    }

    fn taken(denials: &Denials, agent: u128) -> Vec<Value> {
        let lines = String::from_utf8(denials.take(Ulid::from(agent))).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_denial_is_told_once_to_its_agent_alone() {
        let denials = denials();
        denials.offer(&event(ONE, "p", VerdictEffect::Deny));
        assert_eq!(taken(&denials, TWO), [Value::Null; 0]);
        let told = taken(&denials, ONE);
        let whole = json!({
            "time": "1970-01-01T00:00:00.000000000Z", "type": "network", "pid": 7, "effect": "deny",
            "denied": {"direction": "out", "address": "192.0.2.1", "host": null, "port": 443, "protocol": "tcp"},
            "rule": "p:network.default", "reason": "default-deny", "errno": "ENETUNREACH", "request": "ask in #agents",
        });
        assert_eq!(told, [whole], "all that there is: no place on the host, no mechanism");
        assert_eq!(taken(&denials, ONE), [Value::Null; 0]);
    }

    #[test]
    fn what_was_not_denied_or_not_wanted_is_not_told() {
        let denials = denials();
        for effect in [VerdictEffect::Allow, VerdictEffect::WouldDeny, VerdictEffect::WouldKill] {
            denials.offer(&event(ONE, "p", effect));
        }
        denials.offer(&event(ONE, "other", VerdictEffect::Deny));
        assert_eq!(taken(&denials, ONE), [Value::Null; 0]);
        denials.set_profile("p", None);
        denials.offer(&event(ONE, "p", VerdictEffect::Deny));
        assert_eq!(taken(&denials, ONE), [Value::Null; 0]);
    }

    #[test]
    fn an_agent_that_does_not_read_loses_notices_and_is_told_how_many() {
        let denials = denials();
        let offered = 5_000;
        for _ in 0..offered {
            denials.offer(&event(ONE, "p", VerdictEffect::Deny));
        }
        assert!(denials.lock().bytes <= MAX_AGENT);
        denials.offer(&event(TWO, "p", VerdictEffect::Kill));
        assert_eq!(taken(&denials, TWO).len(), 1, "another agent loses nothing");
        let told = taken(&denials, ONE);
        let (last, lines) = told.split_last().unwrap();
        assert_eq!(lines.len() as u64 + last["lost"].as_u64().unwrap(), offered);
        assert_eq!(denials.lock().bytes, 0);
    }

    #[test]
    fn many_agents_and_long_paths_are_bounded() {
        let denials = denials();
        let mut long = event(ONE, "p", VerdictEffect::Deny);
        long.network = None;
        let path = Some("/".repeat(MAX_LINE).into());
        long.file = Some(File { path, truncated: false, access: vec![], inode: None, repeats: None });
        denials.offer(&long);
        assert_eq!(taken(&denials, ONE), [json!({"lost": 1})]);
        for agent in 0..MAX_AGENTS as u128 + 50 {
            for _ in 0..20 {
                denials.offer(&event(agent, "p", VerdictEffect::Deny));
            }
        }
        assert!(denials.lock().waiting.len() <= MAX_AGENTS);
        assert!(denials.lock().bytes <= MAX_ALL + MAX_LINE);
        denials.keep(|id| id == Ulid::from(3_u128));
        assert_eq!(denials.lock().waiting.len(), 1);
    }
}
