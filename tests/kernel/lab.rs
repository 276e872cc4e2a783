//! The one world that all tests share, opened by the first test that needs it and closed after the last, and the
//! monitor on it, loaded by the first test that needs enforcement.

use std::sync::{Mutex, PoisonError};

use agent_monitor_common::counters::Ring;
use agent_monitor_tests::wire::Packet;
use agent_monitor_tests::{Attempt, Child, Monitor, Record, Stage, World};
use anyhow::Result;
use libtest_mimic::{Completion, Trial};

/// What the tests' agents may reach: one address of each family, port range 7000 to 7099.
pub const PROFILE: &str = "\
version: 1
name: attacked
mode: enforce
network:
  allow:
    - { cidr: 10.9.0.3/32, ports: [7000-7099], protocol: any }
    - { cidr: 'fd09::3/128', ports: [7000-7099], protocol: any }
  listen:
    - { address: 10.9.0.1, ports: [7100-7109], protocol: tcp }
";

/// The same profile with enforcement off: the programs judge and count, and let pass.
pub fn in_audit(profile: &str) -> String {
    profile.replace("mode: enforce", "mode: audit")
}

/// The world and, once loaded, the monitor. The monitor goes first: it is attached to the world's cgroup.
pub struct Lab {
    monitor: Option<Monitor>,
    pub world: World,
}

/// Where an agent is, seen from the cgroup that is governed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In it, all the time.
    Governed,
    /// Its launcher, which is no agent, moved it out when it had become one.
    MovedOut,
    /// Its launcher moved it in when it had become one: what it made before is of a cgroup outside.
    MovedIn,
}

/// What came of an attack.
#[derive(Debug)]
pub struct Run {
    pub attempt: Attempt,
    /// What passed the wire.
    pub left: Vec<Packet>,
    /// What passed the loopback.
    pub looped: Vec<Packet>,
    /// Verdict records of the agent.
    pub records: Vec<Record>,
    /// Denials that the kernel counted for the agent.
    pub denials: u64,
    /// Enforced denials that it counted for all agents meanwhile: those of earlier agents' dying connections too.
    pub counted: u64,
}

impl Run {
    /// For messages.
    pub fn describe(&self) -> String {
        let wire: Vec<String> = self.left.iter().chain(&self.looped).map(Packet::to_string).collect();
        let records: Vec<String> = self.records.iter().map(|r| format!("{:?} {r:?}", r.hook())).collect();
        format!(
            "attempt {:?}\nwire {wire:?}\n{} denials counted\nrecords {records:#?}",
            self.attempt, self.denials
        )
    }

    /// Packets that the profile does not grant.
    pub fn ungranted(&self) -> impl Iterator<Item = &Packet> {
        self.left.iter().filter(|p| crate::attack::ungranted(p))
    }
}

impl Lab {
    /// The monitor, attached to the agents' cgroup.
    pub fn monitor(&mut self) -> Result<&mut Monitor> {
        if self.monitor.is_none() {
            self.monitor = Some(Monitor::load(&self.world.agents, None)?);
        }
        match &mut self.monitor {
            Some(monitor) => Ok(monitor),
            None => unreachable!("it was just loaded"),
        }
    }

    /// Both at once.
    pub fn parts(&mut self) -> Result<(&mut Monitor, &mut World)> {
        self.monitor()?;
        match &mut self.monitor {
            Some(monitor) => Ok((monitor, &mut self.world)),
            None => unreachable!("it was just loaded"),
        }
    }

    /// Runs an attack in a child that becomes an agent at its first pause.
    pub fn attack(&mut self, profile: &str, run: impl FnOnce(&mut Stage) -> Attempt) -> Result<Run> {
        self.attack_at(Place::Governed, profile, run)
    }

    /// [`Lab::attack`], at some place.
    pub fn attack_at(
        &mut self,
        place: Place,
        profile: &str,
        run: impl FnOnce(&mut Stage) -> Attempt,
    ) -> Result<Run> {
        let (monitor, world) = self.parts()?;
        monitor.install(profile)?;
        let (at_first, later) = match place {
            Place::Governed => (&world.agents, &world.agents),
            Place::MovedOut => (&world.agents, &world.outside),
            Place::MovedIn => (&world.outside, &world.agents),
        };
        let mut child = Child::spawn(at_first, run)?;
        child.paused()?;
        let agent = monitor.label(child.pid())?;
        if !std::ptr::eq(at_first, later) {
            std::fs::write(later.path().join("cgroup.procs"), child.pid().to_string())?;
        }
        monitor.drain(Ring::Verdicts)?;
        let before = monitor.denials();
        world.wire.clear()?;
        world.loopback.clear()?;
        child.go_on()?;
        let attempt = child.finish()?;
        let (left, looped) = (world.wire.packets()?, world.loopback.packets()?);
        let records =
            monitor.drain(Ring::Verdicts)?.into_iter().filter(|r| r.header.agent == agent).collect();
        let counted = monitor.denials() - before;
        let denials = monitor.kernel.agent(agent).map_or(0, |a| a.denied);
        monitor.kernel.remove_agent(agent);
        Ok(Run { attempt, left, looped, records, denials, counted })
    }

    /// Runs an attack where no program is attached.
    pub fn unenforced(&mut self, run: impl FnOnce(&mut Stage) -> Attempt) -> Result<Run> {
        let world = &mut self.world;
        let mut child = Child::spawn(&world.outside, run)?;
        child.paused()?;
        world.wire.clear()?;
        world.loopback.clear()?;
        child.go_on()?;
        let attempt = child.finish()?;
        let (left, looped) = (world.wire.packets()?, world.loopback.packets()?);
        Ok(Run { attempt, left, looped, records: Vec::new(), denials: 0, counted: 0 })
    }
}

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// Runs a test's body in the lab.
pub fn with<R>(body: impl FnOnce(&mut Lab) -> Result<R>) -> Result<R> {
    // A test that panicked left its children to their drops; the world itself is as it was.
    let mut lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    if lab.is_none() {
        *lab = Some(Lab { monitor: None, world: World::new()? });
    }
    match lab.as_mut() {
        Some(lab) => body(lab),
        None => unreachable!("it was just opened"),
    }
}

/// A test that runs in the lab.
pub fn test(
    name: impl Into<String>,
    body: impl FnOnce(&mut Lab) -> Result<Completion> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || Ok(with(body).map_err(|e| format!("{e:#}"))?))
}

/// A test that always has something to say.
pub fn check(name: impl Into<String>, body: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static) -> Trial {
    test(name, move |lab| body(lab).map(|()| Completion::Completed))
}

/// Takes the world down: its processes, cgroups and namespaces.
pub fn close() {
    drop(LAB.lock().unwrap_or_else(PoisonError::into_inner).take());
}
