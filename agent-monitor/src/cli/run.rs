//! `agent-monitor run`: a command as an agent.
//!
//! The daemon labels this very process, which then becomes the command: exit status, signals, terminal and process id
//! are the command's own. Where the kernel can't enforce the profile, this process makes Landlock and seccomp rules of
//! it before the label and puts them in force before it becomes the command.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Context;

use super::SocketArgs;
use crate::agent::confine::{self, Confinement};
use crate::agent::launch::{User, execute};
use crate::control::client::{ClientError, ask};
use crate::control::protocol::{Code, Enforcement, Labelled, Op};
use crate::exit::{Exit, Failed};

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
    /// Where this kernel can't enforce the profile itself, let Landlock and seccomp stand in as far as they go; what
    /// they can't do is said on standard error
    #[arg(long, env = "AGENT_MONITOR_ALLOW_DEGRADED")]
    pub allow_degraded: bool,
    /// Restrict the command by Landlock and seccomp also where the kernel enforces the profile itself
    #[arg(long)]
    pub landlock: bool,
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
    let (labelled, confinement) = label(args, user.as_ref())?;
    let error = execute(&args.command, user.as_ref(), confinement, labelled.notices.as_deref());
    let program = args.command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    eprintln!("agent-monitor: {program}: {error}");
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }))
}

/// Times that a profile may change between the question and the label.
const ATTEMPTS: u32 = 3;

/// Has this process labelled, as one that may become the user; the rules that it has to put in force then.
fn label(args: &RunArgs, user: Option<&User>) -> anyhow::Result<(Labelled, Option<Confinement>)> {
    if let Some(user) = user {
        user.prepare().map_err(|error| Failed::error(Exit::NotPermitted, error.to_string()))?;
    }
    let ask_to_run = |confined| {
        let op = Op::Run { profile: args.profile.clone(), confined };
        ask::<Labelled>(&args.socket.socket, op)
    };
    if !args.allow_degraded && !args.landlock {
        return Ok((ask_to_run(None).map_err(ClientError::into_exit)?, None));
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        let op = Op::Enforcement { profile: args.profile.clone() };
        let enforcement: Enforcement = ask(&args.socket.socket, op).map_err(ClientError::into_exit)?;
        let confinement = confinement(args, &enforcement)?;
        match ask_to_run(confinement.as_ref().map(|_| enforcement.generation)) {
            Ok(labelled) => return Ok((labelled, confinement)),
            Err(ClientError::Refused(refusal)) if refusal.code == Code::Changed && attempt < ATTEMPTS => {}
            Err(error) => return Err(error.into_exit()),
        }
    }
}

/// The rules for a profile, where the kernel leaves something to them or the person at the terminal asks for them.
fn confinement(args: &RunArgs, enforcement: &Enforcement) -> anyhow::Result<Option<Confinement>> {
    if enforcement.image.is_empty() || !args.landlock && enforcement.gaps.is_empty() {
        return Ok(None);
    }
    let confinement = confine::prepare(&enforcement.image)
        .map_err(|error| Failed::error(Exit::CannotEnforce, error.to_string()))?;
    for line in confinement.describe() {
        eprintln!("agent-monitor: {line}");
    }
    Ok(Some(confinement))
}
