//! Packs the states of an automaton into the row-displaced table that the kernel walks
//! (`agent_monitor_common::automaton` defines the words).
//!
//! A state's most frequent target becomes its default; the other bytes are its row. Rows are laid over each other,
//! first fit, longest first, so that the holes of one hold the cells of others; states whose rows are equal share one
//! base. Called by the builders; the same states and roots give the same words.
//!
//! What must stay true, because the walk checks nothing but `check == base`:
//! * no two different rows have one base, and every base lies behind the state words, so no header or state word is
//!   ever read as a cell of a row;
//! * base + 255 lies inside the image, so that an index never wraps to the front;
//! * a word that no row owns has another check than any base (`FREE_CELL`, or the zeros behind the last word).

use std::cmp::Reverse;
use std::collections::HashMap;

use agent_monitor_common::automaton::{FREE_CELL, PORTS, cell_word, state_word};
use agent_monitor_common::image::header;

use super::state::{State, Target, index, is_answer};

/// A packed automaton.
#[derive(Debug)]
pub(super) struct Packed {
    /// A header of zeros, then state words and cells.
    pub(super) words: Vec<u64>,
    /// For each root that was given: the index of its state word, or its answer.
    pub(super) roots: Vec<u32>,
}

/// The table does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    /// Words that it needs at least, header included.
    pub(super) words: usize,
}

/// A state's row: the bytes that do not lead to its default.
type Row = Vec<(u8, Target)>;

/// Packs what `roots` reach into at most `limit` words.
pub(super) fn pack(states: &[State], roots: &[Target], limit: usize) -> Result<Packed, Overflow> {
    let (order, number) = breadth_first(states, roots);
    let place = |target: Target| {
        if is_answer(target) { target } else { (header::END as u32 + number[index(target)]) | target & PORTS }
    };

    let mut rows: Vec<Row> = Vec::new();
    let mut row_ids: HashMap<Row, usize> = HashMap::new();
    let mut row_of_state = Vec::with_capacity(order.len());
    let mut defaults = Vec::with_capacity(order.len());
    for &state in &order {
        let (default, row) = split(&states[state as usize], place);
        let id = *row_ids.entry(row).or_insert_with_key(|row| {
            rows.push(row.clone());
            rows.len() - 1
        });
        row_of_state.push(id);
        defaults.push(default);
    }

    let first = header::END + order.len();
    let cells: usize = rows.iter().map(Vec::len).sum();
    if first + cells > limit {
        return Err(Overflow { words: first + cells });
    }
    let bases = displace(&rows, first, limit).ok_or(Overflow { words: limit + 1 })?;

    let mut words = vec![0; header::END];
    for ((&state, row), default) in order.iter().zip(row_of_state).zip(defaults) {
        words.push(state_word(bases[row], states[state as usize].accept, default));
    }
    for (row, &base) in rows.iter().zip(&bases) {
        for &(byte, target) in row {
            let index = base as usize + usize::from(byte);
            if index >= words.len() {
                words.resize(index + 1, FREE_CELL);
            }
            words[index] = cell_word(base, target);
        }
    }
    Ok(Packed { words, roots: roots.iter().map(|&root| place(root)).collect() })
}

/// The states that the roots reach, nearest first (so that what every walk reads lies together), and for each state
/// its number in that order.
fn breadth_first(states: &[State], roots: &[Target]) -> (Vec<u32>, Vec<u32>) {
    const UNSEEN: u32 = u32::MAX;
    let mut number = vec![UNSEEN; states.len()];
    let mut order: Vec<u32> = Vec::new();
    let mut see = |target: Target, order: &mut Vec<u32>| {
        if !is_answer(target) && number[index(target)] == UNSEEN {
            number[index(target)] = order.len() as u32;
            order.push(index(target) as u32);
        }
    };
    for &root in roots {
        see(root, &mut order);
    }
    let mut next = 0;
    while let Some(&state) = order.get(next) {
        for &(_, target) in &states[state as usize].runs {
            see(target, &mut order);
        }
        next += 1;
    }
    (order, number)
}

/// The most frequent target of a state (the lowest of equals), and the bytes that lead elsewhere.
fn split(state: &State, place: impl Fn(Target) -> Target) -> (Target, Row) {
    let mut counts: Vec<(Target, u32)> = Vec::new();
    for (first, last, target) in state.spans() {
        counts.push((place(target), u32::from(last - first) + 1));
    }
    counts.sort_unstable();
    counts.dedup_by(|from, into| {
        let same = from.0 == into.0;
        if same {
            into.1 += from.1;
        }
        same
    });
    let default = counts.iter().max_by_key(|&&(target, count)| (count, Reverse(target))).map_or(0, |c| c.0);
    let mut row = Row::new();
    for (first, last, target) in state.spans() {
        let target = place(target);
        if target != default {
            row.extend((first..=last).map(|byte| (byte, target)));
        }
    }
    (default, row)
}

/// A base for every row, at or behind `first`; `None` when `limit` words are too few.
///
/// 64 bases are tried at once: bit *i* of the running AND stands for "base block + i is free for every byte so far".
fn displace(rows: &[Row], first: usize, limit: usize) -> Option<Vec<u32>> {
    let last_base = limit.checked_sub(256)?;
    let mut by_length: Vec<usize> = (0..rows.len()).collect();
    by_length.sort_by_key(|&row| (Reverse(rows[row].len()), row));

    let blocks = limit / 64 + 8;
    let mut taken = vec![0_u64; blocks];
    let mut bases_used = vec![0_u64; blocks];
    // What lies before `first` is nobody's cell and nobody's base.
    for bits in [&mut taken, &mut bases_used] {
        bits[..first / 64].fill(u64::MAX);
        bits[first / 64] |= (1 << (first % 64)) - 1;
    }
    let mut bases = vec![0; rows.len()];
    // No block before it has a free cell, so no search has to start before it.
    let mut full_until = first / 64;
    for row in by_length {
        let cells = &rows[row];
        while full_until < blocks && taken[full_until] == u64::MAX {
            full_until += 1;
        }
        let lead = cells.first().map_or(0, |&(byte, _)| usize::from(byte));
        let mut block = ((full_until * 64).saturating_sub(lead) / 64).max(first / 64);
        let base = loop {
            let start = block * 64;
            if start > last_base {
                return None;
            }
            let mut fits = !bases_used[block];
            for &(byte, _) in cells {
                if fits == 0 {
                    break;
                }
                fits &= !window(&taken, start + usize::from(byte));
            }
            if fits != 0 {
                break start + fits.trailing_zeros() as usize;
            }
            block += 1;
        };
        if base > last_base {
            return None;
        }
        bases_used[base / 64] |= 1 << (base % 64);
        for &(byte, _) in cells {
            let cell = base + usize::from(byte);
            taken[cell / 64] |= 1 << (cell % 64);
        }
        bases[row] = base as u32;
    }
    Some(bases)
}

/// 64 bits from bit `start` on.
fn window(bits: &[u64], start: usize) -> u64 {
    let (word, shift) = (start / 64, start % 64);
    let low = bits[word] >> shift;
    if shift == 0 { low } else { low | bits[word + 1] << (64 - shift) }
}
