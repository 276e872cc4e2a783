//! What a kernel side that is pinned tells the daemon, and what it keeps for the next one.
//!
//! Without pins every note is kept nowhere and every question has the answer of a fresh start.

use agent_monitor_common::counters::{Ring, RingCounters};
use agent_monitor_common::image::{CLAIMS_ROW, InForce, MAX_PROFILES};

use super::loader::Kernel;
use super::pins::{AgentNote, Origin, PinError, PinnedProfile};

impl Kernel {
    /// Where it came from.
    pub fn origin(&self) -> Origin {
        self.pinned.as_ref().map_or(Origin::Fresh, |pinned| pinned.origin.clone())
    }

    /// Everything is in force: from here what is pinned outlives the process, and what it replaces goes.
    ///
    /// # Errors
    /// When the pins can't be written, or the older ones not removed.
    pub fn commit(&mut self) -> Result<(), PinError> {
        self.pinned.as_mut().map_or(Ok(()), super::pins::Pinned::commit)
    }

    /// The profiles that an earlier daemon left, by slot. One that it had no time to note has no name.
    pub fn inherited_profiles(&self) -> Vec<(u32, PinnedProfile)> {
        let Some(pinned) = self.pinned.as_ref().filter(|pinned| pinned.origin != Origin::Fresh) else {
            return Vec::new();
        };
        let in_force = |slot: &u32| {
            let word = self.maps.profiles.get(slot, 0).unwrap_or(0);
            InForce::from_word(word).map(|held| held.generation)
        };
        (0..MAX_PROFILES as u32)
            .filter_map(|slot| {
                let generation = in_force(&slot)?;
                let noted = pinned.note.profiles.get(slot as usize).cloned().unwrap_or_default();
                // Killed between the flip and the note: what is in force is not what was noted.
                let digest = if noted.generation == generation { noted.digest } else { [0; 32] };
                Some((slot, PinnedProfile { digest, generation, ..noted }))
            })
            .collect()
    }

    /// Whether claims of executables are in force.
    pub fn claims_in_force(&self) -> bool {
        self.maps.profiles.get(&CLAIMS_ROW, 0).is_ok_and(|word| word != 0)
    }

    /// Notes which profile is in force in a slot.
    pub fn note_profile(&mut self, slot: u32, name: &str, digest: [u8; 32], generation: u32) {
        if let Some(pinned) = &mut self.pinned {
            pinned.note_profile(slot, name, digest, generation);
        }
        self.save_note();
    }

    /// Notes what people call an agent.
    pub fn note_agent(&mut self, key: u32, note: AgentNote) {
        let Some(pinned) = &mut self.pinned else { return };
        if let Err(error) = pinned.note_agent(key, note) {
            tracing::warn!(%error, "an agent's id can't be noted: a restarted daemon gives it another one");
        }
    }

    /// The agents that an earlier daemon noted.
    pub fn noted_agents(&self) -> Vec<(u32, AgentNote)> {
        self.pinned.as_ref().map(super::pins::Pinned::agents).unwrap_or_default()
    }

    /// Losses of the rings that an earlier daemon told of.
    pub fn told(&self) -> [RingCounters; 2] {
        let told = self.pinned.as_ref().map_or([0; 2], |pinned| pinned.note.told);
        told.map(|lost| RingCounters { lost, ..RingCounters::ZERO })
    }

    /// Notes which losses were told of.
    pub fn note_told(&mut self, counters: &[RingCounters; 2]) {
        let Some(pinned) = &mut self.pinned else { return };
        let told = Ring::ALL.iter().map(|ring| counters[ring.code() as usize].lost);
        let mut changed = false;
        for (old, new) in pinned.note.told.iter_mut().zip(told) {
            changed |= *old != new;
            *old = new;
        }
        if changed {
            self.save_note();
        }
    }

    /// Writes the note; a failure is one line in the log, for what is in force stays so.
    pub(super) fn save_note(&mut self) {
        let Some(pinned) = &mut self.pinned else { return };
        pinned.note.next_agent = self.next_agent;
        if let Err(error) = pinned.save() {
            tracing::error!(%error, "the note of the pins can't be written");
        }
    }
}
