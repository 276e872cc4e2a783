//! End-to-end tests: the real binary as daemon and commands, a real agent process, a real Prometheus.
//!
//! Needs root. Everything happens in a network namespace and in cgroups of the tests' own. The agents are this very
//! program, called again with `--agent`, so that a virtual machine needs no other. Waits have predicates and
//! deadlines. `AGENT_MONITOR_BIN` names the binary under test; without it the tests say so and fail.

mod clients;
mod commands;
mod confined;
mod control;
mod daemon;
mod hello;
mod learning;
mod leases;
mod lifecycle;
mod metrics;
mod names;
mod network;
mod notices;
mod roaming;
mod survival;

use agent_monitor_tests::agent;
use agent_monitor_tests::netlink::{Netlink, index_of};
use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == agent::ARGUMENT) {
        std::process::exit(agent::main(&words[1..]));
    }
    let mut arguments = Arguments::from_args();
    // Daemons load programs for the whole machine; one at a time keeps the figures of each its own.
    arguments.test_threads = Some(1);
    if !arguments.list
        && let Err(error) = own_namespaces()
    {
        eprintln!("the end-to-end tests can't start: {error:#}");
        std::process::exit(1);
    }
    let trials = [
        commands::trials(),
        confined::trials(),
        network::trials(),
        names::trials(),
        clients::trials(),
        hello::trials(),
        roaming::trials(),
        control::trials(),
        notices::trials(),
        lifecycle::trials(),
        survival::trials(),
        leases::trials(),
        learning::trials(),
        metrics::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}

/// A network namespace with nothing but a loopback, so that every port is free and no packet leaves, and a mount
/// namespace, so that no mount of a test stays.
fn own_namespaces() -> Result<()> {
    // SAFETY: takes flags, touches no memory; no other thread runs yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        return Err(std::io::Error::last_os_error()).context("namespaces of its own (is this root?)");
    }
    let nothing = std::ptr::null();
    // SAFETY: a terminated path, and null where a change of propagation has nothing to say.
    if unsafe {
        libc::mount(nothing, c"/".as_ptr(), nothing, libc::MS_REC | libc::MS_PRIVATE, nothing.cast())
    } != 0
    {
        return Err(std::io::Error::last_os_error()).context("mounts of its own");
    }
    Netlink::open()?.up(index_of("lo")?)
}

/// A trial whose failure is the error's whole chain.
fn trial(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
}
