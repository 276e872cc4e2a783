//! Granted privileges and kinds of sockets: the first use is told, the others are counted, and what an agent may do
//! without a grant is neither.

use agent_monitor_common::activity::{PRIVILEGE, SOCKET_KIND, UsedKey};
use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::Reason;
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{SocketKind, socket_kind};
use agent_monitor_tests::{Attempt, Body, Child, Socket, Stage};
use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::files::call;
use crate::lab::{self, Lab};

pub fn trials() -> Vec<Trial> {
    vec![lab::test("uses_of_powers_are_told_once_and_counted", told_once)]
}

const SOCKETS: &str = "version: 1\nname: plain\nmode: enforce\nnetwork: { sockets: [raw, netlink] }\n";
const PRIVILEGES: &str = "privileges: { capabilities: [net_raw], ptrace: any, signals: any }\n";

const CAP_NET_RAW: u32 = 13;
const ROUNDS: u64 = 3;

/// At the same address in every fork of the test.
static MEMORY: [u8; 8] = [1; 8];

/// What needs a grant, and a signal to itself, which needs none. `outside`: a process that is none of the agent's;
/// `None`: privileges are not judged.
fn round(outside: Option<i32>) -> Attempt {
    // Needs the capability too.
    drop(Socket::new(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?);
    drop(Socket::new(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?);
    let Some(pid) = outside else { return Ok(()) };
    let mut read = MEMORY;
    let here = libc::iovec { iov_base: read.as_mut_ptr().cast(), iov_len: read.len() };
    let there = libc::iovec { iov_base: (&raw const MEMORY).cast_mut().cast(), iov_len: read.len() };
    // SAFETY: one local buffer of 8 bytes; the remote address is the kernel's to check.
    unsafe {
        call("signal itself", libc::kill(libc::getpid(), libc::SIGCONT).into())?;
        call("signal another", libc::kill(pid, libc::SIGCONT).into())?;
        let number = libc::SYS_process_vm_readv;
        let done = libc::syscall(number, pid, &raw const here, 1_u64, &raw const there, 1_u64, 0_u64);
        call("read another's memory", done)?;
    }
    Ok(())
}

fn told_once(lab: &mut Lab) -> Result<Completion> {
    let (monitor, world) = lab.parts()?;
    let mut victim = Child::spawn(&world.outside, Stage::pause)?;
    victim.paused()?;
    let judged = monitor.works("lsm/capable");
    monitor.install(&[SOCKETS, if judged { PRIVILEGES } else { "" }].concat())?;
    let outside = judged.then_some(victim.pid() as i32);
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        (0..ROUNDS).try_for_each(|_| round(outside))
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    monitor.drain(Ring::Activity)?;
    child.go_on()?;
    child.finish()??;
    let mut told = Vec::new();
    for record in monitor.drain(Ring::Activity)? {
        let key = match &record.body {
            Body::Socket(body) => socket_kind(body.family, body.kind, body.protocol)
                .map(|kind| UsedKey::new(agent, SOCKET_KIND, u64::from(kind.code()))),
            Body::Privilege(body) => {
                Some(UsedKey::new(agent, PRIVILEGE, UsedKey::privilege(body.privilege, body.number)))
            }
            _ => None,
        };
        if let Some(key) = key.filter(|_| record.header.agent == agent) {
            ensure!(!record.denies() && record.reason() == Some(Reason::Rule), "{record:?}");
            told.push(key);
        }
    }
    let socket = |kind: SocketKind| UsedKey::new(agent, SOCKET_KIND, u64::from(kind.code()));
    let privilege =
        |kind: Privilege, number| UsedKey::new(agent, PRIVILEGE, UsedKey::privilege(kind.code(), number));
    let mut expected = vec![socket(SocketKind::Raw)];
    if monitor.works("lsm/socket_create") {
        expected.push(socket(SocketKind::Netlink));
    }
    if judged {
        expected.push(privilege(Privilege::Capability, CAP_NET_RAW));
        expected.push(privilege(Privilege::Ptrace, 0));
        expected.push(privilege(Privilege::Signal, 0));
    }
    let order = |key: &UsedKey| (key.rights, key.object);
    told.sort_unstable_by_key(order);
    expected.sort_unstable_by_key(order);
    ensure!(told == expected, "told of {told:?}, not of {expected:?}");
    let used: Vec<_> = monitor.used().into_iter().filter(|(key, _)| expected.contains(key)).collect();
    ensure!(used.len() == expected.len() && used.iter().all(|(_, count)| *count == ROUNDS), "{used:?}");
    monitor.kernel.remove_agent(agent);
    Ok(if judged { Completion::Completed } else { Completion::ignored_with(monitor.blind("lsm/capable")?) })
}
