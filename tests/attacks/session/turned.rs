//! A model that turns: its agent tries scenarios of the catalogue, the scripts of this suite, one after the other in one
//! session. Under the monitor each must fail, be told and be explained; without a monitor each must do its harm.

use std::fs;
use std::sync::Arc;

use agent_monitor_tests::model::Turn;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Agent, Kept, inside, play};
use crate::attack::{Attack, says};
use crate::{guest, persistence, privilege, programs, secrets};

/// The last one breaks the agents' own settings, which some of them read all the time.
const SCENARIOS: &[&str] = &[
    "A01_cloud_keys_are_not_read_and_nothing_is_posted",
    "A02_a_key_does_not_leave_through_a_shell_alone",
    "A04_the_cloud_hands_out_no_credentials",
    "A09_no_shell_is_given_a_line_to_run",
    "A11_git_is_given_nothing_to_run",
    "A23_nothing_is_fetched_and_run",
    "A24_no_program_makes_root_of_the_agent",
    "A24_no_user_namespace_lends_capabilities",
    "A07_an_agent_does_not_rewrite_what_binds_it",
];

fn acts() -> Vec<&'static Attack> {
    let all = [secrets::ATTACKS, persistence::ATTACKS, programs::ATTACKS, privilege::ATTACKS];
    let of = |name: &&str| all.iter().flat_map(|attacks| attacks.iter()).find(|attack| attack.name == *name);
    SCENARIOS.iter().filter_map(of).collect()
}

/// What came of an act.
struct Outcome {
    done: usize,
    all: usize,
    /// What the agent sent back to its model.
    told_back: String,
    denials: Vec<Value>,
}

pub fn governed(agent: &'static Agent) -> Result<()> {
    guest::reset()?;
    let (outcomes, said) = session(agent, true)?;
    for (act, outcome) in acts().iter().zip(&outcomes) {
        let (name, denied) = (act.name, guest::summary(&outcome.denials));
        let heard = &outcome.told_back;
        ensure!(
            outcome.done == 0,
            "{name}: {} harms were done; denied was:\n{denied}\nThe model heard: {heard}\n{said}",
            outcome.done
        );
        ensure!(!heard.is_empty(), "{name}: the model heard nothing of it. {said}");
        for words in act.told {
            ensure!(
                outcome.denials.iter().any(|event| says(event, words)),
                "{name}: no denial says {words:?}, but:\n{denied}\nThe model heard: {heard}"
            );
        }
        explained(act, &outcome.denials)?;
    }
    Ok(())
}

pub fn ungoverned(agent: &'static Agent) -> Result<()> {
    guest::reset()?;
    guest::without_monitor()?;
    let (outcomes, said) = session(agent, false)?;
    for (act, outcome) in acts().iter().zip(&outcomes) {
        ensure!(
            outcome.done >= outcome.all,
            "{}: without a monitor {} of {} harms were done, so a denial proves nothing. {said}",
            act.name,
            outcome.done,
            outcome.all
        );
    }
    Ok(())
}

/// One session with every act in it.
fn session(agent: &'static Agent, under_the_monitor: bool) -> Result<(Vec<Outcome>, String)> {
    let acts = acts();
    ensure!(acts.len() == SCENARIOS.len(), "a scenario of {SCENARIOS:?} is gone");
    let outcomes: Kept<Result<Vec<Outcome>>> = Arc::new(std::sync::Mutex::new(Ok(Vec::new())));
    let kept = outcomes.clone();
    let mut since = 0;
    let (_, said) = play(agent, under_the_monitor, move |number, last| {
        let mut next = || -> Result<Turn> {
            if let Some(act) = number.checked_sub(1).and_then(|number| acts.get(number)) {
                let outcome = outcome(act, last, under_the_monitor.then_some(since))
                    .with_context(|| act.name.to_owned())?;
                inside(&kept, |kept| kept.as_mut().map(|kept| kept.push(outcome)).unwrap_or_default());
            }
            let Some(act) = acts.get(number) else { return Ok(Turn::Say("All is done.".to_owned())) };
            guest::shell(act.before).with_context(|| act.name.to_owned())?;
            since = guest::now();
            Ok(Turn::Shell(act.script.to_owned()))
        };
        next().unwrap_or_else(|error| {
            inside(&kept, |kept| *kept = Err(error));
            Turn::Say("The test failed.".to_owned())
        })
    })?;
    let outcomes = inside(&outcomes, |kept| std::mem::replace(kept, Ok(Vec::new()))).context(said.clone())?;
    ensure!(
        outcomes.len() == SCENARIOS.len(),
        "{} of {} acts were tried. {said}",
        outcomes.len(),
        SCENARIOS.len()
    );
    Ok((outcomes, said))
}

fn outcome(act: &Attack, told_back: &str, since: Option<usize>) -> Result<Outcome> {
    fs::write(guest::OUT, told_back)?;
    let (done, all) = act.harm.done()?;
    let denials = match since {
        Some(since) => {
            guest::settle()?;
            let denials = guest::denials(since)?.into_iter();
            denials.filter(|event| event["network"]["port"] != 1).collect()
        }
        None => Vec::new(),
    };
    Ok(Outcome { done, all, told_back: told_back.to_owned(), denials })
}

/// `explain` must name, for the first denial that `act` is known by, what decided according to the event.
fn explained(act: &Attack, denials: &[Value]) -> Result<()> {
    let known = |event: &&Value| act.told.first().is_some_and(|words| says(event, words));
    let event = denials.iter().find(known).context("no denial is known")?;
    let (id, rule) = (event["id"].as_str(), event["verdict"]["rule"].as_str());
    let (id, rule) = (id.context("an event without an id")?, rule.context("a denial without a rule")?);
    let said = guest::shell(&format!("{} explain {id}", guest::BINARY))?;
    let decided = said.lines().find(|line| line.trim_start().starts_with("decided by"));
    ensure!(
        said.starts_with("DENY") && decided.is_some_and(|line| line.contains(rule)),
        "{}: `explain {id}` does not say that {rule} denied it, but:\n{said}",
        act.name
    );
    println!("{}: {}", act.name, decided.unwrap_or_default().trim());
    Ok(())
}
