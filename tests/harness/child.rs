//! Children that attack: forked, moved into a cgroup, stepped through stages by the test.
//!
//! The body runs in the child. Where it calls [`Stage::pause`], the child waits until the test has seen it and lets
//! it go: that is how "the socket is older than the label" or "the policy is tightened while the flow lives" are
//! built without a sleep.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::attempt::{Attempt, Failure, decode, encode};
use crate::cgroup::Cgroup;

/// How long the test waits for a stage or the end of a child. Generous: TCG guests are 20 times slower.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A child of the test process, killed and reaped on drop.
pub struct Child {
    pid: libc::pid_t,
    go: Option<PipeWriter>,
    reports: PipeReader,
    reaped: bool,
}

/// The child's side of the stages.
pub struct Stage {
    go: PipeReader,
    reports: PipeWriter,
    passing: Option<OwnedFd>,
}

const PAUSED: u8 = b'p';
const ENDED: u8 = b'e';

impl Stage {
    /// Tells the test that this point is reached and waits until it lets the child go on.
    pub fn pause(&mut self) -> Attempt {
        self.reports.write_all(&[PAUSED]).map_err(|e| Failure::of("report a stage", &e))?;
        let mut byte = [0];
        self.go.read_exact(&mut byte).map_err(|e| Failure::of("wait for the test", &e))
    }

    /// The child's end of the socket that [`Child::spawn_with_socket`] made.
    pub fn socket(&self) -> &OwnedFd {
        self.passing.as_ref().unwrap_or_else(|| unreachable!("this child was spawned without a socket"))
    }
}

impl Child {
    /// Forks a child into `cgroup` and runs `body` in it.
    pub fn spawn(cgroup: &Cgroup, body: impl FnOnce(&mut Stage) -> Attempt) -> Result<Self> {
        Self::fork(Some(cgroup), None, body)
    }

    /// Forks a child that stays in the test's own cgroup.
    pub fn spawn_outside(body: impl FnOnce(&mut Stage) -> Attempt) -> Result<Self> {
        Self::fork(None, None, body)
    }

    /// As [`Child::spawn`], with one end of a socket pair for passing descriptors.
    pub fn spawn_with_socket(
        cgroup: &Cgroup,
        socket: OwnedFd,
        body: impl FnOnce(&mut Stage) -> Attempt,
    ) -> Result<Self> {
        Self::fork(Some(cgroup), Some(socket), body)
    }

    fn fork(
        cgroup: Option<&Cgroup>,
        passing: Option<OwnedFd>,
        body: impl FnOnce(&mut Stage) -> Attempt,
    ) -> Result<Self> {
        let (go_reader, go_writer) = io::pipe()?;
        let (report_reader, report_writer) = io::pipe()?;
        // SAFETY: the test process has one thread (`--test-threads=1`), so the child's memory is consistent.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            bail!("fork: {}", io::Error::last_os_error());
        }
        if pid == 0 {
            drop((go_writer, report_reader));
            let stage = Stage { go: go_reader, reports: report_writer, passing };
            run_child(cgroup, stage, body);
        }
        Ok(Child { pid, go: Some(go_writer), reports: report_reader, reaped: false })
    }

    /// Process id, which is its tgid.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Waits until the child pauses; the end of the child is an error here.
    pub fn paused(&mut self) -> Result<()> {
        match self.read_byte()? {
            PAUSED => Ok(()),
            _ => bail!("the child ended before its next stage: {:?}", self.read_attempt()?),
        }
    }

    /// Lets a paused child go on.
    pub fn go_on(&mut self) -> Result<()> {
        let go = self.go.as_mut().context("the child was finished")?;
        go.write_all(b"g").context("the child is gone")
    }

    /// Waits for the end of the attack; later pauses are let pass. The process itself, and what it still holds, lives
    /// on until [`Child::end`] or the drop: its closing connections would send packets into the test's count.
    pub fn finish(&mut self) -> Result<Attempt> {
        loop {
            match self.read_byte()? {
                PAUSED => self.go_on()?,
                ENDED => break,
                other => bail!("the child reported {other:#x}"),
            }
        }
        self.read_attempt()
    }

    fn read_attempt(&mut self) -> Result<Attempt> {
        let mut length = [0; 4];
        self.reports.read_exact(&mut length).context("the child died in its report")?;
        let mut bytes = vec![0; u32::from_ne_bytes(length) as usize];
        self.reports.read_exact(&mut bytes).context("the child died in its report")?;
        decode(&bytes).context("the child's report is not readable")
    }

    fn read_byte(&mut self) -> Result<u8> {
        if !readable(self.reports.as_raw_fd(), PATIENCE) {
            bail!("child {} said nothing for {PATIENCE:?}", self.pid);
        }
        let mut byte = [0];
        match self.reports.read(&mut byte)? {
            1 => Ok(byte[0]),
            _ => {
                let status = self.reap();
                bail!("child {} died: {status}", self.pid)
            }
        }
    }

    /// Waits for the process itself; its wait status.
    fn reap(&mut self) -> String {
        let mut status = 0;
        if !self.reaped {
            // SAFETY: `status` outlives the call.
            unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
            self.reaped = true;
        }
        match libc::WIFSIGNALED(status) {
            true => format!("signal {}", libc::WTERMSIG(status)),
            false => format!("status {}", libc::WEXITSTATUS(status)),
        }
    }

    /// Waits for a child that is expected to be killed; the signal, or `None` when it exited by itself.
    pub fn killed_by(&mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            let done = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            if done == self.pid {
                self.reaped = true;
                return Ok(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)));
            }
            if Instant::now() > deadline {
                bail!("child {} is still alive", self.pid);
            }
            readable(self.reports.as_raw_fd(), Duration::from_millis(5));
        }
    }

    /// Ends the process: it reads the end of its `go` pipe and exits, or is killed.
    pub fn end(&mut self) {
        self.go = None;
        if !self.reaped {
            // SAFETY: `pid` is our child and was not reaped, so it can't be another process.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.reap();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

fn run_child(cgroup: Option<&Cgroup>, mut stage: Stage, body: impl FnOnce(&mut Stage) -> Attempt) -> ! {
    // SAFETY: plain calls without pointers. The alarm ends a child whose test forgot it.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::alarm(600);
    }
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        if let Some(cgroup) = cgroup {
            cgroup.enter().map_err(|e| Failure::of("enter the cgroup", &e))?;
        }
        body(&mut stage)
    }))
    .unwrap_or_else(|_| Err(Failure::new("the attack panicked", 0)));
    let bytes = encode(&attempt);
    let mut report = vec![ENDED];
    report.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
    report.extend_from_slice(&bytes);
    let _ = stage.reports.write_all(&report);
    // The sockets stay open until the test has looked at the wire: the test kills the child.
    let mut byte = [0];
    let _ = stage.go.read(&mut byte);
    // SAFETY: `_exit` runs no handler of the parent's.
    unsafe { libc::_exit(0) }
}

/// Whether `fd` becomes readable (or ends) within `patience`.
pub fn readable(fd: i32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call.
        let n = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
        match n {
            1 => return true,
            0 => return false,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}
