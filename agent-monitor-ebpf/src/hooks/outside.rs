//! Agents' internet sockets outside the governed cgroup, where the kernel runs BPF LSM programs: there no cgroup program
//! sees them.
//!
//! Which cgroup's programs run is said by the socket: it is the cgroup of the task that made it, for good. So an agent
//! that was moved keeps its sockets where they were, and what it makes or gets from elsewhere is judged here, by the same
//! `decide()`. Inside, errno, event and the way of a name are the cgroup hooks', and LSM programs, which the kernel asks
//! first, leave it to them.
//!
//! What must stay true: nothing here is weaker than there. Two things are lacking, both closed: no question reaches the
//! resolver, so whoever grants names has none looked up here; and there is no egress, so a flow is judged at every send.

use agent_monitor_common::counters::{Mode, Site};
use agent_monitor_common::decide::forget;
use agent_monitor_common::event::{Hook, Reason, SocketBody};
use agent_monitor_common::label::{Label, SocketLabel};
use agent_monitor_common::request::{AF_INET, AF_INET6, Address, NetRequest, Protocol, socket_kind};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use super::dns::{self, Held};
use super::lsm::{before, code, literal, sock_of};
use super::network::{
    self, Act, EPROTONOSUPPORT, NOBODY, count_unjudged_socket, label_socket, socket_granted, unjudged,
};
use crate::emit::Flow;
use crate::ends::ends;
use crate::fail;
use crate::kernel::{GOVERNED, offset, read, typed};
use crate::maps::SOCKETS;
use crate::subject::{current_tgid, has_bit, label_of, policy, standing};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: u32 = 1;
/// Where `struct sockaddr_in` has the address, and `struct sockaddr_in6`; the port is at 2 in both.
const IN_ADDRESS: u64 = 4;
const IN6_ADDRESS: u64 = 8;

/// Whether a socket is an internet socket that no program of the governed cgroup sees. `known`: its storage, in which
/// the answer is kept.
///
/// # Safety
/// `sk` is a typed `struct sock *` that is not null, `known` its storage.
#[inline(always)]
pub unsafe fn is_outside(sk: *const c_void, known: Option<*mut SocketLabel>) -> bool {
    // SAFETY: statics that the loader replaced; volatile, as the layout's are. The caller's promise.
    unsafe {
        let level = read_volatile(&raw const GOVERNED[1]) as u32;
        if level == 0 || known.is_some_and(|s| read_volatile(&raw const (*s).governed) != 0) {
            return false;
        }
        let family: u16 = typed(sk, offset!(sk_common) + offset!(skc_family));
        if family as u32 != AF_INET && family as u32 != AF_INET6 {
            return false;
        }
        let cgroup: *const c_void = typed(sk, offset!(sk_cgroup_data) + offset!(sock_cgroup));
        // Of a socket whose cgroup can't be told, both judge.
        let inside = !cgroup.is_null()
            && typed::<u32>(cgroup, offset!(cgroup_level)) >= level
            && ancestor(cgroup as u64, level) == Some(read_volatile(&raw const GOVERNED[0]));
        if inside && let Some(s) = known {
            write_volatile(&raw mut (*s).governed, 1);
        }
        forget(inside as u32) == 0
    }
}

/// The id of a cgroup's ancestor at `level`, which is not below its own.
#[inline(always)]
fn ancestor(cgroup: u64, level: u32) -> Option<u64> {
    let found = (|| {
        let at = cgroup.wrapping_add(offset!(cgroup_ancestors) as u64 + 8 * level as u64);
        let node = read::<u64>(read::<u64>(at)?.wrapping_add(offset!(cgroup_node) as u64))?;
        read::<u64>(node.wrapping_add(offset!(kernfs_id) as u64))
    })();
    if found.is_none() {
        fail::count(Site::KernelRead);
    }
    found
}

/// What a `struct sockaddr` of the kernel's says.
#[derive(Clone, Copy)]
enum Name {
    At(Address, u16),
    /// No family: to `connect` that is a farewell.
    Unspecified,
    /// Of another family: the kernel refuses it.
    Other,
}

/// Reads the `struct sockaddr` at `name`, for a socket on which one without a family means IPv4 where `unspecified` is.
#[inline(always)]
fn name(name: u64, unspecified: bool) -> Result<Name, Site> {
    let family: u16 = read(name).ok_or(Site::KernelRead)?;
    let port = u16::from_be(read(name.wrapping_add(2)).ok_or(Site::KernelRead)?);
    // VERIFIER: "BPF program is too large": what follows is walked once, whatever the family.
    let kind = forget(match family {
        AF_UNSPEC if unspecified => AF_INET,
        other => other as u32,
    });
    match kind {
        AF_INET => {
            let v4: u32 = read(name.wrapping_add(IN_ADDRESS)).ok_or(Site::KernelRead)?;
            Ok(Name::At(Address::v4(v4), port))
        }
        AF_INET6 => {
            let v6: [u32; 4] = read(name.wrapping_add(IN6_ADDRESS)).ok_or(Site::KernelRead)?;
            Ok(Name::At(Address(v6), port))
        }
        0 => Ok(Name::Unspecified),
        _ => Ok(Name::Other),
    }
}

/// Judges an address on a socket outside; what the hook returns.
///
/// # Safety
/// `sk` is a typed `struct sock *` that is not null.
#[inline(always)]
unsafe fn judge(
    sk: *const c_void,
    label: Result<Label, Site>,
    hook: Hook,
    act: Act,
    address: Address,
    port: u16,
) -> i32 {
    // SAFETY: the caller's promise.
    let (ip_protocol, family) = unsafe {
        let protocol: u16 = typed(sk, offset!(sk_protocol));
        let family: u16 = typed(sk, offset!(sk_common) + offset!(skc_family));
        (protocol as u32, family as u32)
    };
    let protocol = Protocol::from_ip(ip_protocol);
    // What has no ports has whatever the caller wrote there.
    let port = if matches!(protocol, Protocol::Tcp | Protocol::Udp) { port } else { 0 };
    let flow = Flow { hook, ip_protocol, family, local_port: 0, name: 0 };
    let request = match act {
        Act::Bind => NetRequest::listen(address, port, protocol),
        _ => NetRequest::out(address, port, protocol),
    };
    let label = match label {
        Ok(label) => label,
        Err(site) => return code(unjudged(&NOBODY, flow, request, site, Mode::Enforce)),
    };
    let Some(standing) = standing(label.profile) else {
        return code(unjudged(&label, flow, request, Site::ImageMissing, Mode::Enforce));
    };
    // SAFETY: the caller's promise.
    let Some(s) = (unsafe { SOCKETS.get_or_create(sk.cast_mut()) }) else {
        return code(unjudged(&label, flow, request, Site::SocketStorage, standing.mode()));
    };
    if act != Act::Bind
        && let Some(policy) = standing.policy(standing.class_of(&label))
        && dns::is_question(&policy, request)
    {
        return code(dns::unanswered(&label, &policy, flow, request, Reason::NoResolver));
    }
    // A name that granted the flow goes on granting it when its answer has expired, as in egress.
    // SAFETY: storage of this socket.
    if act == Act::Send
        && unsafe { (*s).agent == label.agent && dns::held(s, request, standing.epoch()) == Held::Now }
    {
        return 0;
    }
    code(forget(network::judge(None, s, &label, standing, flow, request, act, false) as u32) as u16)
}

/// `int socket_connect(struct socket *sock, struct sockaddr *address, int addrlen)`.
#[lsm(hook = "socket_connect")]
pub fn network_socket_connect(ctx: LsmContext) -> i32 {
    named(&ctx, Hook::LsmSocketConnect, Act::Connect)
}

/// `int socket_bind(struct socket *sock, struct sockaddr *address, int addrlen)`: ports of UDP; of TCP, `listen` is
/// judged too.
#[lsm(hook = "socket_bind")]
pub fn network_socket_bind(ctx: LsmContext) -> i32 {
    named(&ctx, Hook::LsmSocketBind, Act::Bind)
}

/// A hook whose second argument is an address, copied into the kernel.
#[inline(always)]
fn named(ctx: &LsmContext, hook: Hook, act: Act) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<3>(ctx);
    if before != 0 {
        return literal(before);
    }
    let (socket, address): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: trusted arguments of the hook.
    unsafe {
        let sk = sock_of(socket);
        if sk.is_null() || !is_outside(sk, SOCKETS.get(sk.cast_mut())) {
            return 0;
        }
        let family: u16 = typed(sk, offset!(sk_common) + offset!(skc_family));
        // `bind` takes an address without a family for one of IPv4 (`inet_bind`).
        match name(address as u64, act == Act::Bind && family as u32 == AF_INET) {
            Ok(Name::At(address, port)) => judge(sk, label_of(tgid), hook, act, address, port),
            Ok(Name::Unspecified | Name::Other) => 0,
            Err(site) => {
                fail::count(site);
                -101
            }
        }
    }
}

/// `int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`: where the message says, else where the socket
/// is connected to.
// VERIFIER: "BPF program is too large": in one program with that of `lsm.rs`.
#[lsm(hook = "socket_sendmsg")]
pub fn network_socket_send(ctx: LsmContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<3>(&ctx);
    if before != 0 {
        return literal(before);
    }
    let (socket, message): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: trusted arguments of the hook.
    unsafe {
        let sk = sock_of(socket);
        if sk.is_null() || !is_outside(sk, SOCKETS.get(sk.cast_mut())) {
            return 0;
        }
        let Some(e) = ends(sk) else { return 0 };
        let at: u64 = typed(message, offset!(msg_name));
        let length: u32 = typed(message, offset!(msg_name_length));
        let tcp = matches!(Protocol::from_ip(e.ip_protocol as u32), Protocol::Tcp);
        // TCP looks at a name while it is not connected (MSG_FASTOPEN); IPv4 takes one without a family for its own,
        // IPv6 for none.
        let name = if at != 0 && length != 0 && !(tcp && e.remote_port != 0) {
            name(at, !tcp && e.family as u32 == AF_INET)
        } else {
            Ok(Name::Unspecified)
        };
        let (address, port) = match name {
            Ok(Name::At(address, port)) => (address, port),
            Ok(Name::Unspecified) if nowhere(e.remote) && e.remote_port == 0 => return 0, // the kernel refuses it
            Ok(Name::Unspecified) => (e.remote, e.remote_port),
            Ok(Name::Other) => return 0,
            Err(site) => {
                fail::count(site);
                return -101;
            }
        };
        judge(sk, label_of(tgid), Hook::LsmSocketSendmsg, Act::Send, address, port)
    }
}

/// Whether a socket has no peer by its address: raw ones have no port.
#[inline(always)]
fn nowhere(peer: Address) -> bool {
    let ([a, b, c, d], [.., mapped, _]) = (peer.0, Address::v4(0).0);
    a | b | d == 0 && (c == 0 || c == mapped)
}

/// `int socket_post_create(struct socket *sock, int family, int type, int protocol, int kern)`: a Unix socket is of the
/// agent that made it; an internet socket outside is too, and its kind is judged as `cgroup/sock_create` would.
#[lsm(hook = "socket_post_create")]
pub fn network_socket_made(ctx: LsmContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let before = before::<5>(&ctx);
    let (family, kind, protocol, kern): (i32, i32, i32, i32) =
        (ctx.arg(1), ctx.arg(2), ctx.arg(3), ctx.arg(4));
    if before != 0 || kern != 0 {
        return literal(before);
    }
    let socket: *const c_void = ctx.arg(0);
    // SAFETY: a trusted argument of the hook; its sock is checked.
    unsafe {
        let sk: *const c_void = sock_of(socket);
        if sk.is_null() {
            return 0;
        }
        if family as u32 == AF_UNIX {
            // Without a label it is a stranger's socket to the agent: closed, and counted.
            if let Ok(label) = label_of(tgid)
                && let Some(policy) = policy(&label)
                && !label_socket(sk.cast_mut(), &label, policy.generation, policy.class)
            {
                fail::count(Site::SocketStorage);
            }
            return 0;
        }
        if !is_outside(sk, None) {
            return 0;
        }
        let body = SocketBody {
            family: family as u32,
            kind: kind as u32,
            protocol: protocol as u32,
            ..SocketBody::ZERO
        };
        let hook = Hook::LsmSocketPostCreate;
        let label = match label_of(tgid) {
            Ok(label) => label,
            Err(site) => {
                count_unjudged_socket(&NOBODY, hook, body, site, Mode::Enforce);
                return -93;
            }
        };
        let Some(policy) = policy(&label) else {
            count_unjudged_socket(&label, hook, body, Site::ImageMissing, Mode::Enforce);
            return -93;
        };
        if !label_socket(sk.cast_mut(), &label, policy.generation, policy.class) {
            let deny = count_unjudged_socket(&label, hook, body, Site::SocketStorage, policy.mode());
            return if deny { -93 } else { 0 };
        }
        if socket_kind(family as u32, kind as u32, protocol as u32).is_none()
            || socket_granted(&label, &policy, hook, body, EPROTONOSUPPORT)
        {
            0
        } else {
            -93
        }
    }
}
