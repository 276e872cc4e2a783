//! `bpf-linker`: the linker that makes one eBPF object, with BTF, of LLVM bitcode. Called by [`super::run`].
//!
//! What must stay true: it is built against the LLVM of the compiler that emits the bitcode (Debian's `rustc-web` and
//! `llvm-22-dev` are both 22); an older LLVM can't read that bitcode.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::agreed;
use crate::{command, places};

const VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

pub fn install() -> Result<()> {
    let found = places::cargo_bin()?.join("bpf-linker");
    let present = [found.as_path(), Path::new("bpf-linker")].into_iter().find_map(version);
    if present.is_some_and(|version| version >= wanted()) {
        return Ok(());
    }
    eprintln!(
        "bpf-linker {VERSION} is missing: it links the eBPF programs. It is compiled from source with cargo into {}, \
         once, in about two minutes.",
        places::cargo_bin()?.display()
    );
    agreed()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    if Path::new(LLVM).is_dir() {
        // Both: llvm-sys reads the one, bpf-linker's own build script the other, and without it looks in a directory
        // that Debian doesn't have.
        cargo.env("LLVM_PREFIX", LLVM).env("LLVM_SYS_221_PREFIX", LLVM);
        cargo.args(["--no-default-features", "--features", "llvm-22"]);
    }
    // This task's own build must not steer it, and a shared target directory would be locked by whoever runs us.
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    command::long(&mut cargo, &places::cache()?.join("bpf-linker.log"))
        .context("bpf-linker was not installed; without it the eBPF programs cannot be built")
}

fn wanted() -> Vec<u32> {
    numbers(VERSION)
}

fn version(program: &Path) -> Option<Vec<u32>> {
    let text = command::output(Command::new(program).arg("--version")).ok()?;
    text.split_whitespace().nth(1).map(numbers)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.13.0") > numbers("0.9.15"));
        assert!(numbers("1.0") > numbers("0.13.0"));
        assert_eq!(numbers("0.13.0-rc1"), [0, 13]);
    }
}
