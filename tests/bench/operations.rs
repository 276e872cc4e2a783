//! The operations that are timed, in a worker process of their own: this program again, with other arguments.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// First argument of a worker.
pub const WORKER: &str = "--worker";

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// socket, connect to a listening loopback port, close.
    Connect,
    /// One datagram to a loopback port.
    Send,
    /// fork, exec of `/bin/true`, wait.
    Exec,
    /// open and close of [`FILE`], whose directory the process knows after the first.
    Open,
    /// The same of a file in another of [`DIRECTORIES`] directories each time, more than a process knows.
    OpenElsewhere,
    /// The cheapest system call.
    Getppid,
}

/// What is opened: five names, 55 bytes, as a file of a project has.
pub const FILE: &str = "/tmp/agent-monitor-benchmark/workspace/module/source.ts";

/// Directories of [`Operation::OpenElsewhere`].
pub const DIRECTORIES: usize = 64;

/// A file in one of them; its path is as long as [`FILE`].
pub fn elsewhere(directory: usize) -> String {
    FILE.replace("module", &format!("modu{directory:02}"))
}

impl Operation {
    pub const ALL: [Operation; 6] = [
        Operation::Connect,
        Operation::Send,
        Operation::Exec,
        Operation::Open,
        Operation::OpenElsewhere,
        Operation::Getppid,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Connect => "connect+close",
            Operation::Send => "UDP send",
            Operation::Exec => "fork+exec",
            Operation::Open => "open+close",
            Operation::OpenElsewhere => "open+close elsewhere",
            Operation::Getppid => "getppid",
        }
    }

    /// Blocks of one turn, and operations of one block.
    fn amount(self) -> (u32, u32) {
        match self {
            Operation::Connect => (10, 100),
            Operation::Send => (20, 1_000),
            Operation::Exec => (6, 10),
            Operation::Open | Operation::OpenElsewhere => (20, 1_000),
            Operation::Getppid => (20, 20_000),
        }
    }
}

/// A worker that lives through all rounds, so that what differs between two processes (where their pages and stacks
/// lie) differs between no two figures. It runs one turn whenever it is told to.
pub struct Worker {
    child: Child,
    go: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker for `operation` in `cgroup`; `port` is where it connects or sends to.
    pub fn start(operation: Operation, cgroup: &Path, port: u16) -> Result<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([WORKER, operation.name(), &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")?;
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string())?;
        let go = child.stdin.take().context("the worker has no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("the worker has no stdout")?);
        let mut worker = Worker { child, go, answers };
        worker.turn()?; // makes its sockets, and warms up
        Ok(worker)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run a turn; nanoseconds of one operation in the turn's best block.
    pub fn turn(&mut self) -> Result<f64> {
        self.go.write_all(b"g")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().context("a worker printed no number: it failed")
    }

    /// Ends it.
    pub fn finish(self) -> Result<()> {
        let Worker { mut child, go, .. } = self;
        drop(go);
        if !child.wait()?.success() {
            bail!("a worker failed");
        }
        Ok(())
    }
}

/// The processor that workers run on. Their peer has the others.
const WORKERS_CPU: usize = 0;

/// Keeps the calling thread on the workers' processor, or off it. Where there is only one, it stays as it is.
fn pin(worker: bool) -> Result<()> {
    let count = std::thread::available_parallelism()?.get();
    if count < 2 {
        return Ok(());
    }
    // SAFETY: zero is a value of the set, and the macros write inside it.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in (0..count).filter(|cpu| (*cpu == WORKERS_CPU) == worker) {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) != 0
    };
    if failed { Err(std::io::Error::last_os_error()).context("cannot choose a processor") } else { Ok(()) }
}

/// The worker's side: a turn for each byte on stdin, until its end.
pub fn work(arguments: &[String]) -> Result<()> {
    let [name, port] = arguments else { bail!("a worker wants an operation and a port") };
    let operation = Operation::ALL.into_iter().find(|o| o.name() == name).context("no such operation")?;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    pin(true)?;
    let mut stdin = std::io::stdin();
    let mut go = [0];
    let mut udp = None;
    while stdin.read(&mut go)? == 1 {
        let udp = match &udp {
            Some(udp) => udp,
            // Made after the go: only then is this process in its cgroup.
            None => udp.insert(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?),
        };
        println!("{}", turn(operation, udp, target)?);
    }
    Ok(())
}

fn turn(operation: Operation, udp: &UdpSocket, target: SocketAddr) -> Result<f64> {
    let (blocks, count) = operation.amount();
    let mut best = Duration::MAX;
    let names = match operation {
        Operation::OpenElsewhere => (0..DIRECTORIES).map(elsewhere).collect(),
        _ => vec![FILE.to_owned()],
    };
    let files = names.into_iter().map(std::ffi::CString::new).collect::<Result<Vec<_>, _>>()?;
    let mut files = files.iter().cycle();
    for _ in 0..blocks {
        let start = cpu_time();
        for _ in 0..count {
            match operation {
                Operation::Connect => drop(TcpStream::connect(target)?),
                Operation::Send => drop(udp.send_to(b"x", target)?),
                Operation::Exec => {
                    if !Command::new("/bin/true").status()?.success() {
                        bail!("/bin/true failed");
                    }
                }
                // SAFETY: a string that ends in NUL; the descriptor is this block's own.
                Operation::Open | Operation::OpenElsewhere => unsafe {
                    let file = files.next().context("there are files")?;
                    let fd = libc::open(file.as_ptr(), libc::O_RDONLY);
                    if fd < 0 || libc::close(fd) != 0 {
                        return Err(std::io::Error::last_os_error()).context("cannot open the file");
                    }
                },
                // SAFETY: no arguments, no effect.
                Operation::Getppid => unsafe {
                    libc::syscall(libc::SYS_getppid);
                },
            }
        }
        best = best.min(cpu_time().saturating_sub(start));
    }
    Ok(best.as_nanos() as f64 / f64::from(count))
}

/// Processor time of this process and of the children it waited for: unlike the clock it does not count what other
/// programs of the machine took meanwhile.
fn cpu_time() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .into_iter()
        .map(|who| {
            // SAFETY: zero is a value of the struct, and the call fills it.
            let usage = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                libc::getrusage(who, &raw mut usage);
                usage
            };
            [usage.ru_utime, usage.ru_stime]
                .into_iter()
                .map(|t| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1_000))
                .sum::<Duration>()
        })
        .sum()
}

/// The other end of the operations: accepts and closes; datagrams find a socket and are never read.
pub struct Peer {
    pub port: u16,
    _udp: UdpSocket,
}

impl Peer {
    pub fn start() -> Result<Peer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
        pin(false)?; // and so is the thread that accepts
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream);
            }
        });
        Ok(Peer { port, _udp: udp })
    }
}
