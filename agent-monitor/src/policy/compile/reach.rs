//! The paths that a rule speaks about, as a set: does one rule cover another?
//!
//! Called by `policy::path_overlap` for warnings. Two automata are walked side by side; exact, but a rule that has very
//! many states, or a pair that needs very many steps, is left undecided, since a remark is not worth a second.

use std::collections::{HashMap, VecDeque};

use agent_monitor_common::automaton::TERMINAL;

use super::glob::Nfa;
use super::path::{self, Answers};
use super::state::{State, Target, index, is_answer};

/// States that a rule may have to be compared.
const MAX_STATES: usize = 2_048;
/// Pairs of states that one comparison looks at.
const MAX_PAIRS: usize = 8_192;

/// The absolute paths of some globs, or their abstract names.
#[derive(Debug)]
pub struct Reach {
    states: Vec<State>,
    /// What they begin with: a path with `/`, an abstract name with `@`.
    first: u8,
    /// Behind the first byte: `**/x` matches `x` too, but no object has such a path.
    root: Target,
    /// The shortest of them, without its first byte.
    example: Vec<u8>,
}

/// A path is in, or not.
struct Within;

impl Answers for Within {
    fn settled(&self, bits: u64) -> u64 {
        bits
    }

    fn answer(&self, bits: u64) -> u16 {
        bits as u16
    }
}

impl Reach {
    /// The paths that one of `globs` matches. `None`: a glob can't be read, they match nothing, or they are too many.
    pub fn of<'a>(globs: impl IntoIterator<Item = &'a str>) -> Option<Reach> {
        let mut nfa = Nfa::new();
        let mut first = b'/';
        for glob in globs {
            // A glob is about paths or about abstract names, and so are the forms of one that `~` gives it.
            if glob.starts_with('@') {
                first = b'@';
            }
            nfa.add(glob, 1).ok()?;
        }
        let paths = path::build(&nfa, MAX_STATES, &Within).ok()?;
        let mut reach = Reach { states: paths.states, first, root: paths.root, example: Vec::new() };
        reach.root = reach.way(reach.root, usize::from(first)).0;
        reach.example = reach.shortest()?;
        Some(reach)
    }

    /// The shortest of the paths.
    #[must_use]
    pub fn example(&self) -> Vec<u8> {
        [&[self.first], &self.example[..]].concat()
    }

    /// Whether every path of `narrow` is one of these.
    #[must_use]
    pub fn covers(&self, narrow: &Reach) -> bool {
        if self.first != narrow.first || !self.goes_on_with(&narrow.example) {
            return false;
        }
        let mut seen = HashMap::from([((self.root, narrow.root), ())]);
        let mut open = vec![(self.root, narrow.root)];
        while let Some((wide, small)) = open.pop() {
            if narrow.accepts(small) && !self.accepts(wide) {
                return false;
            }
            // Nothing more is in `narrow` there, or everything is in `self`.
            if small == TERMINAL || is_answer(wide) && self.accepts(wide) {
                continue;
            }
            let mut byte = 0;
            while byte < 256 {
                let ((to_wide, last), (to_small, first_last)) =
                    (self.way(wide, byte), narrow.way(small, byte));
                if seen.insert((to_wide, to_small), ()).is_none() {
                    open.push((to_wide, to_small));
                }
                byte = last.min(first_last) + 1;
            }
            if seen.len() > MAX_PAIRS {
                return false;
            }
        }
        true
    }

    /// Whether it has this path, or abstract name with its `@`.
    #[must_use]
    pub fn has(&self, path: &[u8]) -> bool {
        path.split_first().is_some_and(|(first, rest)| *first == self.first && self.goes_on_with(rest))
    }

    fn goes_on_with(&self, rest: &[u8]) -> bool {
        let end = rest.iter().fold(self.root, |state, &byte| self.way(state, usize::from(byte)).0);
        self.accepts(end)
    }

    fn accepts(&self, state: Target) -> bool {
        if is_answer(state) { state != TERMINAL } else { self.states[index(state)].accept != 0 }
    }

    /// Where a byte leads, and the last byte that leads there with it.
    fn way(&self, state: Target, byte: usize) -> (Target, usize) {
        if is_answer(state) {
            return (state, 255);
        }
        let runs = &self.states[index(state)].runs;
        let at = runs.partition_point(|&(first, _)| usize::from(first) <= byte).saturating_sub(1);
        (runs[at].1, runs.get(at + 1).map_or(255, |&(next, _)| usize::from(next) - 1))
    }

    fn shortest(&self) -> Option<Vec<u8>> {
        let mut from: HashMap<Target, Option<(Target, u8)>> = HashMap::from([(self.root, None)]);
        let mut open = VecDeque::from([self.root]);
        while let Some(state) = open.pop_front() {
            if self.accepts(state) {
                let mut path = Vec::new();
                let mut at = state;
                while let Some(&Some((before, byte))) = from.get(&at) {
                    path.push(byte);
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            if is_answer(state) {
                continue;
            }
            for &(byte, next) in &self.states[index(state)].runs {
                from.entry(next).or_insert_with(|| {
                    open.push_back(next);
                    Some((state, byte))
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Reach;
    use crate::policy::compile::tests::path::{glob, naive, path};

    fn covers(wide: &str, narrow: &str) -> bool {
        Reach::of([wide]).unwrap().covers(&Reach::of([narrow]).unwrap())
    }

    #[test]
    fn a_wider_glob_covers_a_narrower_one() {
        for (wide, narrow) in [
            ("/usr/**", "/usr/bin/*"),
            ("/usr/**", "/usr/**"),
            ("**/.env*", "/srv/**/.env"),
            ("/a/{b,c}", "/a/c"),
            ("/[a-z]*", "/b"),
            ("/**", "**/x"),
            ("@a/*", "@a/b"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("/usr/bin/*", "/usr/**"),
            ("/usr/*", "/usr/a/b"),
            ("/srv/**/.env", "**/.env*"),
            ("/a/c", "/a/{b,c}"),
            ("/a/?", "/a/*"),
            ("**", "@a"),
            ("**/a", "@x/a"),
            ("/a", "@a"),
            ("@a", "/a"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn several_globs_are_one_set() {
        let both = Reach::of(["/a/*", "/a/*/**"]).unwrap();
        assert!(both.covers(&Reach::of(["/a/**"]).unwrap()));
        assert!(Reach::of(["/a{"]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_covered_has_no_path_of_its_own(
            (wide, narrow) in (glob(), glob()),
            paths in prop::collection::vec(path(), 80),
        ) {
            let own = paths.iter().find(|path| naive(&narrow, path) && !naive(&wide, path));
            if let (true, Some(path)) = (covers(&wide, &narrow), own) {
                prop_assert!(false, "{wide} does not cover {narrow}: {path}");
            }
        }
    }
}
