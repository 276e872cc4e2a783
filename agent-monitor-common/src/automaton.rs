//! The automaton's walk: one step over a row-displaced table of 64-bit words.
//!
//! A *state* is the index of its word: `base (24 bits) | accept (8 bits) | default (32 bits, high)`. The row of a
//! state lies at `base`: cell `base + byte` is `check (32 bits) | next (32 bits, high)`. The cell belongs to the state
//! when `check == base`, else the state's `default` is next. A next or default with [`TERMINAL`] set ends the walk;
//! its low bits are the answer. One with [`PORTS`] set skips what is left of the address. Rows of different states
//! interleave, which is what makes the table small.
//!
//! Who builds such tables: `agent-monitor/src/policy/compile`. Indices are masked, so whatever a table holds, a walk
//! stays inside it.

/// Set in a next state: the walk is over and the other bits are its answer.
pub const TERMINAL: u32 = 1 << 31;

/// Set in a next state of a network automaton: the rest of the address does not matter, and the state (the other bits)
/// reads the port. Without it every network would end in a chain of states that read bytes for nothing.
pub const PORTS: u32 = 1 << 30;

/// Bits of a base.
pub const BASE_MASK: u64 = (1 << 24) - 1;

/// A table of words. Implementors keep `index` inside the table.
pub trait Words {
    /// Word `index`, or any word when the index is out of range.
    fn word(&self, index: u64) -> u64;
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
    let word = table.word(state as u64);
    let base = word & BASE_MASK;
    let cell = table.word(base.wrapping_add(byte as u64));
    if cell as u32 as u64 == base { (cell >> 32) as u32 } else { (word >> 32) as u32 }
}

/// The accept code of a state (paths); for a [`TERMINAL`] state its answer.
#[inline(always)]
pub fn accept<W: Words + ?Sized>(table: &W, state: u32) -> u32 {
    if state & TERMINAL != 0 {
        return state & !TERMINAL;
    }
    (table.word(state as u64) >> 24) as u32 & 0xff
}

/// The word of a state.
pub const fn state_word(base: u32, accept: u8, default: u32) -> u64 {
    (base as u64 & BASE_MASK) | (accept as u64) << 24 | (default as u64) << 32
}

/// The word of a cell that belongs to the row at `base`.
pub const fn cell_word(base: u32, next: u32) -> u64 {
    base as u64 | (next as u64) << 32
}

/// A free cell. No row has this base.
pub const FREE_CELL: u64 = u32::MAX as u64;
