//! L6: programs of another loader, in a cgroup below ours and in our own.
//!
//! The twins put a program that denies everything in the monitor's place, attached or made as a careless monitor's
//! would be: then the other loader gets its way.

use std::os::fd::AsFd;

use agent_monitor_common::event::Hook;
use agent_monitor_tests::bpf::{self, CgroupHook};
use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{AGENT4, DENIED4};
use agent_monitor_tests::{Attempt, Failure, Socket, Stage};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::attack;
use crate::lab::{self, Lab, PROFILE};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![lab::check("L6_our_programs_are_attached_and_stay", attached)];
    trials.extend(attack::checked_pair(
        "L6_program_in_a_child_cgroup",
        child_cgroup,
        child_cgroup_of_a_monitor_that_can_be_overridden,
    ));
    trials.extend(attack::checked_pair(
        "L6_program_behind_ours_in_the_same_cgroup",
        same_cgroup,
        same_cgroup_as_a_monitor_without_egress,
    ));
    trials
}

const HOOKS: [CgroupHook; 4] = [bpf::CONNECT4, bpf::SENDMSG4, bpf::SOCK_CREATE, bpf::EGRESS];

fn denied4() -> Name {
    Name::new(DENIED4, SINK)
}

fn tcp(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    let socket = Socket::tcp4()?;
    socket.connect(&denied4())?;
    socket.send(b"secret").map(drop)
}

/// From a local port that the profile lets it listen on: what leaves must not pass for a server's answer.
fn tcp_from_a_granted_port(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    let socket = Socket::tcp4()?;
    socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    socket.bind(&Name::new(AGENT4, 7105))?;
    socket.connect(&denied4())?;
    socket.send(b"secret").map(drop)
}

fn udp(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    Socket::udp4()?.send_to(b"secret", 0, &denied4()).map(drop)
}

fn raw(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    Socket::new(libc::AF_INET, libc::SOCK_RAW, 253)?.send_to(b"secret", 0, &Name::new(DENIED4, 0)).map(drop)
}

/// A socket that no hook has labelled yet: it was under way to the process when that became an agent.
fn in_flight(stage: &mut Stage) -> Attempt {
    let (to, from) = Socket::pair()?;
    to.pass(Socket::udp4()?.as_fd())?;
    stage.pause()?;
    Socket::from_fd(from.take()?).send_to(b"secret", 0, &denied4()).map(drop)
}

type Attack = fn(&mut Stage) -> Attempt;

/// Attack, the errno that ends it, and the hook that gives it.
const ATTACKS: [(Attack, i32, Hook); 4] = [
    (tcp, libc::ENETUNREACH, Hook::Connect4),
    (udp, libc::ENETUNREACH, Hook::Sendmsg4),
    (raw, libc::EPROTONOSUPPORT, Hook::SockCreate),
    (in_flight, libc::ENETUNREACH, Hook::Sendmsg4),
];

/// `attack` by a process that has moved into `cgroup` first.
fn from_within(cgroup: &Cgroup, attack: Attack) -> impl Fn(&mut Stage) -> Attempt {
    let procs = cgroup.path().join("cgroup.procs");
    move |stage| {
        std::fs::write(&procs, "0").map_err(|e| Failure::of("enter the cgroup", &e))?;
        attack(stage)
    }
}

/// Every kind of attachment that the kernel lets the other loader have.
fn child_cgroup(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    let mut tried = 0;
    for flags in [0, bpf::ALLOW_OVERRIDE, bpf::ALLOW_MULTI] {
        let child = lab.world.agents.child("theirs")?;
        // A refusal of the kernel (EPERM where a parent forbids overriding) is as good as a denial.
        let programs: Vec<_> =
            HOOKS.iter().filter_map(|hook| bpf::attach_allow_all(&child, *hook, flags, true).ok()).collect();
        tried += programs.len();
        for (attack, errno, hook) in ATTACKS {
            let run = lab.attack(PROFILE, from_within(&child, attack))?;
            let ended = run.attempt.as_ref().err().map(|f| f.errno);
            ensure!(ended == Some(errno), "flags {flags}: {}", run.describe());
            ensure!(run.ungranted().next().is_none(), "flags {flags}: {}", run.describe());
            ensure!(run.records.iter().any(|r| r.hook() == Some(hook)), "flags {flags}: {}", run.describe());
        }
    }
    ensure!(tried > 0, "the kernel took no program of the other loader: nothing was tested");
    Ok(())
}

/// Attached with `BPF_F_ALLOW_OVERRIDE`, as some loaders do, a monitor is replaced by whoever comes below.
fn child_cgroup_of_a_monitor_that_can_be_overridden(lab: &mut Lab) -> Result<()> {
    let parent = lab.world.outside.child("overridable")?;
    let child = parent.child("theirs")?;
    let monitor = HOOKS.map(|hook| bpf::attach_deny_all(&parent, hook, bpf::ALLOW_OVERRIDE));
    let _monitor = monitor.into_iter().collect::<Result<Vec<_>>>()?;
    for attack in [tcp as Attack, udp, raw] {
        let run = lab.unenforced(from_within(&child, attack))?;
        ensure!(run.attempt.is_err(), "the monitor of this twin denies nothing: {}", run.describe());
    }
    let theirs = HOOKS.map(|hook| bpf::attach_allow_all(&child, hook, bpf::ALLOW_OVERRIDE, true));
    let _theirs = theirs.into_iter().collect::<Result<Vec<_>>>()?;
    for (attack, ..) in ATTACKS {
        let run = lab.unenforced(from_within(&child, attack))?;
        ensure!(run.attempt.is_ok() && run.ungranted().count() > 0, "{}", run.describe());
    }
    Ok(())
}

/// Attaches the other loader's programs to `cgroup`, behind those that are there.
fn attach_theirs(cgroup: &Cgroup) -> Result<Vec<bpf::Attached>> {
    HOOKS.iter().map(|hook| bpf::attach_allow_all(cgroup, *hook, bpf::ALLOW_MULTI, true)).collect()
}

/// It runs after ours and takes the address hooks' errno back. Egress has no errno to take back.
fn same_cgroup(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    let programs = attach_theirs(&lab.world.agents)?;
    for attack in ATTACKS.map(|(attack, ..)| attack).into_iter().chain([tcp_from_a_granted_port as Attack]) {
        let run = lab.attack(PROFILE, attack)?;
        ensure!(run.ungranted().next().is_none(), "it left: {}", run.describe());
        ensure!(run.denials >= 1, "no denial: {}", run.describe());
        // By the agent's own profile: the hook that was overruled has told egress whose socket it is.
        let dropped = run.records.iter().any(|r| r.hook() == Some(Hook::Egress) && r.denies());
        ensure!(dropped, "not dropped for this agent: {}", run.describe());
    }
    drop(programs);
    let run = lab.attack(PROFILE, tcp)?;
    ensure!(
        run.denials == 1 && run.records.len() == 1,
        "the other programs are still there: {}",
        run.describe()
    );
    Ok(())
}

/// A monitor that judges addresses and no packets: its denials are taken back.
fn same_cgroup_as_a_monitor_without_egress(lab: &mut Lab) -> Result<()> {
    let cgroup = lab.world.outside.child("shared")?;
    let judging = HOOKS.into_iter().filter(|hook| hook.attach != bpf::EGRESS.attach);
    let _monitor: Vec<_> =
        judging.map(|hook| bpf::attach_deny_all(&cgroup, hook, bpf::ALLOW_MULTI)).collect::<Result<_>>()?;
    for attack in [tcp as Attack, udp, raw] {
        let run = lab.unenforced(from_within(&cgroup, attack))?;
        ensure!(run.attempt.is_err(), "the monitor of this twin denies nothing: {}", run.describe());
    }
    let _theirs = attach_theirs(&cgroup)?;
    for attack in ATTACKS.map(|(attack, ..)| attack).into_iter().chain([tcp_from_a_granted_port as Attack]) {
        let run = lab.unenforced(from_within(&cgroup, attack))?;
        ensure!(run.attempt.is_ok() && run.ungranted().count() > 0, "{}", run.describe());
    }
    Ok(())
}

fn attached(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    for hook in HOOKS {
        let ids = bpf::attached(&lab.world.agents, hook)?;
        ensure!(ids.len() == 1, "hook {}: programs {ids:?}", hook.attach);
    }
    Ok(())
}
