//! The network domain's LSM hooks, where the kernel runs BPF LSM programs: what no cgroup hook sees.
//!
//! Families other than AF_INET and AF_INET6, `listen` without a bind, sockets that arrive from another process.
//! Each honours the verdict of the program before it (the last argument).

use agent_monitor_common::counters::{Domain, Effect, Mode, Site};
use agent_monitor_common::decide::{Decision, decide};
use agent_monitor_common::event::{Hook, Reason, SocketBody};
use agent_monitor_common::label::{Label, SOCKET_SERVER};
use agent_monitor_common::request::{AF_INET, AF_INET6, NetRequest, Protocol};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_sock_from_file;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::network::{
    EACCES, EAFNOSUPPORT, NOBODY, count_unjudged_socket, destination_errno, label_socket, socket_granted,
};
use super::{file, outside};
use crate::emit::{self, Flow, Outcome};
use crate::ends::{Ends, ends};
use crate::fail;
use crate::kernel::{offset, read, typed};
use crate::maps::{LABEL_BITS, SOCKETS};
use crate::subject::{Policy, current_tgid, has_bit, label_of, policy};

/// `int socket_create(int family, int type, int protocol, int kern)`: the families that `cgroup/sock_create` does not
/// see. Sockets that the kernel makes for itself pass.
#[lsm(hook = "socket_create")]
pub fn network_socket_create(ctx: LsmContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<4>(&ctx);
    let kern: i32 = ctx.arg(3);
    let (family, kind, protocol): (i32, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if before != 0 || kern != 0 || family as u32 == AF_INET || family as u32 == AF_INET6 {
        return literal(before);
    }
    let body = SocketBody {
        family: family as u32,
        kind: kind as u32,
        protocol: protocol as u32,
        ..SocketBody::ZERO
    };
    let label = match label_of(tgid) {
        Ok(label) => label,
        Err(site) => {
            count_unjudged_socket(&NOBODY, Hook::LsmSocketCreate, body, site, Mode::Enforce);
            return -97;
        }
    };
    let Some(policy) = policy(&label) else {
        count_unjudged_socket(&label, Hook::LsmSocketCreate, body, Site::ImageMissing, Mode::Enforce);
        return -97;
    };
    if socket_granted(&label, &policy, Hook::LsmSocketCreate, body, EAFNOSUPPORT) { 0 } else { -97 }
}

/// The verdict of the program before this one: the last argument of every LSM hook.
// VERIFIER: "REG INVARIANTS VIOLATION" on 6.18: for this one load the verifier narrows what it believed of the target
// register before, and after the load of a pointer or a small argument it believes 0, or an empty range, and drops
// live branches. So the register first takes a word of a map, about which nothing is known.
#[inline(always)]
pub fn before<const N: usize>(ctx: &LsmContext) -> i32 {
    match LABEL_BITS.get_ptr(0) {
        // SAFETY: an array element.
        Some(bits) => unsafe { before_by::<N>(ctx, bits.cast()) },
        None => -1,
    }
}

/// [`before`], by a word of a map at hand.
///
/// # Safety
/// `unknown` points into a map value.
#[inline(always)]
pub unsafe fn before_by<const N: usize>(ctx: &LsmContext, unknown: *const u64) -> i32 {
    let verdict: u64;
    // SAFETY: two loads: the first word of a map value, and argument N of the hook.
    unsafe {
        core::arch::asm!(
            "{v} = *(u64 *)({m} + 0)",
            "{v} = *(u64 *)({c} + {n})",
            v = out(reg) verdict,
            m = in(reg) unknown,
            c = in(reg) ctx.as_ptr(),
            n = const N * 8,
            options(nostack, readonly),
        );
    }
    verdict as i32
}

/// Whether pointer argument `N` is null; an argument that can't be read is taken for null.
// VERIFIER: no message: before the kernel marks an argument as nullable (`mmap_file`'s file from 6.14, others never) the
// verifier believes that it is not null, takes a comparison for decided and drops the branch. What a helper reads is an
// unknown number.
#[inline(always)]
pub fn is_null<const N: usize>(ctx: &LsmContext) -> bool {
    read::<u64>(ctx.as_ptr() as u64 + N as u64 * 8).is_none_or(|pointer| pointer == 0)
}

/// A verdict of an earlier program, as a literal.
// VERIFIER: from 6.12 the return value is range-checked to [-4095, 0]; a computed number is refused.
#[inline(always)]
pub fn literal(before: i32) -> i32 {
    match before {
        0 => 0,
        -13 => -13,
        -93 => -93,
        -97 => -97,
        -101 => -101,
        -111 => -111,
        _ => -1,
    }
}

/// What an LSM hook returns for an errno, as a literal ([`literal`]).
#[inline(always)]
pub fn code(errno: u16) -> i32 {
    match errno {
        0 => 0,
        1 => -1,
        13 => -13,
        93 => -93,
        111 => -111,
        _ => -101,
    }
}

/// The verdict EPERM if `deny`.
// VERIFIER: as of [`literal`]: of the one bit that differs, a computed number is made, but not of what the compiler can't
// look into.
#[inline(always)]
pub fn not_permitted(deny: bool) -> i32 {
    if !deny {
        return 0;
    }
    let verdict: u64;
    // SAFETY: one constant, no memory.
    unsafe { core::arch::asm!("{0} = -1", out(reg) verdict, options(pure, nomem, nostack)) };
    verdict as i32
}

/// The `struct sock *` of a `struct socket *`.
///
/// # Safety
/// `socket` is a typed pointer that is not null.
#[inline(always)]
pub unsafe fn sock_of(socket: *const c_void) -> *const c_void {
    // SAFETY: the caller's promise.
    unsafe { typed(socket, offset!(socket_sk)) }
}

/// Judges and, on denial, reports. `None`: allowed.
#[inline(always)]
fn judge(label: &Label, policy: &Policy, hook: Hook, e: &Ends, request: NetRequest, errno: u16) -> bool {
    let decision = decide(&policy.table, policy.class, request);
    let listen = matches!(hook, Hook::LsmSocketListen);
    let domain = if listen { Domain::NetworkListen } else { Domain::NetworkOut };
    if decision.allowed() {
        emit::decision(domain, Effect::Allow, policy.mode());
        return true;
    }
    let (mode, reason) = match decision {
        Decision::DenyRule => (policy.mode(), Reason::Rule),
        Decision::Audit => (policy.mode().tried_out(), Reason::Rule),
        _ => (policy.mode(), Reason::Default),
    };
    emit::decision(domain, Effect::Deny, mode);
    let enforce = matches!(mode, Mode::Enforce);
    let errno = if enforce { errno } else { 0 };
    let outcome = Outcome { effect: Effect::Deny, mode, generation: policy.generation, errno };
    let flow = Flow {
        hook,
        ip_protocol: e.ip_protocol as u32,
        family: e.family as u32,
        local_port: e.local_port,
        name: 0,
    };
    emit::network(label, flow, request, reason.code(), outcome);
    emit::denied(label.agent);
    !enforce
}

/// `int socket_listen(struct socket *sock, int backlog)`: a port chosen by the kernel was judged by no bind hook.
#[lsm(hook = "socket_listen")]
pub fn network_socket_listen(ctx: LsmContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<2>(&ctx);
    if before != 0 {
        return literal(before);
    }
    let socket: *const c_void = ctx.arg(0);
    let Ok(label) = label_of(tgid) else {
        fail::count(Site::LabelMissing);
        return -13;
    };
    let Some(policy) = policy(&label) else {
        fail::count(Site::ImageMissing);
        return -13;
    };
    // SAFETY: a trusted argument of the hook.
    unsafe {
        let sk = sock_of(socket);
        if sk.is_null() {
            return 0;
        }
        let Some(e) = ends(sk) else { return 0 };
        let request = NetRequest::listen(e.local, e.local_port, Protocol::from_ip(e.ip_protocol as u32));
        if !judge(&label, &policy, Hook::LsmSocketListen, &e, request, EACCES) {
            return -13;
        }
        if label_socket(sk.cast_mut(), &label, policy.generation, policy.class) {
            if let Some(s) = SOCKETS.get(sk.cast_mut()) {
                (*s).flags |= SOCKET_SERVER;
            }
            return 0;
        }
        fail::count(Site::SocketStorage);
        if matches!(policy.mode(), Mode::Enforce) { -13 } else { 0 }
    }
}

/// `int file_receive(struct file *file)`: a descriptor arrives (SCM_RIGHTS, `pidfd_getfd`): a socket is the receiver's
/// from here, before its first byte; a file is the receiver's only if it could have opened it so.
#[lsm(hook = "file_receive")]
pub fn network_file_receive(ctx: LsmContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<1>(&ctx);
    if before != 0 {
        return literal(before);
    }
    let file: *mut c_void = ctx.arg(0);
    let Ok(label) = label_of(tgid) else {
        fail::count(Site::LabelMissing);
        return -13;
    };
    // SAFETY: a trusted argument of the hook.
    unsafe {
        let socket: *const c_void = bpf_sock_from_file(file.cast()).cast::<c_void>().cast_const();
        if socket.is_null() {
            return file::received(&ctx, file);
        }
        let Some(policy) = policy(&label) else {
            fail::count(Site::ImageMissing);
            return -13;
        };
        let sk = sock_of(socket);
        if sk.is_null() || label_socket(sk.cast_mut(), &label, policy.generation, policy.class) {
            return 0;
        }
        fail::count(Site::SocketStorage);
        if matches!(policy.mode(), Mode::Enforce) { -13 } else { 0 }
    }
}

/// `int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`: the label's last chance: a socket that
/// came by a way no other hook saw is labelled and its peer judged here (not for splice on 6.1). Outside the governed
/// cgroup another program of this hook judges every send.
#[lsm(hook = "socket_sendmsg")]
pub fn network_socket_sendmsg(ctx: LsmContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<3>(&ctx);
    if before != 0 {
        return literal(before);
    }
    let socket: *const c_void = ctx.arg(0);
    let Ok(label) = label_of(tgid) else {
        fail::count(Site::LabelMissing);
        return -1;
    };
    // SAFETY: a trusted argument of the hook.
    unsafe {
        let sk = sock_of(socket);
        if sk.is_null() {
            return 0;
        }
        let known = SOCKETS.get(sk.cast_mut());
        if outside::is_outside(sk, known) {
            return 0;
        }
        if let Some(s) = known
            && (*s).agent == label.agent
        {
            return 0; // known: the address hooks and egress have it
        }
        let Some(e) = ends(sk) else { return 0 };
        let Some(policy) = policy(&label) else {
            fail::count(Site::ImageMissing);
            return -101;
        };
        if !label_socket(sk.cast_mut(), &label, policy.generation, policy.class) {
            fail::count(Site::SocketStorage);
            return if matches!(policy.mode(), Mode::Enforce) { -101 } else { 0 };
        }
        if e.remote_port == 0 {
            return 0; // not connected: sendmsg4/6 judges the address
        }
        let request = NetRequest::out(e.remote, e.remote_port, Protocol::from_ip(e.ip_protocol as u32));
        let errno = destination_errno(policy.errno);
        if judge(&label, &policy, Hook::LsmSocketSendmsg, &e, request, errno) {
            return 0;
        }
        code(errno)
    }
}
