//! Finds path rules that another rule makes pointless: grants of what is denied anyway, and rules that say nothing new.
//!
//! Called by `merge`. What is reported is certain; a rule that only several others together cover is not looked for,
//! nor what a home directory has to do with another place.

use std::cell::Cell;

use super::compile::{Reach, expand_home};
use super::resolved::PathRule;

/// Rules compared with rules in all look-ups together.
const MAX_COMPARISONS: usize = 200_000;
/// Stands for every home: no glob can name it, for control characters are refused.
const A_HOME: &str = "/\u{1}";

/// Rules of one list, or of several that do the same.
pub struct PathCoverage<'a> {
    rules: Vec<(&'a PathRule, Option<Reach>)>,
    left: Cell<usize>,
}

impl<'a> PathCoverage<'a> {
    pub fn new(rules: impl IntoIterator<Item = &'a PathRule>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule, reach(rule))).collect();
        PathCoverage { rules, left: Cell::new(MAX_COMPARISONS) }
    }

    /// The index of a rule that covers `rule`; `rule` itself is passed over by its `own` index. Of two equal rules only
    /// the later one is covered.
    pub fn of(&self, rule: &PathRule, own: Option<usize>) -> Option<usize> {
        let of_its_own;
        let narrow = match own {
            Some(own) => self.rules.get(own)?.1.as_ref()?,
            None => {
                of_its_own = reach(rule)?;
                &of_its_own
            }
        };
        let others = self.rules.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        let others = others.filter(|(_, (other, _))| as_much(other, rule));
        let mut others = others.filter_map(|(index, (other, reach))| Some((index, (other, reach.as_ref()?))));
        let found = others.find(|(index, (other, wide))| {
            let Some(left) = self.left.get().checked_sub(1) else { return false };
            self.left.set(left);
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

fn reach(rule: &PathRule) -> Option<Reach> {
    let globs = expand_home(&rule.glob, &[A_HOME.into()]);
    Reach::of(globs.iter().map(String::as_str))
}
