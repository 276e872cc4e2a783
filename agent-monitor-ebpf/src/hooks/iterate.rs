//! Iterators that the daemon runs: label a living tree, label the sockets it holds, find flows that lost their grant.
//!
//! They load where LSM programs do not, so attaching works on every host.

use agent_monitor_common::agent::{AttachRequest, StaleFlow};
use agent_monitor_common::counters::{Mode, Site};
use agent_monitor_common::decide::{Decision, decide};
use agent_monitor_common::image::UNKNOWN_CLASS;
use agent_monitor_common::label::{Label, SOCKET_ASKS, SOCKET_SERVER, class_cell};
use agent_monitor_common::mark::ObjectLine;
use agent_monitor_common::request::{NetRequest, Protocol};
use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use super::dns::{self, Held};
use super::network::label_socket;
use crate::ends::ends;
use crate::kernel::{offset, typed};
use crate::maps::{AGENTS, ATTACH, LABELS, SCRATCH, SOCKETS};
use crate::mark::{identity, stamp};
use crate::subject::{class_of_socket, clear_bit, has_bit, label_of, policy, set_bit, standing, table};
use crate::{atomic, fail, program};

/// `struct bpf_iter_meta`.
#[repr(C)]
pub struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__task`.
#[repr(C)]
pub struct TaskContext {
    meta: *mut Meta,
    task: *const c_void,
}

/// `struct bpf_iter__task_file`.
#[repr(C)]
pub struct FileContext {
    meta: *mut Meta,
    task: *const c_void,
    fd: u32,
    _pad: u32,
    file: *mut c_void,
}

/// `iter/task`: labels the request's root and, pass after pass, the children of what carries the agent. The daemon
/// repeats until a pass labels nothing; from then on the fork hook keeps up.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn iterate_tasks(ctx: *mut TaskContext) -> i32 {
    let Some(request) = ATTACH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the iterator's context; null at the end of the walk. Only one pass runs at a time (the daemon's lock).
    unsafe {
        let task = (*ctx).task;
        if task.is_null() {
            return 0;
        }
        let tgid: u32 = typed(task, offset!(task_tgid));
        let pid: u32 = typed(task, offset!(task_pid));
        if pid != tgid || has_bit(tgid) {
            return 0;
        }
        let parent: *const c_void = typed(task, offset!(task_parent));
        let parent: u32 = typed(parent, offset!(task_tgid));
        let agent = (*request).agent;
        let chosen = tgid == (*request).root
            || (has_bit(parent) && matches!(label_of(parent), Ok(l) if l.agent == agent));
        if !chosen || !alive(task) {
            return 0;
        }
        let label =
            Label { agent, profile: (*request).profile, parent, origin: (*request).origin, ..Label::ZERO };
        set_bit(tgid);
        if LABELS.insert(tgid, label, 0).is_err() {
            fail::count(Site::LabelInsert);
            (*request).failed += 1;
            return 0;
        }
        count_live(agent, 1);
        // It may have exited between the test and the label: then the exit hook saw no bit. Both sides write first
        // and look second, so at least one of them takes the entry out, and only one counts it out.
        if !alive(task) {
            if LABELS.remove(tgid).is_ok() {
                count_live(agent, -1);
            }
            clear_bit(tgid);
            return 0;
        }
        (*request).labelled += 1;
        // Behind the label: an exec from here on finds it, counts, and what is written below is no longer true.
        first_class(task, tgid);
    }
    0
}

/// Finds what a process runs that just got its label.
///
/// # Safety
/// `task` is the iterator's, of process `tgid`.
#[inline(always)]
unsafe fn first_class(task: *const c_void, tgid: u32) {
    let Some(s) = SCRATCH.current() else {
        fail::count(Site::TaskStorage);
        return;
    };
    let Some(label) = LABELS.get_ptr_mut(tgid) else { return };
    // SAFETY: the caller's promise; the scratch is the current task's own; an element of the label map.
    unsafe {
        let execs = read_volatile(&raw const (*label).execs);
        let file = program::of_task(task);
        if file.is_null() || program::walk(s, file).is_err() {
            return; // of no class, and no later exec gives it one
        }
        let mounts = program::mounts(s);
        let Some(standing) = standing((*label).profile) else { return };
        let (Some(table), generation) = (standing.table(), standing.generation) else { return };
        let class = program::class_of_walked(s, table, mounts);
        // The process may be gone and the element another's.
        let Some(label) = LABELS.get_ptr_mut(tgid) else { return };
        write_volatile(&raw mut (*label).mounts, mounts);
        if read_volatile(&raw const (*label).execs) == execs {
            write_volatile(&raw mut (*label).program, program::identity(file));
            program::set_cell(label, class, generation, execs);
        }
    }
}

/// `iter/task`: finds the class of every process of a profile by an image that is to be in force, or just is.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn iterate_classes(ctx: *mut TaskContext) -> i32 {
    let Some(request) = ATTACH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the iterator's context; null at the end of the walk. Only one pass runs at a time (the daemon's lock).
    unsafe {
        let task = (*ctx).task;
        if task.is_null() {
            return 0;
        }
        let tgid: u32 = typed(task, offset!(task_tgid));
        let pid: u32 = typed(task, offset!(task_pid));
        if pid != tgid || !has_bit(tgid) {
            return 0;
        }
        let Some(label) = LABELS.get_ptr_mut(tgid) else { return 0 };
        if (*label).profile != (*request).profile {
            return 0;
        }
        let (execs, generation) = (read_volatile(&raw const (*label).execs), (*request).generation);
        if (*label).class(generation) != UNKNOWN_CLASS {
            return 0; // by the pass before, or by an exec since
        }
        let file = program::of_task(task);
        if file.is_null() || program::identity(file) != (*label).program {
            return 0; // it says that it runs what it did not execute
        }
        let Some(s) = SCRATCH.current() else {
            fail::count(Site::TaskStorage);
            (*request).failed += 1;
            return 0;
        };
        let (Some(table), Ok(())) = (table((*request).image), program::walk(s, file)) else { return 0 };
        let class = program::class_of_walked(s, table, (*label).mounts);
        // The process may be gone and the element another's.
        let Some(label) = LABELS.get_ptr_mut(tgid) else { return 0 };
        program::set_cell(label, class, generation, execs);
        (*request).labelled += 1;
    }
    0
}

/// `iter/task_file`: the same for the sockets that these processes hold: of each that the same program used last.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn iterate_socket_classes(ctx: *mut FileContext) -> i32 {
    let Some(request) = ATTACH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the iterator's context and its own map element.
    unsafe {
        let Some((_, label, sk)) = labelled_socket(ctx) else { return 0 };
        let generation = (*request).generation;
        let class = label.class(generation);
        if label.profile != (*request).profile || class == UNKNOWN_CLASS {
            return 0;
        }
        let Some(s) = SOCKETS.get(sk.cast_mut().cast()) else { return 0 };
        if (*s).agent != label.agent || read_volatile(&raw const (*s).program) != label.program {
            return 0;
        }
        let at = if generation & 1 == 0 { &raw mut (*s).classes[0] } else { &raw mut (*s).classes[1] };
        write_volatile(at, class_cell(class, generation, 0));
        // Another program may use it since: it names itself first and clears this cell then.
        if read_volatile(&raw const (*s).program) != label.program {
            write_volatile(at, 0);
        }
        (*request).sockets += 1;
    }
    0
}

/// Whether any thread of the task's process has not exited.
///
/// # Safety
/// `task` is a typed task pointer.
#[inline(always)]
unsafe fn alive(task: *const c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let signal: *const c_void = typed(task, offset!(task_signal));
        typed::<i32>(signal, offset!(signal_live)) > 0
    }
}

#[inline(always)]
fn count_live(agent: u32, n: i64) {
    if let Some(state) = AGENTS.get_ptr_mut(agent) {
        // SAFETY: an element of a preallocated map; all writers use atomics.
        unsafe { atomic::add(&raw mut (*state).live, n as u64) };
    }
}

/// The socket behind an iterated file of a labelled process, and that process.
///
/// # Safety
/// `ctx` is the iterator's context.
#[inline(always)]
unsafe fn labelled_socket(ctx: *mut FileContext) -> Option<(u32, Label, *const c_void)> {
    // SAFETY: the caller's promise; nulls are checked.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() {
            return None;
        }
        let tgid: u32 = typed(task, offset!(task_tgid));
        if !has_bit(tgid) {
            return None;
        }
        let label = label_of(tgid).ok()?;
        let socket: *const c_void = bpf_sock_from_file(file.cast()).cast::<c_void>().cast_const();
        if socket.is_null() {
            return None;
        }
        let sk: *const c_void = typed(socket, offset!(socket_sk));
        if sk.is_null() { None } else { Some((tgid, label, sk)) }
    }
}

/// `iter/task_file`: labels the sockets that the request's agent holds.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn iterate_sockets(ctx: *mut FileContext) -> i32 {
    let Some(request) = ATTACH.get_ptr_mut(0) else { return 0 };
    let request: *mut AttachRequest = request;
    // SAFETY: the iterator's context and its own map element.
    unsafe {
        let Some((_, label, sk)) = labelled_socket(ctx) else { return 0 };
        if label.agent != (*request).agent {
            return 0;
        }
        let Some(policy) = policy(&label) else {
            fail::count(Site::ImageMissing);
            return 0;
        };
        if label_socket(sk.cast_mut(), &label, policy.generation, policy.class) {
            (*request).sockets += 1;
        } else {
            fail::count(Site::SocketStorage);
            (*request).failed += 1;
        }
    }
    0
}

/// `iter/task_file`: writes an [`ObjectLine`] for each file that the request's root holds open.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn iterate_objects(ctx: *mut FileContext) -> i32 {
    let Some(request) = ATTACH.get_ptr(0) else { return 0 };
    // SAFETY: the iterator's context; nulls are checked; fields through typed pointers.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() {
            return 0;
        }
        if typed::<u32>(task, offset!(task_tgid)) != (*request).root {
            return 0;
        }
        let inode: *const c_void = typed(file.cast_const(), offset!(file_inode));
        if inode.is_null() {
            return 0;
        }
        let is = identity(inode);
        let line = ObjectLine {
            inode: is.inode,
            device: is.device,
            version: is.version,
            fd: (*ctx).fd,
            pad: 0,
            stamp: stamp(inode),
        };
        if bpf_seq_write((*(*ctx).meta).seq, (&raw const line).cast(), size_of::<ObjectLine>() as u32) != 0 {
            fail::count(Site::SeqWrite);
        }
    }
    0
}

/// `iter/task_file`: writes a [`StaleFlow`] for each connected socket whose destination is no longer granted.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn iterate_stale(ctx: *mut FileContext) -> i32 {
    // SAFETY: the iterator's context; socket fields through typed pointers.
    unsafe {
        let Some((tgid, label, sk)) = labelled_socket(ctx) else { return 0 };
        // Of a socket, its last user's class counts, as in egress.
        let (policy, server) = match SOCKETS.get(sk.cast_mut().cast()) {
            Some(s) => (
                standing((*s).profile as u32)
                    .and_then(|standing| standing.policy(class_of_socket(s, standing.generation))),
                (*s).flags & SOCKET_SERVER != 0,
            ),
            None => (policy(&label), false),
        };
        let Some(policy) = policy else { return 0 };
        if !matches!(policy.mode(), Mode::Enforce) {
            return 0;
        }
        let Some(e) = ends(sk) else { return 0 };
        if e.remote_port == 0 {
            return 0; // not connected
        }
        let protocol = Protocol::from_ip(e.ip_protocol as u32);
        let request = if server {
            NetRequest::listen(e.local, e.local_port, protocol)
        } else {
            NetRequest::out(e.remote, e.remote_port, protocol)
        };
        let decision = decide(&policy.table, policy.class, request);
        if decision.passes() {
            return 0;
        }
        if let Some(s) = SOCKETS.get(sk.cast_mut().cast()) {
            if (*s).flags & SOCKET_ASKS != 0 && dns::to_resolver(request) {
                return 0;
            }
            let held = dns::held(s, request, policy.epoch);
            if held == Held::Now {
                return 0;
            }
            if matches!(decision, Decision::DenyDefault) {
                let name = dns::granting_name(&policy, (*s).profile as u32, request, held == Held::Older);
                if name != 0 {
                    dns::remember(s, request, policy.epoch, name);
                    return 0;
                }
            }
        }
        let flow = StaleFlow { tgid, fd: (*ctx).fd, agent: label.agent, port: e.remote_port as u32 };
        if bpf_seq_write((*(*ctx).meta).seq, (&raw const flow).cast(), size_of::<StaleFlow>() as u32) != 0 {
            fail::count(Site::SeqWrite);
        }
    }
    0
}
