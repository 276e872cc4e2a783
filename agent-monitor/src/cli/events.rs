//! `agent-monitor events`: what happened, from the file, or live from the daemon.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::{SocketArgs, colours, event_files, print, profile};
use crate::control::client;
use crate::control::protocol::Op;
use crate::event::model::{Event, EventType, VerdictEffect};
use crate::event::show;
use crate::sink::follow::Filter;

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
    /// Only of this type: network, dns, socket, file, unix, privilege, syscall, exec, fork, exit, agent.started, agent.ended, flow.cut, profile, loss
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
        None => event_files::of_daemon(profile::daemon(&args.socket.socket).as_ref()),
    };
    event_files::lines(&path, |line| show_line(line, args.json, Some(filter)))
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
