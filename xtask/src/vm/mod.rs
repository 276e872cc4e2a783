//! `cargo xtask vm`: the kernel tests on other kernels, each in a virtual machine that lives for seconds.
//!
//! [`kernel`] fetches a stock Debian kernel, [`modules`] and [`guest`] make its root file system, or [`systemd`] one that
//! boots as a real host does, or [`tools`] one with the tools of a developer's machine; [`qemu`] runs it. `test` calls
//! [`on`] for the kernels it checks.
//!
//! What must stay true: the binary is the one that runs on the host; the exit status of the program is ours; a run
//! without `--kernel all` needs no network once its kernel is cached.

mod archive;
mod debian;
mod guest;
mod kernel;
mod modules;
mod qemu;
mod rootfs;
mod systemd;
mod tools;
mod vmlinux;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::test::tally::Tally;
use crate::{places, programs};

/// Half of it is the guest's root, in which the tests lay several copies of their own program.
const MEMORY: &str = "2G";

/// Runs the kernel tests (or a program) on stock kernels in virtual machines.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A series (6.1, 6.12, 6.18, 7.3 …), several with commas, or `all` of those four.
    #[arg(long, short, default_value = "all", value_name = "SERIES")]
    kernel: String,
    /// Boot a Debian root with systemd, and test the product as a service of it.
    #[arg(long, conflicts_with = "program")]
    systemd: bool,
    /// Test what follows where helpers of the kernel side fail, in a build in which they can be made to.
    #[arg(long, conflicts_with_all = ["program", "systemd"])]
    faults: bool,
    /// Boot a Debian disk with a developer's tools, and run attack scenarios and honest work there.
    #[arg(long, conflicts_with_all = ["program", "systemd", "faults"])]
    attacks: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Run this program of the host instead of the kernel tests.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Let guest time count instructions: repeatable measurements, one processor, slower.
    #[arg(long)]
    icount: bool,
    /// Seconds that the program may take after the boot.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    limit: u64,
    /// Memory of the guest, as QEMU writes it.
    #[arg(long, default_value = MEMORY, value_name = "SIZE")]
    memory: String,
    /// Processors of the guest: one with `--attacks`, else two.
    #[arg(long, value_name = "COUNT")]
    processors: Option<u8>,
    /// More words for the kernel's command line, such as `lsm=landlock,yama` for a kernel without BPF LSM.
    #[arg(long, default_value = "", value_name = "WORDS")]
    append: String,
    /// A second disk, for the tools' guest.
    #[arg(skip)]
    beside: Option<PathBuf>,
    /// Handed to the program as they are.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Arguments {
    /// The kernel tests, all of them, as they are run without options.
    fn of(series: &str) -> Self {
        Arguments {
            kernel: series.to_owned(),
            systemd: false,
            faults: false,
            attacks: false,
            filter: None,
            program: None,
            icount: false,
            limit: 900,
            memory: MEMORY.to_owned(),
            processors: None,
            append: String::new(),
            beside: None,
            arguments: Vec::new(),
        }
    }
}

/// What one kernel's run came to.
pub struct Report {
    pub series: String,
    pub tally: Tally,
    pub result: Result<i32>,
}

/// The command: its exit status is 0 only if it was on every kernel; else that of the first that failed.
pub fn run(arguments: &Arguments) -> Result<i32> {
    setup::run(Need::Test)?;
    let mut first = 0;
    for report in on(arguments)? {
        let status = report.result.unwrap_or_else(|error| {
            eprintln!("linux {}: {error:#}", report.series);
            1
        });
        if first == 0 {
            first = status;
        }
    }
    Ok(first)
}

/// What `test` runs in guests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suite {
    /// The kernel tests.
    Kernel,
    /// Those of `--faults`.
    Faults,
    /// Those of `--attacks`.
    Attacks,
}

/// Every test of a suite on `series`, as `cargo xtask vm --kernel SERIES` would run them.
pub fn tests_on(series: &str, suite: Suite) -> Result<Vec<Report>> {
    on(&Arguments {
        faults: suite == Suite::Faults,
        attacks: suite == Suite::Attacks,
        limit: 1800,
        ..Arguments::of(series)
    })
}

/// Sessions of a real agent, which lies on `disk`, in the guest of `--attacks`. `words` go to the tests.
pub fn agent_on(series: &str, disk: PathBuf, words: Vec<String>) -> Result<Vec<Report>> {
    on(&Arguments {
        attacks: true,
        // A session takes an emulated processor minutes, and agents' programs are large.
        limit: 5400,
        memory: "4G".to_owned(),
        beside: Some(disk),
        arguments: words,
        ..Arguments::of(series)
    })
}

fn on(arguments: &Arguments) -> Result<Vec<Report>> {
    let all: Vec<String> = match arguments.kernel.as_str() {
        "all" => kernel::ALL.iter().map(|series| (*series).to_owned()).collect(),
        some => some.split(',').map(|series| series.trim().to_owned()).collect(),
    };
    let test = match &arguments.program {
        Some(program) => program.clone(),
        None if arguments.faults => programs::fault_tests()?,
        None if arguments.systemd => programs::systemd_tests()?,
        None if arguments.attacks => programs::attack_tests()?,
        None => programs::kernel_tests()?,
    };
    let programs = guest::Programs { test, product: programs::product()? };
    let words: Vec<String> = arguments.filter.iter().chain(&arguments.arguments).cloned().collect();
    let mut reports = Vec::new();
    for series in all {
        let mut tally = Tally::default();
        let result = guest(&series, arguments, &programs, &words).map(|outcome| {
            tally = outcome.tally;
            outcome.status
        });
        reports.push(Report { series, tally, result });
    }
    Ok(reports)
}

fn guest(
    series: &str,
    arguments: &Arguments,
    programs: &guest::Programs,
    words: &[String],
) -> Result<qemu::Outcome> {
    let kernel = kernel::get(series)?;
    let machine = qemu::Machine {
        memory: arguments.memory.clone(),
        processors: arguments.processors.unwrap_or(if arguments.attacks || arguments.systemd {
            1
        } else {
            2
        }),
        icount: arguments.icount,
        append: match arguments.systemd {
            true => format!("{} {}", systemd::COMMAND_LINE, arguments.append),
            false => arguments.append.clone(),
        },
        disks: arguments
            .attacks
            .then(tools::disk)
            .transpose()?
            .into_iter()
            .chain(arguments.beside.clone())
            .collect(),
        limit: Duration::from_secs(arguments.limit),
    };
    // The same guest may run twice at once, for two people.
    let directory = Scratch::new(&format!("{series}-{}", std::process::id()))?;
    let (staging, root, joined) =
        (directory.0.join("root"), directory.0.join("root.cpio"), directory.0.join("initrd"));
    fs::create_dir_all(&staging)?;
    let run = guest::Run { programs, arguments: words, series, limit: machine.limit };
    if arguments.systemd {
        systemd::pack(&run, &staging, &joined)?;
    } else if arguments.attacks {
        tools::pack(&run, &modules::archive(&kernel)?, &staging, &joined)?;
    } else {
        guest::pack(&run, &staging, &root)?;
        qemu::join(&[&modules::archive(&kernel)?, &root], &joined)?;
    }
    eprintln!("linux {}: booting", kernel.release);
    let outcome = match qemu::run(&kernel, &joined, &machine, &directory.0) {
        // Nothing was run, so a second boot hides no failure of ours.
        Err(error) if error.is::<qemu::NotUp>() => {
            eprintln!("linux {}: {error:#}; booting once more", kernel.release);
            qemu::run(&kernel, &joined, &machine, &directory.0)?
        }
        ran => ran?,
    };
    eprintln!(
        "linux {}: exit status {} after {:.1} s of boot and {:.1} s of run",
        kernel.release,
        outcome.status,
        outcome.boot.as_secs_f32(),
        outcome.run.as_secs_f32()
    );
    Ok(outcome)
}

/// A directory that goes when the run is over, whatever came of it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let path = places::cache()?.join("runs").join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
