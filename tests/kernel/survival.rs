//! L7: the process that loaded the programs is gone, and what is pinned denies on. The next one adopts the same links.
//!
//! A monitor that is dropped leaves in the kernel what one that is killed does: nothing but its pins.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use agent_monitor::agent::denied;
use agent_monitor::kernel::{LoadOptions, Origin, Pinning, detach};
use agent_monitor_common::counters::Ring;
use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::monitor::{SLOT, resolve};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::DENIED4;
use agent_monitor_tests::{Attempt, Child, Failure, Monitor, Socket, Stage};
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::catalogue::{ATTACK, TWIN};
use crate::inherited::connected;
use crate::lab::{self, Lab};
use crate::marks::PATIENT;

const SECRET: &str = "/tmp/agent-monitor-survival/secret";
const PROFILE: &str = "\
version: 1
name: survivor
mode: enforce
network: {}
files:
  read: ['/usr/**', '/lib*/**', '/proc/**', '/dev/**']
  deny: ['/tmp/agent-monitor-survival/**']
";

pub fn trials() -> Vec<Trial> {
    let connect = |stage: &mut Stage| -> Attempt {
        stage.pause()?;
        connected(Socket::tcp4(), &Name::new(DENIED4, SINK)).map(drop)
    };
    let read = |stage: &mut Stage| -> Attempt {
        stage.pause()?;
        fs::read(SECRET).map(drop).map_err(|error| Failure::of("read", &error))
    };
    let pair = |name: &str, mechanism, errno, run: fn(&mut Stage) -> Attempt| {
        [
            lab::test(format!("{name}{ATTACK}"), move |lab| orphaned(lab, mechanism, errno, run)),
            lab::test(format!("{name}{TWIN}"), move |lab| unpinned(lab, run)),
        ]
    };
    [
        pair("L7_connect_after_the_monitor_died", "cgroup/connect4", libc::ENETUNREACH, connect),
        pair("L7_read_after_the_monitor_died", "lsm/file_open", libc::EACCES, read),
    ]
    .into_iter()
    .flatten()
    .chain([lab::test("marks_outlive_the_monitor_that_made_them", marks_stay)])
    .collect()
}

fn plant() -> Result<()> {
    fs::create_dir_all("/tmp/agent-monitor-survival")?;
    Ok(fs::write(SECRET, "secret")?)
}

/// Pins of one test, taken away at its end.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        Pins(PathBuf::from(format!("/tmp/agent-monitor-pins-{}", std::process::id())))
    }

    fn load(&self, cgroup: &Cgroup) -> Result<Monitor> {
        self.load_with_ring(cgroup, None)
    }

    /// Another size of the ring is another kernel side: what is pinned is replaced.
    fn load_with_ring(&self, cgroup: &Cgroup, verdict_ring: Option<u32>) -> Result<Monitor> {
        Monitor::load_with(&LoadOptions {
            pins: Pinning::Told(self.0.clone()),
            verdict_ring,
            ..LoadOptions::new(cgroup.path())
        })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = detach(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

fn orphaned(
    lab: &mut Lab,
    mechanism: &str,
    errno: i32,
    run: fn(&mut Stage) -> Attempt,
) -> Result<Completion> {
    plant()?;
    if !lab.monitor()?.works(mechanism) {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(mechanism)?));
    }
    let cgroup = Cgroup::create("survivor")?;
    let pins = Pins::new();
    // Forked before anything is loaded: it must not hold what the monitor held.
    let mut child = Child::spawn(&cgroup, run)?;
    child.paused()?;
    let mut monitor = pins.load(&cgroup)?;
    ensure!(monitor.kernel.origin() == Origin::Fresh);
    monitor.install(PROFILE)?;
    monitor.kernel.commit()?;
    let agent = monitor.label(child.pid())?;
    drop(monitor);
    child.go_on()?;
    let attempt = child.finish()?;
    ensure!(attempt.as_ref().err().map(|f| f.errno) == Some(errno), "{attempt:?}");
    let mut monitor = pins.load(&cgroup)?;
    ensure!(monitor.kernel.origin() == Origin::Adopted, "{:?}", monitor.kernel.origin());
    ensure!(monitor.works(mechanism), "adopted, and posture says that it does not work");
    ensure!(monitor.kernel.agent(agent).context("the agent is forgotten")?.denied == 1);
    monitor.wait_for(Ring::Verdicts, "the denial that nobody had read", |record| {
        record.header.agent == agent && record.denies()
    })?;
    // The next key is nobody's.
    let mut other = Child::spawn(&cgroup, run)?;
    other.paused()?;
    ensure!(monitor.label(other.pid())? == agent + 1);
    other.go_on()?;
    let attempt = other.finish()?;
    ensure!(attempt.as_ref().err().map(|f| f.errno) == Some(errno), "by the adopted image: {attempt:?}");
    Ok(Completion::Completed)
}

/// Without pins the same death lets the agent go.
fn unpinned(_: &mut Lab, run: fn(&mut Stage) -> Attempt) -> Result<Completion> {
    plant()?;
    let cgroup = Cgroup::create("orphan")?;
    let mut child = Child::spawn(&cgroup, run)?;
    child.paused()?;
    let mut monitor = Monitor::load(&cgroup, None)?;
    monitor.install(PROFILE)?;
    monitor.label(child.pid())?;
    drop(monitor);
    child.go_on()?;
    child.finish()??;
    Ok(Completion::Completed)
}

/// By an adopted kernel side, and by one that took over from it.
fn marks_stay(lab: &mut Lab) -> Result<Completion> {
    const NAMES: &str = "/tmp/agent-monitor-survival-names";
    const ALIAS: &str = "/tmp/agent-monitor-survival-names/alias";
    plant()?;
    if !lab.monitor()?.works("lsm/file_open") {
        return Ok(Completion::ignored_with(lab.monitor()?.blind("lsm/file_open")?));
    }
    let _ = fs::remove_dir_all(NAMES);
    fs::create_dir(NAMES)?;
    fs::hard_link(SECRET, ALIAS)?;
    let profile = PROFILE.replace("read: [", &format!("read: ['{NAMES}/**', "));
    let inode = fs::metadata(SECRET)?.ino();
    let cgroup = Cgroup::create("survivor")?;
    let pins = Pins::new();
    let mut monitor = pins.load(&cgroup)?;
    monitor.install(&profile)?;
    let generation = monitor.kernel.generation(SLOT).context("no generation")?;
    let denied = |monitor: &mut Monitor| -> Result<()> {
        let mut child = Child::spawn(&cgroup, |stage| {
            stage.pause()?;
            fs::read(ALIAS).map(drop).map_err(|error| Failure::of("read", &error))
        })?;
        child.paused()?;
        monitor.label(child.pid())?;
        child.go_on()?;
        let attempt = child.finish()?;
        ensure!(attempt.as_ref().err().map(|f| f.errno) == Some(libc::EACCES), "{attempt:?}");
        Ok(())
    };
    ensure!(denied(&mut monitor).is_err(), "denied without a mark");
    let found = denied::find(&resolve(&profile)?, PATIENT)?;
    monitor.kernel.mark(SLOT, generation, &found.objects)?;
    denied(&mut monitor).context("by the monitor that made the mark")?;
    monitor.kernel.commit()?;
    drop(monitor);
    let mut monitor = pins.load(&cgroup)?;
    ensure!(monitor.kernel.origin() == Origin::Adopted, "{:?}", monitor.kernel.origin());
    ensure!(monitor.kernel.marked_inodes(SLOT).contains(&inode), "the adopted marks lack it");
    denied(&mut monitor).context("by the one that adopted it")?;
    drop(monitor);
    let mut monitor = pins.load_with_ring(&cgroup, Some(1 << 20))?;
    ensure!(matches!(monitor.kernel.origin(), Origin::Replaced(_)), "{:?}", monitor.kernel.origin());
    monitor.kernel.commit()?;
    ensure!(monitor.kernel.generation(SLOT) == Some(generation));
    ensure!(monitor.kernel.marked_inodes(SLOT).contains(&inode), "the marks were not taken over");
    denied(&mut monitor).context("by the one that took over")?;
    Ok(Completion::Completed)
}
