//! Unix sockets, where the kernel runs BPF LSM programs: whom an agent connects and sends to, judged by the path at which
//! the peer is bound or by its abstract name.
//!
//! The path is that of the peer's own object, from the mount and the entry that it was bound at: a symlink, a hard link,
//! a bind mount or `/proc/self/root` in the caller's address leads to the same path and the same verdict. What the
//! agent's own processes made needs no grant, nor does a socket without a name: only `socketpair` leads to one.

use agent_monitor_common::automaton::accept;
use agent_monitor_common::counters::{Domain, Effect, Mode, Site};
use agent_monitor_common::decide::{Decision, forget};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::image::{HAS_UNIX, class};
use agent_monitor_common::layout::ABSENT;
use agent_monitor_common::path::{Right, Rights, decide_answer};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::file::{ALLOWED, AUDITED, Entry, Subject, enter, record};
use crate::activity;
use crate::automaton;
use crate::emit::{self, Outcome};
use crate::fail;
use crate::kernel::{offset, read, typed};
use crate::maps::{SCRATCH, SOCKETS};
use crate::path::{self, CAP, Place, Scratch, below, bounded_length};

const CONNECT: Rights = Right::Connect as Rights;
/// What a denied peer shows.
const EACCES: u16 = 13;
/// `sun_family` and the zero byte before an abstract name (unix(7)).
const BEFORE_NAME: usize = 3;
/// Longest abstract name: `sun_path` has 108 bytes.
const LONGEST_NAME: usize = 107;

/// A socket whose name lies in the scratch.
#[derive(Clone, Copy)]
struct Named {
    /// Of its file; 0: the name is abstract.
    inode: u64,
    /// The word under which uses are counted.
    object: u64,
}

/// Lays the path or the abstract name (`@name`) of the socket at `sk` into the scratch; `None`: it has no name.
///
/// # Safety
/// `s` is the current task's scratch; `sk` a socket of AF_UNIX.
#[inline(always)]
unsafe fn name(s: *mut Scratch, sk: u64) -> Result<Option<Named>, Site> {
    if offset!(unix_path) == ABSENT as usize || offset!(unix_address_name) == ABSENT as usize {
        return Err(Site::KernelRead);
    }
    let bound = sk.wrapping_add(offset!(unix_path) as u64);
    let mnt = read::<u64>(bound.wrapping_add(offset!(path_mnt) as u64)).ok_or(Site::KernelRead)?;
    let dentry = read::<u64>(bound.wrapping_add(offset!(path_dentry) as u64)).ok_or(Site::KernelRead)?;
    // SAFETY: the caller's promise.
    unsafe {
        if dentry != 0 {
            return match path::place(mnt)? {
                // Nothing is bound on a mount of the kernel's own.
                Place::Internal => Err(Site::PathWalk),
                Place::Mounted => {
                    path::walk_address(s, mnt, dentry)?;
                    let inode = read::<u64>(dentry.wrapping_add(offset!(dentry_inode) as u64))
                        .and_then(|inode| read::<u64>(inode.wrapping_add(offset!(inode_ino) as u64)))
                        .unwrap_or(0); // removed meanwhile
                    Ok(Some(Named { inode, object: activity::object(mnt, dentry, inode) }))
                }
            };
        }
        let address = read::<u64>(sk.wrapping_add(offset!(unix_address) as u64)).ok_or(Site::KernelRead)?;
        if address == 0 {
            return Ok(None);
        }
        let length = read::<u32>(address.wrapping_add(offset!(unix_address_length) as u64));
        let length = length.ok_or(Site::KernelRead)? as usize;
        if length < BEFORE_NAME || length > BEFORE_NAME + LONGEST_NAME {
            return Err(Site::PathWalk);
        }
        let length = bounded_length::<LONGEST_NAME>(length - BEFORE_NAME);
        let from = address.wrapping_add((offset!(unix_address_name) + BEFORE_NAME) as u64);
        let text = (&raw mut (*s).text).cast::<u8>();
        let at = below::<CAP>(CAP - length);
        if length != 0
            && bpf_probe_read_kernel(text.add(at).cast(), length as u32, from as *const c_void) != 0
        {
            return Err(Site::KernelRead);
        }
        let start = below::<CAP>(CAP - length - 1);
        *text.add(start) = b'@';
        (*s).start = start as u32;
        // The address lives as long as the name is taken, and no other has its place.
        Ok(Some(Named { inode: 0, object: address }))
    }
}

/// Judges whether the agent may talk to the socket `other`. True: deny it.
///
/// # Safety
/// A typed `struct sock *` of AF_UNIX.
#[inline(always)]
unsafe fn denies(subject: &Subject, hook: Hook, other: *const c_void) -> bool {
    let Subject { label, policy, .. } = subject;
    let mut mode = policy.mode();
    // SAFETY: the caller's promise; the scratch is the current task's own.
    unsafe {
        if let Some(known) = SOCKETS.get(other.cast_mut())
            && (*known).agent == label.agent
        {
            emit::decision(Domain::Unix, Effect::Allow, policy.mode());
            return false;
        }
        let Some(s) = SCRATCH.current() else {
            fail::count(Site::TaskStorage);
            emit::decision(Domain::Unix, Effect::Deny, policy.mode());
            emit::denied(label.agent);
            return matches!(mode, Mode::Enforce);
        };
        let (mut named, mut walked) = (Named { inode: 0, object: 0 }, false);
        let reason = match name(s, other as u64) {
            Ok(None) => return false,
            Err(site) => {
                fail::count(site);
                Reason::NoPath.code()
            }
            Ok(Some(found)) => {
                (named, walked) = (found, true);
                let state = automaton::run(
                    policy.table,
                    policy.class.field(&policy.table, class::START_PATH) as u32,
                    s,
                );
                match decide_answer(forget(accept(&policy.table, state)), CONNECT) {
                    Decision::Allow => ALLOWED,
                    Decision::Audit => AUDITED,
                    Decision::DenyRule => Reason::Rule.code(),
                    // No path ends in a hello.
                    Decision::DenyDefault | Decision::AllowHello => Reason::Default.code(),
                }
            }
        };
        let mut reason = forget(reason as u32);
        let allowed = reason == ALLOWED as u32;
        if reason == AUDITED as u32 {
            (mode, reason) = (mode.tried_out(), Reason::Rule.code() as u32);
        }
        let enforce = matches!(mode, Mode::Enforce);
        let (mut effect, mut errno) = (Effect::Deny, if enforce { EACCES } else { 0 });
        if allowed {
            (effect, errno, reason) = (Effect::Allow, 0, Reason::Rule.code() as u32);
        }
        emit::decision(Domain::Unix, effect, mode);
        if allowed {
            emit::allowed(label.agent, 1);
            if activity::again(label.agent, CONNECT, named.object) {
                return false;
            }
        }
        let outcome = Outcome { effect, mode, generation: policy.generation, errno };
        let used = if allowed { named.object } else { 0 };
        record(s, hook, label, outcome, walked, reason, CONNECT, named.inode, used);
        if allowed {
            return false;
        }
        emit::denied(label.agent);
        enforce
    }
}

/// `int unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`: streams and sequenced packets.
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let subject = match enter::<3>(&ctx, Domain::Unix, HAS_UNIX) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let other: *const c_void = ctx.arg(1);
    // SAFETY: a trusted argument of the hook.
    if unsafe { denies(&subject, Hook::LsmUnixStreamConnect, other) } { -13 } else { 0 }
}

/// `int unix_may_send(struct socket *sock, struct socket *other)`: datagrams, and connecting for them.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let subject = match enter::<2>(&ctx, Domain::Unix, HAS_UNIX) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let other: *const c_void = ctx.arg(1);
    // SAFETY: a trusted argument of the hook; its sock is checked.
    unsafe {
        let sk: *const c_void = typed(other, offset!(socket_sk));
        if sk.is_null() {
            return 0; // closed meanwhile: nothing arrives
        }
        if denies(&subject, Hook::LsmUnixMaySend, sk) { -13 } else { 0 }
    }
}
