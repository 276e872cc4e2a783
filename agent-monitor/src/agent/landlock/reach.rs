//! What lies ahead of a state of the path automaton: which rights are granted to everything below a directory, and
//! which could be denied to something in it, whether it exists or not.
//!
//! Called by `plan.rs`. What must stay true: never more optimistic than the automaton. Bytes that no path has (two
//! slashes in a row) count too, which can only make a directory look less granted than it is.

use std::collections::HashMap;

use agent_monitor_common::automaton::{TERMINAL, accept, step};
use agent_monitor_common::path::{ALL_RIGHTS, Rights, path_answer};

/// Where the denied rights lie in an answer.
const DENIED: u32 = path_answer(0, 1, false).trailing_zeros();

/// All answers that a walk can still end in, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Granted to some path.
    pub granted: Rights,
    /// Denied to some path by a rule.
    pub denied: Rights,
    /// Neither granted nor denied to some path: denied because nothing grants it.
    pub neither: Rights,
}

impl Reach {
    fn of_answer(answer: u32) -> Self {
        let (granted, denied) = split(answer);
        Reach { granted, denied, neither: ALL_RIGHTS & !(granted | denied) }
    }

    fn with(self, other: Self) -> Self {
        Reach {
            granted: self.granted | other.granted,
            denied: self.denied | other.denied,
            neither: self.neither | other.neither,
        }
    }

    /// Rights that every path has.
    #[must_use]
    pub fn whole(self) -> Rights {
        self.granted & !self.denied & !self.neither
    }

    /// Rights that every path has which no rule denies, and there is such a rule.
    #[must_use]
    pub fn with_holes(self) -> Rights {
        self.granted & self.denied & !self.neither
    }

    /// Rights that only some paths have.
    #[must_use]
    pub fn in_part(self) -> Rights {
        self.granted & self.neither
    }
}

/// The granted and the denied rights of an answer.
#[must_use]
pub fn split(answer: u32) -> (Rights, Rights) {
    (answer & ALL_RIGHTS, answer >> DENIED & ALL_RIGHTS)
}

/// The reach of every state that a path can lead to.
#[derive(Debug)]
pub struct Reaches(HashMap<u32, Reach>);

impl Reaches {
    /// Of all states of `image` from `start` on.
    #[must_use]
    pub fn of(image: &[u64], start: u32) -> Self {
        let mut index: HashMap<u32, usize> = HashMap::new();
        let mut states = vec![start];
        let mut before: Vec<Vec<usize>> = vec![Vec::new()];
        index.insert(start, 0);
        let mut at = 0;
        while let Some(&state) = states.get(at) {
            if state & TERMINAL == 0 {
                let mut next: Vec<u32> = (1..=u8::MAX).map(|byte| step(image, state, byte)).collect();
                next.sort_unstable();
                next.dedup();
                for state in next {
                    let known = *index.entry(state).or_insert_with(|| {
                        states.push(state);
                        before.push(Vec::new());
                        states.len() - 1
                    });
                    before[known].push(at);
                }
            }
            at += 1;
        }
        let mut reach: Vec<Reach> =
            states.iter().map(|&state| Reach::of_answer(accept(image, state))).collect();
        // What a state reaches, those before it reach too.
        let mut open: Vec<usize> = (0..states.len()).collect();
        while let Some(from) = open.pop() {
            for &to in &before[from] {
                let more = reach[to].with(reach[from]);
                if more != reach[to] {
                    reach[to] = more;
                    open.push(to);
                }
            }
        }
        Reaches(states.into_iter().zip(reach).collect())
    }

    /// Of the paths that begin with what was read up to `state`; itself is one of them.
    #[must_use]
    pub fn at(&self, state: u32) -> Reach {
        self.0.get(&state).copied().unwrap_or(Reach { granted: 0, denied: 0, neither: ALL_RIGHTS })
    }
}
