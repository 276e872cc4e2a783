//! Names: an agent's questions go to the resolver, and an address that stands for a granted name may be reached.
//!
//! Where a profile grants names, whatever its agents send to port 53 of any server goes to the resolver on the
//! loopback instead. The resolver's port says which server was meant, so that the answer comes from it again. Egress
//! tells the resolver who asks, before the question is delivered.

use agent_monitor_common::counters::{Domain, Effect, Mode, Site};
use agent_monitor_common::decide::{forget, name_answer};
use agent_monitor_common::event::Reason;
use agent_monitor_common::image::{Class, HAS_NAMES};
use agent_monitor_common::label::{AWAITS_HELLO, Label, SOCKET_ASKS, SocketLabel, flow_tag};
use agent_monitor_common::name::{
    Asker, AskerKey, DNS_PORT, LOOPBACK_INDEX, NAMES_OF_ADDRESS, NamedKey, RESOLVER_NETWORK, RESOLVER_PLACE,
    Resolver, SERVERS_OF_SOCKET, Servers,
};
use agent_monitor_common::request::{Address, Direction, NetRequest, Protocol};
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ptr::{read_volatile, write_volatile};

use crate::emit::{self, Flow, Outcome};
use crate::fail;
use crate::hooks::network::{PASS, claim_socket, destination_errno, end_in_context, end_with};
use crate::maps::{ASKERS, NAMED, RESOLVER, SERVERS};
use crate::subject::{Policy, current_tgid, has_bit};

/// `127.0.0.1`, mapped.
const LOOPBACK4: Address = Address::v4(0x7f00_0001_u32.to_be());
/// `::1`.
const LOOPBACK6: Address = Address([0, 0, 0, 1_u32.to_be()]);

#[inline(always)]
fn resolver() -> Resolver {
    match RESOLVER.get_ptr(RESOLVER_PLACE) {
        // SAFETY: an element of an array; the daemon writes it as one word.
        Some(word) => Resolver::from_word(unsafe { read_volatile(word) }),
        None => Resolver::from_word(0),
    }
}

/// Whether a socket can reach the resolver's loopback. On another one somebody else may listen, and a device that a socket
/// is bound to carries what goes to a loopback address out.
///
/// # Safety
/// `c` is the hook's context and `sk` its socket.
#[inline(always)]
unsafe fn reaches_loopback(c: *mut bpf_sock_addr, sk: *mut bpf_sock) -> bool {
    // SAFETY: the caller's promise.
    let (device, network) =
        unsafe { (read_volatile(&raw const (*sk).bound_dev_if), bpf_get_netns_cookie(c.cast())) };
    let own = match RESOLVER.get_ptr(RESOLVER_NETWORK) {
        // SAFETY: an element of an array; the daemon writes it as one word.
        Some(word) => unsafe { read_volatile(word) },
        None => 0,
    };
    network == own && (device == 0 || device == LOOPBACK_INDEX)
}

/// Whether a request is a question about names that the resolver answers under this policy.
#[inline(always)]
pub fn is_question(policy: &Policy, request: NetRequest) -> bool {
    policy.flags & HAS_NAMES != 0
        && request.port == DNS_PORT
        && matches!(request.direction, Direction::Out)
        && matches!(request.protocol, Protocol::Tcp | Protocol::Udp)
}

/// The name class by which `policy` grants a request whose address no rule grants or denies, with [`AWAITS_HELLO`] where
/// every rule that grants it asks for the name in the client's hello; 0: none. `held`: the flow was granted by a name
/// before and awaits nothing, so that it goes on although no answer holds any more.
#[inline(always)]
pub fn granting_name(policy: &Policy, profile: u32, request: NetRequest, held: bool) -> u32 {
    if policy.flags & HAS_NAMES == 0 || !matches!(request.direction, Direction::Out) {
        return 0;
    }
    let key = NamedKey { profile, generation: policy.generation, address: request.address.0 };
    let Some(named) = NAMED.get_ptr(key) else { return 0 };
    // A flow that goes on has said what it must.
    // SAFETY: a helper without arguments.
    let (now, asks) = if held { (0, 0) } else { (unsafe { bpf_ktime_get_ns() }, 2) };
    let mut granting: u32 = 0;
    let mut i = 0;
    while i < NAMES_OF_ADDRESS {
        // SAFETY: an element of the map; the daemon replaces it whole, and it is freed after this program.
        let (until, class) = unsafe { ((*named).until[i], (*named).class[i]) };
        // Looked for as long as there is none, or one that asks for a hello: another may grant more.
        if until > now && granting.wrapping_sub(1) >= AWAITS_HELLO - 1 {
            let answer = name_answer(&policy.table, policy.class, class, request.protocol, request.port);
            // VERIFIER: one branch for both grants, whose codes are odd; which of them it is is arithmetic. Every way
            // out of here is walked to the end of egress.
            if answer < 4 && answer & 1 == 1 {
                granting = class as u32 | (answer & asks) << 15;
            }
        }
        granting = forget(granting);
        i += 1;
    }
    granting
}

/// Remembers that a name grants the flow: what [`granting_name`] gave.
///
/// # Safety
/// `s` is socket storage.
#[inline(always)]
pub unsafe fn remember(s: *mut SocketLabel, request: NetRequest, epoch: u32, name: u32) {
    let flow = flow_tag(name, request.port, Direction::Out.code(), request.protocol.code(), epoch);
    // SAFETY: the caller's promise. Two threads that send on one socket could mix two granted addresses; each send was
    // judged before by its own address.
    unsafe {
        write_volatile(&raw mut (*s).named, 0);
        write_volatile(&raw mut (*s).named_address[0], request.address.0[0]);
        write_volatile(&raw mut (*s).named_address[1], request.address.0[1]);
        write_volatile(&raw mut (*s).named_address[2], request.address.0[2]);
        write_volatile(&raw mut (*s).named_address[3], request.address.0[3]);
        write_volatile(&raw mut (*s).named, flow);
    }
}

/// What a socket remembers of a flow.
#[derive(Clone, Copy, PartialEq)]
pub enum Held {
    /// It is another flow, or none.
    No,
    /// A name granted it, by an older image, and it said what that image asked for.
    Older,
    /// A name granted it, by the image in force.
    Now,
}

/// Whether the flow that a socket remembers must still say a granted name.
///
/// # Safety
/// `s` is socket storage.
#[inline(always)]
pub unsafe fn awaits_hello(s: *const SocketLabel) -> bool {
    // SAFETY: the caller's promise.
    unsafe { read_volatile(&raw const (*s).named) as u32 & AWAITS_HELLO != 0 }
}

/// Whether a name granted this flow before.
///
/// # Safety
/// `s` is socket storage.
#[inline(always)]
pub unsafe fn held(s: *const SocketLabel, request: NetRequest, epoch: u32) -> Held {
    // SAFETY: the caller's promise.
    let (named, address) = unsafe {
        let at = &raw const (*s).named_address;
        (
            read_volatile(&raw const (*s).named),
            [
                read_volatile(&raw const (*at)[0]),
                read_volatile(&raw const (*at)[1]),
                read_volatile(&raw const (*at)[2]),
                read_volatile(&raw const (*at)[3]),
            ],
        )
    };
    if named == 0 || !matches!(request.direction, Direction::Out) {
        return Held::No;
    }
    let [a, b, c, d] = request.address.0;
    let other = (a ^ address[0]) | (b ^ address[1]) | (c ^ address[2]) | (d ^ address[3]);
    let flow = flow_tag(0, request.port, Direction::Out.code(), request.protocol.code(), epoch);
    let differs = (flow ^ named) >> 32;
    // Bits of direction, protocol and port lie below those of the generation.
    if other != 0 || differs & ((1 << 19) - 1) != 0 {
        Held::No
    } else if differs == 0 {
        Held::Now
    } else if named as u32 & AWAITS_HELLO != 0 {
        Held::No
    } else {
        Held::Older
    }
}

/// Leads a question to the resolver. `raw`: the server as the agent named it.
#[inline(always)]
pub fn redirect(
    c: *mut bpf_sock_addr,
    sk: *mut bpf_sock,
    s: *mut SocketLabel,
    label: &Label,
    policy: &Policy,
    flow: Flow,
    request: NetRequest,
    raw: Address,
    v6: bool,
    tgid: u32,
) -> i32 {
    claim_socket(s, label, policy.generation, policy.class);
    let resolver = resolver();
    let mapped = raw.as_v4().is_some();
    if resolver.port == 0 || (mapped && !resolver.v4) || (!mapped && !resolver.v6) {
        return end_with(unanswered(label, policy, flow, request, Reason::NoResolver));
    }
    // SAFETY: the hook's context and socket.
    if !unsafe { reaches_loopback(c, sk) } {
        return end_with(unanswered(label, policy, flow, request, Reason::OtherNetwork));
    }
    // SAFETY: a socket the verifier knows.
    let Some(servers) = (unsafe { SERVERS.get_or_create(sk.cast()) }) else {
        fail::count(Site::SocketStorage);
        return end_with(unanswered(label, policy, flow, request, Reason::HelperFailed));
    };
    // SAFETY: storage of the hook's own socket, and of this one.
    let slot = unsafe {
        write_volatile(&raw mut (*servers).tgid, tgid);
        (*s).flags |= SOCKET_ASKS;
        slot_of(servers, raw)
    };
    let port = (resolver.port.wrapping_add(slot as u16)).to_be() as u32;
    let to = if mapped { LOOPBACK4 } else { LOOPBACK6 };
    // SAFETY: the hook's context, whose fields may be written.
    unsafe { if v6 { write_v6(c, to, port) } else { write_v4(c, to.0[3], port) } }
    emit::decision(Domain::NetworkOut, Effect::Allow, policy.mode());
    PASS
}

/// The question can't come to the resolver: names fail. The errno, 0: it goes on.
#[inline(always)]
pub fn unanswered(label: &Label, policy: &Policy, flow: Flow, request: NetRequest, reason: Reason) -> u16 {
    emit::decision(Domain::NetworkOut, Effect::Deny, policy.mode());
    let enforce = matches!(policy.mode(), Mode::Enforce);
    let errno = if enforce { destination_errno(policy.errno) } else { 0 };
    let outcome = Outcome { effect: Effect::Deny, mode: policy.mode(), generation: policy.generation, errno };
    emit::network(label, flow, request, reason.code(), outcome);
    emit::denied(label.agent);
    errno
}

/// The slot of a server among those of its socket; a new one takes the oldest's.
///
/// # Safety
/// `servers` is socket storage.
#[inline(always)]
unsafe fn slot_of(servers: *mut Servers, server: Address) -> u32 {
    let mut found = SERVERS_OF_SOCKET as u32;
    let mut i = 0;
    while i < SERVERS_OF_SOCKET {
        // SAFETY: the caller's promise.
        let known = unsafe { read_volatile(&raw const (*servers).server[i]) };
        let [a, b, c, d] = server.0;
        let other = (a ^ known[0]) | (b ^ known[1]) | (c ^ known[2]) | (d ^ known[3]);
        found = forget(if other == 0 { i as u32 } else { found });
        i += 1;
    }
    if found < SERVERS_OF_SOCKET as u32 {
        return found;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let next = read_volatile(&raw const (*servers).count);
        write_volatile(&raw mut (*servers).count, next.wrapping_add(1));
        let slot = forget(next & (SERVERS_OF_SOCKET as u32 - 1));
        let mut i = 0;
        while i < SERVERS_OF_SOCKET {
            if slot == i as u32 {
                write_volatile(&raw mut (*servers).server[i], server.0);
            }
            i += 1;
        }
        slot
    }
}

// VERIFIER: "dereference of modified ctx ptr": LLVM merges stores to neighbouring fields through a computed pointer. One
// store for each field, with its offset as a constant (`struct bpf_sock_addr`, linux/bpf.h).

/// # Safety
/// `c` is the context of a hook that may write it.
#[inline(always)]
unsafe fn write_v4(c: *mut bpf_sock_addr, address: u32, port: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({c} + 4) = {address}",
            "*(u32 *)({c} + 24) = {port}",
            c = in(reg) c,
            address = in(reg) address as u64,
            port = in(reg) port as u64,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`write_v4`].
#[inline(always)]
unsafe fn write_v6(c: *mut bpf_sock_addr, address: Address, port: u32) {
    let [w0, w1, w2, w3] = address.0;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({c} + 8) = {w0}",
            "*(u32 *)({c} + 12) = {w1}",
            "*(u32 *)({c} + 16) = {w2}",
            c = in(reg) c,
            w0 = in(reg) w0 as u64,
            w1 = in(reg) w1 as u64,
            w2 = in(reg) w2 as u64,
            options(nostack),
        );
        core::arch::asm!(
            "*(u32 *)({c} + 20) = {w3}",
            "*(u32 *)({c} + 24) = {port}",
            c = in(reg) c,
            w3 = in(reg) w3 as u64,
            port = in(reg) port as u64,
            options(nostack),
        );
    }
}

/// Whether a packet goes to the resolver.
#[inline(always)]
pub fn to_resolver(request: NetRequest) -> bool {
    let resolver = resolver();
    let [a, b, c, d] = request.address.0;
    let [_, _, mapped, v4] = LOOPBACK4.0;
    let [.., v6] = LOOPBACK6.0;
    let other4 = a | b | (c ^ mapped) | (d ^ v4);
    let other6 = a | b | c | (d ^ v6);
    resolver.port != 0
        && matches!(request.protocol, Protocol::Tcp | Protocol::Udp)
        && (other4 == 0 || other6 == 0)
        && request.port.wrapping_sub(resolver.port) < SERVERS_OF_SOCKET as u16
}

/// Whether a local port is the resolver's: who had it while no daemon runs would be asked in its place.
#[inline(always)]
pub fn is_resolvers(port: u16) -> bool {
    let resolver = resolver();
    resolver.port != 0 && port.wrapping_sub(resolver.port) < SERVERS_OF_SOCKET as u16
}

/// Tells the resolver who asks, from where. False: it could not be told.
///
/// # Safety
/// `sk` is a socket that the verifier knows.
#[inline(always)]
pub unsafe fn tell_asker(
    sk: *mut bpf_sock,
    label: &Label,
    generation: u32,
    class: Class,
    source: Address,
    port: u16,
    protocol: Protocol,
) -> bool {
    // SAFETY: the caller's promise.
    let tgid = match unsafe { SERVERS.get(sk.cast()) } {
        // SAFETY: socket storage.
        Some(servers) => unsafe { read_volatile(&raw const (*servers).tgid) },
        None => 0,
    };
    let key = AskerKey { address: source.0, port, protocol: protocol.code(), pad: 0 };
    let asker =
        Asker { agent: label.agent, profile: label.profile, class: class.number(), generation, tgid, pad: 0 };
    let told = ASKERS.insert(key, asker, 0).is_ok();
    if !told {
        fail::count(Site::AskerInsert);
    }
    told
}

/// Puts the server that the agent asked in the place of the resolver.
#[inline(always)]
fn restore(ctx: &SockAddrContext, v6: bool) -> i32 {
    if !has_bit(current_tgid()) {
        return PASS;
    }
    let c: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: context fields, as wide as the verifier allows them; storage of the context's socket.
    unsafe {
        let (address, port) = end_in_context(c, v6);
        let from = NetRequest { address, port, direction: Direction::Out, protocol: Protocol::Udp };
        if !to_resolver(from) {
            return PASS;
        }
        let sk: *mut bpf_sock = (*c).__bindgen_anon_1.sk;
        if sk.is_null() {
            return PASS;
        }
        let Some(servers) = SERVERS.get(sk.cast()) else { return PASS };
        let slot = forget(port.wrapping_sub(resolver().port) as u32);
        let mut server = LOOPBACK4.0;
        let mut i = 0;
        while i < SERVERS_OF_SOCKET {
            if slot == i as u32 {
                server = read_volatile(&raw const (*servers).server[i]);
            }
            i += 1;
        }
        let port = DNS_PORT.to_be() as u32;
        if v6 { write_v6(c, Address(server), port) } else { write_v4(c, server[3], port) }
    }
    PASS
}

/// `cgroup/recvmsg4`: where a datagram came from.
#[cgroup_sock_addr(recvmsg4)]
pub fn dns_recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(&ctx, false)
}

/// `cgroup/recvmsg6`: IPv6 sockets, mapped addresses included.
#[cgroup_sock_addr(recvmsg6)]
pub fn dns_recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(&ctx, true)
}

/// `cgroup/getpeername4`.
#[cgroup_sock_addr(getpeername4)]
pub fn dns_getpeername4(ctx: SockAddrContext) -> i32 {
    restore(&ctx, false)
}

/// `cgroup/getpeername6`.
#[cgroup_sock_addr(getpeername6)]
pub fn dns_getpeername6(ctx: SockAddrContext) -> i32 {
    restore(&ctx, true)
}
