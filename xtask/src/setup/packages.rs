//! Debian packages: which are needed for what, which are missing, and how they get here. Called by [`super::run`].
//!
//! What must stay true: one look at dpkg when all is there; `apt-get update` only when this host's lists don't know a
//! package, or name a file that the mirror no longer has; no recommended packages.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::{Need, agreed};
use crate::{command, places};

/// What some packages are for, in the words that a person reads before they are installed.
struct Group {
    why: &'static str,
    only_for_tests: bool,
    packages: &'static [&'static str],
}

const GROUPS: &[Group] = &[
    Group {
        why: "a Rust compiler with a ready-made `core` for eBPF; rustup's stays the one for everything else",
        only_for_tests: false,
        packages: &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
    },
    Group {
        why: "the LLVM of that compiler, for building bpf-linker",
        only_for_tests: false,
        packages: &[
            "llvm-22-dev",
            "libpolly-22-dev",
            "zlib1g-dev",
            "libzstd-dev",
            "libxml2-dev",
            "g++",
            "libc6-dev",
        ],
    },
    Group {
        why: "virtual machines that run tests on other kernels",
        only_for_tests: true,
        packages: &[
            "qemu-system-x86",
            "busybox-static",
            "kmod",
            "zstd",
            "lz4",
            "xz-utils",
            "binutils",
            "e2fsprogs",
        ],
    },
    Group {
        why: "programs that look names up, each in its own way, for the tests of names",
        only_for_tests: true,
        packages: &["bind9-dnsutils", "curl", "golang-go", "musl-tools", "nodejs", "openssl"],
    },
    Group {
        why: "network namespaces for the demo and the kernel tests",
        only_for_tests: false,
        packages: &["iproute2"],
    },
];

pub fn install(need: Need) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        return elsewhere();
    }
    let groups: Vec<&Group> =
        GROUPS.iter().filter(|group| need == Need::Test || !group.only_for_tests).collect();
    let wanted: Vec<&str> = groups.iter().flat_map(|group| group.packages).copied().collect();
    let present = installed(&wanted)?;
    let missing: Vec<&str> = wanted.into_iter().filter(|package| !present.contains(*package)).collect();
    if missing.is_empty() {
        return Ok(());
    }

    eprintln!("These Debian packages are missing:");
    for group in groups {
        let mine: Vec<&str> = group.packages.iter().copied().filter(|name| missing.contains(name)).collect();
        if !mine.is_empty() {
            eprintln!("  {}\n      {}", mine.join(" "), group.why);
        }
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    // SAFETY: geteuid takes nothing, always succeeds and touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        bail!("installing them needs root: run `sudo {by_hand}`, then this command again");
    }
    agreed()?;

    if !unknown(&missing)?.is_empty() {
        update()?;
        let still = unknown(&missing)?;
        if !still.is_empty() {
            bail!(
                "this host's package sources don't offer {}: add Debian 12's `bookworm` and `bookworm-security` to \
                 them and run this again, or use rustup's nightly (README, \"Building elsewhere\")",
                still.join(", ")
            );
        }
    }
    if fetch_and_unpack(&missing).is_err() {
        // The lists may be older than the mirror.
        eprintln!("  trying once more with fresh package lists");
        update()?;
        fetch_and_unpack(&missing)?;
    }
    Ok(())
}

/// A host without apt must bring its own: say so only where something is truly missing.
fn elsewhere() -> Result<()> {
    let sources =
        command::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
            .is_ok_and(|sysroot| {
                Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
            });
    if sources {
        return Ok(());
    }
    bail!(
        "this is no Debian, so xtask can't install packages here: run `rustup toolchain install nightly --component \
         rust-src` and `cargo install bpf-linker`, then this again"
    )
}

fn installed(packages: &[&str]) -> Result<HashSet<String>> {
    // dpkg-query's exit status says whether one is unknown, which is no error here.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"])
        .args(packages)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_prefix("ii ")).map(|name| name.trim().to_owned()).collect())
}

/// The packages for which apt's lists have no candidate.
fn unknown<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let policy = command::output(Command::new("apt-cache").arg("policy").args(packages).env("LC_ALL", "C"))?;
    let mut offered = HashSet::new();
    let mut name = "";
    for line in policy.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|package| !package.starts_with(' ')) {
            name = package;
        } else if line.trim().strip_prefix("Candidate: ").is_some_and(|candidate| candidate != "(none)") {
            offered.insert(name);
        }
    }
    Ok(packages.iter().copied().filter(|package| !offered.contains(package)).collect())
}

fn update() -> Result<()> {
    eprintln!("  fetching Debian's package lists (apt-get update)");
    command::long(Command::new("apt-get").arg("update"), &places::cache()?.join("apt-update.log"))
}

fn fetch_and_unpack(packages: &[&str]) -> Result<()> {
    eprintln!("  installing (apt-get install)");
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1");
    command::long(&mut apt, &places::cache()?.join("apt-install.log"))
}
