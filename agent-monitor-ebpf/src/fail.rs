//! Failures: counted by site, and what they mean for the operation.

use agent_monitor_common::counters::Site;

use crate::maps::FAULTS;

/// Counts a failure.
#[inline(always)]
pub fn count(site: Site) {
    if let Some(cell) = FAULTS.get_ptr_mut(site.code()) {
        // SAFETY: this CPU's cell of a per-CPU array; a lost increment under preemption is tolerable, a torn one
        // impossible on 64-bit.
        unsafe { *cell = (*cell).wrapping_add(1) };
    }
}
