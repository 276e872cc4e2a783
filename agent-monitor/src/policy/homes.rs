//! The homes that `~` stands for. Called by the loader for path rules, and by the daemon for claims.

use std::path::{Path, PathBuf};

/// Home directories of the host's users.
#[must_use]
pub fn of_host() -> Vec<PathBuf> {
    below(Path::new("/"))
}

/// Home directories of the users of the host whose root directory is `root`, as they are named there: those of
/// `/etc/passwd`, and what is in `/home` for users of other name services.
#[must_use]
pub fn below(root: &Path) -> Vec<PathBuf> {
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let mut homes: Vec<PathBuf> = passwd
        .lines()
        .filter_map(|line| line.split(':').nth(5))
        // Service users share the root directory and made-up ones: `~/x` must not claim `/x`.
        .filter(|home| home.starts_with('/') && *home != "/" && !home.starts_with("/nonexistent"))
        .map(PathBuf::from)
        .collect();
    if let Ok(entries) = std::fs::read_dir(root.join("home")) {
        homes.extend(entries.flatten().map(|entry| Path::new("/home").join(entry.file_name())));
    }
    homes.sort();
    homes.dedup();
    homes
}
