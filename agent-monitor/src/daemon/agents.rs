//! Processes into agents and out again: `run`, `attach`, the scan at the start, claimed cgroups, the end.
//!
//! Called by `daemon::run` and the control server. What must stay true: when `run` is answered its caller is governed,
//! its descendants will be, and its first event finds it in the registry.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use agent_monitor_common::agent::AgentState;
use agent_monitor_common::counters::Ring;
use agent_monitor_common::label::LabelOrigin;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use ulid::Ulid;

use super::core::Core;
use super::pipeline::own_event;
use super::report::gap;
use super::table::Table;
use crate::agent::registry::{AgentCgroup, AgentInfo};
use crate::agent::{cgroup, scan};
use crate::control::peer::Peer;
use crate::control::protocol::{Code, Enforcement, Labelled, Refusal};
use crate::event::escape;
use crate::event::model::{EventType, Loss};
use crate::kernel::LabelError;
use crate::policy::Mode;
use crate::settings::Settings;

/// A new agent whose first event may still be on its way: younger ones are left alone by the clean-up.
const YOUNG_NS: u64 = 5_000_000_000;

impl Core {
    /// What the kernel enforces of a profile, for a `run` that could make up for the rest.
    ///
    /// # Errors
    /// When there is no such profile.
    pub fn enforcement(&self, profile: &str) -> Result<Enforcement, Refusal> {
        let table = self.table();
        slot_of(&table, profile)?;
        let held = table.find(profile).map(|(_, held)| held);
        let held = held.ok_or_else(|| Refusal::new(Code::UnknownProfile, "the profile is gone"))?;
        let image = match held.profile.mode {
            Mode::Enforce => held.image.to_vec(),
            Mode::Learn | Mode::Audit => Vec::new(),
        };
        Ok(Enforcement { generation: held.generation, gaps: held.gaps.iter().map(gap).collect(), image })
    }

    fn labelled(&self, info: &AgentInfo) -> Labelled {
        let notices = self.denials.wanted_by(&info.profile).then(|| self.settings.notices());
        Labelled {
            agent: info.id.to_string(),
            profile: info.profile.to_string(),
            cgroup: info.cgroup.as_ref().map(|own| own.directory.display().to_string()),
            notices: notices.map(|socket| socket.display().to_string()),
        }
    }

    /// Makes an agent of the process `pid`, which asked for it, in a cgroup of its own. `confined`: it restricts itself
    /// by the image of this generation.
    ///
    /// # Errors
    /// What the caller is told; then it is where it was before.
    pub fn run_agent(&self, pid: u32, profile: &str, confined: Option<u32>) -> Result<Labelled, Refusal> {
        // Asked here for the sake of the answer; `label` asks again, when it counts.
        may_run(&self.table(), profile, confined)?;
        let id = Ulid::generate();
        let before = cgroup::of_process(&self.mount, pid);
        let agents = Settings::agents_cgroup(&self.governed);
        let refused = |what: &str, error: std::io::Error| {
            Refusal::new(Code::Kernel, format!("{what} {}: {error}", agents.display()))
        };
        let directory = cgroup::make(&agents, id.array_to_str(&mut [0; ulid::ULID_LEN]))
            .map_err(|error| refused("can't make a cgroup in", error))?;
        let undo = || {
            if let Some(before) = &before
                && let Err(error) = cgroup::join(before, pid)
            {
                tracing::warn!(pid, %error, "a process can't be moved back to its cgroup");
            }
            if !cgroup::remove(&directory) {
                self.leftover.lock().unwrap_or_else(PoisonError::into_inner).push(directory.clone());
            }
        };
        if let Err(error) = cgroup::join(&directory, pid) {
            undo();
            return Err(refused("can't move the caller to a cgroup in", error));
        }
        if let Err(error) = cgroup::note_profile(&directory, profile) {
            tracing::warn!(%error, "an agent's cgroup can't carry its profile: a restarted daemon won't know the agent");
        }
        let own = AgentCgroup { directory: directory.clone(), ours: true };
        match self.label(id, profile, pid, LabelOrigin::Run, Some(own), Some(confined)) {
            Ok(info) => Ok(self.labelled(&info)),
            Err(refusal) => {
                undo();
                Err(refusal)
            }
        }
    }

    /// Makes an agent of a living process and its descendants; whoever is not root, of their own processes only.
    ///
    /// # Errors
    /// What the caller is told.
    pub fn attach_agent(&self, pid: u32, profile: &str, caller: Peer) -> Result<Labelled, Refusal> {
        self.slot_for(profile)?;
        if caller.uid != 0 && owner(pid) != Some(caller.uid) {
            let message = format!("process {pid} is not of user {}: only root may attach it", caller.uid);
            return Err(Refusal::new(Code::NotPermitted, message));
        }
        if is_own_ancestor(pid) {
            let message = format!(
                "process {pid} is the monitor or one of its ancestors: attaching it would govern the monitor itself"
            );
            return Err(Refusal::new(Code::NotPermitted, message));
        }
        let place = cgroup::of_process(&self.mount, pid)
            .ok_or_else(|| Refusal::new(Code::NoProcess, format!("there is no process {pid}")))?;
        if !place.starts_with(&self.governed) {
            let message = format!(
                "process {pid} is in {}, outside the governed cgroup {}: its network would not be governed",
                escape::text(place.as_os_str().as_bytes()),
                self.governed.display()
            );
            return Err(Refusal::new(Code::Kernel, message));
        }
        self.label(Ulid::generate(), profile, pid, LabelOrigin::Attach, None, None)
            .map(|info| self.labelled(&info))
    }

    /// Labels a tree as a new agent, and everything that follows from it; `run`: it asked for itself, confined or not. The table is held meanwhile: the slot is the
    /// profile's until the registry knows the agent, which keeps the profile in force from then on.
    fn label(
        &self,
        id: Ulid,
        profile: &str,
        root: u32,
        origin: LabelOrigin,
        own: Option<AgentCgroup>,
        run: Option<Option<u32>>,
    ) -> Result<Arc<AgentInfo>, Refusal> {
        let table = self.table();
        let slot = match run {
            Some(confined) => may_run(&table, profile, confined)?,
            None => slot_of(&table, profile)?,
        };
        let confined = run.flatten().is_some();
        let info = self.registry.add(|| {
            let key = self.kernel().new_agent(slot, root, origin).map_err(label_refusal)?;
            let started = Timestamp::now();
            Ok(AgentInfo {
                key,
                id,
                profile: profile.into(),
                slot,
                root,
                origin,
                started,
                cgroup: own,
                confined,
            })
        })?;
        self.note_agent(&info);
        drop(table);
        self.tell_agent(EventType::AgentStarted, &info);
        self.sync_syscall_hook();
        tracing::info!(agent = %info.id, profile = %info.profile, root, origin = origin.name(), "agent");
        Ok(info)
    }

    /// Ties the sockets to an agent that it held before its exec made it one: the exec hook can't see them.
    pub fn label_held_sockets(&self, info: &AgentInfo) {
        // Without a root: that process has its label, or is gone and its number another's.
        if let Err(error) = self.kernel().label_tree(info.key, info.slot, 0, info.origin) {
            tracing::error!(agent = %info.id, %error,
                "sockets that an agent held before its exec can't be tied to it: what they are connected to stays within reach");
        }
    }

    fn slot_for(&self, profile: &str) -> Result<u32, Refusal> {
        slot_of(&self.table(), profile)
    }

    fn profile_name(&self, slot: u32) -> Arc<str> {
        self.table().slots.get(&slot).map_or_else(|| "?".into(), |held| held.profile.name.as_str().into())
    }

    /// Labels what lives already: agents that an earlier daemon's `run` started, then processes and cgroups that a
    /// profile claims.
    pub fn scan(&self) {
        self.readopt();
        let claims = self.table().exe_claims.clone();
        for process in claims.iter().flat_map(|image| scan::claimed(Path::new("/proc"), image)) {
            if self.kernel().is_labelled(process.pid) || is_own_ancestor(process.pid) {
                continue;
            }
            let outside = cgroup::of_process(&self.mount, process.pid)
                .is_some_and(|place| !place.starts_with(&self.governed));
            if outside {
                tracing::warn!(pid = process.pid, governed = %self.governed.display(),
                    "a claimed process is outside the governed cgroup: its network is not governed");
            }
            let profile = self.profile_name(process.slot);
            if let Err(refusal) =
                self.label(Ulid::generate(), &profile, process.pid, LabelOrigin::Scan, None, None)
                && refusal.code != Code::NoProcess
            {
                tracing::error!(pid = process.pid, %refusal, "a claimed process can't be labelled");
            }
        }
        self.watch_cgroups();
    }

    /// The agents that an earlier daemon left governed, by their notes. Those that their exec made since then are told
    /// of by their records.
    pub fn inherit_agents(&self) {
        let kernel = self.kernel();
        let (states, noted) = (kernel.agents(), kernel.noted_agents());
        drop(kernel);
        let table = self.table();
        let directories = cgroup::children(&Settings::agents_cgroup(&self.governed));
        let states: HashMap<u32, AgentState> = states.into_iter().collect();
        for (key, note) in noted {
            let Some(state) = states.get(&key) else { continue };
            let id = Ulid::from(note.id);
            let profile = table.inherited.get(&state.profile).map_or("?", |left| left.name.as_str());
            let named = |directory: &&PathBuf| {
                directory.file_name().and_then(|name| name.to_str()) == Some(id.to_string().as_str())
            };
            let own = directories.iter().find(named).cloned();
            let (info, _) = self.registry.find_or_add(key, || AgentInfo {
                key,
                id,
                profile: profile.into(),
                slot: state.profile,
                root: state.root,
                origin: LabelOrigin::from_code(state.origin).unwrap_or(LabelOrigin::Exec),
                started: Timestamp::from_nanosecond(note.started.into()).unwrap_or_else(|_| Timestamp::now()),
                cgroup: own.map(|directory| AgentCgroup { directory, ours: true }),
                confined: note.confined,
            });
            tracing::info!(agent = %info.id, profile = %info.profile, processes = state.live, "agent of an earlier daemon");
        }
    }

    /// Agents of an earlier daemon that were not left governed keep their ids: their cgroups carry them.
    fn readopt(&self) {
        for directory in cgroup::children(&Settings::agents_cgroup(&self.governed)) {
            let id = directory
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| Ulid::from_string(name).ok());
            let Some(id) = id else { continue };
            if self.registry.live().iter().any(|agent| agent.id == id) {
                continue;
            }
            let mut pids = Vec::new();
            cgroup::processes(&directory, &mut pids);
            if pids.is_empty() {
                cgroup::remove(&directory);
                continue;
            }
            let profile = cgroup::noted_profile(&directory).unwrap_or_default();
            if self.slot_for(&profile).is_err() {
                tracing::error!(agent = %id, %profile, "a living agent of an earlier daemon has no profile in force: it is not governed");
                continue;
            }
            let own = Some(AgentCgroup { directory, ours: true });
            self.label_group(id, &profile, &pids, LabelOrigin::Scan, own);
        }
    }

    /// Labels processes as one agent, those that have none yet; its key.
    fn label_group(
        &self,
        id: Ulid,
        profile: &str,
        pids: &[u32],
        origin: LabelOrigin,
        own: Option<AgentCgroup>,
    ) -> Option<u32> {
        let mut rest = pids.iter().copied().filter(|&pid| !is_own_ancestor(pid));
        // The first that still lives is the root.
        let info =
            rest.by_ref().find_map(|pid| self.label(id, profile, pid, origin, own.clone(), None).ok())?;
        for pid in rest {
            self.join_agent(&info, pid, origin);
        }
        Some(info.key)
    }

    fn join_agent(&self, agent: &AgentInfo, pid: u32, origin: LabelOrigin) {
        let mut kernel = self.kernel();
        if kernel.is_labelled(pid) {
            return;
        }
        if let Err(error) = kernel.label_tree(agent.key, agent.slot, pid, origin) {
            tracing::error!(pid, %error, "a process of a claimed cgroup can't be labelled");
        }
    }

    /// Labels what is in claimed cgroups and has no label: at the start, and each second while there are such claims.
    pub fn watch_cgroups(&self) {
        let (image, prefixes) = {
            let table = self.table();
            let Some(image) = table.cgroup_claims.clone() else { return };
            (image, table.cgroup_prefixes.clone())
        };
        let mut matched = Vec::new();
        // A service that a glob happens to match, `agent-*.service`, is not an agent, and neither are its helpers.
        let own = cgroup::of_process(&self.mount, std::process::id());
        for prefix in prefixes {
            self.match_cgroups(&image, &self.mount.join(prefix.trim_start_matches('/')), &mut matched);
        }
        let mut known = self.claimed_cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        let live: HashMap<u32, Arc<AgentInfo>> =
            self.registry.live().into_iter().map(|agent| (agent.key, agent)).collect();
        known.retain(|_, key| live.contains_key(key));
        for (directory, slot) in matched {
            if Some(&directory) == own.as_ref() {
                continue;
            }
            let mut pids = Vec::new();
            cgroup::processes(&directory, &mut pids);
            if !known.contains_key(&directory) {
                // Left governed by an earlier daemon.
                let kernel = self.kernel();
                let key = pids.iter().find_map(|&pid| kernel.label_of(pid).map(|label| label.agent));
                drop(kernel);
                if let Some(key) = key.filter(|key| live.contains_key(key)) {
                    known.insert(directory.clone(), key);
                }
            }
            match known.get(&directory).and_then(|key| live.get(key)) {
                Some(agent) => {
                    pids.into_iter().for_each(|pid| self.join_agent(agent, pid, LabelOrigin::Attach))
                }
                None => {
                    let kernel = self.kernel();
                    pids.retain(|&pid| kernel.label_of(pid).is_none());
                    drop(kernel);
                    let own = Some(AgentCgroup { directory: directory.clone(), ours: false });
                    let profile = self.profile_name(slot);
                    if let Some(key) =
                        self.label_group(Ulid::generate(), &profile, &pids, LabelOrigin::Attach, own)
                    {
                        known.insert(directory, key);
                    }
                }
            }
        }
    }

    /// The topmost claimed cgroups at and below `directory`.
    fn match_cgroups(&self, image: &[u64], directory: &Path, matched: &mut Vec<(PathBuf, u32)>) {
        let Ok(path) = directory.strip_prefix(&self.mount) else { return };
        let path = Path::new("/").join(path);
        if let Some(slot) = scan::claimed_by(image, path.as_os_str().as_bytes()) {
            if !matched.iter().any(|(known, _)| known == directory) {
                matched.push((directory.to_owned(), slot));
            }
            return;
        }
        for child in cgroup::children(directory) {
            self.match_cgroups(image, &child, matched);
        }
    }

    /// An agent's last process went: the registry knows already.
    pub fn agent_ended(&self, info: &AgentInfo) {
        self.forget_agent(info.key, &info.profile);
        if let Some(own) = info.cgroup.as_ref().filter(|own| own.ours)
            && !cgroup::remove(&own.directory)
        {
            self.leftover.lock().unwrap_or_else(PoisonError::into_inner).push(own.directory.clone());
        }
        let live = self.registry.live();
        self.denials.keep(|id| live.iter().any(|agent| agent.id == id));
        self.remove_retired();
        self.sync_syscall_hook();
        tracing::info!(agent = %info.id, profile = %info.profile, "agent ended");
    }

    /// Every few seconds: what lost records would leave behind, and the word about losses.
    pub fn tidy(&self) {
        self.check_pins();
        self.note_leases(&self.table());
        let (states, counters) = {
            let kernel = self.kernel();
            (kernel.agents(), kernel.counters())
        };
        let now = clock_gettime(ClockId::Boottime);
        let now =
            u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
        let mut in_kernel = HashSet::new();
        let mut ended = Vec::new();
        for (key, state) in states {
            let young = now.saturating_sub(state.created_ns) < YOUNG_NS;
            if state.live > 0 || young {
                in_kernel.insert(key);
            } else {
                ended.push((key, state.profile));
            }
            if state.live > 0 && !young {
                // Its first record was lost. The name first: the table's lock comes before the registry's.
                let profile = self.profile_name(state.profile);
                let (info, new) = self.registry.find_or_add(key, || AgentInfo {
                    key,
                    id: Ulid::generate(),
                    profile,
                    slot: state.profile,
                    root: state.root,
                    origin: LabelOrigin::from_code(state.origin).unwrap_or(LabelOrigin::Exec),
                    started: Timestamp::now(),
                    cgroup: None,
                    confined: false,
                });
                if new {
                    self.note_agent(&info);
                    self.tell_agent(EventType::AgentStarted, &info);
                    self.label_held_sockets(&info);
                    self.sync_syscall_hook();
                }
            }
        }
        for agent in self.registry.live() {
            let young = Timestamp::now().duration_since(agent.started).as_secs() < 5;
            // Its last record was lost.
            if !young
                && !in_kernel.contains(&agent.key)
                && let Some(info) = self.registry.end(agent.key)
            {
                self.tell_agent(EventType::AgentEnded, &info);
                self.agent_ended(&info);
            }
        }
        // All its records were lost, or it could not be labelled: nobody else takes its entry out.
        for (key, slot) in ended {
            if self.registry.find(key).is_none() {
                let profile = self.profile_name(slot);
                self.forget_agent(key, &profile);
            }
        }
        self.leftover
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|directory| !cgroup::remove(directory));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for ring in Ring::ALL {
            let position = ring.code() as usize;
            let lost = counters.rings[position].lost.saturating_sub(told[position].lost);
            if lost > 0 {
                tracing::warn!(
                    lost,
                    ring = ring.name(),
                    "events were lost in the kernel; verdicts were unchanged"
                );
                let mut event = own_event(EventType::Loss);
                event.loss = Some(Loss { stage: format!("ring-{}", ring.name()).into(), lost });
                self.injector.send(event);
            }
            told[position] = counters.rings[position];
        }
        self.kernel().note_told(&told);
    }
}

fn slot_of(table: &Table, profile: &str) -> Result<u32, Refusal> {
    table.find(profile).map(|(slot, _)| slot).ok_or_else(|| {
        let known = table.names();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Refusal::new(Code::UnknownProfile, format!("there is no profile {profile:?}; in force: {known}"))
    })
}

/// The slot of a profile for a process that asks to run under it, `confined` by the image of a generation or not.
fn may_run(table: &Table, profile: &str, confined: Option<u32>) -> Result<u32, Refusal> {
    let slot = slot_of(table, profile)?;
    let Some(held) = table.slots.get(&slot) else {
        return Err(Refusal::new(Code::UnknownProfile, "the profile is gone"));
    };
    match confined {
        Some(generation) if generation != held.generation => {
            let message = format!(
                "profile {profile} was of generation {generation} and is of generation {} now",
                held.generation
            );
            Err(Refusal::new(Code::Changed, message))
        }
        None if held.gaps.iter().any(|gap| gap.asked) => {
            let mut message = format!("profile {profile} asks what this kernel can't enforce. Blind here:");
            for gap in &held.gaps {
                message.push_str(&format!("\n  {}: {} ({})", gap.mechanism, gap.blind, gap.why));
            }
            message.push_str(
                "\nWith `run --allow-degraded`, Landlock and seccomp stand in for the command, as far as they go; \
                 `agent-monitor check --kernel this` says how far.",
            );
            Err(Refusal::new(Code::CannotEnforce, message))
        }
        _ => Ok(slot),
    }
}

/// The real user of a process.
fn owner(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok())
}

fn label_refusal(error: LabelError) -> Refusal {
    let code = match &error {
        LabelError::NoProcess(_) => Code::NoProcess,
        LabelError::AlreadyLabelled(_) => Code::AlreadyLabelled,
        _ => Code::Kernel,
    };
    Refusal::new(code, error.to_string())
}

/// Whether governing `pid` and its descendants would govern this process.
fn is_own_ancestor(pid: u32) -> bool {
    let mut at = std::process::id();
    // Deeper trees than this have no place for a daemon.
    for _ in 0..1_000 {
        if at == pid {
            return true;
        }
        let status = std::fs::read_to_string(format!("/proc/{at}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        match parent {
            Some(parent) if parent != 0 => at = parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_parent_are_ancestors() {
        let me = std::process::id();
        assert!(is_own_ancestor(me) && is_own_ancestor(std::os::unix::process::parent_id()));
        assert!(!is_own_ancestor(u32::MAX));
    }

    #[test]
    fn a_process_belongs_to_its_real_user() {
        assert_eq!(owner(std::process::id()), Some(rustix::process::getuid().as_raw()));
        assert_eq!(owner(u32::MAX), None);
    }
}
