//! Labelling from userspace: new agents, living trees, the sockets they hold.

use std::collections::HashMap;
use std::io::{self, Read};

use agent_monitor_common::agent::{AgentState, AttachRequest, StaleFlow};
use agent_monitor_common::label::{BITMAP_WORDS, Label, LabelOrigin, bit_of};
use agent_monitor_common::wire::Wire;
use aya::maps::MapError;
use aya::programs::{Iter, ProgramError};
use std::os::fd::AsFd;

use super::control::{AgentPod, AttachPod};
use super::loader::Kernel;
use super::syscalls::read_words;

/// Why a process or its sockets could not be labelled.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("process {0} belongs to an agent already")]
    AlreadyLabelled(u32),
    #[error("the agent table is full: {0}")]
    AgentTable(#[source] MapError),
    /// A process without its label is denied everything. A socket without one is governed again where it is used with an
    /// address, and where the kernel runs BPF LSM programs.
    #[error(
        "{failed} processes or sockets of the tree could not be labelled: end the tree, or attach it again"
    )]
    Incomplete { failed: u32 },
    #[error("the tree of process {0} forks faster than it can be labelled")]
    Unstable(u32),
    #[error("cannot run the iterator {name}: {source}")]
    Iterator { name: &'static str, source: ProgramError },
    #[error("cannot read the iterator {name}: {source}")]
    Read { name: &'static str, source: io::Error },
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What a labelling pass reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    pub processes: u32,
    pub sockets: u32,
}

/// Passes over a tree before it is called unstable. Each pass labels at least one generation, and what is labelled
/// labels its own children, so only a tree deeper than this needs more.
const PASSES: u32 = 64;

/// What labels count of each agent ([`Label::allowed`]).
pub(super) fn allowed_by_labels(labels: impl Iterator<Item = Label>) -> HashMap<u32, u64> {
    let mut counted = HashMap::new();
    for label in labels {
        *counted.entry(label.agent).or_default() += label.allowed;
    }
    counted
}

impl Kernel {
    /// Makes an agent of process `root`, its living descendants and the sockets they hold. Returns its key.
    ///
    /// # Errors
    /// When nothing or not everything could be labelled. Processes that were labelled stay governed.
    pub fn new_agent(&mut self, slot: u32, root: u32, origin: LabelOrigin) -> Result<u32, LabelError> {
        if self.is_labelled(root) {
            return Err(LabelError::AlreadyLabelled(root));
        }
        let agent = self.next_agent;
        let state = AgentState {
            profile: slot,
            root,
            created_ns: boot_ns(),
            origin: origin.code(),
            ..AgentState::ZERO
        };
        self.maps
            .agents
            .insert(agent, AgentPod(state), 1 /* BPF_NOEXIST */)
            .map_err(LabelError::AgentTable)?;
        self.next_agent = self.next_agent.wrapping_add(1) | USER_AGENT;
        self.save_note();
        match self.label_tree(agent, slot, root, origin) {
            Ok(Labelled { processes: 0, .. }) => {
                self.remove_agent(agent);
                Err(LabelError::NoProcess(root))
            }
            Ok(_) => Ok(agent),
            Err(e) => {
                // What was labelled stays governed; an agent without a process would never end.
                if self.agent(agent).is_some_and(|state| state.live == 0) {
                    self.remove_agent(agent);
                }
                Err(e)
            }
        }
    }

    /// Labels `root`, its living descendants and their sockets with an existing agent. A `root` of 0: nothing but the
    /// descendants and the sockets of what carries the agent already.
    ///
    /// # Errors
    /// What could not be labelled; what was labelled before stays so.
    pub fn label_tree(
        &mut self,
        agent: u32,
        slot: u32,
        root: u32,
        origin: LabelOrigin,
    ) -> Result<Labelled, LabelError> {
        let mut total = Labelled::default();
        for _ in 0..PASSES {
            let done = self.pass("iterate_tasks", agent, slot, root, origin)?;
            total.processes += done.labelled;
            if done.failed > 0 {
                return Err(LabelError::Incomplete { failed: done.failed });
            }
            if done.labelled == 0 {
                let sockets = self.pass("iterate_sockets", agent, slot, root, origin)?;
                total.sockets = sockets.sockets;
                if sockets.failed > 0 {
                    return Err(LabelError::Incomplete { failed: sockets.failed });
                }
                return Ok(total);
            }
        }
        Err(LabelError::Unstable(root))
    }

    /// Labels one living process, and children of the agent that are found on the way; whether anything was labelled.
    pub(super) fn label_one(
        &mut self,
        tgid: u32,
        agent: u32,
        slot: u32,
        origin: LabelOrigin,
    ) -> Result<bool, LabelError> {
        let done = self.pass("iterate_tasks", agent, slot, tgid, origin)?;
        if done.failed > 0 {
            return Err(LabelError::Incomplete { failed: done.failed });
        }
        Ok(done.labelled > 0)
    }

    /// Ties the sockets that an agent's processes hold to it.
    pub(super) fn label_sockets(&mut self, agent: u32) -> Result<(), LabelError> {
        match self.pass("iterate_sockets", agent, 0, 0, LabelOrigin::Attach)?.failed {
            0 => Ok(()),
            failed => Err(LabelError::Incomplete { failed }),
        }
    }

    /// Keys of agents that the exec hook makes go on behind `key`.
    pub(super) fn set_next_claimed(&mut self, key: u64) -> Result<(), MapError> {
        self.maps.next_agent.set(0, key, 0)
    }

    /// Forgets an agent that has no living process, and its counters.
    pub fn remove_agent(&mut self, agent: u32) {
        if let Some(pinned) = &mut self.pinned {
            pinned.forget_agent(agent);
        }
        // A missing entry is what we want.
        let _ = self.maps.agents.remove(&agent);
        let listed: Vec<[u32; 2]> =
            self.maps.syscall_count.keys().flatten().filter(|key| key[0] == agent).collect();
        for key in listed {
            let _ = self.maps.syscall_count.remove(&key);
        }
    }

    /// All agents, ended ones too until they are removed. What they are allowed is counted without what the labels of
    /// their living processes count.
    pub fn agents(&self) -> Vec<(u32, AgentState)> {
        self.maps.agents.iter().flatten().map(|(key, AgentPod(state))| (key, state)).collect()
    }

    /// [`Kernel::agents`], with what the labels count: it reads every label.
    pub fn agents_in_full(&self) -> Vec<(u32, AgentState)> {
        let counted = allowed_by_labels(self.labelled_processes().into_iter().map(|(_, label)| label));
        let mut agents = self.agents();
        for (key, state) in &mut agents {
            state.allowed += counted.get(key).copied().unwrap_or(0);
        }
        agents
    }

    /// One agent's state, as [`Kernel::agents`] has it.
    pub fn agent(&self, agent: u32) -> Option<AgentState> {
        self.maps.agents.get(&agent, 0).ok().map(|AgentPod(state)| state)
    }

    /// The label of a process.
    pub fn label_of(&self, tgid: u32) -> Option<Label> {
        self.maps.labels.get(&tgid, 0).ok().map(|l| l.0)
    }

    /// Whether a process carries a label, or carried one that was lost.
    pub fn is_labelled(&self, tgid: u32) -> bool {
        if self.label_of(tgid).is_some() {
            return true;
        }
        let mut bits = vec![0; BITMAP_WORDS];
        match read_words(self.maps.label_bits.fd().as_fd(), 0, &mut bits) {
            Ok(()) => {
                let (word, bit) = bit_of(tgid);
                bits[word] & bit != 0
            }
            Err(_) => true, // an answer that can't be had is the strict one
        }
    }

    /// Processes that carry a label.
    pub fn labelled_processes(&self) -> Vec<(u32, Label)> {
        self.maps.labels.iter().flatten().map(|(tgid, l)| (tgid, l.0)).collect()
    }

    /// Listed system calls by agent and number; bit 31 of the number: through the 32-bit table.
    pub fn syscall_counts(&self) -> Vec<(u32, u32, u64)> {
        self.maps.syscall_count.iter().flatten().map(|([agent, nr], n)| (agent, nr, n)).collect()
    }

    /// Connected sockets that their agents' profiles no longer grant, found in the kernel by the same `decide()`.
    pub fn stale_flows(&mut self) -> Result<Vec<StaleFlow>, LabelError> {
        let bytes = self.run_iterator("iterate_stale")?;
        Ok(bytes.chunks_exact(size_of::<StaleFlow>()).filter_map(StaleFlow::read_from).collect())
    }

    /// Finds the class of every process of a profile, and of its sockets, by the image in slot `image`.
    pub(super) fn find_classes(
        &mut self,
        profile: u32,
        image: u32,
        generation: u32,
    ) -> Result<Labelled, LabelError> {
        let mut total = Labelled::default();
        for name in ["iterate_classes", "iterate_socket_classes"] {
            let request = AttachRequest { profile, image, generation, ..AttachRequest::ZERO };
            self.maps.attach.set(0, AttachPod(request), 0)?;
            self.run_iterator(name)?;
            let done: AttachRequest = self.maps.attach.get(&0, 0)?.0;
            if done.failed > 0 {
                return Err(LabelError::Incomplete { failed: done.failed });
            }
            total.processes += done.labelled;
            total.sockets += done.sockets;
        }
        Ok(total)
    }

    fn pass(
        &mut self,
        name: &'static str,
        agent: u32,
        profile: u32,
        root: u32,
        origin: LabelOrigin,
    ) -> Result<AttachRequest, LabelError> {
        let request = AttachRequest { agent, profile, root, origin: origin.code(), ..AttachRequest::ZERO };
        self.maps.attach.set(0, AttachPod(request), 0)?;
        self.run_iterator(name)?;
        Ok(self.maps.attach.get(&0, 0)?.0)
    }

    /// Runs an iterator to its end; what it wrote.
    pub(super) fn run_iterator(&mut self, name: &'static str) -> Result<Vec<u8>, LabelError> {
        let failed = |source| LabelError::Iterator { name, source };
        let program: &mut Iter = self
            .object
            .program_mut(name)
            .ok_or_else(|| failed(ProgramError::NotLoaded))?
            .try_into()
            .map_err(failed)?;
        let link = program.attach().map_err(failed)?;
        let link = program.take_link(link).map_err(failed)?;
        let mut file =
            link.into_file().map_err(|e| LabelError::Read { name, source: io::Error::other(e) })?;
        let mut out = Vec::new();
        file.read_to_end(&mut out).map_err(|source| LabelError::Read { name, source })?;
        Ok(out)
    }
}

/// Keys of agents that userspace makes have the top bit; those that the exec hook makes do not.
pub(super) const USER_AGENT: u32 = 1 << 31;

fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
