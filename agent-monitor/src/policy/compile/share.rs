//! Makes one state of all states that no input tells apart, in automata that were built one by one.
//!
//! Called by `compile::profile` with the path automata of all classes: most rules are about every program, so most states
//! of one class are also another's. Moore's partition refinement, as in `minimise.rs`, on states as they are packed.

use agent_monitor_common::automaton::PORTS;
use foldhash::{HashMap, HashMapExt};

use super::state::{State, Target, index, is_answer};

/// What tells two states apart in a round: the block, the answer, where the bytes lead.
type Signature = (u32, u16, Vec<(u8, Target)>);

/// The states that are left, and the roots among them. States that the roots do not reach may be among both.
pub(super) fn merge(states: &[State], roots: &[Target]) -> (Vec<State>, Vec<Target>) {
    let mut blocks = vec![0_u32; states.len()];
    let mut count = 0;
    loop {
        let mut seen: HashMap<Signature, u32> = HashMap::new();
        let next: Vec<u32> = states
            .iter()
            .zip(&blocks)
            .map(|(state, &block)| {
                let fresh = seen.len() as u32;
                *seen.entry((block, state.accept, runs(state, &blocks))).or_insert(fresh)
            })
            .collect();
        let split = seen.len();
        blocks = next;
        if split == count {
            break;
        }
        count = split;
    }
    let mut merged: Vec<State> = Vec::with_capacity(count);
    for (state, &block) in states.iter().zip(&blocks) {
        // Blocks are numbered by their first state.
        if block as usize == merged.len() {
            merged.push(State { accept: state.accept, runs: runs(state, &blocks).into() });
        }
    }
    (merged, roots.iter().map(|&root| moved(root, &blocks)).collect())
}

fn moved(target: Target, blocks: &[u32]) -> Target {
    if is_answer(target) { target } else { blocks[index(target)] | target & PORTS }
}

/// A state's runs by block, neighbours joined.
fn runs(state: &State, blocks: &[u32]) -> Vec<(u8, Target)> {
    let mut runs: Vec<(u8, Target)> =
        state.runs.iter().map(|&(byte, target)| (byte, moved(target, blocks))).collect();
    runs.dedup_by_key(|run| run.1);
    runs
}

#[cfg(test)]
mod tests {
    use agent_monitor_common::automaton::TERMINAL;

    use super::*;

    fn state(accept: u16, runs: &[(u8, Target)]) -> State {
        State { accept, runs: runs.into() }
    }

    #[test]
    fn two_copies_of_an_automaton_are_one() {
        // A loop with a way out, twice; and one that answers otherwise.
        let copy = |first: Target, answer: u32| {
            [state(1, &[(0, first), (9, first + 1)]), state(0, &[(0, first), (5, TERMINAL | answer)])]
        };
        let states = [copy(0, 3), copy(2, 3), copy(4, 4)].concat();
        let (merged, roots) = merge(&states, &[0, 2, 4, TERMINAL]);
        assert_eq!(merged.len(), 4);
        assert_eq!(roots[0], roots[1]);
        assert_ne!(roots[0], roots[2]);
        assert_eq!(roots[3], TERMINAL);
        assert_eq!(merged[roots[0] as usize], states[0]);
    }
}
