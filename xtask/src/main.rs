//! `cargo xtask TASK`: builds, tests and measures agent-monitor. Only wires: each task is a module.

mod agents;
mod bench;
mod command;
mod demo;
mod places;
mod programs;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use setup::Need;

/// Sets up, tests and measures agent-monitor.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Installs what building and testing need and this host lacks.
    Setup {
        /// Leave out what only the tests need.
        #[arg(long)]
        build_only: bool,
    },
    /// Runs a small compromised agent, without the monitor and under it, and shows what happened.
    Demo,
    /// The agent of the demo.
    #[command(hide = true)]
    CompromisedAgent,
    Bench(bench::Arguments),
    Test(test::Arguments),
    Vm(vm::Arguments),
    E2eAgents(agents::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup { build_only } => {
            setup::run(if build_only { Need::Build } else { Need::Test }).map(|()| 0)
        }
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Demo => demo::run(),
        Task::CompromisedAgent => demo::compromised(),
        Task::Test(arguments) => test::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::E2eAgents(arguments) => agents::run(&arguments),
    };
    exit_code(result)
}

/// A program's own exit status passes through; an error of ours is 1, with one line that says what to do.
fn exit_code(result: Result<i32>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
