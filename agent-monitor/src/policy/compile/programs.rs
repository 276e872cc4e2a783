//! The classes of a profile: every combination of its sets of programs that some path is in.
//!
//! Called by `compile::profile`, and by whoever must know which sets a class number stands for (attribution). Every set
//! that a rule names becomes one answer of a non-deterministic automaton over executables' paths; what the answers of
//! one path make together is a class. Numbers follow from the sets alone, not from the order of rules.

use std::cell::RefCell;
use std::collections::BTreeSet;

use agent_monitor_common::image::{IMAGE_WORDS, MAX_CLASSES, PLAIN_CLASS};

use super::error::CompileError;
use super::glob::{GlobError, Nfa};
use super::path::{self, Answers, Paths, TooMany};
use crate::policy::{Condition, Membership, ProgramRef, ResolvedProfile};

/// Classes beside "unknown" and "in no set".
const MOST: usize = MAX_CLASSES - PLAIN_CLASS as usize - 1;

/// The classes of a profile.
pub(super) struct Classes {
    /// By class number.
    pub(super) memberships: Vec<Membership>,
    /// The automaton over executables' paths: its answer + `PLAIN_CLASS` is the class.
    pub(super) paths: Paths,
}

/// A program whose record is built: with the profile's leases, or without when they have run out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'a> {
    pub(super) program: &'a Membership,
    pub(super) lapsed: bool,
}

impl<'a> Holder<'a> {
    /// Every class, and if the profile has `leases` every class without them.
    pub(super) fn all(classes: &'a [Membership], leases: bool) -> Vec<Self> {
        let times: &[bool] = if leases { &[false, true] } else { &[false] };
        let of = |&lapsed: &bool| classes.iter().map(move |program| Holder { program, lapsed });
        times.iter().flat_map(of).collect()
    }

    /// Whether a rule that grants holds.
    pub(super) fn granted(self, condition: &Condition) -> bool {
        condition.grants(self.program) && !(self.lapsed && condition.until.is_some())
    }

    /// Whether a rule that denies holds.
    pub(super) fn denied(self, condition: &Condition) -> bool {
        condition.denies(self.program)
    }
}

/// What each class number of the profile's image stands for.
///
/// # Errors
/// As [`super::profile`] for the same profile.
pub fn memberships(profile: &ResolvedProfile) -> Result<Vec<Membership>, CompileError> {
    match build(profile, IMAGE_WORDS)? {
        Ok(classes) => Ok(classes.memberships),
        Err(TooMany) => Err(super::too_large(profile, IMAGE_WORDS + 1, IMAGE_WORDS)),
    }
}

/// The conditions of all rules, each with the rule's id and place.
pub(super) fn conditions(
    profile: &ResolvedProfile,
) -> impl Iterator<Item = (&Condition, &str, &crate::policy::Source)> {
    let policy = &profile.network;
    let network = policy.allow.iter().chain(&policy.deny).chain(&policy.listen).chain(&policy.audited);
    let network = network.map(|rule| (&rule.programs, rule.id.as_str(), &rule.source));
    let files =
        profile.filesystem.iter().flat_map(|files| files.read.iter().chain(&files.write).chain(&files.deny));
    let exec = profile.exec.iter().flat_map(|exec| exec.allow.iter().chain(&exec.deny));
    let unix = profile.unix.iter().flat_map(|unix| unix.allow.iter().chain(&unix.deny));
    let paths = files.chain(exec).chain(unix).chain(&profile.audited);
    network.chain(paths.map(|rule| (&rule.programs, rule.id.as_str(), &rule.source)))
}

/// Bit *n* says that a path is in set *n*; the sets of a path, ascending and not none, make an answer.
struct Together<F>(F);

impl<F: Fn(Vec<u16>) -> u16> Answers for Together<F> {
    fn settled(&self, bits: u64) -> u64 {
        bits
    }

    fn answer(&self, bits: u64) -> u16 {
        let sets: Vec<u16> = (0..64).filter(|set| bits >> set & 1 == 1).collect();
        if sets.is_empty() { 0 } else { (self.0)(sets) }
    }
}
const _: () = assert!(MOST <= 64);

/// Finds the classes.
///
/// # Errors
/// [`CompileError::ProgramGlob`] for a glob that can't be read: the loader lets none through;
/// [`CompileError::TooManyClasses`].
pub(super) fn build(
    profile: &ResolvedProfile,
    limit: usize,
) -> Result<Result<Classes, TooMany>, CompileError> {
    let sets: BTreeSet<&ProgramRef> =
        conditions(profile).flat_map(|(condition, ..)| condition.refs()).collect();
    let sets: Vec<&ProgramRef> = sets.into_iter().collect();
    let mut nfa = Nfa::new();
    for (index, set) in sets.iter().enumerate() {
        if index < MOST {
            add(&mut nfa, profile, set, 1 << index)?;
        }
    }
    // Twice: a class can't be numbered before all are known.
    let found: RefCell<BTreeSet<Vec<u16>>> = RefCell::default();
    let note = |sets: Vec<u16>| {
        found.borrow_mut().insert(sets);
        1
    };
    if path::build(&nfa, limit, &Together(note)).is_err() {
        return Ok(Err(TooMany));
    }
    let found: Vec<Vec<u16>> = found.into_inner().into_iter().collect();
    // As many sets as bits, and each has a class at least, or another like it could take its place.
    if found.len().max(sets.len()) > MOST {
        let mut rules: Vec<(String, crate::policy::Source)> = conditions(profile)
            .filter(|(condition, ..)| !condition.is_any())
            .map(|(_, id, source)| (id.to_owned(), source.clone()))
            .collect();
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        let (profile, classes) = (profile.name.clone(), found.len().max(sets.len()));
        return Err(CompileError::TooManyClasses { profile, classes, most: MOST, rules });
    }
    let number = |sets: Vec<u16>| found.binary_search(&sets).map_or(0, |index| index as u16 + 1);
    let Ok(paths) = path::build(&nfa, limit, &Together(number)) else { return Ok(Err(TooMany)) };
    let members = |answers: &Vec<u16>| {
        Membership::Of(answers.iter().map(|&set| sets[usize::from(set)].clone()).collect())
    };
    let memberships =
        [Membership::Unknown, Membership::PLAIN].into_iter().chain(found.iter().map(members)).collect();
    Ok(Ok(Classes { memberships, paths }))
}

fn add(nfa: &mut Nfa, profile: &ResolvedProfile, set: &ProgramRef, answer: u64) -> Result<(), CompileError> {
    let globs: &[String] = match set {
        // A name that is not there is nobody's: the loader lets none through.
        ProgramRef::Name(name) => profile.programs.get(name).map_or(&[], Vec::as_slice),
        ProgramRef::Glob(glob) => std::slice::from_ref(glob),
    };
    let failed = |glob: &str, error: GlobError| CompileError::ProgramGlob {
        profile: profile.name.clone(),
        glob: glob.to_owned(),
        error,
    };
    for glob in globs {
        for expanded in super::expand_home(glob, &profile.homes) {
            nfa.add(&expanded, answer).map_err(|error| failed(glob, error))?;
        }
    }
    Ok(())
}
