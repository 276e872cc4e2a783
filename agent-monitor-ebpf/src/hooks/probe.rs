//! The test-run probes: run the kernel's `decide()` on requests, and its walk of the path automaton on paths, that
//! userspace chose.
//!
//! Never attached. `BPF_PROG_TEST_RUN` with `repeat = n` judges the next `n` of the batch; the differential test
//! compares the answers with userspace's, the benchmark takes the time.

use agent_monitor_common::decide::{decide, decide_name};
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::path::{PATH_BATCH, PathAnswer};
use agent_monitor_common::request::{Address, Direction, NetRequest, PROBE_BATCH, ProbeRequest, Protocol};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::automaton::{self, Begin};
use crate::maps::{PATH_PROBE, PATH_PROBE_CURSOR, PROBE, PathProbeTable};
use crate::path::{CAP, below};
use crate::subject::{Table, table};

pub const FAILED: i32 = -1;

/// The next request of the batch.
///
/// # Safety
/// Only test-runs of this program use the map, one at a time.
#[inline(always)]
pub unsafe fn next() -> Option<(u32, Class, usize, NetRequest, u32)> {
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
        Some(((*probe).slot, Class::of_record((*probe).class), at, request, (*r).name))
    }
}

/// Judges the next request and stores the answer.
#[classifier]
pub fn probe_decide(_ctx: TcContext) -> i32 {
    // SAFETY: see `next`.
    unsafe {
        let Some((slot, class, at, request, name)) = next() else { return FAILED };
        let Some(table) = table(slot) else { return FAILED };
        let answer = match name {
            0 => decide(&table, class, request) as u32,
            name => decide_name(&table, class, name as u16, request.protocol, request.port) as u32,
        };
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
        let Some((slot, _, at, request, _)) = next() else { return FAILED };
        if table(slot).is_none() {
            return FAILED;
        }
        let Some(probe) = PROBE.get_ptr_mut(0) else { return FAILED };
        let answer = request.port as u32 & 1;
        *(&raw mut (*probe).answers).cast::<u32>().add(below::<PROBE_BATCH>(at)) = answer;
        answer as i32
    }
}

/// The next path of the batch: the table, its index, where its text begins.
///
/// # Safety
/// As [`next`].
#[inline(always)]
unsafe fn next_path() -> Option<(*mut PathProbeTable, usize, *const u8, u32)> {
    let probe = PATH_PROBE.get_ptr_mut(0)?;
    // SAFETY: an array element of this size; the index is bounded.
    unsafe {
        let at = below::<PATH_BATCH>((*probe).next as usize);
        (*probe).next = (*probe).next.wrapping_add(1);
        let start = *(&raw const (*probe).starts).cast::<u32>().add(at);
        let text = (&raw const (*probe).texts).cast::<u8>().add(at * CAP);
        Some((probe, at, text, start))
    }
}

/// Where the paths of the probe's class begin.
///
/// # Safety
/// As [`next`].
#[inline(always)]
unsafe fn start_path(table: &Table, probe: *mut PathProbeTable) -> u32 {
    // SAFETY: an array element.
    Class::of_record(unsafe { (*probe).class } as u32).field(table, class::START_PATH) as u32
}

/// Walks the next path and stores what the automaton says of it.
#[classifier]
pub fn probe_path(_ctx: TcContext) -> i32 {
    // SAFETY: see `next_path`.
    unsafe {
        let Some((probe, at, text, start)) = next_path() else { return FAILED };
        let Some(table) = table((*probe).slot as u32) else { return FAILED };
        let Some(cursor) = PATH_PROBE_CURSOR.get_ptr_mut(0) else { return FAILED };
        (*cursor).split = CAP as u64;
        let state =
            automaton::run_text(table, Begin { state: start_path(&table, probe), at: start }, text, cursor);
        let answer = PathAnswer::of(&table, state);
        (&raw mut (*probe).answers).cast::<PathAnswer>().add(below::<PATH_BATCH>(at)).write(answer);
        answer.own as i32
    }
}

/// The same without a walk.
#[classifier]
pub fn probe_path_empty(_ctx: TcContext) -> i32 {
    // SAFETY: see `next_path`.
    unsafe {
        let Some((probe, at, _, start)) = next_path() else { return FAILED };
        let Some(table) = table((*probe).slot as u32) else { return FAILED };
        let answer = PathAnswer::of(&table, start_path(&table, probe));
        (&raw mut (*probe).answers).cast::<PathAnswer>().add(below::<PATH_BATCH>(at)).write(answer);
        start as i32
    }
}
