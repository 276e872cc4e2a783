//! Packs the states of an automaton into the row-displaced table that the kernel walks
//! (`agent_monitor_common::automaton` defines the words).
//!
//! A state's most frequent target becomes its default; the other bytes are its row. Where that default is a state that
//! the row is like, the row keeps only the difference (`LIKE`): ten words of a state become two or three. Rows, each with
//! its state's word in front, are laid over each other: long ones first fit, longest first, so that the holes of one hold
//! the cells of others; short ones close behind the cells that lead to them. Called by the builders; the same states and roots give the same words.
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
use crate::policy::at_once;

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

/// States that one thread splits.
const FEW: usize = 2_048;
/// Cells that leaning on another state must save, since a byte that is in neither row then costs two loads more.
const WORTH: usize = 2;

/// Packs what `roots` reach into at most `limit` words.
pub(super) fn pack(states: &[State], roots: &[Target], limit: usize) -> Result<Packed, Overflow> {
    let (order, number) = breadth_first(states, roots);
    let numbered =
        |target: Target| if is_answer(target) { target } else { number[index(target)] | target & PORTS };
    let mut laid: Vec<Laid> = at_once::map(&order, FEW, |&state| split(&states[state as usize], numbered));
    lean(&mut laid, |a, b| difference(&states[order[a] as usize], &states[order[b] as usize], numbered));
    let rows: Vec<Row> = laid.iter_mut().map(|state| std::mem::take(&mut state.row)).collect();

    let cells: usize = rows.iter().map(Vec::len).sum();
    let least = header::END + order.len() + cells;
    if least > limit {
        return Err(Overflow { words: least });
    }
    let places = displace(&laid, &rows, header::END, limit).ok_or(Overflow { words: limit + 1 })?;
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
    let default =
        most_frequent(state.spans().map(|(first, last, target)| (place(target), bytes(first, last))));
    let elsewhere =
        || state.spans().map(|(f, l, t)| (f, l, place(t))).filter(|&(.., target)| target != default);
    let mut row = Row::with_capacity(elsewhere().map(|(first, last, _)| bytes(first, last)).sum());
    for (first, last, target) in elsewhere() {
        row.extend((first..=last).map(|byte| (byte, target)));
    }
    Laid { default, like: false, row }
}

/// Bytes of a span.
fn bytes(first: u8, last: u8) -> usize {
    usize::from(last - first) + 1
}

/// The most frequent target of some that come in parts.
fn most_frequent(parts: impl Iterator<Item = (Target, usize)> + Clone) -> Target {
    // Of nearly every state one target has more bytes than all others together: then each of those is worth one of it,
    // and it is left over (Boyer and Moore's vote).
    let (winner, _) = parts.clone().fold((0, 0), |(winner, lead), (target, bytes)| {
        if target == winner {
            (winner, lead + bytes)
        } else if bytes > lead {
            (target, bytes - lead)
        } else {
            (winner, lead - bytes)
        }
    });
    let (own, all) = parts.clone().fold((0, 0), |(own, all), (target, bytes)| {
        (if target == winner { own + bytes } else { own }, all + bytes)
    });
    if 2 * own > all {
        return winner;
    }
    let mut counts: Vec<(Target, usize)> = parts.collect();
    counts.sort_unstable();
    counts.dedup_by(|from, into| {
        let same = from.0 == into.0;
        if same {
            into.1 += from.1;
        }
        same
    });
    counts.iter().max_by_key(|&&(target, count)| (count, Reverse(target))).map_or(0, |most| most.0)
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

/// Rows of no more cells are laid where their walks come from: longer ones take what room there is.
const SHORT: usize = 2;
/// How far behind the cell that leads to a row its own first cell may lie: three cache lines.
const NEAR: usize = 24;

/// A place for the state word of every row, at or behind `first`; `None` when `limit` words are too few.
///
/// Most states are a letter of a name and have one way on. A walk over them reads one cell a byte, so each such cell is
/// laid right behind the one that leads to it: eight bytes of a name then take one line of the cache, not eight.
fn displace(laid: &[Laid], rows: &[Row], first: usize, limit: usize) -> Option<Vec<u32>> {
    let mut by_length: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].len() > SHORT).collect();
    by_length.sort_by_key(|&row| (Reverse(rows[row].len()), row));
    let mut space = Space::new(first, limit)?;
    let mut places: Vec<Option<usize>> = vec![None; rows.len()];
    for row in by_length {
        places[row] = Some(space.first_fit(&rows[row])?);
    }
    for (row, from) in depth_first(laid, rows) {
        if places[row].is_some() {
            continue;
        }
        let cell = from.and_then(|(state, byte)| Some(places[state]? + ahead(byte)));
        places[row] = match cell.and_then(|cell| space.behind(cell, &rows[row])) {
            Some(place) => Some(place),
            None => Some(space.first_fit(&rows[row])?),
        };
    }
    places.into_iter().map(|place| place.map(|place| place as u32)).collect()
}

/// Every row, and the cell that leads to it: names letter by letter.
fn depth_first(laid: &[Laid], rows: &[Row]) -> Vec<(usize, Option<(usize, u8)>)> {
    let mut order = Vec::with_capacity(rows.len());
    let mut seen = vec![false; rows.len()];
    let mut open = Vec::new();
    for root in 0..rows.len() {
        open.push((root, None));
        while let Some((row, from)) = open.pop() {
            if std::mem::replace(&mut seen[row], true) {
                continue;
            }
            order.push((row, from));
            let unseen =
                |target: Target| (!is_answer(target)).then(|| index(target)).filter(|&row| !seen[row]);
            open.extend(unseen(laid[row].default).map(|default| (default, None)));
            let cells = rows[row].iter().rev();
            open.extend(cells.filter_map(|&(byte, target)| Some((unseen(target)?, Some((row, byte))))));
        }
    }
    order
}

/// Which words are taken.
struct Space {
    /// A bit a word.
    taken: Vec<u64>,
    /// No block of 64 words before it has a free word, so no search has to start before it.
    full_until: usize,
    /// Where the last row with the same bytes was laid: before it no other fits either, for nothing gets free.
    last_alike: HashMap<Bytes, usize>,
    first: usize,
    last: usize,
}

impl Space {
    fn new(first: usize, limit: usize) -> Option<Self> {
        let last = limit.checked_sub(ahead(u8::MAX) + 1)?;
        let mut taken = vec![0_u64; limit / 64 + 8];
        // What lies before `first` is nobody's.
        taken[..first / 64].fill(u64::MAX);
        taken[first / 64] |= (1 << (first % 64)) - 1;
        Some(Space { taken, full_until: first / 64, last_alike: HashMap::new(), first, last })
    }

    /// The lowest place for a row, or one close to it.
    ///
    /// 64 places are tried at once: bit *i* of the running AND stands for "block + i is free for the word and for every
    /// byte so far".
    fn first_fit(&mut self, row: &Row) -> Option<usize> {
        let bytes = row.iter().fold(Bytes::NONE, |all, &(byte, _)| all.with(byte));
        while self.full_until < self.taken.len() && self.taken[self.full_until] == u64::MAX {
            self.full_until += 1;
        }
        let alike = self.last_alike.get(&bytes).copied().unwrap_or(0);
        let mut block = self.full_until.max(alike);
        let place = loop {
            let start = block * 64;
            if start > self.last {
                return None;
            }
            let mut fits = !self.taken[block];
            for &(byte, _) in row {
                if fits == 0 {
                    break;
                }
                fits &= !window(&self.taken, start + ahead(byte));
            }
            if fits != 0 {
                break start + fits.trailing_zeros() as usize;
            }
            block += 1;
        };
        if place > self.last {
            return None;
        }
        self.last_alike.insert(bytes, place / 64);
        self.take(place, row);
        Some(place)
    }

    /// A place for a row whose first cell lies close behind `cell`.
    fn behind(&mut self, cell: usize, row: &Row) -> Option<usize> {
        let &(byte, _) = row.first()?;
        let place = (1..=NEAR).find_map(|distance| {
            let place = (cell + distance).checked_sub(ahead(byte))?;
            let inside = (self.first..=self.last).contains(&place);
            (inside && words(place, row).all(|word| !self.is_taken(word))).then_some(place)
        })?;
        self.take(place, row);
        Some(place)
    }

    fn is_taken(&self, word: usize) -> bool {
        self.taken[word / 64] >> (word % 64) & 1 == 1
    }

    fn take(&mut self, place: usize, row: &Row) {
        for word in words(place, row) {
            self.taken[word / 64] |= 1 << (word % 64);
        }
    }
}

/// The words of a row that lies there.
fn words(place: usize, row: &Row) -> impl Iterator<Item = usize> {
    std::iter::once(place).chain(row.iter().map(move |&(byte, _)| place + ahead(byte)))
}

/// 64 bits from bit `start` on.
fn window(bits: &[u64], start: usize) -> u64 {
    let (word, shift) = (start / 64, start % 64);
    let low = bits[word] >> shift;
    if shift == 0 { low } else { low | bits[word + 1] << (64 - shift) }
}

#[cfg(test)]
mod tests {
    use agent_monitor_common::automaton::{TERMINAL, step};

    use super::*;

    #[test]
    fn the_letters_of_a_name_lie_behind_each_other() {
        let name = b"a/name/that/is/long/enough/to/be/seen";
        let mut states: Vec<State> = (1..)
            .zip(name)
            .map(|(next, &byte)| State::from_runs(0, [(0, TERMINAL), (byte, next), (byte + 1, TERMINAL)]))
            .collect();
        states.push(State::from_runs(1, [(0, TERMINAL)]));
        let packed = pack(&states, &[0], header::END + 2_000).unwrap();
        let (mut state, mut last) = (packed.roots[0], None);
        for &byte in name {
            let cell = state as usize + ahead(byte);
            assert!(last.is_none_or(|last| (1..=NEAR).contains(&(cell - last))), "{last:?} {cell}");
            (state, last) = (step(packed.words.as_slice(), state, byte), Some(cell));
        }
        assert_eq!(state & TERMINAL, 0);
    }
}
