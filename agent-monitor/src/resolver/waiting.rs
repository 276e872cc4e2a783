//! Room for questions that wait for a server: bounded, and no agent takes all of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Questions that wait at one time.
const MAX: u32 = 1_024;
/// Those of one agent.
const MAX_OF_AGENT: u32 = 256;

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    agents: HashMap<u32, u32>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<Counts>>);

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    waiting: Waiting,
    agent: u32,
}

impl Waiting {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a question of an agent; `None`: too many wait.
    pub fn enter(&self, agent: u32) -> Option<Place> {
        let mut counts = self.counts();
        let own = counts.agents.get(&agent).copied().unwrap_or(0);
        if counts.all >= MAX || own >= MAX_OF_AGENT {
            return None;
        }
        counts.all += 1;
        counts.agents.insert(agent, own + 1);
        Some(Place { waiting: self.clone(), agent })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.waiting.counts();
        counts.all = counts.all.saturating_sub(1);
        let left = counts.agents.get(&self.agent).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            counts.agents.remove(&self.agent);
        } else {
            counts.agents.insert(self.agent, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_agent_takes_all_the_room() {
        let waiting = Waiting::default();
        let greedy: Vec<Place> = std::iter::from_fn(|| waiting.enter(1)).collect();
        assert_eq!(greedy.len(), MAX_OF_AGENT as usize);
        let mut others: Vec<Place> = (2..100).filter_map(|agent| waiting.enter(agent)).collect();
        assert_eq!(others.len(), 98);
        others.extend((0..MAX).filter_map(|n| waiting.enter(1_000 + n)));
        assert!(waiting.enter(5_000).is_none());
        drop((greedy, others));
        assert_eq!(waiting.counts().all, 0);
        assert!(waiting.counts().agents.is_empty() && waiting.enter(1).is_some());
    }
}
