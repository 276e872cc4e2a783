//! A developer's profile against attackers and against honest work: scenarios as scripts of real tools, run by
//! `agent-monitor run` under the real daemon, on a guest with a developer's machine in it.
//!
//! Run by `cargo xtask vm --attacks`, and so by `cargo xtask test`. It overwrites what a machine has, so it refuses to
//! run anywhere else. Attacks carry the ids `A01` … of the scenarios and have a twin each ([`attack`]); honest work
//! carries `B01` … ([`benign`]).
//!
//! The profile is the shipped `coding-agent` with the shipped `base`; `profiles/guest.yaml` only says where the guest's
//! workspace lies. Beside it is `profiles/guest-strict.yaml`, for what the shipped one leaves open: A11's `git config`,
//! for git must write its own configuration, and what that names runs later. With `--real-agent NAME` it is a real agent
//! that works and attacks ([`session`]), under its own profile; run by `cargo xtask e2e-agents`.

mod attack;
mod benign;
mod escape;
mod flood;
mod guest;
mod monitor;
mod persistence;
mod pids;
mod privilege;
mod programs;
mod secrets;
mod session;
mod sockets;

use std::path::Path;

use agent_monitor_tests::agent;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == agent::ARGUMENT) {
        std::process::exit(agent::main(&words[1..]));
    }
    let agent = match words.as_slice() {
        [option, name, ..] if option == "--real-agent" => match session::named(name) {
            Some(agent) => Some(agent),
            None => {
                eprintln!("no agent `{name}` is known here");
                std::process::exit(1);
            }
        },
        _ => None,
    };
    let skipped = if agent.is_some() { 3 } else { 1 };
    let all: Vec<String> = std::env::args().collect();
    let mut arguments = Arguments::from_iter(all.iter().take(1).chain(all.iter().skip(skipped)));
    // They share a home, a network and a daemon.
    arguments.test_threads = Some(1);
    let guest = std::env::var_os("AGENT_MONITOR_VM").is_some() && Path::new("/guest/program").is_file();
    if !arguments.list && !guest {
        eprintln!("these tests overwrite homes and system files: run them with `cargo xtask vm --attacks`");
        std::process::exit(1);
    }
    if !arguments.list
        && let Err(error) = guest::set_up(agent.map_or(guest::SHIPPED, |agent| agent.profile))
    {
        eprintln!("the stage can't be set: {error:#}\n{}", guest::log_tail());
        std::process::exit(1);
    }
    let trials = agent.map_or_else(attacks, session::trials);
    let conclusion = libtest_mimic::run(&arguments, trials);
    conclusion.exit();
}

fn attacks() -> Vec<Trial> {
    [
        attack::trials(secrets::ATTACKS),
        attack::trials(persistence::ATTACKS),
        attack::trials(programs::ATTACKS),
        attack::trials(escape::ATTACKS),
        attack::trials(privilege::ATTACKS),
        attack::trials(sockets::ATTACKS),
        benign::trials(),
        pids::trials(),
        flood::trials(),
        // Last: the twin leaves no monitor, and loading a new one takes an emulated machine a minute and more.
        attack::trials(monitor::ATTACKS),
    ]
    .into_iter()
    .flatten()
    .collect()
}
