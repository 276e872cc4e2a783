//! Which names TLS clients may say: told to the kernel where a profile asks for them (`sni: require`).
//!
//! The kernel matches no patterns. A client says the name that it looked up, so the resolver writes each name that it
//! answers for beside the class that the rules give it. Called by `grants`, with whatever it tells of an address.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_monitor_common::name::{Spoken, SpokenKey};

use super::grants::{InForce, NS, monotonic};
use crate::kernel::{NameMaps, spoken_key};

/// How long a name may be said after its answer has expired: by who called while it held.
const KEPT_NS: u64 = 3_600 * NS;
/// How often room is looked for at most.
const LOOKED: Duration = Duration::from_secs(1);

/// When room was looked for last.
#[derive(Debug, Default)]
pub struct Room(Option<Instant>);

impl Room {
    /// The kernel knows `name`, of `class`, when this returns true. False: there is no room for it.
    pub fn tell(
        &mut self,
        maps: &mut NameMaps,
        slot: u32,
        held: &InForce,
        name: &Arc<str>,
        class: u16,
        until: u64,
    ) -> bool {
        // No question has a longer name.
        let Some(key) = spoken_key(slot, held.generation, name) else { return false };
        let spoken = Spoken { until, class, ..Spoken::ZERO };
        if maps.set_spoken(key, spoken).is_ok() {
            return true;
        }
        if self.0.is_some_and(|looked| looked.elapsed() < LOOKED) {
            return false;
        }
        self.0 = Some(Instant::now());
        let now = monotonic();
        maps.sweep_spoken(|_, spoken| spoken.until < now);
        maps.set_spoken(key, spoken).is_ok()
    }
}

/// Takes out what has long expired, and what `current` says is of no generation in force.
pub fn tidy(maps: &mut NameMaps, current: impl Fn(&SpokenKey) -> bool) {
    let horizon = monotonic().saturating_sub(KEPT_NS);
    maps.sweep_spoken(|key, spoken| spoken.until < horizon || !current(key));
}
