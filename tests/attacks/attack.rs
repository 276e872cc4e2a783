//! An attack and its twin: the same script without a label must do its harm, with one it must not, and the denial must
//! be told, with the rule.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::guest::{self, Who};

/// See the module.
pub struct Attack {
    /// Begins with the scenario's id.
    pub name: &'static str,
    pub who: Who,
    /// Run by root before each attempt, outside of any agent.
    pub before: &'static str,
    /// Run by bash in the workspace.
    pub script: &'static str,
    pub harm: Harm,
    /// Denials that must be told. Each is a list of words that all occur in one of them.
    pub told: &'static [&'static [&'static str]],
}

/// What it looks like when an attack got what it wants. The twin must get all of it, the agent nothing.
pub enum Harm {
    /// So many lines that the attack prints hold these words: it tries that many ways.
    Said(&'static str, usize),
    /// Each of these files holds the words.
    Written(&'static str, &'static [&'static str]),
    /// So many of these files no longer hold the words.
    Lost(&'static str, &'static [&'static str]),
    /// What the attacker's servers of this name got holds the words, so many times at least.
    Arrived(&'static str, &'static str, usize),
    /// A script of root's, outside, says yes.
    Holds(&'static str),
}

impl Harm {
    /// How much of it was done, and how much all of it would be.
    pub fn done(&self) -> Result<(usize, usize)> {
        let holding = |words: &str, files: &[&str]| {
            files
                .iter()
                .filter(|file| fs::read_to_string(file).is_ok_and(|text| text.contains(words)))
                .count()
        };
        Ok(match self {
            Harm::Said(words, ways) => (said().lines().filter(|line| line.contains(words)).count(), *ways),
            Harm::Written(words, files) => (holding(words, files), files.len()),
            Harm::Lost(words, files) => (files.len() - holding(words, files), files.len()),
            Harm::Arrived(server, words, times) => {
                let file = format!("{}/{}", guest::ARRIVED, server.replace('/', "_"));
                let got = fs::read(file).unwrap_or_default();
                (String::from_utf8_lossy(&got).matches(words).count(), *times)
            }
            Harm::Holds(script) => (usize::from(guest::holds(script)?), 1),
        })
    }
}

pub fn trials(attacks: &'static [Attack]) -> Vec<Trial> {
    attacks
        .iter()
        .map(|attack| {
            Trial::test(attack.name, move || run(attack).map_err(|error| format!("{error:#}").into()))
        })
        .collect()
}

/// The agent first: its twin may leave no monitor behind.
fn run(attack: &Attack) -> Result<()> {
    ensure!(!attack.told.is_empty(), "nothing is asked of the events");
    guest::reset()?;
    guest::shell(attack.before)?;
    let since = guest::now();
    guest::as_agent(attack.who, attack.script)?;
    let (done, _) = attack.harm.done()?;
    let said_by_agent = said();
    guest::settle()?;
    let denials = guest::denials(since)?;
    ensure!(
        done == 0,
        "the agent did {done} harms. It said:\n{said_by_agent}\nDenied was:\n{}",
        guest::summary(&denials)
    );
    for words in attack.told {
        ensure!(
            denials.iter().any(|event| says(event, words)),
            "no denial says {words:?}, but:\n{}\nIt said:\n{said_by_agent}",
            guest::summary(&denials)
        );
    }

    guest::reset()?;
    guest::shell(attack.before)?;
    let since = guest::now();
    guest::as_nobody_special(attack.who, attack.script)?;
    let (done, all) = attack.harm.done()?;
    ensure!(
        done >= all,
        "the twin: without a label {done} of {all} harms were done, so a denial proves nothing. It said:\n{}",
        said()
    );
    let denials = guest::denials(since)?;
    ensure!(denials.is_empty(), "the twin was governed:\n{}", guest::summary(&denials));
    Ok(())
}

/// Whether an event holds all of the words.
pub fn says(event: &Value, words: &[&str]) -> bool {
    let text = event.to_string();
    words.iter().all(|word| text.contains(word))
}

/// What the last attempt printed.
pub fn said() -> String {
    let said = fs::read(guest::OUT).unwrap_or_default();
    String::from_utf8_lossy(&said).chars().take(6000).collect()
}
