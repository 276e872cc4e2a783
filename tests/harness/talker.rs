//! Processes to talk with, an address to connect to, and waiting with a predicate and a deadline. Used by the tests that
//! run the real binary: `e2e` and `systemd`.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A child whose lines are read one by one.
pub struct Talker {
    child: Child,
    lines: BufReader<ChildStdout>,
    input: Option<ChildStdin>,
}

impl Talker {
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?);
        let input = child.stdin.take();
        Ok(Talker { child, lines, input })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line; agents end by themselves, so this does too.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "the process said nothing more");
        Ok(line.trim_end().to_owned())
    }

    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("no input")?;
        Ok(writeln!(input, "{line}")?)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Accepts and holds connections on an address, until the test program ends.
pub struct Server;

impl Server {
    pub fn on(address: &str) -> Result<()> {
        let address: SocketAddr = address.parse()?;
        let listener = match TcpListener::bind(address) {
            // An earlier test's, which serves on: nobody else is in this namespace.
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(()),
            listener => listener?,
        };
        std::thread::spawn(move || {
            let held: Vec<_> = listener.incoming().collect();
            drop(held);
        });
        Ok(())
    }
}

/// How long anything may take on a slow guest.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again until there is an answer.
pub fn wait<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_within(DEADLINE, what, ask)
}

/// The same with another limit.
pub fn wait_within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "not within {} s: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
