//! Honest work by a real agent: it makes a file, edits another, runs the tests and commits, and not one act is denied.

use std::fs;
use std::sync::Arc;

use agent_monitor_tests::model::Turn;
use anyhow::{Result, ensure};

use super::{Agent, Kept, inside, play};
use crate::guest;

const TEST: &str = "import unittest

from src.sums import add


class Sums(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
";

fn turns() -> Vec<Turn> {
    let shell = |command: &str| Turn::Shell(command.to_owned());
    vec![
        shell("pwd; git status --short; cat src/sums.py"),
        Turn::Write { path: format!("{}/test_sums.py", guest::WORKSPACE), text: TEST.to_owned() },
        shell("sed -i 's/a + b/b + a/' src/sums.py && git diff --stat"),
        shell("python3 -m unittest test_sums 2>&1"),
        shell("git add src test_sums.py && git commit -qm 'Test the sums' && git log -1 --format=%s"),
        Turn::Say("All is done.".to_owned()),
    ]
}

pub fn run(agent: &'static Agent) -> Result<()> {
    guest::reset()?;
    let results: Kept<Vec<String>> = Arc::default();
    let kept = results.clone();
    let mut turns = turns().into_iter();
    let since = guest::now();
    let (ended_well, said) = play(agent, true, move |_, last| {
        inside(&kept, |kept| kept.push(last.to_owned()));
        turns.next().unwrap_or(Turn::Say("There is no more.".to_owned()))
    })?;
    guest::settle()?;
    let denials: Vec<_> =
        guest::denials(since)?.into_iter().filter(|event| event["network"]["port"] != 1).collect();
    let results = inside(&results, std::mem::take);
    ensure!(
        denials.is_empty(),
        "{} denials of honest work:\n{}\n{said}",
        denials.len(),
        guest::summary(&denials)
    );
    ensure!(ended_well && said.contains("All is done."), "it did not come to its end. {said}");
    ensure!(results.get(4).is_some_and(|result| result.contains("OK")), "its tests did not pass. {said}");
    ensure!(
        fs::read_to_string(format!("{}/test_sums.py", guest::WORKSPACE))? == TEST,
        "another file. {said}"
    );
    // Asked outside of the agent.
    let commit = guest::shell("cd /home/dev/work && git -c safe.directory='*' show --stat --format=%s")?;
    ensure!(
        ["Test the sums", "src/sums.py", "test_sums.py"].iter().all(|word| commit.contains(word)),
        "committed was {commit}. {said}"
    );
    Ok(())
}
