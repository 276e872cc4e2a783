//! cgroups of the tests' own: made under the cgroup v2 mount, killed and removed on drop.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Prefix of every cgroup that these tests make; the pid of the maker follows.
const PREFIX: &str = "agent-monitor-test-";

/// A cgroup that is ours.
pub struct Cgroup {
    path: PathBuf,
}

/// Where cgroup v2 is mounted, from `/proc/self/mountinfo`: in hybrid mode it is not `/sys/fs/cgroup`.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("can't read /proc/self/mountinfo")?;
    for line in mounts.lines() {
        // proc(5): the fields before " - " end with the mount point in the fifth, the type follows the separator.
        let Some((before, after)) = line.split_once(" - ") else { continue };
        if after.split(' ').next() == Some("cgroup2")
            && let Some(path) = before.split(' ').nth(4)
        {
            return Ok(PathBuf::from(path));
        }
    }
    bail!("no cgroup2 file system is mounted")
}

/// Removes cgroups of test processes that are gone.
pub fn remove_leftovers() -> Result<()> {
    for entry in fs::read_dir(mount_point()?)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let Some(pid) = rest.split('-').next() else { continue };
        if !Path::new("/proc").join(pid).exists() {
            drop(Cgroup { path });
        }
    }
    Ok(())
}

impl Cgroup {
    /// Makes `agent-monitor-test-<pid>-<name>`.
    pub fn create(name: &str) -> Result<Self> {
        let path = mount_point()?.join(format!("{PREFIX}{}-{name}", std::process::id()));
        Self::at(path)
    }

    /// Makes a cgroup below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::at(self.path.join(name))
    }

    fn at(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("can't make the cgroup {}", path.display()))?;
        Ok(Cgroup { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling process into it.
    pub fn enter(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
    }

    /// Whether a living process is in it or below it; a zombie does not count.
    fn populated(path: &Path) -> bool {
        fs::read_to_string(path.join("cgroup.events")).is_ok_and(|s| s.contains("populated 1"))
    }

    fn remove(path: &Path) {
        if let Ok(entries) = fs::read_dir(path) {
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                Self::remove(&entry.path());
            }
        }
        // A dying process holds its cgroup a moment longer than its parent's wait(2).
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(path).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
            && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }

    /// Kills every process in it and below it, and waits until they are gone.
    pub fn kill(&self) {
        // cgroup.kill exists since 5.14; every kernel of these tests has it.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Self::populated(&self.path) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        Self::remove(&self.path);
    }
}
