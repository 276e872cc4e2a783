//! Why a profile has no image. Shown by `check`, the daemon's reload and `install`.

use super::cost::RuleCost;
use super::glob::GlobError;
use crate::policy::Source;

/// Compiling failed; nothing was made, nothing was dropped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    /// The rules need more than the kernel's image holds.
    #[error(
        "the rules of profile `{profile}` need {words} words or more, and an image holds {limit}; \
         merge or drop some; the largest shares:{}",
        list(dearest)
    )]
    TooLarge {
        profile: String,
        /// Words that the image needs at least.
        words: usize,
        /// Words that an image holds.
        limit: usize,
        /// The rules with the largest shares, largest first.
        dearest: Vec<RuleCost>,
    },
    /// The kernel's mask has no bit for this call.
    #[error("{at}: system call `{name}` has the number {nr}, and only numbers below 512 can be watched")]
    SyscallNumber { name: String, nr: u32, at: Source },
    /// A rule's glob can't be read.
    #[error("{at}: `{rule}`: {error}")]
    PathGlob {
        rule: String,
        at: Source,
        #[source]
        error: GlobError,
    },
    /// A program's glob can't be read.
    #[error("a set of programs of profile `{profile}`: `{glob}`: {error}")]
    ProgramGlob {
        profile: String,
        glob: String,
        #[source]
        error: GlobError,
    },
    /// The sets of programs overlap in more ways than an image has classes for.
    #[error(
        "the sets of programs that the rules of profile `{profile}` name overlap in {classes} ways, and an image has room \
         for {most}; make sets disjoint, or put them together; the rules that name any:{}",
        places(rules)
    )]
    TooManyClasses { profile: String, classes: usize, most: usize, rules: Vec<(String, Source)> },
    /// The rules match names in more ways than there are numbers.
    #[error(
        "the rules of profile `{profile}` match names in {classes} ways or more, and an image tells 65535 apart; put names \
         with the same ports and programs into one rule"
    )]
    TooManyNames { profile: String, classes: usize },
    /// A claim's glob can't be read.
    #[error("claim `{glob}`: {error}")]
    Glob {
        /// The profile slot that claims it.
        slot: u32,
        glob: String,
        #[source]
        error: GlobError,
    },
    /// There is no such profile slot.
    #[error("profile slot {slot} is beyond the last")]
    Slot { slot: u32 },
    /// All claims together need more than the kernel's image holds.
    #[error(
        "the {globs} claimed paths of all profiles need {words} words or more, and an image holds {limit}; \
             the largest is `{largest}`, which needs {largest_words} alone"
    )]
    ClaimsTooLarge {
        globs: usize,
        words: usize,
        limit: usize,
        /// The glob that is the largest by itself.
        largest: String,
        largest_words: usize,
    },
}

/// Rules that an error lists.
const LISTED: usize = 10;

fn places(rules: &[(String, Source)]) -> String {
    let more = rules.len().saturating_sub(LISTED);
    let listed: String =
        rules.iter().take(LISTED).map(|(id, source)| format!("\n  {id} ({source})")).collect();
    if more == 0 { listed } else { format!("{listed}\n  and {more} more") }
}

fn list(dearest: &[RuleCost]) -> String {
    dearest.iter().map(|rule| format!("\n  {} ({}): {} words", rule.id, rule.source, rule.words)).collect()
}
