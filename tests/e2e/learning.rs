//! `learn` watches a command, or a process that runs already, and what it wrote allows what was seen.

use std::process::{Child, Command, Stdio};

use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::talker::wait;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::agent::ARGUMENT;
use crate::daemon::{Server, Talker, binary};
use crate::trial;

const SEEN: &str = "127.0.0.7:18080";
const BEFORE: &str = "127.0.0.8:18080";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_profile_learnt_from_a_command_grants_what_it_did", command),
        trial("a_profile_learnt_from_a_process_grants_what_it_did_since", attached),
        trial("learning_from_a_process_ends_with_its_time_or_a_signal", bounded),
        trial("a_learner_that_is_killed_leaves_no_monitor", killed),
        trial("learning_from_a_process_that_is_not_there_is_refused", nobody),
    ]
}

fn learn(cgroup: &Cgroup) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(["learn", "--name", "learnt", "--workspace", "/nowhere", "--cgroup"]).arg(cgroup.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// A process in the cgroup that says what came of each connect it is told to make.
fn process(cgroup: &Cgroup, address: &str) -> Result<Talker> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ARGUMENT, "connect-when-told", address]);
    let mut talker = Talker::spawn(command)?;
    ensure!(talker.line()? == "ready");
    std::fs::write(cgroup.path().join("cgroup.procs"), talker.pid().to_string())?;
    Ok(talker)
}

fn connects(talker: &mut Talker) -> Result<()> {
    talker.tell("now")?;
    let said = talker.line()?;
    ensure!(said == "connected", "{said}");
    Ok(())
}

/// Waits until the process is watched: a connect of it is an event by then.
fn watched(learning: &mut Child) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut told = BufReader::new(learning.stderr.as_mut().context("stderr")?);
    let mut line = String::new();
    while !line.contains("learning from process") {
        line.clear();
        ensure!(told.read_line(&mut line)? > 0, "it ended before it watched");
    }
    Ok(())
}

/// The profile that was printed.
fn learnt(learning: Child) -> Result<String> {
    let output = learning.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {told}", output.status);
    ensure!(!told.contains("a fault of agent-monitor"), "{told}");
    Ok(String::from_utf8(output.stdout)?)
}

fn command() -> Result<()> {
    Server::on(SEEN)?;
    let cgroup = Cgroup::create("learn")?;
    let mut learning = learn(&cgroup)?;
    learning.arg("--").arg(std::env::current_exe()?).args([ARGUMENT, "connect", SEEN]);
    let text = learnt(learning.spawn()?)?;
    // The agent's own word comes before the profile.
    ensure!(text.contains("127.0.0.7") && text.contains("18080"), "{text}");
    Ok(())
}

fn attached() -> Result<()> {
    Server::on(SEEN)?;
    Server::on(BEFORE)?;
    let cgroup = Cgroup::create("learn")?;
    let mut before = process(&cgroup, BEFORE)?;
    let mut agent = process(&cgroup, SEEN)?;
    // Nobody watches yet.
    connects(&mut before)?;
    let mut learning = learn(&cgroup)?.args(["--attach", &agent.pid().to_string()]).spawn()?;
    watched(&mut learning)?;
    connects(&mut agent)?;
    // The process of somebody else, in the same cgroup.
    connects(&mut before)?;
    ensure!(learning.try_wait()?.is_none(), "it ends before the process does");
    drop(agent);
    let text = learnt(learning)?;
    ensure!(text.contains("127.0.0.7") && !text.contains("127.0.0.8"), "{text}");
    Ok(())
}

fn bounded() -> Result<()> {
    Server::on(SEEN)?;
    let cgroup = Cgroup::create("learn")?;
    for time in [Some("2s"), None] {
        let mut agent = process(&cgroup, SEEN)?;
        let mut command = learn(&cgroup)?;
        command.args(["--attach", &agent.pid().to_string()]).args(time.map(|time| format!("--for={time}")));
        let mut learning = command.spawn()?;
        watched(&mut learning)?;
        connects(&mut agent)?;
        if time.is_none() {
            let pid = rustix::process::Pid::from_raw(learning.id() as i32).context("a pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        }
        wait("it ends", || Ok(learning.try_wait()?.map(drop)))?;
        let text = learnt(learning)?;
        ensure!(text.contains("127.0.0.7"), "{text}");
        // Free again.
        connects(&mut agent)?;
    }
    Ok(())
}

fn killed() -> Result<()> {
    Server::on(SEEN)?;
    let cgroup = Cgroup::create("learn")?;
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut command = learn(&cgroup)?;
        command.arg("--").arg(std::env::current_exe()?).args([ARGUMENT, "connect-when-told", SEEN]);
        let mut learning = command.stdin(Stdio::piped()).spawn()?;
        // It is watched: the monitor runs.
        let run = format!("/run/agent-monitor-learn.{}.0/control.sock", learning.id());
        wait("the monitor runs", || Ok(std::path::Path::new(&run).exists().then_some(())))?;
        // SAFETY: a signal to a child of ours.
        unsafe { libc::kill(learning.id() as i32, signal) };
        learning.wait()?;
        wait("the monitor has ended", || Ok((!std::path::Path::new(&run).exists()).then_some(())))?;
        // Nobody was left to take the directory away; what else lies in it the monitor may still be removing.
        let directory = std::path::Path::new(&run).parent().context("a directory")?;
        wait("the directory is gone", || {
            let _ = std::fs::remove_dir_all(directory);
            Ok((!directory.exists()).then_some(()))
        })?;
    }
    Ok(())
}

fn nobody() -> Result<()> {
    let cgroup = Cgroup::create("learn")?;
    let output = learn(&cgroup)?.args(["--attach", "4194304"]).output()?;
    ensure!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    for words in [
        &["--attach", "1", "--", "true"][..],
        &["--for", "2s", "--", "true"],
        &["--attach", "1", "--for", "soon"],
    ] {
        let output = learn(&cgroup)?.args(words).output()?;
        ensure!(output.status.code() == Some(64), "{words:?}: {output:?}");
    }
    Ok(())
}
