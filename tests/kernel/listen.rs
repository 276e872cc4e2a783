//! N19: an agent that lets others in.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_monitor_common::event::Hook;
use agent_monitor_common::request::Direction;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{AGENT4, DENIED4};
use agent_monitor_tests::{Attempt, Body, Child, Failure, Socket, Stage, World};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack::{self, Attack, Off, On};
use crate::catalogue::{ATTACK, TWIN};
use crate::lab::{self, Lab, PROFILE};
use crate::network_out::labelled_first;

/// Granted by the tests' profile for 10.9.0.1.
const GRANTED_PORT: u16 = 7100;
const UNGRANTED_PORT: u16 = 7050;

pub fn attacks() -> Vec<Attack> {
    let bind = |name, hook, run: fn(&mut Stage) -> Attempt| Attack {
        name,
        run,
        off: Off::Succeeds,
        on: On::Refused(libc::EACCES, hook),
    };
    vec![
        bind(
            "N19_bind4_any",
            Hook::Bind4,
            labelled_first!(
                Socket::tcp4()?.bind(&Name::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), UNGRANTED_PORT))
            ),
        ),
        bind(
            "N19_bind4_own_address",
            Hook::Bind4,
            labelled_first!(Socket::tcp4()?.bind(&Name::new(AGENT4, UNGRANTED_PORT))),
        ),
        bind(
            "N19_bind6_any",
            Hook::Bind6,
            labelled_first!(
                Socket::tcp6()?.bind(&Name::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), UNGRANTED_PORT))
            ),
        ),
        bind(
            "N19_bind6_mapped",
            Hook::Bind6,
            labelled_first!(
                Socket::tcp6()?.bind(&Name::new(crate::network_out::mapped(AGENT4), UNGRANTED_PORT))
            ),
        ),
        bind(
            "N19_bind_udp",
            Hook::Bind4,
            labelled_first!(Socket::udp4()?.bind(&Name::new(AGENT4, UNGRANTED_PORT))),
        ),
        // The port is granted on one address, not on all.
        bind(
            "N19_bind_granted_port_on_any",
            Hook::Bind4,
            labelled_first!(
                Socket::tcp4()?.bind(&Name::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), GRANTED_PORT))
            ),
        ),
        // A grant to listen is no grant to call.
        Attack {
            name: "N19_listening_socket_calls_out",
            run: labelled_first!({
                let socket = Socket::tcp4()?;
                socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                socket.bind(&Name::new(AGENT4, GRANTED_PORT))?;
                socket.connect(&Name::new(DENIED4, SINK))?;
                socket.send(b"secret").map(drop)
            }),
            off: Off::Leaves,
            on: On::Refused(libc::ENETUNREACH, Hook::Connect4),
        },
        Attack {
            name: "N19_listening_socket_fast_opens",
            run: labelled_first!({
                let socket = Socket::tcp4()?;
                socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                socket.bind(&Name::new(AGENT4, GRANTED_PORT))?;
                socket.send_to(b"secret", libc::MSG_FASTOPEN, &Name::new(DENIED4, SINK)).map(drop)
            }),
            off: Off::Leaves,
            on: On::Refused(libc::ENETUNREACH, Hook::Connect4),
        },
    ]
}

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("N19_granted_listener_serves", |lab| granted_listener_serves(lab, GRANTED_PORT, false)),
        lab::check("N19_granted_listener_serves_who_opens_fast", |lab| {
            granted_listener_serves(lab, GRANTED_PORT, true)
        }),
        lab::check("N19_granted_listener_serves_at_a_port_that_the_kernel_chose", |lab| {
            granted_listener_serves(lab, 0, false)
        }),
    ];
    for (name, open) in [
        ("N19_listen_without_bind", (|socket| socket.listen()) as fn(&Socket) -> Attempt),
        ("N19_listen_after_bind_to_port_0", |socket| {
            socket.bind(&Name::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
            socket.listen()
        }),
    ] {
        trials.extend(attack::checked_pair(
            name,
            move |lab| unanswered(lab, open),
            move |lab| {
                let call = unenforced_call(lab, open)?;
                ensure!(call.answered, "nobody got in with enforcement off: {:?}", call.opened);
                Ok(())
            },
        ));
    }
    trials.extend(attack::checked_pair(
        "N19_inherited_listener",
        |lab| inherited_listener(lab, PROFILE),
        |lab| inherited_listener(lab, &lab::in_audit(PROFILE)),
    ));
    trials.push(lab::test(
        format!("{LISTENS_WHERE_IT_MAY_CALL}{TWIN}"),
        listens_where_it_may_call_with_enforcement_off,
    ));
    trials.push(lab::test(format!("{LISTENS_WHERE_IT_MAY_CALL}{ATTACK}"), listens_where_it_may_call));
    trials
}

/// How a call from the peer to a listener of the agent's host ended.
struct Call {
    answered: bool,
    /// How `open` ended in the listener's process.
    opened: Attempt,
}

/// A child listens as `open` says and the peer calls it. `label`: between the child's start and `open`.
fn call(
    world: &World,
    inside: &agent_monitor_tests::cgroup::Cgroup,
    open: fn(&Socket) -> Attempt,
    mut label: impl FnMut(u32) -> Result<()>,
) -> Result<Call> {
    let (mut port_reader, mut port_writer) = std::io::pipe()?;
    let mut listener = Child::spawn(inside, move |stage| {
        stage.pause()?;
        let socket = Socket::tcp4()?;
        let opened = open(&socket);
        let port = if opened.is_ok() { socket.local_port()? } else { 0 };
        port_writer.write_all(&port.to_ne_bytes()).map_err(|e| Failure::of("report the port", &e))?;
        stage.pause()?;
        opened
    })?;
    listener.paused()?;
    label(listener.pid())?;
    listener.go_on()?;
    listener.paused()?;
    let mut port = [0; 2];
    port_reader.read_exact(&mut port)?;
    let port = u16::from_ne_bytes(port);
    let answered = port != 0 && {
        let mut caller = world.from_peer(move |_| Socket::tcp4()?.connect(&Name::new(AGENT4, port)))?;
        caller.finish()?.is_ok()
    };
    listener.go_on()?;
    Ok(Call { answered, opened: listener.finish()? })
}

fn unenforced_call(lab: &mut Lab, open: fn(&Socket) -> Attempt) -> Result<Call> {
    call(&lab.world, &lab.world.outside, open, |_| Ok(()))
}

/// Refused at `listen` where LSM programs run; else the SYN-ACK never leaves.
fn unanswered(lab: &mut Lab, open: fn(&Socket) -> Attempt) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    world.wire.clear()?;
    let before = monitor.denials();
    let mut agent = 0;
    let call = call(world, &world.agents, open, |pid| {
        agent = monitor.label(pid)?;
        Ok(())
    })?;
    ensure!(!call.answered, "the peer got in");
    let left = world.wire.packets()?;
    ensure!(!left.iter().any(|p| p.syn), "the listener's host answered: {left:?}");
    ensure!(monitor.denials() > before, "no denial was counted");
    let lsm = monitor.works("lsm/socket_listen");
    let refused = call.opened.as_ref().err().map(|f| f.errno);
    ensure!(refused == lsm.then_some(libc::EACCES), "listen ended with {:?}", call.opened);
    let expected = if lsm { Hook::LsmSocketListen } else { Hook::Egress };
    let record =
        monitor.wait_for(agent_monitor_common::counters::Ring::Verdicts, "the denied listener", |r| {
            r.header.agent == agent && r.denies()
        })?;
    ensure!(record.hook() == Some(expected), "{record:?}");
    match record.body {
        Body::Network(body) if body.direction == Direction::Listen.code() => Ok(()),
        other => bail!("the record is not about listening: {other:?}"),
    }
}

/// A listener that is older than the label. With a profile that does not enforce, the peer gets in.
fn inherited_listener(lab: &mut Lab, profile: &str) -> Result<()> {
    let enforced = profile == PROFILE;
    let (monitor, world) = lab.parts()?;
    monitor.install(profile)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        let socket = Socket::tcp4()?;
        socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket.bind(&Name::new(AGENT4, UNGRANTED_PORT))?;
        socket.listen()?;
        stage.pause()?;
        stage.pause()
    })?;
    child.paused()?;
    let knock = |world: &World| -> Result<bool> {
        let mut caller = world.from_peer(|_| Socket::tcp4()?.connect(&Name::new(AGENT4, UNGRANTED_PORT)))?;
        Ok(caller.finish()?.is_ok())
    };
    ensure!(knock(world)?, "nobody got in before the label");
    monitor.label(child.pid())?;
    let before = monitor.denials();
    world.wire.clear()?;
    if !enforced {
        ensure!(knock(world)?, "nobody got in with enforcement off");
        return Ok(());
    }
    ensure!(!knock(world)?, "the peer got in after the label");
    ensure!(!world.wire.packets()?.iter().any(|p| p.syn), "the agent's host answered");
    ensure!(monitor.denials() > before, "no denial was counted");
    Ok(())
}

/// What a profile grants must work: the replies of accepted connections pass. With `fast_open` the connection is there
/// before the listener has answered. At port 0 no bind hook sees the port: the answer itself is judged first.
fn granted_listener_serves(lab: &mut Lab, at: u16, fast_open: bool) -> Result<()> {
    const TCP_FASTOPEN: i32 = 23;
    let (monitor, world) = lab.parts()?;
    monitor.install(&PROFILE.replace("7100-7109", if at == 0 { "1024-65535" } else { "7100-7109" }))?;
    let (mut port_reader, mut port_writer) = std::io::pipe()?;
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        let socket = Socket::tcp4()?;
        socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket.bind(&Name::new(AGENT4, at))?;
        if fast_open {
            socket.set_int(libc::IPPROTO_TCP, TCP_FASTOPEN, 5)?;
        }
        socket.listen()?;
        let port = socket.local_port()?;
        port_writer.write_all(&port.to_ne_bytes()).map_err(|e| Failure::of("report the port", &e))?;
        stage.pause()?;
        let connection = socket.accept(10)?;
        let mut question = [0; 16];
        let n = connection.receive(&mut question)?;
        connection.send(&question[..n])?;
        connection.splice(b"!")?;
        stage.pause()
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    child.go_on()?;
    child.paused().context("open the granted port")?;
    let mut port = [0; 2];
    port_reader.read_exact(&mut port)?;
    let port = u16::from_ne_bytes(port);
    child.go_on()?;
    let mut caller = world.from_peer(move |_| {
        let socket = Socket::tcp4()?;
        let to = Name::new(AGENT4, port);
        if fast_open {
            socket.send_to(b"hello", libc::MSG_FASTOPEN, &to)?;
        } else {
            socket.connect(&to)?;
            socket.send(b"hello")?;
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 16];
        while answer.len() < 6 {
            match socket.receive(&mut buffer)? {
                0 => return Err(Failure::new("the answer is cut", 0)),
                n => answer.extend_from_slice(&buffer[..n]),
            }
        }
        if answer == b"hello!" { Ok(()) } else { Err(Failure::new("another answer", 0)) }
    })?;
    caller.finish()?.context("the caller")?;
    child.paused()?;
    let stale = monitor.kernel.stale_flows()?;
    ensure!(
        !stale.iter().any(|f| f.agent == agent),
        "a granted listener's connection is to be cut: {stale:?}"
    );
    let denied = monitor.kernel.agent(agent).map(|a| a.denied);
    ensure!(denied == Some(0), "a granted listener's packets were denied: {denied:?}");
    Ok(())
}

/// A grant to call `10.9.0.1:20120` is none to listen there. No bind hook sees the port: the socket asks for port 0 out
/// of a range of one (`IP_LOCAL_PORT_RANGE`, 6.3).
const CALLS_ITSELF: &str = "\
version: 1
name: calls-itself
mode: enforce
network:
  allow:
    - { address: 10.9.0.1, ports: [20120] }
";

fn open_where_it_may_call(socket: &Socket) -> Attempt {
    const IP_LOCAL_PORT_RANGE: i32 = 51;
    // Below the ephemeral ports: no connection of an earlier test has left it in TIME_WAIT.
    const RANGE: u32 = 20120 << 16 | 20120;
    let own = Name::new(AGENT4, 20120);
    socket
        .set(libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &RANGE.to_ne_bytes())
        .map_err(|f| Failure::absent("IP_LOCAL_PORT_RANGE", f.errno))?;
    // Nobody listens yet, or it is this very socket that answers itself: the verdict "allowed" stays on the socket.
    let _ = Socket::connect(socket, &own);
    let _ = socket.connect(&Name::unspecified());
    socket.bind(&Name::new(AGENT4, 0))?;
    socket.listen()
}

const LISTENS_WHERE_IT_MAY_CALL: &str = "N19_listen_where_calling_out_is_granted";

/// `Err`: this kernel has no such option.
fn free_call_where_it_may_call(lab: &mut Lab) -> Result<Result<Call, Completion>> {
    let free = unenforced_call(lab, open_where_it_may_call)?;
    match &free.opened {
        Err(failure) if failure.is_absence() => {
            Ok(Err(Completion::ignored_with(format!("not in this kernel: {failure}"))))
        }
        _ => Ok(Ok(free)),
    }
}

fn listens_where_it_may_call_with_enforcement_off(lab: &mut Lab) -> Result<Completion> {
    match free_call_where_it_may_call(lab)? {
        Err(absent) => Ok(absent),
        Ok(free) => {
            ensure!(free.answered, "nobody got in with enforcement off: {:?}", free.opened);
            Ok(Completion::Completed)
        }
    }
}

fn listens_where_it_may_call(lab: &mut Lab) -> Result<Completion> {
    if let Err(absent) = free_call_where_it_may_call(lab)? {
        return Ok(absent);
    }
    let (monitor, world) = lab.parts()?;
    monitor.install(CALLS_ITSELF)?;
    world.wire.clear()?;
    let call = call(world, &world.agents, open_where_it_may_call, |pid| monitor.label(pid).map(drop))?;
    ensure!(!call.answered, "the peer got in");
    ensure!(!world.wire.packets()?.iter().any(|p| p.syn), "the listener's host answered");
    Ok(Completion::Completed)
}
