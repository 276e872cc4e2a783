//! The control socket against agents and strangers.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::daemon::{Daemon, PROFILE, binary};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("L10_an_agent_is_refused_at_the_control_socket", agent_refused),
        trial("L10_an_agent_that_ends_before_it_is_heard_is_refused_too", vanished_refused),
        trial("another_user_is_refused_at_the_control_socket", user_refused),
        trial("an_agent_inherits_three_descriptors_and_keeps_its_exit_status", clean_start),
        trial("events_follow_shows_a_denial_as_it_happens", follow),
    ]
}

fn agent_refused() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let program = binary()?;
    let program = program.to_str().context("path")?;
    for words in [&["status"][..], &["reload"], &["run", "-p", "tester", "--", "/bin/true"]] {
        let mut all = vec!["exec", program];
        all.extend(words);
        let output = daemon.verb(&Daemon::run_words(&all)?)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(77), "{words:?}: {} {said}", output.status);
        ensure!(said.contains("an agent may not control its monitor"), "{said}");
    }
    ensure!(daemon.ask(&["status"])?.status.success(), "the twin: the same command without a label");
    Ok(())
}

/// Without the check that the asker lives, one of the first hundred ends the daemon.
fn vanished_refused() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let socket = daemon.path("control.sock");
    let asked: u32 = daemon
        .agent(&["ask-and-vanish", socket.to_str().context("path")?, "100"])?
        .parse()
        .context("count")?;
    // A child may find its connection closed before it has written.
    ensure!(asked > 0, "no request was sent: the attack proves nothing");
    ensure!(daemon.ask(&["status"])?.status.success(), "an agent ended its monitor: {}", daemon.log());
    ensure!(daemon.log().contains("was refused"), "{}", daemon.log());
    Ok(())
}

fn user_refused() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    // The directory and the socket's mode would stop a stranger already: open both, so that the daemon decides.
    for path in [daemon.directory.path().to_owned(), daemon.path("control.sock")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    // The binary may lie where a stranger can't reach it.
    let program = daemon.path("agent-monitor");
    std::fs::copy(binary()?, &program)?;
    let socket = daemon.path("control.sock");
    let output = std::process::Command::new(program)
        .arg("status")
        .arg("--socket")
        .arg(socket)
        .uid(65534)
        .gid(65534)
        .output()?;
    ensure!(output.status.code() == Some(77), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("user 65534"), "{output:?}");
    Ok(())
}

fn clean_start() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    // Standard input, output, error, and the directory being read.
    ensure!(daemon.agent(&["descriptors"])? == "4");
    let output = daemon.verb(&Daemon::run_words(&["exit", "7"])?)?.output()?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    let missing = daemon.ask(&["run", "-p", "tester", "--", "/no/such/program"])?;
    ensure!(missing.status.code() == Some(127), "{missing:?}");
    let not_executable = daemon.ask(&["run", "-p", "tester", "--", "/etc/passwd"])?;
    ensure!(not_executable.status.code() == Some(126), "{not_executable:?}");
    let unknown = daemon.ask(&["run", "-p", "nobody", "--", "/bin/true"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    ensure!(String::from_utf8_lossy(&unknown.stderr).contains("in force: tester"), "{unknown:?}");
    Ok(())
}

fn follow() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let mut follower =
        crate::daemon::Talker::spawn(daemon.verb(&["events", "-f", "--json", "--verdict", "deny"])?)?;
    crate::daemon::wait("the follower is there", || Ok((daemon.status()?["followers"] == 1).then_some(())))?;
    daemon.agent(&["connect", "127.0.0.7:18080"])?;
    let event: serde_json::Value = serde_json::from_str(&follower.line()?)?;
    ensure!(event["type"] == "network" && event["verdict"]["effect"] == "deny", "{event}");
    Ok(())
}
