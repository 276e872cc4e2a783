//! `agent-monitor explain`: what a profile says about a request or a recorded event, by which rule, and what would change
//! it.
//!
//! Exit code 0 whatever the verdict. Needs no privilege for a request and a profile; the events of a daemon are root's.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_monitor_common::path::Right;
use agent_monitor_common::request::Protocol;
use anyhow::Context;
use serde::Serialize;

use super::profile::{self, BasesArgs};
use super::{SocketArgs, colours, event_files, print};
use crate::control::protocol::Status;
use crate::event::model::Event;
use crate::event::{escape, show};
use crate::exit::{Exit, Failed};
use crate::policy::diagnostic::printable;
use crate::policy::judge::{
    self, Answer, Change, Destination, Effect, Judge, NotAsked, Reason, Request, Spoken,
};
use crate::policy::{Membership, Source};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("asked").required(true))]
pub struct ExplainArgs {
    /// An event, by its id or the beginning of it
    #[arg(value_name = "EVENT", group = "asked")]
    pub event: Option<String>,
    /// A file or directory: is what `--access` says allowed?
    #[arg(long, value_name = "PATH", group = "asked")]
    pub file: Option<OsString>,
    /// What to do with the file
    #[arg(long, value_enum, value_name = "ACCESS", requires = "file", default_value = "read")]
    pub access: Access,
    /// A program: may it be executed?
    #[arg(long, value_name = "PATH", group = "asked")]
    pub exec: Option<OsString>,
    /// A destination: may it be reached? A name, or an address (IPv6 in brackets), and a port
    #[arg(long, value_name = "HOST:PORT", group = "asked")]
    pub connect: Option<String>,
    /// A local port: may it be listened on? On 127.0.0.1 where no address is given
    #[arg(long, value_name = "[ADDRESS:]PORT", group = "asked")]
    pub listen: Option<String>,
    /// A Unix socket by its path, or `@` and its abstract name: may it be connected to?
    #[arg(long, value_name = "PATH", group = "asked")]
    pub unix: Option<OsString>,
    /// A kind of socket (`raw`, `netlink` …): does it exist?
    #[arg(long, value_name = "KIND", group = "asked")]
    pub socket_kind: Option<String>,
    /// A capability: may it be used?
    #[arg(long, value_name = "NAME", group = "asked")]
    pub capability: Option<String>,
    /// Another privilege (`ptrace`, `mount`, `bpf` …): is it there? `own-ptrace`: on processes of the same agent
    #[arg(long, value_name = "KIND", group = "asked")]
    pub privilege: Option<String>,
    /// A system call: is its caller killed?
    #[arg(long, value_name = "NAME", group = "asked")]
    pub syscall: Option<String>,
    /// Of `--connect` and `--listen`
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "tcp")]
    pub protocol: Transport,
    /// The program that asks, by the path of its executable [default: one that no rule names]
    #[arg(long, value_name = "PATH")]
    pub exe: Option<OsString>,
    /// The profile, by file or name [default: the event's]
    #[arg(long, short, value_name = "PROFILE", required_unless_present = "event")]
    pub profile: Option<String>,
    /// Take paths as they are, and not as this host resolves their links now
    #[arg(long)]
    pub no_resolve: bool,
    /// Look the event up in this file [default: the running daemon's]
    #[arg(long, value_name = "FILE", requires = "event")]
    pub events: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What can be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Access {
    Read,
    /// Also create, remove, rename, truncate, change mode or owner.
    Write,
    /// Also map as code.
    Execute,
}

impl Access {
    const fn right(self) -> Right {
        match self {
            Self::Read => Right::Read,
            Self::Write => Right::Write,
            Self::Execute => Right::Execute,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::Icmp => Protocol::Icmp,
        }
    }
}

/// Prints the explanation.
///
/// # Errors
/// A request that can't be read (64), a profile that can't be used (65), an event that is not there.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let daemon = profile::daemon(&args.socket.socket);
    let explained = match &args.event {
        Some(id) => recorded(args, id, daemon.as_ref())?,
        None => asked(args, daemon.as_ref())?,
    };
    let text = match (args.json, &explained) {
        (true, _) => format!("{}\n", serde_json::to_string_pretty(&explained).context("JSON")?),
        (false, Explanation::Outside(one)) => one.text(),
        (false, Explanation::Rules(all)) => {
            let colour = colours(&std::io::stdout());
            all.iter().map(|one| one.text(colour)).collect::<Vec<_>>().join("\n")
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn usage(error: &judge::BadRequest) -> anyhow::Error {
    Failed::error(Exit::Usage, error.to_string())
}

/// A request of the command line; of a name that the profile knows nothing about, one for each address it has here.
fn asked(args: &ExplainArgs, daemon: Option<&Status>) -> anyhow::Result<Explanation> {
    let wanted = args.profile.as_deref().unwrap_or_default();
    let judge = args.bases.judge(wanted, daemon)?;
    let exe = args.exe.as_ref().map(|exe| resolved(exe.as_bytes(), args.no_resolve).0);
    let mut notes = Vec::new();
    let mut path = |given: &OsString| {
        let given = given.as_bytes();
        let (path, directory) = resolved(given, args.no_resolve);
        if path != given.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(given) {
            notes.push(format!("{} leads to it on this host", escape::text(given)));
        }
        let end: &[u8] = if directory && path != b"/" { b"/" } else { b"" };
        [&path[..], end].concat()
    };
    let protocol = args.protocol.into();
    let request = if let Some(file) = &args.file {
        Request::path(&path(file), args.access.right() as u32)
    } else if let Some(program) = &args.exec {
        Request::path(&path(program), Right::Execute as u32)
    } else if let Some(to) = &args.connect {
        Request::connect(to, protocol)
    } else if let Some(at) = &args.listen {
        Request::listen(at, protocol)
    } else if let Some(name) = &args.unix {
        if name.as_bytes().starts_with(b"@") {
            Request::unix(name.as_bytes())
        } else {
            Request::unix(&path(name))
        }
    } else if let Some(kind) = &args.socket_kind {
        Request::socket(kind)
    } else if let Some(name) = &args.capability {
        Request::capability(name)
    } else if let Some(kind) = &args.privilege {
        Request::privilege(kind)
    } else {
        Request::syscall(args.syscall.as_deref().unwrap_or_default())
    };
    let request = request.map_err(|error| usage(&error))?;
    let requests = match &request {
        Request::Connect { to: Destination::Host(name), port, protocol } if !judge.grants_names() => {
            notes.push(format!(
                "the profile grants no names: these are the addresses of {name} as this host knows them"
            ));
            let found = (name.as_str(), *port).to_socket_addrs().with_context(|| {
                format!("`{}` grants no names, and {name} has no address here", judge.profile().name)
            })?;
            let mut all: Vec<Request> = found
                .map(|at| Request::Connect {
                    to: Destination::Address(at.ip().to_canonical()),
                    port: *port,
                    protocol: *protocol,
                })
                .collect();
            all.dedup();
            all
        }
        _ => vec![request],
    };
    let explain = |request| Explained::new(&judge, request, exe.as_deref(), daemon, notes.clone(), None);
    requests.into_iter().map(explain).collect::<Result<_, _>>().map(Explanation::Rules)
}

/// Where a path leads on this host, and whether to a directory. What does not exist yet is looked up as far as it does.
fn resolved(path: &[u8], as_it_is: bool) -> (Vec<u8>, bool) {
    let given = Path::new(std::ffi::OsStr::from_bytes(path));
    if as_it_is || !given.is_absolute() {
        let directory = path.len() > 1 && path.ends_with(b"/");
        return (path.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(path).to_vec(), directory);
    }
    let mut missing = Vec::new();
    let mut at = given;
    loop {
        if let Ok(real) = at.canonicalize() {
            let directory = missing.is_empty() && real.is_dir();
            let whole = missing.iter().rev().fold(real, |path, step| path.join(step));
            return (whole.into_os_string().into_vec(), directory);
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                at = parent;
            }
            _ => return (path.to_vec(), false),
        }
    }
}

/// An event of the file, by its id or the beginning of one.
fn recorded(args: &ExplainArgs, id: &str, daemon: Option<&Status>) -> anyhow::Result<Explanation> {
    let file = args.events.clone().unwrap_or_else(|| event_files::of_daemon(daemon));
    let wanted = id.to_ascii_uppercase();
    let mut found: Vec<(String, Event<'static>)> = Vec::new();
    event_files::lines(&file, |line| {
        // Without reading every line as JSON: the file may be long.
        if line.contains(&wanted)
            && let Ok(event) = serde_json::from_str::<Event<'static>>(line)
            && event.id.0.to_string().starts_with(&wanted)
        {
            found.push((event.id.0.to_string(), event));
        }
        Ok(found.len() < 2)
    })?;
    let [(_, event)] = found.as_slice() else {
        let message = match found.as_slice() {
            [] => format!("no event in {} has an id that begins with {id}", file.display()),
            _ => format!(
                "several events in {} have an id that begins with {id}: give more of it",
                file.display()
            ),
        };
        return Err(Failed::error(Exit::Usage, message));
    };
    let named = event.agent.as_ref().map(|agent| agent.profile.clone().into_owned());
    let profile = match args.profile.clone().or_else(|| of_running(daemon, named.as_deref())).or(named) {
        Some(profile) => profile,
        None => {
            return Err(Failed::error(Exit::Usage, "the event names no profile: give one with --profile"));
        }
    };
    let judge = args.bases.judge(&profile, daemon)?;
    let told = Told::of(event);
    let request = match judge::of_event(event) {
        Ok(request) => request,
        Err(why) => return Ok(Explanation::Outside(Outside::new(event, why))),
    };
    let exe = event.process.as_ref().and_then(|process| process.exe.as_deref()).and_then(escape::bytes);
    Explained::new(&judge, request, exe.as_deref(), daemon, Vec::new(), Some(told))
        .map(|one| Explanation::Rules(vec![one]))
}

/// The file of a profile that the daemon has in force.
fn of_running(daemon: Option<&Status>, name: Option<&str>) -> Option<String> {
    daemon?.profiles.iter().find(|profile| Some(profile.name.as_str()) == name)?.files.first().cloned()
}

/// What is told.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Explanation {
    /// What the rules say, of each request.
    Rules(Vec<Explained>),
    Outside(Outside),
}

/// An event that no rule can be asked about again.
#[derive(Debug, Serialize)]
struct Outside {
    event: Told,
    reason: String,
    why: &'static str,
}

impl Outside {
    fn new(event: &Event<'_>, not_asked: NotAsked) -> Self {
        let reason = event.verdict.as_ref().map_or("", |verdict| &*verdict.reason);
        Outside {
            event: Told::of(event),
            reason: reason.to_owned(),
            why: beyond_rules(reason).unwrap_or(not_asked.as_str()),
        }
    }

    fn text(&self) -> String {
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
struct Told {
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
    fn of(event: &Event<'_>) -> Self {
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
struct Explained {
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
    fn new(
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
            others: answer.others.iter().map(other).collect(),
            mechanisms: seen(&request, daemon),
            grant,
            change,
            notes,
            event,
        })
    }

    fn text(&self, colour: bool) -> String {
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
    if denied_then != (answer.effect != Effect::Allow) {
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
    use agent_monitor_common::event::Reason;

    #[test]
    fn every_reason_is_a_rules_or_is_told_in_words() {
        let of_rules = ["rule", "default-deny", "name", "socket-kind"];
        for reason in Reason::ALL {
            let name = reason.name();
            assert_ne!(of_rules.contains(&name), beyond_rules(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_path_leads_where_the_host_says_as_far_as_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let asked = |path: &str, as_it_is| {
            let (path, directory) = resolved(root.join(path).as_os_str().as_bytes(), as_it_is);
            (String::from_utf8(path).unwrap().replace(root.to_str().unwrap(), ""), directory)
        };
        assert_eq!(asked("link", false), ("/real".to_owned(), true));
        assert_eq!(asked("link/new/file", false), ("/real/new/file".to_owned(), false));
        assert_eq!(asked("link/", true), ("/link".to_owned(), true));
        assert_eq!(asked("link", true), ("/link".to_owned(), false));
    }
}
