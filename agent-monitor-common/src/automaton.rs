//! The automaton's walk: one step over a row-displaced table of 64-bit words.
//!
//! A *state* is the index of its word: `0xff (8 bits) | flags (8 bits) | accept (16 bits)` in the low half, `default` in
//! the high one. Its row lies right behind: cell `state + 1 + byte` is `check | next` (32 bits each, `next` high). The
//! cell belongs to the state when `check == state`, else the state's `default` is next. So a byte that is in the row
//! costs one load. In a path automaton, thousands of states differ from one other state in a byte or two (a name that
//! is denied anywhere, half read): such a state has the flag [`LIKE`], its row holds the difference only, and for every
//! other byte its default, which is that other state, is asked what is next. A next or default with [`TERMINAL`] set ends the walk; its low bits are the answer. One with
//! [`PORTS`] set skips what is left of the address. Rows of different states interleave, which is what makes the table
//! small; a state word is never taken for a cell, because no state has such an index as its low half says.
//!
//! Who builds such tables: `agent-monitor/src/policy/compile`. Indices are masked, so whatever a table holds, a walk
//! stays inside it.

/// Set in a next state: the walk is over and the other bits are its answer.
pub const TERMINAL: u32 = 1 << 31;

/// Set in a next state of a network automaton: the rest of the address does not matter, and the state (the other bits)
/// reads the port. Without it every network would end in a chain of states that read bytes for nothing.
pub const PORTS: u32 = 1 << 30;

/// In a state's word: what its row does not say is as in the state that is its default. That one has no such flag.
pub const LIKE: u64 = 1 << 16;

/// A table of words. Implementors keep `index` inside the table.
pub trait Words {
    /// Word `index`, or any word when the index is out of range.
    fn word(&self, index: u64) -> u64;

    /// The low half of word `index`.
    #[inline(always)]
    fn low(&self, index: u64) -> u32 {
        self.word(index) as u32
    }

    /// The high half of word `index`.
    #[inline(always)]
    fn high(&self, index: u64) -> u32 {
        (self.word(index) >> 32) as u32
    }

    /// The high half of word `index` where the low one is `low`.
    #[inline(always)]
    fn high_if(&self, index: u64, low: u64) -> Option<u32> {
        let word = self.word(index);
        if word as u32 as u64 == low { Some((word >> 32) as u32) } else { None }
    }
}

impl Words for [u64] {
    #[inline(always)]
    fn word(&self, index: u64) -> u64 {
        self.get(index as usize).copied().unwrap_or(0)
    }
}

/// The state after `byte` in `state`, which must not be [`TERMINAL`].
#[inline(always)]
pub fn step<W: Words + ?Sized>(table: &W, state: u32, byte: u8) -> u32 {
    step_wide(table, state as u64, byte) as u32
}

/// [`step`] on states in 64 bits, whose upper half is zero: kernels run the programs with no comparison of 32 bits, and
/// a state that never was one is never cut to size again.
#[inline(always)]
pub fn step_wide<W: Words + ?Sized>(table: &W, state: u64, byte: u8) -> u64 {
    if let Some(next) = listed(table, state, byte) {
        return next;
    }
    let word = table.word(state);
    let default = word >> 32;
    if word & LIKE == 0 {
        return default;
    }
    match listed(table, default, byte) {
        Some(next) => next,
        None => table.high(default) as u64,
    }
}

/// What the row of `state` says of `byte`, if it says anything.
#[inline(always)]
fn listed<W: Words + ?Sized>(table: &W, state: u64, byte: u8) -> Option<u64> {
    table.high_if(state + 1 + byte as u64, state).map(u64::from)
}

/// The accept code of a state (paths); for a [`TERMINAL`] state its answer.
#[inline(always)]
pub fn accept<W: Words + ?Sized>(table: &W, state: u32) -> u32 {
    if state & TERMINAL != 0 {
        return state & !TERMINAL;
    }
    table.word(state as u64) as u32 & 0xffff
}

/// The answer of a path automaton for a whole path; 0: no glob matches. (The kernel walks the same steps in `bpf_loop`.)
pub fn answer<W: Words + ?Sized>(table: &W, start: u32, path: &[u8]) -> u32 {
    let mut state = start;
    for &byte in path {
        if state & TERMINAL != 0 {
            break; // nothing that follows changes it
        }
        state = step(table, state, byte);
    }
    accept(table, state)
}

/// The word of a state.
pub const fn state_word(accept: u16, default: u32) -> u64 {
    0xff00_0000 | accept as u64 | (default as u64) << 32
}

/// The word of a cell that belongs to `state`.
pub const fn cell_word(state: u32, next: u32) -> u64 {
    state as u64 | (next as u64) << 32
}

/// A free cell. No state has this index.
pub const FREE_CELL: u64 = u32::MAX as u64;
