//! A storm of files and programs, as an `npm install` makes one: what of it becomes events, and whether a verdict is lost.
//!
//! Needs a kernel that runs BPF LSM programs: `cargo xtask vm --program <this> -- storm`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, PATIENCE, product, value};
use crate::report::Report;

/// First argument of a stormer; the second is the directory that it may use.
pub const STORMER: &str = "--stormer";

const OPENS: usize = 50_000;
/// Distinct files among the opens: each is made once and read again and again.
const FILES: usize = 1_000;
const EXECS: usize = 5_000;
/// Opens beyond those, which are denied.
const DENIED: usize = 1_000;

const PROFILE: &str = "version: 1
name: storm
mode: enforce
network: {}
files:
  read: ['/**']
  write: ['/tmp/**', '/dev/**']
  deny: ['**/secret-*']
exec:
  allow: ['/**']
";

pub fn run(report: &mut Report) -> Result<()> {
    let Some(binary) = product("storm") else { return Ok(()) };
    let lsms = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !lsms.split(',').any(|lsm| lsm.trim() == "bpf") {
        eprintln!("storm: this kernel runs no BPF LSM programs; `cargo xtask vm --program <this> -- storm`");
        return Ok(());
    }
    eprintln!("storm: {OPENS} opens of {FILES} files, {EXECS} execs, {DENIED} denials");
    let cgroup = Cgroup::create("storm")?;
    let daemon = Daemon::start(&binary, cgroup.path(), "storm", PROFILE)?;
    let place = daemon.directory.join("modules");
    fs::create_dir_all(&place)?;
    for n in 0..8 {
        fs::write(place.join(format!("secret-{n}")), "x")?;
    }
    let start = Instant::now();
    let status = daemon.run(&[STORMER, place.to_str().context("a path that is no text")?])?.wait()?;
    ensure!(status.success(), "the storm failed: {status}");
    let took = start.elapsed().as_secs_f64();

    let series = |domain: &str, effect: &str| {
        format!("agent_monitor_decisions_total{{domain=\"{domain}\",effect=\"{effect}\",mode=\"enforce\"}}")
    };
    // Until the agent's end was read, and the counts behind it.
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = daemon.scrape()?;
        if value(&text, "agent_monitor_events_total{type=\"agent.ended\"}") >= 1.0
            || Instant::now() > deadline
        {
            break text;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let allowed = value(&text, &series("file", "allow")) + value(&text, &series("exec", "allow"));
    let denied = value(&text, &series("file", "deny")) + value(&text, &series("exec", "deny"));
    let events = value(&text, "agent_monitor_events_total{type=\"file\"}") - denied;
    let lost = value(&text, "agent_monitor_ring_lost_total{ring=\"verdicts\"}")
        + value(&text, "agent_monitor_sink_dropped_total{sink=\"file\"}");
    report.info("storm, allowed operations on paths", allowed, "", format!("in {took:.1} s"));
    report.at_most("storm, their events", events / allowed, "x", 1.0 / 20.0, format!("{events:.0} events"));
    report.at_most(
        "storm, denials that are no event",
        (denied - DENIED as f64).abs() + lost,
        "",
        0.0,
        format!("{denied:.0} denied, {lost:.0} lost"),
    );
    Ok(())
}

/// The stormer's side.
pub fn storm(place: &Path) -> Result<()> {
    let file = |n: usize| place.join(format!("module-{}.js", n % FILES));
    for n in 0..FILES {
        fs::write(file(n), "module.exports = 1;\n")?;
    }
    for n in 0..OPENS - FILES {
        fs::read(file(n))?;
        if n < DENIED {
            ensure!(fs::read(place.join(format!("secret-{}", n % 8))).is_err(), "a denied file was read");
        }
    }
    let busybox = Path::new("/bin/busybox");
    let program = if busybox.is_file() { busybox } else { Path::new("/bin/true") };
    for _ in 0..EXECS {
        let done = Command::new(program).arg("true").stdin(Stdio::null()).status()?;
        ensure!(done.success(), "a program of the storm failed: {done}");
    }
    Ok(())
}
