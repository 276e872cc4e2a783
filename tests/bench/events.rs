//! The daemon under load: verdict events a second without loss, its memory, and its processor time when idle.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Context, Result, bail, ensure};

use crate::report::Report;

/// First argument of a flooder.
pub const FLOODER: &str = "--flooder";

const RATE: u64 = 100_000;
const FLOODERS: u64 = 2;
const SECONDS: u64 = 10;
const IDLE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

const PROFILE: &str = "version: 1
name: flood
mode: enforce
network:
  allow:
    - { cidr: 10.0.0.0/8, ports: [443] }
";

pub fn run(report: &mut Report) -> Result<()> {
    let Some(binary) = std::env::var_os("AGENT_MONITOR_BIN").map(PathBuf::from) else {
        eprintln!("events: AGENT_MONITOR_BIN names no daemon; `cargo xtask bench` sets it");
        return Ok(());
    };
    eprintln!("events: {RATE} a second for {SECONDS} s");
    let cgroup = Cgroup::create("events")?;
    let daemon = Daemon::start(&binary, cgroup.path())?;

    let before = daemon.cpu()?;
    std::thread::sleep(IDLE);
    let idle = (daemon.cpu()? - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    report.at_most(
        "daemon, idle, share of one processor",
        idle,
        " %",
        0.1,
        format!("over {} s", IDLE.as_secs()),
    );

    let before = daemon.cpu()?;
    let start = Instant::now();
    let flooders: Vec<Child> = (0..FLOODERS).map(|_| daemon.flooder()).collect::<Result<_>>()?;
    for mut flooder in flooders {
        ensure!(flooder.wait()?.success(), "a flooder failed");
    }
    let took = start.elapsed().as_secs_f64();
    let offered = RATE * SECONDS;
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = daemon.scrape()?;
        let seen = value(&text, "agent_monitor_events_total{type=\"network\"}")
            + value(&text, "agent_monitor_ring_lost_total{ring=\"verdicts\"}");
        if seen >= offered as f64 || Instant::now() > deadline {
            break text;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let made = value(&text, "agent_monitor_events_total{type=\"network\"}");
    // What was neither read nor counted as lost is lost too.
    let lost = (offered as f64 - made).max(value(&text, "agent_monitor_ring_lost_total{ring=\"verdicts\"}"))
        + value(&text, "agent_monitor_sink_dropped_total{sink=\"file\"}");
    let cpu = (daemon.cpu()? - before).as_secs_f64();
    let rate = offered as f64 / took;
    report.info("verdict events offered, a second", rate, "", format!("{made:.0} consumed"));
    report.at_most(
        "verdict events lost, per million",
        lost / offered as f64 * 1e6,
        "",
        0.0,
        format!("{lost:.0} lost"),
    );
    report.info("daemon, processor time per event", cpu / made * 1e6, " us", String::new());
    report.at_most(
        "daemon, resident memory after it",
        daemon.resident()? / 1024.0,
        " MB",
        40.0,
        String::new(),
    );
    Ok(())
}

/// One series of a scrape; 0 when it is not there.
fn value(text: &str, series: &str) -> f64 {
    text.lines().find_map(|l| l.strip_prefix(series)).and_then(|v| v.trim().parse().ok()).unwrap_or(0.0)
}

struct Daemon {
    child: Child,
    binary: PathBuf,
    directory: PathBuf,
    metrics: String,
}

impl Daemon {
    fn start(binary: &Path, cgroup: &Path) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("agent-monitor-bench-{}", std::process::id()));
        fs::create_dir_all(directory.join("profiles"))?;
        fs::write(directory.join("profiles/flood.yaml"), PROFILE)?;
        let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
        let child = Command::new(binary)
            .args(["daemon", "--allow-degraded", "--metrics", &metrics, "--profiles"])
            .arg(directory.join("profiles"))
            .arg("--cgroup")
            .arg(cgroup)
            .arg("--socket")
            .arg(directory.join("control.sock"))
            .arg("--events")
            .arg(directory.join("events.jsonl"))
            .stderr(File::create(directory.join("log"))?)
            .spawn()
            .context("the daemon did not start")?;
        let daemon = Daemon { child, binary: binary.to_owned(), directory, metrics };
        let deadline = Instant::now() + PATIENCE;
        while daemon.scrape().is_err() {
            if Instant::now() > deadline {
                bail!("the daemon does not answer: {}", fs::read_to_string(daemon.directory.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn flooder(&self) -> Result<Child> {
        Command::new(&self.binary)
            .args(["run", "--profile", "flood", "--socket"])
            .arg(self.directory.join("control.sock"))
            .arg("--")
            .arg(std::env::current_exe()?)
            .arg(FLOODER)
            .stdin(Stdio::null())
            .spawn()
            .context("a flooder did not start")
    }

    fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Processor time so far, of all its threads.
    fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has no command")?;
        let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
        let ticks = field(11).zip(field(12)).map(|(u, s)| u + s).context("/proc/PID/stat is short")?;
        // SAFETY: a number in, a number out.
        let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        Ok(Duration::from_secs_f64(ticks as f64 / hertz))
    }

    /// Resident memory in KiB.
    fn resident(&self) -> Result<f64> {
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

/// The flooder's side: denied datagrams at an even rate, in millisecond steps.
pub fn flood() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let to = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 53));
    let mine = RATE / FLOODERS;
    let start = Instant::now();
    let mut sent = 0;
    while sent < mine * SECONDS {
        let due = (start.elapsed().as_micros() as u64 * mine / 1_000_000).min(mine * SECONDS);
        while sent < due {
            ensure!(socket.send_to(b"x", to).is_err(), "a datagram left");
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
