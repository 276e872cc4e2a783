//! `agent-monitor attach`: an agent from a process that runs already.

use std::process::ExitCode;

use super::{SocketArgs, print};
use crate::control::client::ask;
use crate::control::protocol::{Labelled, Op};

#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// The process; its descendants and the sockets they hold come with it
    #[arg(long, value_name = "PID")]
    pub pid: u32,
    /// Profile that governs it from now on
    #[arg(long, short, value_name = "NAME")]
    pub profile: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Attaches and prints the agent's id.
///
/// # Errors
/// When the daemon refuses.
pub fn run(args: &AttachArgs) -> anyhow::Result<ExitCode> {
    let op = Op::Attach { pid: args.pid, profile: args.profile.clone() };
    let labelled: Labelled = ask(&args.socket.socket, op).map_err(|error| error.into_exit())?;
    print(&format!("{}\n", labelled.agent))?;
    Ok(ExitCode::SUCCESS)
}
