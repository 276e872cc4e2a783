//! The process tree: labels follow fork, are given at exec by claims, and go with the last thread.

use agent_monitor_common::agent::AgentState;
use agent_monitor_common::automaton::accept;
use agent_monitor_common::counters::{Effect, Mode, Ring, Site};
use agent_monitor_common::event::{ARGV_BYTES, ExecBody, ExitBody, ForkBody, Header, Hook, Kind, PATH_BYTES};
use agent_monitor_common::image::{MAX_PROFILES, field, header};
use agent_monitor_common::label::{Label, LabelOrigin};
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns, bpf_probe_read_user,
};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use core::ffi::c_void;

use super::network::NOBODY;
use crate::automaton;
use crate::emit::{self, Outcome, Record};
use crate::kernel::{offset, typed};
use crate::maps::{AGENTS, LABELS, NEXT_AGENT, SCRATCH};
use crate::mark::Identity;
use crate::path::{self, Place, Scratch, bounded_length};
use crate::subject::{Table, claims, clear_bit, current_tgid, has_bit, label_of, policy, set_bit};
use crate::{atomic, fail, program};

/// Something that happened and was allowed.
#[inline(always)]
fn observed(label: &Label) -> Outcome {
    let (mode, generation) = match policy(label) {
        Some(p) => (p.mode(), p.generation),
        None => (Mode::Enforce, 0),
    };
    Outcome { effect: Effect::Allow, mode, generation, errno: 0 }
}

/// Adds to the count of an agent's living processes; the count after it.
#[inline(always)]
fn add_live(agent: u32, n: i64) -> Option<u64> {
    let state = AGENTS.get_ptr_mut(agent)?;
    // SAFETY: an element of a preallocated map; all writers use atomics.
    let before = unsafe { atomic::add(&raw mut (*state).live, n as u64) };
    Some(before.wrapping_add(n as u64))
}

/// Stores a process' label.
#[inline(always)]
fn insert_label(tgid: u32, label: &Label) -> Result<(), Site> {
    if fail::injected(Site::LabelInsert) || LABELS.insert(tgid, label, 0).is_err() {
        return Err(Site::LabelInsert);
    }
    Ok(())
}

/// `tp_btf/sched_process_fork(struct task_struct *parent, struct task_struct *child)`: runs in the parent before the
/// child can.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let child: *const c_void = ctx.arg(1);
    // SAFETY: a trusted task pointer of this tracepoint.
    let child: u32 = unsafe { typed(child, offset!(task_tgid)) };
    if child == tgid {
        return 0; // a thread
    }
    log!(&ctx, "fork: agent process {} made {}", tgid, child);
    // The bit first: whatever fails below leaves a child that is denied, not one that is free.
    set_bit(child);
    let mut lost = 1;
    let mut label = NOBODY;
    match label_of(tgid) {
        Ok(parent) => {
            label = Label { parent: tgid, origin: LabelOrigin::Fork.code(), allowed: 0, ..parent };
            match insert_label(child, &label) {
                Ok(()) => {
                    lost = 0;
                    add_live(label.agent, 1);
                }
                Err(_) => fail::count(Site::LabelInsert),
            }
        }
        Err(site) => fail::count(site),
    }
    let header =
        emit::header(Kind::Fork, Hook::Fork, size_of::<Record<ForkBody>>(), &label, observed(&label));
    emit::record(Ring::Activity, label.agent, &Record { header, body: ForkBody { child, label_lost: lost } });
    0
}

/// `tp_btf/sched_process_exit(struct task_struct *task)`: runs in the exiting thread; `signal->live` is already
/// decremented for it (`do_exit`), so 0 means that the whole process goes.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let task: *const c_void = ctx.arg(0);
    // SAFETY: a trusted task pointer of this tracepoint, and its signal struct.
    let (live, code) = unsafe {
        let signal: *const c_void = typed(task, offset!(task_signal));
        (typed::<i32>(signal, offset!(signal_live)), typed::<u32>(task, offset!(task_exit_code)))
    };
    if live != 0 {
        return 0;
    }
    let label = label_of(tgid);
    // Whoever takes the entry out counts the process out: the task iterator may race with us, and threads that exit
    // together all see that none is left.
    let removed = LABELS.remove(tgid).is_ok();
    let cleared = clear_bit(tgid);
    if !removed && (label.is_ok() || !cleared) {
        return 0; // another one tells of it
    }
    let label = label.unwrap_or(NOBODY);
    let mut last = 0;
    if removed {
        emit::allowed(label.agent, label.allowed);
    }
    if removed && add_live(label.agent, -1) == Some(0) {
        last = 1;
    }
    let header =
        emit::header(Kind::Exit, Hook::Exit, size_of::<Record<ExitBody>>(), &label, observed(&label));
    emit::record(Ring::Activity, label.agent, &Record { header, body: ExitBody { code, last } });
    0
}

/// `tp_btf/sched_process_exec(struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)`: the new program
/// is in place and has not run yet.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    let labelled = has_bit(tgid);
    let claims = if labelled { None } else { claims() };
    if !labelled && claims.is_none() {
        return 0;
    }
    let Some(s) = SCRATCH.current() else {
        fail::count(Site::TaskStorage);
        return 0;
    };
    // SAFETY: the current task's own scratch. Whatever it maps as code from here on is not part of its exec.
    unsafe { (*s).verified = Identity::NONE };
    let task: *const c_void = ctx.arg(0);
    let bprm: *const c_void = ctx.arg(2);
    // SAFETY: trusted pointers of this tracepoint; `s` is the current task's own.
    unsafe {
        let file: *const c_void = typed(bprm, offset!(bprm_file));
        let mnt: u64 = typed(file, offset!(file_path) + offset!(path_mnt));
        let dentry: u64 = typed(file, offset!(file_path) + offset!(path_dentry));
        let walked = path::walk(s, mnt, dentry);
        if let Err(site) = walked {
            fail::count(site);
        }
        // What has no path in a mount namespace (memfd, an unmounted file system) is no program that a rule can name.
        let named = walked.is_ok() && matches!(path::place(mnt), Ok(Place::Mounted));
        let identity = program::identity(file);
        let mut claimed = 0;
        let label = match claims {
            None => match LABELS.get_ptr_mut(tgid) {
                Some(label) => {
                    program::executed(label, s, named, identity);
                    *label
                }
                None => {
                    fail::count(Site::LabelMissing);
                    NOBODY
                }
            },
            Some(claims) => {
                if walked.is_err() {
                    return 0; // counted; a claim can't be judged without a path
                }
                let profile = claimed_by(claims, s);
                if profile == 0 {
                    return 0;
                }
                claimed = 1;
                match new_agent(tgid, profile - 1, task, s, named, identity) {
                    Some(label) => label,
                    None => NOBODY,
                }
            }
        };
        log!(&ctx, "exec: process {}, agent {}, claimed {}", tgid, label.agent, claimed);
        let inode: *const c_void = typed(file, offset!(file_inode));
        let inode: u64 = typed(inode, offset!(inode_ino));
        record_exec(s, task, &label, walked.is_ok(), claimed, inode);
    }
    0
}

/// The profile slot + 1 that claims the walked path; 0: none.
///
/// # Safety
/// `s` is the current task's scratch, with a walked path.
#[inline(always)]
unsafe fn claimed_by(table: Table, s: *mut Scratch) -> u32 {
    // SAFETY: the caller's promise.
    let state = unsafe { automaton::run(table, field(&table, header::START_EXE) as u32, s) };
    let code = accept(&table, state);
    if code as usize > MAX_PROFILES {
        fail::count(Site::ClaimRange);
        return 0;
    }
    code
}

/// Makes an agent of the current process. `None`: it has its bit and no label, and is denied everything.
///
/// # Safety
/// `task` is the current task, trusted; `s` its scratch, with the program's path walked if `named`.
#[inline(always)]
unsafe fn new_agent(
    tgid: u32,
    profile: u32,
    task: *const c_void,
    s: *mut Scratch,
    named: bool,
    identity: u64,
) -> Option<Label> {
    set_bit(tgid);
    let counter = NEXT_AGENT.get_ptr_mut(0)?;
    // SAFETY: an array element; all writers use atomics. Keys of agents made here stay below 2^31.
    let agent = (unsafe { atomic::add(counter, 1) } as u32 & 0x7fff_ffff) + 1;
    // SAFETY: the caller's promise.
    let parent: u32 = unsafe {
        let parent: *const c_void = typed(task, offset!(task_parent));
        typed(parent, offset!(task_tgid))
    };
    let state = AgentState {
        profile,
        root: tgid,
        live: 1,
        // SAFETY: a helper without arguments.
        created_ns: unsafe { bpf_ktime_get_boot_ns() },
        origin: LabelOrigin::Exec.code(),
        ..AgentState::ZERO
    };
    if fail::injected(Site::AgentInsert) || AGENTS.insert(agent, state, 0).is_err() {
        fail::count(Site::AgentInsert);
        return None;
    }
    let mut label = Label { agent, profile, parent, origin: LabelOrigin::Exec.code(), ..Label::ZERO };
    // SAFETY: the caller's promise.
    unsafe {
        if named {
            label.mounts = program::mounts(s);
        }
        program::executed(&raw mut label, s, named, identity);
    }
    if insert_label(tgid, &label).is_err() {
        fail::count(Site::LabelInsert);
        // No process will ever count this agent out. It was made just above, so it is there to be removed.
        let _ = AGENTS.remove(agent);
        return None;
    }
    Some(label)
}

/// Writes the exec record: header, body, path, argv.
///
/// # Safety
/// `s` is the current task's scratch; `task` is the current task, trusted.
#[inline(always)]
unsafe fn record_exec(
    s: *mut Scratch,
    task: *const c_void,
    label: &Label,
    walked: bool,
    claimed: u32,
    inode: u64,
) {
    // SAFETY: the caller's promise; every length is bounded by the size of its field.
    unsafe {
        let tail = (&raw mut (*s).tail).cast::<u8>();
        let (path_length, path_total) = if walked { path::copy_to_tail(s) } else { (0, 0) };
        let mm: *const c_void = typed(task, offset!(task_mm));
        let (from, to): (u64, u64) = (typed(mm, offset!(mm_arg_start)), typed(mm, offset!(mm_arg_end)));
        let argv_total = if to > from && to - from < 1 << 31 { (to - from) as usize } else { 0 };
        let mut argv_length = if argv_total > ARGV_BYTES { ARGV_BYTES } else { argv_total };
        let at = bounded_length::<PATH_BYTES>(path_length);
        let n = bounded_length::<ARGV_BYTES>(argv_length);
        if bpf_probe_read_user(tail.add(at).cast(), n as u32, from as *const c_void) != 0 {
            fail::count(Site::UserRead);
            argv_length = 0;
        }
        let length = size_of::<Header>() + size_of::<ExecBody>() + path_length + argv_length;
        (*s).header = emit::header(Kind::Exec, Hook::Exec, length, label, observed(label));
        let parent: *const c_void = typed(task, offset!(task_parent));
        (*s).body.parent = typed(parent, offset!(task_tgid));
        (*s).body.claimed = claimed;
        (*s).body.path_length = path_length as u32;
        (*s).body.path_total = path_total as u32;
        (*s).body.argv_length = argv_length as u32;
        (*s).body.argv_total = argv_total as u32;
        (*s).body.uid = bpf_get_current_uid_gid() as u32;
        (*s).body.pad = 0;
        (*s).body.inode = inode;
        (*s).body.comm = [0; 16]; // 6.1 does not pad
        bpf_get_current_comm((&raw mut (*s).body.comm).cast(), 16);
        let length = bounded_length::<RECORD_BYTES>(length);
        emit::bytes(Ring::Activity, label.agent, (&raw const (*s).header).cast(), length as u64);
    }
}

/// Longest exec record.
const RECORD_BYTES: usize = size_of::<Header>() + size_of::<ExecBody>() + PATH_BYTES + ARGV_BYTES;
