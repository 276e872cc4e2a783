//! The end of what is pinned, on purpose: [`detach`].
//!
//! What must stay true: "no agent is governed" is said only when the kernel has let the programs go.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use super::pins::{PinError, failed, hold, on_bpffs, sets_in};
use super::syscalls::program_lives;

/// How long the kernel may take to let the programs go. It detaches a link some time after its last pin went, one by
/// one where it rewrites code: a hundred took a second under emulation.
const END: Duration = Duration::from_secs(20);

/// What became of the pins of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// There were none.
    Nothing,
    /// Nothing is enforced by them any more.
    All,
    /// The pins are gone, and so many programs are in force still: another process holds them.
    Held(usize),
}

/// Removes everything that is pinned in `directory`, and the directory; returns when the kernel has let it go.
///
/// # Errors
/// When a daemon holds the directory, or something can't be removed.
pub fn detach(directory: &Path) -> Result<Detached, PinError> {
    if !directory.is_dir() || !on_bpffs(directory)? {
        return Ok(Detached::Nothing);
    }
    let lock = hold(directory)?;
    let sets = sets_in(directory)?;
    let mounted = sets.iter().any(|set| matches!(set.read_note(), Ok(Some(note)) if note.mounted));
    let found = !sets.is_empty();
    let mut programs = Vec::new();
    for set in sets {
        programs.extend(set.attached()?);
        set.remove()?;
    }
    drop(lock);
    if mounted {
        unmount(directory, UnmountFlags::empty()).map_err(|errno| failed(directory)(errno.into()))?;
    }
    // A mount point that somebody else mounted stays.
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy => return Err(failed(directory)(error)),
        _ if !found => return Ok(Detached::Nothing),
        _ => {}
    }
    let deadline = Instant::now() + END;
    loop {
        programs.retain(|id| program_lives(*id));
        if programs.is_empty() {
            return Ok(Detached::All);
        }
        if Instant::now() > deadline {
            return Ok(Detached::Held(programs.len()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
