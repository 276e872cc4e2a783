//! Which programs a rule is about: `programs:`, `exe:`, `except:`.
//!
//! A program is an executable, named by globs over the path that the kernel resolved when it was executed. What a rule
//! asks of it is a [`Condition`]; what is known of a process is a [`Membership`]. The compiler makes of every
//! membership that some path can have a *class* of the image; attribution and the naive reading ask the same question
//! here.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// What `exe:` and `except:` can hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgramRef {
    /// A key of `programs:`.
    Name(String),
    /// A glob of executable paths.
    Glob(String),
}

impl ProgramRef {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(text) | Self::Glob(text) => text,
        }
    }
}

/// The sets of a profile: name → globs, as written.
pub type Programs = BTreeMap<String, Vec<String>>;

/// When a rule holds: for which programs, by default all of them, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Only these; empty: every program.
    pub exe: Vec<ProgramRef>,
    /// Not these. Only a rule that denies has any.
    pub except: Vec<ProgramRef>,
    /// The end of a lease. Only a rule that grants has one.
    pub until: Option<Timestamp>,
}

impl Condition {
    /// Whether it holds at least as long as `other`.
    #[must_use]
    pub fn lasts(&self, other: &Self) -> bool {
        match (self.until, other.until) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own >= other,
        }
    }

    /// Whether the rule is about every program.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.exe.is_empty() && self.except.is_empty()
    }

    /// Everything that it names.
    pub fn refs(&self) -> impl Iterator<Item = &ProgramRef> {
        self.exe.iter().chain(&self.except)
    }

    /// Whether a rule that grants holds for such a program.
    #[must_use]
    pub fn grants(&self, program: &Membership) -> bool {
        match program {
            Membership::Unknown => self.exe.is_empty(),
            Membership::Of(sets) => self.names(sets),
        }
    }

    /// Whether a rule that denies holds for such a program.
    #[must_use]
    pub fn denies(&self, program: &Membership) -> bool {
        match program {
            Membership::Unknown => true,
            Membership::Of(sets) => self.names(sets),
        }
    }

    fn names(&self, sets: &[ProgramRef]) -> bool {
        let any = |refs: &[ProgramRef]| refs.iter().any(|asked| sets.contains(asked));
        (self.exe.is_empty() || any(&self.exe)) && !any(&self.except)
    }
}

/// What is known of the program that a process runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    /// It could not be told: no grant that asks for a program holds, and every denial does.
    Unknown,
    /// It is in these sets and no other; sorted.
    Of(Vec<ProgramRef>),
}

impl Membership {
    /// In none of a profile's sets.
    pub const PLAIN: Self = Self::Of(Vec::new());

    /// The names of its sets; globs that a rule wrote itself have none.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let sets = match self {
            Self::Unknown => &[],
            Self::Of(sets) => sets.as_slice(),
        };
        sets.iter().filter_map(|set| match set {
            ProgramRef::Name(name) => Some(name.as_str()),
            ProgramRef::Glob(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProgramRef {
        ProgramRef::Name(text.into())
    }

    #[test]
    fn a_program_that_is_not_known_has_the_fewest_grants_and_the_most_denials() {
        let any = Condition::default();
        let only = Condition { exe: vec![name("git")], ..Condition::default() };
        let but = Condition { except: vec![name("git")], ..Condition::default() };
        let git = Membership::Of(vec![name("git")]);
        assert!(any.grants(&Membership::Unknown) && any.grants(&Membership::PLAIN) && any.grants(&git));
        assert!(!only.grants(&Membership::Unknown) && !only.grants(&Membership::PLAIN) && only.grants(&git));
        for condition in [&any, &only, &but] {
            assert!(condition.denies(&Membership::Unknown));
        }
        assert!(!only.denies(&Membership::PLAIN) && only.denies(&git));
        assert!(but.denies(&Membership::PLAIN) && !but.denies(&git));
    }
}
