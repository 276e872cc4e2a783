//! What a TLS client says first, where every rule that grants a flow asks for it (`sni: require`).
//!
//! Called by egress for flows that a name granted. Nothing that carries data leaves before a hello that says a granted
//! name (RFC 6066 §3) has. It must be whole in one packet and one record as far as its name: what lies in a second one
//! can't be waited for here. Nothing is searched for: the name must be one that the agent has looked up, and the
//! resolver wrote its class beside it.
//!
//! What must stay true: what is judged is what the server reads first. So it is judged by its place in the stream, not by
//! being the first to come by: data that follows a dropped hello is dropped too. And every length that the hello gives is
//! held against the one around it, so that the server can't find another name there.

use agent_monitor_common::counters::{Domain, Effect, Mode, Site};
use agent_monitor_common::decide::{Decision, name_answer};
use agent_monitor_common::event::{Header, HelloBody, Hook, Kind, NetBody, Reason};
use agent_monitor_common::hello::{Hello, lower, server_name};
use agent_monitor_common::image::Class;
use agent_monitor_common::label::{AWAITS_HELLO, Label, SocketLabel, class_of_cell};
use agent_monitor_common::name::{HELLO_EGRESS, NAME_BYTES, SpokenKey};
use agent_monitor_common::request::{Address, Direction, Protocol};
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_tcp_sock};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::{read_volatile, write_volatile};

use crate::emit::{self, Outcome};
use crate::fail;
use crate::hooks::network::{DENY, EPERM, PASS};
use crate::maps::{CALLED, HELLOS, SOCKETS, SPOKEN};
use crate::subject::{socket_cell, standing};

/// What a connection that must say a name has said; its record is built here, for the stack has no room.
#[repr(C)]
pub struct Said {
    /// 1: a granted name, on this connection.
    granted: u32,
    /// 1: that it was none is told.
    told: u32,
    header: Header,
    body: HelloBody,
}

/// Bytes of a record.
const RECORD: usize = size_of::<Header>() + size_of::<HelloBody>();
const _: () = assert!(size_of::<Said>() == 8 + RECORD);

/// A connection begins that must say a name. False: no memory.
///
/// # Safety
/// `sk` is a socket that the verifier knows.
#[inline(always)]
pub unsafe fn expect(sk: *mut bpf_sock) -> bool {
    // SAFETY: the caller's promise; socket storage.
    unsafe {
        let Some(said) = HELLOS.get_or_create(sk.cast()) else { return false };
        write_volatile(&raw mut (*said).granted, 0);
        write_volatile(&raw mut (*said).told, 0);
    }
    true
}

/// Lets [`hello_egress`] judge a packet of a flow that a name grants and that must say one.
///
/// # Safety
/// `skb` is the context of an egress program.
#[inline(always)]
pub unsafe fn judge(skb: *mut __sk_buff, mode: Mode) -> i32 {
    // SAFETY: the caller's promise. It does not return, unless the daemon has not put the program there.
    unsafe { CALLED.tail_call(&SkBuffContext::new(skb), HELLO_EGRESS) };
    fail::count(Site::MapLookup);
    if matches!(mode, Mode::Enforce) { DENY } else { PASS }
}

/// Called by `network_egress`, for a packet without IP options of a flow that must say a name. All that it needs it finds
/// by the packet again.
// VERIFIER: "BPF program is too large", "combined stack size": egress would walk it once for each of its many states, and
// has no room on the stack. So it is a program of its own, that takes its place.
#[cgroup_skb(egress)]
pub fn hello_egress(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: context fields; null is checked before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return DENY;
        }
        match SOCKETS.get(sk.cast()) {
            Some(s) => packet(skb, sk, s),
            None => DENY,
        }
    }
}

/// # Safety
/// `skb` and `sk` are the hook's own, `s` is the storage of `sk`.
#[inline(always)]
unsafe fn packet(skb: *mut __sk_buff, sk: *mut bpf_sock, s: *mut SocketLabel) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let (agent, profile) = ((*s).agent, (*s).profile as u32);
        let Some(standing) = standing(profile) else {
            fail::count(Site::ImageMissing);
            return silently(agent, Mode::Enforce);
        };
        let mode = standing.mode();
        let Some(said) = HELLOS.get_or_create(sk.cast()) else {
            fail::count(Site::SocketStorage);
            return silently(agent, mode);
        };
        // Another grant of a connection that has: its program is another one now.
        if read_volatile(&raw const (*said).granted) != 0 {
            heard(s, said);
            return PASS;
        }
        let first = match payload(skb, sk) {
            Payload::Nothing => return PASS,
            Payload::First(first) => first,
            Payload::Later => return silently(agent, mode),
            Payload::Unread => {
                fail::count(Site::PacketRead);
                return silently(agent, mode);
            }
        };
        let cell = socket_cell(s, standing.generation);
        let class = Class::new(class_of_cell(cell, standing.generation, 0));
        let Some(policy) = standing.policy(class) else {
            fail::count(Site::ImageMissing);
            return silently(agent, Mode::Enforce);
        };
        let named = read_volatile(&raw const (*s).named);
        let port = (named >> 32) as u16;
        let hello = hear(skb, first.at, said, profile, standing.generation);
        if hello == Hello::Named.code()
            && let Some(spoken) = SPOKEN.get_ptr(&(*said).body.said)
        {
            let granted = name_answer(&policy.table, policy.class, (*spoken).class, Protocol::Tcp, port);
            if granted == Decision::Allow.code() || granted == Decision::AllowHello.code() {
                emit::decision(Domain::Sni, Effect::Allow, mode);
                heard(s, said);
                return PASS;
            }
        }
        let enforce = matches!(mode, Mode::Enforce);
        if read_volatile(&raw const (*said).told) == 0 {
            write_volatile(&raw mut (*said).told, 1);
            emit::decision(Domain::Sni, Effect::Deny, mode);
            let errno = if enforce { EPERM } else { 0 };
            let outcome = Outcome { effect: Effect::Deny, mode, generation: standing.generation, errno };
            let label = Label { agent, profile, classes: [cell; 2], ..Label::ZERO };
            (*said).header = emit::packet_header(Kind::Hello, Hook::Egress, RECORD, &label, outcome);
            (*said).body.net = NetBody {
                address: Address((*s).named_address).bytes(),
                port,
                protocol: Protocol::Tcp.code(),
                direction: Direction::Out.code(),
                reason: Reason::Sni.code(),
                pad: 0,
                local_port: first.local_port,
                ip_protocol: 6,
                name: named as u16,
                family: 0,
            };
            (*said).body.hello = hello;
            emit::bytes(outcome.ring(), agent, (&raw const (*said).header).cast(), RECORD as u64);
            emit::denied(agent);
        }
        if enforce {
            return DENY;
        }
        heard(s, said);
        PASS
    }
}

/// What is not told: a packet behind the hello that was, or one that can't be read.
#[inline(always)]
fn silently(agent: u32, mode: Mode) -> i32 {
    if !matches!(mode, Mode::Enforce) {
        return PASS;
    }
    emit::decision(Domain::Sni, Effect::Deny, mode);
    emit::denied(agent);
    DENY
}

/// The connection said what it must.
///
/// # Safety
/// Both are storage of the packet's socket.
#[inline(always)]
unsafe fn heard(s: *mut SocketLabel, said: *mut Said) {
    // SAFETY: the caller's promise; one word each.
    unsafe {
        write_volatile(&raw mut (*said).granted, 1);
        let named = read_volatile(&raw const (*s).named);
        write_volatile(&raw mut (*s).named, named & !(AWAITS_HELLO as u64));
    }
}

/// The first bytes of a stream.
struct First {
    /// Where they begin in the packet.
    at: u32,
    local_port: u16,
}

/// The data of a packet.
enum Payload {
    /// It has none.
    Nothing,
    First(First),
    /// Bytes behind the first.
    Later,
    Unread,
}

/// # Safety
/// `skb` and `sk` are the hook's own.
#[inline(always)]
unsafe fn payload(skb: *mut __sk_buff, sk: *mut bpf_sock) -> Payload {
    // SAFETY: the caller's promise; the buffer has the size that is said.
    unsafe {
        let v6 = read_volatile(&raw const (*skb).protocol) as u16 == 0x86dd_u16.to_be();
        let tcp = if v6 { 40 } else { 20 };
        let mut head = [0_u8; 16];
        if bpf_skb_load_bytes(skb.cast(), tcp, head.as_mut_ptr().cast(), 16) != 0 {
            return Payload::Unread;
        }
        let at = tcp + (head[12] >> 4) as u32 * 4;
        if read_volatile(&raw const (*skb).len) <= at {
            return Payload::Nothing;
        }
        let state = bpf_tcp_sock(sk);
        if state.is_null() {
            return Payload::Unread;
        }
        // As long as no hello has left, the peer has acknowledged the SYN and no byte of data. A SYN with data (Fast Open)
        // has the number before the first byte, which is not acknowledged either.
        let number = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let (next, acknowledged) =
            (read_volatile(&raw const (*state).snd_una), read_volatile(&raw const (*state).bytes_acked));
        if number != next || acknowledged > 1 {
            return Payload::Later;
        }
        Payload::First(First { at, local_port: u16::from_be_bytes([head[0], head[1]]) })
    }
}

/// Reads the name of a hello that begins at `at` into the record. The [`Hello`] code.
///
/// # Safety
/// `skb` is the hook's context, `said` socket storage.
#[inline(always)]
unsafe fn hear(skb: *mut __sk_buff, at: u32, said: *mut Said, profile: u32, generation: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let key: *mut SpokenKey = &raw mut (*said).body.said;
        write_volatile(&raw mut (*key).profile, profile);
        write_volatile(&raw mut (*key).generation, generation);
        write_volatile(&raw mut (*key).length, 0);
        write_volatile(&raw mut (*key).pad, 0);
        let words: *mut u64 = (&raw mut (*key).name).cast();
        let mut i = 0;
        while i < NAME_BYTES / 8 {
            write_volatile(words.add(i), 0);
            i += 1;
        }
        let found = find(skb, at);
        let place = (found >> 32) as u32;
        if place == 0 {
            return found as u32;
        }
        // VERIFIER: "R4 min value is outside of the allowed memory range": the length that was compared is in another
        // register than the one that is given.
        let mut length = found & 0xffff_ffff;
        core::arch::asm!("{0} += -1", "{0} &= 0xff", "{0} += 1", inout(reg) length, options(pure, nomem, nostack));
        if bpf_skb_load_bytes(skb.cast(), place, words.cast(), length as u32) != 0 {
            return Hello::Cut.code();
        }
        write_volatile(&raw mut (*key).length, length as u32);
        let mut i = 0;
        while i < NAME_BYTES / 8 {
            write_volatile(words.add(i), lower(read_volatile(words.add(i))));
            i += 1;
        }
        Hello::Named.code()
    }
}

/// Where the name of a hello lies, as [`server_name`] finds it.
///
/// A function of its own, so that its buffers leave the stack of its caller.
#[inline(never)]
fn find(skb: *mut __sk_buff, at: u32) -> u64 {
    server_name(at, |at: u32, to: &mut [u8]| {
        // SAFETY: the hook's context; the buffer has the size that is said.
        unsafe { bpf_skb_load_bytes(skb.cast(), at, to.as_mut_ptr().cast(), to.len() as u32) == 0 }
    })
}
