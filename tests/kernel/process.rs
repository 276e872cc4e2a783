//! L1 to L4, N20, N22: ways for a process to stop being the agent that it is.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_monitor_common::counters::{Ring, Site};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::cgroup::mount_point;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::DENIED4;
use agent_monitor_tests::{Attempt, Body, Child, Failure, Socket, Stage};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::attack::{self, Attack, Off, On};
use crate::kernel_maps;
use crate::lab::{self, Lab, PROFILE};
use crate::network_out::labelled_first;

const REFUSED: On = On::Refused(libc::ENETUNREACH, Hook::Connect4);

/// What every descendant tries.
fn call_out() -> Attempt {
    let socket = Socket::tcp4()?;
    socket.connect(&Name::new(DENIED4, SINK))?;
    socket.send(b"secret").map(drop)
}

fn errno_of(attempt: Attempt) -> i32 {
    attempt.err().map_or(0, |f| f.errno.max(1))
}

/// The errno that a descendant wrote.
fn answer(reader: &mut std::io::PipeReader) -> Attempt {
    let mut errno = [0; 4];
    reader.read_exact(&mut errno).map_err(|_| Failure::new("the descendant died", 0))?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(Failure::new("connect", errno)),
    }
}

/// Runs `body` in a forked descendant; its errno comes back through a pipe, for a descendant may lose its parent.
fn descendant(body: impl FnOnce() -> Attempt) -> Attempt {
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
    // SAFETY: the child of a single-threaded process.
    match unsafe { libc::fork() } {
        -1 => return Err(Failure::last("fork")),
        0 => {
            drop(reader);
            let _ = writer.write_all(&errno_of(body()).to_ne_bytes());
            // SAFETY: ends the descendant without the parent's handlers.
            unsafe { libc::_exit(0) }
        }
        _ => drop(writer),
    }
    answer(&mut reader)
}

/// Into the cgroup of `clone_args.cgroup` (include/uapi/linux/sched.h).
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Calls out in a child that is born in another cgroup (`clone3` with `CLONE_INTO_CGROUP`, Linux 5.7): it never was in
/// its parent's.
pub fn born_in(cgroup: &Path) -> Attempt {
    let root = mount_point().map_err(|_| Failure::new("no cgroup v2", 0))?;
    let place = format!("0::/{}", cgroup.strip_prefix(root).unwrap_or(cgroup).display());
    let directory = fs::File::open(cgroup).map_err(|e| Failure::of("open", &e))?;
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
    // SAFETY: arguments of zeros are valid; without a stack of its own the child of a single-threaded process has a
    // copy of this one, as `fork` gives it, and never returns from here.
    unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = directory.as_raw_fd() as u64;
        match libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) {
            -1 => return Err(Failure::last("clone3")),
            0 => {
                drop(reader);
                let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                let attempt = if own.lines().any(|line| line == place) {
                    call_out()
                } else {
                    Err(Failure::new("it is elsewhere", libc::ESRCH))
                };
                let _ = writer.write_all(&errno_of(attempt).to_ne_bytes());
                libc::_exit(0)
            }
            _ => drop(writer),
        }
    }
    answer(&mut reader)
}

/// `fork`, `setsid`, `fork`: the caller is a child of init (or of the nearest subreaper).
fn daemonised() -> Attempt {
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
    // SAFETY: children of a single-threaded process; none of them returns from here.
    unsafe {
        if libc::fork() == 0 {
            libc::setsid();
            let middle = libc::getpid();
            if libc::fork() == 0 {
                // Go on as soon as the middle process is gone.
                while libc::getppid() == middle {
                    std::thread::yield_now();
                }
                let _ = writer.write_all(&errno_of(call_out()).to_ne_bytes());
            }
            libc::_exit(0);
        }
    }
    drop(writer);
    answer(&mut reader)
}

fn up_loopback() -> Attempt {
    let socket = Socket::udp4()?;
    // SAFETY: an `ifreq` of zeros is valid; the name fits.
    unsafe {
        use std::os::fd::{AsFd, AsRawFd};
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) < 0 {
            return Err(Failure::last("bring the loopback up"));
        }
    }
    Ok(())
}

/// In a namespace of its own: that nobody listens there shows that the packet was answered.
fn call_in_new_namespace(flags: i32) -> Attempt {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(flags) } < 0 {
        return Err(Failure::absent("namespaces of one's own", Failure::last("unshare").errno));
    }
    up_loopback()?;
    match Socket::tcp4()?.connect(&Name::new(IpAddr::V4(Ipv4Addr::LOCALHOST), SINK)) {
        Err(f) if f.errno == libc::ECONNREFUSED => Ok(()),
        other => other,
    }
}

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "N20_new_network_namespace",
            run: labelled_first!(call_in_new_namespace(libc::CLONE_NEWNET)),
            off: Off::Succeeds,
            on: REFUSED,
        },
        Attack {
            name: "N20_new_user_and_network_namespace",
            run: labelled_first!(call_in_new_namespace(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)),
            off: Off::Succeeds,
            on: REFUSED,
        },
        Attack {
            name: "L3_child",
            run: labelled_first!(descendant(call_out)),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L3_double_fork_setsid",
            run: labelled_first!(daemonised()),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L3_thread",
            run: labelled_first!(
                std::thread::spawn(call_out)
                    .join()
                    .unwrap_or_else(|_| Err(Failure::new("the thread panicked", 0)))
            ),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L3_thread_that_outlives_its_leader",
            run: labelled_first!(descendant_without_leader()),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L3_clone_that_is_a_sibling",
            run: labelled_first!(sibling()),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L3_exec_by_a_thread_that_is_not_the_leader",
            run: labelled_first!(descendant_that_execs_from_a_thread()),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L5_new_pid_namespace",
            run: labelled_first!({
                // SAFETY: no pointers.
                if unsafe { libc::unshare(libc::CLONE_NEWPID) } < 0 {
                    return Err(Failure::absent("process id namespaces", Failure::last("unshare").errno));
                }
                descendant(call_out)
            }),
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "L4_grandchild_alive_before_the_label",
            run: |stage: &mut Stage| {
                let (mut wait, go) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
                let (mut result, mut report) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
                // SAFETY: the child of a single-threaded process.
                if unsafe { libc::fork() } == 0 {
                    drop((go, result));
                    let attempt = descendant(move || {
                        let _ = wait.read(&mut [0]);
                        call_out()
                    });
                    let _ = report.write_all(&errno_of(attempt).to_ne_bytes());
                    // SAFETY: ends the descendant.
                    unsafe { libc::_exit(0) }
                }
                drop(report);
                stage.pause()?;
                drop(go);
                answer(&mut result)
            },
            off: Off::Leaves,
            on: REFUSED,
        },
        Attack {
            name: "N22_exec_with_an_empty_environment",
            run: labelled_first!(call_from_a_new_image()),
            off: Off::Leaves,
            on: REFUSED,
        },
    ]
}

/// The leader ends, a thread goes on: the process is alive under a zombie's number.
fn descendant_without_leader() -> Attempt {
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
    // SAFETY: the child of a single-threaded process.
    if unsafe { libc::fork() } == 0 {
        drop(reader);
        std::thread::spawn(move || {
            let status = format!("/proc/{}/stat", std::process::id());
            // Until the leader is a zombie.
            while !fs::read_to_string(&status).is_ok_and(|s| s.contains(") Z ")) {
                std::thread::yield_now();
            }
            let _ = writer.write_all(&errno_of(call_out()).to_ne_bytes());
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        });
        // SAFETY: ends this thread only; nothing of it is used any more.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!("the thread has ended");
    }
    drop(writer);
    answer(&mut reader)
}

/// A clone whose parent is the test, not the agent.
fn sibling() -> Attempt {
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
    let flags = libc::CLONE_PARENT as u64;
    // SAFETY: without CLONE_VM this is a fork; the child does not return.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) } {
        -1 => Err(Failure::last("clone")),
        0 => {
            let _ = writer.write_all(&errno_of(call_out()).to_ne_bytes());
            // SAFETY: ends the descendant.
            unsafe { libc::_exit(0) }
        }
        _ => {
            drop(writer);
            answer(&mut reader)
        }
    }
}

/// The exec of a thread ends its leader and takes the leader's number over (`de_thread`).
fn descendant_that_execs_from_a_thread() -> Attempt {
    let mut status = 0;
    // SAFETY: the child of a single-threaded process, which does not return.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let thread = std::thread::spawn(|| {
                use std::os::unix::process::CommandExt;
                Command::new("/proc/self/exe").arg(IMAGE_ARGUMENT).exec()
            });
            let _ = thread.join();
            libc::_exit(255);
        }
        libc::waitpid(child, &raw mut status, 0);
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        errno => Err(Failure::new("connect", errno)),
    }
}

/// Executes this binary anew, without an environment; see [`image_main`].
pub fn call_from_a_new_image() -> Attempt {
    let status = Command::new("/proc/self/exe")
        .arg(IMAGE_ARGUMENT)
        .env_clear()
        .status()
        .map_err(|e| Failure::of("exec", &e))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(errno) => Err(Failure::new("connect", errno)),
        None => Err(Failure::new("the new image died", 0)),
    }
}

/// Makes this binary an attacker, where it is executed by an agent.
pub const IMAGE_ARGUMENT: &str = "--call-out";

/// What the new image does; its exit status is the errno.
pub fn image_main() -> i32 {
    errno_of(call_out())
}

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("L2_label_survives_leaving_the_cgroup", leaves_cgroup),
        lab::check("L3_fork_exec_and_exit_are_recorded", lifecycle),
        lab::check("L3_label_ends_with_the_process", label_ends),
        lab::check("unlabelled_process_of_the_same_cgroup_is_untouched", unlabelled),
    ];
    trials.extend(attack::checked_pair("L1_child_cgroup", child_cgroup, child_cgroup_with_enforcement_off));
    trials.extend(attack::checked_pair(
        "L3_fork_with_a_full_label_map",
        |lab| full_label_map(lab, true),
        |lab| full_label_map(lab, false),
    ));
    trials
}

/// Moves into a new cgroup below its own, at `path`, and calls out.
fn move_and_call_out(path: PathBuf) -> impl Fn(&mut Stage) -> Attempt {
    move |stage| {
        stage.pause()?;
        fs::create_dir(&path).map_err(|e| Failure::of("mkdir", &e))?;
        fs::write(path.join("cgroup.procs"), "0").map_err(|e| Failure::of("move", &e))?;
        call_out()
    }
}

fn child_cgroup(lab: &mut Lab) -> Result<()> {
    let run = lab.attack(PROFILE, move_and_call_out(lab.world.agents.path().join("deeper")))?;
    ensure!(run.attempt == Err(Failure::new("connect", libc::ENETUNREACH)), "{}", run.describe());
    ensure!(run.left.is_empty() && run.denials == 1 && run.records.len() == 1, "{}", run.describe());
    Ok(())
}

fn child_cgroup_with_enforcement_off(lab: &mut Lab) -> Result<()> {
    let run = lab.unenforced(move_and_call_out(lab.world.outside.path().join("deeper")))?;
    ensure!(run.attempt.is_ok() && run.ungranted().count() > 0, "{}", run.describe());
    Ok(())
}

/// The cgroup programs of this test are behind it then; what is denied there is in `outside`. A daemon attaches to the
/// root, where there is no behind.
fn leaves_cgroup(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let path = world.outside.path().join("cgroup.procs");
    let mut child = Child::spawn(&world.agents, move |stage| {
        stage.pause()?;
        fs::write(&path, "0").map_err(|e| Failure::of("move", &e))?;
        stage.pause()
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    child.go_on()?;
    child.paused()?;
    let label = monitor.kernel.label_of(child.pid()).context("the label is gone")?;
    ensure!(label.agent == agent, "another agent's label");
    Ok(())
}

fn lifecycle(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        let _ = call_from_a_new_image();
        Ok(())
    })?;
    child.paused()?;
    let (root, agent) = (child.pid(), monitor.label(child.pid())?);
    monitor.drain(Ring::Activity)?;
    child.go_on()?;
    let _ = child.finish()?;
    child.end();
    let own = fs::read_link("/proc/self/exe")?;
    let mut forked = 0;
    monitor.wait_for(Ring::Activity, "the fork", |r| match &r.body {
        Body::Fork(fork) if r.header.agent == agent && r.header.tgid == root => {
            forked = fork.child;
            fork.label_lost == 0
        }
        _ => false,
    })?;
    let executed = monitor.wait_for(Ring::Activity, "the exec", |r| {
        r.header.agent == agent && r.header.tgid == forked && matches!(r.body, Body::Exec { .. })
    })?;
    let Body::Exec { body, path, argv } = executed.body else { unreachable!("it was asked for") };
    ensure!(path == own.as_os_str().as_encoded_bytes(), "the path is {:?}", String::from_utf8_lossy(&path));
    ensure!(
        argv == format!("/proc/self/exe\0{IMAGE_ARGUMENT}\0").as_bytes()
            && body.argv_total as usize == argv.len(),
        "the arguments are {:?}",
        String::from_utf8_lossy(&argv)
    );
    ensure!(body.parent == root, "the parent is {}, not {root}", body.parent);
    ensure!(body.comm == *b"exe\0\0\0\0\0\0\0\0\0\0\0\0\0", "the command is {:?}", body.comm);
    ensure!(body.inode == fs::metadata(&own)?.ino() && body.uid == 0 && body.claimed == 0, "{body:?}");
    let cgroup = fs::metadata(world.agents.path())?.ino();
    ensure!(executed.header.cgroup == cgroup, "the cgroup is {}, not {cgroup}", executed.header.cgroup);
    monitor.wait_for(Ring::Activity, "the exit of the child", |r| match &r.body {
        Body::Exit(exit) => r.header.tgid == forked && exit.code >> 8 == libc::ENETUNREACH as u32,
        _ => false,
    })?;
    let last = monitor.wait_for(Ring::Activity, "the exit of the agent", |r| {
        r.header.tgid == root && matches!(r.body, Body::Exit(_))
    })?;
    ensure!(matches!(last.body, Body::Exit(exit) if exit.last == 1), "it was not called the last: {last:?}");
    Ok(())
}

fn label_ends(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let mut child = Child::spawn(&world.agents, |stage| stage.pause())?;
    child.paused()?;
    let (pid, agent) = (child.pid(), monitor.label(child.pid())?);
    ensure!(monitor.kernel.is_labelled(pid), "no label");
    ensure!(monitor.kernel.agent(agent).is_some_and(|a| a.live == 1), "the agent is not counted alive");
    child.end();
    ensure!(
        !monitor.kernel.is_labelled(pid),
        "a process that is gone has a label: its number may come again"
    );
    ensure!(monitor.kernel.agent(agent).is_some_and(|a| a.live == 0), "the agent is counted alive");
    monitor.kernel.remove_agent(agent);
    Ok(())
}

/// A fork bomb's end: labels for numbers that no process has fill the map, then the agent forks. `agent`: or it is
/// none, and its child goes where it likes.
fn full_label_map(lab: &mut Lab, agent: bool) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        descendant(call_out)
    })?;
    child.paused()?;
    let agent = if agent { Some(monitor.label(child.pid())?) } else { None };
    monitor.drain(Ring::Verdicts)?;
    monitor.drain(Ring::Activity)?;
    let lost_before = monitor.faults(Site::LabelInsert);
    let filler = kernel_maps::Filler::fill(kernel_maps::of_cgroup(&world.agents, "LABELS")?)?;
    world.wire.clear()?;
    child.go_on()?;
    let attempt = child.finish()?;
    drop(filler);
    let Some(agent) = agent else {
        attempt.context("a process that is no agent was denied")?;
        ensure!(world.wire.packets()?.iter().any(attack::ungranted), "nothing left with enforcement off");
        return Ok(());
    };
    ensure!(attempt.is_err(), "a process without its label reached the network");
    ensure!(
        !world.wire.packets()?.iter().any(attack::ungranted),
        "a process without its label sent something"
    );
    ensure!(monitor.faults(Site::LabelInsert) > lost_before, "the lost label was not counted");
    let fork = monitor.wait_for(Ring::Activity, "the fork", |r| {
        r.header.agent == agent && matches!(r.body, Body::Fork(_))
    })?;
    ensure!(matches!(fork.body, Body::Fork(f) if f.label_lost == 1), "the loss was not recorded: {fork:?}");
    monitor
        .wait_for(Ring::Verdicts, "the denial", |r| r.denies() && r.reason() == Some(Reason::LabelLost))?;
    Ok(())
}

/// The programs run for it too, and must not change a thing.
fn unlabelled(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let mut child = Child::spawn(&world.agents, |_| {
        call_out()?;
        Socket::udp4()?.send_to(b"x", 0, &Name::new(DENIED4, SINK))?;
        Socket::new(libc::AF_INET, libc::SOCK_RAW, 253)?.send_to(b"x", 0, &Name::new(DENIED4, 0))?;
        let listener = Socket::tcp4()?;
        listener.bind(&Name::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7060))?;
        listener.listen()
    })?;
    child.finish()??;
    for ring in [Ring::Verdicts, Ring::Activity] {
        let about_it: Vec<_> =
            monitor.drain(ring)?.into_iter().filter(|r| r.header.tgid == child.pid()).collect();
        ensure!(about_it.is_empty(), "something was recorded about it: {about_it:?}");
    }
    Ok(())
}
