//! `agent-monitor unused`: which grants of a profile did recorded activity never exercise?

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::profile::{self, BasesArgs};
use super::{SocketArgs, event_files, print, table};
use crate::event::model::Event;
use crate::policy::diagnostic::printable;
use crate::policy::unused::{Usage, patch};

#[derive(Debug, clap::Args)]
pub struct UnusedArgs {
    /// The profile, by file or name
    #[arg(value_name = "PROFILE")]
    pub profile: String,
    /// Recorded events, with the files they were renamed to [default: those of the running daemon]
    #[arg(value_name = "EVENTS")]
    pub events: Option<PathBuf>,
    /// Only events of this long: `30d`, `12h`, `45m` [default: all]
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Duration>,
    /// Print a patch that takes them out, for `patch -p0`
    #[arg(long, conflicts_with = "json")]
    pub patch: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// A number and a unit.
fn since(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as `30d`, `12h` or `45m`");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Prints the grants that nothing exercised.
///
/// # Errors
/// A profile or events that can't be read.
pub fn run(args: &UnusedArgs) -> anyhow::Result<ExitCode> {
    let daemon = profile::daemon(&args.socket.socket);
    let judge = args.bases.judge(&args.profile, daemon.as_ref())?;
    let file = args.events.clone().unwrap_or_else(|| event_files::of_daemon(daemon.as_ref()));
    let name = judge.profile().name.clone();
    let from = match args.since {
        Some(since) => Some(Timestamp::now().checked_sub(SignedDuration::try_from(since)?)?),
        None => None,
    };
    let mut usage = Usage::new(&judge);
    event_files::lines(&file, |line| {
        if let Ok(event) = serde_json::from_str::<Event<'static>>(line)
            && from.is_none_or(|from| event.time.0 >= from)
            && event.agent.as_ref().is_none_or(|agent| agent.profile == name)
        {
            usage.event(&event)?;
        }
        Ok(true)
    })?;
    let unused = usage.unused();
    let (text, left) = patch(&unused);
    if args.patch {
        print(&text)?;
        for rule in left {
            eprintln!(
                "agent-monitor: {} ({}) at {} shares its line or its list: take it out by hand",
                rule.id,
                printable(&rule.what),
                rule.source
            );
        }
    } else if args.json {
        let rows = unused.iter().map(|rule| Row {
            rule: &rule.id,
            source: rule.source.to_string(),
            grants: &rule.what,
        });
        let rows: Vec<_> = rows.collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&rows).context("JSON")?))?;
    } else {
        let rows: Vec<_> = unused
            .iter()
            .map(|rule| vec![rule.id.to_string(), printable(&rule.what), rule.source.to_string()])
            .collect();
        print(&table::render(&rows))?;
        let of = usage.grants();
        print(&format!(
            "{name}: {} of {of} grants were not exercised by {} allowed requests\n",
            unused.len(),
            usage.requests
        ))?;
    }
    caveats(&usage, from);
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Row<'r> {
    rule: &'r str,
    source: String,
    grants: &'r str,
}

/// What the outcome rests on.
fn caveats(usage: &Usage<'_>, from: Option<Timestamp>) {
    match usage.span {
        None => {
            eprintln!("agent-monitor: there are no events of this profile: nothing is known of its grants")
        }
        Some((first, last)) => {
            let day = |time: Timestamp| time.to_string().get(..16).unwrap_or_default().replace('T', " ");
            eprintln!("agent-monitor: events from {} to {}", day(first), day(last));
            if from.is_some_and(|from| first > from) {
                eprintln!("agent-monitor: they do not reach back as far as --since asks");
            }
        }
    }
    if usage.lost > 0 {
        eprintln!("agent-monitor: {} events were lost, and a use may be among them", usage.lost);
    }
    if usage.span.is_some() && !usage.lsm {
        eprintln!(
            "agent-monitor: no event comes from BPF LSM: what it alone judges (files, programs, Unix sockets, \
             privileges, sockets of other families than IP) may be used without a word"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(since("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(since("45m"), Ok(Duration::from_secs(2_700)));
        for wrong in ["", "d", "30", "1.5h", "-1d", "1w", "99999999999999999999d", "9é"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
