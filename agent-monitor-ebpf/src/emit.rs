//! Writing records. Never blocks; a full ring is counted, by ring and by agent, and changes no verdict.

use agent_monitor_common::ABI_VERSION;
use agent_monitor_common::counters::{Domain, Effect, Mode, Ring, decision_cell_of};
use agent_monitor_common::event::{FileBody, Header, Hook, Kind, NetBody, Reason};
use agent_monitor_common::label::Label;
use agent_monitor_common::request::NetRequest;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_ringbuf_output};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use core::ffi::c_void;

use crate::atomic;
use crate::maps::{ACTIVITY, AGENTS, DECISION_COUNT, RINGS, VERDICTS};

/// What a hook decided, before it becomes a record.
#[derive(Clone, Copy)]
pub struct Outcome {
    pub effect: Effect,
    pub mode: Mode,
    pub generation: u32,
    /// What the caller sees; 0: nothing.
    pub errno: u16,
}

impl Outcome {
    /// Where its record goes: what the profile is against to the verdicts, all else to the activity.
    #[inline(always)]
    pub fn ring(self) -> Ring {
        if !matches!(self.effect, Effect::Allow) && !matches!(self.mode, Mode::Learn) {
            Ring::Verdicts
        } else {
            Ring::Activity
        }
    }
}

/// Counts a decision.
#[inline(always)]
pub fn decision(domain: Domain, effect: Effect, mode: Mode) {
    decision_of(domain, effect, mode.code() as u32);
}

/// [`decision`] by the code of a mode.
#[inline(always)]
pub fn decision_of(domain: Domain, effect: Effect, mode: u32) {
    if let Some(cell) = DECISION_COUNT.get_ptr_mut(decision_cell_of(domain, effect, mode)) {
        // SAFETY: this CPU's cell.
        unsafe { *cell = (*cell).wrapping_add(1) };
    }
}

/// A header for the current process.
#[inline(always)]
pub fn header(kind: Kind, hook: Hook, length: usize, label: &Label, outcome: Outcome) -> Header {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: helpers without arguments.
    let (time_ns, cgroup) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_cgroup_id()) };
    Header {
        tgid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        cgroup,
        ..anonymous(kind, hook, length, time_ns, label, outcome)
    }
}

/// A header for egress, which has no current process.
#[inline(always)]
pub fn packet_header(kind: Kind, hook: Hook, length: usize, label: &Label, outcome: Outcome) -> Header {
    // SAFETY: a helper without arguments.
    anonymous(kind, hook, length, unsafe { bpf_ktime_get_ns() }, label, outcome)
}

#[inline(always)]
fn anonymous(kind: Kind, hook: Hook, length: usize, time_ns: u64, label: &Label, outcome: Outcome) -> Header {
    Header {
        abi: ABI_VERSION as u16,
        kind: kind.code(),
        length: length as u32,
        time_ns,
        agent: label.agent,
        profile: label.profile as u8,
        class: label.class(outcome.generation) as u8,
        hook: hook.code(),
        tgid: 0,
        tid: 0,
        cgroup: 0,
        generation: outcome.generation,
        effect: outcome.effect.code(),
        mode: outcome.mode.code(),
        errno: outcome.errno,
    }
}

/// A fixed record: header and body, adjacent.
#[repr(C)]
pub struct Record<B> {
    pub header: Header,
    pub body: B,
}

/// What a network record says besides the request.
#[derive(Clone, Copy)]
pub struct Flow {
    pub hook: Hook,
    pub ip_protocol: u32,
    pub family: u32,
    pub local_port: u16,
    /// Class of the name that granted it; 0: none did.
    pub name: u16,
}

/// Writes the record of a network decision; `reason` is a [`Reason`](agent_monitor_common::event::Reason) code.
#[inline(always)]
pub fn network(label: &Label, flow: Flow, request: NetRequest, reason: u8, outcome: Outcome) {
    const LENGTH: usize = size_of::<Record<NetBody>>();
    let header = match flow.hook {
        Hook::Egress => packet_header(Kind::Network, flow.hook, LENGTH, label, outcome),
        _ => header(Kind::Network, flow.hook, LENGTH, label, outcome),
    };
    let body = NetBody {
        address: request.address.bytes(),
        port: request.port,
        protocol: request.protocol.code(),
        direction: request.direction.code(),
        reason,
        pad: 0,
        local_port: flow.local_port,
        ip_protocol: flow.ip_protocol as u16,
        name: flow.name,
        family: flow.family,
    };
    record(outcome.ring(), label.agent, &Record { header, body });
}

/// Writes the record of a denied change of mounts: a decision on a path, without the path.
#[inline(always)]
pub fn mount(label: &Label, hook: Hook, reason: Reason, outcome: Outcome) {
    let header = header(Kind::File, hook, size_of::<Record<FileBody>>(), label, outcome);
    let body =
        FileBody { reason: reason.code() as u32, uid: bpf_get_current_uid_gid() as u32, ..FileBody::ZERO };
    record(outcome.ring(), label.agent, &Record { header, body });
}

/// Writes a fixed record.
#[inline(always)]
pub fn record<B>(ring: Ring, agent: u32, record: &Record<B>) {
    // SAFETY: the record lies on the stack and has no padding (both halves are wire structs of 8-byte multiples).
    unsafe { bytes(ring, agent, core::ptr::from_ref(record).cast(), size_of::<Record<B>>() as u64) }
}

/// Writes `length` bytes at `data`.
///
/// # Safety
/// `data` points to `length` initialised bytes that the verifier can bound.
#[inline(always)]
pub unsafe fn bytes(ring: Ring, agent: u32, data: *const c_void, length: u64) {
    let map: *mut c_void = match ring {
        Ring::Verdicts => (&raw const VERDICTS).cast_mut().cast(),
        Ring::Activity => (&raw const ACTIVITY).cast_mut().cast(),
    };
    // SAFETY: the caller's promise. 6.1 refuses a reservation held across other helpers, hence `output`.
    let lost = unsafe { bpf_ringbuf_output(map, data.cast_mut(), length, 0) } != 0;
    if let Some(cell) = RINGS.get_ptr_mut(ring.code()) {
        // SAFETY: this CPU's cell.
        unsafe {
            if lost {
                (*cell).lost = (*cell).lost.wrapping_add(1);
            } else {
                (*cell).written = (*cell).written.wrapping_add(1);
            }
        }
    }
    if lost && let Some(state) = AGENTS.get_ptr_mut(agent) {
        // SAFETY: an element of a preallocated map; all writers use atomics.
        unsafe {
            let cell = match ring {
                Ring::Verdicts => &raw mut (*state).lost_verdicts,
                Ring::Activity => &raw mut (*state).lost_activity,
            };
            atomic::add(cell, 1);
        }
    }
}

/// Counts `n` allowed flows or uses of an agent.
#[inline(always)]
pub fn allowed(agent: u32, n: u64) {
    if let Some(state) = AGENTS.get_ptr_mut(agent) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*state).allowed, n) };
    }
}

/// Counts a kill of an agent.
#[inline(always)]
pub fn killed(agent: u32) {
    if let Some(state) = AGENTS.get_ptr_mut(agent) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*state).killed, 1) };
    }
}

/// Counts a denial of an agent.
#[inline(always)]
pub fn denied(agent: u32) {
    if let Some(state) = AGENTS.get_ptr_mut(agent) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*state).denied, 1) };
    }
}
