//! `cargo xtask bench`: builds the benchmark in release and runs it; its table names each figure's target.

use std::process::Command;

use anyhow::{Context, Result};

use crate::places;
use crate::setup::{self, Need};

/// Measures what the monitor costs, as ratios in one run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these parts: operations (or the names of some), decide, files, names, events, storm; `rounds=N`: so many rounds of
    /// operations
    parts: Vec<String>,
}

/// Runs the benchmark; its own status.
pub fn run(arguments: &Arguments) -> Result<i32> {
    setup::run(Need::Build)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(&cargo)
        .args(["build", "--release", "--package", "agent-monitor"])
        .current_dir(places::workspace())
        .status()
        .context("cargo did not start")?;
    if !build.success() {
        return Ok(build.code().unwrap_or(1));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| places::workspace().join("target"), std::path::PathBuf::from);
    let status = Command::new(cargo)
        .args(["bench", "--package", "agent-monitor-tests", "--features", "bench", "--bench", "ratios", "--"])
        .args(&arguments.parts)
        .env("AGENT_MONITOR_BIN", target.join("release/agent-monitor"))
        .current_dir(places::workspace())
        .status()
        .context("cargo did not start")?;
    Ok(status.code().unwrap_or(1))
}
