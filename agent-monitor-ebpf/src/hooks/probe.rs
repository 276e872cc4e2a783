//! The test-run probe: runs the kernel's `decide()` on requests that userspace chose.
//!
//! Never attached. `BPF_PROG_TEST_RUN` with `repeat = n` judges the next `n` requests of the batch; the differential
//! test compares the answers with userspace's `decide()`, the benchmark takes the time.

use agent_monitor_common::decide::decide;
use agent_monitor_common::image::Class;
use agent_monitor_common::request::{Address, Direction, NetRequest, PROBE_BATCH, ProbeRequest, Protocol};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps::PROBE;
use crate::path::below;
use crate::subject::table;

pub const FAILED: i32 = -1;

/// The next request of the batch.
///
/// # Safety
/// Only test-runs of this program use the map, one at a time.
#[inline(always)]
pub unsafe fn next() -> Option<(u32, Class, usize, NetRequest)> {
    let probe = PROBE.get_ptr_mut(0)?;
    // SAFETY: an array element of this size; the index is bounded.
    unsafe {
        let at = below::<PROBE_BATCH>((*probe).next as usize);
        (*probe).next = (*probe).next.wrapping_add(1);
        let r = (&raw const (*probe).requests).cast::<ProbeRequest>().add(at);
        let word = |i: usize| (&raw const (*r).address).cast::<u32>().add(i).read();
        let request = NetRequest {
            address: Address([word(0), word(1), word(2), word(3)]),
            port: (*r).port,
            direction: Direction::from_code((*r).direction)?,
            protocol: Protocol::from_code((*r).protocol)?,
        };
        Some(((*probe).slot, Class::new((*probe).class), at, request))
    }
}

/// Judges the next request and stores the answer.
#[classifier]
pub fn probe_decide(_ctx: TcContext) -> i32 {
    // SAFETY: see `next`.
    unsafe {
        let Some((slot, class, at, request)) = next() else { return FAILED };
        let Some(table) = table(slot) else { return FAILED };
        let answer = decide(&table, class, request) as u32;
        let Some(probe) = PROBE.get_ptr_mut(0) else { return FAILED };
        *(&raw mut (*probe).answers).cast::<u32>().add(below::<PROBE_BATCH>(at)) = answer;
        answer as i32
    }
}

/// The same without a decision: what the probe itself costs.
#[classifier]
pub fn probe_empty(_ctx: TcContext) -> i32 {
    // SAFETY: see `next`.
    unsafe {
        let Some((slot, _, at, request)) = next() else { return FAILED };
        if table(slot).is_none() {
            return FAILED;
        }
        let Some(probe) = PROBE.get_ptr_mut(0) else { return FAILED };
        let answer = request.port as u32 & 1;
        *(&raw mut (*probe).answers).cast::<u32>().add(below::<PROBE_BATCH>(at)) = answer;
        answer as i32
    }
}
