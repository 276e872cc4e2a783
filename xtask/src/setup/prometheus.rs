//! A real Prometheus server and `promtool` for the end-to-end test. Called by [`super::run`], which the test's
//! environment follows (`xtask test` puts the directory on its PATH).
//!
//! What must stay true: the host gets no service, user or file outside the cache, so the package is unpacked, never
//! installed (Debian's starts the server at once).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::{command, places};

/// The directory that holds `prometheus` and `promtool`.
pub fn directory() -> Result<PathBuf> {
    Ok(places::cache()?.join("prometheus/usr/bin"))
}

pub fn install() -> Result<()> {
    if directory()?.join("promtool").is_file() {
        return Ok(());
    }
    eprintln!(
        "Prometheus is missing: a test has it scrape the daemon. It is unpacked into the cache, not installed."
    );
    let root = places::cache()?.join("prometheus");
    let partial = places::cache()?.join("prometheus.partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let download = |log: &str| -> Result<()> {
        let mut apt = Command::new("apt-get");
        // The sandbox user can't write below root's home.
        apt.args(["-o", "APT::Sandbox::User=root", "download", "prometheus"]).current_dir(&partial);
        command::long(&mut apt, &places::cache()?.join(log))
    };
    if download("prometheus.log").is_err() {
        eprintln!("  trying once more with fresh package lists (apt-get update)");
        command::long(Command::new("apt-get").arg("update"), &places::cache()?.join("apt-update.log"))?;
        download("prometheus.log")?;
    }
    let package = fs::read_dir(&partial)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| anyhow!("apt-get download left no package in {}", partial.display()))?;
    command::output(Command::new("dpkg").arg("-x").arg(&package).arg(&partial))?;
    fs::remove_file(&package)?;
    let _ = fs::remove_dir_all(&root);
    fs::rename(&partial, &root).with_context(|| format!("cannot move {} into place", root.display()))?;
    Ok(())
}
