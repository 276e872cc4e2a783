//! N17, N18, N7: sockets that are older than the label or come from another process, flows that lost their grant.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::uring::{self, Entry, FIXED_FILE};
use agent_monitor_tests::world::{AGENT4, DENIED4, DENIED6, GRANTED4};
use agent_monitor_tests::{Attempt, Child, Failure, Socket, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack::{self, Attack, Off, On};
use crate::lab::{self, Lab, PROFILE};
use crate::sockets::packet_to_denied;

pub const DATA: &[u8] = b"secret";
const DROPPED: On = On::Dropped(Reason::Default);

pub fn denied4() -> Name {
    Name::new(DENIED4, SINK)
}

pub fn connected(socket: Result<Socket, Failure>, to: &Name) -> Result<Socket, Failure> {
    let socket = socket?;
    socket.connect(to)?;
    Ok(socket)
}

/// A send whose packet egress drops may fail with EPERM (UDP) or end well (TCP): the wire tells.
pub fn heedless(sent: Result<usize, Failure>) -> Attempt {
    match sent {
        Err(f) if f.errno == libc::EPERM => Ok(()),
        other => other.map(drop),
    }
}

pub fn attacks() -> Vec<Attack> {
    let inherited = |name, on, run: fn(&mut Stage) -> Attempt| Attack { name, run, off: Off::Leaves, on };
    vec![
        inherited("N17_inherited_tcp_send", DROPPED, |stage| {
            let socket = connected(Socket::tcp4(), &denied4())?;
            stage.pause()?;
            socket.send(DATA).map(drop)
        }),
        inherited("N17_inherited_tcp6_write", DROPPED, |stage| {
            let socket = connected(Socket::tcp6(), &Name::new(DENIED6, SINK))?;
            stage.pause()?;
            socket.write(DATA).map(drop)
        }),
        inherited("N17_inherited_tcp_splice", DROPPED, |stage| {
            let socket = connected(Socket::tcp4(), &denied4())?;
            stage.pause()?;
            socket.splice(DATA).map(drop)
        }),
        inherited("N17_inherited_udp_connected_send", DROPPED, |stage| {
            let socket = connected(Socket::udp4(), &denied4())?;
            stage.pause()?;
            heedless(socket.send(DATA))
        }),
        inherited("N17_inherited_udp_sendto", On::Refused(libc::ENETUNREACH, Hook::Sendmsg4), |stage| {
            let socket = Socket::udp4()?;
            stage.pause()?;
            socket.send_to(DATA, 0, &denied4()).map(drop)
        }),
        inherited("N17_inherited_tcp_connect", On::Refused(libc::ENETUNREACH, Hook::Connect4), |stage| {
            let socket = Socket::tcp4()?;
            stage.pause()?;
            socket.connect(&denied4())?;
            socket.send(DATA).map(drop)
        }),
        inherited("N17_inherited_raw_sendto", DROPPED, |stage| {
            let socket = Socket::new(libc::AF_INET, libc::SOCK_RAW, 253)?;
            stage.pause()?;
            heedless(socket.send_to(DATA, 0, &Name::new(DENIED4, 0)))
        }),
        // What stands where the ports would be is data: no port of it can be judged.
        inherited("N17_inherited_raw_later_fragment", On::Dropped(Reason::Malformed), |stage| {
            let socket = Socket::new(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
            stage.pause()?;
            heedless(socket.send_to(&packet_to_denied(1), 0, &Name::new(DENIED4, 0)))
        }),
        // Nobody holds the socket while the process is labelled: it is in the queue of a Unix socket.
        inherited("N17_in_flight_tcp_write", RECEIVED, |stage| {
            let (to, from) = Socket::pair()?;
            to.pass(connected(Socket::tcp4(), &denied4())?.as_fd())?;
            stage.pause()?;
            Socket::from_fd(from.take()?).write(DATA).map(drop)
        }),
        inherited("N17_in_flight_tcp_splice", RECEIVED, |stage| {
            let (to, from) = Socket::pair()?;
            to.pass(connected(Socket::tcp4(), &denied4())?.as_fd())?;
            stage.pause()?;
            Socket::from_fd(from.take()?).splice(DATA).map(drop)
        }),
        // The socket has no descriptor: an io_uring holds it.
        inherited(
            "N17_registered_in_uring_send",
            On::RefusedByLsm(libc::ENETUNREACH, Hook::LsmSocketSendmsg, "lsm/socket_sendmsg"),
            |stage| {
                let mut ring = uring::Ring::new(false)?;
                ring.register(connected(Socket::tcp4(), &denied4())?.as_fd())?;
                stage.pause()?;
                let (address, length) = (DATA.as_ptr().addr() as u64, DATA.len() as u32);
                let entry =
                    Entry { opcode: uring::OP_SEND, flags: FIXED_FILE, address, length, ..Entry::default() };
                let sent = ring.run(entry).map(drop);
                // Its end would close the connection, and the FIN is a denial of its own.
                std::mem::forget(ring);
                sent
            },
        ),
        // The connection waits in the queue of a listener that is older than the label: nobody holds it yet, and it
        // was cloned from a socket without a label.
        Attack {
            name: "N17_accepted_after_the_label_write",
            off: Off::Loopback,
            on: On::RefusedByLsm(libc::ENETUNREACH, Hook::LsmSocketSendmsg, "lsm/socket_sendmsg"),
            run: |stage| {
                let own = Name::new(AGENT4, 7051);
                let listener = Socket::tcp4()?;
                listener.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                listener.bind(&own)?;
                listener.listen()?;
                let caller = connected(Socket::tcp4(), &own)?;
                stage.pause()?;
                let accepted = listener.accept(3)?;
                let written = accepted.write(DATA).map(drop);
                // Their ends would send, and be denied, too.
                std::mem::forget((accepted, caller, listener));
                written
            },
        },
    ]
}

/// Labelled as it arrives, dropped as it sends.
const RECEIVED: On = On::DroppedAfterLsm(Reason::Default, "lsm/file_receive");

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("N18_unchanged_profile_keeps_an_established_tcp_flow", |lab| {
            tightened(lab, Socket::tcp4, Next::Same)
        }),
        lab::check("a_denied_flow_is_one_event_and_every_packet_of_it_is_counted", one_event),
    ];
    trials.extend(attack::pair("N17_pidfd_getfd_tcp_write", taken, taken_with_enforcement_off));
    for (name, socket) in [
        ("N18_tightened_tcp_flow", Socket::tcp4 as fn() -> Result<Socket, Failure>),
        ("N7_tightened_udp_flow", Socket::udp4),
    ] {
        trials.extend(attack::checked_pair(
            name,
            move |lab| tightened(lab, socket, Next::Tight),
            move |lab| tightened(lab, socket, Next::TightInAudit),
        ));
    }
    // A port from which it may also serve. Each has its own: a flow that was cut holds its port for a while.
    trials.extend(attack::checked_pair(
        "N18_tightened_flow_from_a_port_granted_to_listen",
        |lab| tightened(lab, || bound(7108), Next::Tight),
        |lab| tightened(lab, || bound(7109), Next::TightInAudit),
    ));
    // The kernel refuses to bind a connected socket, after the bind hook has granted it.
    let bind_again = |port| move |socket: &Socket| drop(socket.bind(&Name::new(AGENT4, port)));
    trials.extend(attack::checked_pair(
        "N18_tightened_flow_that_asks_for_a_port_granted_to_listen",
        move |lab| tightened_then(lab, || bound(7110), bind_again(7110), Next::Tight),
        move |lab| tightened_then(lab, || bound(7111), bind_again(7111), Next::TightInAudit),
    ));
    trials.extend(attack::checked_pair(
        "N18_flow_of_a_removed_profile",
        |lab| removed(lab, true),
        |lab| removed(lab, false),
    ));
    trials
}

/// Where a holder's connection is in its descriptor table: numbers are the child's own, so this one is free.
const AT: i32 = 200;

/// A process of the same cgroup that is not an agent holds a connection.
fn holder(lab: &Lab) -> Result<Child> {
    let mut holder = Child::spawn(&lab.world.agents, |stage| {
        let socket = connected(Socket::tcp4(), &denied4())?;
        // SAFETY: no pointers.
        if unsafe { libc::dup2(socket.as_fd().as_raw_fd(), AT) } != AT {
            return Err(Failure::last("dup2"));
        }
        stage.pause()
    })?;
    holder.paused()?;
    Ok(holder)
}

/// Takes the connection of process `pid` and writes to it.
fn take(pid: u32) -> impl Fn(&mut Stage) -> Attempt {
    move |stage| {
        stage.pause()?;
        // SAFETY: no pointers; results are checked below.
        let taken = unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            libc::syscall(libc::SYS_pidfd_getfd, process, AT, 0)
        };
        let taken =
            i32::try_from(taken).ok().filter(|fd| *fd >= 0).ok_or_else(|| Failure::last("pidfd_getfd"))?;
        // SAFETY: a new descriptor of ours.
        Socket::from_fd(unsafe { OwnedFd::from_raw_fd(taken) }).write(DATA).map(drop)
    }
}

fn taken_with_enforcement_off(lab: &mut Lab) -> Result<()> {
    let holder = holder(lab)?;
    let run = lab.unenforced(take(holder.pid()))?;
    ensure!(run.attempt.is_ok() && run.ungranted().count() > 0, "{}", run.describe());
    Ok(())
}

fn taken(lab: &mut Lab) -> Result<Completion> {
    let holder = holder(lab)?;
    let run = lab.attack(PROFILE, take(holder.pid()))?;
    let monitor = lab.monitor()?;
    if !monitor.works("lsm/file_receive") {
        ensure!(run.ungranted().count() > 0, "posture calls this blind: {}", run.describe());
        return Ok(Completion::ignored_with(monitor.blind("lsm/file_receive")?));
    }
    ensure!(run.ungranted().next().is_none(), "it left: {}", run.describe());
    ensure!(run.denials >= 1 && !run.records.is_empty(), "no denial: {}", run.describe());
    Ok(Completion::Completed)
}

const LOOSE: &str = "\
version: 1
name: loose
mode: enforce
network:
  allow:
    - { cidr: 10.9.0.0/28, ports: [7000-7099], protocol: any }
  listen:
    - { address: 10.9.0.1, ports: [7108-7111] }
";
const TIGHT: &str = "\
version: 1
name: tight
mode: enforce
network:
  allow:
    - { cidr: 10.9.0.0/28, ports: [7001-7099], protocol: any }
  listen:
    - { address: 10.9.0.1, ports: [7108-7111] }
";

/// A TCP socket that is bound to a port of the agent's own address.
pub fn bound(port: u16) -> Result<Socket, Failure> {
    let socket = Socket::tcp4()?;
    socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    socket.bind(&Name::new(AGENT4, port))?;
    Ok(socket)
}

/// The agent retries: one event tells it, the counters tell how often.
fn one_event(lab: &mut Lab) -> Result<()> {
    const SENDS: u64 = 5;
    let run = lab.attack(PROFILE, |stage| {
        let socket = connected(Socket::udp4(), &denied4())?;
        stage.pause()?;
        (0..SENDS).try_for_each(|_| heedless(socket.send(DATA)))
    })?;
    ensure!(run.attempt.is_ok() && run.left.is_empty(), "{}", run.describe());
    ensure!(run.records.len() == 1 && run.denials == 1, "{}", run.describe());
    ensure!(run.counted >= SENDS, "{} of {SENDS} packets were counted", run.counted);
    Ok(())
}

/// What follows a profile that grants the flow.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    /// One that does not.
    Tight,
    /// The same, which only watches: the twin.
    TightInAudit,
    /// The same grants, put in force once more.
    Same,
}

/// A flow is granted; then the next profile is put in force.
fn tightened(lab: &mut Lab, socket: impl Fn() -> Result<Socket, Failure>, next: Next) -> Result<()> {
    tightened_then(lab, socket, |_| {}, next)
}

/// As [`tightened`]; the agent does `then` with its socket after the change, before it sends.
fn tightened_then(
    lab: &mut Lab,
    socket: impl Fn() -> Result<Socket, Failure>,
    then: impl Fn(&Socket),
    next: Next,
) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(LOOSE)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        let socket = connected(socket(), &Name::new(GRANTED4, SINK))?;
        socket.send(DATA)?;
        stage.pause()?;
        then(&socket);
        heedless(socket.send(DATA))?;
        stage.pause()
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    world.wire.clear()?;
    child.go_on()?;
    child.paused().context("with the grant")?;
    ensure!(!world.wire.packets()?.is_empty(), "nothing left while the flow was granted");
    ensure!(stale(monitor, child.pid())?.is_empty(), "a granted flow is called stale");

    let before = monitor.denials();
    monitor.drain(Ring::Verdicts)?;
    let yaml = match next {
        Next::Tight => TIGHT.to_owned(),
        Next::TightInAudit => lab::in_audit(TIGHT),
        Next::Same => LOOSE.replace("loose", "loose-2"),
    };
    monitor.install(&yaml)?;
    world.wire.clear()?;
    child.go_on()?;
    child.paused().context("after the change")?;
    let left = world.wire.packets()?;
    match next {
        Next::Tight => {}
        Next::TightInAudit => {
            ensure!(!left.is_empty(), "the flow was cut with enforcement off");
            let record =
                monitor.wait_for(Ring::Verdicts, "what would be dropped", |r| r.header.agent == agent)?;
            ensure!(record.header.errno == 0 && record.hook() == Some(Hook::Egress), "{record:?}");
            ensure!(stale(monitor, child.pid())?.is_empty(), "a flow is to be cut with enforcement off");
            return Ok(());
        }
        Next::Same => {
            ensure!(!left.is_empty(), "a flow that is still granted was cut");
            let denied = monitor.kernel.agent(agent).map(|a| a.denied);
            ensure!(denied == Some(0), "a granted flow was denied: {denied:?}");
            return Ok(());
        }
    }
    ensure!(left.is_empty(), "packets left without a grant: {left:?}");
    ensure!(monitor.denials() > before, "no denial was counted");
    let record =
        monitor.wait_for(Ring::Verdicts, "the dropped flow", |r| r.header.agent == agent && r.denies())?;
    ensure!(record.hook() == Some(Hook::Egress) && record.port() == Some(SINK), "{record:?}");
    let stale = stale(monitor, child.pid())?;
    let [flow] = stale.as_slice() else { bail!("{} stale flows, not one", stale.len()) };
    ensure!(*flow == u32::from(SINK), "the stale flow is of port {flow}");
    Ok(())
}

/// Remote ports of the process' flows that are no longer granted.
fn stale(monitor: &mut agent_monitor_tests::Monitor, pid: u32) -> Result<Vec<u32>> {
    Ok(monitor.kernel.stale_flows()?.iter().filter(|f| f.tgid == pid).map(|f| f.port).collect())
}

/// An agent whose profile went has no grant left. `remove`: or nothing happens to the profile, and all goes through.
fn removed(lab: &mut Lab, remove: bool) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(LOOSE)?;
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        let flow = connected(Socket::udp4(), &Name::new(GRANTED4, SINK))?;
        flow.send(DATA)?;
        stage.pause()?;
        for attempt in
            [flow.send(DATA).map(drop), Socket::tcp4().and_then(|s| s.connect(&Name::new(GRANTED4, SINK)))]
        {
            if attempt.is_ok() == remove {
                return Err(Failure::new(format!("ended with {attempt:?}"), 0));
            }
        }
        Ok(())
    })?;
    child.paused()?;
    monitor.label(child.pid())?;
    child.go_on()?;
    child.paused()?;
    if remove {
        monitor.uninstall()?;
    }
    world.wire.clear()?;
    let before = monitor.faults(agent_monitor_common::counters::Site::ImageMissing);
    child.go_on()?;
    child.finish()??;
    let left = world.wire.packets()?;
    if !remove {
        ensure!(left.len() >= 2, "with the profile there left only {left:?}");
        return Ok(());
    }
    ensure!(left.is_empty(), "packets left without a profile: {left:?}");
    let after = monitor.faults(agent_monitor_common::counters::Site::ImageMissing);
    ensure!(after > before, "the missing image was not counted");
    Ok(())
}
