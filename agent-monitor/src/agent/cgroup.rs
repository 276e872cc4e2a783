//! The cgroups of agents: one for each that `run` starts, and those that profiles claim.
//!
//! Called by the daemon. A cgroup of its own gives an agent's resource use a name; it carries no policy, since an
//! agent is known by its label wherever it goes. What must stay true: only cgroups below the governed one are made,
//! and only cgroups that were made here are removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Makes `<agents>/<name>`; its directory.
///
/// # Errors
/// When the cgroup file system refuses.
pub fn make(agents: &Path, name: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(agents)?;
    let directory = agents.join(name);
    fs::create_dir(&directory)?;
    Ok(directory)
}

/// Moves a process with all its threads.
///
/// # Errors
/// When the kernel refuses: gone, or the target is no domain cgroup.
pub fn join(directory: &Path, pid: u32) -> io::Result<()> {
    fs::write(directory.join("cgroup.procs"), pid.to_string())
}

/// Removes an agent's cgroup with the empty ones that it made inside. Whether it is gone; a living process keeps it.
pub fn remove(directory: &Path) -> bool {
    for child in children(directory) {
        remove(&child);
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Extended attribute of an agent's cgroup: the name of its profile. Only `CAP_SYS_ADMIN` can write `trusted.*`, so
/// an agent that owns the directory can't change it.
const PROFILE_ATTRIBUTE: &str = "trusted.agent-monitor.profile";

/// Notes the profile at the agent's cgroup, for a daemon that is started again while the agent lives.
///
/// # Errors
/// When the kernel refuses (before 5.7 cgroups have no such attributes).
pub fn note_profile(directory: &Path, profile: &str) -> io::Result<()> {
    use rustix::fs::{XattrFlags, setxattr};
    Ok(setxattr(directory, PROFILE_ATTRIBUTE, profile.as_bytes(), XattrFlags::empty())?)
}

/// The profile that was noted at an agent's cgroup.
#[must_use]
pub fn noted_profile(directory: &Path) -> Option<String> {
    let mut buffer = [0_u8; 256];
    let length = rustix::fs::getxattr(directory, PROFILE_ATTRIBUTE, &mut buffer[..]).ok()?;
    String::from_utf8(buffer.get(..length)?.to_vec()).ok()
}

/// The directory of a process' cgroup in the hierarchy that is mounted at `mount`.
#[must_use]
pub fn of_process(mount: &Path, pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(mount.join(path.trim_start_matches('/')))
}

/// Processes in a cgroup and all below it.
pub fn processes(directory: &Path, found: &mut Vec<u32>) {
    // A cgroup that vanishes meanwhile has none.
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid != 0));
    for child in children(directory) {
        processes(&child, found);
    }
}

/// The cgroups directly below one.
#[must_use]
pub fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The part of a cgroup glob before its first wildcard, up to a `/`: everything that can match lies below it.
#[must_use]
pub fn fixed_prefix(glob: &str) -> &str {
    let end = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    if end == glob.len() {
        return glob;
    }
    &glob[..glob[..end].rfind('/').map_or(0, |slash| slash + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_prefix_is_a_directory() {
        assert_eq!(fixed_prefix("/system.slice/agent-*.service"), "/system.slice/");
        assert_eq!(fixed_prefix("/a/b"), "/a/b");
        assert_eq!(fixed_prefix("/*"), "/");
        assert_eq!(fixed_prefix("/a/{b,c}/d"), "/a/");
    }

    #[test]
    fn processes_of_nested_directories_are_gathered() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("child")).unwrap();
        fs::write(root.path().join("cgroup.procs"), "1\n0\n2\n").unwrap();
        fs::write(root.path().join("child/cgroup.procs"), "3\n").unwrap();
        let mut found = Vec::new();
        processes(root.path(), &mut found);
        assert_eq!(found, [1, 2, 3]);
    }
}
