//! Finds path rules that another rule makes pointless: grants of what is denied anyway, and rules that say nothing new.
//!
//! Called by `merge`. What is reported is certain; a rule that only several others together cover is not looked for,
//! nor what a home directory has to do with another place.

use std::cell::{Cell, OnceCell};

use super::compile::{Reach, expand_home};
use super::resolved::PathRule;

/// Rules compared with rules in all look-ups together.
const MAX_COMPARISONS: usize = 200_000;
/// Stands for every home: no glob can name it, for control characters are refused.
const A_HOME: &str = "/\u{1}";

/// Rules of one list, or of several that do the same.
pub struct PathCoverage<'a> {
    rules: Vec<(&'a PathRule, Glob)>,
    left: Cell<usize>,
}

/// A rule's glob, and its automaton once somebody asks for it: most rules have nothing to do with any other one, which
/// their beginnings show.
struct Glob {
    /// With a home in the place of `~`.
    globs: Vec<String>,
    reach: OnceCell<Option<Reach>>,
}

impl Glob {
    fn of(rule: &PathRule) -> Self {
        Glob { globs: expand_home(&rule.glob, &[A_HOME.into()]), reach: OnceCell::new() }
    }

    fn reach(&self) -> Option<&Reach> {
        self.reach.get_or_init(|| Reach::of(self.globs.iter().map(String::as_str))).as_ref()
    }

    /// Whether some path may match both.
    fn may_meet(&self, other: &Self) -> bool {
        let meets = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
        self.globs.iter().any(|a| other.globs.iter().any(|b| meets(beginning(a), beginning(b))))
    }
}

/// What every match of a glob begins with, or a part of that.
fn beginning(glob: &str) -> &str {
    glob.split(['*', '?', '[', '{', '\\', '$']).next().unwrap_or_default()
}

impl<'a> PathCoverage<'a> {
    pub fn new(rules: impl IntoIterator<Item = &'a PathRule>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule, Glob::of(rule))).collect();
        PathCoverage { rules, left: Cell::new(MAX_COMPARISONS) }
    }

    /// The index of a rule that covers `rule`; `rule` itself is passed over by its `own` index. Of two equal rules only
    /// the later one is covered.
    pub fn of(&self, rule: &PathRule, own: Option<usize>) -> Option<usize> {
        let of_its_own;
        let narrow = match own {
            Some(own) => &self.rules.get(own)?.1,
            None => {
                of_its_own = Glob::of(rule);
                &of_its_own
            }
        };
        let others = self.rules.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        let mut others = others.filter(|(_, (other, glob))| as_much(other, rule) && glob.may_meet(narrow));
        let found = others.find(|(index, (other, wide))| {
            let Some(left) = self.left.get().checked_sub(1) else { return false };
            self.left.set(left);
            let (Some(wide), Some(narrow)) = (wide.reach(), narrow.reach()) else { return false };
            wide.covers(narrow)
                && !own.is_some_and(|own| *index > own && as_much(rule, other) && narrow.covers(wide))
        });
        found.map(|(index, _)| index)
    }
}

/// Whether `wide` is about every program and every access that `narrow` is about.
fn as_much(wide: &PathRule, narrow: &PathRule) -> bool {
    let (of_wide, of_narrow) = (&wide.programs, &narrow.programs);
    let programs = of_wide.is_any() || of_wide.exe == of_narrow.exe && of_wide.except == of_narrow.except;
    programs && of_wide.lasts(of_narrow) && (wide.access.is_none() || wide.access == narrow.access)
}
