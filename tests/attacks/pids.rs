//! Process ids that come round again (S9): a label belongs to a process and not to its number.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::guest::{self, Who};

/// As low as the kernel allows is 301, and the guest has some hundred threads of its own.
const FEW: &str = "400";
const LIMIT: &str = "/proc/sys/kernel/pid_max";
/// Children that connect, one after the other; each takes the next free number.
const CHILDREN: usize = 400;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("S9_numbers_that_come_round_again_label_nobody_else", || {
        run().map_err(|error| format!("{error:#}").into())
    })]
}

fn run() -> Result<()> {
    guest::reset()?;
    let before = fs::read_to_string(LIMIT)?;
    fs::write(LIMIT, FEW)?;
    let outcome = storm();
    fs::write(LIMIT, before)?;
    outcome
}

fn storm() -> Result<()> {
    let script = format!(
        "for i in $(seq {CHILDREN}); do (exec 3<>/dev/tcp/203.0.113.10/443) 2>/dev/null && echo \"$BASHPID got\"; done; cat /proc/loadavg"
    );
    let (agent, other) = std::thread::scope(|scope| {
        let agent = scope.spawn(|| guest::as_agent(Who::Dev, &script));
        let other = guest::shell(&format!("( {script} ) </dev/null"));
        (agent.join(), other)
    });
    let other = other?;
    let agent = agent.map_err(|_| anyhow::anyhow!("the agent's thread"))??;
    let got = |text: &str| text.lines().filter(|line| line.ends_with("got")).count();
    let governed = String::from_utf8_lossy(&agent.stdout);
    ensure!(got(&governed) == 0, "{} of the agent's children were free:\n{governed}", got(&governed));
    ensure!(got(&other) == CHILDREN, "of {CHILDREN} free processes only {} were", got(&other));
    Ok(())
}
