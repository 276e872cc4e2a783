//! Merges the states of a deterministic automaton that no input tells apart (Hopcroft's partition refinement, 1971).
//!
//! Called by `path.rs`, whose automata have loops; the network automaton has none and is minimal as built. Time is
//! classes × states × log(states): a long path makes no more rounds than a short one.

use super::ways::Ways;

/// The block of each state. Blocks are numbered by their first state, so the numbers depend on nothing else.
///
/// `accept[s]` is the answer of state `s`, `ways` where its byte classes lead.
pub(super) fn blocks(accept: &[u16], ways: &Ways) -> Vec<u32> {
    let mut partition = Partition::by(accept);
    let sources = Sources::of(ways);
    // Blocks that may still split others. Of all there are at first one is left out, the largest: who leads into none of
    // the rest leads there.
    let largest = (0..partition.blocks.len() as u32).max_by_key(|&block| partition.size(block));
    let mut open = Open::default();
    for block in (0..partition.blocks.len() as u32).filter(|&block| Some(block) != largest) {
        open.push(block, &partition, &sources);
    }
    let mut from: Vec<Vec<u32>> = vec![Vec::new(); ways.width];
    let (mut classes, mut touched) = (Vec::new(), Vec::new());
    while let Some(block) = open.pop() {
        for &state in partition.states(block) {
            for way in sources.of_state(state) {
                if partition.alone[way.from() as usize] {
                    continue;
                }
                let of_class = &mut from[usize::from(way.class())];
                if of_class.is_empty() {
                    classes.push(way.class());
                }
                of_class.push(way.from());
            }
        }
        for class in classes.drain(..) {
            for state in from[usize::from(class)].drain(..) {
                partition.mark(state, &mut touched);
            }
            for block in touched.drain(..) {
                let Some(fresh) = partition.split(block) else { continue };
                // If the whole still has to split others, both parts have; else the smaller one is enough.
                let smaller = partition.size(fresh) <= partition.size(block);
                let next = if open.has(block) || smaller { fresh } else { block };
                open.push(next, &partition, &sources);
            }
        }
    }
    partition.numbered()
}

/// Blocks that may still split others.
#[derive(Default)]
struct Open {
    now: Vec<u32>,
    /// Those that very many ways lead to: what a name is left to. When it is their turn the others have told most states
    /// apart, and ways from a state that is alone are passed over.
    later: Vec<u32>,
    is_open: Vec<bool>,
}

/// Ways to a block that are very many; the small automata of tests shall have such blocks too.
const MANY: usize = if cfg!(test) { 8 } else { 4_096 };

impl Open {
    fn has(&self, block: u32) -> bool {
        self.is_open.get(block as usize).is_some_and(|&open| open)
    }

    fn push(&mut self, block: u32, partition: &Partition, sources: &Sources) {
        let ways: usize = partition.states(block).iter().map(|&state| sources.of_state(state).len()).sum();
        if ways > MANY {
            self.later.push(block)
        } else {
            self.now.push(block)
        }
        let at = block as usize;
        if self.is_open.len() <= at {
            self.is_open.resize(at + 1, false);
        }
        self.is_open[at] = true;
    }

    fn pop(&mut self) -> Option<u32> {
        let block = self.now.pop().or_else(|| self.later.pop())?;
        self.is_open[block as usize] = false;
        Some(block)
    }
}

/// How a state is reached: from which one, by which class.
#[derive(Clone, Copy, Default)]
struct Way(u32);

impl Way {
    /// There are fewer states than 2^24: a subset is one, and each of them takes a word of an image or more.
    fn new(from: u32, class: u8) -> Self {
        debug_assert!(from < 1 << 24);
        Way(from << 8 | u32::from(class))
    }

    fn from(self) -> u32 {
        self.0 >> 8
    }

    fn class(self) -> u8 {
        self.0 as u8
    }
}

/// The ways to each state: most states have one or two, a few have most of all.
struct Sources {
    /// Where a state's ways begin in `ways`.
    begin: Vec<u32>,
    ways: Vec<Way>,
}

impl Sources {
    fn of(ways: &Ways) -> Self {
        let mut begin = vec![0_u32; ways.len() + 1];
        for state in 0..ways.len() {
            let (other, own) = ways.of(state);
            begin[other as usize + 1] += (ways.width - own.len()) as u32;
            for &(_, to) in own {
                begin[to as usize + 1] += 1;
            }
        }
        for i in 1..begin.len() {
            begin[i] += begin[i - 1];
        }
        let mut next = begin.clone();
        let mut all = vec![Way::default(); ways.len() * ways.width];
        for from in 0..ways.len() {
            let mut put = |to: u32, class: u8| {
                let place = &mut next[to as usize];
                all[*place as usize] = Way::new(from as u32, class);
                *place += 1;
            };
            let (other, own) = ways.of(from);
            let mut next_class = 0;
            for &(class, to) in own {
                (next_class..usize::from(class)).for_each(|class| put(other, class as u8));
                put(to, class);
                next_class = usize::from(class) + 1;
            }
            (next_class..ways.width).for_each(|class| put(other, class as u8));
        }
        Sources { begin, ways: all }
    }

    fn of_state(&self, state: u32) -> &[Way] {
        let at = state as usize;
        &self.ways[self.begin[at] as usize..self.begin[at + 1] as usize]
    }
}

/// A block is a run of `order`; its marked states come first.
struct Block {
    begin: u32,
    end: u32,
    marked: u32,
}

struct Partition {
    order: Vec<u32>,
    /// Where each state stands in `order`.
    place: Vec<u32>,
    block_of: Vec<u32>,
    /// Whether a state's block has no other, so that it can't be split.
    alone: Vec<bool>,
    blocks: Vec<Block>,
}

impl Partition {
    fn by(accept: &[u16]) -> Self {
        let states = accept.len();
        let mut order: Vec<u32> = (0..states as u32).collect();
        order.sort_by_key(|&state| accept[state as usize]);
        let (place, block_of, alone) = (vec![0; states], vec![0; states], vec![false; states]);
        let mut partition = Partition { order, place, block_of, alone, blocks: Vec::new() };
        let mut begin = 0;
        for at in 0..states {
            let state = partition.order[at];
            partition.place[state as usize] = at as u32;
            let next = partition.order.get(at + 1).map(|&next| accept[next as usize]);
            if next != Some(accept[state as usize]) {
                partition.add(begin, at as u32 + 1);
                begin = at as u32 + 1;
            }
        }
        partition
    }

    /// A new block of the states that stand there.
    fn add(&mut self, begin: u32, end: u32) -> u32 {
        let block = self.blocks.len() as u32;
        self.blocks.push(Block { begin, end, marked: 0 });
        for at in begin..end {
            self.block_of[self.order[at as usize] as usize] = block;
        }
        self.note_alone(block);
        block
    }

    fn note_alone(&mut self, block: u32) {
        if let &[state] = self.states(block) {
            self.alone[state as usize] = true;
        }
    }

    fn states(&self, block: u32) -> &[u32] {
        let Block { begin, end, .. } = self.blocks[block as usize];
        &self.order[begin as usize..end as usize]
    }

    fn size(&self, block: u32) -> u32 {
        self.blocks[block as usize].end - self.blocks[block as usize].begin
    }

    /// Moves a state to the front of its block. No state is marked twice between splits: it has one way per class.
    fn mark(&mut self, state: u32, touched: &mut Vec<u32>) {
        let number = self.block_of[state as usize];
        let block = &mut self.blocks[number as usize];
        if block.marked == 0 {
            touched.push(number);
        }
        let (from, to) = (self.place[state as usize], block.begin + block.marked);
        block.marked += 1;
        let other = self.order[to as usize];
        self.order.swap(from as usize, to as usize);
        self.place[state as usize] = to;
        self.place[other as usize] = from;
    }

    /// Makes the marked states of a block a block of their own, unless they are all of it.
    fn split(&mut self, number: u32) -> Option<u32> {
        let block = &mut self.blocks[number as usize];
        let marked = std::mem::take(&mut block.marked);
        let begin = block.begin;
        if begin + marked == block.end {
            return None;
        }
        block.begin += marked;
        self.note_alone(number);
        Some(self.add(begin, begin + marked))
    }

    /// The blocks by their first states.
    fn numbered(&self) -> Vec<u32> {
        const NONE: u32 = u32::MAX;
        let mut numbers = vec![NONE; self.blocks.len()];
        let mut count = 0;
        let number = |&block: &u32| {
            let number = &mut numbers[block as usize];
            if *number == NONE {
                *number = count;
                count += 1;
            }
            *number
        };
        self.block_of.iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::policy::compile::ways::Ways;

    /// `others[s]`: the class of state `s` whose target is that of the classes without a way of their own.
    fn blocks(accept: &[u16], rows: &[u32], width: usize, others: &[usize]) -> Vec<u32> {
        let mut ways = Ways::new(width);
        for (row, &other) in rows.chunks_exact(width).zip(others) {
            let own: Vec<(u8, u32)> = (0..).zip(row.iter().copied()).collect();
            ways.push(row[other], &own);
        }
        super::blocks(accept, &ways)
    }

    #[test]
    fn states_that_no_input_tells_apart_are_one() {
        // 0 -a-> 1, 0 -b-> 2, 1 and 2 accept after one more `a`; 3 accepts, 4 is dead.
        let rows = [1, 2, 3, 4, 3, 4, 4, 4, 4, 4];
        assert_eq!(blocks(&[0, 0, 0, 7, 0], &rows, 2, &[0, 1, 0, 1, 0]), [0, 1, 1, 2, 3]);
        assert_eq!(blocks(&[0; 5], &rows, 2, &[1; 5]), [0; 5]);
        // Loops: both spin on everything.
        assert_eq!(blocks(&[1, 1], &[1, 0], 1, &[0, 0]), [0, 0]);
        assert_eq!(blocks(&[], &[], 2, &[]), [0_u32; 0]);
        // One that leads into a loop and does what the loop does.
        assert_eq!(blocks(&[1, 1, 0], &[1, 2, 1, 2, 2, 2], 2, &[0, 1, 0]), [0, 0, 1]);
    }

    /// The plain reading: as many rounds as there are states, each splits blocks by where their states lead.
    fn naive(accept: &[u16], rows: &[u32], width: usize) -> Vec<u32> {
        let mut of: Vec<u32> = accept.iter().map(|&answer| u32::from(answer)).collect();
        for _ in 0..=accept.len() {
            let signatures: Vec<Vec<u32>> = (0..accept.len())
                .map(|s| {
                    std::iter::once(of[s])
                        .chain(rows[s * width..][..width].iter().map(|&to| of[to as usize]))
                        .collect()
                })
                .collect();
            let mut seen: Vec<&Vec<u32>> = Vec::new();
            of = signatures
                .iter()
                .map(|signature| {
                    seen.iter().position(|known| *known == signature).unwrap_or_else(|| {
                        seen.push(signature);
                        seen.len() - 1
                    }) as u32
                })
                .collect();
        }
        of
    }

    proptest! {
        #[test]
        fn blocks_are_those_of_the_plain_reading(
            (accept, rows, others, before_loops) in (1..30_usize, 1..6_usize).prop_flat_map(|(n, width)| (
                prop::collection::vec(0..2_u16, n),
                prop::collection::vec(0..n as u32, n * width),
                prop::collection::vec(0..width, n),
                0..=n,
            )),
        ) {
            let width = rows.len() / accept.len();
            let mut rows = rows;
            // Many states, or all but the last, on no loop.
            for (at, to) in rows.iter_mut().enumerate() {
                let (state, last) = ((at / width) as u32, accept.len() as u32 - 1);
                if (state as usize) < before_loops && state < last {
                    *to = state + 1 + *to % (last - state);
                }
            }
            prop_assert_eq!(blocks(&accept, &rows, width, &others), naive(&accept, &rows, width));
        }
    }
}
