//! Leases end in the kernel: nobody does anything when their time comes.

use std::fs;
use std::time::{Duration, Instant};

use agent_monitor::kernel::Deadline;
use agent_monitor_common::counters::Ring;
use agent_monitor_tests::monitor::{SLOT, image};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::GRANTED4;
use agent_monitor_tests::{Child, Failure, Socket};
use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use libtest_mimic::{Completion, Trial};

use crate::lab::{self, Lab};

/// How long the leases of these tests hold.
const HOLDS: Duration = Duration::from_millis(1_500);

pub fn trials() -> Vec<Trial> {
    vec![
        lab::check("leases/a_flow_ends_with_its_lease", |lab| flow(lab, Some(HOLDS))),
        lab::check("leases/a_flow_goes_on_while_its_lease_does", |lab| flow(lab, None)),
        lab::check("leases/an_image_whose_end_nobody_told_has_none_of_its_leases", untold),
        lab::check("leases/a_later_end_makes_a_lease_longer", renewed),
        lab::test("leases/files_close_with_their_lease", files),
    ]
}

const NETWORK: &str = "\
version: 1
name: lent
mode: enforce
network:
  allow:
    - { address: 10.9.0.3, protocol: any, expires: 2h }
";

fn until(left: Duration) -> Deadline {
    let left = SignedDuration::try_from(left).unwrap_or(SignedDuration::MAX);
    Deadline::at(Timestamp::now().saturating_add(left).unwrap_or(Timestamp::MAX))
}

/// Longer than a test.
const LONG: Duration = Duration::from_secs(3_600);

fn lend(lab: &mut Lab, yaml: &str, left: Duration) -> Result<()> {
    let words = image(yaml)?.words;
    let monitor = lab.monitor()?;
    monitor.forget();
    monitor.kernel.install_until(SLOT, &words, until(left))?;
    Ok(())
}

fn sent(socket: &Socket) -> i32 {
    match socket.send(b"x") {
        Ok(_) => 0,
        Err(failure) => failure.errno,
    }
}

fn expect(step: &str, is: bool, errno: i32) -> Result<(), Failure> {
    if is { Ok(()) } else { Err(Failure::new(step.to_owned(), errno)) }
}

/// One connected socket sends before and after, and another one connects after.
fn flow(lab: &mut Lab, holds: Option<Duration>) -> Result<()> {
    assert_eq!(GRANTED4.to_string(), "10.9.0.3");
    lend(lab, NETWORK, LONG)?;
    let ends = holds.is_some();
    let (monitor, world) = lab.parts()?;
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        let name = Name::new(GRANTED4, SINK);
        let socket = Socket::udp4()?;
        socket.connect(&name)?;
        for _ in 0..3 {
            let errno = sent(&socket);
            expect("send within the lease", errno == 0, errno)?;
        }
        stage.pause()?;
        let errno = sent(&socket);
        expect("send on the old flow", (errno != 0) == ends, errno)?;
        let errno = Socket::udp4()?.connect(&name).map_or_else(|failure| failure.errno, |()| 0);
        expect("connect anew", errno == if ends { libc::ENETUNREACH } else { 0 }, errno)
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    monitor.drain(Ring::Verdicts)?;
    let begun = Instant::now();
    if let Some(holds) = holds {
        monitor.kernel.set_deadline(SLOT, until(holds))?;
    }
    child.go_on()?;
    child.paused()?;
    ensure!(begun.elapsed() < HOLDS, "this host is too slow for this test: {:?}", begun.elapsed());
    let before = monitor.kernel.agent(agent).map_or(0, |agent| agent.denied);
    ensure!(before == 0, "{before} denials within the lease");
    std::thread::sleep((HOLDS + Duration::from_millis(100)).saturating_sub(begun.elapsed()));
    child.go_on()?;
    child.finish()??;
    let denied = monitor.kernel.agent(agent).map_or(0, |agent| agent.denied);
    monitor.kernel.remove_agent(agent);
    ensure!((denied >= 2) == ends, "{denied} denials");
    Ok(())
}

fn untold(lab: &mut Lab) -> Result<()> {
    let words = image(NETWORK)?.words;
    let monitor = lab.monitor()?;
    monitor.forget();
    monitor.kernel.install(SLOT, &words)?;
    ensure!(connects(lab)? == libc::ENETUNREACH, "the lease holds without an end");
    Ok(())
}

fn renewed(lab: &mut Lab) -> Result<()> {
    untold(lab)?;
    ensure!(connects(lab)? == libc::ENETUNREACH);
    lab.monitor()?.kernel.set_deadline(SLOT, until(LONG))?;
    ensure!(connects(lab)? == 0, "it was not made longer");
    Ok(())
}

/// What an agent's connect ends with.
fn connects(lab: &mut Lab) -> Result<i32> {
    let (monitor, world) = lab.parts()?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        Socket::udp4()?.connect(&Name::new(GRANTED4, SINK))
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    child.go_on()?;
    let ended = child.finish()?;
    monitor.kernel.remove_agent(agent);
    Ok(ended.map_or_else(|failure| failure.errno, |()| 0))
}

const FILES: &str = "\
version: 1
name: lent
mode: enforce
network: {}
files:
  read:
    - '/tmp/agent-monitor-lent/kept'
    - { path: '/tmp/agent-monitor-lent/lent', expires: 2h }
";

fn files(lab: &mut Lab) -> Result<Completion> {
    if !lab.monitor()?.kernel.posture().works("lsm/file_open") {
        return Ok(Completion::ignored_with("no BPF LSM here"));
    }
    let (kept, lent) = ("/tmp/agent-monitor-lent/kept", "/tmp/agent-monitor-lent/lent");
    fs::create_dir_all("/tmp/agent-monitor-lent")?;
    for path in [kept, lent] {
        fs::write(path, "contents")?;
    }
    lend(lab, FILES, LONG)?;
    let (monitor, world) = lab.parts()?;
    let opened = |path: &str| fs::File::open(path).map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0);
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        // Twice, so that the directory is known at the second time.
        for path in [lent, lent, kept] {
            let errno = opened(path);
            expect("open within the lease", errno == 0, errno)?;
        }
        stage.pause()?;
        let errno = opened(kept);
        expect("open what is granted for good", errno == 0, errno)?;
        let errno = opened(lent);
        expect("open what was lent", errno == libc::EACCES, errno)
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    let begun = Instant::now();
    monitor.kernel.set_deadline(SLOT, until(HOLDS))?;
    child.go_on()?;
    child.paused()?;
    ensure!(begun.elapsed() < HOLDS, "this host is too slow for this test: {:?}", begun.elapsed());
    std::thread::sleep((HOLDS + Duration::from_millis(100)).saturating_sub(begun.elapsed()));
    child.go_on()?;
    child.finish()??;
    monitor.kernel.remove_agent(agent);
    fs::remove_dir_all("/tmp/agent-monitor-lent")?;
    Ok(Completion::Completed)
}
