//! Loading and attaching.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use agent_monitor_common::counters::Ring;
use agent_monitor_common::wire::Wire;
use aya::maps::{Map, MapData, MapError, RingBuf};
use aya::programs::links::CgroupAttachMode;
use aya::programs::{
    BtfTracePoint, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry, Iter, Lsm, Program,
    ProgramError, RawTracePoint,
};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader};

use super::btf::{LayoutError, resolve_layout};
use super::control::Maps;
use super::counters::ProgramStats;
use super::features::Features;
use super::labels::USER_AGENT;
use super::posture::{Mechanism, Posture, State};
use super::programs::{Entry, Kind, PROGRAMS, errno_of, info_of};
use super::rings::RingReader;
use super::used::UsedReader;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-monitor.bpf.o"));
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The cgroup (v2) that the network programs govern: agents outside it are not.
    pub cgroup: PathBuf,
    /// Kernel statistics of programs: some 30 ns for each run of each program.
    pub stats: bool,
    /// Bytes of the verdict ring; `None`: 4 MiB. A power of two, a multiple of the page size.
    pub verdict_ring: Option<u32>,
}

impl LoadOptions {
    pub fn new(cgroup: impl Into<PathBuf>) -> Self {
        LoadOptions { cgroup: cgroup.into(), stats: false, verdict_ring: None }
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
}

/// A program error without the verifier's log, which runs to thousands of lines; `--debug` logs it whole.
fn brief(error: &ProgramError) -> String {
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

/// The loaded programs and their maps. Dropping it detaches everything.
pub struct Kernel {
    pub(super) object: Ebpf,
    pub(super) maps: Maps,
    pub(super) generations: HashMap<u32, u32>,
    pub(super) next_agent: u32,
    posture: Posture,
    rings: [Option<RingReader>; 2],
    used: Option<UsedReader>,
    syscall_hook: Option<aya::programs::raw_trace_point::RawTracePointLinkId>,
    /// Keeps kernel statistics on.
    stats: Option<OwnedFd>,
}

impl Kernel {
    /// Loads the object, attaches what this kernel takes, and finds out what it does not.
    ///
    /// # Errors
    /// A required program that is refused ends it; an optional one becomes a line of the posture.
    pub fn load(options: &LoadOptions) -> Result<Kernel, LoadError> {
        let cgroup = File::open(&options.cgroup)
            .map_err(|source| LoadError::Cgroup { path: options.cgroup.clone(), source })?;
        let layout = resolve_layout(Path::new(VMLINUX_BTF))?;
        let layout: Vec<u32> =
            layout.as_bytes().chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let btf = Btf::from_sys_fs()?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).allow_unsupported_maps().override_global("LAYOUT", layout.as_slice(), true);
        if let Some(bytes) = options.verdict_ring {
            loader.map_max_entries("VERDICTS", bytes);
        }
        let mut object = loader.load(OBJECT)?;
        #[cfg(feature = "kernel-log")]
        super::debug_log::start(&mut object);
        let (maps, rings) = take_maps(&mut object)?;
        let used = object.take_map("USED").ok_or(LoadError::NoMap("USED"))?;
        let used = Some(UsedReader::new(used.try_into()?));

        let stats_for_test = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
        let features = Features::read();
        let mut posture = Posture::default();
        for entry in PROGRAMS {
            let program = object.program_mut(entry.name).ok_or(LoadError::NoProgram(entry.name))?;
            let state = match bring_up(program, entry, &btf, &cgroup) {
                Ok(state) => state,
                Err(source) if entry.required => {
                    tracing::debug!(mechanism = entry.mechanism, error = ?source, "refused");
                    return Err(LoadError::Required {
                        mechanism: entry.mechanism,
                        blind: entry.blind,
                        source,
                    });
                }
                Err(source) => {
                    tracing::debug!(mechanism = entry.mechanism, error = ?source, "refused");
                    State::Refused { errno: errno_of(&source).unwrap_or(0), why: brief(&source) }
                }
            };
            posture.mechanisms.push(Mechanism::new(entry, state));
        }
        test_lsm(&object, &features, stats_for_test.is_some(), &mut posture);
        Ok(Kernel {
            object,
            maps,
            generations: HashMap::new(),
            next_agent: USER_AGENT | 1,
            posture,
            rings,
            used,
            syscall_hook: None,
            stats: if options.stats { stats_for_test } else { None },
        })
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

    /// Attaches or detaches the system call hook. Attached only while a live agent's profile lists calls: it costs
    /// every system call of the host.
    pub fn set_syscall_hook(&mut self, on: bool) -> Result<(), ProgramError> {
        let program: &mut RawTracePoint =
            self.object.program_mut("syscall_enter").ok_or(ProgramError::NotLoaded)?.try_into()?;
        match (on, self.syscall_hook.take()) {
            (true, None) => self.syscall_hook = Some(program.attach("sys_enter")?),
            (false, Some(link)) => program.detach(link)?,
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
                let info = info_of(self.object.program(entry.name)?)?;
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
        images: data(object, "IMAGES")?,
        label_bits: data(object, "LABEL_BITS")?,
        attach: take(object, "ATTACH")?.try_into()?,
        rings: take(object, "RINGS")?.try_into()?,
        decisions: take(object, "DECISION_COUNT")?.try_into()?,
        faults: take(object, "FAULTS")?.try_into()?,
        syscall_count: take(object, "SYSCALL_COUNT")?.try_into()?,
        probe: data(object, "PROBE")?,
    };
    Ok((maps, rings))
}

/// Loads a program and attaches it where its kind goes.
fn bring_up(program: &mut Program, entry: &Entry, btf: &Btf, cgroup: &File) -> Result<State, ProgramError> {
    // Links of cgroup programs are always of the multi kind (`cgroup_bpf_link_attach`, 5.7), and the kernel takes no
    // flags with them: `Single` here means "no flags". A program of a child cgroup can't take our place.
    let mode = CgroupAttachMode::Single;
    match entry.kind {
        Kind::CgroupSockAddr => {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load()?;
            program.attach(cgroup, mode)?;
        }
        Kind::CgroupSock => {
            let program: &mut CgroupSock = program.try_into()?;
            program.load()?;
            program.attach(cgroup, mode)?;
        }
        Kind::CgroupSkb => {
            let program: &mut CgroupSkb = program.try_into()?;
            program.load()?;
            program.attach(cgroup, CgroupSkbAttachType::Egress, mode)?;
        }
        Kind::Tracepoint => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(entry.hook, btf)?;
            program.attach()?;
        }
        Kind::Lsm => {
            let program: &mut Lsm = program.try_into()?;
            match program.load(entry.hook, btf) {
                Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) => {
                    return Ok(State::Absent { why: "this kernel has no such hook".to_owned() });
                }
                loaded => loaded?,
            }
            program.attach()?;
        }
        Kind::FunctionEntry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(entry.hook, btf)?;
            program.attach()?;
        }
        Kind::RawTracepoint => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            return Ok(State::Idle);
        }
        Kind::Iterator => {
            let program: &mut Iter = program.try_into()?;
            program.load(entry.hook, btf)?;
            return Ok(State::Idle);
        }
    }
    Ok(State::Active)
}

/// LSM programs load and attach on kernels that never call them. So: ask the kernel's list, then make a socket and
/// look whether `socket_create` ran. `counted`: the kernel counts runs.
fn test_lsm(object: &Ebpf, features: &Features, counted: bool, posture: &mut Posture) {
    let run_count = || object.program("network_socket_create").and_then(info_of).map_or(0, |i| i.run_count());
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
