//! A daemon of a test: its directory, its cgroup, its commands, and the agents it governs.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use agent_monitor_tests::cgroup::{Cgroup, remove_leftovers};
pub use agent_monitor_tests::talker::{Server, Talker, wait, wait_within};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::agent;

/// Grants one address and port, denies another by a rule, watches a system call.
pub const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { address: 127.0.0.1, ports: [18080], protocol: tcp }
  deny:
    - { address: 127.0.0.7, ports: [18080] }
";

/// How long a start may take: an emulated guest's verifier walks every program for a minute and more.
const START: Duration = Duration::from_secs(300);

/// See the module. Dropped: the daemon is killed, its agents too, and the cgroup is removed.
pub struct Daemon {
    pub directory: tempfile::TempDir,
    pub cgroup: Cgroup,
    arguments: Vec<String>,
    child: Option<Child>,
    /// Where it pins; most daemons of tests don't.
    pub pins: Option<PathBuf>,
}

/// The binary under test.
pub fn binary() -> Result<PathBuf> {
    std::env::var_os("AGENT_MONITOR_BIN")
        .map(PathBuf::from)
        .context("AGENT_MONITOR_BIN does not name the binary under test: run `cargo xtask test`")
}

impl Daemon {
    /// A daemon with the profile `tester`, not started yet.
    pub fn prepare(profile: &str) -> Result<Self> {
        remove_leftovers()?;
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("profiles"))?;
        let daemon = Daemon {
            directory,
            cgroup: Cgroup::create("e2e")?,
            arguments: Vec::new(),
            child: None,
            pins: None,
        };
        daemon.write_profile(profile)?;
        Ok(daemon)
    }

    /// More flags for the daemon.
    pub fn arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// A daemon with this profile that is ready.
    pub fn start(profile: &str) -> Result<Self> {
        Self::start_with(profile, &[])
    }

    /// The same with more flags.
    pub fn start_with(profile: &str, arguments: &[&str]) -> Result<Self> {
        let mut daemon = Self::prepare(profile)?;
        daemon.arguments(arguments);
        daemon.launch()?;
        Ok(daemon)
    }

    /// Starts the process and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = fs::File::create(self.path("log"))?;
        let child = self.command(&[])?.stderr(log).spawn().context("the daemon did not start")?;
        self.child = Some(child);
        wait_within(START, "the daemon is ready", || {
            if let Some(status) = self.child.as_mut().context("no child")?.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", self.log());
            }
            Ok(self.status().ok())
        })?;
        Ok(())
    }

    /// The daemon's command line with more flags, its output not yet directed.
    pub fn command(&self, more: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .arg("daemon")
            .args(["--allow-degraded", "--metrics", "127.0.0.1:9761"])
            .arg("--profiles")
            .arg(self.path("profiles"))
            .arg("--cgroup")
            .arg(self.cgroup.path())
            .arg("--socket")
            .arg(self.path("control.sock"))
            .env("AGENT_MONITOR_EVENTS", self.path("events.jsonl"))
            .args(&self.arguments)
            .args(more)
            .args(self.pins.is_none().then_some("--no-pins"))
            .args(self.pins.iter().flat_map(|pins| [OsStr::new("--pins"), pins.as_os_str()]))
            .stdin(Stdio::null());
        Ok(command)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write_profile(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.path("profiles/tester.yaml"), text)?)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the daemon does not run")?.id())
    }

    /// A command of the product that talks to this daemon.
    pub fn verb<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(words).env("AGENT_MONITOR_SOCKET", self.path("control.sock")).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs such a command to its end.
    pub fn ask(&self, words: &[&str]) -> Result<Output> {
        self.verb(words)?.output().with_context(|| words.join(" "))
    }

    pub fn status(&self) -> Result<Value> {
        let output = self.ask(&["status", "--json"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A command line that runs this program as an agent.
    pub fn run_words(words: &[&str]) -> Result<Vec<String>> {
        let me = std::env::current_exe()?;
        let start = ["run", "--profile", "tester", "--", me.to_str().context("path")?, agent::ARGUMENT];
        Ok(start.iter().chain(words).map(|&word| word.to_owned()).collect())
    }

    /// Runs an agent to its end; the first line it said.
    pub fn agent(&self, words: &[&str]) -> Result<String> {
        let output = self.verb(&Self::run_words(words)?)?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Starts an agent that goes on.
    pub fn agent_in_background(&self, words: &[&str]) -> Result<Talker> {
        Talker::spawn(self.verb(&Self::run_words(words)?)?)
    }

    /// The events in the file so far.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.path("events.jsonl")).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Waits for an event.
    pub fn event(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Result<Value> {
        wait(what, || Ok(self.events()?.into_iter().find(|event| matches(event))))
    }

    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        // SAFETY: takes numbers only; the child has not been waited for, so the number is still its.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Waits for the daemon's end; its exit code.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        let child = self.child.as_mut().context("the daemon does not run")?;
        let status = wait("the daemon ends", || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(status.code())
    }

    /// The body of a page of the daemon's HTTP server.
    pub fn page(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9761")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply.split_once("\r\n\r\n").context("no body")?.1.to_owned())
    }

    /// The value of a series, by its whole name with labels.
    pub fn metric(&self, series: &str) -> Result<Option<f64>> {
        let text = self.page("/metrics")?;
        let line =
            text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        Ok(line.map(|value| value.parse()).transpose()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.cgroup.kill();
        if let Some(pins) = &self.pins
            && let Err(error) = agent_monitor::kernel::detach(pins)
        {
            eprintln!("pins of a test stay behind: {error}");
        }
    }
}

/// Whether a file of this process is executable by name on the search path.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| Path::is_file(file))
}
