//! What `explain` tells: of a request what the rules say, of an event that no rule decided why.

use agent_monitor_common::path::Right;
use serde::Serialize;

use crate::control::protocol::Status;
use crate::event::model::Event;
use crate::event::{escape, show};
use crate::policy::diagnostic::printable;
use crate::policy::judge::{
    self, Answer, Change, Destination, Effect, Judge, NotAsked, Reason, Request, Spoken,
};
use crate::policy::{Membership, Source};

/// What is told.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Explanation {
    /// What the rules say, of each request.
    Rules(Vec<Explained>),
    Outside(Outside),
}

/// An event that no rule can be asked about again.
#[derive(Debug, Serialize)]
pub struct Outside {
    event: Told,
    reason: String,
    why: &'static str,
}

impl Outside {
    pub fn new(event: &Event<'_>, not_asked: NotAsked) -> Self {
        let reason = event.verdict.as_ref().map_or("", |verdict| &*verdict.reason);
        Outside {
            event: Told::of(event),
            reason: reason.to_owned(),
            why: beyond_rules(reason).unwrap_or(not_asked.as_str()),
        }
    }

    pub fn text(&self) -> String {
        format!("{}\n  {:<12}{}\n", self.event.line, "why", self.why)
    }
}

/// What a verdict means that did not come from what a rule says of the request itself.
fn beyond_rules(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "denied-below" => {
            "the directory lies on the way to something that the rule denies: it keeps its name and its place, \
             or what is denied would have another path"
        }
        "protected" => {
            "it belongs to the monitor itself, which no agent writes, signals or calls, whatever its profile grants"
        }
        "other-name" => {
            "the object is one that a rule denies under another name (a hard link or a bind mount of it): \
             identity is the object, not the path"
        }
        "no-path" => "the object has no path in the agent's mount namespace, so no rule can grant it",
        "anonymous" => "it is an anonymous object (memfd, unlinked): code that has no path is never executed",
        "mount" => "a change of mounts: under rules about paths it would give objects other paths",
        "outside-agent" => "it is aimed at a process that is none of the agent's",
        "digest" => "the program's content is not the one that `exec.pinned` names",
        "digest-unknown" => {
            "the program is pinned, and its content was not read yet since it changed: try again"
        }
        "no-resolver" => {
            "names are asked of the daemon, and its resolver does not run: see agent-monitor status"
        }
        "sni" => {
            "the connection began with something else than a TLS hello that says a granted name (`sni: require`): it was dropped"
        }
        "other-network" => {
            "names are asked on the loopback of the daemon's network namespace: not from another one, nor by a socket that is bound to a device"
        }
        "rebinding" => {
            "an address in a local range, or one that is denied, answered for a granted name: it was taken out"
        }
        "ip-options" => "the packet has IP options or extension headers, by which it could take another way",
        "malformed" => "the packet could not be read, so it did not leave",
        "helper-failed" => {
            "a helper of the kernel failed, so it could not be judged: closed (agent_monitor_helper_failures_total)"
        }
        "label-lost" => "the process' label could not be stored, so everything is denied to it",
        _ => return None,
    })
}

/// A place in a file, and what is written there.
#[derive(Clone, Debug, Serialize)]
struct Place {
    rule: String,
    /// `file:line`, or `monitor` for what no file says.
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
}

impl Place {
    fn new(rule: &str, source: &Source) -> Self {
        let written = (source.line > 0).then(|| std::fs::read_to_string(&source.file).ok()).flatten();
        let line = written.as_deref().and_then(|text| text.lines().nth(source.line as usize - 1));
        Place {
            rule: rule.to_owned(),
            source: source.to_string(),
            line: line.map(|line| printable(&line.chars().take(200).collect::<String>())),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct Other {
    effect: &'static str,
    /// Whether the rule is about the program that asks, and of a rule about a name the port and protocol.
    holds: bool,
    #[serde(flatten)]
    place: Place,
}

#[derive(Clone, Debug, Serialize)]
struct Seen {
    mechanism: &'static str,
    /// `active`, `idle`, `refused`, `absent`, or `unknown` where no daemon was asked.
    state: String,
}

/// What a recorded event says was decided then.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    id: String,
    effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    mechanism: String,
    generation: u32,
    #[serde(skip)]
    line: String,
}

impl Told {
    pub fn of(event: &Event<'_>) -> Self {
        let verdict = event.verdict.as_ref();
        Told {
            id: event.id.0.to_string(),
            effect: verdict.map_or_else(String::new, |verdict| verdict.effect.as_str().to_owned()),
            rule: verdict.and_then(|verdict| verdict.rule.clone()).map(Into::into),
            source: verdict.and_then(|verdict| verdict.source.clone()).map(Into::into),
            mechanism: verdict.map_or_else(String::new, |verdict| verdict.mechanism.clone().into_owned()),
            generation: verdict.map_or(0, |verdict| verdict.generation),
            line: show::line(event, false),
        }
    }
}

/// One explanation.
#[derive(Debug, Serialize)]
pub struct Explained {
    request: String,
    profile: String,
    mode: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<String>,
    /// Sets of the profile's `programs` that the program is in.
    program: Vec<String>,
    effect: &'static str,
    reason: &'static str,
    /// In this mode the effect is told and nothing is denied.
    reported_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<Place>,
    /// The deciding rule is a lease, and ends then.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    others: Vec<Other>,
    mechanisms: Vec<Seen>,
    /// Lines that would grant it.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<String>,
    /// What else would change the verdict, or why nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<String>,
    notes: Vec<String>,
    /// What was decided when the event was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Told>,
}

impl Explained {
    pub fn new(
        judge: &Judge,
        request: Request,
        exe: Option<&[u8]>,
        daemon: Option<&Status>,
        mut notes: Vec<String>,
        event: Option<Told>,
    ) -> anyhow::Result<Self> {
        let profile = judge.profile();
        let class = judge.class_of(exe);
        let answer = judge.ask(class, &request)?;
        let text = exe.map(|exe| escape::text(exe).into_owned());
        let change = judge::smallest(&request, text.as_deref(), &answer);
        notes.extend(caveats(&request, &answer, judge));
        if let Some(told) = &event {
            notes.extend(moved(told, &answer, judge));
        }
        let (grant, change) = match change {
            None => (None, None),
            Some(Change::Add(lines)) => (Some(lines), None),
            Some(Change::Edit(how)) => (None, Some(how)),
            Some(Change::Impossible(why)) => (None, Some(why.to_owned())),
        };
        let program = match judge.sets(class) {
            Membership::Unknown => Vec::new(),
            Membership::Of(sets) => sets.iter().map(|set| set.as_str().to_owned()).collect(),
        };
        Ok(Explained {
            request: request.to_string(),
            profile: profile.name.clone(),
            mode: profile.mode.as_str(),
            file: profile.file.display().to_string(),
            exe: text,
            program,
            effect: answer.effect.as_str(),
            reason: answer.reason.as_str(),
            reported_only: judge.reported_only(answer.effect),
            decided_by: answer.rule.as_ref().map(|(id, source)| Place::new(id, source)),
            expires: answer
                .rule
                .as_ref()
                .and_then(|(id, _)| profile.end_of(id))
                .map(|end| format!("{end:.0}")),
            others: answer.others.iter().map(other).collect(),
            mechanisms: seen(&request, daemon),
            grant,
            change,
            notes,
            event,
        })
    }

    pub fn text(&self, colour: bool) -> String {
        let paint = |code: &'static str| if colour { code } else { "" };
        let (word, code) = match self.effect {
            "allow" => ("ALLOW", "\x1b[32m"),
            "kill" => ("KILL", "\x1b[31m"),
            _ => ("DENY", "\x1b[31m"),
        };
        let mut out = format!("{}{word}{}  {}", paint(code), paint("\x1b[0m"), printable(&self.request));
        if let Some(exe) = &self.exe {
            out.push_str(&format!("  by {}", printable(exe)));
        }
        out.push('\n');
        let mut row = |name: &str, text: &str| out.push_str(&format!("  {name:<12}{text}\n"));
        if let Some(event) = &self.event {
            row("event", &event.line);
        }
        row("profile", &format!("{}, mode {} ({})", self.profile, self.mode, self.file));
        if self.reported_only {
            row("", "nothing is denied in this mode: it is told as what would be");
        }
        let program = match (self.program.as_slice(), &self.exe) {
            ([], None) => "one that no rule names (say which with --exe)".to_owned(),
            ([], Some(_)) => "in none of the profile's sets of programs".to_owned(),
            (sets, _) => format!("in {}", sets.join(", ")),
        };
        row("program", &program);
        row("why", self.why());
        if let Some(place) = &self.decided_by {
            row("decided by", &format!("{} at {}", place.rule, place.source));
            if let Some(line) = &place.line {
                let number = place.source.rsplit(':').next().unwrap_or_default();
                row("", &format!("{number} | {line}"));
            }
        }
        if let Some(end) = &self.expires {
            row("expires", &format!("{end}, by itself"));
        }
        for (index, other) in self.others.iter().take(MOST_OTHERS).enumerate() {
            let name = if index == 0 { "also" } else { "" };
            let about = if other.holds { "" } else { ", but not for this program, port or protocol" };
            row(
                name,
                &format!(
                    "{} {}s it{about} ({})",
                    other.place.rule,
                    word_of(other.effect),
                    other.place.source
                ),
            );
        }
        if self.others.len() > MOST_OTHERS {
            row("", &format!("and {} more (--json shows all)", self.others.len() - MOST_OTHERS));
        }
        let seen: Vec<String> = self.mechanisms.iter().map(Seen::text).collect();
        row("mechanism", &seen.join(", "));
        if self.mechanisms.iter().any(|seen| seen.state == "unknown") {
            row("", "whether this kernel runs it: agent-monitor doctor");
        }
        for (index, note) in self.notes.iter().enumerate() {
            row(if index == 0 { "note" } else { "" }, note);
        }
        if let Some(grant) = &self.grant {
            row(
                "to grant it",
                &format!("the least that does, in {} or a profile that extends it:", self.file),
            );
            for line in grant.lines() {
                out.push_str(&format!("      {line}\n"));
            }
        } else if let Some(change) = &self.change {
            row("to grant it", change);
        }
        out
    }

    fn why(&self) -> &'static str {
        match self.reason {
            "granted" => "a rule grants it, and none denies it",
            "audited" => {
                "it is granted, and a rule that is tried out (`audit: true`) would deny it: it is told as would-deny"
            }
            "denied-by-rule" if self.effect == "kill" => {
                "the call is listed: its caller is killed when it enters"
            }
            "denied-by-rule" => "a rule denies it, and a deny wins over every grant",
            "not-granted" => "no rule grants it",
            _ => "the profile does not speak of such requests, so none is judged",
        }
    }
}

/// Other rules that the text lists.
const MOST_OTHERS: usize = 8;

fn word_of(effect: &str) -> &str {
    match effect {
        "allow" => "grant",
        "deny" => "denie",
        other => other,
    }
}

fn other(spoken: &Spoken) -> Other {
    Other {
        effect: spoken.effect.as_str(),
        holds: spoken.holds,
        place: Place::new(&spoken.id, &spoken.source),
    }
}

impl Seen {
    fn text(&self) -> String {
        match self.state.as_str() {
            "unknown" => self.mechanism.to_owned(),
            state => format!("{} ({state} here)", self.mechanism),
        }
    }
}

fn seen(request: &Request, daemon: Option<&Status>) -> Vec<Seen> {
    let state = |name: &str| {
        let posture = daemon.map(|status| &status.posture);
        let known = posture.and_then(|all| all.iter().find(|mechanism| mechanism.name == name));
        match (daemon, known) {
            (Some(_), None) if name == judge::RESOLVER => "active".to_owned(),
            (_, Some(mechanism)) => mechanism.state.clone(),
            _ => "unknown".to_owned(),
        }
    };
    judge::mechanisms(request)
        .into_iter()
        .map(|mechanism| Seen { mechanism, state: state(mechanism) })
        .collect()
}

/// What the verdict leaves open.
fn caveats(request: &Request, answer: &Answer, judge: &Judge) -> Vec<String> {
    let mut notes = Vec::new();
    if answer.hello {
        notes.push(
            "the connection must begin with a TLS hello that says this name (`sni: require`)".to_owned(),
        );
    }
    match request {
        Request::Connect { to: Destination::Host(name), .. } if answer.effect == Effect::Allow => notes.push(format!(
            "an address of {name} that a rule denies, or that is local or private and granted by no address, is taken out of the answer"
        )),
        Request::Connect { to: Destination::Host(_), .. } => {
            notes.push("a name that no rule grants to this program is NXDOMAIN, and nothing is asked".to_owned());
        }
        Request::Connect { to: Destination::Address(_), .. }
            if judge.grants_names() && answer.reason == Reason::NotGranted =>
        {
            notes.push("it can be reached while a granted name answers with it".to_owned());
        }
        Request::Path { rights, .. } if rights & Right::Connect as u32 != 0 && answer.effect == Effect::Deny => {
            notes.push("a socket that the same agent made needs no grant".to_owned());
        }
        Request::Path { .. } if answer.effect == Effect::Allow && answer.reason == Reason::Granted => notes.push(
            "an object that a rule denies under another name (hard link, bind mount) is denied under this one too"
                .to_owned(),
        ),
        Request::Privilege { .. } | Request::Capability(_) if answer.effect == Effect::Allow => {
            notes.push("the kernel asks for the agent's own rights first".to_owned());
        }
        _ => {}
    }
    notes
}

/// How the profile has changed since the event.
fn moved(told: &Told, answer: &Answer, judge: &Judge) -> Option<String> {
    let denied_then = !told.effect.is_empty() && told.effect != "allow";
    if denied_then != answer.denies_or_tells() {
        return Some(format!(
            "it was {} then, by generation {} of the profile; the files say otherwise now",
            told.effect, told.generation
        ));
    }
    let now = answer.rule.as_ref().map(|(id, _)| id.as_str());
    match (&told.rule, now) {
        (Some(then), Some(now)) if then != now => {
            Some(format!("{then} decided it then; `{}` has changed since", judge.profile().name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_a_rules_or_is_told_in_words() {
        let of_rules = ["rule", "default-deny", "name", "socket-kind"];
        for reason in agent_monitor_common::event::Reason::ALL {
            let name = reason.name();
            assert_ne!(of_rules.contains(&name), beyond_rules(name).is_some(), "{name}");
        }
    }
}
