//! A program of an agent: this binary, copied to a path of its own, that does what lines on its standard input say.
//!
//! It answers each line with an errno, 0 for success. One socket is in its hands, and stays there through an exec, as
//! descriptor [`HELD`].

use std::ffi::CString;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::attempt::{Attempt, Failure};
use crate::cgroup::Cgroup;
use crate::child::{Child, PATIENCE, readable};
use crate::socket::{Name, Socket};

/// First argument that makes this binary such a program.
pub const ARGUMENT: &str = "--program";
/// Descriptor of the socket in hand.
const HELD: i32 = 9;

/// Reads and answers until the end of the input; the exit status.
pub fn main(words: &[String]) -> i32 {
    if !words.is_empty() {
        return answer(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return 1 };
        let errno = answer(&line.split(' ').collect::<Vec<_>>());
        if writeln!(std::io::stdout(), "{errno}").and_then(|()| std::io::stdout().flush()).is_err() {
            return 1;
        }
    }
    0
}

fn answer(words: &[&str]) -> i32 {
    match attempt(words) {
        Ok(()) => 0,
        Err(failure) => failure.errno.max(1),
    }
}

fn attempt(words: &[&str]) -> Attempt {
    match words {
        ["connect", ip, port] => {
            let socket = Socket::tcp4()?;
            let done = socket.connect(&name(ip, port)?);
            hold(socket)?;
            done
        }
        // With the socket in hand, whoever made it.
        ["connect-held", ip, port] => held(|socket| socket.connect(&name(ip, port)?)),
        ["udp", ip, port] => {
            let socket = Socket::udp4()?;
            let done = socket.send_to(b"x", 0, &name(ip, port)?).map(drop);
            hold(socket)?;
            done
        }
        ["udp-held", ip, port] => held(|socket| socket.send_to(b"x", 0, &name(ip, port)?).map(drop)),
        ["make"] => hold(Socket::tcp4()?),
        ["send"] => held(|socket| socket.send(b"x").map(drop)),
        // Waits for the answer of an echo server too.
        ["echo"] => held(|socket| {
            socket.send(b"x")?;
            let mut byte = [0];
            match socket.receive(&mut byte)? {
                1 => Ok(()),
                _ => Err(Failure::new("the echo", libc::EPIPE)),
            }
        }),
        ["unix", path] => UnixStream::connect(path).map(drop).map_err(|e| Failure::of("connect", &e)),
        ["unix-name", name] => SocketAddr::from_abstract_name(name)
            .and_then(|name| UnixStream::connect_addr(&name))
            .map(drop)
            .map_err(|e| Failure::of("connect", &e)),
        ["unix-send", path] => UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(b"x", path))
            .map(drop)
            .map_err(|e| Failure::of("send", &e)),
        ["read", file] => std::fs::read(file).map(drop).map_err(|e| Failure::of("read", &e)),
        ["rename", from, to] => std::fs::rename(from, to).map_err(|e| Failure::of("rename", &e)),
        ["call-yourself", text] => {
            let text = CString::new(*text).unwrap_or_default();
            // SAFETY: a string that outlives the call.
            match unsafe { libc::prctl(libc::PR_SET_NAME, text.as_ptr()) } {
                0 => Ok(()),
                _ => Err(Failure::last("prctl")),
            }
        }
        // Puts `over` at the place of `file`, in a mount namespace of its own.
        ["mount-over", over, file] => mount_over(over, file),
        // In a child that runs the same program.
        ["fork", rest @ ..] => {
            // SAFETY: this process has one thread.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let errno = answer(rest);
                // SAFETY: `_exit` runs no handler.
                unsafe { libc::_exit(errno) };
            }
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            ended(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)))
        }
        // In a child that runs the program at `path`.
        ["run", path, rest @ ..] => {
            let status = Command::new(path).arg(ARGUMENT).args(rest).status();
            ended(status.map_err(|e| Failure::of("exec", &e))?.code())
        }
        // In a child that runs a file which has the content of `path` and no name.
        ["run-nameless", path, rest @ ..] => {
            let content = std::fs::read(path).map_err(|e| Failure::of("read", &e))?;
            // SAFETY: a literal; the descriptor is new and ours.
            let memory = unsafe { libc::memfd_create(c"nameless".as_ptr(), 0) };
            if memory < 0 {
                return Err(Failure::last("memfd_create"));
            }
            // SAFETY: as above.
            let mut file = unsafe { std::fs::File::from_raw_fd(memory) };
            file.write_all(&content).map_err(|e| Failure::of("write", &e))?;
            let status = Command::new(format!("/proc/self/fd/{memory}")).arg(ARGUMENT).args(rest).status();
            ended(status.map_err(|e| Failure::of("exec", &e))?.code())
        }
        // The same process runs the program at `path` from here on; it gives the answer.
        ["become", path] => {
            let _ = writeln!(std::io::stdout(), "0");
            let _ = std::io::stdout().flush();
            Err(Failure::of("exec", &Command::new(path).arg(ARGUMENT).exec()))
        }
        _ => Err(Failure::new("read the line", libc::EINVAL)),
    }
}

fn ended(status: Option<i32>) -> Attempt {
    match status {
        Some(0) => Ok(()),
        errno => Err(Failure::new("the child", errno.unwrap_or(libc::EINTR))),
    }
}

fn name(ip: &str, port: &str) -> Result<Name, Failure> {
    let ip: IpAddr = ip.parse().map_err(|_| Failure::new("read the address", libc::EINVAL))?;
    Ok(Name::new(ip, port.parse().map_err(|_| Failure::new("read the port", libc::EINVAL))?))
}

/// Puts a socket in hand, without close-on-exec.
fn hold(socket: Socket) -> Attempt {
    let fd = socket.into_fd();
    // SAFETY: no pointers; the descriptor in hand is nobody else's.
    match unsafe { libc::dup2(fd.as_raw_fd(), HELD) } {
        HELD => Ok(()),
        _ => Err(Failure::last("dup2")),
    }
}

fn held(body: impl FnOnce(&Socket) -> Attempt) -> Attempt {
    // SAFETY: the descriptor in hand; it is given back below.
    let socket = Socket::from_fd(unsafe { OwnedFd::from_raw_fd(HELD) });
    let done = body(&socket);
    let _ = socket.into_fd().into_raw_fd();
    done
}

fn mount_over(over: &str, file: &str) -> Attempt {
    let [over, file] = [over, file].map(|path| CString::new(path).unwrap_or_default());
    let none = std::ptr::null();
    // SAFETY: strings that outlive the calls.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            return Err(Failure::last("unshare"));
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        if libc::mount(none, c"/".as_ptr(), none, private, none.cast()) != 0
            || libc::mount(over.as_ptr(), file.as_ptr(), none, libc::MS_BIND, none.cast()) != 0
        {
            return Err(Failure::last("mount"));
        }
    }
    Ok(())
}

/// A process that runs such a program.
pub struct Program {
    child: Child,
    input: PipeWriter,
    output: BufReader<PipeReader>,
}

impl Program {
    /// Starts the program at `path` in a process that `label` makes an agent before it executes it.
    pub fn start(cgroup: &Cgroup, path: &Path, label: impl FnOnce(u32) -> Result<()>) -> Result<Self> {
        let (theirs, input) = std::io::pipe()?;
        let (output, out) = std::io::pipe()?;
        let path = path.to_owned();
        let mut child = Child::spawn(cgroup, move |stage| {
            stage.pause()?;
            let command = &mut Command::new(path);
            Err(Failure::of("exec", &command.arg(ARGUMENT).stdin(theirs).stdout(out).exec()))
        })?;
        child.paused()?;
        label(child.pid())?;
        child.go_on()?;
        Ok(Program { child, input, output: BufReader::new(output) })
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Lets the program do something; the errno.
    pub fn ask(&mut self, line: &str) -> Result<i32> {
        writeln!(self.input, "{line}")?;
        ensure!(
            !self.output.buffer().is_empty() || readable(self.output.get_ref().as_raw_fd(), PATIENCE),
            "no answer to {line:?}"
        );
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        answer.trim_end().parse().with_context(|| format!("{line:?} was answered with {answer:?}"))
    }
}
