//! An attack, what it does with enforcement off, and what must become of it with enforcement on.

use agent_monitor_tests::wire::Packet;
use agent_monitor_tests::world::{GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Child, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::lab::{self, Lab};

/// One way round.
#[derive(Clone, Copy)]
pub struct Attack {
    /// Catalogue id and what it does: `N5_udp4_sendto`.
    pub name: &'static str,
    /// The attack. What it does before its first [`Stage::pause`] happens before the process is an agent.
    pub run: fn(&mut Stage) -> Attempt,
    /// With enforcement off.
    pub off: Off,
}

/// What an attack achieves with enforcement off: without this the denial would prove nothing.
#[derive(Clone, Copy, Debug)]
pub enum Off {
    /// It ends well and something that carries data or a SYN reaches an ungranted address.
    Leaves,
    /// It ends well and something passes the agent's own loopback.
    Loopback,
    /// It ends well; no packet is its aim.
    Succeeds,
    /// The kernel itself refuses it, on every kernel: recorded, so that a kernel that changes this is seen.
    RefusedByKernel(&'static [i32]),
}

/// The tests of an attack.
pub fn trials(attack: Attack) -> Vec<Trial> {
    let name = format!("{}::succeeds_with_enforcement_off", attack.name);
    vec![Trial::ignorable_test(name, move || {
        Ok(lab::with(|lab| twin(lab, &attack)).map_err(|e| format!("{e:#}"))?)
    })]
}

/// Whether a packet goes where the tests' profile lets nothing go.
pub fn ungranted(packet: &Packet) -> bool {
    packet.to != GRANTED4 && packet.to != GRANTED6
}

/// Runs the attack where no program is attached.
fn twin(lab: &mut Lab, attack: &Attack) -> Result<Completion> {
    let run = attack.run;
    let mut child = Child::spawn(&lab.world.outside, run)?;
    child.paused()?;
    lab.world.wire.clear()?;
    lab.world.loopback.clear()?;
    child.go_on()?;
    let attempt = child.finish()?;
    let (left, looped) = (lab.world.wire.packets()?, lab.world.loopback.packets()?);
    if let Err(failure) = &attempt
        && failure.is_absence()
    {
        return Ok(Completion::ignored_with(format!("absent here: {failure}")));
    }
    judge_twin(attack.off, &attempt, &left, &looped).with_context(|| {
        let wire: Vec<String> = left.iter().chain(&looped).map(Packet::to_string).collect();
        format!("attempt {attempt:?}; wire {wire:?}")
    })?;
    Ok(Completion::Completed)
}

fn judge_twin(off: Off, attempt: &Attempt, left: &[Packet], looped: &[Packet]) -> Result<()> {
    let leaves = left.iter().any(ungranted);
    let errno = attempt.as_ref().err().map_or(0, |f| f.errno);
    match off {
        Off::RefusedByKernel(errnos) => {
            ensure!(errnos.contains(&errno), "the kernel does not refuse this any more: make it an attack");
            ensure!(!leaves, "the kernel refuses it and something left all the same");
            return Ok(());
        }
        Off::Leaves | Off::Loopback | Off::Succeeds => {
            if let Err(failure) = attempt {
                bail!("failed with enforcement off: {failure}");
            }
        }
    }
    match off {
        Off::Leaves => ensure!(leaves, "nothing left with enforcement off"),
        Off::Loopback => ensure!(!looped.is_empty(), "nothing passed the loopback with enforcement off"),
        Off::Succeeds | Off::RefusedByKernel(_) => {}
    }
    Ok(())
}
