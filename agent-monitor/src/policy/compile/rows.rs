//! Packs the states of an automaton into the row-displaced table that the kernel walks
//! (`agent_monitor_common::automaton` defines the words).
//!
//! A state's most frequent target becomes its default; the other bytes are its row. Where that default is a state that
//! the row is like, the row keeps only the difference (`LIKE`): ten words of a state become two or three. Rows, each with its state's word
//! in front, are laid over each other, first fit, longest first, so that the holes of one hold the cells of others.
//! Called by the builders; the same states and roots give the same words.
//!
//! What must stay true, because the walk checks nothing but `check == state`:
//! * every state lies behind the header, so no header word is ever read as a cell of a row;
//! * what a state leans on leans on nothing, for the walk looks no further;
//! * state + 256 lies inside the image, so that an index never wraps to the front;
//! * a word that no row owns has another check than any state (`FREE_CELL`, or the zeros behind the last word), and so
//!   has a state's own word.

use std::cmp::Reverse;

use agent_monitor_common::automaton::{FREE_CELL, LIKE, PORTS, cell_word, state_word};
use agent_monitor_common::image::header;
use foldhash::{HashMap, HashMapExt};

use super::glob::Bytes;
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

/// A state as it will be laid out.
struct Laid {
    default: Target,
    /// Its row is the difference to the state that is its default.
    like: bool,
    row: Row,
}

/// Cells that leaning on another state must save, since a byte that is in neither row then costs two loads more.
const WORTH: usize = 2;

/// Packs what `roots` reach into at most `limit` words.
pub(super) fn pack(states: &[State], roots: &[Target], limit: usize) -> Result<Packed, Overflow> {
    let (order, number) = breadth_first(states, roots);
    let numbered =
        |target: Target| if is_answer(target) { target } else { number[index(target)] | target & PORTS };
    let mut laid: Vec<Laid> = order.iter().map(|&state| split(&states[state as usize], numbered)).collect();
    lean(&mut laid, |a, b| difference(&states[order[a] as usize], &states[order[b] as usize], numbered));
    let rows: Vec<Row> = laid.iter_mut().map(|state| std::mem::take(&mut state.row)).collect();

    let cells: usize = rows.iter().map(Vec::len).sum();
    let least = header::END + order.len() + cells;
    if least > limit {
        return Err(Overflow { words: least });
    }
    let places = displace(&rows, header::END, limit).ok_or(Overflow { words: limit + 1 })?;
    let placed =
        |target: Target| if is_answer(target) { target } else { places[index(target)] | target & PORTS };

    let last =
        rows.iter().zip(&places).map(|(row, &place)| place as usize + row.last().map_or(0, |c| ahead(c.0)));
    let mut words = vec![FREE_CELL; last.max().map_or(header::END, |last| last + 1)];
    words[..header::END].fill(0);
    for (((&state, row), Laid { default, like, .. }), &place) in
        order.iter().zip(&rows).zip(laid).zip(&places)
    {
        let flag = if like { LIKE } else { 0 };
        words[place as usize] = state_word(states[state as usize].accept, placed(default)) | flag;
        for &(byte, target) in row {
            words[place as usize + ahead(byte)] = cell_word(place, placed(target));
        }
    }
    Ok(Packed { words, roots: roots.iter().map(|&root| placed(numbered(root))).collect() })
}

/// How far behind its state's word the cell of a byte lies.
fn ahead(byte: u8) -> usize {
    1 + usize::from(byte)
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
fn split(state: &State, place: impl Fn(Target) -> Target) -> Laid {
    let mut counts: Vec<(Target, u32)> = Vec::with_capacity(state.runs.len());
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
    let elsewhere = counts.iter().filter(|c| c.0 != default).map(|&(_, count)| count as usize).sum();
    let mut row = Row::with_capacity(elsewhere);
    for (first, last, target) in state.spans() {
        let target = place(target);
        if target != default {
            row.extend((first..=last).map(|byte| (byte, target)));
        }
    }
    Laid { default, like: false, row }
}

/// The bytes that lead elsewhere from `own` than from `other`, and where.
fn difference(own: &State, other: &State, place: impl Fn(Target) -> Target) -> Row {
    let mut row = Row::new();
    let (mut own, mut other) = (own.spans(), other.spans());
    let (mut here, mut there) = (own.next(), other.next());
    let mut first = 0;
    while let (Some((_, end, target)), Some((_, other_end, other_target))) = (here, there) {
        let last = end.min(other_end);
        let target = place(target);
        if target != place(other_target) {
            row.extend((first..=last).map(|byte| (byte, target)));
        }
        first = last.saturating_add(1);
        if end == last {
            here = own.next();
        }
        if other_end == last {
            there = other.next();
        }
    }
    row
}

/// Makes rows differences where that saves cells: a state may lean on its default, or, if that leans itself, on what
/// that leans on. States whose default is themselves or no state are leant on and never lean.
fn lean(laid: &mut [Laid], difference: impl Fn(usize, usize) -> Row) {
    let plain = |target: Target| !is_answer(target) && target & PORTS == 0;
    let firm: Vec<bool> = laid
        .iter()
        .enumerate()
        .map(|(number, state)| !plain(state.default) || index(state.default) == number)
        .collect();
    for number in 0..laid.len() {
        if firm[number] {
            continue;
        }
        let first = laid[number].default;
        let candidate = if firm[index(first)] { first } else { laid[index(first)].default };
        if !plain(candidate) || !firm[index(candidate)] || index(candidate) == number {
            continue;
        }
        let difference = difference(number, index(candidate));
        if difference.len() + WORTH <= laid[number].row.len() {
            laid[number] = Laid { default: candidate, like: true, row: difference };
        }
    }
}

/// A place for the state word of every row, at or behind `first`; `None` when `limit` words are too few.
///
/// 64 places are tried at once: bit *i* of the running AND stands for "block + i is free for the word and for every
/// byte so far".
fn displace(rows: &[Row], first: usize, limit: usize) -> Option<Vec<u32>> {
    let last_place = limit.checked_sub(ahead(u8::MAX) + 1)?;
    let mut by_length: Vec<usize> = (0..rows.len()).collect();
    by_length.sort_by_key(|&row| (Reverse(rows[row].len()), row));

    let mut taken = vec![0_u64; limit / 64 + 8];
    // What lies before `first` is nobody's.
    taken[..first / 64].fill(u64::MAX);
    taken[first / 64] |= (1 << (first % 64)) - 1;
    let mut places = vec![0; rows.len()];
    // No block before it has a free word, so no search has to start before it.
    let mut full_until = first / 64;
    // Where the last row with the same bytes was laid: before it no other fits either, for nothing gets free.
    let mut last_alike: HashMap<Bytes, usize> = HashMap::new();
    for row in by_length {
        let cells = &rows[row];
        let alike =
            last_alike.entry(cells.iter().fold(Bytes::NONE, |all, &(byte, _)| all.with(byte))).or_default();
        while full_until < taken.len() && taken[full_until] == u64::MAX {
            full_until += 1;
        }
        let mut block = full_until.max(*alike);
        let place = loop {
            let start = block * 64;
            if start > last_place {
                return None;
            }
            let mut fits = !taken[block];
            for &(byte, _) in cells {
                if fits == 0 {
                    break;
                }
                fits &= !window(&taken, start + ahead(byte));
            }
            if fits != 0 {
                break start + fits.trailing_zeros() as usize;
            }
            block += 1;
        };
        if place > last_place {
            return None;
        }
        *alike = place / 64;
        for cell in std::iter::once(place).chain(cells.iter().map(|&(byte, _)| place + ahead(byte))) {
            taken[cell / 64] |= 1 << (cell % 64);
        }
        places[row] = place as u32;
    }
    Some(places)
}

/// 64 bits from bit `start` on.
fn window(bits: &[u64], start: usize) -> u64 {
    let (word, shift) = (start / 64, start % 64);
    let low = bits[word] >> shift;
    if shift == 0 { low } else { low | bits[word + 1] << (64 - shift) }
}
