//! The daemon's state, shared by its tasks: the kernel side, the profiles in force, the agents, the totals.
//!
//! Made by `daemon::run`. Lock order, outer first: table, registry or generations, kernel. The event pipeline takes
//! the registry and the generations only and must never wait for the kernel, except for the moment in which one of
//! those is being added to.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use agent_monitor_common::counters::RingCounters;
use tokio::sync::Notify;

use super::pipeline::{Injector, PipelineCounts, own_event};
use super::table::Table;
use crate::agent::registry::{AgentInfo, Registry};
use crate::control::protocol::ReloadOutcome;
use crate::event::generations::Generations;
use crate::event::model::{Agent, EventType, Id};
use crate::kernel::{AgentNote, Kernel};
use crate::metrics::Metrics;
use crate::policy::protected::Protected;
use crate::resolver::{Names, Resolver};
use crate::settings::Settings;
use crate::sink::denials::Denials;
use crate::sink::follow::Followers;
use crate::sink::jsonl::FileCounts;

/// See the module.
pub struct Core {
    pub settings: Settings,
    /// Mount point of the cgroup v2 hierarchy.
    pub mount: PathBuf,
    /// The cgroup that the network programs govern.
    pub governed: PathBuf,
    pub registry: Arc<Registry>,
    pub generations: Arc<Generations>,
    pub followers: Arc<Followers>,
    /// What agents are told of their denials.
    pub denials: Arc<Denials>,
    pub injector: Arc<Injector>,
    pub counts: Arc<PipelineCounts>,
    /// Counts of the event file, where there is one.
    pub file: Option<Arc<FileCounts>>,
    pub metrics: Mutex<Metrics>,
    pub began: Instant,
    /// Milliseconds until everything was in force.
    pub startup_ms: OnceLock<u64>,
    /// The event thread ended, which it must not while the daemon runs.
    pub events_ended: AtomicBool,
    /// Whether some profile claims cgroups, so that new ones must be looked for.
    pub watches_cgroups: AtomicBool,
    /// A profile in force has leases.
    pub has_leases: AtomicBool,
    /// Where metrics are served.
    pub metrics_address: OnceLock<std::net::SocketAddr>,
    /// A client asked the daemon to end.
    pub stop: Notify,
    pub totals: Totals,
    /// What addresses stand for which names.
    pub names: Arc<Names>,
    /// The thread that resolves names; `None`: it could not be started, and no name resolves.
    pub resolver: Mutex<Option<Resolver>>,
    /// What is laid under every profile.
    pub protected: Protected,
    /// Agents' cgroups that were still busy when their agent ended.
    pub leftover: Mutex<Vec<PathBuf>>,
    /// Claimed cgroups that have an agent, by directory.
    pub claimed_cgroups: Mutex<HashMap<PathBuf, u32>>,
    /// Ring totals that `loss` events have told of.
    pub told: Mutex<[RingCounters; 2]>,
    /// Held while profiles change, from reading their files to the kernel's answer, and taken before the table: what
    /// takes long happens without that, for every new agent waits for it.
    pub(super) changes: Mutex<()>,
    pub(super) table: Mutex<Table>,
    pub(super) kernel: Mutex<Kernel>,
}

/// What the daemon itself counts.
#[derive(Debug, Default)]
pub struct Totals {
    /// By position in [`ReloadOutcome::ALL`].
    pub reloads: [AtomicU64; ReloadOutcome::ALL.len()],
    /// `reset`, `shut`, `failed`.
    pub flows_cut: [AtomicU64; 3],
    /// Listed system calls of agents that ended, by profile and number (with [`COMPAT`]): the kernel's counts go with
    /// the agent. Its lock is taken within the kernel's.
    pub ended_syscalls: Mutex<BTreeMap<(String, u32), u64>>,
}

/// Bit of a counted system call's number: it came through the 32-bit table.
pub const COMPAT: u32 = 1 << 31;

impl Totals {
    pub fn count_reload(&self, outcome: ReloadOutcome) {
        let position = ReloadOutcome::ALL.iter().position(|known| *known == outcome);
        if let Some(total) = position.and_then(|position| self.reloads.get(position)) {
            total.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Core {
    /// The kernel side. A thread that panicked with it left it whole: every change is one map operation or repeated.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change what is in force.
    pub(super) fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The profiles in force.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an agent that has no process any more out of the kernel, and keeps what it counted.
    pub fn forget_agent(&self, key: u32, profile: &str) {
        let mut kernel = self.kernel();
        let mut ended = self.totals.ended_syscalls.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, nr, count) in kernel.syscall_counts().into_iter().filter(|(agent, ..)| *agent == key) {
            *ended.entry((profile.to_owned(), nr)).or_default() += count;
        }
        kernel.remove_agent(key);
    }

    /// Notes an agent's id for the next daemon, which takes the agent over.
    pub fn note_agent(&self, info: &AgentInfo) {
        let note = AgentNote {
            id: info.id.into(),
            started: i64::try_from(info.started.as_nanosecond()).unwrap_or(0),
            confined: info.confined,
        };
        self.kernel().note_agent(info.key, note);
    }

    /// Tells of an agent that the daemon labelled.
    pub fn tell_agent(&self, kind: EventType, info: &AgentInfo) {
        let mut event = own_event(kind);
        event.agent = Some(Agent {
            id: Some(Id(info.id)),
            profile: info.profile.to_string().into(),
            origin: (kind == EventType::AgentStarted).then(|| info.origin.name().into()),
        });
        self.injector.send(event);
    }

    /// Attaches the system call hook while a live agent's profile lists calls, and detaches it otherwise: it costs
    /// every system call of the host.
    pub fn sync_syscall_hook(&self) {
        // Held to the end: of two that ask at once, the later answer must be the one that stays.
        let table = self.table();
        let live = self.registry.live();
        let listed = |slot: &u32| table.slots.get(slot).is_some_and(|held| !held.profile.syscalls.is_empty());
        let mut kernel = self.kernel();
        // What an inherited profile without a file lists can't be known: it keeps what it had.
        let inherited = |slot: &u32| table.inherited.contains_key(slot) && kernel.syscall_hook();
        let wanted = live.iter().any(|agent| listed(&agent.slot) || inherited(&agent.slot));
        if kernel.syscall_hook() != wanted
            && let Err(error) = kernel.set_syscall_hook(wanted)
        {
            tracing::error!(%error, wanted, "the system call hook can't be switched");
        }
    }
}
