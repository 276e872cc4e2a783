//! The kernel tests: attacks on the enforcement of network and files, each beside its twin with enforcement off.
//!
//! One binary for the host and for virtual machines; it needs root and a kernel with BTF, and touches only network
//! namespaces and cgroups of its own. Names carry the id of the bypass catalogue (`N5_…`, `L3_…`); `catalogue` holds them
//! to it. Tests fork, so they run one at a time on the main thread.

#![cfg_attr(
    feature = "fault-injection",
    allow(dead_code, reason = "that build registers the trials of failing helpers only")
)]

mod attack;
mod beginnings;
mod catalogue;
mod cgroup_programs;
mod claims;
mod differential;
#[cfg(feature = "fault-injection")]
mod faults;
mod files;
mod grants;
mod inherited;
mod kernel_maps;
mod lab;
mod landlock;
mod leases;
mod listen;
mod loading;
mod lost;
mod marks;
mod moved;
mod network_out;
mod objects;
mod outside;
mod pinned;
mod powers;
mod privileges;
mod process;
mod programs;
mod protected;
mod shared;
mod sockets;
mod source_routing;
mod survival;
mod telemetry;
mod tried_out;
mod unix;

use agent_monitor_tests::program;
use libtest_mimic::{Arguments, Trial};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(process::IMAGE_ARGUMENT) {
        std::process::exit(process::image_main());
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == program::ARGUMENT => std::process::exit(program::main(rest)),
        // The kernel puts the script's name before the words.
        Some((first, [_, _, rest @ ..])) if first == programs::OF_SCRIPT => {
            std::process::exit(program::main(rest))
        }
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    // Forking asks for one thread; `--test-threads` would only make the children's memory a lottery.
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials());
    lab::close();
    conclusion.exit();
}

/// In the build whose helpers fail, what follows from that, and nothing else.
#[cfg(feature = "fault-injection")]
fn trials() -> Vec<Trial> {
    faults::trials()
}

#[cfg(not(feature = "fault-injection"))]
fn trials() -> Vec<Trial> {
    let attacks = [
        network_out::attacks(),
        sockets::attacks(),
        source_routing::attacks(),
        inherited::attacks(),
        listen::attacks(),
        process::attacks(),
    ];
    let mut trials: Vec<Trial> = attacks.into_iter().flatten().flat_map(attack::trials).collect();
    let others = [
        inherited::trials(),
        shared::trials(),
        listen::trials(),
        loading::trials(),
        lost::trials(),
        process::trials(),
        claims::trials(),
        cgroup_programs::trials(),
        grants::trials(),
        telemetry::trials(),
        tried_out::trials(),
        differential::trials(),
        files::trials(),
        privileges::trials(),
        powers::trials(),
        landlock::trials(),
        leases::trials(),
        programs::trials(),
        objects::trials(),
        outside::trials(),
        marks::trials(),
        moved::trials(),
        beginnings::trials(),
        pinned::trials(),
        survival::trials(),
        unix::trials(),
        protected::trials(),
    ];
    trials.extend(others.into_iter().flatten());
    trials.extend(catalogue::trials(&trials));
    trials
}
