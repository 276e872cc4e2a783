//! Finds the objects that a profile's rules deny, so that they can be marked (`kernel::marks`): what has a second name
//! since before an agent was is denied under that name too.
//!
//! Called by the daemon before it puts an image in force and at every reload. Walks the file system from the root, only
//! where the automaton of the denials says that something denied may lie; first for rules that begin with a place, then
//! for those that begin with `**`, which may be anywhere. Links are not followed, and file systems that hold no files of
//! their own (`/proc`) or wait for others (network, FUSE) are left out.
//!
//! What must stay true: it ends. An agent can make more directories than anybody walks; what was not reached is told.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use agent_monitor_common::automaton::{TERMINAL, accept, step};
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::path::{ALL_RIGHTS, DENIED_SHIFT, Rights};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstatfs, openat2};

use crate::kernel::DeniedObject;
use crate::policy::compile::{self, CompileError};
use crate::policy::{PathRule, ResolvedProfile};

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Directory entries looked at.
    pub entries: usize,
    /// Objects found.
    pub objects: usize,
    pub time: Duration,
}

impl Default for Limits {
    /// For one profile at one reload.
    fn default() -> Self {
        Limits { entries: 200_000, objects: 8_192, time: Duration::from_secs(1) }
    }
}

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub objects: Vec<DeniedObject>,
    /// Directory entries looked at.
    pub entries: usize,
    /// The directory at which a limit ended the search.
    pub cut_at: Option<Vec<u8>>,
}

/// A glob that no path matches: no directory of that name can hold anything.
const NOWHERE: &str = "/\u{10FFFF}";

/// Looks for what `profile` denies.
///
/// # Errors
/// When the denials can't be compiled; their profile can't be either.
pub fn find(profile: &ResolvedProfile, limits: Limits) -> Result<Found, CompileError> {
    let mut search = Search { found: Found::default(), limits, end: Instant::now() + limits.time };
    let classes = compile::memberships(profile)?.len();
    let anywhere = |rule: &PathRule| rule.glob.starts_with("**");
    for with_anywhere in [false, true] {
        let (denials, any) = denials_of(profile, |rule| with_anywhere == anywhere(rule));
        if any && search.found.cut_at.is_none() {
            let words = compile::profile(&denials)?.words;
            let starts = (0..classes as u32)
                .map(|number| (number, Class::new(number).field(words.as_slice(), class::START_PATH) as u32));
            search.walk(&Denials { starts: starts.collect(), words });
        }
    }
    Ok(search.found)
}

/// The profile with the denials that are `chosen` and nothing else about paths, and whether there are any. Its rules stay
/// as many as they were, so that its classes of programs do.
fn denials_of(profile: &ResolvedProfile, chosen: impl Fn(&PathRule) -> bool) -> (ResolvedProfile, bool) {
    let mut only = profile.clone();
    // The sockets of a rule are told by the name at which they are bound.
    only.protected.paths.retain(&chosen);
    let mut any = !only.protected.paths.is_empty();
    let files = only
        .filesystem
        .iter_mut()
        .flat_map(|files| [(&mut files.read, false), (&mut files.write, false), (&mut files.deny, true)]);
    let exec = only.exec.iter_mut().flat_map(|exec| {
        exec.pins.clear();
        [(&mut exec.allow, false), (&mut exec.deny, true), (&mut exec.pinned, true)]
    });
    let unix = only.unix.iter_mut().flat_map(|unix| [(&mut unix.allow, false), (&mut unix.deny, false)]);
    for (rules, denies) in files.chain(exec).chain(unix) {
        for rule in rules {
            if denies && chosen(rule) {
                any = true;
            } else {
                rule.glob = NOWHERE.to_owned();
            }
        }
    }
    (only, any)
}

/// The automata of the denials, by class.
struct Denials {
    words: Vec<u64>,
    starts: Vec<(u32, u32)>,
}

/// Where the automata are behind a path.
type At = Vec<(u32, u32)>;

impl Denials {
    fn behind(&self, at: &At, bytes: &[u8]) -> At {
        at.iter()
            .map(|&(class, state)| {
                let mut state = state;
                for &byte in bytes {
                    if state & TERMINAL != 0 {
                        break;
                    }
                    state = step(self.words.as_slice(), state, byte);
                }
                (class, state)
            })
            .collect()
    }

    fn denied(&self, state: u32) -> Rights {
        accept(self.words.as_slice(), state) >> DENIED_SHIFT & ALL_RIGHTS
    }
}

/// Whether nothing is denied from here on.
fn over(at: &At) -> bool {
    at.iter().all(|&(_, state)| state & TERMINAL != 0 && state >> DENIED_SHIFT & ALL_RIGHTS == 0)
}

struct Search {
    found: Found,
    limits: Limits,
    end: Instant,
}

impl Search {
    /// Breadth first: what lies deep under one directory does not hide the others.
    fn walk(&mut self, denials: &Denials) {
        let mut next: VecDeque<(Vec<u8>, At)> = VecDeque::new();
        next.push_back((Vec::new(), denials.behind(&denials.starts, b"/")));
        while let Some((path, at)) = next.pop_front() {
            let Some(directory) = opened(if path.is_empty() { b"/" } else { &path }) else { continue };
            let Ok(entries) = Dir::read_from(&directory) else { continue };
            for entry in entries {
                let Ok(entry) = entry else { break };
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                self.found.entries += 1;
                let behind = denials.behind(&at, name);
                if over(&behind) {
                    continue;
                }
                if self.found.entries > self.limits.entries
                    || self.found.objects.len() >= self.limits.objects
                    || Instant::now() > self.end
                {
                    self.found.cut_at = Some(path);
                    return;
                }
                let child = [path.as_slice(), b"/", name].concat();
                let directory = match entry.file_type() {
                    FileType::Symlink => continue,
                    FileType::Directory => true,
                    FileType::Unknown => opened(&child).is_some(),
                    _ => false,
                };
                let inside = if directory { denials.behind(&behind, b"/") } else { At::new() };
                let denied = behind.iter().enumerate().filter_map(|(index, &(class, state))| {
                    let own = denials.denied(state);
                    let inside = inside.get(index).map_or(0, |&(_, state)| denials.denied(state));
                    (own | inside != 0).then_some((class, own, inside))
                });
                let denied: Vec<_> = denied.collect();
                if !denied.is_empty() {
                    self.found.objects.push(DeniedObject { path: child.clone(), denied });
                }
                if directory && !over(&inside) {
                    next.push_back((child, inside));
                }
            }
        }
    }
}

/// A directory by a path without links, on a file system that is searched.
fn opened(path: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = OsStr::from_bytes(path);
    // A name alone opens nothing, mounts nothing and waits for nobody.
    let named = openat2(
        rustix::fs::CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )
    .ok()?;
    if LEFT_OUT.contains(&fstatfs(&named).ok()?.f_type) {
        return None;
    }
    openat2(&named, ".", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()
}

/// File systems (`f_type` of statfs(2), include/uapi/linux/magic.h) without files of their own: proc, sysfs, cgroup,
/// cgroup2, debugfs, tracefs, securityfs, bpf, devpts, mqueue, pstore, configfs, binfmt_misc, selinuxfs, efivarfs,
/// autofs; and those that wait for others: FUSE, NFS, CIFS, SMB2, Ceph, AFS, 9P.
const LEFT_OUT: [i64; 23] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x1cd1,
    0x1980_0202,
    0x6165_676c,
    0x6265_6570,
    0x4249_4e4d,
    0xf97c_ff8c,
    0xde5e_81e4,
    0x0187,
    0x6573_5546,
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
    0x00c3_6400,
    0x5346_414f,
    0x0102_1997,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load_profile;

    fn profile(deny: &str) -> ResolvedProfile {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.yaml");
        let text = format!(
            "version: 1\nname: p\nmode: audit\nfiles:\n  read: ['/usr/**']\n  write: ['/tmp/**']\n  deny: {deny}\n"
        );
        std::fs::write(&file, text).unwrap();
        load_profile(&file, &[]).unwrap().profile
    }

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in ["a/secrets/deep", "b"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for file in ["a/.env", "a/plain", "a/secrets/key", "a/secrets/deep/key", "b/.env"] {
            std::fs::write(root.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(root.path().join("a"), root.path().join("b/.env-link")).unwrap();
        root
    }

    fn names(found: &Found, root: &std::path::Path) -> Vec<String> {
        let root = format!("{}/", root.display());
        let mut names: Vec<String> = found
            .objects
            .iter()
            .filter_map(|object| std::str::from_utf8(&object.path).ok()?.strip_prefix(&root))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_denied_is_found_and_nothing_else() {
        let root = tree();
        let place = root.path().display();
        let found = find(&profile(&format!("['{place}/*/.env', '{place}/a/secrets/**']")), Limits::default())
            .unwrap();
        assert_eq!(
            names(&found, root.path()),
            ["a/.env", "a/secrets", "a/secrets/deep", "a/secrets/deep/key", "a/secrets/key", "b/.env"]
        );
        let of = |name: &str| {
            let path = format!("{place}/{name}").into_bytes();
            found.objects.iter().find(|object| object.path == path).unwrap().denied.clone()
        };
        assert_eq!(of("a/.env"), [(0, ALL_RIGHTS, 0), (1, ALL_RIGHTS, 0)]);
        // The directory itself is not named; what lies in it is.
        assert_eq!(of("a/secrets"), [(0, 0, ALL_RIGHTS), (1, 0, ALL_RIGHTS)]);
        assert_eq!(of("a/secrets/key"), [(0, ALL_RIGHTS, 0), (1, ALL_RIGHTS, 0)]);
        assert_eq!(found.cut_at, None);
    }

    #[test]
    fn a_search_that_is_cut_says_so() {
        let root = tree();
        let place = root.path().display();
        let limits = Limits { objects: 1, ..Limits::default() };
        let found = find(&profile(&format!("['{place}/a/**']")), limits).unwrap();
        assert_eq!(found.objects.len(), 1);
        assert!(found.cut_at.is_some());
    }

    #[test]
    fn without_denials_nothing_is_looked_at() {
        assert_eq!(find(&profile("[]"), Limits::default()).unwrap().entries, 0);
    }
}
