//! What keeps the service right while it runs: reloads, and a death that systemd mends.

use agent_monitor_tests::talker::wait;
use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::host::{
    DENIED, LATER, PROFILE, agent_in_background, agents, connects, done, journal, profile, property, run,
    said, service, write_profile,
};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_reload_puts_a_changed_profile_in_force", good_reload),
        trial("a_reload_that_takes_a_grant_away_cuts_its_flows", tightening),
        trial("a_reload_of_a_bad_profile_fails_and_changes_nothing", bad_reload),
        trial("a_service_killed_again_and_again_comes_back_and_knows_its_agents", killed),
    ]
}

/// The profile with one grant more.
fn wider() -> String {
    PROFILE.replace("  deny:\n", "    - { address: 127.0.0.8, ports: [18080] }\n  deny:\n")
}

fn unreachable() -> String {
    libc::ENETUNREACH.to_string()
}

fn good_reload() -> Result<()> {
    ensure!(said(&[], &["connect", LATER])? == unreachable());
    let before = profile()?["generation"].as_u64();
    write_profile(&wider())?;
    service("reload")?;
    // By now it is in force: systemd has waited for the answer.
    ensure!(profile()?["generation"].as_u64() > before, "{}", profile()?);
    ensure!(said(&[], &["connect", LATER])? == "connected");
    Ok(())
}

fn tightening() -> Result<()> {
    let mut agent = agent_in_background(&["hold", LATER])?;
    ensure!(agent.line()? == "connected");
    write_profile(PROFILE)?;
    service("reload")?;
    let end = agent.line()?;
    ensure!(end == "reset", "the flow ended as: {end}");
    Ok(())
}

fn bad_reload() -> Result<()> {
    let before = profile()?;
    write_profile(&PROFILE.replace("18080] }\n  deny", "99999] }\n  deny"))?;
    let output = run("systemctl", &["reload", "agent-monitor.service"])?;
    ensure!(!output.status.success(), "an operator must hear of it");
    ensure!(property("ActiveState")? == "active", "{}", property("ActiveState")?);
    let after = profile()?;
    ensure!(after["generation"] == before["generation"] && after["digest"] == before["digest"], "{after}");
    ensure!(after["refused"].as_str().is_some_and(|why| why.contains("99999")), "{after}");
    ensure!(journal()?.contains("99999"), "the journal does not say why");
    ensure!(said(&[], &["connect", DENIED])? == unreachable());
    write_profile(PROFILE)?;
    service("reload")?;
    ensure!(profile()?["refused"].is_null(), "{}", profile()?);
    Ok(())
}

/// Kills whatever runs of the service; returns when systemd has started it anew.
fn kill() -> Result<()> {
    let old = property("MainPID")?;
    done("systemctl", &["kill", "--kill-who=main", "--signal=KILL", "agent-monitor.service"])?;
    wait("another process of the service", || {
        let new = property("MainPID")?;
        Ok((new != old && new != "0").then_some(()))
    })
}

/// systemd gives up after five starts in ten seconds unless told otherwise; a monitor must not be killable for good.
fn killed() -> Result<()> {
    let mut agent = agent_in_background(&["connect-when-told", DENIED])?;
    ensure!(agent.line()? == "ready" && connects(&mut agent)? == unreachable());
    let id = agents(1)?[0]["id"].clone();
    for _ in 0..6 {
        kill()?;
    }
    // Joins the start that is under way.
    service("start")?;
    ensure!(property("NRestarts")? == "6", "{}", property("NRestarts")?);
    let found = agents(1)?;
    ensure!(id.is_string() && found[0]["id"] == id, "{found:?}");
    ensure!(connects(&mut agent)? == unreachable());
    drop(agent);
    agents(0)?;
    Ok(())
}
