//! U1 to U4, U6, S1, S2: Unix sockets of others, by every name that leads to them.
//!
//! A process outside of every agent holds stubs of what an agent would want: a container engine's socket, the system
//! bus, a key agent, a terminal multiplexer, the log. The profile grants what lies in `open`.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::path::Right;
use agent_monitor_tests::{Attempt, Body, Child, Failure, Record, Stage, uring};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::catalogue::{ATTACK, TWIN};
use crate::lab::{self, Lab, Run};

const ROOT: &str = "/tmp/agent-monitor-unix";

const PROFILE: &str = "\
version: 1
name: social
mode: enforce
network: {}
unix:
  allow: ['/tmp/agent-monitor-unix/open/**', '@agent-monitor-granted*', '**/tail']
  deny: ['**/denied.sock', '@*-denied']
";

/// Streams that the process outside listens on.
const STREAMS: [&str; 7] = [
    "run/docker.sock",
    "run/systemd/private",
    "run/dbus/system_bus_socket",
    "ssh-XXXX/agent.1",
    "tmux-0/default",
    "open/granted.sock",
    "open/denied.sock",
];
/// Datagram sockets that it holds.
const DATAGRAMS: [&str; 2] = ["run/log", "open/log"];
/// Abstract names that it listens on: bytes that no path has, one that ends as a granted path, and one that is granted.
const ABSTRACT: [&[u8]; 6] = [
    b"agent-monitor-outside",
    b"agent-monitor\0\xff/../\n-outside",
    b"/agent-monitor/outside/tail",
    b"agent-monitor-granted-1",
    b"agent-monitor-granted-denied",
    b"0a1b2",
];

fn at(name: &str) -> String {
    format!("{ROOT}/{name}")
}

fn ok(step: &str, result: std::io::Result<impl Sized>) -> Attempt {
    result.map(drop).map_err(|e| Failure::of(step, &e))
}

/// The process outside, with all its sockets.
fn server(lab: &mut Lab) -> Result<Child> {
    // Loading may take as long as a child may live.
    lab.monitor()?;
    let _ = fs::remove_dir_all(ROOT);
    for directory in ["run/systemd", "run/dbus", "ssh-XXXX", "tmux-0", "open"] {
        fs::create_dir_all(at(directory))?;
    }
    let mut server = Child::spawn(&lab.world.outside, |stage| {
        let listen = |path: &&str| UnixListener::bind(at(path));
        let streams: Result<Vec<_>, _> = STREAMS.iter().map(listen).collect();
        let datagrams: Result<Vec<_>, _> =
            DATAGRAMS.iter().map(|path| UnixDatagram::bind(at(path))).collect();
        let names = ABSTRACT.iter().map(|name| UnixListener::bind_addr(&abstract_name(name)?));
        let names: Result<Vec<_>, _> = names.collect();
        let sockets = (
            streams.map_err(|e| Failure::of("listen", &e))?,
            datagrams.map_err(|e| Failure::of("bind", &e))?,
            names.map_err(|e| Failure::of("listen by name", &e))?,
        );
        let seqpacket = sequenced("run/sequenced", true)?;
        stage.pause()?;
        drop((sockets, seqpacket));
        Ok(())
    })?;
    server.paused()?;
    Ok(server)
}

fn abstract_name(name: &[u8]) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

fn connect(path: &str) -> Attempt {
    ok("connect", UnixStream::connect(path))
}

fn connect_abstract(name: &[u8]) -> Attempt {
    ok("connect", abstract_name(name).and_then(|name| UnixStream::connect_addr(&name)))
}

/// A `struct sockaddr_un` and its length.
fn sockaddr(path: &str) -> (libc::sockaddr_un, u32) {
    // SAFETY: zero is a value of it.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from.cast_signed();
    }
    (address, (2 + path.len() + 1) as u32)
}

/// A socket of sequenced packets that listens at `name`, or connects there.
fn sequenced(name: &str, listens: bool) -> Result<std::os::fd::OwnedFd, Failure> {
    let (address, length) = sockaddr(&at(name));
    // SAFETY: an address and its length; a new descriptor of ours.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Failure::last("socket"));
        }
        let fd = <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd);
        let address = (&raw const address).cast();
        let done = if listens {
            libc::bind(fd.as_raw_fd(), address, length) | libc::listen(fd.as_raw_fd(), 1)
        } else {
            libc::connect(fd.as_raw_fd(), address, length)
        };
        if done == 0 { Ok(fd) } else { Err(Failure::last("connect")) }
    }
}

/// Connects a stream by io_uring.
fn connect_by_ring(path: &str, polled: bool) -> Attempt {
    let (address, length) = sockaddr(path);
    // SAFETY: no pointers; a new descriptor of ours.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Failure::last("socket"));
        }
        <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    let entry = uring::Entry {
        opcode: uring::OP_CONNECT,
        fd: socket.as_raw_fd(),
        address: (&raw const address) as u64,
        offset: u64::from(length),
        ..uring::Entry::default()
    };
    uring::run(entry, polled).map(drop)
}

/// One way to another's socket.
#[derive(Clone, Copy)]
struct Attack {
    name: &'static str,
    run: fn() -> Attempt,
    hook: Hook,
    reason: Reason,
    /// The name that the record has.
    told: &'static [u8],
}

fn attacks() -> Vec<Attack> {
    use Hook::{LsmUnixMaySend as Send, LsmUnixStreamConnect as Connect};
    use Reason::{Default, Rule};
    let attack = |name, hook, reason, told, run| Attack { name, run, hook, reason, told };
    const DOCKER: &[u8] = b"/tmp/agent-monitor-unix/run/docker.sock";
    const LOG: &[u8] = b"/tmp/agent-monitor-unix/run/log";
    vec![
        attack("U1_container_engine", Connect, Default, DOCKER, || connect(&at("run/docker.sock"))),
        attack("U1_symlink", Connect, Default, DOCKER, || {
            ok("symlink", symlink(at("run/docker.sock"), at("open/link")))?;
            connect(&at("open/link"))
        }),
        attack("U1_symlinked_directory", Connect, Default, DOCKER, || {
            ok("symlink", symlink(at("run"), at("open/directory")))?;
            connect(&at("open/directory/docker.sock"))
        }),
        attack("U1_hard_link", Connect, Default, DOCKER, || {
            ok("link", fs::hard_link(at("run/docker.sock"), at("open/hard")))?;
            connect(&at("open/hard"))
        }),
        attack("U1_proc_self_root", Connect, Default, DOCKER, || {
            connect(&format!("/proc/self/root{}", at("run/docker.sock")))
        }),
        attack("U1_relative_path", Connect, Default, DOCKER, || {
            ok("chdir", std::env::set_current_dir(at("open")))?;
            connect("../run/docker.sock")
        }),
        attack("U1_descriptor_of_its_directory", Connect, Default, DOCKER, || {
            let directory = fs::File::open(at("run")).map_err(|e| Failure::of("open", &e))?;
            connect(&format!("/proc/self/fd/{}/docker.sock", directory.as_raw_fd()))
        }),
        attack("U1_denied_by_a_rule", Connect, Rule, b"/tmp/agent-monitor-unix/open/denied.sock", || {
            connect(&at("open/denied.sock"))
        }),
        attack("U2_systemd", Connect, Default, b"/tmp/agent-monitor-unix/run/systemd/private", || {
            connect(&at("run/systemd/private"))
        }),
        attack(
            "U2_system_bus",
            Connect,
            Default,
            b"/tmp/agent-monitor-unix/run/dbus/system_bus_socket",
            || connect(&at("run/dbus/system_bus_socket")),
        ),
        attack("U2_sequenced_packets", Connect, Default, b"/tmp/agent-monitor-unix/run/sequenced", || {
            sequenced("run/sequenced", false).map(drop)
        }),
        attack("U2_datagram", Send, Default, LOG, || {
            let socket = UnixDatagram::unbound().map_err(|e| Failure::of("socket", &e))?;
            ok("send", socket.send_to(b"x", at("run/log")))
        }),
        attack("U2_connected_datagram", Send, Default, LOG, || {
            let socket = UnixDatagram::unbound().map_err(|e| Failure::of("socket", &e))?;
            ok("connect", socket.connect(at("run/log")))
        }),
        attack("U3_key_agent", Connect, Default, b"/tmp/agent-monitor-unix/ssh-XXXX/agent.1", || {
            connect(&at("ssh-XXXX/agent.1"))
        }),
        attack(
            "U3_terminal_multiplexer",
            Connect,
            Default,
            b"/tmp/agent-monitor-unix/tmux-0/default",
            || connect(&at("tmux-0/default")),
        ),
        attack("U4_abstract_name", Connect, Default, b"@agent-monitor-outside", || {
            connect_abstract(ABSTRACT[0])
        }),
        attack(
            "U4_abstract_name_of_any_bytes",
            Connect,
            Default,
            b"@agent-monitor\0\xff/../\n-outside",
            || connect_abstract(ABSTRACT[1]),
        ),
        attack(
            "U4_abstract_name_that_looks_granted",
            Connect,
            Default,
            b"@/agent-monitor/outside/tail",
            || connect_abstract(ABSTRACT[2]),
        ),
        attack("U4_abstract_name_denied_by_a_rule", Connect, Rule, b"@agent-monitor-granted-denied", || {
            connect_abstract(ABSTRACT[4])
        }),
        attack("U4_abstract_name_as_the_kernel_chooses_them", Connect, Default, b"@0a1b2", || {
            connect_abstract(ABSTRACT[5])
        }),
        attack("S1_io_uring_to_a_unix_socket", Connect, Default, DOCKER, || {
            connect_by_ring(&at("run/docker.sock"), false)
        }),
        attack("S2_polled_ring_to_a_unix_socket", Connect, Default, DOCKER, || {
            connect_by_ring(&at("run/docker.sock"), true)
        }),
    ]
}

fn staged(attack: Attack) -> impl FnOnce(&mut Stage) -> Attempt {
    move |stage| {
        stage.pause()?;
        (attack.run)()
    }
}

fn twin(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    let _server = server(lab)?;
    let run = lab.unenforced(staged(attack))?;
    match &run.attempt {
        Ok(()) => Ok(Completion::Completed),
        Err(failure) => bail!("failed with enforcement off: {failure}"),
    }
}

fn denied(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    let _server = server(lab)?;
    let run = lab.attack(PROFILE, staged(attack))?;
    let mechanism = format!("lsm/{}", attack.hook.name());
    if !lab.monitor()?.works(&mechanism) {
        ensure!(run.attempt.is_ok(), "posture calls this attack blind, and yet: {}", run.describe());
        return Ok(Completion::ignored_with(lab.monitor()?.blind(&mechanism)?));
    }
    judge(attack, &run).with_context(|| run.describe())?;
    Ok(Completion::Completed)
}

fn judge(attack: Attack, run: &Run) -> Result<()> {
    let Err(failure) = &run.attempt else { bail!("it went through") };
    ensure!(failure.errno == libc::EACCES, "ended with {failure:?}");
    let [record] = run.records.as_slice() else { bail!("{} records", run.records.len()) };
    ensure!(run.denials == 1, "{} denials counted", run.denials);
    ensure!(record.hook() == Some(attack.hook), "the record is of {:?}", record.hook());
    ensure!(
        record.denies() && record.reason() == Some(attack.reason),
        "the record says {:?}",
        record.reason()
    );
    let Body::File { body, path } = &record.body else { bail!("a record of another kind") };
    ensure!(body.rights == Right::Connect as u32 && path == attack.told, "the record says {body:?} {path:?}");
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    let pairs = attacks().into_iter().flat_map(|attack| {
        [
            lab::test(format!("{}{TWIN}", attack.name), move |lab| twin(lab, attack)),
            lab::test(format!("{}{ATTACK}", attack.name), move |lab| denied(lab, attack)),
        ]
    });
    let others = [
        lab::test("U6_unix_sockets_of_the_agent_itself_and_granted_ones_work", own_and_granted),
        lab::test("unix_sockets_are_not_judged_without_a_section", not_judged),
        lab::test("a_kernel_with_bpf_lsm_has_no_gap_for_unix_sockets", no_gap),
    ];
    pairs.chain(others).collect()
}

/// Talks to itself by a listener.
fn echo(listener: &UnixListener, connected: std::io::Result<UnixStream>) -> Attempt {
    let mut client = connected.map_err(|e| Failure::of("connect to oneself", &e))?;
    let (mut server, _) = listener.accept().map_err(|e| Failure::of("accept", &e))?;
    ok("send", client.write_all(b"hello"))?;
    let mut heard = [0; 5];
    ok("receive", server.read_exact(&mut heard))?;
    if &heard == b"hello" { Ok(()) } else { Err(Failure::new("heard something else", 0)) }
}

/// What runtimes do among themselves, and what the profile grants.
fn work(earlier: &UnixListener) -> Attempt {
    let fail = |step: &'static str| move |e: std::io::Error| Failure::of(step, &e);
    let (mut left, mut right) = UnixStream::pair().map_err(fail("socketpair"))?;
    ok("send", left.write_all(b"x"))?;
    ok("receive", right.read_exact(&mut [0]))?;
    let (left, right) = UnixDatagram::pair().map_err(fail("socketpair"))?;
    ok("send", left.send(b"x"))?;
    ok("receive", right.recv(&mut [0; 4]))?;
    // Made before the label, and after it; by path, by name.
    echo(earlier, UnixStream::connect(at("earlier")))?;
    let later = UnixListener::bind(at("later")).map_err(fail("bind"))?;
    echo(&later, UnixStream::connect(at("later")))?;
    let name = abstract_name(b"agent-monitor-own").map_err(fail("name"))?;
    let named = UnixListener::bind_addr(&name).map_err(fail("bind"))?;
    echo(&named, UnixStream::connect_addr(&name))?;
    let datagram = UnixDatagram::bind(at("datagrams")).map_err(fail("bind"))?;
    ok("send", UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", at("datagrams"))))?;
    ok("receive", datagram.recv(&mut [0; 4]))?;
    connect(&at("open/granted.sock"))?;
    connect_abstract(ABSTRACT[3])?;
    connect_abstract(ABSTRACT[3])?;
    ok("send", UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", at("open/log"))))
}

fn own_and_granted(lab: &mut Lab) -> Result<Completion> {
    let _server = server(lab)?;
    lab.monitor()?.drain(Ring::Activity)?;
    let run = lab.attack(PROFILE, |stage| {
        let earlier = UnixListener::bind(at("earlier")).map_err(|e| Failure::of("bind", &e))?;
        stage.pause()?;
        work(&earlier)
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0 && run.records.is_empty(), "{}", run.describe());
    let monitor = lab.monitor()?;
    if !monitor.works("lsm/unix_stream_connect") {
        return Ok(Completion::ignored_with(monitor.blind("lsm/unix_stream_connect")?));
    }
    // What is granted is told of once.
    let allowed = |record: &Record, name: &[u8]| {
        matches!(&record.body, Body::File { body, path } if body.rights == Right::Connect as u32 && path == name)
            && !record.denies()
    };
    let mut told = monitor.drain(Ring::Activity)?;
    told.retain(
        |record| matches!(&record.body, Body::File { body, .. } if body.rights == Right::Connect as u32),
    );
    for name in [
        &b"@agent-monitor-granted-1"[..],
        b"/tmp/agent-monitor-unix/open/granted.sock",
        b"/tmp/agent-monitor-unix/open/log",
    ] {
        ensure!(told.iter().filter(|record| allowed(record, name)).count() == 1, "{name:?}: {told:#?}");
    }
    ensure!(told.len() == 3, "the agent's own sockets are told of: {told:#?}");
    Ok(Completion::Completed)
}

fn not_judged(lab: &mut Lab) -> Result<Completion> {
    let _server = server(lab)?;
    let run = lab.attack(lab::PROFILE, |stage| {
        stage.pause()?;
        connect(&at("run/docker.sock"))?;
        connect_abstract(ABSTRACT[0])
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

fn no_gap(lab: &mut Lab) -> Result<Completion> {
    let monitor = lab.monitor()?;
    let gaps = monitor.kernel.posture().missing_for(&agent_monitor_tests::monitor::resolve(PROFILE)?);
    let mechanism = "lsm/unix_stream_connect";
    if !monitor.works(mechanism) {
        ensure!(gaps.iter().any(|gap| gap.mechanism == mechanism), "blind, and no gap is told: {gaps:?}");
        return Ok(Completion::ignored_with(monitor.blind(mechanism)?));
    }
    ensure!(gaps.is_empty(), "{gaps:?}");
    Ok(Completion::Completed)
}
