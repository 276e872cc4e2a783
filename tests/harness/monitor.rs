//! The kernel side under test: loaded on the tests' own cgroup, fed with profiles in the profile language.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_monitor::kernel::{Kernel, LoadOptions, RingReader, UsedReader};
use agent_monitor::policy::compile::{self, Image};
use agent_monitor::policy::{ResolvedProfile, load_profile};
use agent_monitor_common::activity::UsedKey;
use agent_monitor_common::counters::{DECISIONS, Domain, Effect, Mode, Ring, Site, decision_cell};
use agent_monitor_common::label::LabelOrigin;
use anyhow::{Context, Result, anyhow, bail};

use crate::cgroup::Cgroup;
use crate::child::{PATIENCE, readable};
use crate::record::Record;

/// The slot of the tests' profile.
pub const SLOT: u32 = 0;

/// The loaded programs and the readers of their rings.
pub struct Monitor {
    pub kernel: Kernel,
    rings: [RingReader; 2],
    used: UsedReader,
    /// Read from the rings and not yet handed out.
    pending: [VecDeque<Record>; 2],
    in_force: Option<String>,
}

/// Resolves a profile from its text, as the daemon does from a file.
pub fn resolve(yaml: &str) -> Result<ResolvedProfile> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("profile.yaml");
    fs::write(&file, yaml)?;
    resolve_file(&file)
}

fn resolve_file(file: &Path) -> Result<ResolvedProfile> {
    match load_profile(file, &[]) {
        Ok(loaded) => Ok(loaded.profile),
        Err(errors) => Err(anyhow!("{}", errors.render(false))),
    }
}

/// Compiles a profile's text.
pub fn image(yaml: &str) -> Result<Image> {
    Ok(compile::profile(&resolve(yaml)?)?)
}

impl Monitor {
    /// Loads everything and attaches the cgroup programs to `cgroup`. `verdict_ring`: bytes of that ring, for tests
    /// that fill it.
    pub fn load(cgroup: &Cgroup, verdict_ring: Option<u32>) -> Result<Self> {
        let mut options = LoadOptions::new(cgroup.path());
        options.verdict_ring = verdict_ring;
        Self::load_with(&options)
    }

    /// Loads everything by these options.
    pub fn load_with(options: &LoadOptions) -> Result<Self> {
        let mut kernel = Kernel::load(options)?;
        let rings = [Ring::Verdicts, Ring::Activity].map(|ring| kernel.take_ring(ring));
        match (rings, kernel.take_used()) {
            ([Some(verdicts), Some(activity)], Some(used)) => Ok(Monitor {
                kernel,
                rings: [verdicts, activity],
                used,
                pending: Default::default(),
                in_force: None,
            }),
            _ => bail!("the loader did not hand out its rings"),
        }
    }

    /// Puts a profile in force in [`SLOT`]; the one that is there stays.
    pub fn install(&mut self, yaml: &str) -> Result<()> {
        if self.in_force.as_deref() == Some(yaml) {
            return Ok(());
        }
        self.in_force = None;
        self.kernel.install(SLOT, &image(yaml)?.words)?;
        self.in_force = Some(yaml.to_owned());
        Ok(())
    }

    /// Something else was put in force in [`SLOT`]: the next [`Monitor::install`] does not skip.
    pub fn forget(&mut self) {
        self.in_force = None;
    }

    /// What was just put in force in [`SLOT`] by other means passes for `yaml`: the next [`Monitor::install`] of it
    /// skips.
    pub fn installed_as(&mut self, yaml: &str) {
        self.in_force = Some(yaml.to_owned());
    }

    /// Takes the profile of [`SLOT`] out of force.
    pub fn uninstall(&mut self) -> Result<()> {
        self.in_force = None;
        Ok(self.kernel.uninstall(SLOT)?)
    }

    /// Makes an agent of process `pid`, its children and its sockets.
    pub fn label(&mut self, pid: u32) -> Result<u32> {
        Ok(self.kernel.new_agent(SLOT, pid, LabelOrigin::Run)?)
    }

    fn read(&mut self, ring: Ring) -> Result<&mut VecDeque<Record>> {
        let index = ring.code() as usize;
        let pending = &mut self.pending[index];
        let mut broken = None;
        self.rings[index].drain(usize::MAX, |bytes| match Record::parse(bytes) {
            Ok(record) => pending.push_back(record),
            Err(e) => broken = Some(e),
        });
        match broken {
            None => Ok(pending),
            Some(e) => Err(e),
        }
    }

    /// Every record that a ring holds now.
    pub fn drain(&mut self, ring: Ring) -> Result<Vec<Record>> {
        Ok(self.read(ring)?.drain(..).collect())
    }

    /// Waits for a record; those before it are consumed, those behind it stay.
    pub fn wait_for(
        &mut self,
        ring: Ring,
        what: &str,
        mut is: impl FnMut(&Record) -> bool,
    ) -> Result<Record> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pending = self.read(ring)?;
            while let Some(record) = pending.pop_front() {
                if is(&record) {
                    return Ok(record);
                }
            }
            if Instant::now() > deadline {
                bail!("no record of {what} within {PATIENCE:?}");
            }
            readable(self.rings[ring.code() as usize].as_fd().as_raw_fd(), Duration::from_millis(100));
        }
    }

    /// What agents did again, with the counts.
    pub fn used(&self) -> Vec<(UsedKey, u64)> {
        self.used.counts().collect()
    }

    /// Decisions so far, by cell.
    pub fn decisions(&self) -> [u64; DECISIONS] {
        self.kernel.counters().decisions
    }

    /// Denials that were enforced so far, of all domains.
    pub fn denials(&self) -> u64 {
        let decisions = self.decisions();
        Domain::ALL.iter().map(|d| decisions[decision_cell(*d, Effect::Deny, Mode::Enforce) as usize]).sum()
    }

    /// How often a helper failed at `site`.
    pub fn faults(&self, site: Site) -> u64 {
        self.kernel.counters().sites.iter().find(|(s, _)| *s == site).map_or(0, |(_, n)| *n)
    }

    /// Whether a mechanism works on this kernel.
    pub fn works(&self, mechanism: &str) -> bool {
        self.kernel.posture().works(mechanism)
    }

    /// What posture says about a mechanism that does not work here.
    pub fn blind(&self, mechanism: &str) -> Result<String> {
        let m = self.kernel.posture().mechanisms.iter().find(|m| m.name == mechanism);
        let m = m.with_context(|| format!("posture does not know {mechanism}"))?;
        Ok(format!("blind here, as posture says: {mechanism} is {}: {}", m.state.name(), m.blind))
    }
}
