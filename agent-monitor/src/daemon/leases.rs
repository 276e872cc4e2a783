//! Grants that end by themselves (`expires:`): the daemon's part.
//!
//! The kernel ends *all* leases of a profile when the first of them ends, because an image knows one deadline. So the
//! daemon puts an image without that one in force a moment before, with the deadline of the next. A daemon that is dead or
//! late makes leases shorter, never longer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::core::Core;
use super::table::Table;
use crate::control::protocol::ReloadOutcome;
use crate::policy::ResolvedProfile;

/// How often leases are looked at, while there are any.
pub const LOOK: Duration = Duration::from_millis(250);
/// How long before its end a lease is taken away: more than most installs take. In a longer one the other leases are closed
/// from that end until it is done.
const AHEAD: Duration = Duration::from_secs(1);

/// What counts as ended now.
fn ended() -> Timestamp {
    Timestamp::now().saturating_add(AHEAD).unwrap_or(Timestamp::MAX)
}

/// Leaves out the grants whose time is over; whether there were any.
pub fn lapse(profile: &mut ResolvedProfile) -> bool {
    profile.lapse(ended())
}

impl Core {
    /// Whether any profile has leases, for the loop that calls [`Core::end_leases`].
    pub fn note_leases(&self, table: &Table) {
        let any = table.slots.values().any(|held| held.profile.first_end().is_some());
        self.has_leases.store(any, Ordering::Release);
    }

    /// Puts the profiles in force anew of which a lease ends now, without it, and cuts its flows.
    pub fn end_leases(&self) {
        let _changes = self.changes();
        let over: Vec<Arc<ResolvedProfile>> = self
            .table()
            .slots
            .values()
            .filter(|held| held.profile.first_end().is_some_and(|end| end <= ended()))
            .map(|held| Arc::clone(&held.profile))
            .collect();
        if over.is_empty() {
            return;
        }
        let ready: Vec<_> =
            over.into_iter().map(|profile| (self.prepare((*profile).clone()), profile)).collect();
        let mut done = Vec::new();
        let mut table = self.table();
        for (ready, profile) in ready {
            let slot = table.slot_of(&profile.name);
            // Its last agent may have ended, and it with it.
            let Some(held) = slot.and_then(|slot| table.slots.get(&slot)) else { continue };
            if !Arc::ptr_eq(&held.profile, &profile) {
                continue;
            }
            let (refused, retired) = (held.refused.clone(), held.retired);
            tracing::info!(profile = %profile.name, "a lease ends");
            done.push(self.install(&mut table, ready));
            // What was said of its newest file is true still.
            if let Some(held) = slot.and_then(|slot| table.slots.get_mut(&slot)) {
                held.refused = held.refused.take().or(refused);
                held.retired = retired;
            }
        }
        self.note_leases(&table);
        drop(table);
        if done.iter().any(|profile| profile.outcome == ReloadOutcome::Refused) {
            // The kernel ends them all by itself; `tidy` lets it be tried again.
            self.has_leases.store(false, Ordering::Release);
        }
        self.cut_stale();
        for profile in &done {
            self.tell_profile(profile);
        }
    }
}
