//! `agent-monitor daemon`: the monitor itself, in the foreground.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::daemon;
use crate::exit::Failed;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub struct DaemonArgs {
    #[command(flatten)]
    pub settings: Settings,
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
