//! The guest as a developer's machine under the monitor: its stage, the attacker's servers, the daemon with the shipped
//! profiles, and commands run with and without a label.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use agent_monitor_tests::talker::wait;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub const BINARY: &str = "/usr/local/bin/agent-monitor";
const PROFILES: &str = "/etc/agent-monitor/profiles.d";
/// Where bases are found that govern nobody themselves: an emulated machine compiles each profile for a while.
const BASES: &str = "/usr/share/agent-monitor/policies";
const EVENTS: &str = "/var/log/agent-monitor/events.jsonl";
/// Where the attacker's servers put what they get, a file each.
pub const ARRIVED: &str = "/run/arrived";
/// Output of the last attempt.
pub const OUT: &str = "/run/out";
/// The profile whose agents are attacked, and beside it one that holds more than the shipped one does.
pub const SHIPPED: &str = "guest";
const STRICT: &str = "guest-strict";
/// What governs the agents: the name of one of `profiles/`.
static PROFILE: OnceLock<String> = OnceLock::new();
pub const HOME: &str = "/home/dev";
pub const WORKSPACE: &str = "/home/dev/work";
const DEV: u32 = 1000;
/// Seconds that an attack may take, and a session of a real agent, on an emulated machine.
const ATTEMPT: u64 = 150;
const SESSION: u64 = 1500;

/// The attacker's, and the cloud's metadata services.
const TCP: &[&str] = &[
    "203.0.113.10:22",
    "203.0.113.10:80",
    "203.0.113.10:443",
    "169.254.169.254:80",
    "169.254.170.2:80",
    "[fd00:ec2::254]:80",
    "127.0.0.1:11434",
    "127.0.0.1:2375",
];
const UDP: &[&str] = &["203.0.113.53:53", "203.0.113.10:443"];
/// Helpers with more rights than the agent, at the paths where they really are.
const SOCKETS: &[&str] = &[
    "/run/docker.sock",
    "/run/dbus/system_bus_socket",
    "/run/user/1000/bus",
    "/run/user/1000/systemd/private",
    "/run/agents/ssh-XXXX/agent.1",
    "/run/tmux-1000/default",
];

/// The daemon, and an agent that does nothing and lives as long: with the last agent goes a tracepoint of every system
/// call, with the next it comes back, and each time the kernel rewrites its own code, which an emulated second processor
/// may be running (a panic by `int3`).
static DAEMON: Mutex<Option<(Child, Child)>> = Mutex::new(None);

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Dev,
    Root,
    /// The same user as `Dev`, under the strict profile.
    StrictDev,
}

/// Makes all of it, with `profile` in force. Once.
pub fn set_up(profile: &str) -> Result<()> {
    let _ = PROFILE.set(profile.to_owned());
    stage("make")?;
    shell(
        "for address in 203.0.113.10/32 203.0.113.53/32 169.254.169.254/32 169.254.170.2/32; do
             ip address add $address dev lo || exit
         done
         ip -6 address add fd00:ec2::254/128 dev lo nodad
         mkdir -p /run/user/1000/systemd /run/dbus /run/agents/ssh-XXXX /run/tmux-1000
         chown -R 1000:1000 /run/user/1000 /run/agents /run/tmux-1000
         rm -rf /var/run && ln -s /run /var/run
         # The twins need a host without the settings that would stop them anyway.
         sysctl -qe kernel.yama.ptrace_scope=0 fs.protected_hardlinks=0 net.ipv4.ping_group_range='0 2147483647' || true",
    )?;
    fs::create_dir_all(ARRIVED)?;
    for address in TCP {
        serve_tcp(address)?;
    }
    for address in UDP {
        serve_udp(address)?;
    }
    for path in SOCKETS {
        serve_unix(path)?;
    }
    for directory in [PROFILES, BASES, "/var/log/agent-monitor", "/usr/local/bin"] {
        fs::create_dir_all(directory)?;
    }
    fs::copy(std::env::var("AGENT_MONITOR_BIN").context("AGENT_MONITOR_BIN")?, BINARY)?;
    for entry in fs::read_dir(std::env::var("AGENT_MONITOR_POLICIES").context("AGENT_MONITOR_POLICIES")?)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let is = |name: &str| entry.file_name() == *format!("{name}.yaml");
            let in_force = is(profile) || profile == SHIPPED && is(STRICT);
            let directory = if in_force { PROFILES } else { BASES };
            fs::copy(entry.path(), Path::new(directory).join(entry.file_name()))?;
        }
    }
    start()
}

/// Starts the daemon where none runs, and waits until it answers.
pub fn start() -> Result<()> {
    let mut daemon = DAEMON.lock().map_err(|_| anyhow::anyhow!("an earlier start failed"))?;
    if let Some((child, idle)) = daemon.as_mut() {
        if child.try_wait()?.is_none() {
            return Ok(());
        }
        idle.kill()?;
        idle.wait()?;
    }
    let log = fs::OpenOptions::new().create(true).append(true).open("/var/log/agent-monitor/log")?;
    // No `--allow-degraded`: the shipped profiles must be enforced whole.
    let mut child =
        Command::new(BINARY).arg("daemon").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    // An emulated machine compiles profiles for a while.
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        if Command::new(BINARY).args(["status", "--json"]).output()?.status.success() {
            break;
        }
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended with {status}:\n{}", log_tail());
        }
        ensure!(Instant::now() < deadline, "the daemon is not ready:\n{}", log_tail());
        thread::sleep(Duration::from_millis(100));
    }
    let idle = Command::new(BINARY)
        .args(["run", "--profile", profile(), "--", "sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()?;
    *daemon = Some((child, idle));
    Ok(())
}

fn profile() -> &'static str {
    PROFILE.get().map_or("", String::as_str)
}

/// Ends the daemon and takes what it pinned away: what runs afterwards runs on a host without a monitor.
pub fn without_monitor() -> Result<()> {
    let mut daemon = DAEMON.lock().map_err(|_| anyhow::anyhow!("an earlier start failed"))?;
    if let Some((mut child, mut idle)) = daemon.take() {
        for process in [&mut idle, &mut child] {
            process.kill()?;
            process.wait()?;
        }
    }
    shell(&format!("{BINARY} daemon --detach"))?;
    ensure!(!holds(&format!("{BINARY} status"))?, "the monitor still answers");
    Ok(())
}

pub fn log_tail() -> String {
    let log = fs::read_to_string("/var/log/agent-monitor/log").unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn stage(verb: &str) -> Result<()> {
    let output = Command::new("bash")
        .args(["-c", include_str!("stage.sh"), "stage", verb])
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "the stage: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Everything as it was before the first attempt.
pub fn reset() -> Result<()> {
    start()?;
    stage("again")?;
    for entry in fs::read_dir(ARRIVED)? {
        fs::remove_file(entry?.path())?;
    }
    let _ = fs::remove_file(OUT);
    Ok(())
}

/// Runs a script as root, outside of any agent; what it said.
pub fn shell(script: &str) -> Result<String> {
    let output = Command::new("bash").args(["-c", script]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {}{said}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// Whether a script of root's, outside of any agent, says yes.
pub fn holds(script: &str) -> Result<bool> {
    let mut command = Command::new("bash");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status()?.success())
}

fn attempt(mut command: Command, seconds: u64, script: &str) -> Result<Output> {
    let all = format!("set -u; exec 2>&1; {script}");
    command
        .args(["timeout", "--kill-after=5", &seconds.to_string(), "bash", "-c", &all])
        .current_dir(WORKSPACE)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", HOME)
        .env("USER", "dev")
        .env("LOGNAME", "dev")
        .env("XDG_RUNTIME_DIR", "/run/user/1000")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1000/bus")
        .env("SSH_AUTH_SOCK", "/run/agents/ssh-XXXX/agent.1");
    Ok(command.output()?)
}

/// Runs a script as an agent, in the workspace.
pub fn as_agent(who: Who, script: &str) -> Result<Output> {
    kept(attempt(governed(who), ATTEMPT, script)?)
}

/// Runs the same without a label.
pub fn as_nobody_special(who: Who, script: &str) -> Result<Output> {
    kept(attempt(ungoverned(who), ATTEMPT, script)?)
}

/// Runs a script that takes long as the developer, governed or not. What it says is not what an attack says.
pub fn session(under_the_monitor: bool, script: &str) -> Result<Output> {
    let command = if under_the_monitor { governed(Who::Dev) } else { ungoverned(Who::Dev) };
    attempt(command, SESSION, script)
}

fn kept(output: Output) -> Result<Output> {
    fs::write(OUT, &output.stdout)?;
    Ok(output)
}

fn governed(who: Who) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["run", "--profile", if who == Who::StrictDev { STRICT } else { profile() }]);
    if who != Who::Root {
        command.args(["--user", "dev"]);
    }
    command.arg("--");
    command
}

fn ungoverned(who: Who) -> Command {
    let mut command = Command::new("env");
    if who != Who::Root {
        command.uid(DEV).gid(DEV);
    }
    command
}

/// Where the last whole line of the event file ends now.
pub fn now() -> usize {
    let text = fs::read(EVENTS).unwrap_or_default();
    text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)
}

/// The lines of the event file since then.
pub fn each_line(since: usize, each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let text = fs::read(EVENTS).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(since..).unwrap_or_default());
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().try_for_each(each)
}

/// The verdicts that denied or killed, told since then.
pub fn denials(since: usize) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    each_line(since, |line| {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if matches!(event["verdict"]["effect"].as_str(), Some("deny" | "kill")) {
            found.push(event);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Waits until everything that was decided before this call is in the event file: a denial of its own comes last.
pub fn settle() -> Result<usize> {
    let since = now();
    attempt(governed(Who::Root), ATTEMPT, "exec 3<>/dev/tcp/203.0.113.10/1")?;
    wait("the last word", || {
        Ok(denials(since)?.iter().any(|event| event["network"]["port"] == 1).then_some(()))
    })?;
    Ok(now())
}

/// One line for each kind of denial.
pub fn summary(denials: &[Value]) -> String {
    let lines: BTreeSet<String> = denials
        .iter()
        .map(|event| {
            let what = ["file", "network", "lookup", "socket", "syscall", "unix", "privilege"]
                .iter()
                .find_map(|key| event.get(key).map(|value| format!("{key} {value}")));
            let verdict = &event["verdict"];
            format!(
                "{} {} {} {} {} by {}",
                verdict["mechanism"],
                verdict["errno"],
                verdict["reason"],
                verdict["rule"],
                what.unwrap_or_default(),
                event["process"]["exe"]
            )
        })
        .collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn record(name: &str, bytes: &[u8]) {
    let file = Path::new(ARRIVED).join(name.replace('/', "_"));
    if let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(file) {
        let _ = file.write_all(bytes);
    }
}

fn answer(mut stream: impl Read + Write, name: &str) {
    record(name, b"connected\n");
    let mut buffer = [0; 4096];
    if let Ok(length @ 1..) = stream.read(&mut buffer) {
        record(name, &buffer[..length]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 16\r\n\r\nplanted-answer\r\n");
    }
}

fn serve_tcp(address: &'static str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            thread::spawn(move || answer(stream, &format!("tcp-{address}")));
        }
    });
    Ok(())
}

fn serve_udp(address: &'static str) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| address.to_owned())?;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            record(&format!("udp-{address}"), &buffer[..length]);
        }
    });
    Ok(())
}

fn serve_unix(path: &'static str) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| path.to_owned())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            thread::spawn(move || answer(stream, &format!("unix-{path}")));
        }
    });
    Ok(())
}
