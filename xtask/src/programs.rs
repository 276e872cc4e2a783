//! The programs that tests run, built by cargo, at the paths that cargo names. Called by `test` for this host and by `vm`
//! for the guests.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::places;

/// The product, as `cargo build` makes it.
pub fn product() -> Result<PathBuf> {
    executable(&["build", "--package", "agent-monitor"], "agent-monitor")
}

/// The kernel tests: one binary for this host and for guests.
pub fn kernel_tests() -> Result<PathBuf> {
    executable(&["test", "--package", "agent-monitor-tests", "--test", "kernel", "--no-run"], "kernel")
}

/// The kernel tests of the build whose helpers fail where a test says so.
pub fn fault_tests() -> Result<PathBuf> {
    let build = ["test", "--package", "agent-monitor-tests", "--features", "fault-injection"];
    executable(&[&build[..], &["--test", "kernel", "--no-run"]].concat(), "kernel")
}

/// The tests of the product as a service, for guests with systemd.
pub fn systemd_tests() -> Result<PathBuf> {
    executable(&["test", "--package", "agent-monitor-tests", "--test", "systemd", "--no-run"], "systemd")
}

/// The attacks on the shipped profiles, for guests with tools.
pub fn attack_tests() -> Result<PathBuf> {
    executable(&["test", "--package", "agent-monitor-tests", "--test", "attacks", "--no-run"], "attacks")
}

/// Runs cargo and returns where it put the executable of `target`.
fn executable(arguments: &[&str], target: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(places::workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("cargo did not start")?;
    ensure!(output.status.success(), "`cargo {}` failed ({})", arguments.join(" "), output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == target)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or_else(|| anyhow!("`cargo {}` built no executable `{target}`", arguments.join(" ")))
}
