//! Merges the states of a deterministic automaton that no input tells apart (Moore's partition refinement).
//!
//! Called by `path.rs`, whose automata have loops; the network automaton has none and is minimal as built. Each round
//! splits blocks by where their states lead; it ends when a round splits nothing. At most as many rounds as states.

use std::collections::HashMap;

/// The block of each state. Blocks are numbered by their first state, so the numbers depend on nothing else.
///
/// `accept[s]` is the answer of state `s`, `rows[s]` where each byte class leads.
pub(super) fn blocks(accept: &[u16], rows: &[Vec<u32>]) -> Vec<u32> {
    // Round 0 tells apart what ends here.
    let (mut count, mut blocks) = number(accept.iter().map(|&answer| vec![u32::from(answer)]));
    loop {
        let signature = |(row, &block): (&Vec<u32>, &u32)| {
            std::iter::once(block).chain(row.iter().map(|&next| blocks[next as usize])).collect()
        };
        let (split, next) = number(rows.iter().zip(&blocks).map(signature));
        blocks = next;
        if split == count {
            return blocks;
        }
        count = split;
    }
}

/// Numbers signatures in the order in which they first come: how many there are, and the number of each.
fn number(signatures: impl Iterator<Item = Vec<u32>>) -> (usize, Vec<u32>) {
    let mut seen: HashMap<Vec<u32>, u32> = HashMap::new();
    let numbers = signatures
        .map(|signature| {
            let fresh = seen.len() as u32;
            *seen.entry(signature).or_insert(fresh)
        })
        .collect();
    (seen.len(), numbers)
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn states_that_no_input_tells_apart_are_one() {
        // 0 -a-> 1, 0 -b-> 2, 1 and 2 accept after one more `a`; 3 accepts, 4 is dead.
        let rows = [vec![1, 2], vec![3, 4], vec![3, 4], vec![4, 4], vec![4, 4]];
        assert_eq!(blocks(&[0, 0, 0, 7, 0], &rows), [0, 1, 1, 2, 3]);
        assert_eq!(blocks(&[0; 5], &rows), [0; 5]);
        // Loops: both spin on everything.
        assert_eq!(blocks(&[1, 1], &[vec![1], vec![0]]), [0, 0]);
        assert_eq!(blocks(&[], &[]), [0_u32; 0]);
    }
}
