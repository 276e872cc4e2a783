//! `agent-monitor run`: a command as an agent.
//!
//! The daemon labels this very process, which then becomes the command: exit status, signals, terminal and process id
//! are the command's own.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Context;

use super::SocketArgs;
use crate::agent::launch::{User, execute};
use crate::control::client::ask;
use crate::control::protocol::{Labelled, Op};

/// What shells answer for a command that can't be executed, and for one that does not exist.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Profile that governs the command
    #[arg(long, short, value_name = "NAME")]
    pub profile: String,
    /// Run the command as this user, by name or number [default: the caller]
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Becomes the command; returns where it can't.
///
/// # Errors
/// When the daemon refuses, or the user does not exist.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    // Looked up before the label: an agent may have no name service.
    let user = args.user.as_deref().map(User::find).transpose().context("--user")?;
    let op = Op::Run { profile: args.profile.clone() };
    let _labelled: Labelled = ask(&args.socket.socket, op).map_err(|error| error.into_exit())?;
    let error = execute(&args.command, user.as_ref());
    let program = args.command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    eprintln!("agent-monitor: {program}: {error}");
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }))
}
