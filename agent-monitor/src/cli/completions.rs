//! `agent-monitor completions`: for shells.

use std::process::ExitCode;

use clap::CommandFactory;

use super::{Arguments, print};

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Prints the shell's completion script.
///
/// # Errors
/// When standard output can't be written.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "agent-monitor", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
