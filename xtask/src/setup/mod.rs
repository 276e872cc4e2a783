//! `cargo xtask setup`: puts on this host what building and testing need and what is missing, and nothing else.
//! `demo`, `test` and `vm` call [`run`] first.
//!
//! What must stay true: it says what it installs and why before it does; with everything there it changes nothing and
//! takes a fraction of a second; it asks only a person at a terminal; no service is started; every error names the
//! next step.

mod linker;
mod packages;
mod prometheus;

use std::io::{self, IsTerminal, Write};

use anyhow::{Result, bail};

use crate::places;
pub use prometheus::directory as prometheus_directory;

/// What the caller is about to do: a demo has no use for virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Build the workspace, its eBPF programs included, and run the daemon.
    Build,
    /// All of it, and run every test.
    Test,
}

/// Installs what is missing.
pub fn run(need: Need) -> Result<()> {
    let _lock = places::lock_cache()?;
    packages::install(need)?;
    linker::install()?;
    if need == Need::Test {
        prometheus::install()?;
    }
    Ok(())
}

/// Asks a person at a terminal; elsewhere the answer is yes, because what follows was announced.
fn agreed() -> Result<()> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    eprint!("Go on? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "" | "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was installed; run `cargo xtask setup` when you want it"),
    }
}
