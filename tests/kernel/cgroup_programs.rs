//! L6: programs of another loader, in a cgroup below ours and in our own.

use agent_monitor_common::event::Hook;
use agent_monitor_tests::bpf::{self, CgroupHook};
use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::DENIED4;
use agent_monitor_tests::{Attempt, Socket, Stage};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::lab::{self, Lab, PROFILE, Run};

pub fn trials() -> Vec<Trial> {
    vec![
        lab::check("L6_allowing_program_in_a_child_cgroup_overrides_nothing", child_cgroup),
        lab::check("L6_later_program_of_our_cgroup_can_not_let_a_packet_out", same_cgroup),
        lab::check("L6_our_programs_are_attached_and_stay", attached),
    ]
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

fn udp(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    Socket::udp4()?.send_to(b"secret", 0, &denied4()).map(drop)
}

fn raw(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    Socket::new(libc::AF_INET, libc::SOCK_RAW, 253)?.send_to(b"secret", 0, &Name::new(DENIED4, 0)).map(drop)
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
        for (attack, errno, hook) in [
            (tcp as fn(&mut Stage) -> Attempt, libc::ENETUNREACH, Hook::Connect4),
            (udp, libc::ENETUNREACH, Hook::Sendmsg4),
            (raw, libc::EPROTONOSUPPORT, Hook::SockCreate),
        ] {
            let run = in_cgroup(lab, &child, attack)?;
            let ended = run.attempt.as_ref().err().map(|f| f.errno);
            ensure!(ended == Some(errno), "flags {flags}: {}", run.describe());
            ensure!(run.ungranted().next().is_none(), "flags {flags}: {}", run.describe());
            ensure!(run.records.iter().any(|r| r.hook() == Some(hook)), "flags {flags}: {}", run.describe());
        }
    }
    ensure!(tried > 0, "the kernel took no program of the other loader: nothing was tested");
    Ok(())
}

fn in_cgroup(lab: &mut Lab, cgroup: &Cgroup, attack: fn(&mut Stage) -> Attempt) -> Result<Run> {
    let procs = cgroup.path().join("cgroup.procs");
    lab.attack(PROFILE, move |stage| {
        std::fs::write(&procs, "0").map_err(|e| agent_monitor_tests::Failure::of("enter the cgroup", &e))?;
        attack(stage)
    })
}

/// It runs after ours and takes the address hooks' errno back. Egress has no errno to take back.
fn same_cgroup(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    let programs: Vec<_> = HOOKS
        .iter()
        .map(|hook| bpf::attach_allow_all(&lab.world.agents, *hook, bpf::ALLOW_MULTI, true))
        .collect::<Result<_>>()?;
    for attack in [tcp as fn(&mut Stage) -> Attempt, udp, raw] {
        let run = lab.attack(PROFILE, attack)?;
        ensure!(run.ungranted().next().is_none(), "it left: {}", run.describe());
        ensure!(run.denials >= 1 && !run.records.is_empty(), "no denial: {}", run.describe());
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

fn attached(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    for hook in HOOKS {
        let ids = bpf::attached(&lab.world.agents, hook)?;
        ensure!(ids.len() == 1, "hook {}: programs {ids:?}", hook.attach);
    }
    Ok(())
}
