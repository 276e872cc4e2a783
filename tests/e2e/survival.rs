//! What stands when the daemon falls: pins, adoption by the next daemon, replacement by another build, and the words
//! that take it all away.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use agent_monitor_common::label::Label;
use agent_monitor_tests::bpf::{
    CONNECT4, CgroupHook, attached, create_map, lookup, open_pin, pin, program_id, update,
};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::agent::ARGUMENT;
use crate::daemon::{Daemon, PROFILE, Server, Talker, binary, wait};
use crate::trial;

const DENIED: &str = "127.0.0.7:18080";
const GRANTED: &str = "127.0.0.1:18080";
/// Words of a note: where the version of the records, the size of a label and the digest of the object are, and its own
/// size.
const NOTE_ABI: usize = 1;
const NOTE_LABEL_SIZE: usize = 2;
const NOTE_OBJECT: usize = 5;
const NOTE_WORDS: usize = 32 + 64 * 64;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("L7_a_killed_daemon_leaves_every_denial_standing", killed),
        trial("L7_a_restart_adopts_with_no_open_window_and_no_double_attach", adopted),
        trial("L7_what_happened_while_no_daemon_ran_is_told_by_the_next", told_later),
        trial("L7_a_program_that_is_claimed_while_no_daemon_runs_is_governed", claimed_meanwhile),
        trial("a_profile_that_changed_while_no_daemon_ran_is_swapped_at_the_start", changed_meanwhile),
        trial("agents_of_a_profile_whose_file_went_stay_under_its_rules", file_went),
        trial("pins_of_another_build_are_replaced_with_no_open_window", replaced),
        trial("pins_of_a_build_with_other_lengths_of_records_are_replaced", grown),
        trial("pins_of_another_version_are_refused_and_stay_in_force", incompatible),
        trial("a_pinned_program_that_was_detached_is_attached_anew", healed),
        trial("a_restart_with_a_bad_profile_leaves_what_is_pinned_in_force", bad_restart),
        trial("a_start_that_fails_leaves_nothing_pinned", failed_start),
        trial("sigterm_leaves_what_is_pinned_in_force", terminated),
        trial("one_daemon_at_a_time_holds_the_pins", held),
        trial("detach_ends_the_daemon_and_leaves_nothing", detached),
        trial("uninstall_leaves_nothing_pinned", uninstalled),
        trial("without_a_bpf_file_system_it_starts_and_says_so", no_bpffs),
        trial("N37_an_agent_is_kept_off_the_metrics_even_where_loopback_is_granted", metrics_refused),
        trial("N37_an_agent_is_refused_at_the_control_socket_of_an_adopting_daemon", refused_after_adoption),
    ]
}

/// A daemon that pins in a directory of its own, where it mounts a BPF file system.
fn pinning(profile: &str) -> Result<Daemon> {
    Server::on(DENIED)?;
    Server::on(GRANTED)?;
    pinning_with(profile)
}

/// The same, and who serves is the caller's matter.
pub fn pinning_with(profile: &str) -> Result<Daemon> {
    let mut daemon = Daemon::prepare(profile)?;
    daemon.pins = Some(daemon.path("pins"));
    daemon.launch()?;
    Ok(daemon)
}

fn pins(daemon: &Daemon) -> Result<PathBuf> {
    daemon.pins.clone().context("it pins nothing")
}

/// The directory of the one set that is there.
fn set(daemon: &Daemon) -> Result<PathBuf> {
    let mut sets = sets(daemon)?;
    ensure!(sets.len() == 1, "{sets:?}");
    sets.pop().context("no set")
}

/// A BPF file system has files of its own at its root.
fn sets(daemon: &Daemon) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(pins(daemon)?)?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// Ids of the pinned programs by name.
fn programs(daemon: &Daemon) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(set(daemon)?)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("name")?.to_owned();
        if name.starts_with("prog_") {
            found.insert(name, program_id(open_pin(&path)?.as_fd())?);
        }
    }
    Ok(found)
}

pub fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(libc::SIGKILL)?;
    daemon.ended().map(drop)
}

pub fn connects(talker: &mut Talker) -> Result<String> {
    talker.tell("now")?;
    talker.line()
}

pub fn waiting_agent(daemon: &Daemon, address: &str) -> Result<Talker> {
    let mut agent = daemon.agent_in_background(&["connect-when-told", address])?;
    ensure!(agent.line()? == "ready");
    Ok(agent)
}

pub fn unreachable() -> String {
    libc::ENETUNREACH.to_string()
}

fn agents(daemon: &Daemon) -> Result<Vec<Value>> {
    Ok(daemon.status()?["agents"].as_array().context("agents")?.clone())
}

/// An agent that connects to what is denied until told to end; how often it came through, was denied, anything else.
fn trying(daemon: &Daemon) -> Result<Talker> {
    let mut agent = daemon.agent_in_background(&["keep-connecting", DENIED])?;
    ensure!(agent.line()? == "ready");
    Ok(agent)
}

fn never_came_through(agent: &mut Talker) -> Result<()> {
    agent.tell("end")?;
    let said = agent.line()?;
    let counts: Vec<u64> = said.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(matches!(counts[..], [0, 100..=u64::MAX, 0]), "connected, unreachable, other: {said}");
    Ok(())
}

fn killed() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut denied = waiting_agent(&daemon, DENIED)?;
    let mut granted = waiting_agent(&daemon, GRANTED)?;
    kill(&mut daemon)?;
    ensure!(connects(&mut denied)? == unreachable());
    ensure!(connects(&mut granted)? == "connected", "a grant must stand too");
    drop((denied, granted, daemon));
    // The twin: without pins the same death lets the agent go.
    let mut daemon = Daemon::start(PROFILE)?;
    let mut agent = waiting_agent(&daemon, DENIED)?;
    ensure!(connects(&mut agent)? == unreachable());
    kill(&mut daemon)?;
    ensure!(connects(&mut agent)? == "connected", "the attack proves nothing");
    Ok(())
}

fn adopted() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mode = fs::metadata(pins(&daemon)?)?.permissions().mode();
    ensure!(mode & 0o7777 == 0o700, "{mode:o}");
    let mut agent = trying(&daemon)?;
    let mut other = waiting_agent(&daemon, DENIED)?;
    let (before, programs_before) = (daemon.status()?, programs(&daemon)?);
    ensure!(programs_before.len() >= 11, "{programs_before:?}");
    for _ in 0..3 {
        kill(&mut daemon)?;
        daemon.launch()?;
    }
    ensure!(programs(&daemon)? == programs_before, "the programs are not the same ones");
    ensure!(attached(&daemon.cgroup, CONNECT4)?.len() == 1, "attached twice");
    let after = daemon.status()?;
    let of = |status: &Value, what: &str| {
        let mut all: Vec<_> =
            status["agents"].as_array().into_iter().flatten().map(|a| a[what].clone()).collect();
        all.sort_by_key(ToString::to_string);
        all
    };
    for same in ["id", "profile", "origin", "root", "started", "cgroup"] {
        ensure!(of(&after, same) == of(&before, same), "{same}: {} {}", of(&before, same).len(), after);
    }
    for same in ["generation", "digest"] {
        ensure!(after["profiles"][0][same] == before["profiles"][0][same], "{after}");
    }
    ensure!(daemon.log().contains("what an earlier daemon pinned goes on"), "{}", daemon.log());
    ensure!(connects(&mut other)? == unreachable());
    never_came_through(&mut agent)?;
    // What it takes over it can still change.
    daemon.write_profile(&PROFILE.replace("127.0.0.1, ports", "127.0.0.9, ports"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    let status = daemon.status()?;
    let generation = before["profiles"][0]["generation"].as_u64().context("generation")?;
    ensure!(status["profiles"][0]["generation"] == generation + 1, "{status}");
    ensure!(daemon.agent(&["connect", GRANTED])? == unreachable());
    Ok(())
}

fn told_later() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = waiting_agent(&daemon, DENIED)?;
    let ends = waiting_agent(&daemon, DENIED)?;
    let ids: Vec<Value> = agents(&daemon)?.iter().map(|agent| agent["id"].clone()).collect();
    daemon.event("both are told of", |event| {
        event["type"] == "agent.started" && event["agent"]["id"] == ids[1]
    })?;
    kill(&mut daemon)?;
    let denials = |daemon: &Daemon| -> Result<usize> {
        Ok(daemon.events()?.iter().filter(|event| event["verdict"]["effect"] == "deny").count())
    };
    let before = denials(&daemon)?;
    for _ in 0..50 {
        ensure!(connects(&mut agent)? == unreachable());
    }
    drop(ends);
    daemon.launch()?;
    wait("the denials are in the file", || Ok((denials(&daemon)? >= before + 50).then_some(())))?;
    ensure!(denials(&daemon)? == before + 50, "{} denials more", denials(&daemon)? - before);
    let events = daemon.events()?;
    let last = events.iter().rev().find(|event| event["verdict"]["effect"] == "deny").context("a denial")?;
    ensure!(last["agent"]["id"] == ids[0] && last["verdict"]["rule"] == "tester:network.deny[0]", "{last}");
    daemon.event("the end of the other one", |event| {
        event["type"] == "agent.ended" && event["agent"]["id"] == ids[1]
    })?;
    ensure!(agents(&daemon)?.len() == 1);
    Ok(())
}

fn claimed_meanwhile() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let program = daemon.path("claimed");
    fs::copy(std::env::current_exe()?, &program)?;
    daemon.write_profile(&format!("{PROFILE}agents:\n  - exe: {}\n", program.display()))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    kill(&mut daemon)?;
    let mut command = Command::new(&program);
    command.args([ARGUMENT, "connect-when-told", DENIED]);
    let mut claimed = Talker::spawn(command)?;
    ensure!(claimed.line()? == "ready");
    fs::write(daemon.cgroup.path().join("cgroup.procs"), claimed.pid().to_string())?;
    ensure!(connects(&mut claimed)? == unreachable());
    daemon.launch()?;
    ensure!(connects(&mut claimed)? == unreachable());
    let started = daemon.event("the agent", |event| event["type"] == "agent.started")?;
    ensure!(started["agent"]["origin"] == "exec" && started["agent"]["profile"] == "tester", "{started}");
    // And the one after that knows it by the same id.
    wait("the agent is noted", || Ok((agents(&daemon)?.len() == 1).then_some(())))?;
    let id = started["agent"]["id"].clone();
    kill(&mut daemon)?;
    daemon.launch()?;
    ensure!(agents(&daemon)?[0]["id"] == id, "{}", daemon.status()?);
    // A claim that is taken away while no daemon runs is gone at the next start.
    kill(&mut daemon)?;
    daemon.write_profile(PROFILE)?;
    daemon.launch()?;
    let mut free = Command::new(&program);
    free.args([ARGUMENT, "connect-when-told", DENIED]);
    let mut free = Talker::spawn(free)?;
    ensure!(free.line()? == "ready");
    fs::write(daemon.cgroup.path().join("cgroup.procs"), free.pid().to_string())?;
    ensure!(connects(&mut free)? == "connected", "the twin: nobody claims it now");
    ensure!(connects(&mut claimed)? == unreachable(), "an agent stays one");
    Ok(())
}

fn changed_meanwhile() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = waiting_agent(&daemon, GRANTED)?;
    ensure!(connects(&mut agent)? == "connected");
    let before = daemon.status()?["profiles"][0].clone();
    kill(&mut daemon)?;
    daemon.write_profile(&PROFILE.replace("127.0.0.1, ports", "127.0.0.9, ports"))?;
    ensure!(connects(&mut agent)? == "connected", "nobody has read the file yet");
    daemon.launch()?;
    ensure!(connects(&mut agent)? == unreachable());
    let after = daemon.status()?["profiles"][0].clone();
    let generation = before["generation"].as_u64().context("generation")?;
    ensure!(after["generation"] == generation + 1 && after["digest"] != before["digest"], "{after}");
    Ok(())
}

fn file_went() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = waiting_agent(&daemon, DENIED)?;
    kill(&mut daemon)?;
    fs::remove_file(daemon.path("profiles/tester.yaml"))?;
    let other = PROFILE.replace("name: tester", "name: other");
    fs::write(daemon.path("profiles/other.yaml"), other)?;
    daemon.launch()?;
    ensure!(connects(&mut agent)? == unreachable());
    ensure!(daemon.log().contains("stay under the rules that they had"), "{}", daemon.log());
    let status = daemon.status()?;
    ensure!(status["profiles"].as_array().map(Vec::len) == Some(1), "{status}");
    ensure!(status["agents"][0]["profile"] == "tester", "{status}");
    drop(agent);
    wait("the old profile goes with its last agent", || {
        Ok(daemon.log().contains("its file and its agents are gone").then_some(()))
    })?;
    Ok(())
}

/// Changes a word of the pinned note, as another build would have written it.
fn change_note(daemon: &Daemon, word: usize) -> Result<()> {
    let note = open_pin(&set(daemon)?.join("note"))?;
    let mut bytes = vec![0; NOTE_WORDS * 8];
    lookup(note.as_fd(), &[0; 4], &mut bytes)?;
    bytes[word * 8] ^= 1;
    Ok(update(note.as_fd(), &[0; 4], &bytes)?)
}

fn replaced() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = trying(&daemon)?;
    let mut other = waiting_agent(&daemon, DENIED)?;
    let mut granted = waiting_agent(&daemon, GRANTED)?;
    let (before, set_before) = (daemon.status()?, set(&daemon)?);
    let programs_before = programs(&daemon)?;
    kill(&mut daemon)?;
    change_note(&daemon, NOTE_OBJECT)?;
    daemon.launch()?;
    ensure!(daemon.log().contains("another build of the programs"), "{}", daemon.log());
    ensure!(set(&daemon)? != set_before, "the old set is still there");
    let programs_after = programs(&daemon)?;
    ensure!(
        programs_after.keys().eq(programs_before.keys())
            && programs_after.iter().all(|(name, id)| programs_before[name] != *id),
        "{programs_before:?} {programs_after:?}"
    );
    attached_come_to(&daemon, CONNECT4, 1)?;
    let after = daemon.status()?;
    for same in ["id", "profile", "origin", "root", "processes"] {
        for agent in 0..3 {
            ensure!(
                after["agents"][agent][same] == before["agents"][agent][same],
                "{same}: {before} {after}"
            );
        }
    }
    ensure!(after["profiles"][0]["generation"] == before["profiles"][0]["generation"], "{after}");
    never_came_through(&mut agent)?;
    ensure!(connects(&mut other)? == unreachable() && connects(&mut granted)? == "connected");
    ensure!(daemon.agent(&["connect", DENIED])? == unreachable());
    // A ring of another size is another object too.
    kill(&mut daemon)?;
    let log = fs::File::create(daemon.path("log"))?;
    let mut child = daemon.command(&["--verdict-ring", "65536"])?.stderr(log).spawn()?;
    let up = wait("the daemon is ready", || Ok(daemon.status().ok()));
    let still = connects(&mut other);
    child.kill()?;
    child.wait()?;
    up?;
    ensure!(still? == unreachable());
    Ok(())
}

/// Pins a map of labels as a build made it whose labels had `length` bytes.
fn relabel(daemon: &Daemon, agents: &[&Talker], length: usize) -> Result<()> {
    const HASH: u32 = 1;
    let path = set(daemon)?.join("map_LABELS");
    let (labels, other) = (open_pin(&path)?, create_map(HASH, length as u32, 64)?);
    for agent in agents {
        let key = agent.pid().to_ne_bytes();
        let mut label = vec![0; size_of::<Label>()];
        lookup(labels.as_fd(), &key, &mut label)?;
        label.resize(length, 0xff);
        update(other.as_fd(), &key, &label)?;
    }
    fs::remove_file(&path)?;
    pin(other.as_fd(), &path)
}

fn grown() -> Result<()> {
    for length in [size_of::<Label>() - 8, size_of::<Label>() + 16] {
        let mut daemon = pinning(PROFILE)?;
        let mut agent = waiting_agent(&daemon, DENIED)?;
        let mut granted = waiting_agent(&daemon, GRANTED)?;
        let before = daemon.status()?;
        kill(&mut daemon)?;
        relabel(&daemon, &[&agent, &granted], length)?;
        // It only has to be another one.
        change_note(&daemon, NOTE_LABEL_SIZE)?;
        daemon.launch()?;
        ensure!(daemon.log().contains("other sizes of labels"), "{}", daemon.log());
        ensure!(connects(&mut agent)? == unreachable() && connects(&mut granted)? == "connected", "{length}");
        let after = daemon.status()?;
        for agent in 0..2 {
            ensure!(after["agents"][agent]["id"] == before["agents"][agent]["id"], "{before} {after}");
            ensure!(after["agents"][agent]["processes"] == 1, "{after}");
        }
    }
    Ok(())
}

fn incompatible() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = waiting_agent(&daemon, DENIED)?;
    kill(&mut daemon)?;
    change_note(&daemon, NOTE_ABI)?;
    let output = daemon.command(&[])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(69), "{output:?}");
    ensure!(said.contains("stays in force") && said.contains("--detach"), "{said}");
    ensure!(connects(&mut agent)? == unreachable());
    // The twin, and the way out.
    ensure!(daemon.command(&["--detach"])?.output()?.status.success());
    attached_come_to(&daemon, CONNECT4, 0)?;
    ensure!(connects(&mut agent)? == "connected");
    daemon.launch()
}

fn healed() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = waiting_agent(&daemon, DENIED)?;
    kill(&mut daemon)?;
    let link = open_pin(&set(&daemon)?.join("link_network_connect4"))?;
    agent_monitor_tests::bpf::detach_link(link.as_fd())?;
    fs::remove_file(set(&daemon)?.join("link_network_egress"))?;
    ensure!(attached(&daemon.cgroup, CONNECT4)?.is_empty());
    ensure!(connects(&mut agent)? == "connected", "the twin: what root takes off is off");
    daemon.launch()?;
    ensure!(daemon.log().contains("attached anew"), "{}", daemon.log());
    ensure!(attached(&daemon.cgroup, CONNECT4)?.len() == 1);
    ensure!(connects(&mut agent)? == unreachable());
    Ok(())
}

fn bad_restart() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = trying(&daemon)?;
    kill(&mut daemon)?;
    daemon.write_profile(&PROFILE.replace("mode:", "moode:"))?;
    let output = daemon.command(&[])?.output()?;
    ensure!(output.status.code() == Some(65), "{output:?}");
    daemon.write_profile(PROFILE)?;
    daemon.launch()?;
    never_came_through(&mut agent)
}

fn failed_start() -> Result<()> {
    let mut daemon = Daemon::prepare(PROFILE)?;
    daemon.pins = Some(daemon.path("pins"));
    // The event file's directory is a file: found out after the programs are loaded.
    fs::write(daemon.path("wall"), "")?;
    let mut command = daemon.command(&[])?;
    let output = command.env("AGENT_MONITOR_EVENTS", daemon.path("wall/events.jsonl")).output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let left = sets(&daemon)?;
    ensure!(left.is_empty(), "{left:?} are left");
    attached_come_to(&daemon, CONNECT4, 0)?;
    Ok(())
}

fn terminated() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = trying(&daemon)?;
    daemon.signal(libc::SIGTERM)?;
    ensure!(daemon.ended()? == Some(0), "{}", daemon.log());
    ensure!(!daemon.path("control.sock").exists());
    let mut other = {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ARGUMENT, "connect-when-told", DENIED]);
        Talker::spawn(command)?
    };
    ensure!(other.line()? == "ready");
    fs::write(daemon.cgroup.path().join("cgroup.procs"), other.pid().to_string())?;
    ensure!(connects(&mut other)? == "connected", "the twin: whoever is no agent goes free");
    daemon.launch()?;
    never_came_through(&mut agent)
}

fn held() -> Result<()> {
    let daemon = pinning(PROFILE)?;
    let mut command = Command::new(binary()?);
    command.args(["daemon", "--allow-degraded", "--no-metrics", "--no-events-file", "--profiles"]);
    command.arg(daemon.path("profiles")).arg("--cgroup").arg(daemon.cgroup.path());
    command.arg("--socket").arg(daemon.path("second.sock")).arg("--pins").arg(pins(&daemon)?);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("a daemon holds"), "{output:?}");
    let mut uninstall = Command::new(binary()?);
    uninstall.arg("uninstall").arg("--root").arg(daemon.path("root")).arg("--pins").arg(pins(&daemon)?);
    let output = uninstall.output()?;
    ensure!(!output.status.success(), "{output:?}");
    ensure!(daemon.agent(&["connect", DENIED])? == unreachable());
    Ok(())
}

/// Nothing of the product is attached or pinned.
fn nothing_left(daemon: &Daemon) -> Result<()> {
    let pins = pins(daemon)?;
    ensure!(!pins.exists(), "{} is left: {:?}", pins.display(), fs::read_dir(&pins).map(Iterator::count));
    ensure!(!fs::read_to_string("/proc/self/mountinfo")?.contains(pins.to_str().context("path")?));
    for hook in [CONNECT4, agent_monitor_tests::bpf::EGRESS, agent_monitor_tests::bpf::SOCK_CREATE] {
        attached_come_to(daemon, hook, 0)?;
    }
    Ok(())
}

/// The kernel takes a link off some time after its pin was removed: it waits for whoever may still read the file.
fn attached_come_to(daemon: &Daemon, hook: CgroupHook, programs: usize) -> Result<()> {
    wait(&format!("{programs} programs are attached"), || {
        Ok((attached(&daemon.cgroup, hook)?.len() == programs).then_some(()))
    })
}

/// Programs with these ids go when their last holder has gone.
fn programs_gone(ids: &BTreeMap<String, u32>) -> Result<()> {
    wait("the programs are gone", || {
        for id in ids.values() {
            match agent_monitor_tests::bpf::program_by_id(*id) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => bail!("program {id}: {error}"),
                Ok(_) => return Ok(None),
            }
        }
        Ok(Some(()))
    })
}

fn detached() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let mut agent = waiting_agent(&daemon, DENIED)?;
    ensure!(connects(&mut agent)? == unreachable());
    let ids = programs(&daemon)?;
    // A running daemon is ended.
    let output = daemon.command(&["--detach"])?.output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(daemon.ended()? == Some(0), "{}", daemon.log());
    nothing_left(&daemon)?;
    programs_gone(&ids)?;
    ensure!(connects(&mut agent)? == "connected", "the twin: it is free now");
    let again = daemon.command(&["--detach"])?.output()?;
    ensure!(again.status.success(), "{again:?}");
    ensure!(String::from_utf8_lossy(&again.stdout).contains("nothing is pinned"), "{again:?}");
    Ok(())
}

fn uninstalled() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let ids = programs(&daemon)?;
    kill(&mut daemon)?;
    // A root of the test's own, so that nothing of the host is touched.
    let mut uninstall = Command::new(binary()?);
    uninstall.arg("uninstall").arg("--root").arg(daemon.path("root")).arg("--pins").arg(pins(&daemon)?);
    let output = uninstall.output()?;
    ensure!(output.status.success(), "{output:?}");
    nothing_left(&daemon)?;
    programs_gone(&ids)
}

fn no_bpffs() -> Result<()> {
    Server::on(DENIED)?;
    let nothing = std::ptr::null();
    // SAFETY: terminated texts; the mount is in this process' own namespace.
    let hidden =
        unsafe { libc::mount(c"none".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"tmpfs".as_ptr(), 0, nothing) };
    ensure!(hidden == 0, "{}", std::io::Error::last_os_error());
    let daemon = Daemon::prepare(PROFILE)?;
    let mut command = daemon.command(&[])?;
    let words: Vec<_> =
        command.get_args().filter(|word| *word != "--no-pins").map(|w| w.to_owned()).collect();
    command = Command::new(binary()?);
    command.args(words).env("AGENT_MONITOR_EVENTS", daemon.path("events.jsonl"));
    command.env_remove("AGENT_MONITOR_PINS").stderr(fs::File::create(daemon.path("log"))?);
    let mut child = command.spawn()?;
    let up = wait("the daemon is ready", || Ok(daemon.status().ok()));
    let denied = daemon.agent(&["connect", DENIED]);
    child.kill()?;
    child.wait()?;
    // SAFETY: a terminated path.
    unsafe { libc::umount2(c"/sys/fs/bpf".as_ptr(), libc::MNT_DETACH) };
    let status = up?;
    let posture = status["posture"].as_array().context("posture")?;
    let line = posture.iter().find(|one| one["name"] == "bpffs/pins").context("no line of posture")?;
    ensure!(line["works"] == false, "{line}");
    ensure!(line["why"].as_str().is_some_and(|why| why.contains("mount -t bpf")), "{line}");
    ensure!(denied? == unreachable());
    ensure!(daemon.log().contains("enforcement ends with this process"), "{}", daemon.log());
    Ok(())
}

fn refused_after_adoption() -> Result<()> {
    let mut daemon = pinning(PROFILE)?;
    let program = binary()?;
    let program = program.to_str().context("path")?.to_owned();
    let mut agent = daemon.agent_in_background(&["exec-when-told", &program, "status"])?;
    ensure!(agent.line()? == "ready");
    kill(&mut daemon)?;
    daemon.launch()?;
    agent.tell("now")?;
    let said = agent.line()?;
    ensure!(said == "77", "its status: {said}");
    ensure!(daemon.ask(&["status"])?.status.success(), "the twin: the same command without a label");
    Ok(())
}

fn metrics_refused() -> Result<()> {
    Server::on(DENIED)?;
    let granting = "version: 1\nname: tester\nmode: enforce\nnetwork:\n  allow:\n    - { cidr: 127.0.0.0/8, protocol: any }\n    - { cidr: 0.0.0.0/8, protocol: any }\n    - { cidr: '::/0', protocol: any }\n";
    let daemon = Daemon::start(granting)?;
    ensure!(daemon.agent(&["connect", DENIED])? == "connected", "loopback is granted");
    ensure!(daemon.page("/healthz")?.contains("ok"), "the twin: whoever is no agent reads them");
    for address in ["127.0.0.1:9761", "0.0.0.0:9761", "[::ffff:127.0.0.1]:9761"] {
        ensure!(daemon.agent(&["connect", address])? == unreachable(), "{address}");
    }
    let denial = daemon.event("the denial", |event| event["network"]["port"] == 9761)?;
    ensure!(denial["verdict"]["reason"] == "protected" && denial["verdict"]["effect"] == "deny", "{denial}");
    ensure!(denial["verdict"]["rule"] == "monitor:protected", "{denial}");
    let status = daemon.status()?;
    let protected: Vec<_> =
        status["protected"].as_array().context("protected")?.iter().filter_map(Value::as_str).collect();
    for wanted in ["127.0.0.1:9761", daemon.path("control.sock").canonicalize()?.to_str().context("path")?] {
        ensure!(protected.contains(&wanted), "{wanted}: {protected:?}");
    }
    Ok(())
}
