//! Directory trees as the `newc` cpio archives that the kernel unpacks into its first root. Called for the modules (once
//! a kernel) and for the guest (each run); the kernel takes several such archives one after the other.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Packs everything below `tree`, owned by root, into `archive`.
pub fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    collect(tree, Path::new(""), &mut names)?;
    let file = File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut child = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .context("`busybox cpio` did not start: run `cargo xtask setup`")?;
    if let Some(mut pipe) = child.stdin.take() {
        for name in names {
            pipe.write_all(name.as_os_str().as_bytes())?;
            pipe.write_all(b"\n")?;
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "`busybox cpio` could not pack {} ({status})", tree.display());
    Ok(())
}

/// Parents before their children, as the kernel wants them; sorted, so that the same tree makes the same archive.
fn collect(tree: &Path, below: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let directory = tree.join(below);
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name =
            if below == OsStr::new("") { entry.file_name().into() } else { below.join(entry.file_name()) };
        let is_directory = entry.file_type()?.is_dir();
        names.push(name.clone());
        if is_directory {
            collect(tree, &name, names)?;
        }
    }
    Ok(())
}
