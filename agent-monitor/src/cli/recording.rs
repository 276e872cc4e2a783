//! The monitor of one's own that `learn` records with: it denies nothing and tells everything.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use super::learn::LearnArgs;
use super::profile;
use crate::control::client::ask;
use crate::control::protocol::{Labelled, Op, Status};
use crate::exit::{Exit, Failed};

/// Denies nothing, and has every section: what nothing grants is told each time, with the program. A name that nobody
/// has makes the monitor the agent's resolver, so that names are told too.
const LEARNING: &str = "version: 1\nname: learning\nmode: learn\nnetwork: { allow: [{ host: learning.invalid, ports: [443] }] }\nfiles: {}\nexec: {}\nunix: {}\nprivileges: {}\n";

/// What was recorded.
pub struct Recorded {
    pub events: PathBuf,
    /// Files and programs too.
    pub files_seen: bool,
    /// What the command ended with; `None`: there was no command.
    pub status: Option<i32>,
}

/// How long a monitor may take to start and to end: verifiers walk every program.
const PATIENCE: Duration = Duration::from_secs(120);

/// A monitor of our own, ended with this value.
struct Monitor {
    child: Child,
    socket: PathBuf,
}

impl Monitor {
    fn start(args: &LearnArgs, scratch: &Path) -> anyhow::Result<(Self, Status)> {
        let directory = scratch.join("profiles.d");
        fs::create_dir(&directory)?;
        fs::write(directory.join("learning.yaml"), LEARNING)?;
        let socket = scratch.join("control.sock");
        let log = fs::File::create(scratch.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("daemon").arg("--profiles").arg(&directory).arg("--bases").arg(&directory);
        command.arg("--socket").arg(&socket).arg("--events").arg(scratch.join("events.jsonl"));
        command.args(["--no-metrics", "--no-pins", "--events-rotate", "0", "--log", "warn"]);
        if let Some(cgroup) = &args.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        for server in &args.name_server {
            command.args(["--name-server", server]);
        }
        // Else the monitor of the host would be spoken to.
        command.env_remove("AGENT_MONITOR_SOCKET").env_remove("AGENT_MONITOR_PROFILES");
        command.env_remove("AGENT_MONITOR_PINS").env_remove("AGENT_MONITOR_EVENTS");
        // Ctrl-C ends what is watched; the monitor ends when it is told to, and writes what is on its way first.
        command.process_group(0);
        // But it does not outlive us, however we end.
        // SAFETY: one system call between fork and exec, without memory.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut monitor = Monitor { child, socket };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = profile::daemon(&monitor.socket) {
                return Ok((monitor, status));
            }
            let ended = monitor.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let told = fs::read_to_string(scratch.join("log")).unwrap_or_default();
                let exit = match ended.and_then(|status| status.code()) {
                    Some(77) => Exit::NotPermitted,
                    Some(69) => Exit::CannotEnforce,
                    _ => Exit::Failure,
                };
                return Err(Failed::error(exit, format!("the monitor for learning does not start\n{told}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it; what was on its way is written first.
    fn end(&mut self) {
        if ask::<serde_json::Value>(&self.socket, Op::Stop).is_err() {
            // It is ours, and gone or going.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// Watches the command that `args` name until it has ended, or the process until then.
///
/// # Errors
/// A monitor that does not start, a process that can't be watched.
pub fn record(args: &LearnArgs, scratch: &Path) -> anyhow::Result<Recorded> {
    eprintln!("agent-monitor: starting a monitor that denies nothing and records everything");
    let (mut monitor, status) = Monitor::start(args, scratch)?;
    let files_seen =
        status.posture.iter().any(|mechanism| mechanism.name == "lsm/file_open" && mechanism.works);
    let status = match args.attach {
        Some(pid) => {
            watch(&monitor, pid, args.time)?;
            None
        }
        None => Some(command(args, &monitor)?),
    };
    monitor.end();
    Ok(Recorded { events: scratch.join("events.jsonl"), files_seen, status })
}

/// Runs the command as an agent; its exit code.
fn command(args: &LearnArgs, monitor: &Monitor) -> anyhow::Result<i32> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--profile", "learning", "--socket"]).arg(&monitor.socket);
    if let Some(user) = &args.user {
        command.args(["--user", user]);
    }
    let status = command.arg("--").args(&args.command).status().context("the command")?;
    Ok(status.code().unwrap_or(128))
}

/// How often it is looked whether the process lives.
const LOOK: Duration = Duration::from_millis(200);

/// Makes an agent of a process, and returns when its last process has ended, the time is over or somebody says so.
fn watch(monitor: &Monitor, pid: u32, time: Option<Duration>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Caught before anybody is told that they may be sent.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let op = Op::Attach { pid, profile: "learning".to_owned() };
        let agent: Labelled = ask(&monitor.socket, op).map_err(|error| error.into_exit())?;
        eprintln!("agent-monitor: learning from process {pid} until it ends; Ctrl-C ends it earlier");
        let lives = || {
            profile::daemon(&monitor.socket)
                .is_some_and(|status| status.agents.iter().any(|one| one.id == agent.agent))
        };
        let over = tokio::time::sleep(time.unwrap_or(Duration::MAX));
        tokio::pin!(over);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = &mut over => break,
                _ = look.tick() => if !lives() { break },
            }
        }
        anyhow::Ok(())
    })
}
