//! Builds the eBPF object and lays it at `$OUT_DIR/agent-monitor.bpf.o`, where the binary embeds it.
//!
//! Cargo calls this before it compiles `agent-monitor`. The programs are for another target, another profile and
//! unstable features, so they are built by a cargo of their own, by the first of two routes that this host offers:
//!
//! 1. Debian's `rustc-web` with `libstd-rust-web-dev-bpf`, which ships a compiled `core` for the BPF target;
//! 2. rustup's nightly with `rust-src`, which compiles `core` itself (`-Zbuild-std`).
//!
//! `AGENT_MONITOR_EBPF_TOOLCHAIN=debian` or `nightly` takes that one and no other, for whoever wants to know which.
//!
//! What must stay true: nothing of the outer cargo's environment steers the inner one; a host that offers neither
//! route gets one sentence that names the command which sets it up; a change to either kernel-side crate rebuilds.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crate that holds the programs, and so the file name that its build leaves behind.
const EBPF_CRATE: &str = "agent-monitor-ebpf";

/// Names the one route to take.
const TOOLCHAIN: &str = "AGENT_MONITOR_EBPF_TOOLCHAIN";

/// Features of this crate that the eBPF crate has under the same name.
const SHARED_FEATURES: &[&str] = &["kernel-log", "bench", "fault-injection"];

/// What the inner build must be, whatever the workspace's own release profile is: one module for the linker to see
/// whole, no unwinding, and full debug information because BTF is made from it.
const INNER_PROFILE: &[(&str, &str)] = &[
    ("OPT_LEVEL", "3"),
    ("LTO", "fat"),
    ("CODEGEN_UNITS", "1"),
    ("PANIC", "abort"),
    ("DEBUG", "2"),
    ("STRIP", "none"),
    ("DEBUG_ASSERTIONS", "false"),
    ("OVERFLOW_CHECKS", "false"),
];

/// A compiler that can build for the BPF target.
enum Route {
    /// Debian's packages: the compiler and the cargo beside it.
    Debian { rustc: PathBuf, cargo: PathBuf },
    /// `rustup run nightly cargo`, with the sources of `core`.
    Nightly,
}

fn main() {
    if let Err(sentence) = build() {
        // One line, shown by cargo as this package's error and nothing else.
        println!("cargo::error={sentence}");
    }
}

fn build() -> Result<(), String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("agent-monitor's manifest has no workspace above it")?;
    let out = PathBuf::from(variable("OUT_DIR")?);

    for watched in ["agent-monitor-ebpf", "agent-monitor-common", "Cargo.lock", "agent-monitor/build.rs"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }

    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let path = path_with_cargo_bin()?;
    let linker = find(&path, "bpf-linker").ok_or_else(|| set_up("bpf-linker is not installed"))?;
    let route = choose(target, &path)?;
    // A new linker or compiler makes another object.
    println!("cargo::rerun-if-changed={}", linker.display());
    if let Route::Debian { rustc, .. } = &route {
        println!("cargo::rerun-if-changed={}", rustc.display());
    }

    let inner_target = out.join("ebpf");
    let mut cargo = inner_cargo(&route, &path);
    cargo
        .current_dir(workspace)
        .args(["build", "--release", "--locked", "--package", EBPF_CRATE, "--target", target])
        .arg("--target-dir")
        .arg(&inner_target);
    for feature in SHARED_FEATURES {
        let variable = format!("CARGO_FEATURE_{}", feature.to_uppercase().replace('-', "_"));
        if env::var_os(variable).is_some() {
            cargo.args(["--features", feature]);
        }
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", architecture.to_string_lossy()),
    ];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    for (key, value) in INNER_PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }

    // Its diagnostics go to this script's stderr, which cargo shows when the script fails.
    let status = cargo.status().map_err(|error| format!("{cargo:?} did not start: {error}"))?;
    if !status.success() {
        return Err(format!("the eBPF programs did not build ({status}); the compiler's words are above"));
    }

    let built = inner_target.join(target).join("release").join(EBPF_CRATE);
    let object = out.join("agent-monitor.bpf.o");
    fs::copy(&built, &object)
        .map_err(|error| format!("cannot copy {} to {}: {error}", built.display(), object.display()))?;
    Ok(())
}

/// The one sentence for a host that lacks something.
fn set_up(lack: &str) -> String {
    format!("{lack}, so the eBPF programs cannot be built: run `cargo xtask setup` once, then build again")
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// The search path with cargo's own binaries first: `bpf-linker` is installed there, and a build started by a
/// service or an editor often lacks that directory.
fn path_with_cargo_bin() -> Result<OsString, String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .ok_or("neither CARGO_HOME nor HOME is set")?;
    let old = env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(home.join("bin")).chain(env::split_paths(&old));
    env::join_paths(places).map_err(|error| format!("PATH cannot be extended: {error}"))
}

fn find(path: &OsStr, program: &str) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn choose(target: &str, path: &OsStr) -> Result<Route, String> {
    println!("cargo::rerun-if-env-changed={TOOLCHAIN}");
    let wanted = env::var_os(TOOLCHAIN).unwrap_or_default();
    let (debian, nightly) = match wanted.to_str() {
        Some("") => (true, true),
        Some("debian") => (true, false),
        Some("nightly") => (false, true),
        _ => return Err(format!("{TOOLCHAIN} is {wanted:?}: unset it, or set it to debian or nightly")),
    };
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    if debian && rustc.is_file() && cargo.is_file() && has_core(&rustc, target) {
        return Ok(Route::Debian { rustc, cargo });
    }
    if nightly && find(path, "rustup").is_some_and(|rustup| has_sources(&rustup)) {
        return Ok(Route::Nightly);
    }
    Err(match (debian, nightly) {
        (false, _) => format!(
            "{TOOLCHAIN} asks for rustup's nightly, which is not here with its sources: run `rustup toolchain install \
             nightly --component rust-src`, then build again"
        ),
        _ => set_up("no Rust compiler on this host has `core` for the BPF target"),
    })
}

/// Whether this compiler has a compiled `core` for `target`.
fn has_core(rustc: &Path, target: &str) -> bool {
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", target]);
    let Some(directory) = first_line(shed_outer_cargo(&mut command)) else { return false };
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

/// Whether rustup has a nightly with `rust-src`.
fn has_sources(rustup: &Path) -> bool {
    let mut command = Command::new(rustup);
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    first_line(shed_outer_cargo(&mut command))
        .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().map(str::to_owned))?
}

fn inner_cargo(route: &Route, path: &OsStr) -> Command {
    let mut command = match route {
        Route::Debian { cargo, .. } => Command::new(cargo),
        Route::Nightly => Command::new("rustup"),
    };
    shed_outer_cargo(&mut command).env("PATH", path);
    match route {
        // The stable compiler accepts `no_std` programs for a tier-3 target only when told so.
        Route::Debian { rustc, .. } => command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1"),
        Route::Nightly => command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]),
    };
    // Empty means none, and wins over a wrapper named in somebody's cargo configuration.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

/// Takes away what the outer cargo, rustup and clippy tell *this* process about *this* build. What a person sets for
/// every cargo (home, network, registries, terminal) stays.
fn shed_outer_cargo(command: &mut Command) -> &mut Command {
    const STAYS: &[&str] = &[
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const GOES: &[&str] =
        &["CLIPPY_ARGS", "LD_LIBRARY_PATH", "RUSTDOC", "RUSTDOCFLAGS", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_cargo = text.starts_with("CARGO") && !STAYS.iter().any(|prefix| text.starts_with(prefix));
        if of_cargo || text.starts_with("RUSTC") || GOES.contains(&text) {
            command.env_remove(&name);
        }
    }
    command
}
