//! N16: a granted destination in the call, another one on the wire.
//!
//! Loose source routing of IPv4 and the routing headers of IPv6 change the destination after every address hook. Set
//! by `setsockopt` a hook could refuse them; given by a control message only the packet itself tells.

use std::net::IpAddr;

use agent_monitor_common::event::Reason;
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::{Control, Name};
use agent_monitor_tests::world::{DENIED4, DENIED6, GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Failure, Socket, Stage};

use crate::attack::{Attack, Off, On};
use crate::network_out::labelled_first;

const DATA: &[u8] = b"secret";
/// Seen by the packet alone.
const DROPPED: On = On::Dropped(Reason::IpOptions);
const IPV6_RTHDR: i32 = 57;

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Loose source and record route (RFC 791) with the real destination as its last hop.
///
/// The kernel sends to the first hop of the list and puts the address of the call behind it.
fn loose_route() -> Vec<u8> {
    let mut option = vec![131, 7, 4];
    option.extend(octets(DENIED4));
    option.push(0);
    option
}

/// Routing header type 2 (RFC 6275): one address, which the kernel makes the destination.
fn routing_type2() -> Vec<u8> {
    let mut header = vec![0, 2, 2, 1, 0, 0, 0, 0];
    header.extend(octets(DENIED6));
    header
}

/// Segment routing header (RFC 8754) of two segments.
fn segment_routing() -> Vec<u8> {
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend(octets(GRANTED6));
    header.extend(octets(DENIED6));
    header
}

fn granted4() -> Name {
    Name::new(GRANTED4, SINK)
}
fn granted6() -> Name {
    Name::new(GRANTED6, SINK)
}

fn udp4_with_option() -> Attempt {
    let socket = Socket::udp4()?;
    socket.set(libc::IPPROTO_IP, libc::IP_OPTIONS, &loose_route())?;
    socket.send_to(DATA, 0, &granted4()).map(drop)
}

fn udp6_with_header(header: &[u8]) -> Attempt {
    let socket = Socket::udp6()?;
    socket.set(libc::IPPROTO_IPV6, IPV6_RTHDR, header)?;
    socket.send_to(DATA, 0, &granted6()).map(drop)
}

fn by_message(socket: Socket, level: i32, kind: i32, header: &[u8], to: &Name) -> Attempt {
    socket.send_message(DATA, Some(to), &[Control(level, kind, header)]).map(drop)
}

/// A kernel without `CONFIG_IPV6_MIP6` does not take routing headers of type 2.
fn without_mobile_ipv6(failure: Failure) -> Failure {
    if failure.errno == libc::EINVAL {
        Failure::absent("routing header type 2", failure.errno)
    } else {
        failure
    }
}

pub fn attacks() -> Vec<Attack> {
    let leaves = |name, run: fn(&mut Stage) -> Attempt| Attack { name, run, off: Off::Leaves, on: DROPPED };
    vec![
        leaves("N16_lsrr_by_option_udp", labelled_first!(udp4_with_option())),
        Attack {
            name: "N16_lsrr_by_option_tcp",
            run: labelled_first!({
                let socket = Socket::tcp4()?;
                socket.set(libc::IPPROTO_IP, libc::IP_OPTIONS, &loose_route())?;
                match socket.connect(&granted4()) {
                    // The SYN is on the wire; whether its answer finds back is not the point.
                    Err(f) if f.errno == libc::EINPROGRESS => Ok(()),
                    other => other,
                }
            }),
            off: Off::Leaves,
            on: DROPPED,
        },
        leaves(
            "N16_lsrr_by_message",
            labelled_first!(by_message(
                Socket::udp4()?,
                libc::IPPROTO_IP,
                libc::IP_RETOPTS,
                &loose_route(),
                &granted4()
            )),
        ),
        leaves(
            "N16_routing_type2_by_option",
            labelled_first!(udp6_with_header(&routing_type2()).map_err(without_mobile_ipv6)),
        ),
        leaves("N16_segment_routing_by_option", labelled_first!(udp6_with_header(&segment_routing()))),
        leaves(
            "N16_routing_type2_by_message",
            labelled_first!(
                by_message(Socket::udp6()?, libc::IPPROTO_IPV6, IPV6_RTHDR, &routing_type2(), &granted6())
                    .map_err(without_mobile_ipv6)
            ),
        ),
        Attack {
            name: "N16_segment_routing_by_message",
            run: labelled_first!(by_message(
                Socket::udp6()?,
                libc::IPPROTO_IPV6,
                IPV6_RTHDR,
                &segment_routing(),
                &granted6()
            )),
            off: Off::RefusedByKernel(&[libc::EINVAL]),
            on: On::RefusedByKernel,
        },
    ]
}
