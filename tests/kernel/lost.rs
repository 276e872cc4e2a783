//! An agent whose label or profile is gone reaches nothing, not even what its profile granted.
//!
//! Its sockets are older than the loss: making one would be denied by another hook, before these are asked.

use std::io::{Read, Write};

use agent_monitor_common::counters::{Ring, Site};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{AGENT4, GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Child, Failure, Socket};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::lab::{Lab, PROFILE};
use crate::network_out::mapped;
use crate::{attack, kernel_maps};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    /// The entry of the label map, as where the map was full; the process keeps its bit.
    Label,
    /// The profile's row.
    Profile,
    /// The twin.
    Nothing,
}

/// A hook and what it judges: how the socket is made, and what is done with it.
type Try = (Hook, fn() -> Result<Socket, Failure>, fn(&Socket) -> Attempt);

/// All of it is granted by the tests' profile.
const TRIES: [Try; 6] = [
    (Hook::Connect4, Socket::tcp4, |s| s.connect(&Name::new(GRANTED4, SINK))),
    (Hook::Connect6, Socket::tcp6, |s| s.connect(&Name::new(GRANTED6, SINK))),
    (Hook::Sendmsg4, Socket::udp4, |s| s.send_to(b"x", 0, &Name::new(GRANTED4, SINK)).map(drop)),
    (Hook::Sendmsg6, Socket::udp6, |s| s.send_to(b"x", 0, &Name::new(GRANTED6, SINK)).map(drop)),
    (Hook::Bind4, Socket::tcp4, |s| s.bind(&Name::new(AGENT4, 7105))),
    (Hook::Bind6, Socket::tcp6, |s| s.bind(&Name::new(mapped(AGENT4), 7106))),
];

pub fn trials() -> Vec<Trial> {
    let pairs = [
        ("all_that_was_granted_to_an_agent_whose_label_is_lost", Lost::Label),
        ("all_that_was_granted_to_an_agent_whose_profile_is_gone", Lost::Profile),
    ];
    let trials = pairs.map(|(name, lost)| {
        attack::checked_pair(name, move |lab| try_all(lab, lost), |lab| try_all(lab, Lost::Nothing))
    });
    trials.into_iter().flatten().collect()
}

fn try_all(lab: &mut Lab, lost: Lost) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let (mut reader, mut writer) = std::io::pipe()?;
    let mut child = Child::spawn(&world.agents, move |stage| {
        let sockets = TRIES.iter().map(|(_, make, _)| make()).collect::<Result<Vec<_>, _>>()?;
        stage.pause()?;
        for ((_, _, run), socket) in TRIES.iter().zip(&sockets) {
            let ended = run(socket).err().map_or(0, |f| f.errno);
            writer.write_all(&ended.to_ne_bytes()).map_err(|e| Failure::of("report", &e))?;
        }
        Ok(())
    })?;
    child.paused()?;
    let (pid, agent) = (child.pid(), monitor.label(child.pid())?);
    match lost {
        Lost::Label => kernel_maps::lose_label(&world.agents, pid)?,
        Lost::Profile => monitor.uninstall()?,
        Lost::Nothing => {}
    }
    ensure!(monitor.kernel.is_labelled(pid), "the process has lost its bit");
    monitor.drain(Ring::Verdicts)?;
    world.wire.clear()?;
    let before = (monitor.denials(), monitor.faults(site(lost)));
    child.go_on()?;
    child.finish()??;
    let after = (monitor.denials(), monitor.faults(site(lost)));
    // A connection of an earlier test may still be closing.
    let mut left = world.wire.packets()?;
    left.retain(|p| p.port == SINK && (p.syn || p.protocol == 17));
    let records: Vec<_> =
        monitor.drain(Ring::Verdicts)?.into_iter().filter(|r| r.header.tgid == pid).collect();
    let denied = monitor.kernel.agent(agent).context("the agent is not counted")?.denied;
    monitor.kernel.remove_agent(agent);

    // The LSM program knows the socket, and so leaves it to the address hooks, unless it does not know the process.
    let lsm_first = lost == Lost::Label && monitor.works("lsm/socket_sendmsg");
    let mut judged = Vec::new();
    for (hook, ..) in TRIES {
        let mut ended = [0; 4];
        reader.read_exact(&mut ended)?;
        let ended = i32::from_ne_bytes(ended);
        let by_lsm = lsm_first && matches!(hook, Hook::Sendmsg4 | Hook::Sendmsg6);
        let expected = match lost {
            Lost::Nothing => 0,
            _ if by_lsm => libc::EPERM,
            _ => libc::ENETUNREACH,
        };
        ensure!(ended == expected, "{hook:?} ended with errno {ended}, not {expected}: {left:?}");
        if lost != Lost::Nothing && !by_lsm {
            judged.push(hook);
        }
    }
    if lost == Lost::Nothing {
        ensure!(left.len() >= 4, "with nothing lost only {left:?} left");
        // Its own count: the kernel's may grow by packets of an earlier test's connections.
        ensure!(records.is_empty() && denied == 0, "with nothing lost {denied} were denied: {records:?}");
        return Ok(());
    }
    ensure!(left.is_empty(), "packets left: {left:?}");
    ensure!(after.0 - before.0 >= judged.len() as u64, "{} denials were counted", after.0 - before.0);
    ensure!(after.1 - before.1 >= TRIES.len() as u64, "{} losses were counted", after.1 - before.1);
    let told: Vec<_> = records.iter().filter_map(|r| r.hook()).collect();
    ensure!(told == judged, "records of {told:?}, not {judged:?}");
    let (reason, of) = match lost {
        Lost::Label => (Reason::LabelLost, 0),
        _ => (Reason::HelperFailed, agent),
    };
    for record in &records {
        let header = &record.header;
        ensure!(record.denies() && record.reason() == Some(reason), "another reason: {record:?}");
        ensure!(i32::from(header.errno) == libc::ENETUNREACH && header.agent == of, "{record:?}");
    }
    Ok(())
}

/// Where the loss is counted.
const fn site(lost: Lost) -> Site {
    match lost {
        Lost::Profile => Site::ImageMissing,
        _ => Site::LabelMissing,
    }
}
