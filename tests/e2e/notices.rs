//! What an agent is told of its denials.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::daemon::{Daemon, PROFILE, Talker, binary, wait};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("notices_tell_an_agent_of_its_own_denials_once", told),
        trial("without_notices_an_agent_is_told_nothing", silent),
        trial("a_reload_ends_and_begins_notices", reloaded),
    ]
}

/// Where the kernel judges Unix sockets, the section has to grant its own.
const REQUEST: &str = "unix: {}\nnotices: { request: \"ask in #agents\" }\n";

fn agent(daemon: &Daemon) -> Result<Talker> {
    let program = binary()?;
    let words = Daemon::run_words(&["denied-and-told", program.to_str().context("path")?])?;
    let mut command = daemon.verb(&words)?;
    command.env("AGENT_MONITOR_ALLOW_DEGRADED", "true");
    let mut agent = Talker::spawn(command)?;
    ensure!(agent.line()? == "ready");
    Ok(agent)
}

fn denied(agent: &mut Talker) -> Result<()> {
    agent.tell("connect 127.0.0.7:18080")?;
    let said = agent.line()?;
    ensure!(said == libc::ENETUNREACH.to_string(), "{said}");
    Ok(())
}

fn ask(agent: &mut Talker, words: &str) -> Result<Vec<Value>> {
    agent.tell(&format!("{words} "))?;
    let lines: usize = agent.line()?.parse()?;
    (0..lines).map(|_| Ok(serde_json::from_str(&agent.line()?)?)).collect()
}

/// Asks until something was told: the event is on its way.
fn wait_told(agent: &mut Talker, words: &str) -> Result<Vec<Value>> {
    wait("a notice", || Ok(Some(ask(agent, words)?).filter(|told| !told.is_empty())))
}

fn told() -> Result<()> {
    let daemon = Daemon::start(&format!("{PROFILE}{REQUEST}"))?;
    let (mut one, mut other) = (agent(&daemon)?, agent(&daemon)?);
    denied(&mut one)?;
    let told = wait_told(&mut one, "")?;
    let [notice] = told.as_slice() else { anyhow::bail!("{told:?}") };
    ensure!(notice["denied"]["address"] == "127.0.0.7" && notice["denied"]["port"] == 18080, "{notice}");
    ensure!(notice["rule"] == "tester:network.deny[0]" && notice["reason"] == "rule", "{notice}");
    ensure!(notice["errno"] == "ENETUNREACH" && notice["request"] == "ask in #agents", "{notice}");
    let text = notice.to_string();
    ensure!(!text.contains("tester.yaml") && !text.contains("cgroup"), "more than the agent asked: {text}");
    ensure!(ask(&mut one, "")?.is_empty(), "told twice");
    // Of the same profile and user, and not the same agent.
    ensure!(ask(&mut other, "")?.is_empty(), "told of another's denial");
    denied(&mut one)?;
    let hook = wait_told(&mut one, "--hook PostToolUse")?;
    let text = hook[0]["hookSpecificOutput"]["additionalContext"].as_str().unwrap_or_default();
    ensure!(text.contains("127.0.0.7") && text.ends_with("To request it: ask in #agents"), "{hook:?}");
    ensure!(ask(&mut one, "--hook PostToolUse")?.is_empty());
    // Whoever is no agent has nothing to be told; nor does asking take anything away.
    denied(&mut other)?;
    let socket = daemon.path("notices.sock");
    let free = daemon.ask(&["notices", "--notices", socket.to_str().context("path")?])?;
    ensure!(free.status.success() && free.stdout.is_empty(), "{free:?}");
    ensure!(wait_told(&mut other, "")?.len() == 1);
    Ok(())
}

fn silent() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let mut agent = agent(&daemon)?;
    denied(&mut agent)?;
    daemon.event("the denial", |event| event["verdict"]["effect"] == "deny")?;
    // The program has no variable that says where, so it is told where.
    let socket = daemon.path("notices.sock");
    let told = ask(&mut agent, &format!("--notices {}", socket.display()))?;
    ensure!(told.is_empty(), "{told:?}");
    Ok(())
}

fn reloaded() -> Result<()> {
    let daemon = Daemon::start(&format!("{PROFILE}{REQUEST}"))?;
    let mut agent = agent(&daemon)?;
    daemon.write_profile(PROFILE)?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    denied(&mut agent)?;
    daemon.event("the denial", |event| event["verdict"]["effect"] == "deny")?;
    ensure!(ask(&mut agent, "")?.is_empty());
    daemon.write_profile(&format!("{PROFILE}{REQUEST}"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    denied(&mut agent)?;
    ensure!(wait_told(&mut agent, "")?.len() == 1);
    Ok(())
}
