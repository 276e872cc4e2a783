//! Loading and attaching, or taking over what is attached.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use agent_monitor_common::counters::Ring;
use agent_monitor_common::image::{InForce, PROFILE_ROWS};
use agent_monitor_common::name::HELLO_EGRESS;
use agent_monitor_common::pin::FileKey;
use agent_monitor_common::wire::Wire;
use aya::maps::{Map, MapData, MapError, ProgramArray, RingBuf};
use aya::pin::PinError as AyaPinError;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkError};
use aya::programs::{
    BtfTracePoint, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry, Iter, Lsm, Program,
    ProgramError, ProgramInfo, RawTracePoint,
};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader};

use super::btf::{LayoutError, resolve_layout};
use super::control::Maps;
use super::counters::ProgramStats;
use super::digests::Seen;
use super::features::Features;
use super::governed;
use super::kallsyms;
use super::labels::USER_AGENT;
use super::names::NameMaps;
use super::pins::{Identity, Note, Origin, PinError, Pinned, Pinning, Pins, Plan, Set};
use super::posture::{Mechanism, Posture, State};
use super::programs::{Entry, Kind, OUTSIDE, PROGRAMS, errno_of, info_of};
use super::rings::RingReader;
use super::syscalls::{link_info, open_pin};
use super::transfer::{self, TransferError};
use super::used::UsedReader;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-monitor.bpf.o"));
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The cgroup (v2) that the network programs govern: outside it only LSM programs judge.
    pub cgroup: PathBuf,
    /// Kernel statistics of programs: some 30 ns for each run of each program.
    pub stats: bool,
    /// Bytes of the verdict ring; `None`: 4 MiB. A power of two, a multiple of the page size.
    pub verdict_ring: Option<u32>,
    /// Whether and where everything outlives the process.
    pub pins: Pinning,
}

impl LoadOptions {
    pub fn new(cgroup: impl Into<PathBuf>) -> Self {
        LoadOptions { cgroup: cgroup.into(), stats: false, verdict_ring: None, pins: Pinning::Never }
    }
}

/// Why the kernel side did not come up. Nothing of it stays behind.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot open the cgroup {path}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot read the kernel's type information: {0}")]
    Btf(#[from] BtfError),
    #[error("cannot create the maps: {0}")]
    Object(#[from] EbpfError),
    #[error("the object has no map {0}")]
    NoMap(&'static str),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("the object has no program {0}")]
    NoProgram(&'static str),
    #[error("the kernel refused {mechanism}, without which {blind} would go unseen: {}", brief(source))]
    Required { mechanism: &'static str, blind: &'static str, source: ProgramError },
    #[error("cannot tell one program of another: {0}")]
    Called(#[source] ProgramError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("cannot pin {mechanism}: {source}")]
    PinProgram { mechanism: &'static str, source: AyaPinError },
    #[error("cannot take over what is pinned, which stays in force: {0}")]
    Transfer(#[from] TransferError),
}

/// Why a program did not come up.
enum BringUp {
    Program(ProgramError),
    Pin(AyaPinError),
}

impl From<ProgramError> for BringUp {
    fn from(error: ProgramError) -> Self {
        BringUp::Program(error)
    }
}

impl From<LinkError> for BringUp {
    fn from(error: LinkError) -> Self {
        BringUp::Program(ProgramError::IOError(io::Error::other(error)))
    }
}

/// A program error without the verifier's log, which runs to thousands of lines; `--debug` logs it whole.
pub(super) fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            if log.trim().is_empty() {
                return io_error.to_string();
            }
            let tail: Vec<&str> = log.lines().rev().take(4).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("{io_error}; the verifier's last words: {}", tail.join(" | "))
        }
        other => match std::error::Error::source(other) {
            Some(source) => format!("{other}: {source}"),
            None => other.to_string(),
        },
    }
}

/// The loaded programs and their maps. Dropping it detaches everything, unless it is pinned and in force
/// ([`Kernel::commit`]).
pub struct Kernel {
    pub(super) object: Ebpf,
    pub(super) maps: Maps,
    pub(super) generations: HashMap<u32, u32>,
    pub(super) next_agent: u32,
    /// Pinned programs whose contents were told, by path.
    pub(super) contents: HashMap<String, (Seen, FileKey)>,
    posture: Posture,
    rings: [Option<RingReader>; 2],
    used: Option<UsedReader>,
    pub(super) names: Option<NameMaps>,
    syscall_hook: Option<SyscallHook>,
    /// Keeps kernel statistics on.
    stats: Option<OwnedFd>,
    pub(super) pinned: Option<Pinned>,
}

/// The attached system call hook.
enum SyscallHook {
    Own(aya::programs::raw_trace_point::RawTracePointLinkId),
    Pinned,
}

impl Kernel {
    /// Loads the object and attaches what this kernel takes, or adopts what is pinned, and finds out what is missing.
    ///
    /// # Errors
    /// A required program that is refused ends it; an optional one becomes a line of the posture. What an earlier
    /// daemon pinned stays in force on every error.
    pub fn load(options: &LoadOptions) -> Result<Kernel, LoadError> {
        let broken = |source| LoadError::Cgroup { path: options.cgroup.clone(), source };
        let cgroup = File::open(&options.cgroup).map_err(broken)?;
        // The inode's number is the cgroup's id (`cgroup_id`, `kernfs_node.id`).
        let cgroup_id = cgroup.metadata().map_err(broken)?.ino();
        let layout = resolve_layout(Path::new(VMLINUX_BTF))?;
        let layout: Vec<u32> =
            layout.as_bytes().chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let rename_lock = kallsyms::address("rename_lock").unwrap_or(0);
        let level = governed::level(&options.cgroup);
        let governed = [cgroup_id, level.as_ref().map_or(0, |level| (*level).into())];
        let identity = Identity::new(OBJECT, &layout, options.verdict_ring, cgroup_id);
        let (pins, pin_state) = open_pins(&options.pins)?;
        let (mut pinned, replaced) = match pins {
            None => (None, None),
            Some(pins) => plan(pins, identity)?,
        };
        let adopts = pinned.as_ref().is_some_and(|pinned| pinned.origin == Origin::Adopted);

        let btf = Btf::from_sys_fs()?;
        let pinned_maps = match &pinned {
            Some(pinned) if adopts => pinned.set.maps()?,
            _ => Vec::new(),
        };
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).allow_unsupported_maps().override_global("LAYOUT", layout.as_slice(), true);
        loader.override_global("RENAME_LOCK", &rename_lock, true);
        loader.override_global("GOVERNED", governed.as_slice(), true);
        if let Some(bytes) = options.verdict_ring {
            loader.map_max_entries("VERDICTS", bytes);
        }
        if let Some(pinned) = &pinned {
            for name in &pinned_maps {
                loader.map_pin_path(name, pinned.set.map(name));
            }
        }
        let mut object = loader.load(OBJECT)?;
        drop(loader);
        if let Some(pinned) = &pinned {
            pin_maps(&object, &pinned.set, &pinned_maps, adopts)?;
        }
        #[cfg(feature = "kernel-log")]
        super::debug_log::start(&mut object);
        let own_maps = map_ids(&object)?;
        let (mut maps, rings) = take_maps(&mut object)?;
        let used = object.take_map("USED").ok_or(LoadError::NoMap("USED"))?;
        let used = Some(UsedReader::new(used.try_into()?));
        let names = Some(NameMaps::take(&mut object)?);

        let stats_for_test = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
        let features = Features::read();
        let mut posture = Posture::default();
        let set = pinned.as_ref().map(|pinned| &pinned.set);
        let mut missing = Vec::new();
        for entry in PROGRAMS {
            match set.filter(|_| adopts) {
                Some(set) if is_attached(set, entry, cgroup_id, &own_maps)? => {}
                _ => missing.push(entry),
            }
        }
        let mut loaded = load_all(&mut object, &missing, &btf);
        for entry in PROGRAMS {
            let program = object.program_mut(entry.name).ok_or(LoadError::NoProgram(entry.name))?;
            let Some(loaded) = loaded.remove(entry.name) else {
                posture.mechanisms.push(Mechanism::new(entry, State::Active));
                continue;
            };
            if OUTSIDE.contains(&entry.name) && !matches!(level, Ok(1..)) {
                posture.mechanisms.push(match &level {
                    // Nothing lies outside the root.
                    Ok(_) => Mechanism::new(entry, State::Idle),
                    Err(why) => Mechanism::out_of_sight(entry, why.clone()),
                });
                continue;
            }
            let state = match loaded.map_err(BringUp::Program).and_then(|found| match found {
                true => attach(program, entry, &cgroup, set),
                false => Ok(State::Absent { why: "this kernel has no such hook".to_owned() }),
            }) {
                Ok(state) => state,
                Err(BringUp::Pin(source)) => {
                    return Err(LoadError::PinProgram { mechanism: entry.mechanism, source });
                }
                Err(BringUp::Program(source)) if entry.required => {
                    tracing::debug!(mechanism = entry.mechanism, error = ?source, "refused");
                    return Err(LoadError::Required {
                        mechanism: entry.mechanism,
                        blind: entry.blind,
                        source,
                    });
                }
                Err(BringUp::Program(source)) => {
                    tracing::debug!(mechanism = entry.mechanism, error = ?source, "refused");
                    State::Refused { errno: errno_of(&source).unwrap_or(0), why: brief(&source) }
                }
            };
            posture.mechanisms.push(Mechanism::new(entry, state));
        }
        if missing.iter().any(|entry| entry.kind == Kind::Called) {
            put_called(&mut object)?;
        }
        let called =
            || program_info(&object, set, "network_socket_create").map_or(0, |info| info.run_count());
        test_lsm(called, &features, stats_for_test.is_some(), &mut posture);
        super::digests::test(&mut object, &mut maps.hash_trial, &btf, &mut posture)?;
        posture.mechanisms.extend(pin_state.map(Mechanism::pins));
        let syscall_hook = set.filter(|set| set.link("syscall_enter").exists()).map(|_| SyscallHook::Pinned);
        let note = pinned.as_mut().map(|pinned| &pinned.note);
        let next_agent = note.map_or(USER_AGENT | 1, |note| note.next_agent);
        let mut kernel = Kernel {
            object,
            maps,
            generations: HashMap::new(),
            next_agent,
            contents: HashMap::new(),
            posture,
            rings,
            used,
            names,
            syscall_hook,
            stats: if options.stats { stats_for_test } else { None },
            pinned,
        };
        if let Some(old) = replaced {
            transfer::take_over(&mut kernel, &old)?;
        }
        kernel.maps.monitor.set(0, u64::from(std::process::id()), 0)?;
        kernel.learn_generations()?;
        Ok(kernel)
    }

    /// Generations go on where they were: sockets remember flows by them.
    fn learn_generations(&mut self) -> Result<(), LoadError> {
        let Some(pinned) = &self.pinned else { return Ok(()) };
        for row in 0..PROFILE_ROWS as u32 {
            let noted = pinned.note.profiles.get(row as usize).map_or(0, |profile| profile.generation);
            let in_force =
                InForce::from_word(self.maps.profiles.get(&row, 0)?).map_or(0, |held| held.generation);
            if noted.max(in_force) > 0 {
                self.generations.insert(row, noted.max(in_force));
            }
        }
        Ok(())
    }

    /// What this kernel can enforce.
    pub fn posture(&self) -> &Posture {
        &self.posture
    }

    /// The consumer end of a ring; `None` once it was taken.
    pub fn take_ring(&mut self, ring: Ring) -> Option<RingReader> {
        self.rings[ring.code() as usize].take()
    }

    /// The counts of repeated activity; `None` once they were taken.
    pub fn take_used(&mut self) -> Option<UsedReader> {
        self.used.take()
    }

    /// The maps of names; `None` once they were taken.
    pub fn take_names(&mut self) -> Option<NameMaps> {
        self.names.take()
    }

    /// Attaches or detaches the system call hook. Attached only while a live agent's profile lists calls: it costs
    /// every system call of the host.
    pub fn set_syscall_hook(&mut self, on: bool) -> Result<(), ProgramError> {
        let program: &mut RawTracePoint =
            self.object.program_mut("syscall_enter").ok_or(ProgramError::NotLoaded)?.try_into()?;
        let pin = self.pinned.as_ref().map(|pinned| pinned.set.link("syscall_enter"));
        match (on, self.syscall_hook.take()) {
            (true, None) => {
                let link = program.attach("sys_enter")?;
                self.syscall_hook = Some(match &pin {
                    None => SyscallHook::Own(link),
                    Some(pin) => {
                        keep(program.take_link(link)?, Some(pin)).map_err(|error| match error {
                            BringUp::Program(error) => error,
                            BringUp::Pin(error) => ProgramError::IOError(io::Error::other(error)),
                        })?;
                        SyscallHook::Pinned
                    }
                });
            }
            (false, Some(SyscallHook::Own(link))) => program.detach(link)?,
            (false, Some(SyscallHook::Pinned)) => {
                if let Some(pin) = &pin {
                    std::fs::remove_file(pin).map_err(ProgramError::IOError)?;
                }
            }
            (_, link) => self.syscall_hook = link,
        }
        Ok(())
    }

    /// Whether the system call hook is attached.
    pub fn syscall_hook(&self) -> bool {
        self.syscall_hook.is_some()
    }

    /// Whether run counts and times are kept.
    pub fn stats_enabled(&self) -> bool {
        self.stats.is_some()
    }

    /// Statistics of every loaded program.
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        PROGRAMS
            .iter()
            .filter_map(|entry| {
                let set = self.pinned.as_ref().map(|pinned| &pinned.set);
                let info = program_info(&self.object, set, entry.name)?;
                Some(ProgramStats {
                    name: entry.name,
                    mechanism: entry.mechanism,
                    run_count: info.run_count(),
                    run_time_ns: info.run_time().as_nanos() as u64,
                    verified_instructions: info.verified_instruction_count().unwrap_or(0),
                })
            })
            .collect()
    }
}

fn take_maps(object: &mut Ebpf) -> Result<(Maps, [Option<RingReader>; 2]), LoadError> {
    fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
        object.take_map(name).ok_or(LoadError::NoMap(name))
    }
    fn data(object: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
        match take(object, name)? {
            Map::Array(data) | Map::ArrayOfMaps(data) => Ok(data),
            _ => Err(LoadError::NoMap(name)),
        }
    }
    let ring = |map: Map| -> Result<_, LoadError> { Ok(Some(RingReader::new(RingBuf::try_from(map)?))) };
    let rings = [ring(take(object, "VERDICTS")?)?, ring(take(object, "ACTIVITY")?)?];
    let maps = Maps {
        labels: take(object, "LABELS")?.try_into()?,
        agents: take(object, "AGENTS")?.try_into()?,
        profiles: take(object, "PROFILES")?.try_into()?,
        deadlines: take(object, "DEADLINES")?.try_into()?,
        next_agent: take(object, "NEXT_AGENT")?.try_into()?,
        monitor: take(object, "MONITOR")?.try_into()?,
        images: data(object, "IMAGES")?,
        label_bits: data(object, "LABEL_BITS")?,
        attach: take(object, "ATTACH")?.try_into()?,
        rings: take(object, "RINGS")?.try_into()?,
        decisions: take(object, "DECISION_COUNT")?.try_into()?,
        faults: take(object, "FAULTS")?.try_into()?,
        syscall_count: take(object, "SYSCALL_COUNT")?.try_into()?,
        probe: data(object, "PROBE")?,
        path_probe: data(object, "PATH_PROBE")?,
        hash_trial: take(object, "HASH_TRIAL")?.try_into()?,
        checked: take(object, "CHECKED")?.try_into()?,
        marks: take(object, "MARKS")?.try_into()?,
        marked: take(object, "MARKED")?.try_into()?,
    };
    Ok((maps, rings))
}

/// The directory of the pins, and what posture says of it; neither where a load is for a moment.
fn open_pins(pins: &Pinning) -> Result<(Option<Pins>, Option<State>), LoadError> {
    let absent = |why: String| (None, Some(State::Absent { why }));
    Ok(match pins {
        Pinning::Never => (None, None),
        Pinning::Off => absent("--no-pins was given".to_owned()),
        Pinning::Told(directory) => (Some(Pins::open(directory, true)?), Some(State::Active)),
        Pinning::Default(directory) => match Pins::open(directory, false) {
            Ok(pins) => (Some(pins), Some(State::Active)),
            // Another daemon's, or another user's: that is for a person to decide.
            Err(error @ (PinError::Held(_) | PinError::Foreign(_))) => return Err(error.into()),
            Err(error) => absent(error.to_string()),
        },
    })
}

/// Decides between a new set and the one that is there. The second: what a new set is to take over.
fn plan(pins: Pins, identity: Identity) -> Result<(Option<Pinned>, Option<Set>), LoadError> {
    Ok(match pins.plan(&identity)? {
        Plan::Fresh(set) => {
            let note = Note::new(identity, pins.mounted(), USER_AGENT | 1);
            (Some(Pinned::make(pins, set, note, Origin::Fresh, None)?), None)
        }
        Plan::Adopt(set, note) => (Some(Pinned::adopt(pins, set, *note)?), None),
        Plan::Replace { old, note, new, why } => {
            tracing::warn!(why, "what an earlier daemon pinned is replaced, and its agents taken over");
            let note = Note { identity, ..*note };
            let from = old.clone();
            (Some(Pinned::make(pins, new, note, Origin::Replaced(why), Some(old))?), Some(from))
        }
    })
}

/// Whether a map of the object belongs to a set. What has a dot is made anew with each load: `.rodata`.
fn is_pinned(name: &str) -> bool {
    !name.contains('.') && name != "AYA_LOGS"
}

/// Pins the maps of a new set; of an adopted one sees that each was there.
fn pin_maps(object: &Ebpf, set: &Set, found: &[String], adopts: bool) -> Result<(), LoadError> {
    for (name, map) in object.maps().filter(|(name, _)| is_pinned(name)) {
        if !adopts {
            map.pin(set.map(name)).map_err(|source| LoadError::PinProgram { mechanism: "a map", source })?;
        } else if !found.iter().any(|found| found == name) {
            let what = format!("it lacks the map {name}");
            return Err(PinError::Broken { directory: set.directory().to_owned(), what }.into());
        }
    }
    Ok(())
}

/// The kernel's numbers of the object's maps.
fn map_ids(object: &Ebpf) -> Result<HashSet<u32>, LoadError> {
    let mut ids = HashSet::new();
    for (_, map) in object.maps().filter(|(name, _)| is_pinned(name)) {
        if let Map::Array(data) | Map::HashMap(data) | Map::RingBuf(data) = map {
            ids.insert(data.info()?.id());
        }
    }
    Ok(ids)
}

/// Whether an adopted set has this program attached where it belongs, over the adopted maps. A link that was cut off
/// is unpinned, so that the program is attached anew.
fn is_attached(set: &Set, entry: &Entry, cgroup: u64, own_maps: &HashSet<u32>) -> Result<bool, LoadError> {
    if entry.kind == Kind::Called {
        return Ok(set.program(entry.name).exists());
    }
    let path = set.link(entry.name);
    if matches!(entry.kind, Kind::Iterator | Kind::RawTracepoint) {
        return Ok(false);
    }
    if !path.exists() {
        // Refused at the load, or cut off since.
        let program = set.program(entry.name);
        if program.exists() {
            tracing::error!(program = entry.name, "a pinned program was detached; it is attached anew");
            std::fs::remove_file(&program).map_err(|source| PinError::Io { path: program, source })?;
        }
        return Ok(false);
    }
    let failed = |source| PinError::Io { path: path.clone(), source };
    let link = link_info(open_pin(&path).map_err(failed)?.as_fd()).map_err(failed)?;
    let broken = |what: &str| PinError::Broken {
        directory: set.directory().to_owned(),
        what: format!("{}: {what}", entry.name),
    };
    let program = ProgramInfo::from_pin(set.program(entry.name))
        .map_err(|error| broken(&format!("its program can't be read: {error}")))?;
    let used = program.map_ids().ok().flatten().unwrap_or_default();
    if program.id() != link.program || !used.iter().any(|id| own_maps.contains(id)) {
        return Err(broken("its link leads to a program that is not of this set").into());
    }
    let of_cgroup = matches!(entry.kind, Kind::CgroupSkb | Kind::CgroupSock | Kind::CgroupSockAddr);
    if of_cgroup && link.cgroup != cgroup {
        tracing::error!(program = entry.name, "a pinned program was detached; it is attached anew");
        for path in [path, set.program(entry.name)] {
            let failed = |source| PinError::Io { path: path.clone(), source };
            std::fs::remove_file(&path).map_err(failed)?;
        }
        return Ok(false);
    }
    Ok(true)
}

/// What the kernel says of a program that was loaded, or is pinned and was not loaded again.
fn program_info(object: &Ebpf, set: Option<&Set>, name: &str) -> Option<ProgramInfo> {
    object.program(name).and_then(info_of).or_else(|| ProgramInfo::from_pin(set?.program(name)).ok())
}

/// Pins a link, which then outlives the process.
fn keep<L>(link: L, pin: Option<&Path>) -> Result<(), BringUp>
where
    L: TryInto<FdLink>,
    BringUp: From<L::Error>,
{
    if let Some(pin) = pin {
        let link: FdLink = link.try_into()?;
        link.pin(pin).map_err(BringUp::Pin)?;
    }
    Ok(())
}

impl From<std::convert::Infallible> for BringUp {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Programs that the verifier works on at once, at most: each takes some megabytes of the kernel's memory meanwhile.
const VERIFIERS: usize = 4;

/// Loads `entries`, several at once: the verifier takes nearly all of a start. Of each whether the kernel has its hook.
fn load_all(
    object: &mut Ebpf,
    entries: &[&'static Entry],
    btf: &Btf,
) -> HashMap<&'static str, Result<bool, ProgramError>> {
    let mut programs: HashMap<&str, &mut Program> = object.programs_mut().collect();
    let waiting: Vec<_> =
        entries.iter().filter_map(|entry| Some((*entry, programs.remove(entry.name)?))).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(VERIFIERS);
    let waiting = Mutex::new(waiting.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((entry, program)) = next() {
            done.push((entry.name, load(program, entry, btf)));
        }
        done
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done: HashMap<_, _> = work().into_iter().collect();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    })
}

/// Loads a program; whether the kernel has its hook.
fn load(program: &mut Program, entry: &Entry, btf: &Btf) -> Result<bool, ProgramError> {
    let loaded = match entry.kind {
        Kind::CgroupSockAddr => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Kind::CgroupSock => <&mut CgroupSock>::try_from(program)?.load(),
        Kind::CgroupSkb | Kind::Called => <&mut CgroupSkb>::try_from(program)?.load(),
        Kind::Tracepoint => <&mut BtfTracePoint>::try_from(program)?.load(entry.hook, btf),
        Kind::Lsm => <&mut Lsm>::try_from(program)?.load(entry.hook, btf),
        Kind::FunctionEntry => <&mut FEntry>::try_from(program)?.load(entry.hook, btf),
        Kind::RawTracepoint => <&mut RawTracePoint>::try_from(program)?.load(),
        Kind::Iterator => <&mut Iter>::try_from(program)?.load(entry.hook, btf),
    };
    match loaded {
        Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) if entry.kind == Kind::Lsm => Ok(false),
        loaded => loaded.map(|()| true),
    }
}

/// Attaches a loaded program where its kind goes; into `set`, where there is one.
fn attach(program: &mut Program, entry: &Entry, cgroup: &File, set: Option<&Set>) -> Result<State, BringUp> {
    // Links of cgroup programs are always of the multi kind (`cgroup_bpf_link_attach`, 5.7), and the kernel takes no
    // flags with them: `Single` here means "no flags". A program of a child cgroup can't take our place.
    let mode = CgroupAttachMode::Single;
    let pin = set.map(|set| set.link(entry.name));
    let pin = pin.as_deref();
    /// Where there is a pin the link moves there; else the program holds it.
    macro_rules! attach {
        ($kind:ident, $($argument:expr),*) => {{
            let program: &mut $kind = (&mut *program).try_into()?;
            let link = program.attach($($argument),*)?;
            if pin.is_some() {
                keep(program.take_link(link)?, pin)?;
            }
        }};
    }
    match entry.kind {
        Kind::CgroupSockAddr => attach!(CgroupSockAddr, cgroup, mode),
        Kind::CgroupSock => attach!(CgroupSock, cgroup, mode),
        Kind::CgroupSkb => attach!(CgroupSkb, cgroup, CgroupSkbAttachType::Egress, mode),
        // Where it is called from, `put_called` says.
        Kind::Called => {}
        Kind::Tracepoint => attach!(BtfTracePoint,),
        Kind::Lsm => attach!(Lsm,),
        Kind::FunctionEntry => attach!(FEntry,),
        Kind::RawTracepoint | Kind::Iterator => return Ok(State::Idle),
    }
    if let Some(set) = set {
        program.pin(set.program(entry.name)).map_err(BringUp::Pin)?;
    }
    Ok(State::Active)
}

/// Tells the programs that call others where these are.
fn put_called(object: &mut Ebpf) -> Result<(), LoadError> {
    let program: &CgroupSkb = object
        .program("hello_egress")
        .ok_or(LoadError::NoProgram("hello_egress"))?
        .try_into()
        .map_err(LoadError::Called)?;
    let program = program.fd().map_err(LoadError::Called)?;
    let program = program.try_clone().map_err(|error| LoadError::Called(error.into()))?;
    let map = object.map_mut("CALLED").ok_or(LoadError::NoMap("CALLED"))?;
    Ok(ProgramArray::try_from(map)?.set(HELLO_EGRESS, &program, 0)?)
}

/// LSM programs load and attach on kernels that never call them. So: ask the kernel's list, then make a socket and
/// look whether `socket_create` ran (`run_count`). `counted`: the kernel counts runs.
fn test_lsm(run_count: impl Fn() -> u64, features: &Features, counted: bool, posture: &mut Posture) {
    let why = match features.bpf_lsm_listed() {
        Some(false) => "`bpf` is not in /sys/kernel/security/lsm; boot with lsm=…,bpf".to_owned(),
        _ if !counted => {
            "whether the kernel calls the program can't be seen: it refuses run statistics".to_owned()
        }
        _ => {
            let before = run_count();
            drop(std::os::unix::net::UnixDatagram::unbound());
            if run_count() > before {
                return;
            }
            "the kernel took the program and does not call it; boot with lsm=…,bpf".to_owned()
        }
    };
    for (mechanism, entry) in posture.mechanisms.iter_mut().zip(PROGRAMS) {
        if entry.kind == Kind::Lsm && mechanism.state == State::Active {
            mechanism.state = State::Absent { why: why.clone() };
        }
    }
}
