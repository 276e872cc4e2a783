//! From a policy image and the files that exist to Landlock rules, and to what those can't say.
//!
//! Called by `agent::confine` for `run`, and by `check --kernel`. Landlock grants a right to a file, or to a directory
//! and *everything* below it, and can take nothing back. So:
//!
//! * a directory in which the profile grants everything becomes one rule: exact, for names that come later too;
//! * one in which a rule denies something is looked through. Where nothing denied exists, it becomes one rule, and
//!   what is made there later under a denied name is not denied ([`Note::Later`]). Where something does, the
//!   directory itself gets no rule; its other entries do, one level at a time ([`Note::Around`]);
//! * of one in which the profile grants some names only, those that exist get their rules;
//! * a directory that may be listed and is no rule by itself lets the directories below it be listed too
//!   ([`Note::Names`]): names, no contents.
//!
//! What must stay true: of what exists, no file is granted a right that `decide_path` denies it, and no entry of a
//! directory may be made or removed that the profile does not let be written. What can't be looked through (too much,
//! unreadable) is not granted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_monitor_common::automaton::{TERMINAL, accept, step};
use agent_monitor_common::image::{
    Class, HAS_EXEC, HAS_FILES, HAS_PRIVILEGES, Settings, class, field, header,
};
use agent_monitor_common::path::{Right, Rights, directory_answer};
use agent_monitor_common::privilege::{Privilege, granted};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat2,
    statat,
};
use rustix::io::Errno;

use super::reach::{Reaches, split};

const READ: Rights = Right::Read as Rights;
const WRITE: Rights = Right::Write as Rights;
const EXECUTE: Rights = Right::Execute as Rights;

/// Longest path that the kernel programs judge.
const PATH_MAX: usize = 4_096;

/// How much is looked at before `run` gives up on what is left.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Directory entries.
    pub entries: usize,
    /// Notes that are kept; the others are counted.
    pub notes: usize,
}

impl Default for Bounds {
    /// A million entries take about a second where the kernel has them cached.
    fn default() -> Self {
        Bounds { entries: 1_000_000, notes: 1_000 }
    }
}

/// A directory as the kernel knows it: device and inode.
pub type Identity = (u64, u64);

/// One Landlock rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub path: PathBuf,
    /// The directory that was looked through; `None`: a file. Whoever makes the rule checks that it still is this one.
    pub directory: Option<Identity>,
    /// To the file, or to everything below the directory.
    pub rights: Rights,
    /// The directory, and those below it, may be listed.
    pub list: bool,
}

/// Where Landlock says less, or more, than the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Wider: something that a rule denies does not exist below this directory, and is not denied when it comes to.
    Later { directory: PathBuf, rights: Rights },
    /// Wider: directories below this one can be listed, which the profile does not let be listed.
    Names { directory: PathBuf },
    /// Tighter: something below this directory is denied. Its other entries are granted; names that come later are
    /// not, and nothing in it is made, renamed or removed.
    Around { directory: PathBuf, rights: Rights },
    /// Tighter: what is below this directory was not looked through, and is not granted.
    Unexamined { directory: PathBuf, rights: Rights, why: Unexamined },
    /// Tighter: Landlock asks for reading, too, before it lets this program be executed.
    Unreadable { file: PathBuf },
}

impl Note {
    /// Whether Landlock grants more here than the profile.
    #[must_use]
    pub fn is_wider(&self) -> bool {
        matches!(self, Note::Later { .. } | Note::Names { .. })
    }

    /// The place it speaks of.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Note::Later { directory, .. }
            | Note::Names { directory }
            | Note::Around { directory, .. }
            | Note::Unexamined { directory, .. } => directory,
            Note::Unreadable { file } => file,
        }
    }
}

/// Why a directory was not looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unexamined {
    /// More entries than [`Bounds::entries`] before it.
    TooMany,
    /// Paths longer than the kernel programs judge.
    TooLong,
    /// The kernel's answer.
    Errno(Errno),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What Landlock takes away where no rule grants it.
    pub handled: Rights,
    /// Processes that are none of the agent's are not traced (which any ruleset brings), and not sent signals.
    pub trace: bool,
    pub signals: bool,
    pub rules: Vec<Rule>,
    pub notes: Vec<Note>,
    /// Notes beyond [`Bounds::notes`].
    pub more_notes: usize,
    /// Directory entries that were looked at.
    pub entries: usize,
}

impl Plan {
    /// Whether there is nothing for Landlock to enforce.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.handled == 0 && !self.trace && !self.signals
    }
}

/// Makes the plan for `image` and the files that exist now.
#[must_use]
pub fn plan(image: &[u64], bounds: Bounds) -> Plan {
    plan_below(image, Path::new("/"), bounds)
}

/// The plan of what lies below `root`, an absolute path without links: tests have a tree of their own.
#[must_use]
pub fn plan_below(image: &[u64], root: &Path, bounds: Bounds) -> Plan {
    let flags = Settings::from_word(field(image, header::SETTINGS)).flags;
    let mut handled = 0;
    if flags & HAS_FILES != 0 {
        handled |= READ | WRITE;
    }
    if flags & HAS_EXEC != 0 {
        handled |= EXECUTE;
    }
    // A domain holds for every program of the tree: what a rule grants to one, it can't grant to that one only.
    let denies = |privilege| flags & HAS_PRIVILEGES != 0 && !granted(image, Class::UNKNOWN, privilege);
    let (trace, signals) = (denies(Privilege::Ptrace), denies(Privilege::Signal));
    if handled == 0 {
        return Plan { trace, signals, ..Plan::default() };
    }
    // Nor can it take anything back, so it grants no lease.
    let leased = u32::from(field(image, header::LEASED) != 0);
    let start = Class::UNKNOWN.without_leases(leased).field(image, class::START_PATH) as u32;
    let mut planner = Planner {
        image,
        reaches: Reaches::of(image, start),
        handled,
        bounds,
        entries: 0,
        own: std::process::id().to_string().into_bytes(),
    };
    let mut path = root.as_os_str().as_bytes().to_vec();
    let mut state = planner.read(start, &path);
    if path == b"/" {
        // Entries of the root are `/name`: its own name is the slash before them.
        path.clear();
        state = start;
    }
    let mut found = planner.directory(&mut path, state, handled, false);
    let mut rules = std::mem::take(&mut found.rules);
    let mut notes = std::mem::take(&mut found.notes);
    // Nobody above takes it as a whole.
    planner.grant(&path, &found, &mut rules);
    rules.retain(|rule| rule.rights != 0 || rule.list);
    rules.sort_by(|a, b| a.path.cmp(&b.path));
    unreadable(&rules, handled, &mut notes);
    let more_notes = notes.len().saturating_sub(bounds.notes);
    notes.truncate(bounds.notes);
    Plan { handled, trace, signals, rules, notes, more_notes, entries: planner.entries }
}

/// Executing takes reading under Landlock (`get_required_file_open_access`): tells where a program has no such grant.
fn unreadable(rules: &[Rule], handled: Rights, notes: &mut Vec<Note>) {
    if handled & (READ | EXECUTE) != READ | EXECUTE {
        return;
    }
    let readable: HashMap<&Path, ()> =
        rules.iter().filter(|rule| rule.rights & READ != 0).map(|rule| (rule.path.as_path(), ())).collect();
    for rule in rules.iter().filter(|rule| rule.rights & EXECUTE != 0) {
        if !rule.path.ancestors().any(|above| readable.contains_key(above)) {
            notes.push(Note::Unreadable { file: rule.path.clone() });
        }
    }
}

/// What was found in a directory.
struct Found {
    identity: Option<Identity>,
    /// Rights that everything below it has.
    clean: Rights,
    /// Rules for what is below it, of other rights.
    rules: Vec<Rule>,
    notes: Vec<Note>,
    /// It may be listed itself.
    listed: bool,
    /// It, or some directory below it, must not be listed.
    unlistable: bool,
}

struct Planner<'a> {
    image: &'a [u64],
    reaches: Reaches,
    handled: Rights,
    bounds: Bounds,
    entries: usize,
    /// This process' number: in `/proc` it stands for all.
    own: Vec<u8>,
}

impl Planner<'_> {
    fn read(&self, state: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(state, |state, &byte| match state & TERMINAL {
            0 => step(self.image, state, byte),
            _ => state,
        })
    }

    /// Looks through the directory `path` (empty: the root), read up to `own`, for the rights `seek`. `in_proc`: its
    /// parent is on a process file system.
    fn directory(&mut self, path: &mut Vec<u8>, own: u32, seek: Rights, in_proc: bool) -> Found {
        let inside = self.read(own, b"/");
        let reach = self.reaches.at(inside);
        let whole = reach.whole() & seek;
        let holes = reach.with_holes() & seek;
        let part = reach.in_part() & seek;
        let listed = seek & READ != 0 && self.listable(own);
        let mut found = Found {
            identity: None,
            clean: whole,
            rules: Vec::new(),
            notes: Vec::new(),
            listed,
            // Without a grant below, what is below is not looked at for this.
            unlistable: seek & READ != 0 && (!listed || (whole | holes | part) & READ == 0),
        };
        if self.entries > self.bounds.entries && holes | part != 0 {
            return self.unexamined(path, holes | part, Unexamined::TooMany);
        }
        if holes | part == 0 {
            if whole != 0 || listed {
                match self.open(path, OFlags::PATH) {
                    Ok(opened) => found.identity = Some(opened.identity),
                    Err(errno) => return self.unexamined(path, seek, Unexamined::Errno(errno)),
                }
            }
            self.list(path, listed && whole & READ == 0, &mut found);
            return found;
        }
        let opened = match self.open(path, OFlags::RDONLY) {
            Ok(opened) => opened,
            Err(errno) => return self.unexamined(path, holes | part, Unexamined::Errno(errno)),
        };
        found.identity = Some(opened.identity);
        let mut clean = holes;
        if let Err(why) = self.entries(path, inside, holes | part, opened, in_proc, &mut clean, &mut found) {
            if why == Unexamined::Errno(Errno::NOENT) {
                return found; // removed meanwhile
            }
            clean = 0;
            found.notes.push(Note::Unexamined { directory: shown(path), rights: holes | part, why });
        }
        // A directory that denies its own listing is no directory whose files can be granted together.
        if clean & READ != 0 && !listed {
            clean &= !READ;
        }
        if clean != 0 {
            // One rule here instead of those below.
            found.rules.iter_mut().for_each(|rule| {
                rule.rights &= !clean;
                rule.list &= clean & READ == 0;
            });
            found.rules.retain(|rule| rule.rights != 0 || rule.list);
            found.notes.retain_mut(|note| match note {
                Note::Later { rights, .. } => {
                    *rights &= !clean;
                    *rights != 0
                }
                Note::Names { .. } => clean & READ == 0,
                Note::Around { .. } | Note::Unexamined { .. } | Note::Unreadable { .. } => true,
            });
            found.notes.push(Note::Later { directory: shown(path), rights: clean });
        }
        if holes & !clean != 0 {
            found.notes.push(Note::Around { directory: shown(path), rights: holes & !clean });
        }
        found.clean |= clean;
        if clean & READ != 0 {
            found.unlistable = false;
        }
        self.list(path, listed && found.clean & READ == 0, &mut found);
        found
    }

    /// Whether the profile lets a directory be listed.
    fn listable(&self, own: u32) -> bool {
        split(directory_answer(self.image, own)).0 & READ != 0
    }

    /// Makes the directory listable, with what that brings.
    fn list(&self, path: &[u8], listed: bool, found: &mut Found) {
        if !listed {
            return;
        }
        found.rules.iter_mut().for_each(|rule| rule.list = false);
        found.rules.retain(|rule| rule.rights != 0);
        found.notes.retain(|note| !matches!(note, Note::Names { .. }));
        if found.unlistable {
            found.notes.push(Note::Names { directory: shown(path) });
        }
        found.rules.push(Rule { path: shown(path), directory: found.identity, rights: 0, list: true });
    }

    fn unexamined(&self, path: &[u8], rights: Rights, why: Unexamined) -> Found {
        let gone = why == Unexamined::Errno(Errno::NOENT);
        let notes = match gone {
            true => Vec::new(),
            false => vec![Note::Unexamined { directory: shown(path), rights, why }],
        };
        // What is gone denies nothing.
        let clean = if gone { rights } else { 0 };
        Found { identity: None, clean, rules: Vec::new(), notes, listed: false, unlistable: !gone }
    }

    /// Looks at each entry. Takes out of `clean` what some entry does not have.
    #[expect(clippy::too_many_arguments, reason = "the second half of `directory`, apart for its loop")]
    fn entries(
        &mut self,
        path: &mut Vec<u8>,
        inside: u32,
        seek: Rights,
        opened: Opened,
        in_proc: bool,
        clean: &mut Rights,
        found: &mut Found,
    ) -> Result<(), Unexamined> {
        let proc = fstatfs(&opened.fd).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC);
        let mut names: Vec<(Vec<u8>, FileType)> = Vec::new();
        for entry in Dir::read_from(&opened.fd).map_err(Unexamined::Errno)? {
            let entry = entry.map_err(Unexamined::Errno)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > self.bounds.entries {
                return Err(Unexamined::TooMany);
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&opened.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(Unexamined::Errno(errno)),
                },
                kind => kind,
            };
            names.push((name.to_bytes().to_vec(), kind));
        }
        drop(opened);
        // Every process has a directory in /proc whose names the kernel gives: this one's tells of all, and comes first.
        let processes = proc && !in_proc;
        if processes {
            names.sort_by_key(|(name, _)| *name != self.own);
        }
        let mut alike: HashMap<u32, Rights> = HashMap::new();
        for (name, kind) in names {
            if path.len() + 1 + name.len() >= PATH_MAX {
                return Err(Unexamined::TooLong);
            }
            let own = self.read(inside, &name);
            let (granted, _) = split(accept(self.image, own));
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(&name);
            match kind {
                FileType::Directory => {
                    let process = processes && name.iter().all(u8::is_ascii_digit);
                    match alike.get(&own) {
                        Some(&known) if process => *clean &= known,
                        _ => {
                            let mut below = self.directory(path, own, seek, proc);
                            // To be renamed or removed, a directory must be writable by its own name.
                            let mut whole = below.clean & !(WRITE & !granted);
                            if !self.listable(own) {
                                whole &= !READ;
                            }
                            if process {
                                alike.insert(own, whole);
                            }
                            *clean &= whole;
                            found.unlistable |= below.unlistable;
                            found.rules.append(&mut below.rules);
                            found.notes.append(&mut below.notes);
                            self.grant(path, &below, &mut found.rules);
                        }
                    }
                }
                // What a link points to is judged by its own path; the link itself is made and removed.
                FileType::Symlink => *clean &= granted | !WRITE,
                _ => {
                    let has = granted & seek;
                    *clean &= has;
                    if has != 0 {
                        found.rules.push(Rule {
                            path: shown(path),
                            directory: None,
                            rights: has,
                            list: false,
                        });
                    }
                }
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// The rule of a directory in which everything has `rights`.
    fn grant(&self, path: &[u8], of: &Found, rules: &mut Vec<Rule>) {
        if of.clean & self.handled != 0 && of.identity.is_some() {
            let list = of.clean & READ != 0 && of.listed;
            rules.push(Rule { path: shown(path), directory: of.identity, rights: of.clean, list });
        }
    }

    fn open(&self, path: &[u8], how: OFlags) -> Result<Opened, Errno> {
        let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Whoever may write above it could put a link in its place meanwhile.
        let fd = openat2(CWD, shown(path), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let stat = fstat(&fd)?;
        Ok(Opened { fd, identity: (stat.st_dev, stat.st_ino) })
    }
}

struct Opened {
    fd: rustix::fd::OwnedFd,
    identity: Identity,
}

/// The path of a directory whose bytes were walked; the root's are none.
fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(if path.is_empty() { b"/" } else { path }))
}
