//! The path automaton of a profile: what its `files`, `exec` and `unix` rules make of every path.
//!
//! Called by `compile::profile`; [`PathMatcher`] by whoever must know which rule decided. Every glob becomes one part of
//! a non-deterministic automaton whose answer is a set of rights (`agent_monitor_common::path`); a path's answer is the
//! union of what its globs say, a denial taking away what another grants.

use agent_monitor_common::path::{
    ALL_RIGHTS, AUDITED_SHIFT, DENIED_BELOW, Right, Rights, audited, path_answer,
};

use super::error::CompileError;
use super::glob::{GlobError, Nfa};
use super::home::{expand_home, group_homes};
pub(super) use super::path::TooMany;
use super::path::{self, Answers, Paths};
use super::programs::Holder;
use super::state::State;
use crate::policy::{Membership, PathRule, ResolvedProfile};

/// Where the denied rights lie in an answer.
const DENIED: u32 = path_answer(0, 1, false).trailing_zeros();

/// What a list of rules says about a path that it matches.
#[derive(Clone, Copy, Debug)]
struct Says {
    granted: Rights,
    denied: Rights,
    /// Denied by a rule that is tried out.
    audited: Rights,
}

impl Says {
    /// Whether a rule of the list holds for a program.
    fn holds(self, rule: &PathRule, holder: Holder<'_>) -> bool {
        if self.denied | self.audited == 0 {
            holder.granted(&rule.programs)
        } else {
            holder.denied(&rule.programs)
        }
    }

    /// What a rule of the list says: it may be about fewer rights.
    fn of(self, rule: &PathRule) -> Self {
        match rule.access {
            Some(access) => Says { denied: self.denied & access, audited: self.audited & access, ..self },
            None => self,
        }
    }
}

/// The lists of a profile, and what each says.
fn lists(profile: &ResolvedProfile) -> impl Iterator<Item = (&[PathRule], Says)> {
    const NOTHING: Says = Says { granted: 0, denied: 0, audited: 0 };
    let grants = |right: Right| Says { granted: right as Rights, ..NOTHING };
    let denies = |denied: Rights| Says { denied, ..NOTHING };
    let files = profile.filesystem.iter().flat_map(move |files| {
        [
            (files.read.as_slice(), grants(Right::Read)),
            (files.write.as_slice(), grants(Right::Write)),
            (files.deny.as_slice(), denies(ALL_RIGHTS)),
        ]
    });
    let exec = profile.exec.iter().flat_map(move |exec| {
        [
            (exec.allow.as_slice(), grants(Right::Execute)),
            (exec.deny.as_slice(), denies(Right::Execute as Rights)),
            // With its content, which the hook asks for: so whoever may execute it may not give it another one.
            (
                exec.pinned.as_slice(),
                Says { granted: Right::Execute as Rights, denied: Right::Write as Rights, ..NOTHING },
            ),
        ]
    });
    let unix = profile.unix.iter().flat_map(move |unix| {
        [
            (unix.allow.as_slice(), grants(Right::Connect)),
            (unix.deny.as_slice(), denies(Right::Connect as Rights)),
        ]
    });
    let protected = [(profile.protected.paths.as_slice(), denies(Right::Write as Rights))];
    let audited = [(profile.audited.as_slice(), Says { audited: ALL_RIGHTS, ..NOTHING })];
    files.chain(exec).chain(unix).chain(protected).chain(audited)
}

/// Which path rules, in the order of [`lists`], hold for a program. Where two agree, so do their automata.
pub(super) fn holding(profile: &ResolvedProfile, holder: Holder<'_>) -> Vec<bool> {
    lists(profile).flat_map(|(rules, says)| rules.iter().map(move |rule| says.holds(rule, holder))).collect()
}

/// The automaton of `profile`'s path rules for a program; without any, one that grants nothing.
///
/// # Errors
/// [`CompileError::PathGlob`] for a glob that can't be read: the loader lets none through.
pub(super) fn build(
    profile: &ResolvedProfile,
    holder: Holder<'_>,
    limit: usize,
) -> Result<Result<Paths, TooMany>, CompileError> {
    let mut nfa = Nfa::new();
    for (rules, says) in lists(profile) {
        for rule in rules.iter().filter(|rule| says.holds(rule, holder)) {
            add(&mut nfa, profile, rule, says).map_err(|error| CompileError::PathGlob {
                rule: rule.id.clone(),
                at: rule.source.clone(),
                error,
            })?;
        }
    }
    Ok(path::build(&nfa, subsets(limit), &Judgement))
}

/// Most subsets of an image of `limit` words: nearly all become states, and a state takes two words or more.
const fn subsets(limit: usize) -> usize {
    limit / 2
}

/// Subsets of one rule by itself, when it is asked what it costs. One that has more is dear enough.
const ALONE: usize = 1 << 14;

/// The automaton of each path rule by itself; `None` for one that has too many states.
pub(super) fn alone(profile: &ResolvedProfile) -> impl Iterator<Item = (&PathRule, Option<Vec<State>>)> {
    let rules = lists(profile).flat_map(|(rules, says)| rules.iter().map(move |rule| (rule, says)));
    rules.filter_map(|(rule, says)| {
        let mut nfa = Nfa::new();
        add(&mut nfa, profile, rule, says).ok()?;
        Some((rule, path::build(&nfa, ALONE, &Judgement).ok().map(|paths| paths.states)))
    })
}

fn add(nfa: &mut Nfa, profile: &ResolvedProfile, rule: &PathRule, says: Says) -> Result<(), GlobError> {
    let says = says.of(rule);
    let accept = u64::from(path_answer(says.granted, says.denied, false) | audited(says.audited));
    let above = if says.denied == 0 { 0 } else { u64::from(DENIED_BELOW) };
    let Some(glob) = group_homes(&rule.glob, &profile.homes) else { return Ok(()) };
    match nfa.add_marking(&glob, accept, above) {
        // One brace too many, which the profile did not write.
        Err(GlobError::Depth) => {
            let globs = expand_home(&rule.glob, &profile.homes);
            globs.iter().try_for_each(|glob| nfa.add_marking(glob, accept, above))
        }
        added => added,
    }
}

/// How grants and denials go together: a denial takes away what another rule grants, and a directory that may not be
/// written may not be moved either, whatever lies below it.
struct Judgement;

impl Answers for Judgement {
    fn settled(&self, bits: u64) -> u64 {
        let denied = bits >> DENIED & u64::from(ALL_RIGHTS);
        let written = if denied & Right::Write as u64 == 0 { 0 } else { u64::from(DENIED_BELOW) };
        // Of what is denied it is no matter what else is said.
        bits | denied | written | denied << AUDITED_SHIFT
    }

    fn answer(&self, bits: u64) -> u16 {
        let bits = bits as u32;
        let denied = bits >> DENIED & ALL_RIGHTS;
        let below = bits & DENIED_BELOW != 0 && denied & Right::Write as u32 == 0;
        let told = bits >> AUDITED_SHIFT & ALL_RIGHTS & !denied;
        (path_answer(bits & ALL_RIGHTS, denied, below) | audited(told)) as u16
    }
}

/// A rule that speaks of a path, and what it says where it holds.
#[derive(Clone, Copy, Debug)]
pub struct Speaking<'r> {
    pub rule: &'r PathRule,
    pub granted: Rights,
    pub denied: Rights,
    /// Denied by a rule that is tried out.
    pub audited: Rights,
}

/// Matches paths against one rule at a time: says which rule decided, where the automaton says only what.
#[derive(Debug)]
pub struct PathMatcher {
    /// In the order of a profile's lists.
    rules: Vec<(PathRule, Says, Nfa)>,
}

impl PathMatcher {
    /// The path rules of `profile`.
    #[must_use]
    pub fn new(profile: &ResolvedProfile) -> Self {
        let rules = lists(profile).flat_map(|(rules, says)| rules.iter().map(move |rule| (rule, says)));
        let rules = rules.map(|(rule, says)| {
            let mut nfa = Nfa::new();
            // A glob that can't be read stopped the compiler before: no image has this rule.
            let _ = add(&mut nfa, profile, rule, says);
            (rule.clone(), says.of(rule), nfa)
        });
        PathMatcher { rules: rules.collect() }
    }

    /// The rule that denies a program one of `needed` on `path`; the one with the lowest id of several.
    #[must_use]
    pub fn denying(&self, program: &Membership, path: &[u8], needed: Rights) -> Option<&PathRule> {
        self.first(program, |says| says.denied & needed != 0, |answer| answer & !DENIED_BELOW != 0, path)
    }

    /// The rule that is tried out and would deny a program one of `needed` on `path`.
    #[must_use]
    pub fn auditing(&self, program: &Membership, path: &[u8], needed: Rights) -> Option<&PathRule> {
        self.first(program, |says| says.audited & needed != 0, |answer| answer & !DENIED_BELOW != 0, path)
    }

    /// The rule that denies a program something below the directory `path`.
    #[must_use]
    pub fn denying_below(&self, program: &Membership, path: &[u8]) -> Option<&PathRule> {
        self.first(program, |says| says.denied != 0, |answer| answer & DENIED_BELOW != 0, path)
    }

    /// The rule that grants a program `right` on `path`; the one with the lowest id of several.
    #[must_use]
    pub fn granting(&self, program: &Membership, path: &[u8], right: Right) -> Option<&PathRule> {
        self.first(program, |says| says.granted & right as Rights != 0, |answer| answer != 0, path)
    }

    /// Every rule that says something of `needed` about `path`, whatever program asks. `directory`: an open one, which is
    /// judged by what lies in it too.
    #[must_use]
    pub fn speaking(&self, path: &[u8], directory: bool, needed: Rights) -> Vec<Speaking<'_>> {
        let inside = directory.then(|| [path, b"/"].concat());
        let matches = |nfa: &Nfa| {
            let own = nfa.answers(path) as u32 & !DENIED_BELOW != 0;
            own || inside.as_ref().is_some_and(|inside| nfa.answers(inside) as u32 & !DENIED_BELOW != 0)
        };
        let rules = self
            .rules
            .iter()
            .filter(|(_, says, _)| (says.granted | says.denied | says.audited) & needed != 0);
        let matching = rules.filter(|(.., nfa)| matches(nfa));
        matching
            .map(|(rule, says, _)| Speaking {
                rule,
                granted: says.granted & needed,
                denied: says.denied & needed,
                audited: says.audited & needed,
            })
            .collect()
    }

    fn first(
        &self,
        program: &Membership,
        of: impl Fn(Says) -> bool,
        hit: impl Fn(u32) -> bool,
        path: &[u8],
    ) -> Option<&PathRule> {
        let rules = self
            .rules
            .iter()
            .filter(|(rule, says, _)| of(*says) && says.holds(rule, Holder { program, lapsed: false }));
        let matching = rules.filter(|(_, _, nfa)| hit(nfa.answers(path) as u32));
        matching.map(|(rule, ..)| rule).min_by(|a, b| a.id.cmp(&b.id))
    }
}
