//! Living processes that a profile claims: found in `/proc` when the daemon starts.
//!
//! Called by the daemon after the claims are in force in the kernel, so that what starts meanwhile is labelled by its
//! exec. The answer rests on the very automaton that the exec hook walks.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_monitor_common::automaton::answer;
use agent_monitor_common::image::{field, header};

/// A process whose executable a profile claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub pid: u32,
    pub slot: u32,
    /// Clock ticks since boot: parents start before their children.
    started: u64,
}

/// The slot of the profile that claims `path`, by a claims image.
#[must_use]
pub fn claimed_by(image: &[u64], path: &[u8]) -> Option<u32> {
    answer(image, u32::try_from(field(image, header::START_EXE)).ok()?, path).checked_sub(1)
}

/// Claimed processes in `proc`, oldest first. Processes that end meanwhile are left out.
#[must_use]
pub fn claimed(proc: &Path, image: &[u64]) -> Vec<Claimed> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // Kernel threads have no executable.
            let exe = fs::read_link(entry.path().join("exe")).ok()?;
            let slot = claimed_by(image, exe.as_os_str().as_bytes())?;
            Some(Claimed { pid, slot, started: started(&entry.path())? })
        })
        .collect();
    found.sort_by_key(|process| (process.started, process.pid));
    found
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); `comm` may hold spaces and parentheses.
fn started(directory: &Path) -> Option<u64> {
    let stat = fs::read(directory.join("stat")).ok()?;
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}
