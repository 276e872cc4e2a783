//! One guest, from its start to its end: QEMU under emulation (`/dev/kvm` may exist and still not run stock kernels),
//! output passed on as it comes, a limit, and the guest's own last words when it did not come back. Called by
//! [`super::run`].
//!
//! What must stay true: the exit status is the program's own, byte by byte through a port of its own, never guessed
//! from output; a guest that says nothing is a failure.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::test::tally::Tally;

/// A guest boots in 4 to 6 s on an idle machine, counting instructions in 14; this is for one that is not idle.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// The guest says what hangs; the host waits this much longer for it to have said so.
const AFTERWORD: Duration = Duration::from_secs(10);
/// How much of a guest's console is worth showing.
const LAST_WORDS: usize = 120;
const POLL: Duration = Duration::from_millis(20);

/// Prefers what the kernel prefers by default, and has `bpf` in any case.
const SECURITY_MODULES: &str = "landlock,lockdown,capability,yama,apparmor,bpf";

/// How the machine is made.
pub struct Machine {
    pub memory: String,
    pub processors: u8,
    /// One instruction is one nanosecond: guest time counts instructions, for measurements that repeat.
    pub icount: bool,
    /// More words for the kernel's command line; a later one wins over an earlier.
    pub append: String,
    /// Images that the guest sees as `/dev/vda`, `/dev/vdb` …; what it writes there is forgotten.
    pub disks: Vec<PathBuf>,
    pub limit: Duration,
}

/// The guest ended before the program was started: nothing of ours had run.
#[derive(Debug)]
pub struct NotUp(String);

impl fmt::Display for NotUp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the guest ended before it was up (QEMU: {}); the end of its console is above",
            self.0
        )
    }
}

impl std::error::Error for NotUp {}

/// What came of it.
pub struct Outcome {
    pub status: i32,
    /// From QEMU's start to the guest's first word, on the host's clock.
    pub boot: Duration,
    pub run: Duration,
    pub tally: Tally,
}

/// Runs the guest whose root is in `archive`; `directory` takes the files of its ports.
pub fn run(kernel: &Kernel, archive: &Path, machine: &Machine, directory: &Path) -> Result<Outcome> {
    let started = Instant::now();
    let mut command = command(kernel, archive, machine, directory);
    let mut qemu = command.spawn().context("`qemu-system-x86_64` did not start: run `cargo xtask setup`")?;
    let out = qemu.stdout.take().map(|pipe| pass_on(pipe, std::io::stdout()));
    let errors = qemu.stderr.take().map(|pipe| pass_on(pipe, std::io::stderr()));

    let ended = watch(&mut qemu, &directory.join("status"), machine.limit);
    // It has nothing more to say; waiting for its shutdown would only take time.
    let _ = qemu.kill();
    let _ = qemu.wait();
    let mut tally = Tally::default();
    for reader in [out, errors].into_iter().flatten() {
        tally += reader.join().unwrap_or_default();
    }
    let console = fs::read(directory.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let shown = match &ended {
        Err(_) => &lines[lines.len().saturating_sub(LAST_WORDS)..],
        // A run may pass and still have hurt the kernel.
        Ok(_) => lines.iter().position(|line| hurt(line)).map_or(&[][..], |at| &lines[at..]),
    };
    if !shown.is_empty() {
        eprintln!("--- linux {}: from the guest's console", kernel.release);
        shown.iter().take(LAST_WORDS).for_each(|line| eprintln!("    {line}"));
    }
    let (boot, status) = ended?;
    Ok(Outcome { status, boot, run: started.elapsed() - boot, tally })
}

/// Whether the kernel complains about itself here.
fn hurt(line: &str) -> bool {
    ["BUG: ", "WARNING: ", "Oops: ", "general protection fault", "rcu: INFO: ", "blocked for more than"]
        .iter()
        .any(|sign| line.contains(sign))
}

fn command(kernel: &Kernel, archive: &Path, machine: &Machine, directory: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
        "-cpu",
        "max,la57=off",
    ]);
    // One thread for all processors: with a thread for each, one may translate the breakpoint that another is just
    // replacing in the kernel's code, keep it, and stumble over it later (`Oops: int3` as programs are attached, QEMU
    // 7.2). They still take turns anywhere, and the tests take no longer. Counting instructions needs it too.
    command.args(["-accel", "tcg,thread=single,tb-size=256"]);
    if machine.icount {
        command.args(["-smp", "1", "-icount", "shift=0,sleep=off"]);
    } else {
        command.args(["-smp", &machine.processors.to_string()]);
    }
    command.args(["-m", &machine.memory]);
    for disk in &machine.disks {
        let file = disk.display();
        command.arg("-drive").arg(format!("file={file},format=raw,if=virtio,snapshot=on"));
    }
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(archive);
    command.arg("-append").arg(format!(
        "console=ttyS0 panic=-1 nokaslr tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests \
         loglevel=5 lsm={SECURITY_MODULES} {}",
        machine.append
    ));
    // In the order of the guest's ports. QEMU's own standard output and error carry the program's.
    let ports = [
        directory.join("console"),
        "/proc/self/fd/1".into(),
        "/proc/self/fd/2".into(),
        directory.join("status"),
    ];
    for (number, path) in ports.iter().enumerate() {
        command.arg("-chardev").arg(format!("file,id=port{number},path={}", path.display()));
        command.arg("-serial").arg(format!("chardev:port{number}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the guest's report: how long its boot took, and the program's exit status.
fn watch(qemu: &mut Child, status: &Path, limit: Duration) -> Result<(Duration, i32)> {
    let started = Instant::now();
    let mut booted = None;
    loop {
        let gone = qemu.try_wait().context("QEMU was lost")?;
        let said = fs::read_to_string(status).unwrap_or_default();
        for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match line.trim().split_once(' ') {
                Some(("ready", _)) if booted.is_none() => booted = Some(started.elapsed()),
                Some(("exit", code)) => {
                    let code = code.parse().with_context(|| format!("the guest reported `{line}`"))?;
                    return Ok((booted.unwrap_or_default(), code));
                }
                _ => {}
            }
        }
        if let Some(status) = gone {
            if booted.is_none() {
                return Err(NotUp(status.to_string()).into());
            }
            bail!("the guest ended before the program (QEMU: {status}); the end of its console is above");
        }
        match booted {
            None if started.elapsed() > BOOT_LIMIT => {
                bail!(
                    "the guest was not up after {} s; the end of its console is above",
                    BOOT_LIMIT.as_secs()
                );
            }
            Some(boot) if started.elapsed() > boot + limit + AFTERWORD => {
                bail!(
                    "the program hung: stopped after {} s; what lived is on the console above",
                    limit.as_secs()
                );
            }
            _ => thread::sleep(POLL),
        }
    }
}

/// Copies a guest's output to ours as it comes, and counts the tests it reports.
fn pass_on(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<Tally> {
    thread::spawn(move || {
        let mut tally = Tally::default();
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            tally.read(&buffer[..length]);
            // Our own reader may be gone; the guest's result still counts.
            let _ = to.write_all(&buffer[..length]).and_then(|()| to.flush());
        }
        tally
    })
}

/// One archive of several: the kernel unpacks them one after the other.
pub fn join(archives: &[&Path], joined: &Path) -> Result<()> {
    let mut file = File::create(joined).with_context(|| format!("cannot write {}", joined.display()))?;
    for archive in archives {
        let mut part = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        std::io::copy(&mut part, &mut file)?;
    }
    Ok(())
}
