//! Recorded events: the file that a daemon writes and those it was renamed to, oldest first.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::control::protocol::Status;
use crate::exit::{Exit, Failed};
use crate::settings::DEFAULT_EVENTS;
use crate::sink::jsonl::numbered;

/// The file of the running daemon; the default one where none answers.
#[must_use]
pub fn of_daemon(daemon: Option<&Status>) -> PathBuf {
    daemon.and_then(|status| status.events_file.clone()).map_or_else(|| DEFAULT_EVENTS.into(), PathBuf::from)
}

/// Shows every line of an event file and of those it was renamed to; `each` says whether to go on.
///
/// # Errors
/// A file that can't be read, and what `each` says.
pub fn lines(path: &Path, mut each: impl FnMut(&str) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut shown = false;
    for path in oldest_first(path) {
        let file = match File::open(&path) {
            Ok(file) => file,
            // Rotated away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && shown => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let message = format!("can't read events from {}: {error}; run this as root", path.display());
                return Err(Failed::error(Exit::NotPermitted, message));
            }
            Err(error) => {
                return Err(
                    anyhow::Error::new(error).context(format!("can't read events from {}", path.display()))
                );
            }
        };
        shown = true;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| path.display().to_string())?;
            if !each(&line)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The renamed files of an event file and itself.
fn oldest_first(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = (1..).map(|n| numbered(path, n)).take_while(|file| file.exists()).collect();
    files.reverse();
    files.push(path.to_owned());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_files_are_read_oldest_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        for n in [1, 2] {
            std::fs::write(numbered(&path, n), "").unwrap();
        }
        assert_eq!(oldest_first(&path), [numbered(&path, 2), numbered(&path, 1), path]);
    }
}
