//! The commands of `agent-monitor`, one file each.
//!
//! A file holds the command's arguments and a `run` that turns them into an exit code; what a command does is in the
//! library beside it. What must stay true: exit codes are those of `exit`, whatever goes wrong where.

mod annotate;
pub mod attach;
pub mod blast_radius;
pub mod check;
pub mod completions;
pub mod daemon;
pub mod diff;
pub mod doctor;
mod enforcement;
mod event_files;
pub mod events;
pub mod explain;
mod explanation;
pub mod init;
pub mod install;
pub mod learn;
pub mod notices;
mod profile;
mod recording;
pub mod reload;
pub mod run;
pub mod schema;
mod scratch;
pub mod simulate;
pub mod status;
mod summary;
mod table;
pub mod test;
pub mod unused;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{Exit, code_of};
use crate::settings::DEFAULT_SOCKET;

/// Governs AI agents from below: eBPF sees every process and network path of an agent's tree, and what its profile
/// does not grant does not exist for it.
#[derive(Debug, Parser)]
#[command(
    name = "agent-monitor",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 failure, 64 usage, 65 bad profile, 69 this kernel can't enforce, 77 not permitted."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the monitor in the foreground
    Daemon(daemon::DaemonArgs),
    /// Run a command as an agent under a profile
    Run(run::RunArgs),
    /// Make an agent of a running process and its descendants
    Attach(attach::AttachArgs),
    /// Find the AI agents of this host and propose profiles for them
    Init(init::InitArgs),
    /// Check profiles without a daemon
    Check(check::CheckArgs),
    /// Say what this host can enforce, and what to change where it can't
    Doctor(doctor::DoctorArgs),
    /// Show the daemon, its profiles and its agents
    Status(status::StatusArgs),
    /// For agents: print what the monitor denied to the agent that asks, since it asked last
    Notices(notices::NoticesArgs),
    /// Show events: those in the file, or live ones
    Events(events::EventsArgs),
    /// Say what a profile does about a request or an event, why, and what would change it
    Explain(explain::ExplainArgs),
    /// Write a least-agency profile from what an agent does
    Learn(learn::LearnArgs),
    /// Ask a profile what its test cases expect
    Test(test::TestArgs),
    /// Compare what two profiles allow; exit code 1 if the new one allows more
    Diff(diff::DiffArgs),
    /// List grants that recorded activity never exercised, with a patch that takes them out
    Unused(unused::UnusedArgs),
    /// Say what a compromised agent could reach, with a score and a picture
    BlastRadius(blast_radius::BlastRadiusArgs),
    /// Ask what would become of recorded events under another profile
    Simulate(simulate::SimulateArgs),
    /// Put changed profiles in force
    Reload(reload::ReloadArgs),
    /// Print the JSON schema of profiles, for editors, of test cases, or of events
    Schema(schema::SchemaArgs),
    /// Print shell completions
    Completions(completions::CompletionsArgs),
    /// Install the binary, the systemd unit and the shipped profiles
    Install(install::InstallArgs),
    /// Take away what `install` installed
    Uninstall(install::UninstallArgs),
}

/// How a command finds the daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct SocketArgs {
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", env = "AGENT_MONITOR_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Parses the command line and runs its verb.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // What can't be printed can't be complained about either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let done = match arguments.verb {
        Verb::Daemon(args) => daemon::run(args),
        Verb::Run(args) => run::run(&args),
        Verb::Attach(args) => attach::run(&args),
        Verb::Init(args) => init::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Notices(args) => notices::run(&args),
        Verb::Events(args) => events::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Learn(args) => learn::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Diff(args) => diff::run(&args),
        Verb::BlastRadius(args) => blast_radius::run(&args),
        Verb::Unused(args) => unused::run(&args),
        Verb::Simulate(args) => simulate::run(&args),
        Verb::Reload(args) => reload::run(&args),
        Verb::Schema(args) => schema::run(&args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Install(args) => install::run(&args),
        Verb::Uninstall(args) => install::run_uninstall(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("agent-monitor: {error:#}");
        code_of(&error).into()
    })
}

/// Whether to colour what goes to this stream.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes to standard output. Whether anybody still reads: `agent-monitor events | head` is no failure.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::Error::new(error).context("can't write to standard output")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
