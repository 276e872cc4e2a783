//! The daemon under load: verdict events a second without loss, its memory, and its processor time when idle.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Child;
use std::time::{Duration, Instant};

use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Result, ensure};

use crate::daemon::{Daemon, PATIENCE, product, value};
use crate::report::Report;

/// First argument of a flooder.
pub const FLOODER: &str = "--flooder";

const RATE: u64 = 100_000;
const FLOODERS: u64 = 2;
const SECONDS: u64 = 10;
const IDLE: Duration = Duration::from_secs(20);

const PROFILE: &str = "version: 1
name: flood
mode: enforce
network:
  allow:
    - { cidr: 10.0.0.0/8, ports: [443] }
";

pub fn run(report: &mut Report) -> Result<()> {
    let Some(binary) = product("events") else { return Ok(()) };
    eprintln!("events: {RATE} a second for {SECONDS} s");
    let cgroup = Cgroup::create("events")?;
    let daemon = Daemon::start(&binary, cgroup.path(), "flood", PROFILE)?;

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
    let flooders: Vec<Child> = (0..FLOODERS).map(|_| daemon.run(&[FLOODER])).collect::<Result<_>>()?;
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
