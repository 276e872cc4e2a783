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
    /// How the matches of each begin and end.
    ends: Vec<(Fixed, Fixed)>,
    reach: OnceCell<Option<Reach>>,
}

impl Glob {
    fn of(rule: &PathRule) -> Self {
        Glob::new(expand_home(&rule.glob, &[A_HOME.into()]))
    }

    fn new(globs: Vec<String>) -> Self {
        let ends = globs.iter().map(|glob| (Fixed::first(glob), Fixed::last(glob))).collect();
        Glob { globs, ends, reach: OnceCell::new() }
    }

    fn reach(&self) -> Option<&Reach> {
        self.reach.get_or_init(|| Reach::of(self.globs.iter().map(String::as_str))).as_ref()
    }

    /// Whether every match of `narrow` is one of this; `None` where that can't be told.
    fn covers(&self, narrow: &Self) -> Option<bool> {
        if self.globs == narrow.globs {
            return Some(true);
        }
        // Most are told apart by one path each, without an automaton of the narrow ones.
        let wide = self.reach()?;
        let examples: Vec<Example> = narrow.globs.iter().map(|glob| Example::of(glob)).collect();
        if examples.iter().flat_map(|example| &example.path).any(|path| !wide.has(path)) {
            return Some(false);
        }
        if examples.iter().all(|example| example.only && example.path.is_some()) {
            return Some(true);
        }
        Some(wide.covers(narrow.reach()?))
    }

    /// Whether every match of `other` may be one of this; false is certain.
    fn may_cover(&self, other: &Self) -> bool {
        // Several together may cover what none of them does.
        let [(first, last)] = self.ends.as_slice() else { return true };
        other
            .ends
            .iter()
            .all(|(narrow_first, narrow_last)| first.holds(narrow_first) && last.holds(narrow_last))
    }
}

/// A path that a glob matches, read off its text.
struct Example {
    /// `None` where it takes more than a look.
    path: Option<Vec<u8>>,
    /// It matches no other.
    only: bool,
}

impl Example {
    fn of(glob: &str) -> Self {
        const UNREADABLE: Example = Example { path: None, only: false };
        // Every path is absolute.
        let (mut path, mut only, mut rest) = match glob.strip_prefix("**/") {
            Some(rest) => (vec![b'/'], false, rest.as_bytes()),
            None => (Vec::new(), true, glob.as_bytes()),
        };
        loop {
            rest = match rest {
                [] => break,
                [b'*', b'*', b'/', rest @ ..] if path.ends_with(b"/") => {
                    only = false;
                    rest
                }
                [b'*', rest @ ..] => {
                    only = false;
                    rest
                }
                [b'?', rest @ ..] => {
                    only = false;
                    path.push(b'x');
                    rest
                }
                [b'\\', byte, rest @ ..] => {
                    path.push(*byte);
                    rest
                }
                [b'[' | b'{' | b'\\', ..] => return UNREADABLE,
                [byte, rest @ ..] => {
                    path.push(*byte);
                    rest
                }
            };
        }
        match path.first() {
            Some(b'/' | b'@') => Example { path: Some(path), only },
            _ => UNREADABLE,
        }
    }
}

/// The bytes that every match of a glob begins, or ends, with: as far as they can be seen.
struct Fixed {
    /// Of an end, from the last one on.
    bytes: Vec<u8>,
    /// A star comes next, so any byte can.
    open: bool,
}

impl Fixed {
    fn first(glob: &str) -> Self {
        // Every path is absolute.
        match glob.strip_prefix("**/") {
            Some(_) => Fixed { bytes: vec![b'/'], open: true },
            None => Fixed::of(glob.bytes()),
        }
    }

    fn last(glob: &str) -> Self {
        Fixed::of(glob.bytes().rev())
    }

    fn of(glob: impl Iterator<Item = u8>) -> Self {
        let mut bytes = Vec::new();
        for byte in glob {
            if b"*?[]{}\\$".contains(&byte) {
                return Fixed { bytes, open: byte == b'*' };
            }
            bytes.push(byte);
        }
        Fixed { bytes, open: false }
    }

    /// Whether what `narrow` matches may have these bytes, every time.
    fn holds(&self, narrow: &Self) -> bool {
        let common = self.bytes.len().min(narrow.bytes.len());
        self.bytes[..common] == narrow.bytes[..common] && (common == self.bytes.len() || !narrow.open)
    }
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
        let mut others = others.filter(|(_, (other, glob))| as_much(other, rule) && glob.may_cover(narrow));
        let found = others.find(|(index, (other, wide))| {
            let Some(left) = self.left.get().checked_sub(1) else { return false };
            self.left.set(left);
            wide.covers(narrow) == Some(true)
                && !own.is_some_and(|own| {
                    *index > own && as_much(rule, other) && narrow.covers(wide) != Some(false)
                })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::new(vec![text.to_owned()])
    }

    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "/", "/a", "*", "**/", "**", "?", "{a,b}", "[ab]", "\\\\*"])
    }

    fn some_glob() -> impl Strategy<Value = String> {
        (any::<bool>(), prop::collection::vec(piece(), 1..5)).prop_map(|(anywhere, pieces)| {
            format!("{}{}", if anywhere { "**/" } else { "/" }, pieces.concat())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

        #[test]
        fn what_covers_is_never_passed_over(wide in some_glob(), narrow in some_glob()) {
            let (wide, narrow) = (glob(&wide), glob(&narrow));
            if let (Some(of_wide), Some(of_narrow)) = (wide.reach(), narrow.reach())
                && of_wide.covers(of_narrow)
            {
                prop_assert!(wide.may_cover(&narrow), "{:?} {:?}", wide.globs, narrow.globs);
            }
            if let (Some(of_wide), Some(of_narrow)) = (wide.reach(), narrow.reach()) {
                prop_assert_eq!(wide.covers(&narrow), Some(of_wide.covers(of_narrow)));
            }
        }
    }

    #[test]
    fn most_globs_have_nothing_to_do_with_each_other() {
        for (wide, narrow, may) in [
            ("/srv/**", "/srv/a", true),
            ("/srv/**", "/etc/a", false),
            ("/srv/a", "/srv/*", false),
            ("**/.env", "/srv/**", false),
            ("**/.env", "/srv/**/.env", true),
            ("/**", "**/.env", true),
            ("/srv/**", "**/.env", false),
        ] {
            assert_eq!(glob(wide).may_cover(&glob(narrow)), may, "{wide} {narrow}");
        }
    }
}
