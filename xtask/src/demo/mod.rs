//! `cargo xtask demo`: a small compromised agent, once without the monitor and once under it.
//!
//! What must stay true: nothing leaves this host (the attempts run in a network namespace made for them, where every
//! address is a stand-in on its loopback); the table shows what was observed; the exit code is 0 only when every
//! outcome was as claimed, and when every attempt works without the monitor, so that a denial means something.

mod compromised;
mod files;
mod stage;
mod table;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::setup::{self, Need};
use crate::{places, programs};

pub use compromised::run as compromised;

/// What `xtask` calls itself with to be the agent.
pub const COMPROMISED: &str = "compromised-agent";
/// Longest wait for the daemon, and for its events.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo; 0: every outcome was as claimed.
pub fn run() -> Result<i32> {
    ensure!(rustix_is_root(), "the demo loads eBPF programs: run it as root");
    setup::run(Need::Build)?;
    eprintln!("Building agent-monitor …");
    let binary = programs::product()?;

    let scratch = Scratch::make()?;
    let agent = std::env::current_exe()?.canonicalize()?;
    let home = files::plant(&scratch.0)?;
    let profile = files::profile(&home, &agent);
    // The daemon too: names are resolved in the network namespace that it is in.
    stage::enter()?;
    let _world = stage::World::start()?;
    let daemon = Daemon::start(&binary, &scratch, &profile)?;

    eprintln!("Running the agent without the monitor …");
    let free = attempts(Command::new(&agent).arg(COMPROMISED).env(files::HOME, &home))?;
    eprintln!("Running the same agent under profile {} …", files::PROFILE);
    let governed = attempts(
        Command::new(&binary)
            .args(["run", "--profile", files::PROFILE, "--allow-degraded", "--socket"])
            .arg(scratch.socket())
            .arg("--")
            .arg(&agent)
            .arg(COMPROMISED)
            .env(files::HOME, &home),
    )?;

    let events = daemon.events_of(&governed)?;
    let rows = table::rows(&table::Observed {
        free: &free,
        governed: &governed,
        events: &events,
        stand_ins: daemon.stand_ins,
        profile: &profile,
    });
    table::print(&rows, &daemon.missing);
    println!();
    println!("events   {} ({} lines), one of them:", scratch.events().display(), events.len());
    if let Some(event) = events.iter().find(|e| e["verdict"]["effect"] == "deny") {
        println!("  {event}");
    }
    println!("metrics  http://{}/metrics, among them:", daemon.metrics);
    for line in daemon
        .scrape()?
        .lines()
        .filter(|l| l.starts_with("agent_monitor_decisions_total") && !l.ends_with(" 0"))
    {
        println!("  {line}");
    }
    daemon.stop()?;
    let wrong = rows.iter().filter(|r| !r.as_claimed).count();
    println!();
    if wrong == 0 {
        println!("All {} outcomes were as claimed. The files stay in {}.", rows.len(), scratch.0.display());
        Ok(0)
    } else {
        println!(
            "{wrong} of {} outcomes were NOT as claimed (marked !). The files stay in {}.",
            rows.len(),
            scratch.0.display()
        );
        Ok(1)
    }
}

fn rustix_is_root() -> bool {
    // SAFETY: no arguments, no effect.
    unsafe { libc::geteuid() == 0 }
}

/// The temporary directory of one demo, and the cgroup that it governs.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        // Not `/tmp`, where the shipped profile lets agents write and run what they like.
        let path = Path::new("/var/tmp").join(format!("agent-monitor-demo-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
    fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
    fn events(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }
    fn log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }
    /// The shipped profiles, copied, and the demo's own: profiles are what operators edit.
    fn profiles(&self, own: &str) -> Result<PathBuf> {
        let to = self.0.join("profiles");
        std::fs::create_dir_all(&to)?;
        for name in ["base.yaml", "workbench.yaml", "coding-agent.yaml"] {
            let from = places::workspace().join("policies").join(name);
            std::fs::copy(&from, to.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        std::fs::write(to.join(format!("{}.yaml", files::PROFILE)), own)?;
        Ok(to)
    }
    /// A cgroup of the demo's own: nothing outside it is governed.
    fn cgroup() -> Result<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup2 "))
            .find_map(|line| line.split(' ').nth(4))
            .context(
                "no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified",
            )?;
        let path = Path::new(mount).join(format!("agent-monitor-demo-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(path)
    }
}

/// The daemon under demonstration.
struct Daemon {
    child: Child,
    cgroup: PathBuf,
    metrics: String,
    events: PathBuf,
    /// The kernel can't enforce all of the profile, so Landlock and seccomp hold the agent.
    stand_ins: bool,
    /// Mechanisms that do not work here, and what goes unseen without stand-ins.
    missing: Vec<(String, String)>,
}

impl Daemon {
    fn start(binary: &Path, scratch: &Scratch, profile: &str) -> Result<Self> {
        let cgroup = Scratch::cgroup()?;
        // A free port: the default may belong to a monitor that is installed here.
        let metrics = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string();
        let log = File::create(scratch.log())?;
        eprintln!("Starting the daemon (its log: {}) …", scratch.log().display());
        let child = Command::new(binary)
            .args(["daemon", "--allow-degraded", "--no-pins", "--metrics", &metrics, "--profiles"])
            .arg(scratch.profiles(profile)?)
            .arg("--cgroup")
            .arg(&cgroup)
            .arg("--socket")
            .arg(scratch.socket())
            .arg("--events")
            .arg(scratch.events())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the daemon did not start")?;
        let mut daemon = Daemon {
            child,
            cgroup,
            metrics,
            events: scratch.events(),
            stand_ins: false,
            missing: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = daemon.child.try_wait()? {
                let log = std::fs::read_to_string(scratch.log()).unwrap_or_default();
                bail!("the daemon ended ({status}):\n{log}");
            }
            let output = Command::new(binary)
                .args(["status", "--json", "--socket"])
                .arg(scratch.socket())
                .stderr(Stdio::null())
                .output()?;
            if output.status.success() {
                break serde_json::from_slice::<Value>(&output.stdout)
                    .context("`status --json` is no JSON")?;
            }
            ensure!(
                Instant::now() < deadline,
                "the daemon did not answer within {PATIENCE:?}; see {}",
                scratch.log().display()
            );
            std::thread::sleep(Duration::from_millis(100));
        };
        daemon.read_posture(&status);
        Ok(daemon)
    }

    fn read_posture(&mut self, status: &Value) {
        for m in status["posture"].as_array().into_iter().flatten() {
            let name = m["name"].as_str().unwrap_or_default().to_owned();
            if m["works"] != true {
                self.missing.push((name, m["blind"].as_str().unwrap_or_default().to_owned()));
            }
        }
        let of_demo = |profile: &&Value| profile["name"] == files::PROFILE;
        self.stand_ins = status["profiles"]
            .as_array()
            .and_then(|all| all.iter().find(of_demo))
            .is_some_and(|profile| profile["gaps"].as_array().is_some_and(|gaps| !gaps.is_empty()));
    }

    /// The events of the governed run, once those of its last attempt and its end have been written.
    fn events_of(&self, attempts: &[Attempted]) -> Result<Vec<Value>> {
        ensure!(!attempts.is_empty(), "the agent attempted nothing");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&self.events).unwrap_or_default();
            let events: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
            if events.iter().any(|e| e["type"] == "agent.ended") {
                return Ok(events);
            }
            ensure!(Instant::now() < deadline, "the agent's end did not reach {}", self.events.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.metrics).context("the metrics port does not answer")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn stop(mut self) -> Result<()> {
        // SAFETY: a signal to our own child, which was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon ended badly ({status})");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Also after an error: nothing of the demo goes on.
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove_cgroup(&self.cgroup);
    }
}

/// Removes a cgroup and those below it; what can't be removed is empty and harmless.
fn remove_cgroup(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

/// One attempt's outcome, as the agent saw it.
#[derive(Clone, Debug)]
pub struct Attempted {
    pub key: String,
    /// 0: it worked; 128 + n: killed by signal n; else errno.
    pub result: i32,
}

/// Runs an agent and collects the lines `key result` that it prints.
fn attempts(command: &mut Command) -> Result<Vec<Attempted>> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the agent did not start")?;
    let out = child.stdout.take().context("the agent has no output")?;
    let mut attempted = Vec::new();
    for line in BufReader::new(out).lines() {
        let line = line?;
        let (key, result) = line.split_once(' ').with_context(|| format!("the agent said {line:?}"))?;
        attempted.push(Attempted { key: key.to_owned(), result: result.parse()? });
    }
    let status = child.wait()?;
    ensure!(status.success(), "the agent ended badly ({status})");
    Ok(attempted)
}
