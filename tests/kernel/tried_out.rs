//! Denials that are tried out (`audit: true`): what they match goes on, and is told as what would be denied.

use std::fs;

use agent_monitor_common::counters::{Effect, Mode};
use agent_monitor_common::event::Reason;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{DENIED4, GRANTED4};
use agent_monitor_tests::{Attempt, Failure, Socket, Stage};
use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::lab::{self, Lab, Run};

pub fn trials() -> Vec<Trial> {
    vec![
        lab::check("tried_out/a_destination_is_reached_and_told", network),
        lab::check("tried_out/a_destination_that_nothing_grants_is_denied", ungranted),
        lab::check("tried_out/a_profile_that_denies_nothing_tells_it_too", audited),
        lab::test("tried_out/a_file_is_opened_and_told", files),
    ]
}

const NETWORK: &str = "\
version: 1
name: tried
mode: enforce
network:
  allow:
    - { address: 10.9.0.3, protocol: any }
  deny:
    - { cidr: 10.9.0.0/16, ports: [1-65535], protocol: any, audit: true }
";

/// A datagram by a connected socket, and one that names its destination.
fn two_ways(stage: &mut Stage, to: std::net::IpAddr) -> Attempt {
    stage.pause()?;
    let name = Name::new(to, SINK);
    let socket = Socket::udp4()?;
    socket.connect(&name)?;
    socket.send(b"x")?;
    socket.send(b"x")?;
    Socket::udp4()?.send_to(b"x", 0, &name).map(drop)
}

fn told(run: &Run, mode: Mode) -> usize {
    let is = |record: &&agent_monitor_tests::Record| {
        let header = &record.header;
        header.effect == Effect::Deny.code() && header.mode == mode.code() && header.errno == 0
    };
    run.records.iter().filter(is).filter(|record| record.reason() == Some(Reason::Rule)).count()
}

fn network(lab: &mut Lab) -> Result<()> {
    let run = lab.attack(NETWORK, |stage| two_ways(stage, GRANTED4))?;
    run.attempt.clone()?;
    ensure!(run.left.len() == 3, "{}", run.describe());
    // The connect, its flow's first packet, the sendto, and its packet.
    ensure!(told(&run, Mode::Audit) == 4 && run.records.len() == 4, "{}", run.describe());
    Ok(())
}

fn ungranted(lab: &mut Lab) -> Result<()> {
    let run = lab.attack(NETWORK, |stage| two_ways(stage, DENIED4))?;
    ensure!(run.attempt.as_ref().is_err_and(|f| f.errno == libc::ENETUNREACH), "{}", run.describe());
    ensure!(run.left.is_empty() && told(&run, Mode::Audit) == 0, "{}", run.describe());
    Ok(())
}

fn audited(lab: &mut Lab) -> Result<()> {
    let run = lab.attack(&lab::in_audit(NETWORK), |stage| two_ways(stage, GRANTED4))?;
    run.attempt.clone()?;
    ensure!(told(&run, Mode::Audit) == 4, "{}", run.describe());
    Ok(())
}

const FILES: &str = "\
version: 1
name: tried
mode: enforce
network: {}
files:
  read: ['/tmp/agent-monitor-tried/**']
  deny:
    - { path: '/tmp/agent-monitor-tried/**/key', audit: true }
    - '/tmp/agent-monitor-tried/**/closed'
exec:
  allow: ['/usr/**']
  deny: [{ path: '/usr/bin/env', audit: true }]
";

fn files(lab: &mut Lab) -> Result<Completion> {
    if !lab.monitor()?.kernel.posture().works("lsm/file_open") {
        return Ok(Completion::ignored_with("no BPF LSM here"));
    }
    let root = "/tmp/agent-monitor-tried";
    fs::create_dir_all(root)?;
    for name in ["key", "other", "closed"] {
        fs::write(format!("{root}/{name}"), "contents")?;
    }
    let open = |name: &str| {
        fs::read(format!("/tmp/agent-monitor-tried/{name}"))
            .map(drop)
            .map_err(|error| Failure::of(name, &error))
    };
    let run = lab.attack(FILES, move |stage| {
        stage.pause()?;
        open("key")?;
        open("other")?;
        match open("closed") {
            Ok(()) => Err(Failure::new("what is denied was opened".to_owned(), 0)),
            Err(_) => Ok(()),
        }
    })?;
    run.attempt.clone()?;
    fs::remove_dir_all(root)?;
    ensure!(told(&run, Mode::Audit) == 1, "{}", run.describe());
    let enforced = run.records.iter().filter(|record| record.header.errno == libc::EACCES as u16).count();
    ensure!(enforced == 1 && run.records.len() == 2, "{}", run.describe());
    Ok(Completion::Completed)
}
