//! L11, L12, L15: what the kernel tells, when nobody listens, when there is too much, and when it kills.

use agent_monitor_common::counters::{Domain, Effect, Mode, Ring, decision_cell};
use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::DENIED4;
use agent_monitor_tests::{Attempt, Body, Child, Failure, Monitor, Socket, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack;
use crate::files;
use crate::lab::{self, Lab, PROFILE};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("L15_a_listed_call_is_counted_and_killed", listed_calls),
        lab::check("L15_numbers_that_only_x32_has_are_no_way_round", x32_numbers),
        lab::check("the_syscall_hook_is_attached_only_while_it_is_wanted", syscall_hook),
        lab::test("uses_of_files_are_counted_while_a_process_lives_and_after", uses_counted),
    ];
    trials.extend(attack::checked_pair(
        "L11_L12_flood_of_a_full_ring",
        full_ring,
        flood_with_enforcement_off,
    ));
    trials
}

/// Opens of a granted file, by a process and by its child, whose label begins with no uses.
const USES: u64 = 50;

fn uses_counted(lab: &mut Lab) -> Result<Completion> {
    if !lab.monitor()?.works("lsm/file_open") {
        return Ok(Completion::ignored_with(lab.monitor()?.blind("lsm/file_open")?));
    }
    files::plant()?;
    let (monitor, world) = lab.parts()?;
    monitor.install(files::PROFILE)?;
    let opens = || (0..USES).try_for_each(|_| files::read(&files::at("open/plain")));
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        opens()?;
        stage.pause()?;
        // SAFETY: this program has one thread.
        let born = files::call("fork", unsafe { libc::fork() }.into())?;
        if born == 0 {
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(i32::from(opens().is_err())) };
        }
        let mut status = 0;
        // SAFETY: the child that was just forked.
        files::call("waitpid", unsafe { libc::waitpid(born as i32, &raw mut status, 0) }.into())?;
        if status == 0 { Ok(()) } else { Err(Failure::new("its child failed", 0)) }
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    let in_full = |monitor: &Monitor| {
        let mut agents = monitor.kernel.agents_in_full().into_iter();
        agents.find(|(key, _)| *key == agent).map_or(0, |(_, state)| state.allowed)
    };
    child.go_on()?;
    child.paused()?;
    ensure!(in_full(monitor) == USES, "{} while it lives", in_full(monitor));
    child.go_on()?;
    child.finish()??;
    // Half of them by the label of the process that lives, half by the agent's entry since its child has ended.
    ensure!(in_full(monitor) == 2 * USES, "{} after its child", in_full(monitor));
    child.end();
    let ended = monitor.kernel.agent(agent).context("the agent is in no table")?;
    ensure!(ended.live == 0 && ended.allowed == 2 * USES, "{ended:?}");
    ensure!(in_full(monitor) == 2 * USES, "{} after it", in_full(monitor));
    monitor.kernel.remove_agent(agent);
    Ok(Completion::Completed)
}

/// Denied sends in one go. With the ring of one page they overrun it some thousand times.
const FLOOD: u64 = 5_000;

/// Datagrams without end, and the act behind them. `ends`: the errno of every one; 0 where nothing enforces.
fn flood(ends: i32) -> impl Fn(&mut Stage) -> Attempt {
    let checked = move |what: &str, attempt: Attempt| match attempt {
        Ok(()) if ends == 0 => Ok(()),
        Err(f) if f.errno == ends => Ok(()),
        other => Err(Failure::new(format!("{what} ended with {other:?}"), 0)),
    };
    move |stage| {
        stage.pause()?;
        let socket = Socket::udp4()?;
        let denied = Name::new(DENIED4, SINK);
        for _ in 0..FLOOD {
            checked("a send of the flood", socket.send_to(b"x", 0, &denied).map(drop))?;
        }
        stage.pause()?;
        checked("the act behind the flood", Socket::tcp4()?.connect(&denied))
    }
}

/// Every datagram arrives, and so does the act behind them.
fn flood_with_enforcement_off(lab: &mut Lab) -> Result<()> {
    let world = &mut lab.world;
    let mut child = Child::spawn(&world.outside, flood(0))?;
    child.paused()?;
    world.wire.clear()?;
    child.go_on()?;
    child.paused()?;
    let left = world.wire.packets()?.into_iter().filter(attack::ungranted).count() as u64;
    ensure!(left == FLOOD, "{left} of {FLOOD} datagrams left with enforcement off");
    child.go_on()?;
    child.finish()??;
    ensure!(world.wire.packets()?.iter().any(|p| p.syn && attack::ungranted(p)), "the act did not leave");
    Ok(())
}

/// Nobody reads while the flood runs: verdicts are unchanged, losses are counted by ring and by agent, and what comes
/// after the flood is seen.
fn full_ring(lab: &mut Lab) -> Result<()> {
    let cgroup = Cgroup::create("flooded")?;
    let mut monitor = Monitor::load(&cgroup, Some(4096))?;
    monitor.install(PROFILE)?;
    let world = &mut lab.world;
    let mut child = Child::spawn(&cgroup, flood(libc::ENETUNREACH))?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    world.wire.clear()?;
    child.go_on()?;
    child.paused()?;
    let left = world.wire.packets()?;
    ensure!(!left.iter().any(attack::ungranted), "packets left in the flood");

    let cell = decision_cell(Domain::NetworkOut, Effect::Deny, Mode::Enforce) as usize;
    let counters = monitor.kernel.counters();
    let ring = counters.rings[Ring::Verdicts.code() as usize];
    ensure!(
        counters.decisions[cell] == FLOOD,
        "{} of {FLOOD} denials were counted",
        counters.decisions[cell]
    );
    ensure!(ring.lost > 0, "a ring of one page lost nothing of {FLOOD} records");
    ensure!(ring.written + ring.lost == FLOOD, "{ring:?} does not add up to {FLOOD}");
    let state = monitor.kernel.agent(agent).unwrap_or_else(|| unreachable!("the agent lives"));
    ensure!(
        state.lost_verdicts == ring.lost,
        "the agent lost {}, the ring {}",
        state.lost_verdicts,
        ring.lost
    );
    ensure!(state.denied == FLOOD, "{} denials of the agent", state.denied);
    let read = monitor.drain(Ring::Verdicts)?;
    ensure!(read.len() as u64 == ring.written, "{} records were read, {} written", read.len(), ring.written);

    child.go_on()?;
    child.finish()??;
    let record = monitor.wait_for(Ring::Verdicts, "the act behind the flood", |r| r.header.agent == agent)?;
    ensure!(matches!(record.body, Body::Network(b) if b.ip_protocol == 6), "{record:?}");
    // The cgroup goes before the programs that are attached to it would be missed.
    drop(child);
    drop(monitor);
    Ok(())
}

const CALLS: &str = "\
version: 1
name: calls
mode: enforce
network: {}
syscalls:
  watch: [getppid]
  kill: [sethostname]
";

fn listed_calls(lab: &mut Lab) -> Result<()> {
    const CALLED: u64 = 7;
    let (monitor, world) = lab.parts()?;
    monitor.install(CALLS)?;
    monitor.kernel.set_syscall_hook(true)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        // SAFETY: no pointers are followed: the length is not allowed.
        unsafe {
            for _ in 0..CALLED {
                libc::syscall(libc::SYS_getppid);
            }
            libc::syscall(libc::SYS_sethostname, std::ptr::null::<u8>(), usize::MAX);
        }
        Ok(())
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    monitor.drain(Ring::Verdicts)?;
    let before = monitor.decisions();
    child.go_on()?;
    let killed = child.killed_by()?;
    monitor.kernel.set_syscall_hook(false)?;
    ensure!(killed == Some(libc::SIGKILL), "ended by {killed:?}");
    let counts = monitor.kernel.syscall_counts();
    let count = |nr: i64| counts.iter().find(|c| c.0 == agent && i64::from(c.1) == nr).map_or(0, |c| c.2);
    ensure!(count(libc::SYS_getppid) == CALLED, "getppid was counted {} times", count(libc::SYS_getppid));
    ensure!(
        count(libc::SYS_sethostname) == 1,
        "sethostname was counted {} times",
        count(libc::SYS_sethostname)
    );
    let records = monitor.drain(Ring::Verdicts)?;
    let of_agent = records.iter().filter(|r| r.header.agent == agent);
    let calls: Vec<_> =
        of_agent.filter_map(|r| if let Body::Syscall(b) = &r.body { Some((r, b)) } else { None }).collect();
    ensure!(calls.len() as u64 == CALLED + 1, "{} records of calls", calls.len());
    let Some((last, body)) = calls.last() else { bail!("no record") };
    ensure!(body.killed == 1 && i64::from(body.nr) == libc::SYS_sethostname, "{body:?}");
    // The call may have happened: nothing may show a kill as an operation that was refused.
    ensure!(
        last.header.errno == 0 && last.header.effect == Effect::Kill.code(),
        "shown as a refusal: {last:?}"
    );
    let after = monitor.decisions();
    let grown = |effect| {
        let cell = decision_cell(Domain::Syscall, effect, Mode::Enforce) as usize;
        after[cell] - before[cell]
    };
    let grown = (grown(Effect::Allow), grown(Effect::Deny), grown(Effect::Kill));
    ensure!(grown == (CALLED, 0, 1), "allowed, denied, killed: {grown:?}");
    let state = monitor.kernel.agent(agent).context("the agent is gone")?;
    ensure!((state.denied, state.killed) == (0, 1), "{state:?}");
    monitor.kernel.remove_agent(agent);
    Ok(())
}

/// `ptrace` by its x32 number: where the profile kills, the table that says otherwise is off. What x32 shares with the
/// 64-bit table is judged by that, and no number at all (-1, as a tracer sets it) is nobody's.
fn x32_numbers(lab: &mut Lab) -> Result<()> {
    const X32: libc::c_long = 0x4000_0000;
    const X32_PTRACE: u32 = 521;
    let (monitor, world) = lab.parts()?;
    monitor.install(CALLS)?;
    monitor.kernel.set_syscall_hook(true)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        // SAFETY: the kernel has no such calls, or they fail: their arguments are zeros.
        unsafe {
            libc::syscall(-1);
            libc::syscall(X32 | libc::SYS_getpgid, 0);
            libc::syscall(X32 | libc::c_long::from(X32_PTRACE), 0, 0, 0, 0);
        }
        Ok(())
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    monitor.drain(Ring::Verdicts)?;
    child.go_on()?;
    let killed = child.killed_by()?;
    monitor.kernel.set_syscall_hook(false)?;
    ensure!(killed == Some(libc::SIGKILL), "ended by {killed:?}");
    let records = monitor.drain(Ring::Verdicts)?;
    let calls: Vec<_> = records
        .iter()
        .filter(|r| r.header.agent == agent)
        .filter_map(|r| if let Body::Syscall(b) = &r.body { Some((b.nr, b.compat, b.killed)) } else { None })
        .collect();
    ensure!(calls == [(X32_PTRACE, 1, 1)], "{calls:?}");
    monitor.kernel.remove_agent(agent);
    Ok(())
}

fn syscall_hook(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(CALLS)?;
    ensure!(!monitor.kernel.syscall_hook(), "attached from the start");
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        // SAFETY: no pointers.
        unsafe { libc::syscall(libc::SYS_getppid) };
        Ok(())
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    child.go_on()?;
    child.finish()??;
    ensure!(!monitor.kernel.syscall_counts().iter().any(|c| c.0 == agent), "counted without the hook");
    Ok(())
}
