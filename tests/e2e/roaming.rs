//! Questions from where the resolver's loopback is not: they get no answer, nothing leaves, and an event says why.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use agent_monitor_tests::netlink::{End, Netlink, index_of};
use agent_monitor_tests::wire::Wire;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::names::{Asker, daemon};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("N30_questions_by_a_device_get_no_answer_and_leave_by_none", devices),
        trial("N30_questions_in_another_network_namespace_get_no_answer", elsewhere),
    ]
}

const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { host: api.example.test, ports: [18443] }
  listen:
    - { address: 0.0.0.0, protocol: udp }
";

const SERVER: &str = "192.0.2.53:53";
const NEAR: &str = "wire0";
const FAR: &str = "wire1";
const FAR_MAC: [u8; 6] = [2, 0, 0, 9, 1, 2];

/// A link of this namespace, behind which an attacker says that he is whatever is asked for: the resolver too.
fn link() -> Result<()> {
    static MADE: OnceLock<()> = OnceLock::new();
    if MADE.set(()).is_err() {
        return Ok(());
    }
    let link = Netlink::open()?;
    let own = File::open("/proc/thread-self/ns/net")?;
    let ends = [End { name: NEAR, mac: [2, 0, 0, 9, 1, 1] }, End { name: FAR, mac: FAR_MAC }];
    link.veth(&ends[0], &ends[1], own.as_fd()).context("the kernel needs veth (module `veth`)")?;
    let (near, far) = (index_of(NEAR)?, index_of(FAR)?);
    link.address(near, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 24)?;
    link.up(near)?;
    link.up(far)?;
    for address in [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::LOCALHOST] {
        link.neighbour(near, IpAddr::V4(address), FAR_MAC)?;
    }
    Ok(())
}

fn devices() -> Result<()> {
    link()?;
    for (mode, effect) in [("enforce", "deny"), ("audit", "would-deny")] {
        let (daemon, zone) = daemon(&PROFILE.replace("mode: enforce", &format!("mode: {mode}")), &[])?;
        zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
        let mut agent = Asker::start(&daemon)?;
        let mut wire = Wire::new(Wire::sniff(FAR)?, NEAR)?;
        for how in ["bound", "bound-late", "by-device"] {
            wire.clear()?;
            let before = daemon.events()?.len();
            let said = agent.does(&format!("roam {how} {NEAR} {SERVER} api.example.test"))?;
            ensure!(!said.contains("from"), "{mode} {how}: it was answered: {said}");
            let left: Vec<_> = wire.packets()?.into_iter().filter(|packet| packet.protocol == 17).collect();
            ensure!(left.is_empty() == (mode == "enforce"), "{mode} {how}: {said}, left: {left:?}");
            if mode == "enforce" {
                ensure!(said == if how == "bound" { "101" } else { "1" }, "{how}: {said}");
            }
            let told = |event: &serde_json::Value| {
                event["verdict"]["reason"] == "other-network" && event["verdict"]["effect"] == effect
            };
            crate::daemon::wait(how, || Ok(daemon.events()?.iter().skip(before).any(told).then_some(())))?;
        }
        // Nothing of it was asked by us.
        ensure!(zone.asked().is_empty(), "{:?}", zone.asked());
        // Bound to the loopback it is on the resolver's.
        let said = agent.does(&format!("roam bound lo {SERVER} api.example.test"))?;
        ensure!(said.contains("198.51.100.7"), "{mode}: {said}");
    }
    Ok(())
}

fn elsewhere() -> Result<()> {
    // With BPF LSM it could not set up its namespace otherwise.
    let profile = PROFILE.replace("network:\n", "network:\n  sockets: [netlink]\n");
    for (mode, effect) in [("enforce", "deny"), ("audit", "would-deny")] {
        let (daemon, zone) = daemon(&profile.replace("mode: enforce", &format!("mode: {mode}")), &[])?;
        zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
        let mut agent = Asker::start(&daemon)?;
        let said = agent.does(&format!("roam elsewhere lo {SERVER} api.example.test"))?;
        // The twin: the agent's own server there hears of it and answers.
        let wanted = if mode == "enforce" { "101" } else { "NoError from 192.0.2.53:53:" };
        ensure!(said.trim_end() == wanted, "{mode}: {said}");
        let event = daemon.event("the denial", |event| event["verdict"]["reason"] == "other-network")?;
        ensure!(event["verdict"]["effect"] == effect && event["network"]["port"] == 53, "{event}");
        ensure!(zone.asked().is_empty(), "{:?}", zone.asked());
        // In the daemon's own namespace it resolves.
        let said = agent.does(&format!("udp {SERVER} api.example.test A"))?;
        ensure!(said.contains("198.51.100.7"), "{mode}: {said}");
    }
    Ok(())
}
