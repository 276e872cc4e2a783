//! What outlives the daemon: programs, links and maps pinned in a BPF file system, and the note that says whose they are.
//!
//! One directory holds *sets*: everything that one load of the object made. A daemon that starts adopts the set that is
//! in force, or makes a new one beside it. What must stay true: a set counts only once its note says that it is
//! complete; a set in force is removed only when another one has taken over, or on purpose; one daemon at a time holds
//! the directory.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent_monitor_common::ABI_VERSION;
use agent_monitor_common::agent::{AgentState, MAX_AGENTS};
use agent_monitor_common::image::{IMAGE_WORDS, MAX_PROFILES};
use agent_monitor_common::label::Label;
use aya::maps::{HashMap, Map, MapData, MapError};
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::mount::{MountFlags, mount};
use sha2::{Digest, Sha256};

use super::syscalls::{create_hash, create_words, link_info, open_pin, pin, read_words, write_words};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: u64 = 0xcafe_4a11;
/// Names of sets begin so; a number follows. Names in a BPF file system have no dots (`bpf_lookup`).
const SET: &str = "set";
/// The note of a set.
const NOTE: &str = "note";
/// The ids of its agents.
const AGENT_IDS: &str = "agent_ids";

/// Where to pin.
#[derive(Clone, Debug, Default)]
pub enum Pinning {
    /// Nowhere: a load for a moment. Posture has no line for it.
    #[default]
    Never,
    /// Nowhere, because somebody wants it so: enforcement ends with the process, and posture says it.
    Off,
    /// In this directory, if a BPF file system is mounted there.
    Default(PathBuf),
    /// In this directory, and a BPF file system is mounted there if it lies on none.
    Told(PathBuf),
}

/// Why nothing can be pinned, or what is pinned can't be taken over. What is pinned stays in force.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{} is not in a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`)", .0.display())]
    NoBpffs(PathBuf),
    #[error("{} belongs to another user", .0.display())]
    Foreign(PathBuf),
    #[error("a daemon holds {}: stop it first", .0.display())]
    Held(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "what an earlier daemon pinned in {} stays in force, and this program can't take it over: {why}\nEnd its agents, or let them go: `agent-monitor daemon --detach` removes it",
        directory.display()
    )]
    Incompatible { directory: PathBuf, why: String },
    #[error("the set pinned in {} is not whole: {what}; `agent-monitor daemon --detach` removes it", directory.display())]
    Broken { directory: PathBuf, what: String },
    #[error("cannot read the pinned maps: {0}")]
    Map(#[from] MapError),
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { path, source }
}

/// The directory of the sets, held against other daemons.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// The file system was mounted by us, for this directory.
    mounted: bool,
    _lock: File,
}

impl Pins {
    /// Makes the directory if need be; `mounts`: and mounts a BPF file system on it where it lies on none.
    ///
    /// # Errors
    /// When there is no BPF file system, or the directory is not ours alone.
    pub fn open(directory: &Path, mounts: bool) -> Result<Pins, PinError> {
        let mut mounted = false;
        if !on_bpffs(directory)? {
            if !mounts {
                return Err(PinError::NoBpffs(directory.to_owned()));
            }
            fs::create_dir_all(directory).map_err(failed(directory))?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("bpf", directory, "bpf", flags, Some(c"mode=0700"))
                .map_err(|errno| failed(directory)(errno.into()))?;
            mounted = true;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(directory)(error));
            }
            _ => {}
        }
        let lock = hold(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed(directory))?;
        Ok(Pins { directory: directory.to_owned(), mounted, _lock: lock })
    }

    /// The sets that are there, oldest first.
    fn sets(&self) -> Result<Vec<Set>, PinError> {
        sets_in(&self.directory)
    }

    /// What is there to do. Sets that no daemon completed are removed: none of them was ever in force alone.
    pub(super) fn plan(&self, identity: &Identity) -> Result<Plan, PinError> {
        let mut complete: Option<(Set, Note)> = None;
        let sets = self.sets()?;
        let next = sets.last().map_or(1, |set| set.number + 1);
        for set in sets {
            let note = set.read_note().map_err(|why| self.incompatible(why))?;
            let stale = match note {
                Some(note) if note.complete => complete.replace((set, note)).map(|(older, _)| older),
                _ => Some(set),
            };
            if let Some(stale) = stale {
                stale.remove()?;
            }
        }
        let new = Set { directory: self.directory.join(format!("{SET}{next}")), number: next };
        let Some((old, note)) = complete else { return Ok(Plan::Fresh(new)) };
        let differs = note.identity.differs_from(identity);
        if differs.is_empty() {
            return Ok(Plan::Adopt(old, Box::new(note)));
        }
        if !note.identity.can_be_read_by(identity) {
            let why = format!("it was made for other maps ({})", differs.join(", "));
            return Err(self.incompatible(why));
        }
        Ok(Plan::Replace { old, note: Box::new(note), new, why: differs.join(", ") })
    }

    fn incompatible(&self, why: String) -> PinError {
        PinError::Incompatible { directory: self.directory.clone(), why }
    }

    pub(super) fn mounted(&self) -> bool {
        self.mounted
    }
}

/// Whether `path`, or the directory that it would be made in, lies in a BPF file system.
pub(super) fn on_bpffs(path: &Path) -> Result<bool, PinError> {
    let found = match path.symlink_metadata() {
        Ok(_) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.parent().unwrap_or(Path::new("/")),
        Err(error) => return Err(failed(path)(error)),
    };
    match statfs(found) {
        Ok(system) => Ok(system.f_type as u64 == BPF_FS),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(found)(errno.into())),
    }
}

/// Locks the directory itself: a BPF file system has no files to lock.
pub(super) fn hold(directory: &Path) -> Result<File, PinError> {
    // Not through a link: whoever may write beside it could lead us elsewhere.
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(directory)
        .map_err(failed(directory))?;
    let owner = opened.metadata().map_err(failed(directory))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(PinError::Foreign(directory.to_owned()));
    }
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::Held(directory.to_owned())),
        Err(errno) => Err(failed(directory)(errno.into())),
    }
}

pub(super) fn sets_in(directory: &Path) -> Result<Vec<Set>, PinError> {
    let mut sets = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(SET)).and_then(|number| number.parse().ok());
        if let Some(number) = number {
            sets.push(Set { directory: entry.path(), number });
        }
    }
    sets.sort_by_key(|set| set.number);
    Ok(sets)
}

/// Whether `path` is that of a pinned link, see [`Set::link`].
fn is_link(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("link_"))
}

/// What a start finds.
pub(super) enum Plan {
    /// Nothing: a new set.
    Fresh(Set),
    /// A set of this very program.
    Adopt(Set, Box<Note>),
    /// A set of another build or for another cgroup, whose state a new set can take over.
    Replace { old: Set, note: Box<Note>, new: Set, why: String },
}

/// One directory of pins.
#[derive(Clone, Debug)]
pub struct Set {
    directory: PathBuf,
    number: u64,
}

impl Set {
    pub(super) fn make(&self) -> Result<(), PinError> {
        DirBuilder::new().mode(0o700).create(&self.directory).map_err(failed(&self.directory))
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(format!("map_{name}"))
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(format!("prog_{name}"))
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.directory.join(format!("link_{name}"))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Names of the maps that are pinned.
    pub(super) fn maps(&self) -> Result<Vec<String>, PinError> {
        let entries = fs::read_dir(&self.directory).map_err(failed(&self.directory))?;
        let names: Result<Vec<OsString>, io::Error> =
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
        let names = names.map_err(failed(&self.directory))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.strip_prefix("map_").map(str::to_owned)).collect())
    }

    /// Its note; `None`: it has none, so its daemon did not come up.
    pub(super) fn read_note(&self) -> Result<Option<Note>, String> {
        let map = match open_pin(&self.directory.join(NOTE)) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", self.directory.display())),
        };
        let mut words = vec![0; NOTE_WORDS];
        let other = || format!("the note in {} is of another version", self.directory.display());
        match read_words(map.as_fd(), 0, &mut words) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(other()),
            Err(error) => Err(error.to_string()),
            Ok(()) => Note::from_words(&words).map(Some).ok_or_else(other),
        }
    }

    /// Numbers of the programs that its links attach.
    pub(super) fn attached(&self) -> Result<Vec<u32>, PinError> {
        let mut programs = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed(&self.directory))? {
            let path = entry.map_err(failed(&self.directory))?.path();
            if is_link(&path) {
                let link = open_pin(&path).map_err(failed(&path))?;
                programs.push(link_info(link.as_fd()).map_err(failed(&path))?.program);
            }
        }
        Ok(programs)
    }

    /// Unpins everything. Links go first: what is no longer attached may go in any order.
    pub(super) fn remove(&self) -> Result<(), PinError> {
        let entries = fs::read_dir(&self.directory).map_err(failed(&self.directory))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort_by_key(|path| !is_link(path));
        for path in paths {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        fs::remove_dir(&self.directory).map_err(failed(&self.directory))
    }
}

/// What a set was made by and for. Two that are equal are the same programs with the same maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    abi: u64,
    /// Sizes of the values that a transfer reads: label, agent, image.
    sizes: [u64; 3],
    object: [u64; 4],
    layout: [u64; 4],
    verdict_ring: u64,
    cgroup: u64,
}

impl Identity {
    pub(super) fn new(object: &[u8], layout: &[u32], verdict_ring: Option<u32>, cgroup: u64) -> Self {
        let layout: Vec<u8> = layout.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Identity {
            abi: u64::from(ABI_VERSION),
            sizes: [size_of::<Label>() as u64, size_of::<AgentState>() as u64, IMAGE_WORDS as u64],
            object: digest(object),
            layout: digest(&layout),
            verdict_ring: u64::from(verdict_ring.unwrap_or(0)),
            cgroup,
        }
    }

    /// Whether a transfer reads what was made so. Labels and agents may have another length: see [`super::records`].
    fn can_be_read_by(&self, other: &Self) -> bool {
        let [_, _, image] = self.sizes;
        self.abi == other.abi && image == other.sizes[2]
    }

    fn differs_from(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        if self.abi != other.abi {
            all.push(format!("version {} of the records, not {}", self.abi, other.abi));
        }
        for (differs, what) in [
            (self.sizes != other.sizes, "other sizes of labels, agents or images"),
            (self.object != other.object, "another build of the programs"),
            (self.layout != other.layout, "another layout of the kernel's structs"),
            (self.verdict_ring != other.verdict_ring, "another size of the verdict ring"),
            (self.cgroup != other.cgroup, "another governed cgroup"),
        ] {
            if differs {
                all.push(what.to_owned());
            }
        }
        all
    }
}

fn digest(bytes: &[u8]) -> [u64; 4] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let mut words = [0; 4];
    for (word, eight) in words.iter_mut().zip(hash.chunks_exact(8)) {
        *word = u64::from_ne_bytes(eight.try_into().unwrap_or_default());
    }
    words
}

/// A profile that lies in a slot: what the next daemon finds it by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedProfile {
    /// Empty: the slot is free.
    pub name: String,
    /// Of the image's words.
    pub digest: [u8; 32],
    /// The last one that was in force in the slot.
    pub generation: u32,
}

/// `b"am-pins"` and the version of this layout.
const MAGIC: u64 = 0x736e_6970_2d6d_6100 | 1;
/// Words before the profiles.
const HEAD: usize = 32;
/// Words of a profile: generation, digest, length of the name, name.
const ROW: usize = 64;
const NAME_BYTES: usize = (ROW - 6) * 8;
const NOTE_WORDS: usize = HEAD + MAX_PROFILES * ROW;

/// The note of a set: whose it is, and what only the daemon knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub(super) identity: Identity,
    pub(super) complete: bool,
    pub(super) mounted: bool,
    /// Key of the next agent that userspace makes.
    pub(super) next_agent: u32,
    /// Losses of the rings that were told of.
    pub(super) told: [u64; 2],
    pub(super) profiles: Vec<PinnedProfile>,
}

impl Note {
    pub(super) fn new(identity: Identity, mounted: bool, next_agent: u32) -> Self {
        let profiles = vec![PinnedProfile::default(); MAX_PROFILES];
        Note { identity, complete: false, mounted, next_agent, told: [0; 2], profiles }
    }

    fn to_words(&self) -> Vec<u64> {
        let mut words = vec![0; NOTE_WORDS];
        let Identity { abi, sizes, object, layout, verdict_ring, cgroup } = self.identity;
        words[0] = MAGIC;
        words[1] = abi;
        words[2..5].copy_from_slice(&sizes);
        words[5..9].copy_from_slice(&object);
        words[9..13].copy_from_slice(&layout);
        words[13] = verdict_ring;
        words[14] = cgroup;
        words[15] = u64::from(self.complete);
        words[16] = u64::from(self.mounted);
        words[17] = u64::from(self.next_agent);
        words[18..20].copy_from_slice(&self.told);
        for (row, profile) in words[HEAD..].chunks_exact_mut(ROW).zip(&self.profiles) {
            row[0] = u64::from(profile.generation);
            let mut bytes = profile.digest.to_vec();
            bytes.extend_from_slice(profile.name.as_bytes());
            row[5] = profile.name.len() as u64;
            for (word, eight) in row[1..5].iter_mut().zip(bytes[..32].chunks(8)) {
                *word = word_of(eight);
            }
            for (word, eight) in row[6..].iter_mut().zip(bytes[32..].chunks(8)) {
                *word = word_of(eight);
            }
        }
        words
    }

    fn from_words(words: &[u64]) -> Option<Self> {
        if words.len() != NOTE_WORDS || words[0] != MAGIC {
            return None;
        }
        let four = |at: usize| [words[at], words[at + 1], words[at + 2], words[at + 3]];
        let profiles = words[HEAD..].chunks_exact(ROW).map(|row| {
            let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
            let length = usize::try_from(row[5]).unwrap_or(0).min(NAME_BYTES);
            PinnedProfile {
                name: String::from_utf8_lossy(&bytes(&row[6..])[..length]).into_owned(),
                digest: bytes(&row[1..5]).try_into().unwrap_or_default(),
                generation: row[0] as u32,
            }
        });
        Some(Note {
            identity: Identity {
                abi: words[1],
                sizes: [words[2], words[3], words[4]],
                object: four(5),
                layout: four(9),
                verdict_ring: words[13],
                cgroup: words[14],
            },
            complete: words[15] != 0,
            mounted: words[16] != 0,
            next_agent: words[17] as u32,
            told: [words[18], words[19]],
            profiles: profiles.collect(),
        })
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    eight[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(eight)
}

/// The name under which a profile is noted: its own, or the digest of one that has no room.
fn noted_name(name: &str) -> String {
    if name.len() <= NAME_BYTES {
        return name.to_owned();
    }
    digest(name.as_bytes()).iter().map(|word| format!("{word:016x}")).collect()
}

/// Where a kernel side came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Loaded anew.
    Fresh,
    /// What an earlier daemon had pinned, as it was.
    Adopted,
    /// Loaded anew beside what an earlier daemon had pinned, whose state it took over; why.
    Replaced(String),
}

/// What people call an agent, which the kernel does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentNote {
    /// Its ULID.
    pub id: u128,
    /// Nanoseconds since 1970.
    pub started: i64,
    /// It restricted itself before it began.
    pub confined: bool,
}

/// The set of a running kernel side.
pub(super) struct Pinned {
    pub set: Set,
    pub note: Note,
    pub origin: Origin,
    /// Replaced by this one once it is in force.
    pub old: Option<Set>,
    map: OwnedFd,
    agent_ids: HashMap<MapData, u32, [u64; 4]>,
    /// Held as long as the kernel side lives.
    _pins: Pins,
}

impl Pinned {
    /// A new set, with its note and without anything in it.
    pub fn make(
        pins: Pins,
        set: Set,
        mut note: Note,
        origin: Origin,
        old: Option<Set>,
    ) -> Result<Self, PinError> {
        set.make()?;
        note.complete = false;
        let path = set.directory.join(AGENT_IDS);
        let ids = create_hash(b"agent_ids\0\0\0\0\0\0\0", 32, MAX_AGENTS as u32).map_err(failed(&path))?;
        pin(ids.as_fd(), &path).map_err(failed(&path))?;
        let path = set.directory.join(NOTE);
        let map = create_words(b"note\0\0\0\0\0\0\0\0\0\0\0\0", &note.to_words()).map_err(failed(&path))?;
        pin(map.as_fd(), &path).map_err(failed(&path))?;
        let agent_ids = Map::from_map_data(MapData::from_fd(ids)?)?.try_into()?;
        Ok(Pinned { set, note, origin, old, map, agent_ids, _pins: pins })
    }

    /// The set that is in force.
    pub fn adopt(pins: Pins, set: Set, note: Note) -> Result<Self, PinError> {
        let path = set.directory.join(NOTE);
        let map = open_pin(&path).map_err(failed(&path))?;
        let agent_ids = agent_ids(&set)?;
        Ok(Pinned { set, note, origin: Origin::Adopted, old: None, map, agent_ids, _pins: pins })
    }

    /// Writes the note. The kernel copies it in one call, so a killed daemon leaves the old one or the new one.
    pub fn save(&self) -> Result<(), PinError> {
        write_words(self.map.as_fd(), 0, &self.note.to_words()).map_err(failed(&self.set.directory))
    }

    /// From here the set outlives the process; the one that it replaces goes.
    pub fn commit(&mut self) -> Result<(), PinError> {
        if !self.note.complete {
            self.note.complete = true;
            self.save()?;
        }
        match self.old.take() {
            Some(old) => old.remove(),
            None => Ok(()),
        }
    }

    pub fn note_profile(&mut self, slot: u32, name: &str, digest: [u8; 32], generation: u32) {
        if let Some(row) = self.note.profiles.get_mut(slot as usize) {
            *row = PinnedProfile { name: noted_name(name), digest, generation };
        }
    }

    pub fn note_agent(&mut self, key: u32, note: AgentNote) -> Result<(), PinError> {
        let value = [note.id as u64, (note.id >> 64) as u64, note.started as u64, note.confined.into()];
        Ok(self.agent_ids.insert(key, value, 0)?)
    }

    pub fn forget_agent(&mut self, key: u32) {
        // A missing entry is what we want.
        let _ = self.agent_ids.remove(&key);
    }

    pub fn agents(&self) -> Vec<(u32, AgentNote)> {
        read_agents(&self.agent_ids)
    }
}

pub(super) fn agent_ids(set: &Set) -> Result<HashMap<MapData, u32, [u64; 4]>, PinError> {
    let map = MapData::from_pin(set.directory.join(AGENT_IDS))?;
    Ok(Map::from_map_data(map)?.try_into()?)
}

pub(super) fn read_agents(ids: &HashMap<MapData, u32, [u64; 4]>) -> Vec<(u32, AgentNote)> {
    let note = |[low, high, started, confined]: [u64; 4]| AgentNote {
        id: u128::from(high) << 64 | u128::from(low),
        started: started as i64,
        confined: confined != 0,
    };
    ids.iter().flatten().map(|(key, value)| (key, note(value))).collect()
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It never came into force: nothing of it stays.
        if !self.note.complete
            && let Err(error) = self.set.remove()
        {
            tracing::warn!(%error, "a set of pins stays behind; the next start removes it");
        }
    }
}

/// Whether a profile's name is the one that a slot was noted under.
#[must_use]
pub fn is_noted_as(noted: &str, name: &str) -> bool {
    !noted.is_empty() && noted == noted_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::new(b"object", &[1, 2, 3], None, 77)
    }

    #[test]
    fn a_note_survives_the_map() {
        let mut note = Note::new(identity(), true, 5);
        note.told = [7, 8];
        note.profiles[3] = PinnedProfile { name: "coding-agent".to_owned(), digest: [9; 32], generation: 12 };
        note.profiles[63].name = "x".repeat(NAME_BYTES);
        assert_eq!(Note::from_words(&note.to_words()), Some(note.clone()));
        note.complete = true;
        assert_eq!(Note::from_words(&note.to_words()), Some(note));
    }

    #[test]
    fn a_note_of_another_version_is_none() {
        let mut words = Note::new(identity(), false, 1).to_words();
        assert!(Note::from_words(&words[1..]).is_none());
        words[0] += 1;
        assert!(Note::from_words(&words).is_none());
    }

    #[test]
    fn what_differs_is_named() {
        assert!(identity().differs_from(&identity()).is_empty());
        let other = Identity::new(b"another", &[1, 2, 3], Some(4096), 77);
        assert_eq!(
            other.differs_from(&identity()),
            ["another build of the programs", "another size of the verdict ring"]
        );
        let layout = Identity::new(b"object", &[1, 2, 4], None, 78);
        assert_eq!(
            layout.differs_from(&identity()),
            ["another layout of the kernel's structs", "another governed cgroup"]
        );
    }

    #[test]
    fn records_of_another_length_can_be_read_and_other_images_and_versions_not() {
        let mut older = identity();
        older.sizes[0] -= 8;
        older.sizes[1] += 8;
        assert!(older.can_be_read_by(&identity()) && identity().can_be_read_by(&older));
        assert_eq!(older.differs_from(&identity()), ["other sizes of labels, agents or images"]);
        let mut image = identity();
        image.sizes[2] += 1;
        let mut version = identity();
        version.abi += 1;
        assert!(!image.can_be_read_by(&identity()) && !version.can_be_read_by(&identity()));
    }

    #[test]
    fn a_name_without_room_is_noted_by_its_digest() {
        let long = "a".repeat(NAME_BYTES + 1);
        assert!(is_noted_as(&noted_name(&long), &long));
        assert!(!is_noted_as(&noted_name(&long), &format!("{long}a")));
        assert!(is_noted_as("short", "short") && !is_noted_as("", ""));
    }

    #[test]
    fn a_directory_outside_a_bpf_file_system_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("pins");
        assert!(matches!(Pins::open(&inside, false), Err(PinError::NoBpffs(_))));
        assert!(!inside.exists());
        for none in [inside.as_path(), directory.path()] {
            assert_eq!(super::super::detach(none).unwrap(), super::super::Detached::Nothing);
        }
    }
}
