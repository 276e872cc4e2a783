//! Grants that recorded activity never exercised, and the patch that takes them out.
//!
//! Called by `agent-monitor unused`. What must stay true: a rule is called unused only if no recorded, allowed request
//! matches it, whatever program asked, for an event of a repeated use names the first program only; and a patch takes
//! out whole lines that hold one rule each, so that what is left reads as before.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use agent_monitor_common::privilege::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETIDS, Privilege};
use jiff::Timestamp;

use super::attribute;
use super::compile::kernel_kind;
use super::judge::{self, Disagreement, Effect, Judge, Reason, Request};
use super::resolved::Targets;
use super::{ResolvedProfile, Source, capabilities};
use crate::event::model::{Event, VerdictEffect};

/// What recorded events say of a profile's grants.
#[derive(Debug)]
pub struct Usage<'j> {
    judge: &'j Judge,
    used: BTreeSet<String>,
    /// Privileges and kinds of sockets that were used: several have one rule.
    powers: HashSet<Request>,
    /// BPF LSM told of something: where it does not work, what only it judges is used without a word.
    pub lsm: bool,
    /// Allowed requests that were asked again, repeats included.
    pub requests: u64,
    /// The times of the first and the last event.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Events lost on the way, as far as they tell of it: a use may be among them.
    pub lost: u64,
}

/// A grant that nothing exercised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused<'p> {
    pub id: Cow<'p, str>,
    pub source: &'p Source,
    /// What it grants, as it is written.
    pub what: String,
}

impl<'j> Usage<'j> {
    #[must_use]
    pub fn new(judge: &'j Judge) -> Self {
        Usage {
            judge,
            used: BTreeSet::new(),
            powers: HashSet::new(),
            lsm: false,
            requests: 0,
            span: None,
            lost: 0,
        }
    }

    /// Takes note of an event.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn event(&mut self, event: &Event<'_>) -> Result<(), Disagreement> {
        let time = event.time.0;
        self.span = Some(self.span.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        if let Some(loss) = &event.loss {
            self.lost += loss.lost;
        }
        self.lsm |= event.verdict.as_ref().is_some_and(|verdict| verdict.mechanism.starts_with("lsm/"));
        // What a rule that is tried out would deny was granted by another one.
        let tried_out = match event.verdict.as_ref().map(|verdict| verdict.effect) {
            Some(VerdictEffect::Allow) => false,
            Some(VerdictEffect::WouldDeny) => true,
            _ => return Ok(()),
        };
        let Ok(request) = judge::of_event(event) else { return Ok(()) };
        let answer = self.judge.ask(self.judge.class_of_event(event), &request)?;
        if tried_out && answer.reason != Reason::Audited {
            return Ok(());
        }
        self.requests += event.times();
        if matches!(request, Request::Capability(_) | Request::Privilege { .. } | Request::Socket(_)) {
            self.powers.insert(request);
            return Ok(());
        }
        // Also rules about other programs: one of them may have repeated it.
        let speaking =
            answer.others.into_iter().filter(|rule| rule.effect == Effect::Allow).map(|rule| rule.id);
        self.used.extend(speaking.chain(answer.rule.map(|(id, _)| id)));
        Ok(())
    }

    /// The grants that no event exercised, in the order of the files.
    #[must_use]
    pub fn unused(&self) -> Vec<Unused<'j>> {
        let profile = self.judge.profile();
        let rules = rules(profile).filter(|rule| !self.used.contains(&*rule.id));
        let used = |power: &Power<'_>| power.by.iter().any(|request| self.powers.contains(request));
        let powers = powers(profile).into_iter().filter(|power| !used(power)).map(|power| power.grant);
        let mut unused: Vec<Unused<'j>> = rules.chain(powers).collect();
        unused.sort_by(|a, b| {
            let key = |u: &Unused<'j>| (u.source.file.clone(), u.source.line, u.id.clone(), u.what.clone());
            key(a).cmp(&key(b))
        });
        unused
    }

    /// How many grants the profile has.
    #[must_use]
    pub fn grants(&self) -> usize {
        let profile = self.judge.profile();
        rules(profile).count() + powers(profile).len()
    }
}

/// Rules that grant.
fn rules(profile: &ResolvedProfile) -> impl Iterator<Item = Unused<'_>> {
    let files = profile.filesystem.iter().flat_map(|files| files.read.iter().chain(&files.write));
    let exec = profile.exec.iter().flat_map(|exec| &exec.allow);
    let unix = profile.unix.iter().flat_map(|unix| &unix.allow);
    let paths = files.chain(exec).chain(unix);
    let unused = |id, source, what| Unused { id: Cow::<str>::Borrowed(id), source, what };
    let paths = paths.map(move |rule| unused(&rule.id, &rule.source, rule.glob.clone()));
    let network = profile.network.allow.iter().chain(&profile.network.listen);
    paths.chain(network.map(move |rule| {
        let nets = rule.nets.iter().map(ToString::to_string);
        let to: Vec<String> = nets.chain(rule.hosts.iter().map(ToString::to_string)).collect();
        unused(&rule.id, &rule.source, to.join(", "))
    }))
}

/// A privilege or a kind of socket that is granted, and the requests that exercise it.
struct Power<'p> {
    grant: Unused<'p>,
    by: Vec<Request>,
}

/// What a profile grants beyond rules. What it leaves out and its agents may do all the same is no grant.
fn powers(profile: &ResolvedProfile) -> Vec<Power<'_>> {
    let mut powers = Vec::new();
    let bits = |mask: u64| (0..64).filter(move |bit| mask >> bit & 1 == 1).map(Request::Capability);
    let mut privilege = |kind: Privilege, what: &str, by: Vec<Request>| {
        if let Some((id, source)) = attribute::privilege(profile, kind) {
            powers.push(Power { grant: Unused { id: id.into(), source, what: what.to_owned() }, by });
        }
    };
    if let Some(section) = &profile.privileges {
        let mut named = section.capabilities;
        if named == u64::MAX {
            privilege(Privilege::Capability, capabilities::ANY, bits(named).collect());
            named = 0;
        }
        for (number, name) in capabilities::NAMES.iter().enumerate() {
            let mask = 1 << number;
            if named & mask != 0 {
                // The one includes the other, as in the image.
                let also = if mask == CAP_DAC_OVERRIDE { CAP_DAC_READ_SEARCH } else { 0 };
                privilege(Privilege::Capability, name, bits(mask | also).collect());
            }
        }
        for &kind in Privilege::ALL {
            let written = match kind {
                Privilege::Capability => false,
                Privilege::Setuid => section.setuid.value,
                Privilege::UserNamespace => section.user_namespaces.value,
                // Its own processes are an agent's without a word.
                Privilege::Ptrace => section.ptrace.value == Targets::Any,
                Privilege::Signal => section.signals.value == Targets::Any,
                Privilege::Mount => section.mounts.value,
                Privilege::Module => section.modules.value,
                Privilege::Bpf => section.bpf.value,
                Privilege::Perf => section.perf.value,
                Privilege::IoUring => section.io_uring.value,
            };
            if written {
                let mut by = vec![Request::Privilege { privilege: kind, own: false }];
                if matches!(kind, Privilege::Setuid) {
                    by.extend(bits(CAP_SETIDS));
                }
                privilege(kind, kind.name(), by);
            }
        }
    }
    for kind in profile.network.sockets.iter() {
        let found = attribute::socket(profile, kernel_kind(kind));
        let grant = Unused { id: found.id, source: found.source, what: kind.as_str().to_owned() };
        powers.push(Power { grant, by: vec![Request::Socket(kernel_kind(kind))] });
    }
    powers
}

/// A patch that takes the rules out of their files, and those that it can't take out: they share a line with something
/// else.
#[must_use]
pub fn patch<'u>(unused: &'u [Unused<'u>]) -> (String, Vec<&'u Unused<'u>>) {
    let mut by_file: BTreeMap<&Path, Vec<&Unused<'_>>> = BTreeMap::new();
    for rule in unused {
        by_file.entry(&rule.source.file).or_default().push(rule);
    }
    let (mut text, mut left) = (String::new(), Vec::new());
    for (file, rules) in by_file {
        let Ok(written) = std::fs::read_to_string(file) else {
            left.extend(rules);
            continue;
        };
        let lines: Vec<&str> = written.lines().collect();
        let mut out = BTreeSet::new();
        for rule in rules {
            let at = rule.source.line as usize - 1;
            if alone(&lines, at) {
                out.insert(at);
            } else {
                left.push(rule);
            }
        }
        text.push_str(&unified(file, &lines, &out));
    }
    (text, left)
}

/// Whether a line holds one item of a list, wholly.
fn alone(lines: &[&str], at: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let Some(line) = lines.get(at).filter(|line| line.trim_start().starts_with("- ")) else { return false };
    let below = lines[at + 1..].iter().find(|line| !line.trim().is_empty());
    // Deeper lines belong to the item.
    let ends_here =
        below.is_none_or(|next| indent(next) <= indent(line) || next.trim_start().starts_with('#'));
    // A list must keep an item: an empty one is a mistake.
    let beside = |line: &&str| indent(line) == indent(lines[at]) && line.trim_start().starts_with("- ");
    let above =
        lines[..at].iter().rev().take_while(|other| indent(other) >= indent(line) || other.trim().is_empty());
    let after =
        lines[at + 1..].iter().take_while(|other| indent(other) >= indent(line) || other.trim().is_empty());
    ends_here && above.chain(after).any(beside)
}

/// Lines of context around a change.
const CONTEXT: usize = 2;

fn unified(file: &Path, lines: &[&str], out: &BTreeSet<usize>) -> String {
    if out.is_empty() {
        return String::new();
    }
    let name = file.display();
    let mut text = format!("--- {name}\n+++ {name}\n");
    let mut removed_before = 0;
    let mut changes = out.iter().copied().peekable();
    while let Some(first) = changes.next() {
        // What lies near is one hunk.
        let mut last = first;
        while let Some(next) = changes.next_if(|next| next - last <= 2 * CONTEXT) {
            last = next;
        }
        let from = first.saturating_sub(CONTEXT);
        let to = (last + CONTEXT + 1).min(lines.len());
        let removed = out.range(from..to).count();
        let (old, new) = (to - from, to - from - removed);
        let _ = writeln!(text, "@@ -{},{old} +{},{new} @@", from + 1, from + 1 - removed_before);
        for (at, line) in lines.iter().enumerate().take(to).skip(from) {
            let _ = writeln!(text, "{}{line}", if out.contains(&at) { '-' } else { ' ' });
        }
        removed_before += removed;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::policy::load_profile;

    const PROFILE: &str = "\
version: 1
name: p
mode: enforce
programs: { npm: [/usr/bin/node] }
network:
  allow:
    - { cidr: 10.0.0.0/8, ports: [443] }
    - { host: api.example.com, ports: [443] }
    - { host: old.example.com, ports: [443] }
  listen: [{ ports: [3000] }, { ports: [4000] }]
files:
  read:
    # The system.
    - /usr/**
    - /opt/never/**
    - { path: /etc/npmrc, exe: npm }
    - path: /etc/other
      exe: npm
  write:
    - /never
";

    /// A profile in a file, which is there as long as its directory.
    fn written(text: &str) -> (tempfile::TempDir, PathBuf, Judge) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.yaml");
        std::fs::write(&file, text).unwrap();
        let judge = Judge::new(load_profile(&file, &[]).unwrap().profile).unwrap();
        (directory, file, judge)
    }

    fn event(json: serde_json::Value) -> Event<'static> {
        let mut whole = serde_json::json!({
            "schema": "agent-monitor.event/1", "id": "01M82BSFQMEB6WTZJZQPGNK0V7", "time": "2026-11-22T19:30:08Z",
            "process": { "pid": 1, "exe": "/usr/bin/cat" },
            "verdict": { "effect": "allow", "mode": "enforce", "reason": "rule", "mechanism": "x", "generation": 1 },
        });
        for (key, value) in json.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn what_no_allowed_request_matches_is_unused_and_taken_out_where_it_stands_alone() {
        let (_directory, file, judge) = written(PROFILE);
        let mut usage = Usage::new(&judge);
        let named = serde_json::json!({ "effect": "allow", "mode": "enforce", "reason": "name", "mechanism": "x", "generation": 1 });
        let net = |address: &str| serde_json::json!({ "direction": "out", "address": address, "port": 443, "protocol": "tcp", "host": "api.example.com" });
        let denied = serde_json::json!({ "effect": "deny", "mode": "enforce", "reason": "rule", "mechanism": "x", "generation": 1 });
        for json in [
            serde_json::json!({ "type": "file", "file": { "path": "/usr/lib/x", "access": ["read"], "repeats": 4 } }),
            // By another program than the rule's: the repeats of it may be npm's.
            serde_json::json!({ "type": "file", "file": { "path": "/etc/npmrc", "access": ["read"] } }),
            serde_json::json!({ "type": "network", "network": net("192.0.2.1"), "verdict": named }),
            serde_json::json!({ "type": "network", "network": net("10.1.1.1") }),
            // A denial is no use.
            serde_json::json!({ "type": "file", "file": { "path": "/never", "access": ["write"] }, "verdict": denied }),
        ] {
            usage.event(&event(json)).unwrap();
        }
        assert_eq!((usage.requests, usage.grants()), (8, 10));
        let unused = usage.unused();
        let ids: Vec<&str> = unused.iter().map(|rule| &*rule.id).collect();
        assert_eq!(
            ids,
            [
                "p:network.allow[2]",
                "p:network.listen[0]",
                "p:network.listen[1]",
                "p:files.read[1]",
                "p:files.read[3]",
                "p:files.write[0]"
            ]
        );
        let (patch, left) = patch(&unused);
        let name = file.display().to_string();
        assert_eq!(
            patch.replace(&name, "p.yaml"),
            "\
--- p.yaml
+++ p.yaml
@@ -7,5 +7,4 @@
     - { cidr: 10.0.0.0/8, ports: [443] }
     - { host: api.example.com, ports: [443] }
-    - { host: old.example.com, ports: [443] }
   listen: [{ ports: [3000] }, { ports: [4000] }]
 files:
@@ -13,5 +12,4 @@
     # The system.
     - /usr/**
-    - /opt/never/**
     - { path: /etc/npmrc, exe: npm }
     - path: /etc/other
"
        );
        // Two on one line, one on two lines, one that is its list's last.
        let left: Vec<&str> = left.iter().map(|rule| &*rule.id).collect();
        assert_eq!(
            left,
            ["p:network.listen[0]", "p:network.listen[1]", "p:files.read[3]", "p:files.write[0]"]
        );
    }

    const POWERS: &str = "\
version: 1
name: p
mode: enforce
network:
  sockets: [raw, netlink]
privileges:
  capabilities: [chown, dac_override, net_raw]
  setuid: true
  ptrace: any
  signals: own
  bpf: true
";

    #[test]
    fn privileges_and_kinds_of_sockets_are_grants_of_their_own() {
        let (_directory, _, judge) = written(POWERS);
        let unused = |events: &[serde_json::Value]| {
            let mut usage = Usage::new(&judge);
            for json in events {
                usage.event(&event(json.clone())).unwrap();
            }
            let rows = usage.unused();
            let text: Vec<String> =
                rows.iter().map(|row| format!("{}:{} {}", row.source.line, row.id, row.what)).collect();
            (text, usage.grants(), usage.requests)
        };
        let all = [
            "4:p:network.sockets netlink",
            "4:p:network.sockets raw",
            "6:p:privileges.capabilities chown",
            "6:p:privileges.capabilities dac_override",
            "6:p:privileges.capabilities net_raw",
            "8:p:privileges.setuid setuid",
            "9:p:privileges.ptrace ptrace",
            "11:p:privileges.bpf bpf",
        ];
        let (text, grants, requests) = unused(&[]);
        assert_eq!((text.as_slice(), grants, requests), (all.map(str::to_owned).as_slice(), 8, 0));
        let privilege = |kind: &str, number: Option<u32>| serde_json::json!({ "type": "privilege", "privilege": { "kind": kind, "number": number } });
        let (text, _, requests) = unused(&[
            privilege("bpf", Some(5)),
            // Includes: `dac_override` the capability 2, `setuid` the capability 7.
            privilege("capability", Some(2)),
            privilege("capability", Some(7)),
            serde_json::json!({ "type": "socket",
                "socket": { "kind": "netlink", "family": 16, "type": 3, "protocol": 0, "repeats": 4 } }),
        ]);
        let left = [all[1], all[2], all[4], all[6]];
        assert_eq!((text.as_slice(), requests), (left.map(str::to_owned).as_slice(), 8));
    }
}
