//! Which agents there are: the kernel's key of each, and what people call it.
//!
//! Written by the daemon (agents it labels) and by the event pipeline (agents that the kernel made at an exec that a
//! profile claims); read by both and by the control server. What must stay true: a key names one agent for as long as
//! the programs are loaded, so an ended agent stays known for its late events, and the memory of ended ones is
//! bounded.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_monitor_common::label::LabelOrigin;
use jiff::Timestamp;
use ulid::Ulid;

/// Ended agents that are still known.
const KEPT_ENDED: usize = 512;

/// One governed process tree.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentInfo {
    /// Key in the kernel's agent table.
    pub key: u32,
    pub id: Ulid,
    /// Name of its profile.
    pub profile: Arc<str>,
    /// Slot of its profile.
    pub slot: u32,
    /// The process that was labelled first.
    pub root: u32,
    pub origin: LabelOrigin,
    pub started: Timestamp,
    /// The cgroup that the daemon made for it, to be removed after it; or the one that a claim matched.
    pub cgroup: Option<AgentCgroup>,
    /// `run` said that it puts Landlock and seccomp rules in force for it.
    pub confined: bool,
}

/// The cgroup of an agent that has one of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentCgroup {
    /// Directory in the cgroup file system.
    pub directory: PathBuf,
    /// The daemon made it and removes it.
    pub ours: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<u32, Arc<AgentInfo>>,
    ended: VecDeque<Arc<AgentInfo>>,
}

impl Registry {
    /// Adds the agent that `make` labels in the kernel. Its first events wait until it is known here.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn add<E>(&self, make: impl FnOnce() -> Result<AgentInfo, E>) -> Result<Arc<AgentInfo>, E> {
        let mut inner = self.lock();
        let info = Arc::new(make()?);
        inner.live.insert(info.key, Arc::clone(&info));
        Ok(info)
    }

    /// The agent with this key, and whether `make` had to be asked for it.
    pub fn find_or_add(&self, key: u32, make: impl FnOnce() -> AgentInfo) -> (Arc<AgentInfo>, bool) {
        let mut inner = self.lock();
        if let Some(known) = inner.find(key) {
            return (known, false);
        }
        let info = Arc::new(make());
        inner.live.insert(key, Arc::clone(&info));
        (info, true)
    }

    /// The agent with this key, living or lately ended.
    #[must_use]
    pub fn find(&self, key: u32) -> Option<Arc<AgentInfo>> {
        self.lock().find(key)
    }

    /// Whether an agent is among the living.
    #[must_use]
    pub fn lives(&self, key: u32) -> bool {
        self.lock().live.contains_key(&key)
    }

    /// Takes an agent out of the living; `None` if it was not among them.
    pub fn end(&self, key: u32) -> Option<Arc<AgentInfo>> {
        let mut inner = self.lock();
        let info = inner.live.remove(&key)?;
        inner.ended.push_back(Arc::clone(&info));
        if inner.ended.len() > KEPT_ENDED {
            inner.ended.pop_front();
        }
        Some(info)
    }

    /// The living agents, oldest first.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<AgentInfo>> {
        let mut live: Vec<_> = self.lock().live.values().cloned().collect();
        live.sort_by_key(|info| info.key);
        live
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the map whole: every change is one insert or remove.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn find(&self, key: u32) -> Option<Arc<AgentInfo>> {
        self.live.get(&key).or_else(|| self.ended.iter().rev().find(|info| info.key == key)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(key: u32) -> AgentInfo {
        AgentInfo {
            key,
            id: Ulid::from(u128::from(key)),
            profile: "p".into(),
            slot: 0,
            root: 1,
            origin: LabelOrigin::Run,
            started: Timestamp::UNIX_EPOCH,
            cgroup: None,
            confined: false,
        }
    }

    #[test]
    fn an_ended_agent_stays_known_for_a_while() {
        let registry = Registry::default();
        registry.add(|| Ok::<_, ()>(info(1))).unwrap();
        assert_eq!(registry.live().len(), 1);
        assert!(registry.end(1).is_some());
        assert!(registry.end(1).is_none());
        assert!(registry.live().is_empty() && !registry.lives(1));
        assert_eq!(registry.find(1).unwrap().key, 1);
        for key in 2..KEPT_ENDED as u32 + 3 {
            assert!(registry.find_or_add(key, || info(key)).1);
            registry.end(key);
        }
        assert!(registry.find(1).is_none());
    }

    #[test]
    fn an_agent_is_added_once() {
        let registry = Registry::default();
        assert!(registry.find_or_add(5, || info(5)).1);
        assert!(!registry.find_or_add(5, || unreachable!()).1);
        assert_eq!(registry.add(|| Err::<AgentInfo, _>("no")), Err("no"));
        assert_eq!(registry.live().len(), 1);
    }
}
