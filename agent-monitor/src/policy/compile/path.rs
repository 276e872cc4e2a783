//! Builds the path automaton: globs over the bytes of a resolved absolute path.
//!
//! Called by `compile::claims` and `files.rs`. Globs become one non-deterministic automaton
//! (`glob.rs`), subsets of its nodes become states, equal states are merged (`minimise.rs`), and a state whose answer
//! nothing can change any more becomes that answer: `/usr/**` ends the walk right behind `/usr/`.
//! Where several globs match a path, the caller says what their answers make together; the builder says which answers
//! met and on what path.

use std::collections::{BTreeMap, HashMap};

use agent_monitor_common::automaton::TERMINAL;

use super::glob::Nfa;
use super::minimise;
use super::state::{State, Target};

/// A path automaton.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) states: Vec<State>,
    pub(super) root: Target,
    /// Pairs of answers (lower first) that some path has both, with the shortest such path.
    pub(super) overlaps: BTreeMap<(u16, u16), Vec<u8>>,
}

/// There are more subsets than `limit`.
#[derive(Debug)]
pub(super) struct TooMany;

/// Determinises and minimises; gives up at `limit` subsets, because few globs can make very many. `together`: the
/// answer of a path that globs with these answers (ascending, distinct, none 0) match.
pub(super) fn build(nfa: &Nfa, limit: usize, together: impl Fn(&[u16]) -> u16) -> Result<Paths, TooMany> {
    let classes = Classes::of(nfa);
    let mut subsets = Subsets::default();
    subsets.intern(nfa.closure(&[0]), None);
    let mut rows: Vec<Vec<u32>> = Vec::new();
    while let Some(subset) = subsets.sets.get(rows.len()).cloned() {
        if subsets.sets.len() > limit {
            return Err(TooMany);
        }
        let from = rows.len() as u32;
        let row = classes.representatives.iter().map(|&byte| {
            let next: Vec<u32> = subset
                .iter()
                .flat_map(|&node| &nfa.nodes[node as usize].edges)
                .filter(|(bytes, _)| bytes.has(byte))
                .map(|&(_, next)| next)
                .collect();
            subsets.intern(nfa.closure(&next), Some((from, byte)))
        });
        rows.push(row.collect());
    }

    let mut accept = Vec::with_capacity(rows.len());
    let mut overlaps = BTreeMap::new();
    for (state, subset) in subsets.sets.iter().enumerate() {
        let mut answers: Vec<u16> = subset
            .iter()
            .map(|&node| nfa.nodes[node as usize].accept)
            .filter(|&answer| answer != 0)
            .collect();
        answers.sort_unstable();
        answers.dedup();
        for (i, &lower) in answers.iter().enumerate() {
            for &higher in &answers[i + 1..] {
                overlaps.entry((lower, higher)).or_insert_with(|| subsets.path_to(state));
            }
        }
        accept.push(if answers.is_empty() { 0 } else { together(&answers) });
    }

    let blocks = minimise::blocks(&accept, &rows);
    let (states, root) = merge(&accept, &rows, &blocks, &classes);
    Ok(Paths { states, root, overlaps })
}

/// One state per block; a block that only leads to itself is its answer.
fn merge(accept: &[u16], rows: &[Vec<u32>], blocks: &[u32], classes: &Classes) -> (Vec<State>, Target) {
    let mut first_of_block: Vec<usize> = Vec::new();
    for (state, &block) in blocks.iter().enumerate() {
        if block as usize == first_of_block.len() {
            first_of_block.push(state);
        }
    }
    let mut targets: Vec<Target> = Vec::with_capacity(first_of_block.len());
    let mut kept = Vec::new();
    for (block, &state) in first_of_block.iter().enumerate() {
        if rows[state].iter().all(|&next| blocks[next as usize] as usize == block) {
            targets.push(TERMINAL | u32::from(accept[state]));
        } else {
            targets.push(kept.len() as Target);
            kept.push(state);
        }
    }
    let target = |state: u32| targets[blocks[state as usize] as usize];
    let states = kept
        .iter()
        .map(|&state| {
            let row = &rows[state];
            State::from_bytes(
                accept[state],
                classes.of_byte.iter().map(|&class| target(row[usize::from(class)])),
            )
        })
        .collect();
    (states, target(0))
}

/// Bytes that every edge treats alike.
struct Classes {
    of_byte: [u8; 256],
    /// A byte of each class; a readable one where there is one.
    representatives: Vec<u8>,
}

impl Classes {
    fn of(nfa: &Nfa) -> Self {
        let mut sets: Vec<_> =
            nfa.nodes.iter().flat_map(|node| &node.edges).map(|&(bytes, _)| bytes).collect();
        sets.sort_unstable();
        sets.dedup();
        let mut ids: HashMap<Vec<bool>, u8> = HashMap::new();
        let mut representatives: Vec<u8> = Vec::new();
        let mut of_byte = [0; 256];
        for byte in 0..=255_u8 {
            let signature = sets.iter().map(|bytes| bytes.has(byte)).collect();
            let fresh = representatives.len() as u8;
            let class = *ids.entry(signature).or_insert(fresh);
            of_byte[usize::from(byte)] = class;
            match representatives.get_mut(usize::from(class)) {
                None => representatives.push(byte),
                Some(known) if readable(byte) < readable(*known) => *known = byte,
                Some(_) => {}
            }
        }
        Classes { of_byte, representatives }
    }
}

/// Lower: better in a path that a person reads.
fn readable(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => 0,
        b'0'..=b'9' | b'A'..=b'Z' => 1,
        _ if byte.is_ascii_graphic() => 2,
        _ => 3,
    }
}

/// The subsets found so far, and how each was first reached.
#[derive(Default)]
struct Subsets {
    sets: Vec<Vec<u32>>,
    reached: Vec<Option<(u32, u8)>>,
    ids: HashMap<Vec<u32>, u32>,
}

impl Subsets {
    fn intern(&mut self, set: Vec<u32>, reached: Option<(u32, u8)>) -> u32 {
        if let Some(&known) = self.ids.get(&set) {
            return known;
        }
        let id = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.reached.push(reached);
        self.ids.insert(set, id);
        id
    }

    /// The shortest path that ends in this subset.
    fn path_to(&self, state: usize) -> Vec<u8> {
        let mut path = Vec::new();
        let mut at = state;
        while let Some((before, byte)) = self.reached[at] {
            path.push(byte);
            at = before as usize;
        }
        path.reverse();
        path
    }
}
