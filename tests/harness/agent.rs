//! What the tests' agents do: this program, called again under `agent-monitor run` or attached.
//!
//! Answers are lines on standard output, so that the test can wait for them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::Duration;

/// First argument that makes this program an agent.
pub const ARGUMENT: &str = "--agent";

/// The request that ends the daemon.
const STOP: &[u8] = b"{\"v\":1,\"op\":\"stop\"}\n";

/// Runs the agent's verb; its exit status.
pub fn main(words: &[String]) -> i32 {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["connect", address] => {
            say(&connect(address).map_or_else(|errno| errno.to_string(), |_| "connected".to_owned()));
            0
        }
        // Connects at each line on standard input: the label may come in between.
        ["connect-when-told", address] => {
            say("ready");
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                say(&connect(address).map_or_else(|errno| errno.to_string(), |_| "connected".to_owned()));
            }
            0
        }
        ["hold", address] => hold(address),
        ["read", file] => {
            match std::fs::read(file) {
                Ok(_) => say("read"),
                Err(error) => say(&error.raw_os_error().unwrap_or(-1).to_string()),
            }
            0
        }
        ["hold-and-exec", cgroup, address, program, rest @ ..] => {
            let error = hold_and_exec(cgroup, address, program, rest);
            say(&error.to_string());
            1
        }
        // Sends at each line on standard input by a socket that was there before this program was.
        ["send-when-told", descriptor] => {
            let Ok(descriptor) = descriptor.parse::<i32>() else { return 2 };
            // SAFETY: whoever executed this program left the descriptor open for it.
            let socket = unsafe { UdpSocket::from_raw_fd(descriptor) };
            say("ready");
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                match socket.send(b"secret") {
                    Ok(_) => say("sent"),
                    Err(error) => say(&error.raw_os_error().unwrap_or(-1).to_string()),
                }
            }
            0
        }
        ["exit", status] => status.parse().unwrap_or(1),
        ["exec", program, rest @ ..] => {
            let error = std::process::Command::new(program).args(rest).exec();
            say(&error.to_string());
            1
        }
        ["ptrace"] => {
            // SAFETY: PTRACE_TRACEME takes no pointers.
            unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            say("called");
            0
        }
        ["many-connects", address, count] => {
            let count: u32 = count.parse().unwrap_or(0);
            let denied = (0..count).filter(|_| connect(address) == Err(libc::ENETUNREACH)).count();
            say(&denied.to_string());
            0
        }
        ["ask-and-vanish", socket, count] => {
            let count: u32 = count.parse().unwrap_or(0);
            let asked = (0..count).filter(|_| ask_and_vanish(socket)).count();
            say(&asked.to_string());
            0
        }
        ["descriptors"] => {
            let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
            say(&open.to_string());
            0
        }
        _ => {
            eprintln!("unknown agent verb: {words:?}");
            2
        }
    }
}

/// In `cgroup`, connects a UDP socket and becomes `program`, whose last word is the socket's number; why not.
fn hold_and_exec(cgroup: &str, address: &str, program: &str, words: &[&str]) -> std::io::Error {
    let socket = std::fs::write(cgroup, "0").and_then(|()| UdpSocket::bind("127.0.0.1:0"));
    match socket.and_then(|socket| socket.connect(address).map(|()| socket)) {
        Err(error) => error,
        Ok(socket) => {
            let socket = socket.into_raw_fd();
            // SAFETY: no pointers.
            unsafe { libc::fcntl(socket, libc::F_SETFD, 0) };
            std::process::Command::new(program).args(words).arg(socket.to_string()).exec()
        }
    }
}

/// The errno of a connection that is not made.
fn connect(address: &str) -> Result<(), i32> {
    let address: SocketAddr = address.parse().map_err(|_| libc::EINVAL)?;
    match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.raw_os_error().unwrap_or(-1)),
    }
}

/// Connects, then reads until something ends it; says what.
fn hold(address: &str) -> i32 {
    let stream = address.parse().ok().and_then(|address: SocketAddr| TcpStream::connect(address).ok());
    let Some(mut stream) = stream else {
        say("no connection");
        return 1;
    };
    // Longer than any test waits: an end by this is the failure that the test looks for.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    say("connected");
    let end = match stream.read(&mut [0; 16]) {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => "hung".to_owned(),
        Err(_) => "reset".to_owned(),
    };
    say(&end);
    0
}

/// Asks the monitor to end from a child that ends itself at once: its label is gone when its words are read.
fn ask_and_vanish(socket: &str) -> bool {
    // SAFETY: this program has one thread, so the child may do anything; it ends without running handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let asked = UnixStream::connect(socket).and_then(|mut stream| stream.write_all(STOP));
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(asked.is_err())) }
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    child > 0 && unsafe { libc::waitpid(child, &raw mut status, 0) } == child && status == 0
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}
