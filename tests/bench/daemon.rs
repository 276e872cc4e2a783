//! The product's daemon as a process of its own, for figures of the whole.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long the daemon may take for what it is asked.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to start: verifiers walk every program, under emulation for a minute and more.
const START: Duration = Duration::from_secs(300);

/// The product that `cargo xtask bench` or the guest names; else `part` is left out, and says so.
pub fn product(part: &str) -> Option<PathBuf> {
    let binary = std::env::var_os("AGENT_MONITOR_BIN").map(PathBuf::from);
    if binary.is_none() {
        eprintln!("{part}: AGENT_MONITOR_BIN names no daemon; `cargo xtask bench` sets it");
    }
    binary
}

/// One series of a scrape; 0 when it is not there.
pub fn value(text: &str, series: &str) -> f64 {
    text.lines().find_map(|l| l.strip_prefix(series)).and_then(|v| v.trim().parse().ok()).unwrap_or(0.0)
}

/// A daemon with one profile in force.
pub struct Daemon {
    child: Child,
    binary: PathBuf,
    pub directory: PathBuf,
    profile: &'static str,
    metrics: String,
}

impl Daemon {
    /// Starts it with the profile `name`, governing `cgroup`.
    pub fn start(binary: &Path, cgroup: &Path, name: &'static str, profile: &str) -> Result<Self> {
        Self::start_with(binary, cgroup, name, profile, &[])
    }

    /// The same with more flags.
    pub fn start_with(
        binary: &Path,
        cgroup: &Path,
        name: &'static str,
        profile: &str,
        more: &[&str],
    ) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("agent-monitor-bench-{}", std::process::id()));
        fs::create_dir_all(directory.join("profiles"))?;
        fs::write(directory.join(format!("profiles/{name}.yaml")), profile)?;
        let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
        let child = Command::new(binary)
            .args(["daemon", "--allow-degraded", "--no-pins", "--metrics", &metrics, "--profiles"])
            .arg(directory.join("profiles"))
            .arg("--cgroup")
            .arg(cgroup)
            .arg("--socket")
            .arg(directory.join("control.sock"))
            .arg("--events")
            .arg(directory.join("events.jsonl"))
            .args(more)
            .stderr(File::create(directory.join("log"))?)
            .spawn()
            .context("the daemon did not start")?;
        let daemon = Daemon { child, binary: binary.to_owned(), directory, profile: name, metrics };
        let deadline = Instant::now() + START;
        while daemon.scrape().is_err() {
            if Instant::now() > deadline {
                bail!("the daemon does not answer: {}", fs::read_to_string(daemon.directory.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    /// Runs this program again, with these arguments, as an agent.
    pub fn run(&self, arguments: &[&str]) -> Result<Child> {
        self.command(arguments)?.stdin(Stdio::null()).spawn().context("an agent did not start")
    }

    /// The command line that does so.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--profile", self.profile, "--socket"])
            .arg(self.directory.join("control.sock"))
            .arg("--")
            .arg(std::env::current_exe()?)
            .args(arguments);
        Ok(command)
    }

    /// KiB that the kernel holds for the map with so many entries, as it says of the daemon's descriptor.
    pub fn map_kib(&self, entries: usize) -> Result<f64> {
        let wanted = format!("max_entries:\t{entries}");
        for descriptor in fs::read_dir(format!("/proc/{}/fdinfo", self.child.id()))?.flatten() {
            let text = fs::read_to_string(descriptor.path()).unwrap_or_default();
            if text.lines().any(|line| line == wanted)
                && let Some(bytes) = text.lines().find_map(|line| line.strip_prefix("memlock:\t"))
            {
                return Ok(bytes.parse::<f64>()? / 1_024.0);
            }
        }
        bail!("the daemon holds no map with {entries} entries")
    }

    /// The metrics as they are now.
    pub fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Processor time so far, of all its threads.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has no command")?;
        let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
        let ticks = field(11).zip(field(12)).map(|(u, s)| u + s).context("/proc/PID/stat is short")?;
        // SAFETY: a number in, a number out.
        let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        Ok(Duration::from_secs_f64(ticks as f64 / hertz))
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: a signal to our own child, which was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        // It drains and ends; what it leaves is in a temporary directory.
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
