//! The service from its installation to its start, and from its stop to its removal.

use std::fs;
use std::path::Path;

use agent_monitor_tests::talker::Server;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::host::{
    BINARY, DENIED, EVENTS, GRANTED, LATER, PROFILE, PROFILES, UNIT, done, events, journal, property, run,
    said, service, status, write_profile,
};
use crate::trial;

/// What `systemd-analyze security` may say at most, in tenths. A line that opens the unit further must be meant.
const EXPOSURE: u32 = 36;

/// Where everything is pinned.
const PINS: &str = "/sys/fs/bpf/agent-monitor";

pub fn beginning() -> Vec<Trial> {
    vec![
        trial("install_puts_binary_unit_and_profiles_in_place", install),
        trial("systemd_finds_nothing_wrong_with_the_unit", verify),
        trial("a_start_with_a_bad_profile_fails_once_and_is_not_tried_again", bad_start),
        trial("the_service_starts_and_says_so", start),
        trial("the_sandbox_is_as_tight_as_it_was", exposure),
        trial("doctor_finds_everything_enforced", doctor),
    ]
}

pub fn end() -> Vec<Trial> {
    vec![
        trial("a_stop_drains_and_ends_with_success", stop),
        trial("uninstall_removes_what_was_installed", uninstall),
    ]
}

fn install() -> Result<()> {
    let product = std::env::var("AGENT_MONITOR_BIN").context("AGENT_MONITOR_BIN")?;
    println!("\n{}", done(&product, &["install"])?.trim_end());
    for path in [BINARY, UNIT, &format!("{PROFILES}/coding-agent.yaml")] {
        ensure!(Path::new(path).is_file(), "{path} is not there");
    }
    ensure!(property("LoadState")? == "loaded", "systemd was not told: {}", property("LoadState")?);
    done("systemctl", &["enable", "agent-monitor.service"])?;
    ensure!(done("systemctl", &["is-enabled", "agent-monitor.service"])?.trim() == "enabled");
    for address in [GRANTED, DENIED, LATER] {
        Server::on(address)?;
    }
    write_profile(PROFILE)
}

fn verify() -> Result<()> {
    let output = run("systemd-analyze", &["verify", UNIT])?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && words.trim().is_empty(), "{}: {words}", output.status);
    Ok(())
}

fn bad_start() -> Result<()> {
    write_profile(&PROFILE.replace("mode:", "moode:"))?;
    ensure!(service("start").is_err(), "it started with a profile that has an error");
    ensure!(property("ExecMainStatus")? == "65", "exit status {}", property("ExecMainStatus")?);
    ensure!(property("ActiveState")? == "failed", "{}", property("ActiveState")?);
    ensure!(property("NRestarts")? == "0", "{} more tries", property("NRestarts")?);
    let journal = journal()?;
    ensure!(journal.contains("did you mean `mode`?") && journal.contains("tester.yaml:3"), "{journal}");
    write_profile(PROFILE)
}

fn start() -> Result<()> {
    service("start")?;
    ensure!(property("ActiveState")? == "active" && property("SubState")? == "running");
    let status = status()?;
    ensure!(status["pid"].as_u64() == property("MainPID")?.parse().ok(), "{status}");
    for profile in status["profiles"].as_array().context("profiles")? {
        ensure!(profile["gaps"].as_array().is_some_and(Vec::is_empty), "degraded: {profile}");
    }
    for mechanism in status["posture"].as_array().context("posture")? {
        // A hook that this kernel lacks, and that another one stands in for, is no gap.
        ensure!(mechanism["works"] == true || mechanism["instead"].is_string(), "{mechanism}");
    }
    ensure!(status["agents"].as_array().is_some_and(Vec::is_empty), "{status}");
    ensure!(Path::new(PINS).is_dir(), "nothing is pinned: a kill would end enforcement");
    Ok(())
}

fn exposure() -> Result<()> {
    let threshold = format!("--threshold={EXPOSURE}");
    let output = run("systemd-analyze", &["security", "--no-pager", &threshold, "agent-monitor.service"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // What is open, for whoever reads the run, and the sum.
    println!();
    for line in text.lines().filter(|line| line.contains('✗') || line.contains("Overall")) {
        println!("    {}", line.trim());
    }
    ensure!(
        output.status.success(),
        "more exposed than {EXPOSURE} tenths: {}",
        text.lines().last().unwrap_or("")
    );
    Ok(())
}

fn doctor() -> Result<()> {
    let text = done(BINARY, &["doctor"])?;
    ensure!(text.contains("Everything that a profile can ask is enforced here."), "{text}");
    Ok(())
}

fn stop() -> Result<()> {
    let before = denials()?;
    ensure!(said(&[], &["many-connects", DENIED, "500"])? == "500");
    service("stop")?;
    ensure!(property("ActiveState")? == "inactive", "{}", property("ActiveState")?);
    ensure!(property("Result")? == "success" && property("ExecMainStatus")? == "0");
    let denied = denials()? - before;
    ensure!(denied == 500, "{denied} of 500 denials are in the file");
    ensure!(journal()?.contains("drained"));
    ensure!(!Path::new("/run/agent-monitor").exists(), "the run directory is left");
    let left = fs::read_dir("/sys/fs/cgroup/agents")
        .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count());
    ensure!(left == 0, "{left} cgroups of agents are left");
    ensure!(Path::new(PINS).is_dir(), "a stop unpinned what must stay in force");
    Ok(())
}

fn denials() -> Result<usize> {
    Ok(events()?.iter().filter(|event| event["verdict"]["effect"] == "deny").count())
}

fn uninstall() -> Result<()> {
    println!("\n{}", done(BINARY, &["uninstall"])?.trim_end());
    ensure!(!Path::new(PINS).exists(), "something is pinned still");
    for path in [BINARY, UNIT, &format!("{PROFILES}/coding-agent.yaml")] {
        ensure!(!Path::new(path).exists(), "{path} is left");
    }
    let wanted = "/etc/systemd/system/multi-user.target.wants/agent-monitor.service";
    ensure!(fs::symlink_metadata(wanted).is_err(), "it would still be started at the next boot");
    ensure!(property("LoadState")? == "not-found", "{}", property("LoadState")?);
    ensure!(property("ActiveState")? == "inactive", "{}", property("ActiveState")?);
    ensure!(Path::new(&format!("{PROFILES}/tester.yaml")).is_file(), "somebody's own profile went");
    ensure!(Path::new(EVENTS).is_file(), "the events went");
    Ok(())
}
