//! The profiles behind the kernel's slots, with the generations that were in force lately.
//!
//! Written by the daemon at install, read by `event::enrich`: an event carries the slot and the generation that
//! decided, and is explained by that profile and not by its successor.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent_monitor_common::image::MAX_PROFILES;

use crate::policy::ResolvedProfile;

/// Generations kept of each profile.
const KEPT: usize = 4;

type Slot = VecDeque<(u32, Arc<ResolvedProfile>)>;

/// See the module.
#[derive(Debug)]
pub struct Generations {
    slots: Mutex<Vec<Slot>>,
    changes: AtomicU64,
}

impl Default for Generations {
    fn default() -> Self {
        Generations { slots: Mutex::new(vec![Slot::new(); MAX_PROFILES]), changes: AtomicU64::new(0) }
    }
}

impl Generations {
    /// Puts in force what `install` puts in force in the kernel, which answers the generation. Whoever asks for a
    /// generation meanwhile waits for the answer.
    ///
    /// # Errors
    /// What `install` returns; then nothing changed.
    pub fn install<E>(
        &self,
        slot: u32,
        profile: Arc<ResolvedProfile>,
        install: impl FnOnce() -> Result<u32, E>,
    ) -> Result<u32, E> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = install()?;
        if let Some(kept) = slots.get_mut(slot as usize) {
            // The same image from an edited file keeps its generation and gets its new line numbers.
            kept.retain(|(known, _)| *known != generation);
            kept.push_front((generation, profile));
            kept.truncate(KEPT);
        }
        self.changes.fetch_add(1, Ordering::Release);
        Ok(generation)
    }

    /// Grows with every install: what was derived from this table before is old then.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The profile that was in force in `slot` as `generation`; the newest where that one is no longer kept.
    #[must_use]
    pub fn find(&self, slot: u32, generation: u32) -> Option<Arc<ResolvedProfile>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = slots.get(slot as usize)?;
        let exact = kept.iter().find(|(known, _)| *known == generation);
        exact.or(kept.front()).map(|(_, profile)| Arc::clone(profile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixture::profile;

    #[test]
    fn an_event_is_explained_by_the_generation_that_decided() {
        let generations = Generations::default();
        for generation in 1..=6 {
            let profile = profile(&format!("p{generation}"));
            assert_eq!(generations.install(3, profile, || Ok::<_, ()>(generation)), Ok(generation));
        }
        let name = |generation| generations.find(3, generation).unwrap().name.clone();
        assert_eq!([name(6), name(4), name(1)], ["p6", "p4", "p6"]);
        assert!(generations.find(2, 1).is_none());
        assert!(generations.find(9_999, 1).is_none());
    }

    #[test]
    fn a_refused_install_changes_nothing() {
        let generations = Generations::default();
        let changes = generations.changes();
        assert_eq!(generations.install(0, profile("p"), || Err("no")), Err("no"));
        assert!(generations.find(0, 1).is_none());
        assert_eq!(generations.changes(), changes);
    }
}
