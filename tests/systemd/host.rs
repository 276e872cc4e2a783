//! This host: its systemd, the installed product, and what the two say.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use agent_monitor_tests::agent;
use agent_monitor_tests::talker::{Talker, wait};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What `agent-monitor install` makes.
pub const BINARY: &str = "/usr/local/bin/agent-monitor";
pub const UNIT: &str = "/etc/systemd/system/agent-monitor.service";
pub const PROFILES: &str = "/etc/agent-monitor/profiles.d";
pub const EVENTS: &str = "/var/log/agent-monitor/events.jsonl";

/// An address that [`PROFILE`] grants, and one that it denies; servers listen on both.
pub const GRANTED: &str = "127.0.0.1:18080";
pub const DENIED: &str = "127.0.0.7:18080";
/// Denied by [`PROFILE`] too, until a reload grants it.
pub const LATER: &str = "127.0.0.8:18080";

/// Claims a program in a directory that the service sees another one of, and units by their name: the service's own
/// name is among them.
pub const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
agents:
  - exe: /tmp/claimed
  - cgroup: \"/system.slice/agent-*.service\"
network:
  allow:
    - { address: 127.0.0.1, ports: [18080] }
  deny:
    - { address: 127.0.0.7, ports: [18080] }
files:
  read: ['/**']
  write: ['/**']
  deny: ['/tmp/secret/**']
exec:
  allow: ['/**']
syscalls:
  kill: [ptrace]
";

/// Runs a program to its end.
pub fn run(program: &str, words: &[&str]) -> Result<Output> {
    Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} {}", words.join(" ")))
}

/// The same; its output, where it succeeds.
pub fn done(program: &str, words: &[&str]) -> Result<String> {
    let output = run(program, words)?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {}: {}\n{said}{complained}", words.join(" "), output.status);
    Ok(said.into_owned())
}

/// Runs `systemctl VERB agent-monitor`.
pub fn service(verb: &str) -> Result<()> {
    done("systemctl", &[verb, "agent-monitor.service"]).map(drop)
}

/// A property of the unit, as `systemctl show` says it.
pub fn property(name: &str) -> Result<String> {
    let value = done("systemctl", &["show", "--value", "--property", name, "agent-monitor.service"])?;
    Ok(value.trim().to_owned())
}

pub fn status() -> Result<Value> {
    Ok(serde_json::from_str(&done(BINARY, &["status", "--json"])?)?)
}

/// What `status` says of the tests' profile.
pub fn profile() -> Result<Value> {
    let status = status()?;
    let profiles = status["profiles"].as_array().context("no profiles")?;
    profiles
        .iter()
        .find(|profile| profile["name"] == "tester")
        .cloned()
        .context("the profile is not in force")
}

/// Waits until the daemon answers and knows `count` agents; they.
pub fn agents(count: usize) -> Result<Vec<Value>> {
    wait(&format!("{count} agents"), || {
        let agents = status().ok().and_then(|status| status["agents"].as_array().cloned());
        Ok(agents.filter(|agents| agents.len() == count))
    })
}

pub fn write_profile(text: &str) -> Result<()> {
    Ok(fs::write(format!("{PROFILES}/tester.yaml"), text)?)
}

/// This program as an agent, its verb not yet said.
pub fn myself() -> Result<String> {
    Ok(std::env::current_exe()?.to_str().context("this program's path")?.to_owned())
}

/// Runs this program as an agent by `agent-monitor run`, with more flags for that.
pub fn agent(flags: &[&str], words: &[&str]) -> Result<Output> {
    let me = myself()?;
    let start = [&["run", "--profile", "tester"], flags, &["--", &me, agent::ARGUMENT], words].concat();
    run(BINARY, &start)
}

/// Runs such an agent to its end; the first line it said.
pub fn said(flags: &[&str], words: &[&str]) -> Result<String> {
    let output = agent(flags, words)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Starts an agent that goes on.
pub fn agent_in_background(words: &[&str]) -> Result<Talker> {
    let mut command = Command::new(BINARY);
    command.args(["run", "--profile", "tester", "--"]).arg(std::env::current_exe()?);
    command.arg(agent::ARGUMENT).args(words);
    Talker::spawn(command)
}

/// Tells a waiting agent to connect; what came of it.
pub fn connects(talker: &mut Talker) -> Result<String> {
    talker.tell("now")?;
    talker.line()
}

pub fn events() -> Result<Vec<Value>> {
    let text = fs::read_to_string(EVENTS).context(EVENTS)?;
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Waits for an event in the service's log directory.
pub fn event(what: &str, matches: impl Fn(&Value) -> bool) -> Result<Value> {
    wait(what, || Ok(events()?.into_iter().find(|event| matches(event))))
}

/// The value of a series, by its whole name with labels.
pub fn metric(series: &str) -> Result<f64> {
    let mut stream = TcpStream::connect("127.0.0.1:9761").context("the metrics' address")?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let value = reply.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.with_context(|| format!("no series {series}"))?.parse().context("no number")
}

/// Everything that the service has logged, without times.
pub fn journal() -> Result<String> {
    done("journalctl", &["--sync"])?;
    done("journalctl", &["--unit", "agent-monitor.service", "--output", "cat", "--no-pager"])
}

/// Its end, where there is one.
pub fn journal_tail() -> String {
    let words =
        ["--unit", "agent-monitor.service", "--no-pager", "--lines", "40", "--output", "short-monotonic"];
    run("journalctl", &words)
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}
