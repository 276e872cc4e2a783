//! The host's files, as somebody reads them who believes no file name.
//!
//! A file counts where nobody but root and the user whose home it lies in can write it: what is opened is the file
//! itself (no link, no device, one name only), and who may write it is asked of the open descriptor, whose path is the
//! one that the profile's rules are then asked about.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::policy::homes;

/// Most files that a pattern may find.
const MAX_FOUND: usize = 64;
/// Longest text that is read.
const MAX_TEXT: u64 = 1024 * 1024;
/// What is read of a program at a time, and what is kept of the piece before.
const PIECE: usize = 1024 * 1024;
const KEPT: usize = 1024;
/// Most of a program that is read.
const MAX_PROGRAM: u64 = 256 * 1024 * 1024;

/// A host: this one, or one below a directory, for images and tests.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    /// Whose files are the system's: root's, or where there is another root directory its owner's.
    owner: u32,
    homes: Vec<PathBuf>,
}

/// A file that could be opened, by the path that it has on the host.
#[derive(Debug)]
pub struct Opened {
    pub path: PathBuf,
    file: File,
    /// Why it does not count, whatever the profile says.
    pub doubt: Option<&'static str>,
    /// It lies in a user's home.
    pub of_user: bool,
}

impl Host {
    /// This host.
    #[must_use]
    pub fn this() -> Self {
        Self { root: PathBuf::from("/"), owner: 0, homes: homes::of_host() }
    }

    /// A host whose root directory is `root`.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn below(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let owner = root.metadata()?.uid();
        let homes = homes::below(&root);
        Ok(Self { root, owner, homes })
    }

    /// Homes, as they are named on the host.
    #[must_use]
    pub fn homes(&self) -> &[PathBuf] {
        &self.homes
    }

    /// A path of the host as this process sees it.
    #[must_use]
    pub fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What exists of a pattern of paths (`~`: every home), as paths of the host, sorted.
    #[must_use]
    pub fn find(&self, pattern: &str) -> Vec<PathBuf> {
        let homes: Vec<PathBuf> = match pattern.strip_prefix("~/") {
            Some(rest) => self.homes.iter().map(|home| PathBuf::from(literal(home)).join(rest)).collect(),
            None => vec![PathBuf::from(pattern)],
        };
        let root = PathBuf::from(literal(&self.root));
        let patterns = homes.iter().map(|pattern| root.join(pattern.strip_prefix("/").unwrap_or(pattern)));
        let found = patterns.filter_map(|pattern| glob::glob(pattern.to_str()?).ok()).flatten().flatten();
        let mut found: Vec<PathBuf> = found.filter_map(|path| self.named(&path)).take(MAX_FOUND).collect();
        found.sort_unstable();
        found
    }

    /// The path on the host of what this process sees at `path`.
    fn named(&self, path: &Path) -> Option<PathBuf> {
        Some(Path::new("/").join(path.strip_prefix(&self.root).ok()?))
    }

    /// Opens the file that a path of the host leads to. `None`: there is none.
    ///
    /// # Errors
    /// When it can't be opened, or leads out of the host.
    pub fn open(&self, path: &Path) -> io::Result<Option<Opened>> {
        let target = match self.at(path).canonicalize() {
            Ok(target) => target,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&target)?;
        let facts = file.metadata()?;
        // What was opened, not what the name meant a moment ago.
        let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let path = self.named(&opened).ok_or_else(|| io::Error::other("it leads out of the host"))?;
        let home = self.homes.iter().find(|home| path.starts_with(home));
        let doubt = self.doubt(&facts, &opened, home);
        Ok(Some(Opened { path, file, doubt, of_user: home.is_some() }))
    }

    fn doubt(&self, facts: &Metadata, opened: &Path, home: Option<&PathBuf>) -> Option<&'static str> {
        let user = home.and_then(|home| self.at(home).metadata().ok()).map(|facts| facts.uid());
        let known = |uid: u32| uid == self.owner || Some(uid) == user;
        if !facts.is_file() {
            return Some("it is no plain file");
        }
        if facts.nlink() != 1 {
            return Some("it has several names (hard links)");
        }
        if !known(facts.uid()) {
            return Some("it belongs neither to root nor to the user whose home it is in");
        }
        if facts.mode() & 0o022 != 0 {
            return Some("its group or everybody may write it");
        }
        for above in opened.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            let Ok(facts) = above.metadata() else { return Some("a directory above it can't be looked at") };
            // What lies above another root directory is nothing of that host.
            if above != self.root && (facts.mode() & 0o002 != 0 || !known(facts.uid())) {
                return Some("others may write a directory above it");
            }
        }
        None
    }
}

/// A path as a pattern that matches it alone.
fn literal(path: &Path) -> String {
    glob::Pattern::escape(&path.to_string_lossy())
}

impl Opened {
    /// The whole of a text.
    ///
    /// # Errors
    /// When it can't be read, is longer than any configuration, or is no UTF-8.
    pub fn text(self) -> io::Result<String> {
        let mut text = String::new();
        self.file.take(MAX_TEXT + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_TEXT {
            return Err(io::Error::other("it is too long"));
        }
        Ok(text)
    }

    /// Shows what stands around each `needle` of a program to `read`, until it makes something of it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn search<T>(self, needle: &str, read: impl Fn(&[u8], usize) -> Option<T>) -> io::Result<Option<T>> {
        let finder = memchr::memmem::Finder::new(needle);
        let mut file = self.file.take(MAX_PROGRAM);
        let mut piece = vec![0; KEPT + PIECE];
        let mut kept = 0;
        loop {
            let mut filled = kept;
            while filled < piece.len() {
                match file.read(&mut piece[filled..])? {
                    0 => break,
                    more => filled += more,
                }
            }
            if let Some(found) = finder.find_iter(&piece[..filled]).find_map(|at| read(&piece[..filled], at))
            {
                return Ok(Some(found));
            }
            if filled < piece.len() {
                return Ok(None);
            }
            piece.copy_within(filled - KEPT.., 0);
            kept = KEPT;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn doubts(prepare: impl Fn(&Path)) -> Option<&'static str> {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("npmrc"), "registry=https://one.example/\n").unwrap();
        fs::set_permissions(etc.join("npmrc"), fs::Permissions::from_mode(0o644)).unwrap();
        prepare(&etc);
        let host = Host::below(root.path()).unwrap();
        host.open(Path::new("/etc/npmrc")).unwrap().unwrap().doubt
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_may_write_is_in_doubt() {
        assert_eq!(doubts(|_| {}), None);
        assert!(doubts(|etc| chmod(&etc.join("npmrc"), 0o664)).unwrap().contains("group"));
        assert!(doubts(|etc| chmod(etc, 0o777)).unwrap().contains("directory above"));
        assert!(
            doubts(|etc| fs::hard_link(etc.join("npmrc"), etc.join("second")).unwrap())
                .unwrap()
                .contains("names")
        );
        let other = |etc: &Path| {
            fs::create_dir(etc.join("open")).unwrap();
            fs::rename(etc.join("npmrc"), etc.join("open/npmrc")).unwrap();
            chmod(&etc.join("open"), 0o777);
            symlink("open/npmrc", etc.join("npmrc")).unwrap();
        };
        assert!(doubts(other).unwrap().contains("directory above"));
        let device = |etc: &Path| {
            fs::remove_file(etc.join("npmrc")).unwrap();
            let path = std::ffi::CString::new(etc.join("npmrc").to_str().unwrap()).unwrap();
            // SAFETY: a path that lives through the call.
            assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o644) }, 0);
        };
        // Nor does it wait for somebody who writes into a pipe.
        assert!(doubts(device).unwrap().contains("plain file"));
    }

    #[test]
    fn a_link_out_of_the_host_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("/proc/self/status", root.path().join("etc/npmrc")).unwrap();
        let host = Host::below(root.path()).unwrap();
        assert!(host.open(Path::new("/etc/npmrc")).is_err());
        assert!(host.open(Path::new("/etc/missing")).unwrap().is_none());
    }

    #[test]
    fn a_program_is_searched_across_pieces() {
        let root = tempfile::tempdir().unwrap();
        for at in [0, PIECE + KEPT - 5, 3 * PIECE] {
            let mut bytes = vec![b'.'; at];
            bytes.extend(b"needle-found ");
            fs::write(root.path().join("program"), bytes).unwrap();
            let opened = Host::below(root.path()).unwrap().open(Path::new("/program")).unwrap().unwrap();
            let behind = |around: &[u8], at: usize| around.get(at + 7..at + 12).map(<[u8]>::to_vec);
            assert_eq!(opened.search("needle-", behind).unwrap().as_deref(), Some(&b"found"[..]), "{at}");
        }
    }
}
