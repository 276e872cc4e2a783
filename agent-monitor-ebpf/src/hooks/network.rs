//! Network paths: connect, sendmsg, bind, socket creation, and every packet of a labelled socket.
//!
//! The cgroup address hooks come first and give the errno: to the agent the path does not exist. Egress is the second
//! line: it sees what reaches the wire, also from sockets that were made before the label, sends that no address hook
//! sees, source routing, and flows whose grant went. `current` means nothing there (softirq), so it asks the socket.

use agent_monitor_common::activity::SOCKET_KIND;
use agent_monitor_common::counters::{Domain, Effect, Mode, Site};
use agent_monitor_common::decide::{Decision, answer, decide_socket, forget};
use agent_monitor_common::event::{Hook, Kind, Reason, SocketBody};
use agent_monitor_common::image::Class;
use agent_monitor_common::label::{
    AWAITS_HELLO, Label, SOCKET_ASKS, SOCKET_SERVER, SocketLabel, class_cell, class_of_cell, flow_tag,
};
use agent_monitor_common::name::{DNS_PORT, LOOPBACK_INDEX};
use agent_monitor_common::request::{Address, Direction, NetRequest, Protocol, socket_kind};
use aya_ebpf::bindings::{__sk_buff, bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_set_retval, bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext};
use core::ptr::{read_volatile, write_volatile};

use crate::activity;
use crate::emit::{self, Flow, Outcome, Record};
use crate::fail;
use crate::hooks::dns::{self, Held};
use crate::hooks::hello;
use crate::maps::SOCKETS;
use crate::subject::{Policy, Standing, current_tgid, has_bit, label_of, socket_cell, standing};

/// The operation goes on.
pub const PASS: i32 = 1;
/// The operation ends with the errno of `bpf_set_retval`, else EPERM.
pub const DENY: i32 = 0;

pub const EPERM: u16 = 1;
pub const EACCES: u16 = 13;
pub const EPROTONOSUPPORT: u16 = 93;
pub const EAFNOSUPPORT: u16 = 97;
pub const ENETUNREACH: u16 = 101;
pub const ECONNREFUSED: u16 = 111;

/// The errno of a denied destination, by the profile's choice.
#[inline(always)]
pub fn destination_errno(code: u8) -> u16 {
    match code {
        1 => ECONNREFUSED,
        2 => EACCES,
        3 => EPERM,
        _ => ENETUNREACH,
    }
}

/// Ends a cgroup hook with `errno`.
// VERIFIER: 7.3 range-checks the argument of bpf_set_retval: literals only.
#[inline(always)]
pub fn deny_with(errno: u16) -> i32 {
    // SAFETY: a helper without pointers.
    let refused = unsafe {
        match errno {
            EACCES => bpf_set_retval(-13),
            EPROTONOSUPPORT => bpf_set_retval(-93),
            ECONNREFUSED => bpf_set_retval(-111),
            ENETUNREACH => bpf_set_retval(-101),
            _ => 0, // EPERM is what a denial gives by itself
        }
    };
    if refused != 0 || fail::injected(Site::SetRetval) {
        fail::count(Site::SetRetval);
    }
    DENY
}

/// A label for records about a process whose label was lost.
pub const NOBODY: Label = Label::ZERO;

#[inline(always)]
fn domain(direction: Direction) -> Domain {
    match direction {
        Direction::Out => Domain::NetworkOut,
        Direction::Listen => Domain::NetworkListen,
    }
}

/// Tells of an operation that could not be judged, and counts it. The errno to deny it with; 0: in `learn` and `audit`
/// mode it goes on.
#[inline(always)]
pub fn unjudged(label: &Label, flow: Flow, request: NetRequest, site: Site, mode: Mode) -> u16 {
    fail::count(site);
    let reason = if matches!(site, Site::LabelMissing) { Reason::LabelLost } else { Reason::HelperFailed };
    emit::decision(domain(request.direction), Effect::Deny, mode);
    let enforce = matches!(mode, Mode::Enforce);
    let errno = if enforce { ENETUNREACH } else { 0 };
    let outcome = Outcome { effect: Effect::Deny, mode, generation: 0, errno };
    emit::network(label, flow, request, reason.code(), outcome);
    emit::denied(label.agent);
    errno
}

/// Ends a cgroup hook with what was judged: an errno, or 0.
#[inline(always)]
pub fn end_with(errno: u16) -> i32 {
    if errno == 0 { PASS } else { deny_with(errno) }
}

/// What the caller of an address hook wants.
#[derive(Clone, Copy, PartialEq)]
pub enum Act {
    Connect,
    Send,
    Bind,
}

/// The address and the port that a hook is about, as its context has them.
///
/// # Safety
/// `c` is the hook's context.
#[inline(always)]
pub unsafe fn end_in_context(c: *const bpf_sock_addr, v6: bool) -> (Address, u16) {
    // SAFETY: context fields; volatile keeps the loads as wide as the verifier allows them.
    unsafe {
        let address = if v6 {
            Address([
                read_volatile(&raw const (*c).user_ip6[0]),
                read_volatile(&raw const (*c).user_ip6[1]),
                read_volatile(&raw const (*c).user_ip6[2]),
                read_volatile(&raw const (*c).user_ip6[3]),
            ])
        } else {
            Address::v4(read_volatile(&raw const (*c).user_ip4))
        };
        let port = u16::from_be(read_volatile(&raw const (*c).user_port) as u16);
        (address, port)
    }
}

#[inline(always)]
fn address_hook(ctx: &SockAddrContext, hook: Hook, act: Act, v6: bool) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return PASS;
    }
    let c: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: context fields; volatile keeps the loads as wide as the verifier allows them.
    let (address, port, ip_protocol, family, sk) = unsafe {
        let (address, port) = end_in_context(c, v6);
        let ip_protocol = read_volatile(&raw const (*c).protocol);
        let family = read_volatile(&raw const (*c).family);
        (address, port, ip_protocol, family, (*c).__bindgen_anon_1.sk)
    };
    log!(ctx, "address hook {}: process {}, port {}", hook.code(), tgid, port);
    let flow = Flow { hook, ip_protocol, family, local_port: 0, name: 0 };
    let protocol = Protocol::from_ip(ip_protocol);
    let request = match act {
        Act::Bind => NetRequest::listen(address, port, protocol),
        _ => NetRequest::out(address, port, protocol),
    };
    let label = match label_of(tgid) {
        Ok(label) => label,
        Err(site) => return end_with(unjudged(&NOBODY, flow, request, site, Mode::Enforce)),
    };
    let Some(standing) = standing(label.profile) else {
        return end_with(unjudged(&label, flow, request, Site::ImageMissing, Mode::Enforce));
    };
    // SAFETY: `ctx->sk` is a socket the verifier knows.
    let Some(storage) = (unsafe { SOCKETS.get_or_create(sk.cast()) }) else {
        return end_with(unjudged(&label, flow, request, Site::SocketStorage, standing.mode()));
    };
    if act != Act::Bind
        && request.port == DNS_PORT
        && let Some(policy) = standing.policy(standing.class_of(&label))
        && dns::is_question(&policy, request)
    {
        return dns::redirect(c, sk, storage, &label, &policy, flow, request, address, v6, tgid);
    }
    // A connected IPv6 socket with a mapped peer sends by this hook too, and its peer is the resolver.
    // SAFETY: as above.
    if act == Act::Send && unsafe { (*storage).flags } & SOCKET_ASKS != 0 && dns::to_resolver(request) {
        return PASS;
    }
    // SAFETY: as above.
    let unconnected = unsafe { read_volatile(&raw const (*sk).state) } == CLOSE;
    end_with(judge(Some(sk), storage, &label, standing, flow, request, act, unconnected))
}

/// Judges a request on a socket and reports it; the errno to deny it with, 0: it goes on. `sk`: the socket, where its
/// packets come to egress.
#[inline(always)]
pub fn judge(
    sk: Option<*mut bpf_sock>,
    s: *mut SocketLabel,
    label: &Label,
    standing: Standing,
    mut flow: Flow,
    request: NetRequest,
    act: Act,
    unconnected: bool,
) -> u16 {
    let class = standing.class_of(label);
    // A port of 0 asks the kernel to choose: nothing is offered yet. `listen` and the SYN-ACK are judged later.
    if act == Act::Bind && request.port == 0 {
        claim_socket(s, label, standing.generation, class);
        return 0;
    }
    let tag = match request.address.as_v4() {
        Some(v4) if !matches!(act, Act::Bind) => {
            flow_tag(v4, request.port, Direction::Out.code(), request.protocol.code(), standing.epoch())
        }
        _ => 0,
    };
    // SAFETY: socket storage; one word each, so a second thread on this socket can't tear them.
    unsafe {
        if act == Act::Send
            && tag != 0
            && (*s).agent == label.agent
            && (*s).allowed == tag
            && socket_cell(s, standing.generation) == class_cell(class.number(), standing.generation, 0)
        {
            emit::decision(Domain::NetworkOut, Effect::Allow, standing.mode());
            return 0;
        }
    }
    let Some(policy) = standing.policy(class) else {
        return unjudged(label, flow, request, Site::ImageMissing, Mode::Enforce);
    };
    // VERIFIER: "BPF program is too large": as a number that is one state.
    let mut answer = forget(answer(&policy.table, policy.class, request));
    let domain = domain(request.direction);
    let protected = act == Act::Bind && dns::is_resolvers(request.port);
    if protected {
        answer = Decision::DenyRule.code();
    }
    let mut name = 0;
    let told = forget((answer == Decision::Audit.code()) as u32);
    let denied = forget((answer == Decision::DenyRule.code()) as u32);
    let allowed = forget((answer == Decision::Allow.code()) as u32);
    if told | denied | allowed == 0 {
        name = dns::granting_name(&policy, label.profile, request, false);
        if name & AWAITS_HELLO != 0 {
            match sk {
                // SAFETY: the hook's own socket.
                Some(sk) if !unsafe { hello::expect(sk) } => {
                    return unjudged(label, flow, request, Site::SocketStorage, standing.mode());
                }
                Some(_) => {}
                // No packet of such a socket is looked at: what it says can't be known.
                None => name = 0,
            }
        }
        flow.name = name as u16;
    }
    let flow = flow;
    if allowed != 0 || flow.name != 0 {
        emit::decision(domain, Effect::Allow, standing.mode());
        claim_socket(s, label, standing.generation, class);
        let (tag, reason) = if flow.name != 0 {
            // SAFETY: socket storage. Not by its tag: with the next address the name's answers are asked for again.
            unsafe { dns::remember(s, request, standing.epoch(), name) };
            (0, Reason::Name)
        } else {
            (tag, Reason::Rule)
        };
        // SAFETY: as above.
        unsafe {
            match act {
                // The hook runs before the kernel refuses `bind` to a connected socket, whose flow is no grant to
                // listen.
                Act::Bind if unconnected => (*s).flags |= SOCKET_SERVER,
                Act::Bind => {}
                Act::Connect => {
                    (*s).flags &= !SOCKET_SERVER;
                    (*s).allowed = tag;
                }
                Act::Send => (*s).allowed = tag,
            }
        }
        let outcome =
            Outcome { effect: Effect::Allow, mode: standing.mode(), generation: policy.generation, errno: 0 };
        emit::network(label, flow, request, reason.code(), outcome);
        emit::allowed(label.agent, 1);
        return 0;
    }
    let mode = if told != 0 { standing.mode().tried_out() } else { standing.mode() };
    let reason = match (protected, told | denied) {
        (true, _) => Reason::Protected,
        (false, 0) => Reason::Default,
        (false, _) => Reason::Rule,
    };
    emit::decision(domain, Effect::Deny, mode);
    let enforce = matches!(mode, Mode::Enforce);
    let errno = match (enforce, act) {
        (false, _) => 0,
        (true, Act::Bind) => EACCES,
        (true, _) => destination_errno(policy.errno),
    };
    let outcome = Outcome { effect: Effect::Deny, mode, generation: policy.generation, errno };
    emit::network(label, flow, request, reason.code(), outcome);
    emit::denied(label.agent);
    // Denied or not, the socket is the agent's: a kernel-made one has no other label, and a program attached behind
    // ours can take the errno back.
    claim_socket(s, label, standing.generation, class);
    if act == Act::Connect {
        // And it is no server any more: a socket bound to a granted port would pass egress by that grant.
        // SAFETY: as above.
        unsafe { (*s).flags &= !SOCKET_SERVER };
    }
    errno
}

/// Ties a socket to the agent and the program that use it now. What another one's verdicts on it were is forgotten.
#[inline(always)]
pub fn claim_socket(s: *mut SocketLabel, label: &Label, generation: u32, class: Class) {
    let cell = class_cell(class.number(), generation, 0);
    // SAFETY: socket storage of the hook's own socket.
    unsafe {
        if (*s).agent != label.agent {
            // VERIFIER: "R4 !read_ok": plain stores become a call of memset, around which the compiler saves registers
            // that hold nothing.
            write_volatile(&raw mut (*s).allowed, 0);
            write_volatile(&raw mut (*s).denied, 0);
            write_volatile(&raw mut (*s).named, 0);
            write_volatile(&raw mut (*s).flags, 0);
            (*s).profile = label.profile as u16;
            (*s).agent = label.agent;
        }
        if socket_cell(s, generation) == cell && (*s).program == label.program {
            return;
        }
        // The program first: `iterate_classes` writes a cell for the program that it read, and looks again.
        write_volatile(&raw mut (*s).program, label.program);
        let (now, other) = if generation & 1 == 0 { (0, 1) } else { (1, 0) };
        write_volatile(&raw mut (*s).classes[other], 0);
        write_volatile(&raw mut (*s).classes[now], cell);
        write_volatile(&raw mut (*s).allowed, 0);
        write_volatile(&raw mut (*s).denied, 0);
        write_volatile(&raw mut (*s).named, 0);
    }
}

/// Labels a socket that was not judged by an address hook. False: no memory.
///
/// # Safety
/// `sk` is a socket pointer that the verifier knows.
#[inline(always)]
pub unsafe fn label_socket(sk: *mut core::ffi::c_void, label: &Label, generation: u32, class: Class) -> bool {
    // SAFETY: the caller's promise.
    match unsafe { SOCKETS.get_or_create(sk) } {
        Some(s) => {
            claim_socket(s, label, generation, class);
            true
        }
        None => false,
    }
}

/// `cgroup/connect4`: `connect(2)`, MSG_FASTOPEN and io_uring alike, AF_INET addresses.
#[cgroup_sock_addr(connect4)]
pub fn network_connect4(ctx: SockAddrContext) -> i32 {
    address_hook(&ctx, Hook::Connect4, Act::Connect, false)
}

/// `cgroup/connect6`: AF_INET6 addresses, mapped ones included.
#[cgroup_sock_addr(connect6)]
pub fn network_connect6(ctx: SockAddrContext) -> i32 {
    address_hook(&ctx, Hook::Connect6, Act::Connect, true)
}

/// `cgroup/sendmsg4`: unconnected UDP, and mapped addresses on IPv6 sockets.
#[cgroup_sock_addr(sendmsg4)]
pub fn network_sendmsg4(ctx: SockAddrContext) -> i32 {
    address_hook(&ctx, Hook::Sendmsg4, Act::Send, false)
}

/// `cgroup/sendmsg6`: unconnected UDP over IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn network_sendmsg6(ctx: SockAddrContext) -> i32 {
    address_hook(&ctx, Hook::Sendmsg6, Act::Send, true)
}

/// `cgroup/bind4`.
#[cgroup_sock_addr(bind4)]
pub fn network_bind4(ctx: SockAddrContext) -> i32 {
    address_hook(&ctx, Hook::Bind4, Act::Bind, false)
}

/// `cgroup/bind6`.
#[cgroup_sock_addr(bind6)]
pub fn network_bind6(ctx: SockAddrContext) -> i32 {
    address_hook(&ctx, Hook::Bind6, Act::Bind, true)
}

/// `cgroup/sock_create`: AF_INET and AF_INET6 only; kernel sockets do not come here.
#[cgroup_sock(sock_create)]
pub fn network_sock_create(ctx: SockContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return PASS;
    }
    let sk: *mut bpf_sock = ctx.sock;
    // SAFETY: context fields.
    let (family, kind, protocol) = unsafe {
        (
            read_volatile(&raw const (*sk).family),
            read_volatile(&raw const (*sk).type_),
            read_volatile(&raw const (*sk).protocol),
        )
    };
    let body = SocketBody { family, kind, protocol, ..SocketBody::ZERO };
    let label = match label_of(tgid) {
        Ok(label) => label,
        Err(site) => return unjudged_socket(&NOBODY, Hook::SockCreate, body, site, Mode::Enforce),
    };
    let standing = standing(label.profile);
    let (mode, generation, class) = match standing {
        Some(standing) => (standing.mode(), standing.generation, standing.class_of(&label)),
        None => (Mode::Enforce, 0, Class::UNKNOWN),
    };
    // Before the verdict: a program attached behind ours can take the errno back, and then egress must know the socket.
    // SAFETY: the context of this program type is the socket.
    if !unsafe { label_socket(sk.cast(), &label, generation, class) } {
        return unjudged_socket(&label, Hook::SockCreate, body, Site::SocketStorage, mode);
    }
    if socket_kind(family, kind, protocol).is_none() {
        return PASS; // TCP or UDP, which need no grant: their addresses are judged
    }
    let Some(policy) = standing.and_then(|standing| standing.policy(class)) else {
        return unjudged_socket(&label, Hook::SockCreate, body, Site::ImageMissing, Mode::Enforce);
    };
    if !socket_granted(&label, &policy, Hook::SockCreate, body, EPROTONOSUPPORT) {
        return deny_with(EPROTONOSUPPORT);
    }
    PASS
}

/// Judges a socket creation and reports a denial. True: it may go on.
#[inline(always)]
pub fn socket_granted(label: &Label, policy: &Policy, hook: Hook, mut body: SocketBody, errno: u16) -> bool {
    let Some(kind) = socket_kind(body.family, body.kind, body.protocol) else {
        return true;
    };
    if decide_socket(&policy.table, policy.class, kind).allowed() {
        emit::decision(Domain::Socket, Effect::Allow, policy.mode());
        if !activity::again(label.agent, SOCKET_KIND, kind.code() as u64) {
            body.reason = Reason::Rule.code() as u32;
            let outcome = Outcome {
                effect: Effect::Allow,
                mode: policy.mode(),
                generation: policy.generation,
                errno: 0,
            };
            report_socket(label, hook, body, outcome);
        }
        return true;
    }
    body.reason = Reason::SocketKind.code() as u32;
    emit::decision(Domain::Socket, Effect::Deny, policy.mode());
    let enforce = matches!(policy.mode(), Mode::Enforce);
    let errno = if enforce { errno } else { 0 };
    let outcome = Outcome { effect: Effect::Deny, mode: policy.mode(), generation: policy.generation, errno };
    report_socket(label, hook, body, outcome);
    emit::denied(label.agent);
    !enforce
}

#[inline(always)]
fn report_socket(label: &Label, hook: Hook, body: SocketBody, outcome: Outcome) {
    let header = emit::header(Kind::Socket, hook, size_of::<Record<SocketBody>>(), label, outcome);
    emit::record(outcome.ring(), label.agent, &Record { header, body });
}

/// Denies a socket creation that could not be judged.
#[inline(always)]
fn unjudged_socket(label: &Label, hook: Hook, body: SocketBody, site: Site, mode: Mode) -> i32 {
    let enforce = count_unjudged_socket(label, hook, body, site, mode);
    if enforce { deny_with(EPROTONOSUPPORT) } else { PASS }
}

/// Counts and reports a socket creation that could not be judged. True: deny it.
#[inline(always)]
pub fn count_unjudged_socket(
    label: &Label,
    hook: Hook,
    mut body: SocketBody,
    site: Site,
    mode: Mode,
) -> bool {
    fail::count(site);
    let reason = if matches!(site, Site::LabelMissing) { Reason::LabelLost } else { Reason::HelperFailed };
    body.reason = reason.code() as u32;
    emit::decision(Domain::Socket, Effect::Deny, mode);
    let enforce = matches!(mode, Mode::Enforce);
    let errno = if enforce { EPROTONOSUPPORT } else { 0 };
    report_socket(label, hook, body, Outcome { effect: Effect::Deny, mode, generation: 0, errno });
    emit::denied(label.agent);
    enforce
}

/// TCP state of a socket that is neither connected nor listens.
const CLOSE: u32 = 7;
/// TCP state of a listener.
const LISTEN: u32 = 10;

/// `cgroup_skb/egress`: every packet of a labelled socket, as it leaves.
#[cgroup_skb(egress)]
pub fn network_egress(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: context fields and helpers; null is checked before use.
    unsafe {
        // The kernel calls this with a full socket only (BPF_CGROUP_RUN_PROG_INET_EGRESS): of a SYN-ACK, the listener.
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return PASS;
        }
        match SOCKETS.get(sk.cast()) {
            Some(storage) => packet(skb, sk, storage),
            None => PASS,
        }
    }
}

/// Bytes of an IPv4 header without options, and of the ports behind it.
const V4_BYTES: usize = 24;
/// Bytes of an IPv6 header, and of the ports behind it.
const V6_BYTES: usize = 44;

/// What a packet says of itself.
#[derive(Clone, Copy)]
struct Parsed {
    source: Address,
    destination: Address,
    source_port: u16,
    port: u16,
    ip_protocol: u8,
    /// [`Reason`] code of why it can't be judged by its destination alone; 0: it can.
    refused: u8,
}

/// Loads `N` bytes from the start of the network header; where the packet is shorter, the first `LESS`.
///
/// # Safety
/// `skb` is the hook's context.
#[inline(always)]
unsafe fn load<const N: usize, const LESS: usize>(skb: *mut __sk_buff) -> Option<[u8; N]> {
    // SAFETY: the caller's promise. The bytes up to `data_end` may be read directly; the headers of a packet that is
    // longer than them mostly lie there, and a helper's call costs as much as all that is done with them.
    unsafe {
        let data = read_volatile(&raw const (*skb).data) as u64 as *const u8;
        let end = read_volatile(&raw const (*skb).data_end) as u64;
        if data.add(N) as u64 <= end {
            return Some(data.cast::<[u8; N]>().read_unaligned());
        }
    }
    let mut bytes = [0_u8; N];
    // SAFETY: the caller's promise; the buffer is N bytes.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), 0, bytes.as_mut_ptr().cast(), N as u32) == 0
            || bpf_skb_load_bytes(skb.cast(), 0, bytes.as_mut_ptr().cast(), LESS as u32) == 0
        {
            return Some(bytes);
        }
    }
    None
}

#[inline(always)]
fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

#[inline(always)]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// # Safety
/// `skb` is the hook's context.
#[inline(always)]
unsafe fn parse(skb: *mut __sk_buff) -> Option<Parsed> {
    if fail::injected(Site::PacketRead) {
        return None;
    }
    // SAFETY: a context field; the caller's promise for `load`.
    let v6 = unsafe { read_volatile(&raw const (*skb).protocol) } as u16 == 0x86dd_u16.to_be();
    if v6 {
        // SAFETY: the caller's promise.
        let b = unsafe { load::<V6_BYTES, 40>(skb) }?;
        let ip_protocol = b[6];
        // Extension headers may route (RFC 8200 §4.4) or hide ports: hop-by-hop, routing, fragment, destination
        // options, mobility, HIP, shim6 and the experimental ones.
        let extension = matches!(ip_protocol, 0 | 43 | 44 | 60 | 135 | 139 | 140 | 253 | 254);
        return Some(Parsed {
            source: Address([be32(&b, 8), be32(&b, 12), be32(&b, 16), be32(&b, 20)]),
            destination: Address([be32(&b, 24), be32(&b, 28), be32(&b, 32), be32(&b, 36)]),
            source_port: be16(&b, 40),
            port: be16(&b, 42),
            ip_protocol,
            refused: if extension { Reason::IpOptions.code() } else { 0 },
        });
    }
    // SAFETY: the caller's promise.
    let b = unsafe { load::<V4_BYTES, 20>(skb) }?;
    let refused = if b[0] & 0x0f != 5 {
        Reason::IpOptions.code()
    } else if b[0] >> 4 != 4 || be16(&b, 6) & 0x1fff != 0 {
        Reason::Malformed.code() // a later fragment has no ports
    } else {
        0
    };
    Some(Parsed {
        source: Address::v4(be32(&b, 12)),
        destination: Address::v4(be32(&b, 16)),
        source_port: be16(&b, 20),
        port: be16(&b, 22),
        ip_protocol: b[9],
        refused,
    })
}

/// Drops a packet of an agent whose profile has no image.
#[inline(always)]
fn without_image(agent: u32) -> i32 {
    fail::count(Site::ImageMissing);
    emit::decision(Domain::NetworkOut, Effect::Deny, Mode::Enforce);
    emit::denied(agent);
    DENY
}

/// # Safety
/// `skb` and `sk` are the hook's own, `s` is the storage of `sk`.
#[inline(always)]
unsafe fn packet(skb: *mut __sk_buff, sk: *mut bpf_sock, s: *mut SocketLabel) -> i32 {
    // SAFETY: the caller's promise; storage fields are read as one word each.
    let (agent, profile, flags, allowed, reported) = unsafe {
        (
            (*s).agent,
            (*s).profile as u32,
            (*s).flags,
            read_volatile(&raw const (*s).allowed),
            read_volatile(&raw const (*s).denied),
        )
    };
    let mut label = Label { agent, profile, ..Label::ZERO };
    let Some(standing) = standing(profile) else {
        return without_image(agent);
    };
    // SAFETY: the caller's promise.
    let cell = unsafe { socket_cell(s, standing.generation) };
    let class = Class::new(class_of_cell(cell, standing.generation, 0));
    // For the records.
    label.classes = [cell; 2];
    // SAFETY: the caller's promise.
    let Some(parsed) = (unsafe { parse(skb) }) else {
        fail::count(Site::PacketRead);
        let mode = standing.mode();
        emit::decision(Domain::NetworkOut, Effect::Deny, mode);
        emit::denied(agent);
        return if matches!(mode, Mode::Enforce) { DENY } else { PASS };
    };
    let protocol = Protocol::from_ip(parsed.ip_protocol as u32);
    let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
    // A listener's SYN-ACK and its accepted sockets go to whoever called: the grant is for the local port.
    let listens = matches!(protocol, Protocol::Tcp) && {
        // SAFETY: the hook's own socket. The verifier wants it known as a full one before its state is read.
        let full = unsafe { bpf_sk_fullsock(sk) };
        // SAFETY: as above, and not null.
        !full.is_null() && unsafe { read_volatile(&raw const (*full).state) } == LISTEN
    };
    let server = listens || matches!(protocol, Protocol::Tcp) && flags & SOCKET_SERVER != 0;
    let request = if server {
        NetRequest::listen(parsed.source, parsed.source_port, protocol)
    } else {
        NetRequest::out(parsed.destination, if ported { parsed.port } else { 0 }, protocol)
    };
    let mut refused = parsed.refused as u32;
    let asks = flags & SOCKET_ASKS != 0 && refused == 0 && dns::to_resolver(request);
    // SAFETY: a context field.
    if asks && unsafe { read_volatile(&raw const (*skb).ifindex) } != LOOPBACK_INDEX {
        // A route or a device that was chosen since leads it out.
        refused = Reason::OtherNetwork.code() as u32;
    }
    let refused = forget(refused) as u8;
    let tag = match request.address.as_v4() {
        Some(v4) if refused == 0 => {
            flow_tag(v4, request.port, request.direction.code(), protocol.code(), standing.epoch())
        }
        _ => 0,
    };
    if tag != 0 && allowed == tag {
        return PASS;
    }
    if asks && refused == 0 {
        // SAFETY: the hook's own socket.
        let told = unsafe {
            dns::tell_asker(
                sk,
                &label,
                standing.generation,
                class,
                parsed.source,
                parsed.source_port,
                protocol,
            )
        };
        // Not told: the resolver refuses it, and the agent asks again.
        return if told { PASS } else { DENY };
    }
    // SAFETY: the caller's promise.
    let held = unsafe { dns::held(s, request, standing.epoch()) };
    let mut named = held == Held::Now && refused == 0;
    let (mut reason, mut told) = (refused, 0);
    if refused == 0 && !named {
        let Some(policy) = standing.policy(class) else {
            return without_image(agent);
        };
        // VERIFIER: "BPF program is too large": as a number that is one state.
        let answer = forget(answer(&policy.table, policy.class, request));
        if answer == Decision::Allow.code() {
            // SAFETY: storage of the packet's socket, one word each.
            unsafe {
                if listens {
                    // Before the child is cloned from this storage.
                    (*s).flags |= SOCKET_SERVER;
                }
                (*s).allowed = tag;
            }
            return PASS;
        }
        told = forget((answer == Decision::Audit.code()) as u32);
        let denied = forget((answer == Decision::DenyRule.code()) as u32);
        if told | denied == 0 {
            let name = dns::granting_name(&policy, profile, request, held == Held::Older);
            if name != 0 {
                // SAFETY: storage of the packet's socket.
                unsafe { dns::remember(s, request, standing.epoch(), name) };
                named = true;
            }
        }
        reason = if told | denied != 0 { Reason::Rule } else { Reason::Default }.code();
    }
    if forget(named as u32) != 0 {
        // SAFETY: the caller's promise.
        return unsafe { if dns::awaits_hello(s) { hello::judge(skb, standing.mode()) } else { PASS } };
    }
    let mode = if forget(told) != 0 { standing.mode().tried_out() } else { standing.mode() };
    let reason = forget(reason as u32) as u8;
    let enforce = matches!(mode, Mode::Enforce);
    emit::decision(domain(request.direction), Effect::Deny, mode);
    // Retransmissions of one denied flow are one event. (Each IPv6 packet is one: its address is too long for a tag.)
    if tag == 0 || reported != tag {
        let errno = if enforce { EPERM } else { 0 };
        let outcome = Outcome { effect: Effect::Deny, mode, generation: standing.generation, errno };
        let flow = Flow {
            hook: Hook::Egress,
            ip_protocol: parsed.ip_protocol as u32,
            family: 0,
            local_port: if ported { parsed.source_port } else { 0 },
            name: 0,
        };
        emit::network(&label, flow, request, reason, outcome);
        emit::denied(agent);
        // SAFETY: as above.
        unsafe { (*s).denied = tag };
    }
    if enforce { DENY } else { PASS }
}
