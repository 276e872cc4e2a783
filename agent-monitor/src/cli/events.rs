//! `agent-monitor events`: what happened, from the file, or live from the daemon.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::{SocketArgs, colours, print};
use crate::control::client;
use crate::control::protocol::{Op, Status};
use crate::event::model::{Event, EventType, VerdictEffect};
use crate::event::show;
use crate::exit::{Exit, Failed};
use crate::settings::DEFAULT_EVENTS;
use crate::sink::follow::Filter;
use crate::sink::jsonl::numbered;

#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Show new events as they happen, from the daemon
    #[arg(long, short)]
    pub follow: bool,
    /// Print the JSON lines as they are
    #[arg(long)]
    pub json: bool,
    /// Only of this agent (ULID); may be given several times, as the other filters
    #[arg(long, value_name = "ID")]
    pub agent: Vec<String>,
    /// Only of agents of this profile
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Only with this verdict: allow, deny, would-deny, kill or would-kill
    #[arg(long, value_name = "VERDICT")]
    pub verdict: Vec<VerdictEffect>,
    /// Only of this type: network, socket, syscall, exec, fork, exit, agent.started, agent.ended, flow.cut, profile, loss
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<EventType>,
    /// Read this file [default: the running daemon's]
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Prints what passes the filters.
///
/// # Errors
/// When there is no daemon to follow or no file to read.
pub fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        agents: args.agent.clone(),
        profiles: args.profile.clone(),
        verdicts: args.verdict.clone(),
        types: args.types.clone(),
    };
    if args.follow {
        follow(args, filter)?;
    } else {
        read(args, &filter)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn follow(args: &EventsArgs, filter: Filter) -> anyhow::Result<()> {
    let op = Op::Events { filter };
    let mut connection = client::send(&args.socket.socket, op).map_err(|error| error.into_exit())?;
    connection.reply::<serde_json::Value>().map_err(|error| error.into_exit())?;
    for line in connection.lines().context("the daemon's events")? {
        // The daemon has filtered.
        if !show_line(&line.context("the daemon's events")?, args.json, None)? {
            break;
        }
    }
    Ok(())
}

fn read(args: &EventsArgs, filter: &Filter) -> anyhow::Result<()> {
    let path = match &args.file {
        Some(file) => file.clone(),
        None => daemons_file(&args.socket.socket),
    };
    let mut shown = false;
    for path in oldest_first(&path) {
        let file = match File::open(&path) {
            Ok(file) => file,
            // Rotated away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && shown => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let message = format!("can't read events from {}: {error}; run this as root", path.display());
                return Err(Failed::error(Exit::NotPermitted, message));
            }
            Err(error) => {
                return Err(
                    anyhow::Error::new(error).context(format!("can't read events from {}", path.display()))
                );
            }
        };
        shown = true;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| path.display().to_string())?;
            if !show_line(&line, args.json, Some(filter))? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The file of the running daemon; the default one where none answers.
fn daemons_file(socket: &Path) -> PathBuf {
    let status = client::ask::<Status>(socket, Op::Status).ok();
    status.and_then(|status| status.events_file).map_or_else(|| DEFAULT_EVENTS.into(), PathBuf::from)
}

/// The renamed files of an event file and itself.
fn oldest_first(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = (1..).map(|n| numbered(path, n)).take_while(|file| file.exists()).collect();
    files.reverse();
    files.push(path.to_owned());
    files
}

/// Prints one line if it passes; whether anybody still reads.
fn show_line(line: &str, json: bool, filter: Option<&Filter>) -> anyhow::Result<bool> {
    let event: Event<'static> = match serde_json::from_str(line) {
        Ok(event) => event,
        Err(error) => {
            eprintln!("agent-monitor: a line is no event of this version: {error}");
            return Ok(true);
        }
    };
    if filter.is_some_and(|filter| !filter.passes(&event)) {
        return Ok(true);
    }
    if json {
        return print(&format!("{line}\n"));
    }
    print(&format!("{}\n", show::line(&event, colours(&io::stdout()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_files_are_read_oldest_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        for n in [1, 2] {
            std::fs::write(numbered(&path, n), "").unwrap();
        }
        assert_eq!(oldest_first(&path), [numbered(&path, 2), numbered(&path, 1), path]);
    }
}
