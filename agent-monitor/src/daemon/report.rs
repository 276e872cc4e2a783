//! What the daemon says of itself: `status` and `/metrics`, from one reading of the kernel each.
//!
//! Called by the control and HTTP servers. Nothing here changes anything.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_monitor_common::agent::AgentState;
use agent_monitor_common::counters::{Ring, RingCounters};

use super::core::{COMPAT, Core};
use crate::control::protocol::{AgentStatus, GapStatus, Losses, MechanismStatus, ProfileStatus, Status};
use crate::event::model::Time;
use crate::http::Pages;
use crate::kernel::{Counters, Gap, Mechanism, Posture, State};
use crate::metrics::{AgentSample, ProfileSample, ProgramSample, SinkSample, Snapshot};
use crate::policy::syscalls;
use crate::resolver::outlook::Servers;

impl Core {
    /// The answer to `status`.
    pub fn status(&self) -> Status {
        let table = self.table();
        let live = self.registry.live();
        let kernel = self.kernel();
        let counters = kernel.counters();
        let states: HashMap<u32, AgentState> = kernel.agents_in_full().into_iter().collect();
        let mut posture = mechanisms(kernel.posture());
        let syscall_hook = kernel.syscall_hook();
        drop(kernel);
        posture.push(self.resolver_status());
        let profiles = table.slots.iter().map(|(slot, held)| ProfileStatus {
            name: held.profile.name.clone(),
            mode: held.profile.mode.to_string(),
            generation: held.generation,
            digest: held.digest.to_string(),
            files: held.profile.files.iter().map(|file| file.display().to_string()).collect(),
            agents: u32::try_from(live.iter().filter(|agent| agent.slot == *slot).count())
                .unwrap_or(u32::MAX),
            lease_ends: held.profile.first_end().map(|end| format!("{end:.0}")),
            refused: held.refused.clone(),
            gaps: held.gaps.iter().map(gap).collect(),
        });
        let agents = live.iter().map(|agent| {
            let state = states.get(&agent.key).copied().unwrap_or(AgentState::ZERO);
            AgentStatus {
                id: agent.id.to_string(),
                profile: agent.profile.to_string(),
                origin: agent.origin.name().to_owned(),
                root: agent.root,
                started: Time(agent.started).to_string(),
                processes: state.live,
                denied: state.denied,
                killed: state.killed,
                allowed: state.allowed,
                lost: state.lost_verdicts + state.lost_activity,
                cgroup: agent.cgroup.as_ref().map(|own| own.directory.display().to_string()),
                confined: agent.confined,
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.began.elapsed().as_secs(),
            startup_ms: self.startup_ms.get().copied().unwrap_or(0),
            cgroup: self.governed.display().to_string(),
            events_file: self.settings.event_file().map(|file| file.path.display().to_string()),
            metrics: self.metrics_address.get().map(ToString::to_string),
            protected: self.protected.describe().collect(),
            profiles: profiles.collect(),
            agents: agents.collect(),
            posture,
            names: Some(Servers::of(&self.settings.resolver())),
            syscall_hook,
            losses: self.losses(&counters),
            helper_failures: counters
                .sites
                .iter()
                .filter(|(_, total)| *total > 0)
                .map(|(site, total)| (site.name().to_owned(), *total))
                .collect(),
            followers: self.followers.count(),
        }
    }

    fn losses(&self, counters: &Counters) -> Losses {
        let lost = |ring: Ring| counters.rings[ring.code() as usize].lost;
        Losses {
            ring_verdicts: lost(Ring::Verdicts),
            ring_activity: lost(Ring::Activity),
            undecodable: self.counts.decode_errors.iter().map(read).sum(),
            file: self.file.as_ref().map_or(0, |file| read(&file.dropped)),
            followers: read(&self.followers.lost),
            own: read(&self.injector.dropped),
        }
    }

    /// What a scrape shows.
    pub fn snapshot(&self) -> Snapshot {
        let table = self.table();
        let live = self.registry.live();
        let kernel = self.kernel();
        let counters = kernel.counters();
        let states: HashMap<u32, AgentState> = kernel.agents().into_iter().collect();
        // Both under the kernel's lock: an agent's counts are in one of the two.
        let counts = kernel.syscall_counts();
        let ended = self.totals.ended_syscalls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let programs = if kernel.stats_enabled() { kernel.program_stats() } else { Vec::new() };
        let mut posture = mechanisms(kernel.posture());
        let syscall_hook = kernel.syscall_hook();
        drop(kernel);
        posture.push(self.resolver_status());
        let mut calls: BTreeMap<(String, String), u64> = BTreeMap::new();
        // An agent that the registry does not know yet is counted in the next scrape.
        let living = counts.into_iter().filter_map(|(agent, nr, count)| {
            Some(((self.registry.find(agent)?.profile.to_string(), nr), count))
        });
        for ((profile, nr), count) in ended.into_iter().chain(living) {
            let name = match syscalls::name(nr & !COMPAT) {
                Some(name) if nr & COMPAT == 0 => name.to_owned(),
                _ if nr & COMPAT != 0 => format!("compat-{}", nr & !COMPAT),
                _ => nr.to_string(),
            };
            *calls.entry((profile, name)).or_default() += count;
        }
        let profiles = table.slots.iter().map(|(slot, held)| {
            let of_it = || live.iter().filter(|agent| agent.slot == *slot);
            ProfileSample {
                name: held.profile.name.clone(),
                mode: held.profile.mode.to_string(),
                digest: held.digest.to_string(),
                generation: held.generation,
                agents: of_it().count() as u64,
                processes: of_it().filter_map(|agent| states.get(&agent.key)).map(|state| state.live).sum(),
                gaps: held.gaps.len() as u64,
                stale: held.refused.is_some(),
            }
        });
        let agents = live.iter().map(|agent| {
            let state = states.get(&agent.key).copied().unwrap_or(AgentState::ZERO);
            AgentSample {
                id: agent.id.to_string(),
                profile: agent.profile.to_string(),
                lost_verdicts: state.lost_verdicts,
                lost_activity: state.lost_activity,
            }
        });
        let file = self.file.as_ref().map(|file| SinkSample {
            name: "file",
            written: read(&file.written),
            dropped: read(&file.dropped),
            errors: read(&file.errors),
        });
        let followers = SinkSample {
            name: "followers",
            written: read(&self.followers.sent),
            dropped: read(&self.followers.lost),
            errors: 0,
        };
        Snapshot {
            startup_seconds: self.startup_ms.get().copied().unwrap_or(0) as f64 / 1_000.0,
            decisions: counters.decisions.to_vec(),
            rings: counters.rings.iter().map(|ring| RingCounters { ..*ring }).collect(),
            sites: counters.sites.clone(),
            profiles: profiles.collect(),
            agents: agents.collect(),
            posture,
            programs: programs
                .into_iter()
                .map(|program| ProgramSample {
                    name: program.name.to_owned(),
                    runs: program.run_count,
                    seconds: program.run_time_ns as f64 / 1e9,
                })
                .collect(),
            syscalls: calls.into_iter().map(|((profile, name), count)| (profile, name, count)).collect(),
            syscall_hook,
            events: self.counts.events.iter().map(read).collect(),
            decode_errors: self.counts.decode_errors.iter().map(read).collect(),
            sinks: file.into_iter().chain([followers]).collect(),
            followers: self.followers.count(),
            reloads: self.totals.reloads.iter().map(read).collect(),
            flows_cut: [0, 1, 2].map(|position| read(&self.totals.flows_cut[position])),
            own_lost: read(&self.injector.dropped),
            names: self.names_sample(),
        }
    }
}

impl Pages for Core {
    fn metrics(&self) -> Result<Vec<u8>, String> {
        let snapshot = self.snapshot();
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.render(&snapshot).map_err(|error| error.to_string())
    }

    fn health(&self) -> Result<String, String> {
        if self.events_ended.load(Ordering::Acquire) {
            return Err("the event thread ended: verdicts go on, events are lost".to_owned());
        }
        if self.startup_ms.get().is_none() {
            return Err("starting".to_owned());
        }
        Ok("ok".to_owned())
    }
}

fn read(total: &AtomicU64) -> u64 {
    total.load(Ordering::Relaxed)
}

/// The mechanisms as clients see them.
#[must_use]
pub fn mechanisms(of: &Posture) -> Vec<MechanismStatus> {
    of.mechanisms.iter().map(|one| mechanism(one, of.instead_of(one))).collect()
}

fn mechanism(of: &Mechanism, instead: Option<&str>) -> MechanismStatus {
    MechanismStatus {
        name: of.name.to_owned(),
        state: of.state.name().to_owned(),
        works: of.state.works(),
        why: match &of.state {
            State::Refused { why, .. } | State::Absent { why } => Some(why.clone()),
            State::Active | State::Idle => None,
        },
        blind: of.blind.to_owned(),
        instead: instead.map(str::to_owned),
    }
}

/// A gap as clients see it.
#[must_use]
pub fn gap(of: &Gap) -> GapStatus {
    GapStatus {
        mechanism: of.mechanism.to_owned(),
        blind: of.blind.to_owned(),
        why: of.why.clone(),
        asked: of.asked,
    }
}
