//! Rules about programs (`exe:`, `except:`), kept and gone round: copies, renames, links, scripts, nameless files, other
//! mount namespaces, names of processes, sockets that change hands, and reloads.
//!
//! The programs are this binary, copied to paths of their own: only their path tells them apart.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use agent_monitor::policy::compile;
use agent_monitor::policy::{Membership, ProgramRef};
use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::path::Right;
use agent_monitor_tests::monitor::resolve;
use agent_monitor_tests::program::Program;
use agent_monitor_tests::{Body, Child, Failure};
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack;
use crate::lab::{self, Lab, in_audit};

/// First argument of the interpreter of the tests' script; the script's name and what it was given follow.
pub const OF_SCRIPT: &str = "--program-of-script";

const ROOT: &str = "/tmp/agent-monitor-programs";

/// `chosen` may call 10.9.0.3; every program but `barred` may call 10.9.0.5 at port 7000, and nobody but `chosen` at 7001.
const PROFILE: &str = "\
version: 1
name: programs
mode: enforce
programs:
  chosen: ['/tmp/agent-monitor-programs/chosen', '/tmp/agent-monitor-programs/script']
  barred: /tmp/agent-monitor-programs/barred
network:
  allow:
    - { cidr: 10.9.0.3/32, ports: [7000-7099], protocol: any, exe: chosen }
    - { cidr: 10.9.0.5/32, ports: [7000-7099], protocol: any }
  deny:
    - { cidr: 10.9.0.5/32, ports: [7000], protocol: any, exe: barred }
    - { cidr: 10.9.0.5/32, ports: [7001], protocol: any, except: chosen }
";

/// The same with another set in front, so that every class has another number, and another grant.
fn renumbered() -> String {
    PROFILE
        .replace("programs:\n", "programs:\n  a-new-one: ['/tmp/agent-monitor-programs/{plain,chosen}']\n")
        .replace("  deny:\n", "    - { cidr: 10.9.0.4/32, ports: [7000], exe: a-new-one }\n  deny:\n")
}

fn at(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

fn path(name: &str) -> String {
    format!("{ROOT}/{name}")
}

/// Makes the programs anew: `chosen`, `barred`, `plain`.
fn plant() -> Result<()> {
    let _ = fs::remove_dir_all(ROOT);
    fs::create_dir_all(ROOT)?;
    for name in ["chosen", "barred", "plain"] {
        fs::copy("/proc/self/exe", at(name))?;
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// An agent that runs one of the programs.
fn start(lab: &mut Lab, profile: &str, name: &str) -> Result<(Program, u32)> {
    let (monitor, world) = lab.parts()?;
    monitor.install(profile)?;
    let mut agent = 0;
    let program = Program::start(&world.agents, &at(name), |pid| {
        agent = monitor.label(pid)?;
        Ok(())
    })?;
    monitor.drain(Ring::Verdicts)?;
    Ok((program, agent))
}

/// What a program answers to each line.
fn expect(program: &mut Program, lines: &[(&str, i32)]) -> Result<()> {
    for (line, wanted) in lines {
        let errno = program.ask(line)?;
        ensure!(errno == *wanted, "{line:?} ended with {errno}, not {wanted}");
    }
    Ok(())
}

const UNREACHABLE: i32 = libc::ENETUNREACH;
const TO_CHOSEN: &str = "connect 10.9.0.3 7000";
const TO_MOST: &str = "connect 10.9.0.5 7000";
const TO_MOST_TOO: &str = "connect 10.9.0.5 7001";

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("a_grant_belongs_to_its_program", belongs),
        lab::check("a_programs_class_follows_each_exec", follows_exec),
        lab::check("a_denial_for_one_program_and_one_with_an_exception", denials),
        lab::check("a_flow_of_a_granted_program_survives_a_reload", through_reload),
        lab::check("a_renamed_program_is_judged_by_its_new_name_after_a_reload", renamed_while_it_runs),
        lab::check("a_script_is_its_interpreter", scripts),
        lab::test("B22_a_secret_is_its_tools_alone", secret),
    ];
    trials.extend(attack::pair(
        "U1_sockets_of_other_programs",
        |lab| sockets(lab, &sockets_profile(), libc::EACCES),
        |lab| sockets(lab, &in_audit(&sockets_profile()), 0).map(drop),
    ));
    for trick in TRICKS {
        trials.extend(attack::checked_pair(
            trick.name,
            |lab| (trick.run)(lab, PROFILE, UNREACHABLE),
            |lab| (trick.run)(lab, &in_audit(PROFILE), 0),
        ));
    }
    trials
}

/// A way to a grant of another program. The last line must end with the errno.
struct Trick {
    name: &'static str,
    run: fn(&mut Lab, &str, i32) -> Result<()>,
}

const TRICKS: &[Trick] = &[
    Trick {
        name: "F7_copy_of_a_granted_program",
        run: |lab, profile, errno| {
            plant()?;
            fs::copy(at("chosen"), at("copy"))?;
            alone(lab, profile, "copy", &[(TO_CHOSEN, errno)])
        },
    },
    Trick {
        name: "F2_hard_link_to_a_granted_program",
        run: |lab, profile, errno| {
            plant()?;
            fs::hard_link(at("chosen"), at("link"))?;
            alone(lab, profile, "link", &[(TO_CHOSEN, errno)])
        },
    },
    Trick {
        name: "F7_granted_program_under_another_name",
        run: |lab, profile, errno| {
            plant()?;
            fs::rename(at("chosen"), at("other"))?;
            alone(lab, profile, "other", &[(TO_CHOSEN, errno)])
        },
    },
    Trick {
        name: "F11_comm_of_a_granted_program",
        run: |lab, profile, errno| {
            plant()?;
            alone(lab, profile, "plain", &[("call-yourself chosen", 0), (TO_CHOSEN, errno)])
        },
    },
    Trick {
        name: "F9_granted_program_without_a_name",
        run: |lab, profile, errno| {
            plant()?;
            let line = format!("run-nameless {} {TO_CHOSEN}", path("chosen"));
            alone(lab, profile, "chosen", &[(line.as_str(), errno)])
        },
    },
    Trick {
        name: "F4_another_file_at_a_granted_path",
        run: |lab, profile, errno| {
            plant()?;
            let mount = format!("mount-over {} {}", path("plain"), path("chosen"));
            let run = format!("run {} {TO_CHOSEN}", path("chosen"));
            let (mut program, agent) = start(lab, profile, "plain")?;
            // Where the kernel runs BPF LSM programs, the mount itself is denied; then nothing lies at the path but
            // what belongs there.
            let mounted = program.ask(&mount)?;
            if mounted == 0 {
                expect(&mut program, &[(run.as_str(), errno)])?;
            } else {
                ensure!(errno != 0 && mounted == libc::EPERM, "the mount ended with {mounted}");
            }
            lab.monitor()?.kernel.remove_agent(agent);
            Ok(())
        },
    },
    Trick {
        name: "N7_datagram_flow_that_a_granted_program_began",
        run: |lab, profile, errno| {
            plant()?;
            let become_plain = format!("become {}", path("plain"));
            let lines =
                [("udp 10.9.0.3 7000", 0), (become_plain.as_str(), 0), ("udp-held 10.9.0.3 7000", errno)];
            alone(lab, profile, "chosen", &lines)
        },
    },
    Trick {
        name: "N17_socket_that_a_granted_program_made",
        run: |lab, profile, errno| {
            plant()?;
            let become_plain = format!("become {}", path("plain"));
            let lines = [("make", 0), (become_plain.as_str(), 0), ("connect-held 10.9.0.3 7000", errno)];
            alone(lab, profile, "chosen", &lines)
        },
    },
];

/// The last line is the attack.
fn alone(lab: &mut Lab, profile: &str, name: &str, lines: &[(&str, i32)]) -> Result<()> {
    let (mut program, agent) = start(lab, profile, name)?;
    let (monitor, world) = lab.parts()?;
    let (attack, before) = lines.split_last().context("no attack")?;
    expect(&mut program, before)?;
    world.wire.clear()?;
    expect(&mut program, &[*attack])?;
    let left =
        world.wire.packets()?.iter().any(|packet| packet.to.to_string() == "10.9.0.3" && packet.port == 7000);
    ensure!(left == (attack.1 == 0), "something left: {left}");
    let denials = monitor
        .drain(Ring::Verdicts)?
        .into_iter()
        .filter(|r| r.header.agent == agent && r.reason().is_some());
    ensure!(denials.count() >= 1, "no event");
    monitor.kernel.remove_agent(agent);
    Ok(())
}

fn belongs(lab: &mut Lab) -> Result<()> {
    plant()?;
    let (mut chosen, agent) = start(lab, PROFILE, "chosen")?;
    let in_a_child = format!("fork {TO_CHOSEN}");
    let in_another = format!("run {} {TO_CHOSEN}", path("plain"));
    let in_itself = format!("run {} {TO_CHOSEN}", path("chosen"));
    expect(
        &mut chosen,
        &[
            (TO_CHOSEN, 0),
            (in_a_child.as_str(), 0),
            (in_another.as_str(), UNREACHABLE),
            (in_itself.as_str(), 0),
        ],
    )?;
    let monitor = lab.monitor()?;
    // The record names the class, and the class the sets.
    let records = monitor.drain(Ring::Verdicts)?;
    let record = records.iter().find(|r| r.header.agent == agent && r.denies()).context("no record")?;
    ensure!(record.reason() == Some(Reason::Default) && record.hook() == Some(Hook::Connect4), "{record:?}");
    let classes = compile::memberships(&resolve(PROFILE)?)?;
    let class = |r: &agent_monitor_tests::Record| classes.get(usize::from(r.header.class)).cloned();
    ensure!(class(record) == Some(Membership::PLAIN), "{record:?}");
    let allowed = monitor.wait_for(Ring::Activity, "the allowed connection", |r| {
        r.header.agent == agent && r.hook() == Some(Hook::Connect4)
    })?;
    let chosen_set = Membership::Of(vec![ProgramRef::Name("chosen".to_owned())]);
    ensure!(class(&allowed) == Some(chosen_set), "{allowed:?}");
    monitor.kernel.remove_agent(agent);
    Ok(())
}

fn follows_exec(lab: &mut Lab) -> Result<()> {
    plant()?;
    let (mut program, agent) = start(lab, PROFILE, "chosen")?;
    let [chosen, plain] = ["chosen", "plain"].map(|name| format!("become {}", path(name)));
    let forked = format!("fork {TO_CHOSEN}");
    expect(
        &mut program,
        &[
            (TO_CHOSEN, 0),
            (plain.as_str(), 0),
            (TO_CHOSEN, UNREACHABLE),
            (forked.as_str(), UNREACHABLE),
            (TO_MOST, 0),
            (chosen.as_str(), 0),
            (TO_CHOSEN, 0),
            (plain.as_str(), 0),
            (TO_CHOSEN, UNREACHABLE),
        ],
    )?;
    lab.monitor()?.kernel.remove_agent(agent);
    Ok(())
}

fn denials(lab: &mut Lab) -> Result<()> {
    plant()?;
    for (name, most, too) in
        [("chosen", 0, 0), ("plain", 0, UNREACHABLE), ("barred", UNREACHABLE, UNREACHABLE)]
    {
        let (mut program, agent) = start(lab, PROFILE, name)?;
        expect(&mut program, &[(TO_MOST, most), (TO_MOST_TOO, too)]).with_context(|| name.to_owned())?;
        lab.monitor()?.kernel.remove_agent(agent);
    }
    Ok(())
}

/// Every class gets another number; what runs keeps its grants, and no other one's.
fn through_reload(lab: &mut Lab) -> Result<()> {
    plant()?;
    let (mut chosen, first) = start(lab, PROFILE, "chosen")?;
    let (mut plain, second) = start(lab, PROFILE, "plain")?;
    expect(&mut chosen, &[("connect 10.9.0.3 7001", 0), ("echo", 0)])?;
    expect(&mut plain, &[("connect 10.9.0.3 7001", UNREACHABLE)])?;
    for profile in [renumbered(), PROFILE.to_owned(), renumbered()] {
        let monitor = lab.monitor()?;
        monitor.install(&profile)?;
        let stale = monitor.kernel.stale_flows()?;
        ensure!(!stale.iter().any(|flow| flow.agent == first), "a granted flow would be cut: {stale:?}");
        let forked = format!("fork {TO_CHOSEN}");
        expect(&mut chosen, &[("echo", 0), (forked.as_str(), 0), ("echo", 0)])?;
        expect(&mut plain, &[(TO_CHOSEN, UNREACHABLE), (TO_MOST, 0)])?;
        let new = "fork connect 10.9.0.4 7000";
        let granted = if profile == PROFILE { UNREACHABLE } else { 0 };
        expect(&mut plain, &[(new, granted)])?;
        expect(&mut chosen, &[(new, granted)])?;
    }
    // The grant goes: the flow of the program that had it is found, and dropped.
    let monitor = lab.monitor()?;
    monitor.install(&PROFILE.replace("exe: chosen", "exe: barred"))?;
    let stale = monitor.kernel.stale_flows()?;
    ensure!(
        stale.iter().any(|flow| flow.agent == first),
        "a flow that lost its grant is not found: {stale:?}"
    );
    ensure!(chosen.ask("echo")? != 0, "the flow goes on without its grant");
    for agent in [first, second] {
        monitor.kernel.remove_agent(agent);
    }
    Ok(())
}

/// What runs is what was executed; a reload looks at the name that the file has then.
fn renamed_while_it_runs(lab: &mut Lab) -> Result<()> {
    plant()?;
    let (mut program, agent) = start(lab, PROFILE, "chosen")?;
    let rename = format!("rename {} {}", path("chosen"), path("other"));
    expect(&mut program, &[(rename.as_str(), 0), (TO_CHOSEN, 0)])?;
    lab.monitor()?.install(&renumbered())?;
    expect(&mut program, &[(TO_CHOSEN, UNREACHABLE)])?;
    lab.monitor()?.kernel.remove_agent(agent);
    Ok(())
}

/// The script's own path is in the set `chosen`, and it is `plain` that runs.
fn scripts(lab: &mut Lab) -> Result<()> {
    plant()?;
    for (interpreter, errno) in [("plain", UNREACHABLE), ("chosen", 0)] {
        let script = at("script");
        fs::write(&script, format!("#!{} {OF_SCRIPT}\n", path(interpreter)))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let (mut program, agent) = start(lab, PROFILE, "plain")?;
        let line = format!("run {} {TO_CHOSEN}", script.display());
        expect(&mut program, &[(line.as_str(), errno)]).with_context(|| interpreter.to_owned())?;
        lab.monitor()?.kernel.remove_agent(agent);
    }
    Ok(())
}

/// A secret file that one tool may read, where the kernel runs BPF LSM programs.
fn secret(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    fs::write(at("token"), "secret")?;
    let profile = format!(
        "{PROFILE}files:\n  read: ['/**']\n  write: ['/**']\n  deny:\n    - {{ path: {ROOT}/token, except: chosen }}\n\
         exec:\n  allow: ['/**']\n  deny:\n    - {{ path: {ROOT}/barred, exe: {ROOT}/plain }}\n"
    );
    let monitor = lab.monitor()?;
    if !monitor.works("lsm/file_open") {
        return Ok(Completion::ignored_with(monitor.blind("lsm/file_open")?));
    }
    let read = format!("read {ROOT}/token");
    let through_plain = format!("run {} read {ROOT}/token", path("plain"));
    let run_barred = format!("run {} {TO_MOST_TOO}", path("barred"));
    let (mut chosen, agent) = start(lab, &profile, "chosen")?;
    expect(
        &mut chosen,
        &[(read.as_str(), 0), (through_plain.as_str(), libc::EACCES), (run_barred.as_str(), UNREACHABLE)],
    )?;
    let (mut plain, other) = start(lab, &profile, "plain")?;
    let own = format!("rename {ROOT}/token {ROOT}/mine");
    expect(
        &mut plain,
        &[(read.as_str(), libc::EACCES), (own.as_str(), libc::EACCES), (run_barred.as_str(), libc::EACCES)],
    )?;
    // The twin: where nothing enforces, anybody reads it.
    let (mut free, third) = start(lab, &in_audit(&profile), "plain")?;
    expect(&mut free, &[(read.as_str(), 0)])?;
    for agent in [agent, other, third] {
        lab.monitor()?.kernel.remove_agent(agent);
    }
    Ok(Completion::Completed)
}

/// Unix sockets of a process outside: one that `chosen` alone is granted, by path and by name, one that every program
/// but `chosen` is denied, one that all may talk to. One set is named by a rule about sockets and by no other.
fn sockets_profile() -> String {
    format!(
        "{PROFILE}unix:\n  allow:\n    - {{ path: '{ROOT}/run/agent.1', exe: chosen }}\n    \
         - {{ path: '@agent-monitor-programs-*', exe: {ROOT}/chosen }}\n    - '{ROOT}/run/{{engine,log,all}}'\n  \
         deny:\n    - {{ path: '**/engine', except: chosen }}\n    - {{ path: '{ROOT}/run/log', exe: barred }}\n"
    )
}

/// A socket belongs to the programs that the rule names, at connecting and at sending.
fn sockets(lab: &mut Lab, profile: &str, errno: i32) -> Result<Completion> {
    plant()?;
    fs::create_dir_all(at("run"))?;
    let (monitor, world) = lab.parts()?;
    if errno != 0 && !monitor.works("lsm/unix_stream_connect") {
        return Ok(Completion::ignored_with(monitor.blind("lsm/unix_stream_connect")?));
    }
    let mut server = Child::spawn(&world.outside, |stage| {
        let failed = |e| Failure::of("listen", &e);
        let name = SocketAddr::from_abstract_name("agent-monitor-programs-1").map_err(failed)?;
        let held = (
            ["agent.1", "engine", "all"].map(|name| UnixListener::bind(at("run").join(name))),
            UnixDatagram::bind(at("run/log")).map_err(failed)?,
            UnixListener::bind_addr(&name).map_err(failed)?,
        );
        if held.0.iter().any(Result::is_err) {
            return Err(Failure::new("listen", libc::EADDRINUSE));
        }
        stage.pause()?;
        drop(held);
        Ok(())
    })?;
    server.paused()?;
    let [keys, engine, all] = ["agent.1", "engine", "all"].map(|name| format!("unix {ROOT}/run/{name}"));
    let (log, name) = (format!("unix-send {ROOT}/run/log"), "unix-name agent-monitor-programs-1");
    let through_plain = format!("run {} {keys}", path("plain"));
    let become_plain = format!("become {}", path("plain"));
    let (mut chosen, first) = start(lab, profile, "chosen")?;
    let granted = [&keys, &engine, &all, &log].map(|line| (line.as_str(), 0));
    expect(&mut chosen, &granted)?;
    expect(&mut chosen, &[(name, 0), (through_plain.as_str(), errno)])?;
    // The class follows the exec.
    expect(&mut chosen, &[(become_plain.as_str(), 0), (keys.as_str(), errno), (all.as_str(), 0)])?;
    let monitor = lab.monitor()?;
    let records = monitor.drain(Ring::Verdicts)?;
    let told = records.iter().filter(|record| {
        record.header.agent == first
            && record.hook() == Some(Hook::LsmUnixStreamConnect)
            && record.reason() == Some(Reason::Default)
            && matches!(&record.body, Body::File { body, path } if body.rights == Right::Connect as u32
                && path == format!("{ROOT}/run/agent.1").as_bytes())
    });
    if monitor.works("lsm/unix_stream_connect") {
        ensure!(told.count() == 2, "{records:#?}");
    }
    let (mut plain, second) = start(lab, profile, "plain")?;
    expect(
        &mut plain,
        &[
            (keys.as_str(), errno),
            (name, errno),
            (engine.as_str(), errno),
            (all.as_str(), 0),
            (log.as_str(), 0),
        ],
    )?;
    let (mut barred, third) = start(lab, profile, "barred")?;
    expect(&mut barred, &[(log.as_str(), errno), (engine.as_str(), errno), (all.as_str(), 0)])?;
    for agent in [first, second, third] {
        lab.monitor()?.kernel.remove_agent(agent);
    }
    Ok(Completion::Completed)
}
