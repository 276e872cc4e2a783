//! N17: one socket in the hands of two agents, one after the other. What it remembers of the first is nothing for the
//! second.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::label::{LabelOrigin, SocketLabel, epoch, flow_tag};
use agent_monitor_common::request::{Direction, Protocol};
use agent_monitor_common::wire::Wire;
use agent_monitor_tests::bpf;
use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::monitor::{SLOT, image};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{AGENT4, GRANTED4};
use agent_monitor_tests::{Child, Failure, Monitor, Socket, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;

use crate::inherited::{DATA, bound, connected, denied4, heedless};
use crate::lab::{self, Lab, PROFILE};
use crate::{attack, kernel_maps};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("a_flow_that_another_agent_was_denied_is_an_event_of_its_own", one_event_each),
        lab::check("egress_remembers_the_flow_that_it_allowed", remembered),
    ];
    trials.extend(attack::checked_pair(
        "N17_socket_shared_with_an_agent_that_may",
        |lab| shared(lab, true),
        |lab| shared(lab, false),
    ));
    trials.extend(attack::checked_pair(
        "N17_connection_that_another_agent_accepted",
        |lab| accepted_by_another(lab, PROFILE),
        |lab| accepted_by_another(lab, &lab::in_audit(PROFILE)),
    ));
    trials
}

/// One flow, of one agent and then of another under the same profile: each denial is told.
fn one_event_each(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    // The hooks of a socket are those of the cgroup in which it was made.
    let (to, from) = Socket::pair()?;
    let mut maker = Child::spawn(&world.agents, |_| to.pass(connected(Socket::udp4(), &denied4())?.as_fd()))?;
    maker.finish()?.context("make a socket")?;
    let socket = Socket::from_fd(from.take()?);
    for which in ["first", "second"] {
        let mut child = Child::spawn(&world.agents, |stage| {
            stage.pause()?;
            heedless(socket.send(DATA))
        })?;
        child.paused()?;
        let agent = monitor.label(child.pid())?;
        monitor.drain(Ring::Verdicts)?;
        world.wire.clear()?;
        child.go_on()?;
        child.finish()??;
        // A connection of an earlier test may still be closing.
        let left = world.wire.packets()?.into_iter().any(|p| p.protocol == 17 && attack::ungranted(&p));
        ensure!(!left, "the {which} agent's datagram left");
        let records = monitor.drain(Ring::Verdicts)?;
        let told = records.iter().filter(|r| r.header.agent == agent && r.denies()).count();
        let counted = monitor.kernel.agent(agent).map(|a| a.denied);
        ensure!(told == 1 && counted == Some(1), "{told} records of the {which} agent, {counted:?} denials");
        monitor.kernel.remove_agent(agent);
    }
    Ok(())
}

/// The next packet of the flow is not judged again: the socket remembers it, by the name that `flow_tag` gives it.
fn remembered(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let (to, from) = Socket::pair()?;
    let granted = Name::new(GRANTED4, SINK);
    // Connected by no agent: only egress sees what the agent sends.
    let mut maker = Child::spawn(&world.agents, |_| to.pass(connected(Socket::udp4(), &granted)?.as_fd()))?;
    maker.finish()?.context("make a socket")?;
    let socket = Socket::from_fd(from.take()?);
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        socket.send(DATA).map(drop)
    })?;
    child.paused()?;
    monitor.label(child.pid())?;
    let sockets = kernel_maps::of_cgroup(&world.agents, "SOCKETS")?;
    let allowed = || -> Result<u64> {
        let mut label = [0; size_of::<SocketLabel>()];
        let key = socket.as_fd().as_raw_fd().to_ne_bytes();
        bpf::lookup(sockets.fd().as_fd(), &key, &mut label).context("the socket has no label")?;
        Ok(SocketLabel::read_from(&label).context("a socket's label")?.allowed)
    };
    ensure!(allowed()? == 0, "something is allowed before the first packet");
    child.go_on()?;
    child.finish()??;
    let generation = monitor.kernel.generation(SLOT).context("no profile is in force")?;
    let IpAddr::V4(v4) = GRANTED4 else { bail!("an IPv4 address") };
    let v4 = u32::from_ne_bytes(v4.octets());
    let tag = flow_tag(v4, SINK, Direction::Out.code(), Protocol::Udp.code(), epoch(generation, 0));
    ensure!(allowed()? == tag, "remembered is {:#x}, not {tag:#x}", allowed()?);
    Ok(())
}

/// One agent accepts a connection at a port that is granted; another, of the same profile, has it when it is labelled.
/// That it may listen at that port too says nothing about whom it may send to.
fn accepted_by_another(lab: &mut Lab, profile: &str) -> Result<()> {
    const PORT: u16 = 7107;
    let enforced = profile == PROFILE;
    let (monitor, world) = lab.parts()?;
    monitor.install(profile)?;
    let (to, from) = Socket::pair()?;
    let mut first = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        let listener = bound(PORT)?;
        listener.listen()?;
        stage.pause()?;
        to.pass(listener.accept(10)?.as_fd())?;
        stage.pause()
    })?;
    let mut second = Child::spawn(&world.agents, |stage| {
        let connection = Socket::from_fd(from.take()?);
        stage.pause()?;
        let sent = connection.send(DATA).map(drop);
        stage.pause()?;
        sent
    })?;
    first.paused()?;
    monitor.label(first.pid())?;
    first.go_on()?;
    first.paused().context("open the granted port")?;
    let mut caller = world.from_peer(|stage| {
        let _connection = connected(Socket::tcp4(), &Name::new(AGENT4, PORT))?;
        stage.pause()
    })?;
    caller.paused().context("call the granted port")?;
    first.go_on()?;
    first.paused().context("accept and pass")?;
    second.paused().context("receive the connection")?;
    let agent = monitor.label(second.pid())?;
    monitor.drain(Ring::Verdicts)?;
    world.wire.clear()?;
    second.go_on()?;
    second.paused()?;
    let mut left = world.wire.packets()?;
    left.retain(|p| p.from_port == PORT);
    let records = monitor.drain(Ring::Verdicts)?;
    let told: Vec<_> = records.iter().filter(|r| r.header.agent == agent && r.denies()).collect();
    ensure!(left.is_empty() == enforced, "left {left:?}");
    let [record, ..] = told.as_slice() else { bail!("nothing is told of the other agent: {records:?}") };
    ensure!(record.hook() == Some(Hook::Egress) && record.reason() == Some(Reason::Default), "{record:?}");
    Ok(())
}

/// Two agents use one socket. What it remembers of the one that may send is nothing for the other: not at its first
/// datagram, and not when the socket has become its own. Profiles of their own monitor, so that both are of the same
/// generation. `enforced`: or the other's profile only watches.
fn shared(lab: &mut Lab, enforced: bool) -> Result<()> {
    const OTHER_SLOT: u32 = SLOT + 1;
    let cgroup = Cgroup::create(if enforced { "shared" } else { "shared-in-audit" })?;
    let mut monitor = Monitor::load(&cgroup, None)?;
    monitor.install(&if enforced { PROFILE.to_owned() } else { lab::in_audit(PROFILE) })?;
    let may = PROFILE.replace("10.9.0.3/32", "10.9.0.4/32");
    monitor.kernel.install(OTHER_SLOT, &image(&may)?.words)?;
    ensure!(monitor.kernel.generation(SLOT) == monitor.kernel.generation(OTHER_SLOT), "two generations");

    let world = &mut lab.world;
    // The hooks of a socket are those of the cgroup in which it was made.
    let (to, from) = Socket::pair()?;
    let mut maker = Child::spawn(&cgroup, |_| to.pass(Socket::udp4()?.as_fd()))?;
    maker.finish()?.context("make a socket")?;
    let socket = Socket::from_fd(from.take()?);
    let send = |stage: &mut Stage| {
        stage.pause()?;
        socket.send_to(DATA, 0, &denied4()).map(drop)
    };
    let mut first = Child::spawn(&cgroup, send)?;
    let mut second = Child::spawn(&cgroup, |stage| {
        let once = send(stage);
        let again = socket.send_to(DATA, 0, &denied4()).map(drop);
        if once == again { once } else { Err(Failure::new(format!("{once:?}, then {again:?}"), 0)) }
    })?;
    first.paused()?;
    second.paused()?;
    monitor.kernel.new_agent(OTHER_SLOT, first.pid(), LabelOrigin::Run)?;
    let agent = monitor.label(second.pid())?;
    world.wire.clear()?;
    first.go_on()?;
    first.finish()?.context("the agent that may send")?;
    ensure!(world.wire.packets()?.len() == 1, "the agent that may send was denied");
    second.go_on()?;
    let attempt = second.finish()?;
    let left = world.wire.packets()?;
    let records = monitor.drain(Ring::Verdicts)?;
    let of_agent = records.iter().filter(|r| r.header.agent == agent && r.denies()).count();
    if enforced {
        ensure!(attempt.as_ref().err().map(|f| f.errno) == Some(libc::ENETUNREACH), "{attempt:?}");
        ensure!(left.is_empty() && of_agent == 2, "left {left:?}, {of_agent} denials");
    } else {
        ensure!(attempt.is_ok() && left.len() == 2, "{attempt:?}, left {left:?}");
    }
    Ok(())
}
