//! `agent-monitor simulate`: what would become of recorded events under another profile?
//!
//! Every event with a verdict is asked again of the candidate; what it would newly deny or allow is told once for each
//! request and program, with how often it happened. Exit code 0 if nothing would newly be denied, else 1.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::profile::{self, BasesArgs};
use super::{SocketArgs, colours, event_files, print};
use crate::event::escape;
use crate::event::model::Event;
use crate::exit::Exit;
use crate::policy::diagnostic::printable;
use crate::policy::judge::{self, Change, Effect, Judge, NotAsked, Request};

#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// The candidate, by file or name
    #[arg(value_name = "PROFILE")]
    pub profile: String,
    /// Recorded events, with the files they were renamed to [default: those of the running daemon]
    #[arg(value_name = "EVENTS")]
    pub events: Option<PathBuf>,
    /// Only events of agents of this profile; may be given several times
    #[arg(long, value_name = "NAME")]
    pub of: Vec<String>,
    /// Only events of this agent (ULID); may be given several times
    #[arg(long, value_name = "ID")]
    pub agent: Vec<String>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Prints what would change.
///
/// # Errors
/// A profile or events that can't be read.
pub fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let daemon = profile::daemon(&args.socket.socket);
    let judge = args.bases.judge(&args.profile, daemon.as_ref())?;
    let file = args.events.clone().unwrap_or_else(|| event_files::of_daemon(daemon.as_ref()));
    let mut replay = Replay::new(&judge);
    event_files::lines(&file, |line| {
        match serde_json::from_str::<Event<'static>>(line) {
            Ok(event) if passes(args, &event) => replay.event(&event)?,
            Ok(_) => {}
            Err(_) => replay.unreadable += 1,
        }
        Ok(true)
    })?;
    let report = replay.report();
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report).context("JSON")?)
    } else {
        report.text(colours(&std::io::stdout()))
    };
    print(&text)?;
    Ok(if report.newly_denied.is_empty() { ExitCode::SUCCESS } else { Exit::Failure.into() })
}

fn passes(args: &SimulateArgs, event: &Event<'_>) -> bool {
    let Some(agent) = &event.agent else { return args.of.is_empty() && args.agent.is_empty() };
    let of = args.of.is_empty() || args.of.iter().any(|name| *name == agent.profile);
    let id = agent.id.map(|id| id.0.to_string());
    of && (args.agent.is_empty() || id.is_some_and(|id| args.agent.contains(&id)))
}

/// Requests that are kept apart: an agent may make up as many as it likes.
const MOST: usize = 100_000;

/// What a request of a program was, and is.
#[derive(Clone, Debug)]
struct Kept {
    times: u64,
    /// Denied (or killed) when it was recorded, or would have been.
    denied_then: bool,
    now: Effect,
    rule: Option<String>,
    source: Option<String>,
    change: Option<Change>,
    /// The first such event.
    event: String,
}

struct Replay<'j> {
    judge: &'j Judge,
    /// By request, program and whether it was denied.
    kept: HashMap<(Request, Option<Vec<u8>>, bool), Kept>,
    asked: u64,
    not_asked: HashMap<NotAsked, u64>,
    unreadable: u64,
    /// Events whose request found no room.
    beyond: u64,
}

impl<'j> Replay<'j> {
    fn new(judge: &'j Judge) -> Self {
        Replay { judge, kept: HashMap::new(), asked: 0, not_asked: HashMap::new(), unreadable: 0, beyond: 0 }
    }

    fn event(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        let request = match judge::of_event(event) {
            Ok(request) => request,
            // Forks and exits are no requests.
            Err(NotAsked::NoVerdict) => return Ok(()),
            Err(why) => {
                *self.not_asked.entry(why).or_default() += 1;
                return Ok(());
            }
        };
        let times = event.times();
        self.asked += times;
        let exe = event.process.as_ref().and_then(|process| process.exe.as_deref()).and_then(escape::bytes);
        let denied_then = event.verdict.as_ref().is_some_and(|verdict| verdict.effect.as_str() != "allow");
        let key = (request, exe, denied_then);
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.times += times;
            return Ok(());
        }
        if self.kept.len() >= MOST {
            self.beyond += times;
            return Ok(());
        }
        let (request, exe, _) = &key;
        let answer = self.judge.ask(self.judge.class_of_event(event), request)?;
        let text = exe.as_deref().map(|exe| escape::text(exe).into_owned());
        let kept = Kept {
            times,
            denied_then,
            now: if denied_then && answer.denies_or_tells() { Effect::Deny } else { answer.effect },
            rule: answer.rule.as_ref().map(|(id, _)| id.clone()),
            source: answer.rule.as_ref().map(|(_, source)| source.to_string()),
            change: judge::smallest(request, text.as_deref(), &answer),
            event: event.id.0.to_string(),
        };
        self.kept.insert(key, kept);
        Ok(())
    }

    fn report(self) -> Report {
        let (mut newly_denied, mut newly_allowed) = (Vec::new(), Vec::new());
        let (mut still_denied, mut still_allowed) = (0, 0);
        for ((request, exe, _), kept) in self.kept {
            let denied_now = kept.now != Effect::Allow;
            if denied_now == kept.denied_then {
                *if denied_now { &mut still_denied } else { &mut still_allowed } += 1;
                continue;
            }
            let changed = Changed {
                request: request.to_string(),
                exe: exe.map(|exe| escape::text(&exe).into_owned()),
                times: kept.times,
                rule: kept.rule,
                source: kept.source,
                grant: match kept.change {
                    Some(Change::Add(lines)) => Some(lines),
                    _ => None,
                },
                event: kept.event,
            };
            if denied_now { newly_denied.push(changed) } else { newly_allowed.push(changed) }
        }
        for list in [&mut newly_denied, &mut newly_allowed] {
            list.sort_by(|a: &Changed, b| {
                b.times.cmp(&a.times).then_with(|| (&a.request, &a.exe).cmp(&(&b.request, &b.exe)))
            });
        }
        let mut not_asked: Vec<(String, u64)> =
            self.not_asked.into_iter().map(|(why, count)| (why.as_str().to_owned(), count)).collect();
        not_asked.sort();
        Report {
            profile: self.judge.profile().name.clone(),
            events: self.asked,
            still_denied,
            still_allowed,
            newly_denied,
            newly_allowed,
            not_asked,
            unreadable: self.unreadable,
            beyond: self.beyond,
        }
    }
}

/// A request whose outcome changes.
#[derive(Debug, Serialize)]
struct Changed {
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<String>,
    /// How often it was recorded.
    times: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The lines that would keep it allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<String>,
    /// The first event of it.
    event: String,
}

#[derive(Debug, Serialize)]
struct Report {
    profile: String,
    /// Requests that were asked again, repeats included.
    events: u64,
    /// Different requests that were denied, or would have been, and still are.
    still_denied: usize,
    still_allowed: usize,
    newly_denied: Vec<Changed>,
    newly_allowed: Vec<Changed>,
    /// Events with a verdict that no rule can be asked about, by why.
    not_asked: Vec<(String, u64)>,
    /// Lines that are no event.
    unreadable: u64,
    /// Events whose request found no room among those kept apart.
    beyond: u64,
}

impl Report {
    fn text(&self, colour: bool) -> String {
        let paint = |code: &'static str| if colour { code } else { "" };
        let mut out = String::new();
        for (word, code, list) in
            [("DENY ", "\x1b[31m", &self.newly_denied), ("ALLOW", "\x1b[32m", &self.newly_allowed)]
        {
            for changed in list {
                let exe =
                    changed.exe.as_deref().map(|exe| format!("  by {}", printable(exe))).unwrap_or_default();
                let times =
                    if changed.times == 1 { String::new() } else { format!("  {} times", changed.times) };
                let rule = match (&changed.rule, &changed.source) {
                    (Some(rule), Some(source)) => format!("  {rule} ({source})"),
                    _ => "  (not judged)".to_owned(),
                };
                out.push_str(&format!(
                    "{}{word}{} {}{exe}{times}{rule}\n",
                    paint(code),
                    paint("\x1b[0m"),
                    printable(&changed.request)
                ));
            }
        }
        out.push_str(&format!(
            "{}: {} events asked again; requests newly denied {}, newly allowed {}, still denied {}, still allowed {}\n",
            self.profile,
            self.events,
            self.newly_denied.len(),
            self.newly_allowed.len(),
            self.still_denied,
            self.still_allowed
        ));
        for (why, count) in &self.not_asked {
            out.push_str(&format!("{count} events not asked again: {why}\n"));
        }
        if self.unreadable > 0 {
            out.push_str(&format!("{} lines are no events of this version\n", self.unreadable));
        }
        if self.beyond > 0 {
            out.push_str(&format!(
                "{} events left out: {MOST} different requests are kept apart\n",
                self.beyond
            ));
        }
        out
    }
}
