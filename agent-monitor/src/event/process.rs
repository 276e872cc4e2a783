//! The processes of agents, as exec, fork and exit records tell of them.
//!
//! Owned by `event::enrich`. A process that no record told of (labelled while it ran, or its record was lost) is read
//! from `/proc` once. What must stay true: the table is bounded whatever agents do, and an exited process is known
//! for a while, because its last verdicts may be read after its exit.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_monitor_common::event::ExecBody;
use agent_monitor_common::label::MAX_LABELS;

use super::escape;
use super::model::Process;

/// Exited processes that are still known.
const KEPT_EXITED: usize = 1_024;
/// Arguments kept of one process.
const MAX_ARGUMENTS: usize = 64;
/// Bytes of argv read from `/proc`; records carry at most as many.
const MAX_ARGV_BYTES: usize = agent_monitor_common::event::ARGV_BYTES;
/// cgroup paths remembered.
const MAX_CGROUPS: usize = 4_096;

/// What a process runs; shared with the children it forks.
#[derive(Debug, Default, PartialEq)]
struct Program {
    exe: Option<String>,
    argv: Vec<String>,
    argv_truncated: bool,
    comm: Option<String>,
    uid: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    program: Arc<Program>,
    parent: Option<u32>,
    exited: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Processes {
    proc: PathBuf,
    /// Mount point of cgroup v2, to tell whether a path read from `/proc` is the id's.
    cgroup_mount: PathBuf,
    entries: HashMap<u32, Entry>,
    exited: VecDeque<u32>,
    cgroups: HashMap<u64, Option<Box<str>>>,
}

impl Processes {
    /// An empty table that reads what it misses from `proc` and knows cgroups under `cgroup_mount`.
    #[must_use]
    pub fn new(proc: &Path, cgroup_mount: &Path) -> Self {
        Processes {
            proc: proc.to_owned(),
            cgroup_mount: cgroup_mount.to_owned(),
            entries: HashMap::new(),
            exited: VecDeque::new(),
            cgroups: HashMap::new(),
        }
    }

    /// `tgid` runs another program.
    pub fn exec(&mut self, tgid: u32, body: &ExecBody, path: &[u8], argv: &[u8]) {
        let program = Program {
            exe: (!path.is_empty()).then(|| escape::text(path).into_owned()),
            argv: escape::argv(argv, MAX_ARGUMENTS),
            argv_truncated: body.argv_total > body.argv_length,
            comm: Some(escape::comm(&body.comm).into_owned()),
            uid: Some(body.uid),
        };
        let parent = (body.parent != 0).then_some(body.parent);
        self.insert(tgid, Entry { program: Arc::new(program), parent, exited: false });
    }

    /// `parent` made `child`, which runs the same program.
    pub fn fork(&mut self, parent: u32, child: u32) {
        self.learn(parent);
        // A parent that could not be read either leaves the child to `/proc`.
        if let Some(program) = self.entries.get(&parent).map(|entry| Arc::clone(&entry.program)) {
            self.insert(child, Entry { program, parent: Some(parent), exited: false });
        }
    }

    /// `tgid` ended. It is forgotten after [`KEPT_EXITED`] others have.
    pub fn exit(&mut self, tgid: u32) {
        if let Some(entry) = self.entries.get_mut(&tgid) {
            entry.exited = true;
            self.keep_exited(tgid);
        }
    }

    /// Makes sure that `tgid` is known as far as it can be; [`Self::describe`] reads it.
    pub fn learn(&mut self, tgid: u32) {
        if tgid == 0 || self.entries.contains_key(&tgid) {
            return;
        }
        let (program, parent) = read_proc(&self.proc.join(tgid.to_string()));
        // What is gone already is remembered as such: a burst of its verdicts asks /proc once.
        let exited = program.exe.is_none() && program.comm.is_none();
        self.insert(tgid, Entry { program: Arc::new(program), parent, exited });
        if exited {
            self.keep_exited(tgid);
        }
    }

    /// Makes sure that the path of `cgroup`, in which `tgid` is, is known as far as it can be.
    pub fn learn_cgroup(&mut self, tgid: u32, cgroup: u64) {
        if cgroup == 0 || self.cgroups.contains_key(&cgroup) {
            return;
        }
        let path = read_cgroup(&self.proc.join(tgid.to_string()))
            .filter(|path| cgroup_id(&self.cgroup_mount, path) == Some(cgroup))
            .map(|path| escape::text(path.as_bytes()).into());
        self.remember_cgroup(cgroup, path);
    }

    /// The public description of what has been learnt of `tgid`.
    #[must_use]
    pub fn describe(&self, tgid: u32, tid: u32, cgroup: u64) -> Process<'_> {
        let entry = self.entries.get(&tgid);
        let program = entry.map(|entry| &*entry.program);
        Process {
            pid: tgid,
            tid: (tid != 0).then_some(tid),
            parent: entry.and_then(|entry| entry.parent),
            uid: program.and_then(|program| program.uid),
            comm: program.and_then(|program| program.comm.as_deref()).map(Cow::Borrowed),
            exe: program.and_then(|program| program.exe.as_deref()).map(Cow::Borrowed),
            argv: program.map_or(Cow::Borrowed(&[]), |program| Cow::Borrowed(&program.argv)),
            argv_truncated: program.is_some_and(|program| program.argv_truncated),
            cgroup: self.cgroups.get(&cgroup).and_then(Option::as_deref).map(Cow::Borrowed),
            cgroup_id: (cgroup != 0).then_some(cgroup),
        }
    }

    fn insert(&mut self, tgid: u32, entry: Entry) {
        if self.entries.len() >= MAX_LABELS && !self.entries.contains_key(&tgid) {
            // More processes than the kernel keeps labels for: records were lost. Start over; /proc knows the living.
            self.entries.clear();
            self.exited.clear();
        }
        self.entries.insert(tgid, entry);
    }

    fn keep_exited(&mut self, tgid: u32) {
        self.exited.push_back(tgid);
        if self.exited.len() > KEPT_EXITED
            && let Some(oldest) = self.exited.pop_front()
            // Its number may belong to a living process by now.
            && self.entries.get(&oldest).is_some_and(|entry| entry.exited)
        {
            self.entries.remove(&oldest);
        }
    }

    fn remember_cgroup(&mut self, id: u64, path: Option<Box<str>>) {
        if self.cgroups.len() >= MAX_CGROUPS {
            self.cgroups.clear();
        }
        self.cgroups.insert(id, path);
    }
}

/// What `/proc/<pid>` tells; nothing where the process is gone.
fn read_proc(directory: &Path) -> (Program, Option<u32>) {
    let exe = fs::read_link(directory.join("exe")).ok().map(|path| {
        use std::os::unix::ffi::OsStrExt;
        escape::text(path.as_os_str().as_bytes()).into_owned()
    });
    let status = fs::read(directory.join("status")).unwrap_or_default();
    let field = |name: &str| {
        status.split(|&byte| byte == b'\n').find_map(|line| {
            let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
            Some(value.trim_ascii())
        })
    };
    let number = |name| std::str::from_utf8(field(name)?).ok()?.split_ascii_whitespace().next()?.parse().ok();
    let argv = read_at_most(&directory.join("cmdline"), MAX_ARGV_BYTES + 1);
    let argv_truncated = argv.len() > MAX_ARGV_BYTES;
    let program = Program {
        exe,
        argv: escape::argv(&argv[..argv.len().min(MAX_ARGV_BYTES)], MAX_ARGUMENTS),
        argv_truncated,
        // The kernel writes `comm` in this file with its own escapes for newline and backslash.
        comm: field("Name").map(|name| escape::text(name).into_owned()),
        uid: number("Uid"),
    };
    (program, number("PPid").filter(|&parent| parent != 0))
}

fn read_at_most(path: &Path, limit: usize) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // A process that dies meanwhile leaves what was read.
        let _ = file.take(limit as u64).read_to_end(&mut bytes);
    }
    bytes
}

/// The cgroup v2 path of `/proc/<pid>/cgroup`: its line `0::/path`.
fn read_cgroup(directory: &Path) -> Option<String> {
    let text = fs::read_to_string(directory.join("cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// The id of a cgroup: the inode number of its directory.
fn cgroup_id(mount: &Path, path: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(mount.join(path.trim_start_matches('/'))).ok().map(|data| data.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Processes {
        Processes::new(Path::new("/nowhere"), Path::new("/nowhere"))
    }

    fn exec(table: &mut Processes, tgid: u32, path: &str) {
        let body = ExecBody { parent: 1, uid: 3, argv_total: 9, argv_length: 4, ..ExecBody::ZERO };
        table.exec(tgid, &body, path.as_bytes(), b"a\0b\0");
    }

    #[test]
    fn exec_fork_and_exit_tell_who_runs_what() {
        let mut table = table();
        exec(&mut table, 10, "/bin/a");
        table.fork(10, 11);
        exec(&mut table, 10, "/bin/b");
        let child = table.describe(11, 12, 0);
        assert_eq!((child.exe.as_deref(), child.parent, child.uid), (Some("/bin/a"), Some(10), Some(3)));
        assert_eq!((&*child.argv, child.argv_truncated), (&["a".to_owned(), "b".to_owned()][..], true));
        assert_eq!(table.describe(10, 10, 0).exe.as_deref(), Some("/bin/b"));
        table.exit(10);
        assert_eq!(table.describe(10, 10, 0).exe.as_deref(), Some("/bin/b"), "known after its exit");
    }

    #[test]
    fn a_reused_pid_outlives_its_predecessors_exit() {
        let mut table = table();
        exec(&mut table, 10, "/bin/old");
        table.exit(10);
        exec(&mut table, 10, "/bin/new");
        for pid in 1_000..1_000 + 2 * KEPT_EXITED as u32 {
            exec(&mut table, pid, "/bin/x");
            table.exit(pid);
        }
        assert_eq!(table.describe(10, 10, 0).exe.as_deref(), Some("/bin/new"));
        assert!(table.entries.len() <= KEPT_EXITED + 1);
    }

    #[test]
    fn what_no_record_told_comes_from_proc() {
        let mut table = Processes::new(Path::new("/proc"), Path::new("/nowhere"));
        let me = std::process::id();
        table.learn(me);
        let process = table.describe(me, 0, 0);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(process.exe.as_deref(), exe.to_str());
        assert!(process.uid.is_some() && process.parent.is_some() && !process.argv.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = table();
        for pid in 1..2 * MAX_LABELS as u32 {
            exec(&mut table, pid, "/bin/a");
        }
        assert!(table.entries.len() <= MAX_LABELS);
        for id in 1..2 * MAX_CGROUPS as u64 {
            table.learn_cgroup(1, id);
        }
        assert!(table.cgroups.len() <= MAX_CGROUPS);
    }

    #[test]
    fn unknown_processes_have_their_numbers_only() {
        let mut table = table();
        table.learn(4_000_000);
        let process = table.describe(4_000_000, 4_000_001, 77);
        assert_eq!((process.pid, process.tid, process.cgroup_id), (4_000_000, Some(4_000_001), Some(77)));
        assert_eq!((process.exe, process.cgroup), (None, None));
    }
}
