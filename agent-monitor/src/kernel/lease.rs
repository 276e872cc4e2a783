//! When the leases of an image end, on the clock that the hooks look at.
//!
//! What must stay true: an image with leases is never in force with a later end than the daemon was told, and one whose
//! end nobody told has none of its leases.

use agent_monitor_common::image::{MAX_PROFILES, PROFILE_ROWS};
use aya::maps::{Array, MapData, MapError};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use super::install::InstallError;
use super::loader::Kernel;

/// A moment of `CLOCK_BOOTTIME`, in nanoseconds: it goes on while the host sleeps and nobody can set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Long ago.
    pub const PAST: Deadline = Deadline(0);

    /// The moment at which the wall clock, as it goes now, shows `end`.
    #[must_use]
    pub fn at(end: Timestamp) -> Self {
        let left = end.as_nanosecond() - Timestamp::now().as_nanosecond();
        let time = clock_gettime(ClockId::Boottime);
        let now = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        Deadline(u64::try_from((now + left).max(0)).unwrap_or(u64::MAX))
    }

    /// Of a row, from a set of maps.
    pub(super) fn read(map: &Array<MapData, u64>, row: u32) -> Result<Self, MapError> {
        map.get(&row, 0).map(Deadline)
    }
}

impl Kernel {
    /// Lets the leases of the image in force in `slot` end at `deadline`.
    ///
    /// # Errors
    /// When there is no such slot, or the map can't be written.
    pub fn set_deadline(&mut self, slot: u32, deadline: Deadline) -> Result<(), InstallError> {
        if slot as usize >= MAX_PROFILES {
            return Err(InstallError::Slot { slot });
        }
        Ok(self.maps.deadlines.set(slot, deadline.0, 0)?)
    }

    /// The earlier one of what holds in `row` and `deadline`, while one image takes over from another.
    pub(super) fn advance_deadline(&mut self, row: u32, deadline: Deadline) -> Result<(), MapError> {
        debug_assert!((row as usize) < PROFILE_ROWS);
        let held = Deadline::read(&self.maps.deadlines, row)?;
        self.maps.deadlines.set(row, held.min(deadline).0, 0)
    }
}
