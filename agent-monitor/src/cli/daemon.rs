//! `agent-monitor daemon`: the monitor itself, in the foreground; `--detach`: the end of what it pinned.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::print;
use crate::control::client::{ClientError, ask};
use crate::control::protocol::Op;
use crate::daemon;
use crate::exit::{Exit, Failed};
use crate::kernel::{self, Detached, PinError};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub struct DaemonArgs {
    #[command(flatten)]
    pub settings: Settings,
    /// End the running daemon, if there is one, and take away what is pinned: no agent is governed any more
    #[arg(long)]
    pub detach: bool,
    /// What to log: a level, or a filter such as `agent_monitor=debug`
    #[arg(long, value_name = "FILTER", env = "AGENT_MONITOR_LOG", default_value = "info")]
    pub log: String,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the daemon does not come up, with the exit code that says why.
pub fn run(args: DaemonArgs) -> anyhow::Result<ExitCode> {
    if args.detach {
        return detach(&args.settings);
    }
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("--log {:?}", args.log))?;
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match args.log_json {
        true => log.json().init(),
        false => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    // One thread serves the few clients; what waits for the kernel runs on blocking threads, events on their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build()
        .context("the runtime can't be made")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be waited for")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be waited for")?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        daemon::run(args.settings, shutdown).await.map_err(|error| {
            let exit = error.exit();
            Failed::error(exit, error.to_string())
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The pins are gone, the programs are not.
pub fn held(programs: usize, directory: &Path) -> anyhow::Error {
    let words = format!(
        "removed what was pinned in {}, but {programs} of its programs are in force still: another process holds them\nnext: end what else manages BPF programs (`bpftool prog show` names who holds one)",
        directory.display()
    );
    Failed::error(Exit::Failure, words)
}

/// How long a daemon may take to end: it drains the rings.
const END: Duration = Duration::from_secs(20);

/// Ends the daemon and unpins. An end by a signal leaves everything in force; this is the word that does not.
fn detach(settings: &Settings) -> anyhow::Result<ExitCode> {
    match ask::<serde_json::Value>(&settings.socket, Op::Stop) {
        Ok(_) => drop(print("the daemon ends\n")?),
        // Nobody listens; or it ended before it had answered, and whether it did is seen below.
        Err(ClientError::Connect { .. } | ClientError::Io(_)) => {}
        Err(error) => return Err(error.into_exit()),
    }
    let directory = settings.pin_directory();
    let deadline = Instant::now() + END;
    let found = loop {
        match kernel::detach(directory) {
            Err(PinError::Held(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50))
            }
            Err(error @ PinError::Io { .. }) => {
                return Err(Failed::error(Exit::NotPermitted, format!("{error}; run this as root")));
            }
            found => break found?,
        }
    };
    print(&match found {
        Detached::All => {
            format!("removed what was pinned in {}: no agent is governed\n", directory.display())
        }
        Detached::Held(programs) => return Err(held(programs, directory)),
        Detached::Nothing => format!("nothing is pinned in {}\n", directory.display()),
    })?;
    Ok(ExitCode::SUCCESS)
}
