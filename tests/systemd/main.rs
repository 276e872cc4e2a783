//! The product as systemd runs it: installed, started, reloaded, killed, stopped and uninstalled on a real Debian root.
//!
//! Run by `cargo xtask vm --systemd` in a guest whose process 1 is systemd. It installs for good, so it refuses to run
//! anywhere else. The trials are one story, told in order: each leaves the host as the next one wants it.

mod governing;
mod host;
mod keeping;
mod life;

use std::path::Path;

use agent_monitor_tests::agent;
use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == agent::ARGUMENT) {
        std::process::exit(agent::main(&words[1..]));
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let guest = std::env::var_os("AGENT_MONITOR_VM").is_some();
    if !arguments.list && (!guest || !Path::new("/run/systemd/system").is_dir()) {
        eprintln!("these tests install a service for good: run them with `cargo xtask vm --systemd`");
        std::process::exit(1);
    }
    let trials = [life::beginning(), governing::trials(), keeping::trials(), life::end()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}

/// A trial whose failure is the error's whole chain, and what the service said last.
fn trial(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| {
            format!("{error:#}\n--- the service's journal:\n{}", host::journal_tail()).into()
        })
    })
}
