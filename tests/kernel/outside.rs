//! L2: agents outside the governed cgroup, where only LSM programs see their sockets.
//!
//! Its launcher, which is no agent, moved such an agent there; or a socket came from there. Every attack on the network
//! that `network_out` and `listen` know is tried again at that place.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;

use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{AGENT4, DENIED4, GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Child, Failure, Socket, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack::{self, Attack, Off, On};
use crate::inherited::{DATA, connected, denied4};
use crate::lab::{self, Lab, PROFILE, Place, Run};
use crate::network_out::labelled_first;
use crate::{listen, network_out, process};

const CONNECT: &str = "lsm/socket_connect";
const SENDMSG: &str = "lsm/socket_sendmsg (outside)";
const BIND: &str = "lsm/socket_bind";
const MADE: &str = "lsm/socket_post_create";

/// The same attack, judged by the LSM program in the place of the cgroup program; `None`: it is no attack on those.
fn elsewhere(attack: Attack) -> Option<Attack> {
    // The data of a SYN goes by `sendmsg`, and the LSM's `connect` hook never hears of it.
    let in_a_send = attack.name.contains("fastopen_sendto") || attack.name.contains("fast_opens");
    let on = match attack.on {
        On::Refused(errno, Hook::Connect4 | Hook::Connect6) if !in_a_send => {
            On::RefusedByLsm(errno, Hook::LsmSocketConnect, CONNECT)
        }
        On::Refused(errno, Hook::Bind4 | Hook::Bind6) => On::RefusedByLsm(errno, Hook::LsmSocketBind, BIND),
        On::Refused(errno, _) => On::RefusedByLsm(errno, Hook::LsmSocketSendmsg, SENDMSG),
        On::Partly(_) => On::PartlyByLsm(Hook::LsmSocketSendmsg, SENDMSG),
        _ => return None,
    };
    Some(Attack { on, ..attack })
}

/// What an agent does with a socket that is older than its way into the governed cgroup.
fn from_outside() -> Vec<Attack> {
    let refused = |name, hook, mechanism, run: fn(&mut Stage) -> Attempt| Attack {
        name,
        run,
        off: Off::Leaves,
        on: On::RefusedByLsm(libc::ENETUNREACH, hook, mechanism),
    };
    vec![
        refused("N17_tcp_connect_on_a_socket_from_outside", Hook::LsmSocketConnect, CONNECT, |stage| {
            let socket = Socket::tcp4()?;
            stage.pause()?;
            socket.connect(&denied4())?;
            socket.send(DATA).map(drop)
        }),
        refused("N17_udp_send_on_a_socket_from_outside", Hook::LsmSocketSendmsg, SENDMSG, |stage| {
            let socket = Socket::udp4()?;
            stage.pause()?;
            socket.send_to(DATA, 0, &denied4()).map(drop)
        }),
        refused("N17_tcp_send_on_a_connection_from_outside", Hook::LsmSocketSendmsg, SENDMSG, |stage| {
            let socket = connected(Socket::tcp4(), &denied4())?;
            stage.pause()?;
            socket.send(DATA).map(drop)
        }),
        refused("N17_udp_write_on_a_connection_from_outside", Hook::LsmSocketSendmsg, SENDMSG, |stage| {
            let socket = connected(Socket::udp4(), &denied4())?;
            stage.pause()?;
            socket.write(DATA).map(drop)
        }),
    ]
}

/// Kinds of sockets that `cgroup/sock_create` would not let be.
fn kinds() -> Vec<Attack> {
    let kind = |name, run: fn(&mut Stage) -> Attempt| Attack {
        name,
        run,
        off: Off::Succeeds,
        on: On::RefusedByLsm(libc::EPROTONOSUPPORT, Hook::LsmSocketPostCreate, MADE),
    };
    vec![
        kind("N11_raw_socket", labelled_first!(Socket::new(libc::AF_INET, libc::SOCK_RAW, 253).map(drop))),
        kind(
            "N11_ping_socket",
            labelled_first!(Socket::new(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP).map(drop)),
        ),
        kind(
            "N12_udplite_socket",
            labelled_first!(Socket::new(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE).map(drop)),
        ),
    ]
}

pub fn trials() -> Vec<Trial> {
    let known = [network_out::attacks(), listen::attacks()].concat();
    let mut trials: Vec<Trial> = known
        .into_iter()
        .filter_map(elsewhere)
        .chain(kinds())
        .flat_map(|a| attack::trials_at(Place::MovedOut, &format!("L2_outside_{}", a.name), a))
        .collect();
    trials.extend(from_outside().into_iter().flat_map(|a| attack::trials_at(Place::MovedIn, a.name, a)));
    trials.extend(attack::pair("L2_outside_name_server", name_server, |lab| {
        let run = lab.unenforced(ask)?;
        ensure!(run.attempt.is_ok() && run.left.len() == 2, "{}", run.describe());
        Ok(())
    }));
    trials.extend(attack::pair(
        "L2_outside_flow_that_lost_its_grant",
        |lab| tightened(lab, true),
        |lab| tightened(lab, false).map(drop),
    ));
    trials.extend(attack::pair("L2_born_outside", born_outside, |lab| {
        let path = lab.world.agents.path().to_owned();
        let run = lab.unenforced(|stage| {
            stage.pause()?;
            process::born_in(&path)
        })?;
        ensure!(run.attempt.is_ok() && run.ungranted().count() > 0, "{}", run.describe());
        Ok(())
    }));
    trials.push(lab::test("what_is_granted_works_outside_the_governed_cgroup", granted));
    trials
}

/// Connects to the port of name servers, and sends there: of a granted address, and of another.
fn ask(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    let [granted, other] = [GRANTED4, DENIED4].map(|ip| Name::new(ip, 53));
    let first = Socket::udp4()?.send_to(DATA, 0, &granted).map(drop);
    let second = Socket::udp4()?.send_to(DATA, 0, &other).map(drop);
    first.and(second)
}

/// Where a profile grants names, no question leaves but to the resolver, and none of these gets there.
fn name_server(lab: &mut Lab) -> Result<Completion> {
    let profile = PROFILE.replace(
        "  listen:",
        "    - { cidr: 10.9.0.3/32, ports: [53], protocol: udp }\n    \
        - { host: [example.com], ports: [443] }\n  listen:",
    );
    let run = lab.attack_at(Place::MovedOut, &profile, ask)?;
    if !lab.monitor()?.works(SENDMSG) {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(SENDMSG)?));
    }
    ensure!(run.left.is_empty() && run.denials == 2, "{}", run.describe());
    ensure!(run.attempt.as_ref().is_err_and(|f| f.errno == libc::ENETUNREACH), "{}", run.describe());
    for record in &run.records {
        let hook = record.hook() == Some(Hook::LsmSocketSendmsg);
        ensure!(hook && record.reason() == Some(Reason::NoResolver), "{}", run.describe());
    }
    // Without names the grant by address is one.
    let profile =
        PROFILE.replace("  listen:", "    - { cidr: 10.9.0.3/32, ports: [53], protocol: udp }\n  listen:");
    let run = lab.attack_at(Place::MovedOut, &profile, ask)?;
    ensure!(run.left.len() == 1 && run.denials == 1, "{}", run.describe());
    Ok(Completion::Completed)
}

/// A child that the agent lets be born in a cgroup outside: nobody moved, so nothing that keeps an agent from moving
/// sees it. Its label is its parent's.
fn born_outside(lab: &mut Lab) -> Result<Completion> {
    let path = lab.world.outside.path().to_owned();
    let outside = fs::metadata(&path)?.ino();
    let run = lab.attack(PROFILE, move |stage| {
        stage.pause()?;
        process::born_in(&path)
    })?;
    if !lab.monitor()?.works(CONNECT) {
        ensure!(run.attempt.is_ok(), "posture calls this blind: {}", run.describe());
        return Ok(Completion::ignored_with(lab.monitor()?.blind(CONNECT)?));
    }
    ensure!(run.attempt == Err(Failure::new("connect", libc::ENETUNREACH)), "{}", run.describe());
    ensure!(run.left.is_empty() && run.denials == 1, "{}", run.describe());
    let [record] = run.records.as_slice() else { bail!("{}", run.describe()) };
    ensure!(record.hook() == Some(Hook::LsmSocketConnect) && record.header.cgroup == outside, "{record:?}");
    Ok(Completion::Completed)
}

/// A connected datagram socket, before and after the profile lost the grant. There is no egress to drop what it sends.
fn tightened(lab: &mut Lab, enforce: bool) -> Result<Completion> {
    let (monitor, world) = lab.parts()?;
    if enforce && !monitor.works(SENDMSG) {
        return Ok(Completion::ignored_with(monitor.blind(SENDMSG)?));
    }
    monitor.install(PROFILE)?;
    let mut child = Child::spawn(&world.outside, |stage| {
        stage.pause()?;
        let socket = connected(Socket::udp4(), &Name::new(GRANTED4, SINK))?;
        socket.send(DATA)?;
        socket.send(DATA)?;
        stage.pause()?;
        socket.send(DATA).map(drop)
    })?;
    child.paused()?;
    let agent = if enforce { monitor.label(child.pid())? } else { 0 };
    world.wire.clear()?;
    child.go_on()?;
    child.paused()?;
    ensure!(world.wire.packets()?.len() == 2, "what is granted did not go");
    monitor.install(&PROFILE.replace("10.9.0.3/32", "10.9.0.5/32"))?;
    monitor.drain(Ring::Verdicts)?;
    child.go_on()?;
    let attempt = child.finish()?;
    let left = world.wire.packets()?;
    if !enforce {
        ensure!(attempt.is_ok() && left.len() == 1, "{attempt:?} {left:?}");
        return Ok(Completion::Completed);
    }
    let records = monitor.drain(Ring::Verdicts)?;
    monitor.kernel.remove_agent(agent);
    ensure!(
        attempt == Err(Failure::new("send", libc::ENETUNREACH)) && left.is_empty(),
        "{attempt:?} {left:?}"
    );
    let denied = records.iter().filter(|r| r.header.agent == agent && r.denies());
    ensure!(denied.count() == 1, "{records:?}");
    Ok(Completion::Completed)
}

fn work(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    for (tcp, udp, to) in [
        (Socket::tcp4()?, Socket::udp4()?, Name::new(GRANTED4, SINK)),
        (Socket::tcp6()?, Socket::udp6()?, Name::new(GRANTED6, SINK)),
    ] {
        tcp.connect(&to)?;
        tcp.send(DATA)?;
        udp.send_to(DATA, 0, &to)?;
        udp.send_to(DATA, 0, &to)?;
        udp.connect(&to)?;
        udp.send(DATA)?;
        udp.connect(&Name::unspecified())?;
    }
    let server = Socket::tcp4()?;
    server.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    server.bind(&Name::new(AGENT4, 7101))?;
    server.listen()?;
    // A port of the kernel's choice offers nothing yet.
    Socket::udp4()?.bind(&Name::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
    let (one, two) = Socket::pair()?;
    one.send(DATA)?;
    two.receive(&mut [0; 8]).map(drop)
}

fn granted(lab: &mut Lab) -> Result<Completion> {
    let twin = lab.unenforced(work)?;
    ensure!(twin.attempt.is_ok(), "{}", twin.describe());
    lab.monitor()?.drain(Ring::Activity)?;
    let run: Run = lab.attack_at(Place::MovedOut, PROFILE, work)?;
    ensure!(run.attempt.is_ok() && run.denials == 0 && run.records.is_empty(), "{}", run.describe());
    let monitor = lab.monitor()?;
    if !monitor.works(CONNECT) {
        return Ok(Completion::ignored_with(monitor.blind(CONNECT)?));
    }
    let told = monitor.drain(Ring::Activity)?;
    for hook in [Hook::LsmSocketConnect, Hook::LsmSocketSendmsg, Hook::LsmSocketBind] {
        let record =
            told.iter().find(|record| record.hook() == Some(hook)).with_context(|| format!("{hook:?}"))?;
        ensure!(!record.denies(), "{record:?}");
    }
    if let Some(cgroup) = told.iter().find(|r| matches!(r.hook(), Some(Hook::Connect4 | Hook::Sendmsg4))) {
        bail!("a cgroup program saw it: the agent was not outside: {cgroup:?}");
    }
    Ok(Completion::Completed)
}
