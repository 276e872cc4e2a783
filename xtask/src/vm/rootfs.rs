//! Root file systems of Debian's own packages, unpacked and cached. Called by [`super::systemd`] and [`super::tools`].
//!
//! What must stay true: no maintainer script runs, so the host needs neither debootstrap nor a chroot; what was made once
//! needs no network.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::debian::Apt;
use crate::{command, places};

/// What such a root is made of.
pub struct Recipe {
    /// Its directory in the cache.
    pub name: &'static str,
    /// Releases of Debian, as a host's own sources name them.
    pub releases: &'static [&'static str],
    /// With what they depend on, and without what they only recommend.
    pub packages: &'static [&'static str],
    /// Patterns of tar's for what stays out.
    pub left_out: &'static [&'static str],
    /// What else the result depends on: another text here makes it anew.
    pub more: &'static [&'static str],
}

impl Recipe {
    /// The file `name` that `pack` makes of the root, kept until the recipe changes.
    pub fn packed(&self, name: &str, pack: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        let _lock = places::lock_cache()?;
        let home = places::cache()?.join(self.name);
        let (packed, stamp) = (home.join(name), home.join("base.list"));
        let list = [self.releases, self.packages, self.left_out, self.more].concat().join("\n");
        if packed.is_file() && fs::read_to_string(&stamp).is_ok_and(|packed| packed == list) {
            return Ok(packed);
        }
        eprintln!("{}: fetching Debian's packages into {}", self.name, home.display());
        let apt = Apt::open(&format!("{}/apt", self.name), self.releases)?;
        // An apt that knows no installed package resolves the whole tree.
        let mut download = apt.program("apt-get");
        download.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(self.packages);
        apt.fetch(&mut download)?;

        let root = home.join("root");
        let _ = fs::remove_dir_all(&root);
        skeleton(&root)?;
        let archives = apt.archives();
        for entry in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                unpack(&file, &root, self.left_out)?;
            }
        }
        let partial = home.join("partial");
        pack(&root, &partial)?;
        fs::rename(&partial, &packed).with_context(|| format!("cannot make {}", packed.display()))?;
        fs::remove_dir_all(&root)?;
        command::output(apt.program("apt-get").arg("clean"))?;
        fs::write(&stamp, list)?;
        Ok(packed)
    }
}

/// The directories that Debian's base packages make by their scripts.
fn skeleton(root: &Path) -> Result<()> {
    for directory in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        symlink(Path::new("usr").join(directory), root.join(directory))?;
    }
    for directory in ["dev", "proc", "sys", "run", "tmp", "root", "home", "mnt", "var/log", "var/tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for directory in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// As `dpkg -x`, which would put directories where `/bin` and its like are links into `/usr`.
fn unpack(package: &Path, root: &Path, left_out: &[&str]) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("`dpkg-deb` did not start")?;
    let from = dpkg.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--directory"]).arg(root).stdin(from);
    tar.args(left_out.iter().map(|pattern| format!("--exclude={pattern}")));
    let status = tar.status().context("`tar` did not start")?;
    let read = dpkg.wait()?;
    ensure!(status.success() && read.success(), "{} can't be unpacked ({read}, {status})", package.display());
    Ok(())
}
