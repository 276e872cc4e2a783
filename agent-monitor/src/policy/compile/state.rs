//! A state of an automaton before it is packed: where each byte leads, as runs of equal targets.
//!
//! Both builders (network, path) end in a list of these; `rows.rs` turns it into the words of an image.

use agent_monitor_common::automaton::{PORTS, TERMINAL};

/// Where a step leads: an index in the list of states, which may have `PORTS` set, or `TERMINAL | answer`.
pub(super) type Target = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// The answer for an input that ends here; 0 where no input does.
    pub(super) accept: u16,
    /// First byte of a run, and where every byte from there to the next run leads. The first run starts at byte 0;
    /// neighbours differ.
    pub(super) runs: Box<[(u8, Target)]>,
}

impl State {
    /// From the target of each byte, ascending.
    pub(super) fn from_bytes(accept: u16, targets: &[Target; 256]) -> Self {
        Self::from_runs(accept, (0..=255).zip(targets.iter().copied()))
    }

    /// From runs, ascending and the first from byte 0; neighbours may be equal.
    pub(super) fn from_runs(
        accept: u16,
        given: impl IntoIterator<Item = (u8, Target), IntoIter: Clone>,
    ) -> Self {
        let given = given.into_iter();
        // Counted first: there are very many states.
        let (count, _) = given.clone().fold((0, None), |(count, last), (_, target)| {
            (if last == Some(target) { count } else { count + 1 }, Some(target))
        });
        let mut runs: Vec<(u8, Target)> = Vec::with_capacity(count);
        for (byte, target) in given {
            if runs.last().is_none_or(|&(_, last)| last != target) {
                runs.push((byte, target));
            }
        }
        State { accept, runs: runs.into() }
    }

    /// Where every byte leads, when that is one place.
    pub(super) fn constant(&self) -> Option<Target> {
        match *self.runs {
            [(_, target)] => Some(target),
            _ => None,
        }
    }

    /// The runs as (first byte, last byte, target).
    pub(super) fn spans(&self) -> impl Iterator<Item = (u8, u8, Target)> + Clone + '_ {
        self.runs.iter().enumerate().map(|(i, &(first, target))| {
            let last = self.runs.get(i + 1).map_or(255, |&(next, _)| next - 1);
            (first, last, target)
        })
    }
}

/// Puts the states of another automaton behind these; where its root is then.
pub(super) fn append(states: &mut Vec<State>, more: Vec<State>, root: Target) -> Target {
    let first = states.len() as Target;
    let moved = |target: Target| if is_answer(target) { target } else { target + first };
    states.extend(more.into_iter().map(|mut state| {
        for (_, target) in &mut state.runs {
            *target = moved(*target);
        }
        state
    }));
    moved(root)
}

/// The index of the state that a target which is no answer leads to.
pub(super) const fn index(target: Target) -> usize {
    (target & !PORTS) as usize
}

/// Whether a target is an answer.
pub(super) const fn is_answer(target: Target) -> bool {
    target & TERMINAL != 0
}
