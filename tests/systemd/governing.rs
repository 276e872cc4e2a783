//! What the service does to agents from inside its sandbox: a mount namespace, a system call filter and few
//! capabilities of its own must not blind it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use agent_monitor_tests::agent::ARGUMENT;
use agent_monitor_tests::talker::{Talker, wait};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::host::{
    BINARY, DENIED, GRANTED, agent, agent_in_background, agents, connects, done, event, journal, metric,
    myself, said, service, status,
};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("an_agent_reaches_what_is_granted_and_nothing_else", network),
        trial("an_agent_of_another_user_is_governed", other_user),
        trial("an_agent_reads_what_is_granted_and_nothing_that_is_denied", files),
        trial("a_listed_system_call_kills", system_call),
        trial("attach_governs_a_living_process", attach),
        trial("a_claimed_program_in_a_directory_hidden_from_the_service_is_governed", hidden_program),
        trial("such_a_program_that_lives_already_is_found_at_the_start", hidden_scan),
        trial("a_unit_with_a_file_system_of_its_own_is_governed_by_its_name", unit),
        trial("the_service_had_nothing_to_complain_about", quiet),
    ]
}

fn unreachable() -> String {
    libc::ENETUNREACH.to_string()
}

fn network() -> Result<()> {
    TcpStream::connect(DENIED).context("the twin: without the monitor it is reachable")?;
    let series = "agent_monitor_decisions_total{domain=\"network_out\",effect=\"deny\",mode=\"enforce\"}";
    let before = metric(series).unwrap_or(0.0);
    ensure!(said(&[], &["connect", GRANTED])? == "connected");
    ensure!(said(&[], &["connect", DENIED])? == unreachable());
    ensure!(metric(series)? >= before + 1.0, "the metric did not grow");
    let me = myself()?;
    let denial = event("the denial", |event| event["verdict"]["errno"] == "ENETUNREACH")?;
    ensure!(denial["network"]["address"] == "127.0.0.7", "{denial}");
    ensure!(denial["verdict"]["rule"].as_str().is_some_and(|rule| rule.starts_with("tester:")), "{denial}");
    ensure!(denial["process"]["exe"] == *me, "{denial}");
    agents(0)?;
    Ok(())
}

fn other_user() -> Result<()> {
    ensure!(said(&["--user", "nobody"], &["connect", GRANTED])? == "connected");
    ensure!(said(&["--user", "nobody"], &["connect", DENIED])? == unreachable());
    event("a denial of that user", |event| {
        event["verdict"]["effect"] == "deny" && event["process"]["uid"] == 65_534
    })?;
    Ok(())
}

/// In a directory that the service sees another one of.
fn files() -> Result<()> {
    fs::create_dir_all("/tmp/secret")?;
    fs::write("/tmp/secret/key", "key")?;
    std::os::unix::fs::symlink("/tmp/secret", "/tmp/way")?;
    fs::read("/tmp/way/key").context("the twin: without the monitor it is readable")?;
    ensure!(said(&[], &["read", "/etc/hostname"])? == "read");
    ensure!(said(&[], &["read", "/tmp/way/key"])? == libc::EACCES.to_string());
    let denial =
        event("the denial", |event| event["type"] == "file" && event["verdict"]["effect"] == "deny")?;
    ensure!(denial["file"]["path"] == "/tmp/secret/key" && denial["file"]["access"][0] == "read", "{denial}");
    ensure!(denial["verdict"]["effect"] == "deny" && denial["verdict"]["errno"] == "EACCES", "{denial}");
    ensure!(denial["verdict"]["rule"] == "tester:files.deny[0]", "{denial}");
    ensure!(denial["verdict"]["mechanism"] == "lsm/file_open", "{denial}");
    ensure!(denial["process"]["exe"] == *myself()?, "{denial}");
    Ok(())
}

fn system_call() -> Result<()> {
    let output = agent(&[], &["ptrace"])?;
    ensure!(output.status.signal() == Some(libc::SIGKILL), "{output:?}");
    Ok(())
}

fn waiting(program: &str) -> Result<Talker> {
    let mut command = Command::new(program);
    command.args([ARGUMENT, "connect-when-told", DENIED]);
    let mut talker = Talker::spawn(command)?;
    ensure!(talker.line()? == "ready");
    Ok(talker)
}

fn attach() -> Result<()> {
    let mut process = waiting(&myself()?)?;
    ensure!(connects(&mut process)? == "connected", "the twin: it is free before");
    done(BINARY, &["attach", "--profile", "tester", "--pid", &process.pid().to_string()])?;
    ensure!(connects(&mut process)? == unreachable());
    drop(process);
    agents(0)?;
    Ok(())
}

/// Claimed as `/tmp/claimed`; the service has a `/tmp` of its own.
fn hidden_program() -> Result<()> {
    let program = "/tmp/claimed";
    fs::copy(myself()?, program)?;
    let mut process = waiting(program)?;
    ensure!(connects(&mut process)? == unreachable());
    let denial = event("its denial", |event| {
        event["verdict"]["effect"] == "deny" && event["process"]["pid"] == process.pid()
    })?;
    ensure!(denial["process"]["exe"] == program, "{denial}");
    drop(process);
    agents(0)?;
    Ok(())
}

fn hidden_scan() -> Result<()> {
    service("stop")?;
    let mut governed = waiting("/tmp/claimed")?;
    ensure!(connects(&mut governed)? == unreachable(), "a stop leaves claims and denials in force");
    drop(governed);
    done(BINARY, &["daemon", "--detach"])?;
    let mut process = waiting("/tmp/claimed")?;
    ensure!(connects(&mut process)? == "connected", "the twin: it is free before");
    service("start")?;
    ensure!(connects(&mut process)? == unreachable());
    ensure!(agents(1)?[0]["origin"] == "scan", "{}", status()?);
    drop(process);
    agents(0)?;
    Ok(())
}

fn unit() -> Result<()> {
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--pipe", "--unit=agent-tester", "--property=PrivateTmp=yes"]);
    command.arg(myself()?).args([ARGUMENT, "connect-when-told", DENIED]);
    let mut process = Talker::spawn(command)?;
    ensure!(process.line()? == "ready");
    let agents = wait("the unit is found, and the service itself is not", || {
        let status = status()?;
        Ok(status["agents"].as_array().filter(|agents| !agents.is_empty()).cloned())
    })?;
    let root = done("systemctl", &["show", "--value", "--property=MainPID", "agent-tester.service"])?;
    ensure!(
        agents.len() == 1 && agents[0]["root"].as_u64() == root.trim().parse().ok(),
        "{agents:?}, not {root}"
    );
    ensure!(connects(&mut process)? == unreachable());
    done("systemctl", &["stop", "agent-tester.service"])?;
    crate::host::agents(0)?;
    // It is still the operator's service and not an agent, or this would be refused.
    let mut free = agent_in_background(&["connect-when-told", GRANTED])?;
    ensure!(free.line()? == "ready" && connects(&mut free)? == "connected");
    Ok(())
}

fn quiet() -> Result<()> {
    let journal = journal()?;
    let since = journal.rfind("ready").map_or(0, |at| journal[..at].rfind("Starting").unwrap_or(0));
    let complaints: Vec<&str> =
        journal[since..].lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR ")).collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    let status = status()?;
    ensure!(status["helper_failures"].as_array().is_some_and(Vec::is_empty), "{status}");
    Ok(())
}
