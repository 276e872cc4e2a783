//! Agents coming and going: attach, claims, scan, restart, the daemon's end.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_monitor_tests::cgroup::mount_point;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::agent::ARGUMENT;
use crate::daemon::{Daemon, PROFILE, Server, Talker, wait};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("L4_attach_governs_a_living_process", attach),
        trial("an_exec_that_a_profile_claims_makes_an_agent", exec_claim),
        trial("a_socket_that_a_claimed_process_held_before_its_exec_is_governed", held_before_exec),
        trial("a_claimed_process_that_lives_already_is_found_at_the_start", scan),
        trial("a_claimed_cgroup_is_found_while_the_daemon_runs", cgroup_claim),
        trial("an_agent_of_a_killed_daemon_is_known_to_the_next", restart),
        trial("agents_start_while_a_reload_compiles", start_during_reload),
        trial("sigterm_drains_and_exits_0", terminate),
    ]
}

/// A process of this program in the governed cgroup, without a label, that connects when told.
fn free_process(daemon: &Daemon, program: &std::path::Path) -> Result<Talker> {
    let mut command = Command::new(program);
    command.args([ARGUMENT, "connect-when-told", "127.0.0.7:18080"]);
    let mut talker = Talker::spawn(command)?;
    ensure!(talker.line()? == "ready");
    fs::write(daemon.cgroup.path().join("cgroup.procs"), talker.pid().to_string())?;
    Ok(talker)
}

fn connects(talker: &mut Talker) -> Result<String> {
    talker.tell("now")?;
    talker.line()
}

fn attach() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let daemon = Daemon::start(PROFILE)?;
    let mut process = free_process(&daemon, &std::env::current_exe()?)?;
    ensure!(connects(&mut process)? == "connected", "the twin: it is free before");
    let pid = process.pid().to_string();
    let attached = daemon.ask(&["attach", "--pid", &pid, "--profile", "tester"])?;
    ensure!(attached.status.success(), "{attached:?}");
    ensure!(connects(&mut process)? == libc::ENETUNREACH.to_string());
    let again = daemon.ask(&["attach", "--pid", &pid, "--profile", "tester"])?;
    ensure!(again.status.code() == Some(1), "{again:?}");
    let own = daemon.ask(&["attach", "--pid", &daemon.pid()?.to_string(), "--profile", "tester"])?;
    ensure!(own.status.code() == Some(77), "the monitor must not govern itself: {own:?}");
    let nobody = daemon.ask(&["attach", "--pid", "4194303", "--profile", "tester"])?;
    ensure!(nobody.status.code() == Some(1), "{nobody:?}");
    drop(process);
    wait("the agent is gone", || {
        Ok(daemon.status()?["agents"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
}

/// Rules of a profile that takes far longer to compile than an agent to start.
const MANY: u32 = 24_000;

fn start_during_reload() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let mut large = String::from("version: 1\nname: large\nmode: enforce\nnetwork:\n  allow:\n");
    for rule in 0..MANY {
        let [_, a, b, c] = (rule * 641).to_be_bytes();
        let _ = writeln!(
            large,
            "    - {{ address: 10.{a}.{b}.{c}, ports: [{}], protocol: tcp }}",
            1 + rule % 60_000
        );
    }
    fs::write(daemon.path("profiles/large.yaml"), large)?;
    let mut reload = daemon.verb(&["reload"])?.spawn()?;
    let begun = Instant::now();
    let (mut started, mut longest) = (0, Duration::ZERO);
    let reloaded = loop {
        let asked = Instant::now();
        let agent = daemon.verb(&Daemon::run_words(&["exec", "/bin/true"])?)?.output()?;
        ensure!(agent.status.success(), "{}", String::from_utf8_lossy(&agent.stderr));
        (started, longest) = (started + 1, longest.max(asked.elapsed()));
        if let Some(status) = reload.try_wait()? {
            break status;
        }
        ensure!(begun.elapsed().as_secs() < 300, "the reload does not end");
    };
    ensure!(reloaded.success(), "{reloaded}; {}", daemon.log());
    let profiles = daemon.status()?["profiles"].to_string();
    ensure!(profiles.contains("large"), "{profiles}");
    // A quarter of a reload and more is spent on the compiler.
    let whole = begun.elapsed();
    ensure!(
        longest * 5 < whole,
        "one of {started} agents took {longest:?} to start, and the reload {whole:?}"
    );
    Ok(())
}

fn claiming(program: &std::path::Path) -> String {
    format!("{PROFILE}agents:\n  - exe: {}\n", program.display())
}

fn exec_claim() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let daemon = Daemon::start(PROFILE)?;
    let program = daemon.path("claimed");
    fs::copy(std::env::current_exe()?, &program)?;
    daemon.write_profile(&claiming(&program))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    let mut process = free_process(&daemon, &program)?;
    ensure!(connects(&mut process)? == libc::ENETUNREACH.to_string());
    let started = daemon.event("the agent", |event| event["type"] == "agent.started")?;
    ensure!(started["agent"]["origin"] == "exec", "{started}");
    let exec = daemon.event("the exec", |event| event["exec"]["claimed"] == true)?;
    ensure!(exec["process"]["exe"].as_str() == program.to_str(), "{exec}");
    drop(process);
    daemon.event("the agent's end", |event| {
        event["type"] == "agent.ended" && event["agent"]["id"] == started["agent"]["id"]
    })?;
    Ok(())
}

/// Another one's connection, handed down: no hook sees the agent open it.
fn held_before_exec() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let program = daemon.path("claimed");
    fs::copy(std::env::current_exe()?, &program)?;
    let procs = daemon.cgroup.path().join("cgroup.procs");
    let holding = || -> Result<Talker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ARGUMENT, "hold-and-exec"]).arg(&procs).arg("127.0.0.7:18081");
        command.arg(&program).args([ARGUMENT, "send-when-told"]);
        let mut talker = Talker::spawn(command)?;
        let first = talker.line()?;
        ensure!(first == "ready", "{first}");
        Ok(talker)
    };
    // Nobody receives, and the kernel says so at every other send.
    let [unheard, refused] = ["sent".to_owned(), libc::ECONNREFUSED.to_string()];
    let mut free = holding()?;
    for _ in 0..4 {
        let answer = connects(&mut free)?;
        ensure!(answer == unheard || answer == refused, "the twin: nobody claims it: {answer}");
    }
    drop(free);
    daemon.write_profile(&claiming(&program))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    let mut claimed = holding()?;
    let denied = [libc::EPERM, libc::ENETUNREACH].map(|errno| errno.to_string());
    // The daemon ties the socket to the agent once it has read of the exec.
    wait("the denial of the send", || Ok(denied.contains(&connects(&mut claimed)?).then_some(())))?;
    let still = connects(&mut claimed)?;
    ensure!(denied.contains(&still), "it was denied once, and then: {still}");
    Ok(())
}

fn scan() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let mut daemon = Daemon::prepare(PROFILE)?;
    let program = daemon.path("claimed");
    fs::copy(std::env::current_exe()?, &program)?;
    daemon.write_profile(&claiming(&program))?;
    let mut process = free_process(&daemon, &program)?;
    ensure!(connects(&mut process)? == "connected", "the twin: it is free before");
    daemon.launch()?;
    ensure!(connects(&mut process)? == libc::ENETUNREACH.to_string());
    let status = daemon.status()?;
    ensure!(status["agents"][0]["origin"] == "scan", "{status}");
    Ok(())
}

fn cgroup_claim() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let mut daemon = Daemon::prepare(PROFILE)?;
    let governed = daemon.cgroup.path().strip_prefix(mount_point()?)?.to_owned();
    let glob = format!("/{}/jobs-*", governed.display());
    daemon.write_profile(&format!("{PROFILE}agents:\n  - cgroup: {glob}\n"))?;
    daemon.launch()?;
    let mut process = free_process(&daemon, &std::env::current_exe()?)?;
    ensure!(connects(&mut process)? == "connected", "the twin: it is free outside");
    let jobs = daemon.cgroup.child("jobs-1")?;
    fs::write(jobs.path().join("cgroup.procs"), process.pid().to_string())?;
    let status = wait("the cgroup is found", || {
        let status = daemon.status()?;
        Ok(status["agents"].as_array().is_some_and(|all| all.len() == 1).then_some(status))
    })?;
    ensure!(status["agents"][0]["root"] == process.pid(), "{status}");
    ensure!(connects(&mut process)? == libc::ENETUNREACH.to_string());
    Ok(())
}

fn restart() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let mut daemon = Daemon::start(PROFILE)?;
    let mut agent = daemon.agent_in_background(&["connect-when-told", "127.0.0.7:18080"])?;
    ensure!(agent.line()? == "ready");
    let id = daemon.status()?["agents"][0]["id"].clone();
    daemon.signal(libc::SIGKILL)?;
    daemon.ended()?;
    daemon.launch()?;
    let status = daemon.status()?;
    ensure!(status["agents"][0]["id"] == id && id.is_string(), "{status}");
    ensure!(connects(&mut agent)? == libc::ENETUNREACH.to_string());
    Ok(())
}

fn terminate() -> Result<()> {
    let mut daemon = Daemon::start(PROFILE)?;
    ensure!(daemon.agent(&["many-connects", "127.0.0.7:18080", "500"])? == "500");
    daemon.signal(libc::SIGTERM)?;
    ensure!(daemon.ended()? == Some(0), "{}", daemon.log());
    let denials = daemon.events()?.iter().filter(|event| event["verdict"]["effect"] == "deny").count();
    ensure!(denials == 500, "{denials} of 500 denials are in the file");
    ensure!(!daemon.path("control.sock").exists());
    let agents = daemon.cgroup.path().join("agents");
    let left =
        fs::read_dir(&agents).context("agents")?.flatten().filter(|entry| entry.path().is_dir()).count();
    ensure!(left == 0, "{left} cgroups of agents are left");
    Ok(())
}
