//! Runs the path automaton over a walked path, and keeps how far it came in the beginning of the last one: paths that
//! are opened one after another mostly begin alike, and what they share need not be read again.
//!
//! What is kept is true of the text alone: where an automaton stands behind given bytes changes only with the automaton.

use agent_monitor_common::automaton::{self, TERMINAL};
use agent_monitor_common::decide::forget;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use crate::directory::Asked;
use crate::name::word_at;
use crate::path::{CAP, SLACK, Scratch, below};
use crate::subject::Table;

/// Bytes of one call of the loop's callback.
const CHUNK: usize = 16;
const _: () = assert!(CHUNK <= SLACK);

/// Bytes behind which the state is kept, and again behind as many more.
const BLOCK: usize = 8;

/// Most of them.
const BLOCKS: usize = 8;

/// The walk over the text; on the stack, as `bpf_loop` asks.
#[repr(C)]
struct Run {
    table: Table,
    text: *const u8,
    cursor: *mut Cursor,
}

/// How far the walk over the text has come.
// VERIFIER: "The sequence of 8193 jumps is too complex": on the stack it would be known too well to be known again.
#[repr(C)]
pub struct Cursor {
    /// In 64 bits: see [`automaton::step_wide`].
    state: u64,
    /// The next byte to read.
    at: u64,
    /// Where the state is wanted too, and what it is there, or where the walk was over before.
    pub split: u64,
    behind: u64,
    /// States are kept of where the walk comes to before this byte; 0: of nowhere.
    keep: u64,
    beginning: Beginning,
}

/// The beginning of the path that was run over last with [`recall`].
#[repr(C)]
struct Beginning {
    /// Whose rules were asked, and the state that the walk began in; all zero: nothing is kept.
    key: [u64; 2],
    /// The first byte of the path.
    from: u64,
    /// The last of `states` that is known.
    known: u64,
    text: [u64; BLOCKS],
    /// Where the automaton stood before the first block, and behind each. Twice the room, so that an index is bounded by
    /// one AND.
    states: [u64; 2 * BLOCKS],
}

/// Where a run begins: the state, and the first byte to read.
#[derive(Clone, Copy)]
pub struct Begin {
    pub state: u32,
    pub at: u32,
}

/// The state of a path automaton behind the walked path, from `start`.
///
/// # Safety
/// `scratch` is the current task's, with a walked path.
#[inline(always)]
pub unsafe fn run(table: Table, start: u32, scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        keep_nothing(scratch);
        run_split(table, Begin { state: start, at: (*scratch).start }, scratch, CAP as u32).1
    }
}

/// The states behind `text[at..split]` and behind `text[at..CAP]`.
///
/// # Safety
/// As [`run`]; [`recall`] or [`keep_nothing`] was called since the last run.
#[inline(always)]
pub unsafe fn run_split(table: Table, begin: Begin, scratch: *mut Scratch, split: u32) -> (u32, u32) {
    // SAFETY: the caller's promise; behind `CAP` there is `SLACK`.
    unsafe {
        let cursor = &raw mut (*scratch).cursor;
        (*cursor).split = split as u64;
        let end = run_text(table, begin, (&raw const (*scratch).text).cast(), cursor);
        (forget((*cursor).behind as u32), end)
    }
}

/// The state behind `text[at..CAP]`. The cursor's `split` lies in between, or at `CAP`.
///
/// # Safety
/// `text` points into a map value, with `CAP + CHUNK` bytes behind it; `cursor` into one that nobody else writes.
#[inline(always)]
pub unsafe fn run_text(table: Table, begin: Begin, text: *const u8, cursor: *mut Cursor) -> u32 {
    let mut run = Run { table, text, cursor };
    // SAFETY: the caller's promise; the callback gets the stack struct that it expects.
    unsafe {
        (*cursor).state = begin.state as u64;
        (*cursor).behind = begin.state as u64;
        (*cursor).at = begin.at as u64;
        bpf_loop(
            (CAP / CHUNK) as u32 + 3,
            run_callback as *const () as *mut c_void,
            (&raw mut run).cast(),
            0,
        );
        forget((*cursor).state as u32)
    }
}

/// Keeps nothing of the next run, and all that was kept.
///
/// # Safety
/// `scratch` is the current task's.
#[inline(always)]
pub unsafe fn keep_nothing(scratch: *mut Scratch) {
    // SAFETY: the caller's promise.
    unsafe { write_volatile(&raw mut (*scratch).cursor.keep, 0) };
}

/// Where the run over the walked path may begin, that would begin with `start`: behind what it has in common with the
/// last one, before `split`. What the next run is over is kept in its place.
///
/// # Safety
/// As [`run`].
#[inline(always)]
pub unsafe fn recall(scratch: *mut Scratch, asked: Asked, start: u32, split: u32) -> Begin {
    // SAFETY: the caller's promise; every index is bounded, and behind `CAP` there is `SLACK`.
    unsafe {
        let from = (*scratch).start as usize;
        let cursor = &raw mut (*scratch).cursor;
        let kept = &raw mut (*cursor).beginning;
        let words = (&raw mut (*kept).text).cast::<u64>();
        let states = (&raw mut (*kept).states).cast::<u64>();
        let text = (&raw const (*scratch).text).cast::<u8>().add(below::<CAP>(from));
        let key = [
            (asked.profile as u64) << 32 | asked.generation as u64,
            (asked.class.record() as u64) << 32 | start as u64,
        ];
        let kept_key = (&raw mut (*kept).key).cast::<u64>();
        let differs = (read_volatile(kept_key) ^ key[0]) | (read_volatile(kept_key.add(1)) ^ key[1]);
        let blocks = hide(at_most((split as usize).saturating_sub(from) / BLOCK, BLOCKS));
        let known = if differs == 0 { read_volatile(&raw const (*kept).known) as usize } else { 0 };
        let most = hide(at_most(known, blocks));
        let mut same = 0;
        while same < BLOCKS && word_at(text.add(same * BLOCK)) == read_volatile(words.add(same)) {
            same += 1;
        }
        let same = hide(at_most(hide(same), most));
        write_volatile(states, start as u64);
        // Else it is all known already.
        if same < blocks {
            write_volatile(kept_key, key[0]);
            write_volatile(kept_key.add(1), key[1]);
            let mut block = 0;
            while block < BLOCKS {
                write_volatile(words.add(block), word_at(text.add(block * BLOCK)));
                block += 1;
            }
            write_volatile(&raw mut (*kept).from, from as u64);
            write_volatile(&raw mut (*kept).known, same as u64);
            write_volatile(&raw mut (*cursor).keep, (from + blocks * BLOCK + 1) as u64);
        }
        let state = read_volatile(states.add(below::<{ 2 * BLOCKS }>(same)));
        Begin { state: state as u32, at: (from + same * BLOCK) as u32 }
    }
}

#[inline(always)]
fn at_most(n: usize, limit: usize) -> usize {
    if n > limit { limit } else { n }
}

/// [`forget`] for 64 bits.
#[inline(always)]
fn hide(mut x: usize) -> usize {
    // SAFETY: one AND with all ones, no memory.
    unsafe { core::arch::asm!("{0} &= -1", inout(reg) x, options(pure, nomem, nostack)) };
    x
}

/// Keeps that the run stands in `state` before the byte `at`, if that is to be kept.
///
/// # Safety
/// As [`run_text`].
#[inline(always)]
unsafe fn keep(cursor: *mut Cursor, at: usize, state: u64) {
    // SAFETY: the caller's promise; the index is bounded.
    unsafe {
        if (at as u64) < (*cursor).keep {
            let kept = &raw mut (*cursor).beginning;
            let block = below::<{ 2 * BLOCKS }>(at.wrapping_sub((*kept).from as usize) / BLOCK);
            *(&raw mut (*kept).states).cast::<u64>().add(block) = state;
            (*kept).known = block as u64;
        }
    }
}

/// One step for each of the next `n` bytes; out of the block where the walk is over.
macro_rules! steps {
    ($over:lifetime, $run:expr, $state:ident, $at:ident, $n:literal: $($i:literal)*) => {
        let bytes = (*$run).text.add(below::<CAP>($at));
        $(
            if $state >= TERMINAL as u64 {
                break $over;
            }
            $state = automaton::step_wide(&(*$run).table, $state, *bytes.add($i));
        )*
        // VERIFIER: "BPF program is too large": whether these bytes were there is one way from here on.
        $at = forget($at as u32 + $n) as usize;
    };
}

unsafe extern "C" fn run_callback(_index: u64, run: *mut Run) -> i64 {
    // SAFETY: `run_text` passed its own stack struct; a chunk lies in the text or in the slack behind it.
    unsafe {
        let cursor = (*run).cursor;
        let (mut at, split, mut state) = ((*cursor).at as usize, (*cursor).split as usize, (*cursor).state);
        let end = if at < split { split } else { CAP };
        let left = forget((end - at) as u32);
        'over: {
            if left >= CHUNK as u32 {
                steps!('over, run, state, at, 8: 0 1 2 3 4 5 6 7);
                keep(cursor, at, state);
                steps!('over, run, state, at, 8: 0 1 2 3 4 5 6 7);
                keep(cursor, at, state);
                break 'over;
            }
            if left & 8 != 0 {
                steps!('over, run, state, at, 8: 0 1 2 3 4 5 6 7);
                keep(cursor, at, state);
            }
            if left & 4 != 0 {
                steps!('over, run, state, at, 4: 0 1 2 3);
            }
            if left & 2 != 0 {
                steps!('over, run, state, at, 2: 0 1);
            }
            if left & 1 != 0 {
                steps!('over, run, state, at, 1: 0);
            }
        }
        if state >= TERMINAL as u64 {
            at = end;
        }
        (*cursor).at = at as u64;
        (*cursor).state = state;
        if at <= split {
            (*cursor).behind = state;
        }
        i64::from(at >= CAP)
    }
}
