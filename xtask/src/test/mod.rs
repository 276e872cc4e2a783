//! `cargo xtask test`: everything that must hold before a change lands, with the set-up it takes. `.ci/run` is this.
//!
//! What must stay true: a step that fails does not stop the later ones, so that one run tells all there is to know; the
//! closing line is the sum of the tests that harnesses reported, plus one failure for a step that failed otherwise; the
//! exit status is 0 only if every step passed and tests were run at all.

pub mod tally;

use std::env;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, Need};
use crate::vm::Suite;
use crate::{command, places, programs, vm};
use tally::Tally;

/// Sets up, then runs every check and test: here, and in virtual machines.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Kernels to run the kernel tests on, with commas; `none` leaves the virtual machines out.
    #[arg(long, default_value = "6.1,6.12", value_name = "SERIES")]
    kernel: String,
}

/// One step that was taken.
struct Step {
    name: String,
    took: Duration,
    tally: Tally,
    error: Option<anyhow::Error>,
}

/// Runs all steps and returns the exit status.
pub fn run(arguments: &Arguments) -> Result<i32> {
    let mut steps = Vec::new();
    take(&mut steps, "set-up", |_| setup::run(Need::Test));
    // Nothing else can work, and each failure would only repeat this one.
    let ready = steps.iter().all(|step| step.error.is_none());
    if ready {
        take(&mut steps, "format", |_| cargo(&["fmt", "--all", "--check"]));
        take(&mut steps, "clippy", |_| {
            cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])
        });
        take(&mut steps, "unit tests", |tally| {
            counted(
                cargo_command(&["test", "--workspace", "--exclude", "agent-monitor-tests", "--no-fail-fast"]),
                tally,
            )
        });
        take(&mut steps, "tests on this host", |tally| counted(on_this_host()?, tally));
        if arguments.kernel != "none" {
            for series in arguments.kernel.split(',') {
                take(&mut steps, &format!("tests on linux {series}"), |tally| {
                    in_guest(series, Suite::Kernel, tally)
                });
            }
            // One kernel will do: which helper fails is the test's choice, not the kernel's, and the hooks that hold the
            // attacks are tried on each.
            if let Some(series) = arguments.kernel.split(',').next_back() {
                for (name, suite) in
                    [("failing helpers", Suite::Faults), ("attack scenarios", Suite::Attacks)]
                {
                    take(&mut steps, &format!("{name}, {series}"), |tally| in_guest(series, suite, tally));
                }
            }
        }
    }
    Ok(summary(&steps))
}

fn take(steps: &mut Vec<Step>, name: &str, step: impl FnOnce(&mut Tally) -> Result<()>) {
    eprintln!("\n=== {name}");
    let started = Instant::now();
    let mut tally = Tally::default();
    let error = step(&mut tally).err();
    if let Some(error) = &error {
        eprintln!("{name}: {error:#}");
    }
    steps.push(Step { name: name.to_owned(), took: started.elapsed(), tally, error });
}

fn in_guest(series: &str, suite: Suite, tally: &mut Tally) -> Result<()> {
    for report in vm::tests_on(series, suite)? {
        *tally += report.tally;
        let status = report.result?;
        ensure!(status == 0, "the guest's tests ended with status {status}");
    }
    ensure!(tally.passed > 0, "no test ran in the guest");
    Ok(())
}

fn summary(steps: &[Step]) -> i32 {
    for step in steps.iter().filter(|step| !step.tally.said.is_empty()) {
        println!("\n{}, what failed tests said:", step.name);
        step.tally.said.iter().for_each(|line| println!("  {line}"));
    }
    println!("\n{:<24} {:>8}   result", "step", "seconds");
    let mut sum = Tally::default();
    let mut good = true;
    for step in steps {
        let mut tally = step.tally.clone();
        if step.error.is_some() {
            good = false;
            // A compiler's error or a crashed harness is a failure that no harness counted.
            tally.failed = tally.failed.max(1);
        }
        let tests = if step.tally.passed + step.tally.failed > 0 {
            format!(": {}", step.tally)
        } else {
            String::new()
        };
        let result = if step.error.is_some() { "FAILED" } else { "ok" };
        println!("{:<24} {:>8.1}   {result}{tests}", step.name, step.took.as_secs_f32());
        sum += tally;
    }
    if sum.passed == 0 {
        good = false;
        println!("no test passed: something is wrong with this run");
    }
    println!("\n{sum}");
    i32::from(!good)
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(places::workspace()).stdin(Stdio::null());
    cargo
}

/// The tests that need a kernel and the built product. They find it by the same names as inside a guest.
fn on_this_host() -> Result<Command> {
    let mut cargo = cargo_command(&["test", "--package", "agent-monitor-tests", "--no-fail-fast"]);
    cargo.env("AGENT_MONITOR_BIN", programs::product()?);
    cargo.env("AGENT_MONITOR_POLICIES", places::workspace().join("policies"));
    // A real server and promtool for the end-to-end test; behind what the host has of its own.
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain([setup::prometheus_directory()?]);
    cargo.env("PATH", env::join_paths(places).context("PATH cannot be extended")?);
    Ok(cargo)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut cargo = cargo_command(arguments);
    let status = cargo.status().context("cargo did not start")?;
    ensure!(status.success(), "`{}` failed ({status})", command::typed(&cargo));
    Ok(())
}

/// Runs cargo with its output passed on as it comes, and counts the tests in it.
fn counted(mut cargo: Command, tally: &mut Tally) -> Result<()> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cargo did not start")?;
    let mut out = child.stdout.take().context("cargo has no output")?;
    let mut buffer = [0; 8192];
    loop {
        let length = out.read(&mut buffer).context("cargo's output cannot be read")?;
        if length == 0 {
            break;
        }
        tally.read(&buffer[..length]);
        io::stdout().write_all(&buffer[..length])?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed ({status})", command::typed(&cargo));
    }
    Ok(())
}
