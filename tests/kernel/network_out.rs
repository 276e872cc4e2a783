//! N1 to N9, N15: ways to an ungranted address with the sockets that every process may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_monitor_common::event::Hook;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::uring::{self, Entry};
use agent_monitor_tests::world::{DENIED4, DENIED6, GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Failure, Socket, Stage};

use crate::attack::{Attack, Off, On};

const DATA: &[u8] = b"secret";

/// `::ffff:a.b.c.d`.
pub const fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    }
}

fn denied4() -> Name {
    Name::new(DENIED4, SINK)
}
fn denied6() -> Name {
    Name::new(DENIED6, SINK)
}
fn granted4() -> Name {
    Name::new(GRANTED4, SINK)
}
fn granted6() -> Name {
    Name::new(GRANTED6, SINK)
}
fn at(text: &str) -> Name {
    let ip: IpAddr = text.parse().unwrap_or_else(|_| unreachable!("{text} is an address literal"));
    Name::new(ip, SINK)
}

/// The call ended well without sending: an attack that sends nothing did not succeed.
fn sent(n: usize) -> Attempt {
    if n == 0 { Err(Failure::new("nothing was sent", 0)) } else { Ok(()) }
}

fn connect_and_send(socket: Result<Socket, Failure>, to: &Name) -> Attempt {
    let socket = socket?;
    socket.connect(to)?;
    sent(socket.send(DATA)?)
}

fn send_to(socket: Result<Socket, Failure>, to: &Name) -> Attempt {
    sent(socket?.send_to(DATA, 0, to)?)
}

/// `fn(&mut Stage) -> Attempt` that pauses once, before everything.
macro_rules! labelled_first {
    ($body:expr) => {
        |stage: &mut Stage| {
            stage.pause()?;
            $body
        }
    };
}
pub(crate) use labelled_first;

const fn leaves(name: &'static str, hook: Hook, run: fn(&mut Stage) -> Attempt) -> Attack {
    Attack { name, run, off: Off::Leaves, on: On::Refused(libc::ENETUNREACH, hook) }
}
const fn loops(name: &'static str, hook: Hook, run: fn(&mut Stage) -> Attempt) -> Attack {
    Attack { name, run, off: Off::Loopback, on: On::Refused(libc::ENETUNREACH, hook) }
}

pub fn attacks() -> Vec<Attack> {
    [addresses(), datagrams(), fast_open(), loopback(), uring()].concat()
}

/// N1 to N3: forms of an address.
fn addresses() -> Vec<Attack> {
    vec![
        leaves(
            "N1_tcp4_connect",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::tcp4(), &denied4())),
        ),
        leaves(
            "N1_tcp6_connect",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::tcp6(), &denied6())),
        ),
        leaves("N1_udp6_sendto", Hook::Sendmsg6, labelled_first!(send_to(Socket::udp6(), &denied6()))),
        leaves(
            "N2_tcp_connect_mapped",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::tcp6(), &Name::new(mapped(DENIED4), SINK))),
        ),
        leaves(
            "N2_udp_sendto_mapped",
            Hook::Sendmsg4,
            labelled_first!(send_to(Socket::udp6(), &Name::new(mapped(DENIED4), SINK))),
        ),
        leaves(
            "N2_udp_inet_name_on_inet6_socket",
            Hook::Sendmsg4,
            labelled_first!(send_to(Socket::udp6(), &denied4())),
        ),
        leaves(
            "N2_udp_connect_inet_name_on_inet6_socket",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::udp6(), &denied4())),
        ),
        // The socket changes its family under way.
        leaves(
            "N2_udp_inet6_socket_turned_inet",
            Hook::Sendmsg4,
            labelled_first!({
                const IPV6_ADDRFORM: i32 = 1;
                let socket = Socket::udp6()?;
                socket.connect(&Name::new(mapped(GRANTED4), SINK))?;
                socket.set_int(libc::IPPROTO_IPV6, IPV6_ADDRFORM, libc::AF_INET)?;
                sent(socket.send_to(DATA, 0, &denied4())?)
            }),
        ),
        leaves(
            "N3_tcp_metadata_through_nat64",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::tcp6(), &at("64:ff9b::a9fe:a9fe"))),
        ),
        leaves(
            "N3_udp_nat64_of_ungranted",
            Hook::Sendmsg6,
            labelled_first!(send_to(Socket::udp6(), &at("64:ff9b::10.9.0.4"))),
        ),
        leaves(
            "N3_udp_local_nat64_of_ungranted",
            Hook::Sendmsg6,
            labelled_first!(send_to(Socket::udp6(), &at("64:ff9b:1::10.9.0.4"))),
        ),
        leaves(
            "N3_tcp_6to4_of_ungranted",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::tcp6(), &at("2002:a09:4::1"))),
        ),
        leaves(
            "N3_udp_teredo_of_ungranted",
            Hook::Sendmsg6,
            labelled_first!(send_to(Socket::udp6(), &at("2001::f5f6:fffb"))),
        ),
        leaves(
            "N3_udp_ipv4_compatible",
            Hook::Sendmsg6,
            labelled_first!(send_to(Socket::udp6(), &at("::10.9.0.4"))),
        ),
        leaves(
            "N3_tcp4_metadata",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::tcp4(), &at("169.254.169.254"))),
        ),
    ]
}

/// N5 to N7: datagrams.
fn datagrams() -> Vec<Attack> {
    vec![
        leaves("N5_udp4_sendto", Hook::Sendmsg4, labelled_first!(send_to(Socket::udp4(), &denied4()))),
        leaves(
            "N5_udp4_sendmsg",
            Hook::Sendmsg4,
            labelled_first!(sent(Socket::udp4()?.send_message(DATA, Some(&denied4()), &[])?)),
        ),
        leaves(
            "N5_udp6_sendmsg",
            Hook::Sendmsg6,
            labelled_first!(sent(Socket::udp6()?.send_message(DATA, Some(&denied6()), &[])?)),
        ),
        // With enforcement on the first goes and the call returns 1.
        Attack {
            name: "N6_udp4_sendmmsg_mixed",
            run: labelled_first!(all_three(Socket::udp4()?, &granted4(), &denied4())),
            off: Off::Leaves,
            on: On::Partly(Hook::Sendmsg4),
        },
        Attack {
            name: "N6_udp6_sendmmsg_mixed",
            run: labelled_first!(all_three(Socket::udp6()?, &granted6(), &denied6())),
            off: Off::Leaves,
            on: On::Partly(Hook::Sendmsg6),
        },
        leaves(
            "N6_udp4_sendmmsg_repeated",
            Hook::Sendmsg4,
            labelled_first!(sent(Socket::udp4()?.send_messages(DATA, &[denied4(); 3])?)),
        ),
        leaves(
            "N7_udp4_connect_send",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::udp4(), &denied4())),
        ),
        leaves(
            "N7_udp6_connect_send",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::udp6(), &denied6())),
        ),
        leaves(
            "N7_udp_connected_to_granted_sendto_ungranted",
            Hook::Sendmsg4,
            labelled_first!({
                let socket = Socket::udp4()?;
                socket.connect(&granted4())?;
                sent(socket.send_to(DATA, 0, &denied4())?)
            }),
        ),
        leaves(
            "N7_udp_disconnect_and_reconnect",
            Hook::Connect4,
            labelled_first!(reconnect(Socket::udp4()?)),
        ),
        leaves(
            "N7_tcp_disconnect_and_reconnect",
            Hook::Connect4,
            labelled_first!(reconnect(Socket::tcp4()?)),
        ),
        leaves(
            "N7_udp4_sendto_family_unspec",
            Hook::Sendmsg4,
            labelled_first!(send_to(Socket::udp4(), &denied4().with_family(0))),
        ),
        Attack {
            name: "N7_udp6_sendto_family_unspec",
            run: labelled_first!(send_to(Socket::udp6(), &denied6().with_family(0))),
            off: Off::RefusedByKernel(&[libc::EDESTADDRREQ]),
            on: On::RefusedByKernel,
        },
        leaves(
            "N7_udp_bound_to_device",
            Hook::Sendmsg4,
            labelled_first!({
                let socket = Socket::udp4()?;
                socket.set(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"v0\0")?;
                sent(socket.send_to(DATA, 0, &denied4())?)
            }),
        ),
        leaves(
            "N7_udp_broadcast",
            Hook::Sendmsg4,
            labelled_first!({
                let socket = Socket::udp4()?;
                socket.set_int(libc::SOL_SOCKET, libc::SO_BROADCAST, 1)?;
                sent(socket.send_to(DATA, 0, &at("10.9.0.255"))?)
            }),
        ),
    ]
}

fn all_three(socket: Socket, granted: &Name, denied: &Name) -> Attempt {
    match socket.send_messages(DATA, &[*granted, *denied, *denied])? {
        3 => Ok(()),
        n => Err(Failure::new(format!("sendmmsg sent {n} of 3"), 0)),
    }
}

fn reconnect(socket: Socket) -> Attempt {
    socket.connect(&granted4())?;
    socket.connect(&Name::unspecified()).map_err(|f| Failure::new("disconnect", f.errno))?;
    socket.connect(&denied4()).map_err(|f| Failure::new("reconnect", f.errno))?;
    sent(socket.send(DATA)?)
}

/// N9: data or a handshake without a plain `connect`.
fn fast_open() -> Vec<Attack> {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_WINDOW: i32 = 29;
    const TCP_REPAIR_OFF_NO_WINDOW_PROBE: i32 = -1;
    vec![
        leaves(
            "N9_tcp4_fastopen_sendto",
            Hook::Connect4,
            labelled_first!(sent(Socket::tcp4()?.send_to(DATA, libc::MSG_FASTOPEN, &denied4())?)),
        ),
        leaves(
            "N9_tcp6_fastopen_sendto",
            Hook::Connect6,
            labelled_first!(sent(Socket::tcp6()?.send_to(DATA, libc::MSG_FASTOPEN, &denied6())?)),
        ),
        leaves(
            "N9_tcp4_fastopen_connect",
            Hook::Connect4,
            labelled_first!({
                let socket = Socket::tcp4()?;
                socket.set_int(libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
                socket.connect(&denied4())?;
                sent(socket.send(DATA)?)
            }),
        ),
        // A connection that never had a handshake.
        leaves(
            "N9_tcp4_repair",
            Hook::Connect4,
            labelled_first!({
                let socket = Socket::tcp4()?;
                // `struct tcp_repair_window`: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
                let window = [0_u32, 65_535, 65_535, 65_535, 0].map(u32::to_ne_bytes).concat();
                socket.set_int(libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
                socket.connect(&denied4())?;
                socket.set(libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window)?;
                socket.set_int(libc::IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WINDOW_PROBE)?;
                sent(socket.send(DATA)?)
            }),
        ),
    ]
}

/// N4: names of this host.
fn loopback() -> Vec<Attack> {
    vec![
        loops(
            "N4_tcp_127_0_0_1",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::tcp4(), &at("127.0.0.1"))),
        ),
        loops(
            "N4_tcp_127_0_0_2",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::tcp4(), &at("127.0.0.2"))),
        ),
        loops(
            "N4_tcp_0_0_0_0",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::tcp4(), &at("0.0.0.0"))),
        ),
        loops(
            "N4_tcp_unspecified6",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::tcp6(), &at("::"))),
        ),
        loops(
            "N4_tcp_loopback6",
            Hook::Connect6,
            labelled_first!(connect_and_send(Socket::tcp6(), &at("::1"))),
        ),
        loops(
            "N4_tcp_mapped_unspecified",
            Hook::Connect6,
            labelled_first!(connect_and_send(
                Socket::tcp6(),
                &Name::new(mapped(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), SINK)
            )),
        ),
        loops("N4_udp_0_0_0_0", Hook::Sendmsg4, labelled_first!(send_to(Socket::udp4(), &at("0.0.0.0")))),
        loops(
            "N4_udp_unspecified6",
            Hook::Sendmsg6,
            labelled_first!(send_to(Socket::udp6(), &Name::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), SINK))),
        ),
        loops(
            "N4_tcp_own_address",
            Hook::Connect4,
            labelled_first!(connect_and_send(Socket::tcp4(), &at("10.9.0.1"))),
        ),
    ]
}

/// S1, S2: the same through io_uring.
fn uring() -> Vec<Attack> {
    vec![
        leaves("S1_uring_connect", Hook::Connect4, labelled_first!(uring_connect(false))),
        leaves("S2_uring_connect_by_kernel_thread", Hook::Connect4, labelled_first!(uring_connect(true))),
        leaves("S1_uring_sendmsg", Hook::Sendmsg4, labelled_first!(uring_sendmsg(false))),
        leaves("S2_uring_sendmsg_by_kernel_thread", Hook::Sendmsg4, labelled_first!(uring_sendmsg(true))),
        leaves(
            "S1_uring_send_with_address",
            Hook::Sendmsg4,
            labelled_first!({
                let (socket, to) = (Socket::udp4()?, denied4());
                let entry = Entry {
                    opcode: uring::OP_SEND,
                    fd: raw(&socket),
                    offset: to.bytes().as_ptr().addr() as u64,
                    address: DATA.as_ptr().addr() as u64,
                    length: DATA.len() as u32,
                    address_length: to.bytes().len() as u32,
                    ..Entry::default()
                };
                uring::run(entry, false).map(drop)
            }),
        ),
    ]
}

fn raw(socket: &Socket) -> i32 {
    use std::os::fd::{AsFd, AsRawFd};
    socket.as_fd().as_raw_fd()
}

fn uring_connect(polled: bool) -> Attempt {
    let (socket, to) = (Socket::tcp4()?, denied4());
    let entry = Entry {
        opcode: uring::OP_CONNECT,
        fd: raw(&socket),
        address: to.bytes().as_ptr().addr() as u64,
        offset: to.bytes().len() as u64,
        ..Entry::default()
    };
    uring::run(entry, polled).map(drop)
}

fn uring_sendmsg(polled: bool) -> Attempt {
    let (socket, to) = (Socket::udp4()?, denied4());
    let mut iov = libc::iovec { iov_base: DATA.as_ptr().cast_mut().cast(), iov_len: DATA.len() };
    // SAFETY: a `msghdr` of zeros is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.bytes().as_ptr().cast_mut().cast();
    message.msg_namelen = to.bytes().len() as u32;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    let entry = Entry {
        opcode: uring::OP_SENDMSG,
        fd: raw(&socket),
        address: (&raw const message).addr() as u64,
        length: 1,
        ..Entry::default()
    };
    uring::run(entry, polled).map(drop)
}
