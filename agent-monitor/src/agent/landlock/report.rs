//! How far Landlock expresses each rule of a profile, here and now: for `check --kernel`.
//!
//! What must stay true: `exact` is said only of a rule that Landlock holds to for names that come later, too, and of a
//! denial only where nothing that it could match is granted.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_monitor_common::path::{ALL_RIGHTS, Right, Rights};

use super::plan::{Note, Plan, Unexamined};
use super::shown;
use crate::policy::compile::Glob;
use crate::policy::{PathRule, ResolvedProfile};

/// How far one rule is expressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expressed {
    Exactly,
    /// In part: how Landlock differs.
    Approximately(Vec<String>),
    /// Why not.
    Not(String),
}

/// A rule and how far it is expressed.
#[derive(Clone, Debug)]
pub struct RuleReport<'p> {
    pub rule: &'p PathRule,
    pub expressed: Expressed,
}

/// Each path rule of `profile` in a plan that was made of its image.
#[must_use]
pub fn report<'p>(profile: &'p ResolvedProfile, plan: &Plan) -> Vec<RuleReport<'p>> {
    let grants = |rules: &'p [PathRule], right: Right| {
        rules.iter().map(move |rule| (rule, grant(profile, rule, right as Rights, plan)))
    };
    let denies = |rules: &'p [PathRule], rights: Rights| {
        rules.iter().map(move |rule| (rule, denial(profile, rule, rights, plan)))
    };
    let files = profile.filesystem.iter().flat_map(|files| {
        grants(&files.read, Right::Read)
            .chain(grants(&files.write, Right::Write))
            .chain(denies(&files.deny, ALL_RIGHTS))
    });
    let exec = profile.exec.iter().flat_map(|exec| {
        grants(&exec.allow, Right::Execute).chain(denies(&exec.deny, Right::Execute as Rights))
    });
    files.chain(exec).map(|(rule, expressed)| RuleReport { rule, expressed }).collect()
}

/// What a grant looks like, for Landlock.
enum Shape<'g> {
    /// One path.
    Path(&'g str),
    /// Everything in a directory.
    Tree(&'g str),
    /// What matches when the command starts.
    Pattern,
}

fn shape(glob: &str) -> Shape<'_> {
    let plain = |text: &str| !text.contains(['*', '?', '[', '{', '\\']);
    match glob.strip_suffix("/**") {
        Some(directory) if plain(directory) => {
            Shape::Tree(if directory.is_empty() { "/" } else { directory })
        }
        _ if plain(glob) => Shape::Path(glob),
        _ => Shape::Pattern,
    }
}

fn grant(profile: &ResolvedProfile, rule: &PathRule, right: Rights, plan: &Plan) -> Expressed {
    if !rule.programs.exe.is_empty() {
        return Expressed::Not("it can't tell programs apart, and grants this to none".to_owned());
    }
    if rule.programs.until.is_some() {
        return Expressed::Not("it takes nothing back, so it grants no lease".to_owned());
    }
    let Ok(glob) = Glob::read(&rule.glob, &profile.homes) else {
        return Expressed::Not("its glob can't be read".to_owned());
    };
    let mut differs = Vec::new();
    let mut exists = false;
    for path in &glob.expanded {
        match shape(path) {
            Shape::Path(path) | Shape::Tree(path) => match fs::symlink_metadata(path) {
                Ok(data) if data.is_symlink() => {
                    differs.push(format!("{path} is a link: write what it leads to"));
                }
                Ok(_) => exists = true,
                // A home without it: another has it, or none.
                Err(_) if glob.expanded.len() > 1 => {}
                Err(_) => differs.push(format!("{path} does not exist, and is not granted when it comes to")),
            },
            Shape::Pattern => {
                exists = true;
                differs.push("names that come later are not granted".to_owned());
            }
        }
    }
    if !exists {
        let why = differs.first().cloned();
        return Expressed::Not(
            why.unwrap_or_else(|| "nothing of it exists, and nothing is granted".to_owned()),
        );
    }
    differs.dedup();
    let notes = |wanted: &dyn Fn(&Note) -> Option<Rights>| -> Vec<&Note> {
        let mine = |note: &&Note| {
            wanted(note).is_some_and(|rights| rights & right != 0)
                && glob.reaches_into(note.path().as_os_str().as_bytes())
        };
        plan.notes.iter().filter(mine).collect()
    };
    let around = notes(&|note| match note {
        // Above what is granted there is always something that is not.
        Note::Around { rights, .. } => Some(*rights),
        _ => None,
    });
    if let Some(places) = named(&around) {
        let what = if right == Right::Write as Rights {
            "nothing is made or removed, beside what is denied, in"
        } else {
            "names that come later, beside what is denied, are not granted in"
        };
        differs.push(format!("{what} {places}"));
    }
    let unexamined = notes(&|note| match note {
        Note::Unexamined { rights, .. } => Some(*rights),
        _ => None,
    });
    if let Some(places) = named(&unexamined) {
        let why = match unexamined.first() {
            Some(Note::Unexamined { why: Unexamined::TooMany, .. }) => "too much to look through",
            Some(Note::Unexamined { why: Unexamined::TooLong, .. }) => "paths too long",
            _ => "unreadable",
        };
        differs.push(format!("not granted ({why}): {places}"));
    }
    let unreadable: Vec<&Note> = plan
        .notes
        .iter()
        .filter(|note| {
            matches!(note, Note::Unreadable { file } if right == Right::Execute as Rights
            && (glob.matches(file.as_os_str().as_bytes()) || glob.reaches_into(file.as_os_str().as_bytes())))
        })
        .collect();
    if let Some(places) = named(&unreadable) {
        differs.push(format!("not executable, because it may not be read: {places}"));
    }
    if right == Right::Read as Rights {
        let names: Vec<&Note> = plan
            .notes
            .iter()
            .filter(|note| matches!(note, Note::Names { directory } if covers(&glob, directory)))
            .collect();
        if let Some(places) = named(&names) {
            differs.push(format!("directories that are not granted can be listed, not read, below {places}"));
        }
    }
    match differs.as_slice() {
        [] => Expressed::Exactly,
        _ => Expressed::Approximately(differs),
    }
}

fn denial(profile: &ResolvedProfile, rule: &PathRule, rights: Rights, plan: &Plan) -> Expressed {
    let Ok(glob) = Glob::read(&rule.glob, &profile.homes) else {
        return Expressed::Not("its glob can't be read".to_owned());
    };
    let reached = |note: &&Note| glob.reaches_into(note.path().as_os_str().as_bytes());
    let later: Vec<&Note> = plan
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Later { rights: of, .. } if of & rights != 0))
        .filter(reached)
        .collect();
    let names: Vec<&Note> = plan
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Names { .. }) && rights & Right::Read as Rights != 0)
        .filter(reached)
        .collect();
    let mut differs = Vec::new();
    if !rule.programs.is_any() {
        differs.push("it can't tell programs apart, and denies this to all".to_owned());
    }
    if let Some(places) = named(&later) {
        differs.push(format!("what comes to exist later is not denied below {places}"));
    }
    if let Some(places) = named(&names) {
        differs.push(format!("denied directories can be listed, not read, below {places}"));
    }
    if plan.more_notes > 0 {
        differs.push(format!("{} places more were not kept", plan.more_notes));
    }
    match differs.as_slice() {
        [] => Expressed::Exactly,
        _ => Expressed::Approximately(differs),
    }
}

/// Whether the glob grants the listing of a directory.
fn covers(glob: &Glob, directory: &Path) -> bool {
    let path = directory.as_os_str().as_bytes();
    let inside = [path, b"/"].concat();
    glob.matches(path) || glob.matches(&inside)
}

/// The first places of some notes, in words.
fn named(notes: &[&Note]) -> Option<String> {
    let first = notes.first()?;
    Some(match notes.len() - 1 {
        0 => shown(first.path()),
        more => format!("{} and {more} more", shown(first.path())),
    })
}
