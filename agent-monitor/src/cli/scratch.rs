//! A directory of a command's own, gone when the command ends: for files that it makes to load them.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

/// See the module.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new one, for the command of this name.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(command: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let run = Path::new("/run");
        let place = if rustix::process::geteuid().is_root() && run.is_dir() {
            run.to_owned()
        } else {
            std::env::temp_dir()
        };
        let directory = place.join(format!("agent-monitor-{command}.{}.{number}", std::process::id()));
        // Fails where somebody else made it.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| directory.display().to_string())?;
        Ok(Scratch(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover is a directory in /run.
        let _ = fs::remove_dir_all(&self.0);
    }
}
