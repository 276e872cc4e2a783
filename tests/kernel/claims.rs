//! Exec claims: a process becomes an agent by what it executes, in the kernel, before its first instruction.

use std::fs;

use agent_monitor::policy::compile;
use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::Hook;
use agent_monitor_common::label::LabelOrigin;
use agent_monitor_tests::monitor::{SLOT, image};
use agent_monitor_tests::{Attempt, Body, Child, Failure};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::lab::{Lab, PROFILE};
use crate::process::call_from_a_new_image;
use crate::{attack, kernel_maps};

pub fn trials() -> Vec<Trial> {
    attack::checked_pair("L3_claimed_executable", claimed, unclaimed).into()
}

/// The slot of the profile that claims. The one before it has another profile, which grants what is tried.
const CLAIMING: u32 = SLOT + 1;

/// Puts a claim of `glob` in force for the time of `body`.
fn with_claim(lab: &mut Lab, glob: String, body: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let claims = compile::claims(&[(CLAIMING, glob)])?;
    let monitor = lab.monitor()?;
    monitor.install(&PROFILE.replace("10.9.0.3/32", "10.9.0.0/24"))?;
    monitor.kernel.install(CLAIMING, &image(PROFILE)?.words)?;
    monitor.kernel.install_claims(&claims.image.words)?;
    let result = body(lab);
    let kernel = &mut lab.monitor()?.kernel;
    kernel.remove_claims()?;
    kernel.uninstall(CLAIMING)?;
    result
}

/// A process without a label executes this binary, which calls out.
fn execute(lab: &mut Lab) -> Result<Attempt> {
    let (monitor, world) = lab.parts()?;
    monitor.drain(Ring::Activity)?;
    monitor.drain(Ring::Verdicts)?;
    world.wire.clear()?;
    Child::spawn(&world.agents, |_| call_from_a_new_image())?.finish()
}

fn claimed(lab: &mut Lab) -> Result<()> {
    let own = fs::read_link("/proc/self/exe")?;
    let directory = own.parent().context("the binary lies in no directory")?.display().to_string();
    // In a virtual machine it lies in the root.
    with_claim(lab, format!("{}/*", directory.trim_end_matches('/')), |lab| {
        let attempt = execute(lab)?;
        ensure!(attempt == Err(Failure::new("connect", libc::ENETUNREACH)), "{attempt:?}");
        let (monitor, world) = lab.parts()?;
        ensure!(!world.wire.packets()?.iter().any(attack::ungranted), "it left");
        let exec = monitor.wait_for(
            Ring::Activity,
            "the claim",
            |r| matches!(&r.body, Body::Exec { body, .. } if body.claimed == 1),
        )?;
        let agent = exec.header.agent;
        monitor.wait_for(Ring::Verdicts, "the denial", |r| {
            r.header.agent == agent && r.denies() && r.hook() == Some(Hook::Connect4)
        })?;
        let state = monitor.kernel.agent(agent).context("the agent is in no table")?;
        ensure!(
            state.origin == LabelOrigin::Exec.code()
                && state.profile == CLAIMING
                && state.live == 0
                && state.denied == 1,
            "{state:?}"
        );
        ensure!(!monitor.kernel.is_labelled(exec.header.tgid), "the label outlived the process");
        monitor.kernel.remove_agent(agent);
        without_room(lab)
    })
}

/// The claimed process finds no room for its label: it is denied all the same, and no agent without a process stays.
fn without_room(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    let agents = monitor.kernel.agents().len();
    let filler = kernel_maps::Filler::fill(kernel_maps::of_cgroup(&world.agents, "LABELS")?)?;
    let attempt = execute(lab)?;
    drop(filler);
    ensure!(attempt.is_err(), "a claimed process without its label reached the network");
    let (monitor, world) = lab.parts()?;
    ensure!(!world.wire.packets()?.iter().any(attack::ungranted), "it left");
    let left = monitor.kernel.agents();
    ensure!(left.len() == agents, "an agent without a process stays: {left:?}");
    Ok(())
}

fn unclaimed(lab: &mut Lab) -> Result<()> {
    with_claim(lab, "/nowhere/**".to_owned(), |lab| {
        execute(lab)?.context("a process that nobody claims was denied")?;
        ensure!(lab.world.wire.packets()?.iter().any(attack::ungranted), "nothing left");
        Ok(())
    })
}
