//! An agent's network through the whole line: profile, verdict, event, metric, reload.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::daemon::{Daemon, PROFILE, Server, wait};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("N18_tightening_resets_an_established_flow_within_a_second", tightening),
        trial("L12_a_full_disk_changes_no_verdict_and_is_counted", full_disk),
        trial("a_denied_connect_is_unreachable_one_event_and_one_count", denied),
        trial("a_bad_file_leaves_the_old_profile_in_force_and_says_why", bad_reload),
        trial("sighup_reloads", hangup),
        trial("in_audit_mode_the_connection_is_made_and_would_be_denied", audit),
        trial("a_denial_that_is_tried_out_is_told_beside_one_that_denies", tried_out),
        trial("a_watched_call_is_an_event_and_the_hook_goes_with_the_agent", watched_call),
    ]
}

const DECISIONS: &str =
    "agent_monitor_decisions_total{domain=\"network_out\",effect=\"deny\",mode=\"enforce\"}";

fn denied() -> Result<()> {
    Server::on("127.0.0.1:18080")?;
    Server::on("127.0.0.7:18080")?;
    let daemon = Daemon::start(PROFILE)?;
    ensure!(daemon.agent(&["connect", "127.0.0.1:18080"])? == "connected");
    let before = daemon.metric(DECISIONS)?;
    ensure!(before == Some(0.0), "{before:?}");
    ensure!(daemon.agent(&["connect", "127.0.0.7:18080"])? == libc::ENETUNREACH.to_string());
    let event = daemon.event("the denial", |event| event["verdict"]["effect"] == "deny")?;
    ensure!(event["network"]["address"] == "127.0.0.7" && event["network"]["port"] == 18080, "{event}");
    ensure!(event["verdict"]["rule"] == "tester:network.deny[0]", "{event}");
    let source = event["verdict"]["source"].as_str().unwrap_or_default();
    ensure!(source.ends_with("profiles/tester.yaml:8"), "{event}");
    ensure!(event["verdict"]["errno"] == "ENETUNREACH", "{event}");
    ensure!(event["verdict"]["mechanism"] == "cgroup/connect4", "{event}");
    ensure!(event["process"]["exe"].as_str() == std::env::current_exe()?.to_str(), "{event}");
    ensure!(event["process"]["argv"][1] == "--agent", "{event}");
    let event_agent = event["agent"]["id"].clone();
    // The twin: the same program without a label.
    let free = std::process::Command::new(std::env::current_exe()?)
        .args([crate::agent::ARGUMENT, "connect", "127.0.0.7:18080"])
        .output()?;
    ensure!(free.stdout == b"connected\n", "{free:?}");
    daemon.event("the agent's end", |event| {
        event["type"] == "agent.ended" && event["agent"]["id"] == event_agent
    })?;
    let denials = daemon.events()?.iter().filter(|event| event["verdict"]["effect"] == "deny").count();
    ensure!(denials == 1, "{denials} events of one denial");
    let after = daemon.metric(DECISIONS)?;
    ensure!(after == Some(1.0), "{after:?}");
    Ok(())
}

fn tried_out() -> Result<()> {
    Server::on("127.0.0.1:18080")?;
    Server::on("127.0.0.7:18080")?;
    let tried = PROFILE.replace("deny:\n", "deny:\n    - { address: 127.0.0.1, audit: true }\n");
    let daemon = Daemon::start(&tried)?;
    ensure!(daemon.agent(&["connect", "127.0.0.1:18080"])? == "connected");
    ensure!(daemon.agent(&["connect", "127.0.0.7:18080"])? == libc::ENETUNREACH.to_string());
    let told = daemon.event("what would be", |event| event["verdict"]["effect"] == "would-deny")?;
    ensure!(told["network"]["address"] == "127.0.0.1", "{told}");
    ensure!(told["verdict"]["rule"] == "tester:network.deny[0]", "{told}");
    ensure!(told["verdict"]["mode"] == "audit" && told["verdict"]["errno"].is_null(), "{told}");
    let denial = daemon.event("the denial", |event| event["verdict"]["effect"] == "deny")?;
    ensure!(denial["verdict"]["rule"] == "tester:network.deny[1]", "{denial}");
    ensure!(denial["verdict"]["mode"] == "enforce", "{denial}");
    let id = told["id"].as_str().unwrap_or_default();
    let explained = daemon.ask(&["explain", id])?;
    let words = String::from_utf8_lossy(&explained.stdout).into_owned();
    ensure!(
        words.contains("ALLOW") && words.contains("tried out") && !words.contains("otherwise now"),
        "{words}"
    );
    Ok(())
}

fn tightening() -> Result<()> {
    Server::on("127.0.0.1:18080")?;
    let daemon = Daemon::start(PROFILE)?;
    let mut agent = daemon.agent_in_background(&["hold", "127.0.0.1:18080"])?;
    ensure!(agent.line()? == "connected");
    daemon
        .write_profile(&PROFILE.replace("ports: [18080], protocol: tcp", "ports: [18081], protocol: tcp"))?;
    let began = Instant::now();
    let reload = daemon.ask(&["reload"])?;
    ensure!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    let end = agent.line()?;
    let took = began.elapsed();
    ensure!(end == "reset" || end == "closed", "the flow was not cut: {end}");
    // A guest without hardware support is tens of times slower; the bound is for real hosts.
    let bound = if std::env::var_os("AGENT_MONITOR_VM").is_some() { 20 } else { 1 };
    ensure!(took < Duration::from_secs(bound), "it took {took:?}");
    daemon.event("the cut", |event| event["type"] == "flow.cut")?;
    Ok(())
}

fn bad_reload() -> Result<()> {
    Server::on("127.0.0.1:18080")?;
    let daemon = Daemon::start(PROFILE)?;
    daemon.write_profile(&PROFILE.replace("ports: [18080]", "portz: [18080]"))?;
    let reload = daemon.ask(&["reload"])?;
    let words = String::from_utf8_lossy(&reload.stderr).into_owned();
    ensure!(reload.status.code() == Some(65), "{reload:?}");
    ensure!(words.contains("tester.yaml:6") && words.contains("portz"), "{words}");
    let status = daemon.status()?;
    ensure!(status["profiles"][0]["generation"] == 1, "{status}");
    ensure!(status["profiles"][0]["refused"].as_str().is_some_and(|why| why.contains("portz")), "{status}");
    ensure!(daemon.metric("agent_monitor_reloads_total{outcome=\"refused\"}")? >= Some(1.0));
    ensure!(daemon.agent(&["connect", "127.0.0.1:18080"])? == "connected", "the old profile is not in force");
    daemon
        .write_profile(&PROFILE.replace("ports: [18080], protocol: tcp", "ports: [18081], protocol: tcp"))?;
    ensure!(daemon.ask(&["reload", "tester"])?.status.success());
    ensure!(daemon.status()?["profiles"][0]["generation"] == 2);
    ensure!(daemon.agent(&["connect", "127.0.0.1:18080"])? == libc::ENETUNREACH.to_string());
    let unknown = daemon.ask(&["reload", "nobody"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    Ok(())
}

fn hangup() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    daemon.write_profile(&PROFILE.replace("18080", "18081"))?;
    daemon.signal(libc::SIGHUP)?;
    wait("the new generation", || Ok((daemon.status()?["profiles"][0]["generation"] == 2).then_some(())))
}

fn audit() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let daemon = Daemon::start(&PROFILE.replace("mode: enforce", "mode: audit"))?;
    ensure!(daemon.agent(&["connect", "127.0.0.7:18080"])? == "connected");
    let event = daemon.event("the would-denial", |event| event["verdict"]["effect"] == "would-deny")?;
    ensure!(event["verdict"]["mode"] == "audit" && event["verdict"].get("errno").is_none(), "{event}");
    Ok(())
}

fn watched_call() -> Result<()> {
    let daemon = Daemon::start(&format!("{PROFILE}syscalls:\n  watch: [ptrace]\n"))?;
    ensure!(daemon.status()?["syscall_hook"] == false, "attached without an agent");
    ensure!(daemon.agent(&["ptrace"])? == "called");
    let event = daemon.event("the call", |event| event["type"] == "syscall")?;
    ensure!(event["syscall"]["name"] == "ptrace" && event["syscall"]["killed"] == false, "{event}");
    ensure!(event["verdict"]["rule"] == "tester:syscalls.watch[0]", "{event}");
    let detached =
        || wait("the hook is detached", || Ok((daemon.status()?["syscall_hook"] == false).then_some(())));
    detached()?;
    // The counter is the profile's: it goes on where an earlier agent's has ended.
    let calls = || daemon.metric("agent_monitor_syscalls_total{profile=\"tester\",syscall=\"ptrace\"}");
    ensure!(calls()? == Some(1.0), "{:?}", calls()?);
    ensure!(daemon.agent(&["ptrace"])? == "called");
    detached()?;
    wait("the second call is counted", || Ok((calls()? == Some(2.0)).then_some(())))
}

fn full_disk() -> Result<()> {
    Server::on("127.0.0.7:18080")?;
    let daemon = Daemon::start_with(PROFILE, &["--events", "/dev/full"])?;
    ensure!(daemon.agent(&["many-connects", "127.0.0.7:18080", "200"])? == "200");
    wait("the losses are counted", || {
        let dropped = daemon.metric("agent_monitor_sink_dropped_total{sink=\"file\"}")?;
        Ok((dropped >= Some(200.0)).then_some(()))
    })?;
    ensure!(daemon.page("/healthz")? == "ok\n");
    ensure!(daemon.status()?["losses"]["file"].as_u64() >= Some(200));
    Ok(())
}
