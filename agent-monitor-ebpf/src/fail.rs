//! Failures: counted by site; and, in a build for tests, made to happen by site.
//!
//! What a failure means for the operation is the hook's to say: in an enforcing profile it denies.

use agent_monitor_common::counters::Site;

use crate::maps::FAULTS;
#[cfg(feature = "fault-injection")]
use crate::maps::INJECT;

/// Counts a failure.
#[inline(always)]
pub fn count(site: Site) {
    if let Some(cell) = FAULTS.get_ptr_mut(site.code()) {
        // SAFETY: this CPU's cell of a per-CPU array; a lost increment under preemption is tolerable, a torn one
        // impossible on 64-bit.
        unsafe { *cell = (*cell).wrapping_add(1) };
    }
}

/// Whether the helper at `site` is to fail. Never, but in the build that tests what follows from it.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub const fn injected(_: Site) -> bool {
    false
}

/// Whether the helper at `site` is to fail, because a test asked for it.
#[cfg(feature = "fault-injection")]
#[inline(always)]
pub fn injected(site: Site) -> bool {
    match INJECT.get_ptr(0) {
        // SAFETY: an element of an array; the test writes it as one word.
        Some(mask) => unsafe { core::ptr::read_volatile(mask) >> site.code() & 1 == 1 },
        None => false,
    }
}
