//! Merges the states of a deterministic automaton that no input tells apart (Hopcroft's partition refinement, 1971).
//!
//! Called by `path.rs`, whose automata have loops; the network automaton has none and is minimal as built. Time is
//! classes × states × log(states): a long path makes no more rounds than a short one.

use foldhash::{HashMap, HashMapExt};

/// The block of each state. Blocks are numbered by their first state, so the numbers depend on nothing else.
///
/// `accept[s]` is the answer of state `s`, `rows[s * width..][..width]` where each of the `width` byte classes leads.
pub(super) fn blocks(accept: &[u16], rows: &[u32], width: usize) -> Vec<u32> {
    let mut partition = Partition::by(accept);
    let sources = Sources::of(rows, width, accept.len());
    // Blocks that may still split others. Of all there are at first one is left out, the largest: who leads into none of
    // the rest leads there.
    let largest = (0..partition.blocks.len()).max_by_key(|&block| partition.size(block));
    let mut open: Vec<usize> = (0..partition.blocks.len()).filter(|&block| Some(block) != largest).collect();
    let mut is_open: Vec<bool> = (0..partition.blocks.len()).map(|block| Some(block) != largest).collect();
    let mut ways: Vec<Way> = Vec::new();
    let mut touched = Vec::new();
    while let Some(block) = open.pop() {
        is_open[block] = false;
        ways.clear();
        for &state in partition.states(block) {
            ways.extend_from_slice(sources.of_state(state));
        }
        // A stable sort finds the runs that are in order already.
        ways.sort_by_key(|way| way.class);
        for ways in ways.chunk_by(|one, other| one.class == other.class) {
            for way in ways {
                partition.mark(way.from, &mut touched);
            }
            for block in touched.drain(..) {
                let Some(fresh) = partition.split(block) else { continue };
                is_open.push(false);
                // If the whole still has to split others, both parts have; else the smaller one is enough.
                let next = if is_open[block] || partition.size(fresh) <= partition.size(block) {
                    fresh
                } else {
                    block
                };
                is_open[next] = true;
                open.push(next);
            }
        }
    }
    partition.numbered()
}

/// How a state is reached.
#[derive(Clone, Copy, Default)]
struct Way {
    class: u32,
    from: u32,
}

/// The ways to each state: most states have one or two, a few have most of all.
struct Sources {
    /// Where a state's ways begin in `ways`, by class.
    begin: Vec<u32>,
    ways: Vec<Way>,
}

impl Sources {
    fn of(rows: &[u32], width: usize, states: usize) -> Self {
        let mut begin = vec![0_u32; states + 1];
        for &to in rows {
            begin[to as usize + 1] += 1;
        }
        for i in 1..begin.len() {
            begin[i] += begin[i - 1];
        }
        let mut next = begin.clone();
        let mut ways = vec![Way::default(); rows.len()];
        // Class by class, so that those of each state are in order.
        for class in 0..width {
            for (from, row) in rows.chunks_exact(width).enumerate() {
                let place = &mut next[row[class] as usize];
                ways[*place as usize] = Way { class: class as u32, from: from as u32 };
                *place += 1;
            }
        }
        Sources { begin, ways }
    }

    fn of_state(&self, state: u32) -> &[Way] {
        let at = state as usize;
        &self.ways[self.begin[at] as usize..self.begin[at + 1] as usize]
    }
}

/// A block is a run of `order`; its marked states come first.
struct Block {
    begin: usize,
    end: usize,
    marked: usize,
}

struct Partition {
    order: Vec<u32>,
    /// Where each state stands in `order`.
    place: Vec<usize>,
    block_of: Vec<u32>,
    blocks: Vec<Block>,
}

impl Partition {
    fn by(accept: &[u16]) -> Self {
        let mut order: Vec<u32> = (0..accept.len() as u32).collect();
        order.sort_by_key(|&state| accept[state as usize]);
        let mut place = vec![0; accept.len()];
        let mut block_of = vec![0; accept.len()];
        let mut blocks: Vec<Block> = Vec::new();
        for (at, &state) in order.iter().enumerate() {
            if at == 0 || accept[order[at - 1] as usize] != accept[state as usize] {
                blocks.push(Block { begin: at, end: at, marked: 0 });
            }
            let block = blocks.len() - 1;
            blocks[block].end = at + 1;
            place[state as usize] = at;
            block_of[state as usize] = block as u32;
        }
        Partition { order, place, block_of, blocks }
    }

    fn states(&self, block: usize) -> &[u32] {
        let Block { begin, end, .. } = self.blocks[block];
        &self.order[begin..end]
    }

    fn size(&self, block: usize) -> usize {
        self.blocks[block].end - self.blocks[block].begin
    }

    /// Moves a state to the front of its block. No state is marked twice between splits: it has one way per class.
    fn mark(&mut self, state: u32, touched: &mut Vec<usize>) {
        let number = self.block_of[state as usize] as usize;
        let block = &mut self.blocks[number];
        if block.marked == 0 {
            touched.push(number);
        }
        let (from, to) = (self.place[state as usize], block.begin + block.marked);
        block.marked += 1;
        let other = self.order[to];
        self.order.swap(from, to);
        self.place[state as usize] = to;
        self.place[other as usize] = from;
    }

    /// Makes the marked states of a block a block of their own, unless they are all of it.
    fn split(&mut self, number: usize) -> Option<usize> {
        let block = &mut self.blocks[number];
        let marked = std::mem::take(&mut block.marked);
        let begin = block.begin;
        if begin + marked == block.end {
            return None;
        }
        block.begin += marked;
        let fresh = self.blocks.len();
        self.blocks.push(Block { begin, end: begin + marked, marked: 0 });
        for at in begin..begin + marked {
            self.block_of[self.order[at] as usize] = fresh as u32;
        }
        Some(fresh)
    }

    /// The blocks by their first states.
    fn numbered(&self) -> Vec<u32> {
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let number = |&block: &u32| {
            let fresh = numbers.len() as u32;
            *numbers.entry(block).or_insert(fresh)
        };
        self.block_of.iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::blocks;

    #[test]
    fn states_that_no_input_tells_apart_are_one() {
        // 0 -a-> 1, 0 -b-> 2, 1 and 2 accept after one more `a`; 3 accepts, 4 is dead.
        let rows = [1, 2, 3, 4, 3, 4, 4, 4, 4, 4];
        assert_eq!(blocks(&[0, 0, 0, 7, 0], &rows, 2), [0, 1, 1, 2, 3]);
        assert_eq!(blocks(&[0; 5], &rows, 2), [0; 5]);
        // Loops: both spin on everything.
        assert_eq!(blocks(&[1, 1], &[1, 0], 1), [0, 0]);
        assert_eq!(blocks(&[], &[], 2), [0_u32; 0]);
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
            (accept, rows) in (1..30_usize).prop_flat_map(|n| (
                prop::collection::vec(0..2_u16, n),
                prop::collection::vec(0..n as u32, n * 2),
            )),
        ) {
            prop_assert_eq!(blocks(&accept, &rows, 2), naive(&accept, &rows, 2));
        }
    }
}
