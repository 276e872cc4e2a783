//! N11 to N15: kinds of sockets that no address hook judges, and families beside IP.

use std::net::IpAddr;
use std::process::Command;

use agent_monitor_common::event::Hook;
use agent_monitor_tests::netlink::index_of;
use agent_monitor_tests::peer::{DCCP_SERVICE, DCCP_SERVICE_OPTION, MPTCP_SINK, SINK};
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::uring::{self, Entry};
use agent_monitor_tests::wire::link_name;
use agent_monitor_tests::world::{AGENT_LINK, DENIED4, DENIED6};
use agent_monitor_tests::{Attempt, Failure, Socket, Stage};

use crate::attack::{Attack, Off, On};
use crate::network_out::labelled_first;

const DATA: &[u8] = b"secret";

/// Refused where IP sockets are made.
const REFUSED: On = On::Refused(libc::EPROTONOSUPPORT, Hook::SockCreate);
/// Refused where all other sockets are made.
const REFUSED_FAMILY: On = On::RefusedByLsm(libc::EAFNOSUPPORT, Hook::LsmSocketCreate, "lsm/socket_create");

const fn leaves(name: &'static str, run: fn(&mut Stage) -> Attempt) -> Attack {
    Attack { name, run, off: Off::Leaves, on: REFUSED }
}
const fn leaves_by_family(name: &'static str, run: fn(&mut Stage) -> Attempt) -> Attack {
    Attack { name, run, off: Off::Leaves, on: REFUSED_FAMILY }
}

fn denied4() -> Name {
    Name::new(DENIED4, SINK)
}

fn connect_and_send(socket: &Socket, to: &Name) -> Attempt {
    socket.connect(to)?;
    socket.send(DATA).map(drop)
}

/// Families and protocols that Debian's modules do not load by themselves. Where there is no such module or no
/// `modprobe`, the attack finds the protocol absent.
fn load(module: &str) {
    let _ = Command::new("modprobe").args(["-q", module]).status();
}

pub fn attacks() -> Vec<Attack> {
    [transports(), echo(), raw(), families()].concat()
}

/// N11, N12: transports of IP beside TCP and UDP.
fn transports() -> Vec<Attack> {
    use libc::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_SCTP, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
    vec![
        leaves(
            "N11_sctp_connect",
            labelled_first!(connect_and_send(&Socket::new(AF_INET, SOCK_STREAM, IPPROTO_SCTP)?, &denied4())),
        ),
        leaves(
            "N11_sctp_implicit_connect",
            labelled_first!(
                Socket::new(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP)?.send_to(DATA, 0, &denied4()).map(drop)
            ),
        ),
        leaves(
            "N11_sctp_connectx",
            labelled_first!({
                const SCTP_SOCKOPT_CONNECTX: i32 = 110;
                let socket = Socket::new(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP)?;
                // The option's value is an association id: the wrapper takes it for a failure only below zero.
                socket.set(IPPROTO_SCTP, SCTP_SOCKOPT_CONNECTX, denied4().bytes())
            }),
        ),
        leaves(
            "N12_mptcp_connect",
            labelled_first!(connect_and_send(
                &Socket::new(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)?,
                &Name::new(DENIED4, MPTCP_SINK)
            )),
        ),
        leaves(
            "N12_mptcp6_connect",
            labelled_first!(connect_and_send(
                &Socket::new(AF_INET6, SOCK_STREAM, IPPROTO_MPTCP)?,
                &Name::new(DENIED6, MPTCP_SINK)
            )),
        ),
        leaves(
            "N12_udplite_sendto",
            labelled_first!(
                Socket::new(AF_INET, SOCK_DGRAM, libc::IPPROTO_UDPLITE)?
                    .send_to(DATA, 0, &denied4())
                    .map(drop)
            ),
        ),
        leaves(
            "N12_dccp_connect",
            labelled_first!({
                load("dccp_ipv4");
                let socket = Socket::new(AF_INET, libc::SOCK_DCCP, libc::IPPROTO_DCCP)?;
                socket.set(DCCP_SERVICE_OPTION.0, DCCP_SERVICE_OPTION.1, &DCCP_SERVICE)?;
                match socket.connect(&denied4()) {
                    // The request is on the wire; whether the peer's kernel has DCCP is not the point.
                    Err(f) if matches!(f.errno, libc::ECONNREFUSED | libc::EINPROGRESS) => Ok(()),
                    other => other,
                }
            }),
        ),
        leaves(
            "N12_l2tp_ip_sendto",
            labelled_first!({
                const IPPROTO_L2TP: i32 = 115;
                let IpAddr::V4(to) = DENIED4 else { unreachable!("an IPv4 address") };
                let mut name = (AF_INET as u16).to_ne_bytes().to_vec();
                name.extend([0, 0]);
                name.extend(to.octets());
                name.extend(5_u32.to_ne_bytes()); // connection id
                name.extend([0; 4]);
                Socket::new(AF_INET, SOCK_DGRAM, IPPROTO_L2TP)?.send_to(DATA, 0, &Name::raw(&name)).map(drop)
            }),
        ),
        leaves_by_family(
            "N12_smc_connect",
            labelled_first!(connect_and_send(&Socket::new(43, SOCK_STREAM, 0)?, &denied4())),
        ),
    ]
}

/// N15: `ping` sockets.
fn echo() -> Vec<Attack> {
    const REQUEST4: [u8; 16] = [8, 0, 0, 0, 0, 1, 0, 1, b's', b'e', b'c', b'r', b'e', b't', 0, 0];
    const REQUEST6: [u8; 16] = [128, 0, 0, 0, 0, 1, 0, 1, b's', b'e', b'c', b'r', b'e', b't', 0, 0];
    use libc::{AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, SOCK_DGRAM};
    vec![
        leaves(
            "N15_ping4_sendto",
            labelled_first!(
                Socket::new(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)?.send_to(&REQUEST4, 0, &denied4()).map(drop)
            ),
        ),
        leaves(
            "N15_ping6_sendto",
            labelled_first!(
                Socket::new(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6)?
                    .send_to(&REQUEST6, 0, &Name::new(DENIED6, SINK))
                    .map(drop)
            ),
        ),
        leaves(
            "N15_ping4_connect_send",
            labelled_first!({
                let socket = Socket::new(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)?;
                socket.connect(&denied4())?;
                socket.send(&REQUEST4).map(drop)
            }),
        ),
    ]
}

/// An IPv4 and UDP header with a payload, for sockets that take whole packets. `fragment`: where in the whole datagram
/// this one starts, in units of eight bytes.
pub fn packet_to_denied(fragment: u16) -> Vec<u8> {
    let (source, destination) = ([10, 9, 0, 1], [10, 9, 0, 4]);
    let udp_length = 8 + DATA.len() as u16;
    let mut b = vec![0x45, 0];
    b.extend((20 + udp_length).to_be_bytes());
    b.extend([0, 1]);
    b.extend(fragment.to_be_bytes());
    b.extend([64, 17, 0, 0]);
    b.extend(source);
    b.extend(destination);
    let sum: u32 = b.chunks_exact(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let folded = !(((sum >> 16) + sum) as u16);
    b[10..12].copy_from_slice(&folded.to_be_bytes());
    b.extend(9999_u16.to_be_bytes());
    b.extend(SINK.to_be_bytes());
    b.extend(udp_length.to_be_bytes());
    b.extend([0, 0]);
    b.extend(DATA);
    b
}

/// N14: raw sockets and AF_PACKET.
fn raw() -> Vec<Attack> {
    use libc::{AF_INET, AF_INET6, AF_PACKET, IPPROTO_RAW, SOCK_DGRAM, SOCK_RAW};
    const EXPERIMENT: i32 = 253;
    vec![
        leaves(
            "N14_raw4_sendto",
            labelled_first!(
                Socket::new(AF_INET, SOCK_RAW, EXPERIMENT)?
                    .send_to(DATA, 0, &Name::new(DENIED4, 0))
                    .map(drop)
            ),
        ),
        leaves(
            "N14_raw6_sendto",
            labelled_first!(
                Socket::new(AF_INET6, SOCK_RAW, EXPERIMENT)?
                    .send_to(DATA, 0, &Name::new(DENIED6, 0))
                    .map(drop)
            ),
        ),
        leaves(
            "N14_raw_own_header",
            labelled_first!(
                Socket::new(AF_INET, SOCK_RAW, IPPROTO_RAW)?
                    .send_to(&packet_to_denied(0), 0, &Name::new(DENIED4, 0))
                    .map(drop)
            ),
        ),
        leaves_by_family(
            "N14_packet_sendto",
            labelled_first!({
                let index =
                    index_of(AGENT_LINK).map_err(|_| Failure::new("find the interface", libc::ENODEV))?;
                let socket = Socket::new(AF_PACKET, SOCK_DGRAM, 0)?;
                socket.send_to(&packet_to_denied(0), 0, &link_name(index, 0x0800)).map(drop)
            }),
        ),
        Attack {
            name: "S1_uring_socket_raw",
            run: labelled_first!({
                let entry = Entry {
                    opcode: uring::OP_SOCKET,
                    fd: AF_INET,
                    offset: SOCK_RAW as u64,
                    length: EXPERIMENT as u32,
                    ..Entry::default()
                };
                match uring::run(entry, false) {
                    Err(f) if f.errno == libc::EINVAL => Err(Failure::absent("IORING_OP_SOCKET", f.errno)),
                    other => other.map(drop),
                }
            }),
            off: Off::Succeeds,
            on: REFUSED,
        },
    ]
}

/// N12, N13: families beside IP. Making the socket is the attack.
fn families() -> Vec<Attack> {
    macro_rules! family {
        ($name:literal, $family:expr, $kind:expr, $protocol:expr $(, $module:literal)?) => {
            Attack {
                name: $name,
                run: labelled_first!({
                    $(load($module);)?
                    Socket::new($family, $kind, $protocol).map(drop)
                }),
                off: Off::Succeeds,
                on: REFUSED_FAMILY,
            }
        };
    }
    vec![
        family!("N13_vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        family!("N12_netlink_route", libc::AF_NETLINK, libc::SOCK_RAW, 0),
        family!("N12_netlink_connector", libc::AF_NETLINK, libc::SOCK_DGRAM, 11),
        family!("N12_alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        family!("N12_key", libc::AF_KEY, libc::SOCK_RAW, 2),
        family!("N12_rds", libc::AF_RDS, libc::SOCK_SEQPACKET, 0, "rds"),
        family!("N12_tipc", libc::AF_TIPC, libc::SOCK_STREAM, 0, "tipc"),
        family!("N12_xdp", libc::AF_XDP, libc::SOCK_RAW, 0),
        family!("N12_kcm", 41, libc::SOCK_DGRAM, 0, "kcm"),
        family!("N12_qipcrtr", 42, libc::SOCK_DGRAM, 0),
        family!("N12_can", libc::AF_CAN, libc::SOCK_RAW, 1),
        family!("N12_bluetooth", libc::AF_BLUETOOTH, libc::SOCK_STREAM, 3),
        family!("N12_packet_ring", libc::AF_PACKET, libc::SOCK_RAW, 3),
    ]
}
