//! What the tests' agents do: this program, called again under `agent-monitor run` or attached.
//!
//! Answers are lines on standard output, so that the test can wait for them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use crate::{asker, uring};

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
        // Does at each line on standard input what it says about names.
        ["names"] => {
            say("ready");
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
                say(&asker::act(&words.iter().map(String::as_str).collect::<Vec<_>>()));
                line.clear();
            }
            0
        }
        ["names", words @ ..] => {
            say(&asker::act(words));
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
        ["keep-connecting", address] => keep_connecting(address),
        ["hold", address] => hold(address),
        ["read", file] => {
            match std::fs::read(file) {
                Ok(_) => say("read"),
                Err(error) => say(&error.raw_os_error().unwrap_or(-1).to_string()),
            }
            0
        }
        ["attempt", rest @ ..] => {
            say(&attempt(rest).to_string());
            0
        }
        // The same from a grandchild of another session.
        ["attempt-below", rest @ ..] => {
            say(&below(rest).to_string());
            0
        }
        ["euid"] => {
            // SAFETY: no arguments.
            say(&unsafe { libc::geteuid() }.to_string());
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
        // Runs a program once told; its exit status.
        ["exec-when-told", program, rest @ ..] => {
            say("ready");
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
            let done = std::process::Command::new(program).args(rest).output();
            say(&done.map_or(-1, |output| output.status.code().unwrap_or(-1)).to_string());
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
        // At each line on standard input connects, or asks what was denied: the answer's lines, with how many first.
        ["denied-and-told", program] => {
            say("ready");
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words.as_slice() {
                    ["connect", address] => {
                        say(&connect(address)
                            .map_or_else(|errno| errno.to_string(), |_| "connected".to_owned()));
                    }
                    rest => {
                        let told = std::process::Command::new(program).arg("notices").args(rest).output();
                        let told = told.map_or_else(
                            |error| error.to_string(),
                            |output| {
                                String::from_utf8_lossy(if output.status.success() {
                                    &output.stdout
                                } else {
                                    &output.stderr
                                })
                                .into_owned()
                            },
                        );
                        say(&told.lines().count().to_string());
                        told.lines().for_each(say);
                    }
                }
                line.clear();
            }
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

/// Opens a file by io_uring.
fn ring_read(path: &str) -> std::io::Result<()> {
    let path = std::ffi::CString::new(path)?;
    let entry = uring::Entry {
        opcode: uring::OP_OPENAT,
        fd: libc::AT_FDCWD,
        address: path.as_ptr().addr() as u64,
        operation_flags: libc::O_RDONLY as u32,
        ..uring::Entry::default()
    };
    ring(entry)
}

/// Connects by io_uring, to an IPv4 address.
fn ring_connect(address: &str) -> std::io::Result<()> {
    let Ok(SocketAddr::V4(to)) = address.parse() else { return Err(ErrorKind::InvalidInput.into()) };
    // SAFETY: zero is a value of it; then a new descriptor of ours.
    let (mut name, socket) = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(std::io::Error::last_os_error());
        }
        (std::mem::zeroed::<libc::sockaddr_in>(), OwnedFd::from_raw_fd(socket))
    };
    name.sin_family = libc::AF_INET as u16;
    name.sin_port = to.port().to_be();
    name.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    let entry = uring::Entry {
        opcode: uring::OP_CONNECT,
        fd: socket.as_raw_fd(),
        address: (&raw const name).addr() as u64,
        offset: size_of_val(&name) as u64,
        ..uring::Entry::default()
    };
    ring(entry)
}

fn ring(entry: uring::Entry) -> std::io::Result<()> {
    uring::run(entry, false).map(drop).map_err(|failure| std::io::Error::from_raw_os_error(failure.errno))
}

/// Tries one operation on files, programs or the kernel; the errno, 0 where it works, 128 and the signal where a
/// program was killed.
fn attempt(words: &[&str]) -> i32 {
    use std::fs;
    let done = match words {
        ["read", path] => fs::read(path).map(drop),
        ["list", path] => fs::read_dir(path).map(drop),
        ["write", path] => fs::OpenOptions::new().append(true).open(path).map(drop),
        ["create", path] => fs::write(path, "x"),
        ["truncate", path] => errno_of(std::ffi::CString::new(*path).map_or(-1, |path| {
            // SAFETY: a string that outlives the call.
            unsafe { libc::truncate(path.as_ptr(), 0) }
        })),
        ["remove", path] => fs::remove_file(path),
        ["rename", from, to] => fs::rename(from, to),
        ["link", from, to] => fs::hard_link(from, to),
        ["execute", program, rest @ ..] => match std::process::Command::new(program).args(rest).output() {
            Ok(output) => {
                use std::os::unix::process::ExitStatusExt;
                return output
                    .status
                    .signal()
                    .map_or_else(|| output.status.code().unwrap_or(-1), |n| 128 + n);
            }
            Err(error) => Err(error),
        },
        ["socket", family] => {
            let family = family.parse().unwrap_or(-1);
            // SAFETY: numbers only; the descriptor ends with this program.
            errno_of(unsafe { libc::socket(family, libc::SOCK_RAW, 0) })
        }
        ["uring"] => {
            let mut parameters = [0_u64; 32];
            // SAFETY: `struct io_uring_params` has 120 bytes, fewer than the buffer.
            errno_of(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) } as i32)
        }
        ["ring-read", path] => ring_read(path),
        ["ring-connect", address] => ring_connect(address),
        ["chown", path] => std::os::unix::fs::chown(path, Some(1), None),
        // SAFETY: numbers only.
        ["become", user] => errno_of(unsafe { libc::setuid(user.parse().unwrap_or(1)) }),
        // SAFETY: a flag; only this program moves.
        ["user-namespace"] => errno_of(unsafe { libc::unshare(libc::CLONE_NEWUSER) }),
        ["bpf"] => {
            // `BPF_MAP_CREATE` of an array with one cell.
            let mut attributes: [u32; 32] = [0; 32];
            attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
            // SAFETY: the attributes outlive the call, with their length.
            errno_of(unsafe { libc::syscall(libc::SYS_bpf, 0, attributes.as_ptr(), 128) } as i32)
        }
        // SAFETY: numbers only.
        ["signal", pid] => errno_of(unsafe { libc::kill(pid.parse().unwrap_or(-1), libc::SIGCONT) }),
        ["trace", pid] => {
            let pid = pid.parse::<i32>().unwrap_or(-1);
            // SAFETY: no pointers; the tracee goes on, and is let go when this program ends.
            errno_of(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } as i32)
        }
        ["signal-own"] => match std::process::Command::new("/bin/sleep").arg("60").spawn() {
            Ok(mut child) => child.kill().and_then(|()| child.wait().map(drop)),
            Err(error) => Err(error),
        },
        ["type-into-terminal"] => {
            // SAFETY: a byte that outlives the call; standard input is no terminal.
            errno_of(unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) })
        }
        #[cfg(target_arch = "x86_64")]
        ["compat"] => {
            let mut number = 20_i64; // `getpid` of the 32-bit table
            // SAFETY: the call takes no arguments; the kernel keeps the other registers but these.
            unsafe {
                core::arch::asm!("int 0x80", inout("rax") number,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _)
            };
            errno_of(number as i32)
        }
        ["delete-module"] => {
            // SAFETY: a string that outlives the call; there is no such module.
            errno_of(
                unsafe { libc::syscall(libc::SYS_delete_module, c"agent_monitor_test".as_ptr(), 0) } as i32
            )
        }
        _ => return -1,
    };
    done.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn errno_of(result: i32) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// [`attempt`] two forks and a session away.
fn below(words: &[&str]) -> i32 {
    let fork = |act: &dyn Fn() -> i32| {
        // SAFETY: this program has one thread, so the child may do anything; it ends without running handlers.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = act();
            // SAFETY: as above.
            unsafe { libc::_exit(code) }
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if waited == child && libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
    };
    fork(&|| {
        // SAFETY: no arguments.
        unsafe { libc::setsid() };
        fork(&|| attempt(words))
    })
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

/// Connects again and again until standard input ends; says how often it was connected, unreachable, anything else.
fn keep_connecting(address: &str) -> i32 {
    let told = std::thread::spawn(|| std::io::stdin().read(&mut [0; 1]));
    say("ready");
    let (mut connected, mut unreachable, mut other) = (0, 0, 0);
    while !told.is_finished() {
        match connect(address) {
            Ok(()) => connected += 1,
            Err(libc::ENETUNREACH) => unreachable += 1,
            Err(_) => other += 1,
        }
    }
    say(&format!("{connected} {unreachable} {other}"));
    0
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
