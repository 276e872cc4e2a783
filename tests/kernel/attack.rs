//! An attack, what it does with enforcement off, and what must become of it with enforcement on.

use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::wire::Packet;
use agent_monitor_tests::world::{GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::catalogue::{ATTACK, REFUSED, REFUSED_TWIN, TWIN};
use crate::lab::{self, Lab, PROFILE, Place, Run};

/// One way round.
#[derive(Clone, Copy)]
pub struct Attack {
    /// Catalogue id and what it does: `N5_udp4_sendto`.
    pub name: &'static str,
    /// The attack. What it does before its first [`Stage::pause`] happens before the process is an agent.
    pub run: fn(&mut Stage) -> Attempt,
    /// With enforcement off.
    pub off: Off,
    /// With enforcement on.
    pub on: On,
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

/// What must become of it with enforcement on. In every case nothing ungranted is on the wire, and nothing on the
/// loopback.
#[derive(Clone, Copy, Debug)]
pub enum On {
    /// The call fails with this errno; one denial is counted and recorded by this hook.
    Refused(i32, Hook),
    /// As `Refused`, by an LSM program: where the kernel does not run those, posture says so and the attack is blind.
    RefusedByLsm(i32, Hook, &'static str),
    /// Part of it is granted and goes; then one denial by this hook.
    Partly(Hook),
    /// As `Partly`, by an LSM program; blind without it.
    PartlyByLsm(Hook, &'static str),
    /// The packet is dropped in egress for this reason; the call may not notice.
    Dropped(Reason),
    /// As `Dropped`, once this LSM program has labelled the socket; blind without it.
    DroppedAfterLsm(Reason, &'static str),
    /// What the kernel refuses anyhow.
    RefusedByKernel,
}

/// The tests of an attack.
pub fn trials(attack: Attack) -> Vec<Trial> {
    let (attacked, free) = match attack.off {
        Off::RefusedByKernel(_) => (REFUSED, REFUSED_TWIN),
        _ => (ATTACK, TWIN),
    };
    vec![
        lab::test(format!("{}{free}", attack.name), move |lab| twin(lab, &attack)),
        lab::test(format!("{}{attacked}", attack.name), move |lab| denied(lab, Place::Governed, &attack)),
    ]
}

/// The tests of an attack by an agent elsewhere, under another name.
pub fn trials_at(place: Place, name: &str, attack: Attack) -> [Trial; 2] {
    pair(name, move |lab| denied(lab, place, &attack), move |lab| twin(lab, &attack).map(drop))
}

/// An attack whose two sides each need a stage of their own: `<name>::is_denied` and its twin.
pub fn pair(
    name: &str,
    denied: impl FnOnce(&mut Lab) -> Result<Completion> + Send + 'static,
    twin: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static,
) -> [Trial; 2] {
    [lab::check(format!("{name}{TWIN}"), twin), lab::test(format!("{name}{ATTACK}"), denied)]
}

/// As [`pair`], for what every kernel of these tests can deny.
pub fn checked_pair(
    name: &str,
    denied: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static,
    twin: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static,
) -> [Trial; 2] {
    pair(name, |lab| denied(lab).map(|()| Completion::Completed), twin)
}

/// Whether a packet goes where the tests' profile lets nothing go.
pub fn ungranted(packet: &Packet) -> bool {
    packet.to != GRANTED4 && packet.to != GRANTED6
}

/// The reason for which an attack can't be tried on this kernel.
fn absence(run: &Run) -> Option<Completion> {
    match &run.attempt {
        Err(failure) if failure.is_absence() => {
            Some(Completion::ignored_with(format!("not in this kernel: {failure}")))
        }
        _ => None,
    }
}

fn twin(lab: &mut Lab, attack: &Attack) -> Result<Completion> {
    let run = lab.unenforced(attack.run)?;
    if let Some(absent) = absence(&run) {
        return Ok(absent);
    }
    judge_twin(attack.off, &run).with_context(|| run.describe())?;
    Ok(Completion::Completed)
}

fn judge_twin(off: Off, run: &Run) -> Result<()> {
    let leaves = run.ungranted().next().is_some();
    match (off, &run.attempt) {
        (Off::RefusedByKernel(errnos), attempt) => {
            let errno = attempt.as_ref().err().map_or(0, |f| f.errno);
            ensure!(errnos.contains(&errno), "the kernel does not refuse this any more: make it an attack");
            ensure!(!leaves, "the kernel refuses it and something left all the same");
        }
        (_, Err(failure)) => bail!("failed with enforcement off: {failure}"),
        (Off::Leaves, Ok(())) => ensure!(leaves, "nothing left with enforcement off"),
        (Off::Loopback, Ok(())) => {
            ensure!(!run.looped.is_empty(), "nothing passed the loopback with enforcement off")
        }
        (Off::Succeeds, Ok(())) => {}
    }
    Ok(())
}

fn denied(lab: &mut Lab, place: Place, attack: &Attack) -> Result<Completion> {
    // A protocol that no process can have is not denied to the agent. The errnos are the same: ask a free process.
    if let Some(absent) = absence(&lab.unenforced(attack.run)?) {
        return Ok(absent);
    }
    let run = lab.attack_at(place, PROFILE, attack.run)?;
    if let On::RefusedByLsm(_, _, mechanism)
    | On::PartlyByLsm(_, mechanism)
    | On::DroppedAfterLsm(_, mechanism) = attack.on
        && !lab.monitor()?.works(mechanism)
    {
        // The gap must be as wide as posture says, or posture is wrong.
        judge_twin(attack.off, &run)
            .context("posture calls this attack blind, and yet it did not go through")
            .with_context(|| run.describe())?;
        return Ok(Completion::ignored_with(lab.monitor()?.blind(mechanism)?));
    }
    judge_denied(attack.on, &run).with_context(|| run.describe())?;
    Ok(Completion::Completed)
}

fn judge_denied(on: On, run: &Run) -> Result<()> {
    ensure!(run.ungranted().next().is_none(), "an ungranted packet is on the wire");
    ensure!(run.looped.is_empty(), "a packet passed the loopback");
    let errno = run.attempt.as_ref().err().map(|f| f.errno);
    match on {
        On::Refused(expected, hook) | On::RefusedByLsm(expected, hook, _) => {
            ensure!(errno == Some(expected), "ended with {:?}, not errno {expected}", run.attempt);
            one_denial(run, hook, expected)
        }
        On::Partly(hook) | On::PartlyByLsm(hook, _) => {
            ensure!(errno == Some(0), "ended with {:?}, not in part", run.attempt);
            ensure!(run.left.len() == 1, "the granted part did not go");
            one_denial(run, hook, libc::ENETUNREACH)
        }
        On::Dropped(reason) | On::DroppedAfterLsm(reason, _) => {
            ensure!(run.denials >= 1 && run.counted >= 1, "no denial was counted");
            ensure!(!run.records.is_empty(), "no record");
            for record in &run.records {
                ensure!(record.hook() == Some(Hook::Egress), "a record of another hook");
                ensure!(record.denies() && record.reason() == Some(reason), "a record with another reason");
            }
            Ok(())
        }
        On::RefusedByKernel => {
            ensure!(errno.is_some(), "the kernel does not refuse this any more");
            ensure!(run.records.is_empty() && run.denials == 0, "a denial of what the kernel refuses");
            Ok(())
        }
    }
}

fn one_denial(run: &Run, hook: Hook, errno: i32) -> Result<()> {
    ensure!(run.denials == 1, "{} denials were counted for the agent", run.denials);
    ensure!(run.counted >= 1, "no denial was counted");
    let [record] = run.records.as_slice() else { bail!("{} records", run.records.len()) };
    ensure!(record.hook() == Some(hook), "the record is of {:?}, not {hook:?}", record.hook());
    ensure!(record.denies(), "the record is no denial");
    ensure!(i32::from(record.header.errno) == errno, "the record says errno {}", record.header.errno);
    Ok(())
}
