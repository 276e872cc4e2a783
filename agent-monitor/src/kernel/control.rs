//! The maps that userspace reads and writes, by their types.

use agent_monitor_common::activity::UsedKey;
use agent_monitor_common::agent::{AgentState, AttachRequest};
use agent_monitor_common::counters::RingCounters;
use agent_monitor_common::label::Label;
use agent_monitor_common::mark::{Mark, MarkKey};
use agent_monitor_common::name::{Asker, AskerKey, Named, NamedKey, Spoken, SpokenKey};
use agent_monitor_common::pin::{Checked, FileKey, HashTrial};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};

/// Lets aya move a wire struct of the common crate in and out of a map.
macro_rules! pod {
    ($($name:ident = $inner:ty;)*) => {$(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub struct $name(pub $inner);
        // SAFETY: wire structs are repr(C) integers without padding.
        unsafe impl aya::Pod for $name {}
    )*};
}

pod! {
    LabelPod = Label;
    AgentPod = AgentState;
    AttachPod = AttachRequest;
    MarkKeyPod = MarkKey;
    MarkPod = Mark;
    HashTrialPod = HashTrial;
    FileKeyPod = FileKey;
    CheckedPod = Checked;
    RingPod = RingCounters;
    UsedPod = UsedKey;
    NamedKeyPod = NamedKey;
    NamedPod = Named;
    SpokenKeyPod = SpokenKey;
    SpokenPod = Spoken;
    AskerKeyPod = AskerKey;
    AskerPod = Asker;
}

/// The maps of a loaded object.
pub struct Maps {
    pub labels: HashMap<MapData, u32, LabelPod>,
    pub agents: HashMap<MapData, u32, AgentPod>,
    pub profiles: Array<MapData, u64>,
    pub deadlines: Array<MapData, u64>,
    pub next_agent: Array<MapData, u64>,
    pub monitor: Array<MapData, u64>,
    pub images: MapData,
    pub label_bits: MapData,
    pub attach: Array<MapData, AttachPod>,
    pub rings: PerCpuArray<MapData, RingPod>,
    pub decisions: PerCpuArray<MapData, u64>,
    pub faults: PerCpuArray<MapData, u64>,
    pub syscall_count: HashMap<MapData, [u32; 2], u64>,
    pub probe: MapData,
    pub path_probe: MapData,
    pub marks: HashMap<MapData, MarkKeyPod, MarkPod>,
    pub marked: Array<MapData, u32>,
    pub hash_trial: Array<MapData, HashTrialPod>,
    pub checked: HashMap<MapData, FileKeyPod, CheckedPod>,
}
