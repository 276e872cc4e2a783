//! What runs inside the guests: the kernel tests and the product, built by cargo for this host. Called by [`super::run`]
//! once for all kernels.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::places;

pub struct Programs {
    pub test: PathBuf,
    /// The `agent-monitor` binary; absent only when a program was named on the command line and none was built.
    pub product: Option<PathBuf>,
}

/// Builds the kernel tests and the product.
pub fn build() -> Result<Programs> {
    let test =
        executable(&["test", "--package", "agent-monitor-tests", "--test", "kernel", "--no-run"], "kernel")?;
    let product = executable(&["build", "--package", "agent-monitor"], "agent-monitor")?;
    Ok(Programs { test, product: Some(product) })
}

/// A program named on the command line instead of the kernel tests, with the product if it is built already.
pub fn named(program: &Path) -> Result<Programs> {
    ensure!(program.is_file(), "{} is no file", program.display());
    let product = executable(&["build", "--package", "agent-monitor"], "agent-monitor").ok();
    Ok(Programs { test: program.to_owned(), product })
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
