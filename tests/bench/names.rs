//! Names: what asking by the resolver costs against asking the server, how many questions it answers, what it keeps.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_monitor_tests::cgroup::Cgroup;
use agent_monitor_tests::zone::{Says, Zone};
use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, PATIENCE, product, value};
use crate::report::Report;

/// First argument of an asker; then the server, the names, how many questions of how many threads.
pub const ASKER: &str = "--asker";

/// Questions of which the median is taken.
const QUESTIONS: usize = 5_000;
/// Questions of which the rate is taken, by two threads.
const MANY: usize = 200_000;
/// Addresses that are alive at one time.
const ADDRESSES: usize = 100_000;
/// A server that agents ask; nobody is there.
const ELSEWHERE: &str = "192.0.2.53:53";

const PROFILE: &str = "version: 1
name: names
mode: enforce
network:
  allow:
    - { host: '*.granted.test', ports: [443] }
";

pub fn run(report: &mut Report) -> Result<()> {
    let Some(binary) = product("names") else { return Ok(()) };
    eprintln!("names: {QUESTIONS} questions a way, {MANY} for the rate, {ADDRESSES} addresses");
    let zone = Zone::serve(Ipv4Addr::LOCALHOST.into())?;
    for domain in ["n*.fresh.granted.test", "n*.many.granted.test", "n*.direct.granted.test"] {
        zone.set(domain, 3_600, vec![Says::Address("2001:db8::".parse()?)]);
    }
    let cgroup = Cgroup::create("names")?;
    let server = zone.address.to_string();
    let daemon = Daemon::start_with(&binary, cgroup.path(), "names", PROFILE, &["--name-server", &server])?;
    let before = daemon.resident()?;

    // In turns, because the machine's speed drifts.
    let (mut direct, mut granted, mut denied) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 {
        let ask = |server: &str, domain: &str, agent: bool| {
            asked(&daemon, agent, server, &format!("{round}.{domain}"), QUESTIONS / 5, 1)
        };
        zone.set(
            &format!("n*.{round}.direct.granted.test"),
            3_600,
            vec![Says::Address("2001:db8::".parse()?)],
        );
        zone.set(
            &format!("n*.{round}.fresh.granted.test"),
            3_600,
            vec![Says::Address("2001:db8::".parse()?)],
        );
        direct.push(ask(&server, "direct.granted.test", false)?.median);
        granted.push(ask(ELSEWHERE, "fresh.granted.test", true)?.median);
        denied.push(ask(ELSEWHERE, "denied.test", true)?.median);
    }
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (direct, granted, denied) = (middle(direct), middle(granted), middle(denied));
    report.at_most(
        "granted name, added to asking the server",
        granted - direct,
        " us",
        150.0,
        format!("{granted:.0} us over {direct:.0} us, medians; each name is new"),
    );
    report.at_most("ungranted name, until NXDOMAIN", denied, " us", 100.0, "median".to_owned());

    zone.set("n*.known.granted.test", 3_600, vec![Says::Address("2001:db8::".parse()?)]);
    asked(&daemon, true, ELSEWHERE, "known.granted.test", 1_000, 1)?;
    let known = asked(&daemon, true, ELSEWHERE, "known.granted.test", MANY, 2)?;
    report.at_most(
        "20 000 look-ups a second, time for them",
        20_000.0 / known.rate,
        " s",
        1.0,
        format!("{:.0} a second, answers known, two threads ask", known.rate),
    );

    asked(&daemon, true, ELSEWHERE, "many.granted.test", ADDRESSES, 2)?;
    let deadline = Instant::now() + PATIENCE;
    let live = loop {
        let live = value(&daemon.scrape()?, "agent_monitor_named_addresses");
        if live >= ADDRESSES as f64 || Instant::now() > deadline {
            break live;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let (own, kernel) = (daemon.resident()? - before, daemon.map_kib(MAX_NAMED)?);
    report.at_most(
        "memory of 100 000 live addresses",
        (own + kernel) * 1.024 / 1e3,
        " MB",
        32.0,
        format!(
            "{live:.0} live; daemon {:.1} MB more, all its caches too, kernel map {:.1} MB",
            own * 1.024 / 1e3,
            kernel * 1.024 / 1e3
        ),
    );
    Ok(())
}

/// Entries of the kernel's map of named addresses, which tells it from the others.
const MAX_NAMED: usize = agent_monitor_common::name::MAX_NAMED;

/// What an asker measured.
struct Asked {
    /// Microseconds.
    median: f64,
    /// Questions a second.
    rate: f64,
}

fn asked(
    daemon: &Daemon,
    agent: bool,
    server: &str,
    domain: &str,
    count: usize,
    threads: usize,
) -> Result<Asked> {
    let (count, threads) = (count.to_string(), threads.to_string());
    let words = [ASKER, server, domain, &count, &threads];
    let mut command = if agent {
        daemon.command(&words)?
    } else {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words);
        command
    };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut text = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut text)?;
    ensure!(child.wait()?.success(), "an asker failed: {text}");
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(median)), Some(Ok(rate))) => Ok(Asked { median, rate }),
        _ => anyhow::bail!("an asker said {text:?}"),
    }
}

/// The asker's side: names `n0.DOMAIN` and so on; of a count beyond 65 536 for a known domain they come again.
pub fn ask(words: &[String]) -> Result<()> {
    let [server, domain, count, threads] = words else { anyhow::bail!("{words:?}") };
    let (server, count, threads): (SocketAddr, usize, usize) =
        (server.parse()?, count.parse()?, threads.parse()?);
    let turn = if domain.starts_with("known.") { 1_000 } else { usize::MAX };
    let began = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let domain = domain.clone();
            std::thread::spawn(move || -> Result<Vec<f64>> {
                let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.connect(server)?;
                let mut answer = [0; 1_500];
                let mut times = Vec::with_capacity(count / threads);
                for n in (thread..count).step_by(threads) {
                    let question = question(n as u16, &format!("n{}.{domain}", n % turn));
                    let began = Instant::now();
                    socket.send(&question)?;
                    socket.recv(&mut answer)?;
                    times.push(began.elapsed().as_secs_f64() * 1e6);
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::with_capacity(count);
    for worker in workers {
        times.extend(worker.join().map_err(|_| anyhow::anyhow!("an asking thread failed"))??);
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    println!("{} {rate}", times[times.len() / 2]);
    Ok(())
}

/// A question for an IPv6 address.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 28, 0, 1]);
    bytes
}
