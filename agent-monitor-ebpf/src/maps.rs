//! The maps. Each says who writes it, who reads it and how long an entry lives.
//!
//! Policy maps are never LRU: an eviction would turn a denial into an allow.

use agent_monitor_common::activity::{MAX_USED, UsedKey};
use agent_monitor_common::agent::{AgentState, AttachRequest, MAX_AGENTS};
use agent_monitor_common::counters::{DECISIONS, RingCounters, Site};
use agent_monitor_common::image::{IMAGE_SLOTS, IMAGE_WORDS, MAX_PROFILES, PROFILE_ROWS};
use agent_monitor_common::label::{BITMAP_WORDS, Label, MAX_LABELS, SocketLabel};
use agent_monitor_common::mark::{MAX_MARKS, Mark, MarkKey};
use agent_monitor_common::name::{
    Asker, AskerKey, MAX_ASKERS, MAX_NAMED, MAX_SPOKEN, Named, NamedKey, Servers, Spoken, SpokenKey,
};
use agent_monitor_common::path::{PATH_BATCH, PathAnswer};
use agent_monitor_common::pin::{Checked, FileKey, HashTrial, MAX_CHECKED};
use agent_monitor_common::request::{PROBE_BATCH, ProbeRequest};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;

use crate::automaton::Cursor;
use crate::hooks::hello::Said;
use crate::path::{CAP, SLACK, Scratch};
use crate::storage::{ClonedSocketStorage, SocketStorage, TaskStorage};

/// One bit per tgid. Writers: fork, exec, exit hooks and the task iterator (atomically). Readers: every hook.
#[btf_map]
pub static LABEL_BITS: Array<[u64; BITMAP_WORDS], 1> = Array::new();

/// Label by tgid, preallocated. Writers: fork, exec, exit hooks and the task iterator. Readers: every hook whose bit
/// was set. An entry lives from labelling to the exit of the process' last thread.
#[btf_map]
pub static LABELS: HashMap<u32, Label, MAX_LABELS> = HashMap::new();

/// Agents by key. Writers: the daemon, the exec hook (claims). The daemon removes an entry after its last process.
#[btf_map]
pub static AGENTS: HashMap<u32, AgentState, MAX_AGENTS> = HashMap::new();

/// Key of the next agent made by the exec hook. Writer: the exec hook.
#[btf_map]
pub static NEXT_AGENT: Array<u64, 1> = Array::new();

/// The tgid of the monitor. Writer: the daemon at its start. Readers: the hooks that keep agents off it.
#[btf_map]
pub static MONITOR: Array<u64, 1> = Array::new();

/// Image word of each profile slot and, in the last row, of the claims. Writer: the daemon, flipped last on install.
#[btf_map]
pub static PROFILES: Array<u64, PROFILE_ROWS> = Array::new();

/// When the leases of each row's image end, in nanoseconds of the clock that counts sleep (`CLOCK_BOOTTIME`). Writer: the
/// daemon. Readers: every hook that judges by an image with leases.
#[btf_map]
pub static DEADLINES: Array<u64, PROFILE_ROWS> = Array::new();

/// One policy image.
pub type Image = [u64; IMAGE_WORDS];

/// Policy images; see `PROFILES` for which slot is in force. Writer: the daemon. Readers: every deciding hook.
#[btf_map]
pub static IMAGES: ArrayOfMaps<Array<Image, 1>, IMAGE_SLOTS> = ArrayOfMaps::new();

/// Label of a socket. Writers: the socket hooks, egress, the LSM hooks, the file iterator; all of them read it.
/// Lives as long as the socket; accepted sockets get a copy.
#[btf_map]
pub static SOCKETS: ClonedSocketStorage<SocketLabel> = ClonedSocketStorage::new();

/// The servers that a socket means to ask. Writers: the hooks that lead a question to the resolver. Readers: those that
/// put the server back, and egress. Lives as long as the socket.
#[btf_map]
pub static SERVERS: ClonedSocketStorage<Servers> = ClonedSocketStorage::new();

/// Where the resolver listens ([`agent_monitor_common::name::RESOLVER_PLACE`], `…_NETWORK`). Writer: the daemon. Readers:
/// the name hooks.
#[btf_map]
pub static RESOLVER: Array<u64, 2> = Array::new();

/// Who asks, by the way the question comes. Writer: egress. Reader: the resolver. It may evict: a question whose asker
/// is not known is refused, and asked again.
#[btf_map]
pub static ASKERS: LruHashMap<AskerKey, Asker, MAX_ASKERS> = LruHashMap::new();

/// The names that addresses stand for. Writer: the resolver, which removes what has long expired. Readers: the
/// deciding hooks of the network. Not preallocated, so that an element is replaced whole.
#[btf_map]
pub static NAMED: HashMap<NamedKey, Named, MAX_NAMED, NO_PREALLOC> = HashMap::new();

/// The names that TLS clients may say. Writer: the resolver, for profiles with `sni`; it removes what has expired. Reader:
/// egress.
#[btf_map]
pub static SPOKEN: HashMap<SpokenKey, Spoken, MAX_SPOKEN, NO_PREALLOC> = HashMap::new();

/// Programs that others call, by `agent_monitor_common::name::HELLO_EGRESS`. Writer: the loader.
#[btf_map]
pub static CALLED: ProgramArray<1> = ProgramArray::new();

/// What a connection that must say a name has said. Writers and readers: connect and egress, under the socket's lock.
/// Lives as long as the socket.
#[btf_map]
pub static HELLOS: SocketStorage<Said> = SocketStorage::new();

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: usize = 1;

/// Scratch of the exec hook, one per task, made at its first exec under watch.
#[btf_map]
pub static SCRATCH: TaskStorage<Scratch> = TaskStorage::new();

/// Capabilities that were denied to a task and reported, so that a path look-up, which asks for one at every directory,
/// does not fill the ring. Made at its first denied capability.
#[btf_map]
pub static REPORTED: TaskStorage<Reported> = TaskStorage::new();

/// See [`REPORTED`].
#[repr(C)]
pub struct Reported {
    /// Generation of the profile that denied them.
    pub generation: u32,
    pub agent: u32,
    /// By number.
    pub capabilities: u64,
}

/// The mount that the task asked to write to last (a `struct vfsmount *`, never followed as one: `hooks/attribute.rs`).
/// Writers: `fentry/mnt_want_write` and `…_file`. Readers: the hooks about attributes, which get no mount. An element
/// lives as long as its task.
#[btf_map]
pub static WRITES: TaskStorage<u64> = TaskStorage::new();

/// Objects that are denied by what they are. Writer: the daemon, before an image is put in force; it removes those of
/// older images after.
#[btf_map]
pub static MARKS: HashMap<MarkKey, Mark, MAX_MARKS> = HashMap::new();

/// Whether each profile slot has marks, not 0: without any, nobody looks. Writer: the daemon, before it adds marks and
/// after it removed them.
#[btf_map]
pub static MARKED: Array<u32, MAX_PROFILES> = Array::new();

/// What the kernel's IMA makes of a file. Writers: the loader, then `digest_trial`, which only runs for it.
#[btf_map]
pub static HASH_TRIAL: Array<HashTrial, 1> = Array::new();

/// Contents of pinned programs, where the kernel can't tell them. Writer: the daemon, when it read a file.
#[btf_map]
pub static CHECKED: HashMap<FileKey, Checked, MAX_CHECKED> = HashMap::new();

/// Denials, would-denials and listed system calls. Reader: the daemon.
#[btf_map]
pub static VERDICTS: RingBuf<[u8; 80], { 4 << 20 }> = RingBuf::new();

/// Everything observed. Reader: the daemon.
#[btf_map]
pub static ACTIVITY: RingBuf<[u8; 80], { 2 << 20 }> = RingBuf::new();

/// How often an agent did again what it was seen to do. Writer: the file hooks. Reader: the daemon, which removes what
/// belongs to ended agents. It may evict: a repeat that is told of as new is no harm.
#[btf_map]
pub static USED: LruHashMap<UsedKey, u64, MAX_USED> = LruHashMap::new();

/// What the rings took and refused, by `Ring`. Writer: `emit.rs`.
#[btf_map]
pub static RINGS: PerCpuArray<RingCounters, 2> = PerCpuArray::new();

/// Decisions by `decision_cell`. Writers: the deciding hooks.
#[btf_map]
pub static DECISION_COUNT: PerCpuArray<u64, DECISIONS> = PerCpuArray::new();

/// Failures of helpers by `Site`. Writer: `fail.rs`.
#[btf_map]
pub static FAULTS: PerCpuArray<u64, { Site::ALL.len() }> = PerCpuArray::new();

/// Listed system calls by (agent, number). Writer: sys_enter. The daemon removes an agent's entries with the agent.
#[btf_map]
pub static SYSCALL_COUNT: HashMap<[u32; 2], u64, 8192> = HashMap::new();

/// What the iterators shall label. Writer: the daemon before a pass; the iterators count in it.
#[btf_map]
pub static ATTACH: Array<AttachRequest, 1> = Array::new();

/// Sites whose helpers fail, one bit each. Writer: a test. Only in the build with fault injection.
#[cfg(feature = "fault-injection")]
#[btf_map]
pub static INJECT: Array<u64, 1> = Array::new();

/// Input and output of the test-run probe.
#[repr(C)]
pub struct ProbeTable {
    /// Requests judged so far; the probe takes the next one modulo the batch.
    pub next: u64,
    /// Image slot to judge against.
    pub slot: u32,
    /// Class of the program that asks.
    pub class: u32,
    pub requests: [ProbeRequest; PROBE_BATCH],
    pub answers: [u32; PROBE_BATCH],
}

/// Used only by test-runs of the probe.
#[btf_map]
pub static PROBE: Array<ProbeTable, 1> = Array::new();

/// Input and output of the path probe.
#[repr(C)]
pub struct PathProbeTable {
    /// Paths judged so far; the probe takes the next one modulo the batch.
    pub next: u64,
    /// Image slot to judge against.
    pub slot: u64,
    /// Number of the class to judge as.
    pub class: u64,
    pub answers: [PathAnswer; PATH_BATCH],
    /// Where each path begins; it ends where its text ends, as a walked path does.
    pub starts: [u32; PATH_BATCH],
    pub texts: [[u8; CAP]; PATH_BATCH],
    /// The walk reads ahead.
    pub slack: [u8; SLACK],
}

/// Used only by test-runs of the path probe.
#[btf_map]
pub static PATH_PROBE: Array<PathProbeTable, 1> = Array::new();

/// How far the path probe's walk has come.
#[btf_map]
pub static PATH_PROBE_CURSOR: Array<Cursor, 1> = Array::new();
