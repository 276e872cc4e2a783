//! What really left: a sniffer behind the agent's interface, and a barrier that makes "nothing left" a fact.
//!
//! A packet can sit in a CPU's receive backlog when the attack has returned. So before counting, one marker frame is
//! sent from each CPU and waited for: each backlog is a queue, so all that was sent before the markers was seen.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{PATIENCE, readable};
use crate::netlink::index_of;
use crate::socket::{Name, Socket};

const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// IEEE 802 local experimental ethertype: the markers.
const ETH_P_MARKER: u16 = 0x88b5;

/// A packet that passed the sniffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Destination in the IP header.
    pub to: IpAddr,
    /// IP protocol number, behind any extension headers.
    pub protocol: u8,
    /// Destination port, where the protocol has one.
    pub port: u16,
    /// Source port, where the protocol has one.
    pub from_port: u16,
    /// TCP SYN, with or without ACK.
    pub syn: bool,
    /// Bytes behind the transport header.
    pub payload: usize,
    /// It has IPv4 options or IPv6 extension headers.
    pub options: bool,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { to, protocol, port, syn, payload, options, .. } = self;
        write!(f, "{to} protocol {protocol} port {port} syn {syn} payload {payload} options {options}")
    }
}

/// One interface's sniffer and the sender of its markers.
pub struct Wire {
    sniffer: Socket,
    marker: Socket,
    marker_to: Name,
    sequence: u64,
}

impl Wire {
    /// Sniffs `sniffed` (in the current namespace; the socket stays there) for what arrives.
    pub fn sniff(sniffed: &str) -> Result<Socket> {
        let sniffer = Socket::new(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
        sniffer.set_int(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
        sniffer.bind(&link_name(index_of(sniffed)?, ETH_P_ALL))?;
        Ok(sniffer)
    }

    /// Joins a sniffer to the interface (of the current namespace) from which the markers are sent.
    pub fn new(sniffer: Socket, sending: &str) -> Result<Self> {
        let marker = Socket::new(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
        let marker_to = link_name(index_of(sending)?, ETH_P_MARKER);
        Ok(Wire { sniffer, marker, marker_to, sequence: 0 })
    }

    /// Forgets what was seen until now.
    pub fn clear(&mut self) -> Result<()> {
        self.collect()?;
        self.dropped()?;
        Ok(())
    }

    /// What was seen since [`Wire::clear`] and carries something: a SYN, data, or any packet of a protocol other
    /// than TCP. Neighbour discovery, multicast reports and ICMP errors of the kernel do not count.
    pub fn packets(&mut self) -> Result<Vec<Packet>> {
        let packets = self.collect()?;
        match self.dropped()? {
            0 => Ok(packets),
            n => bail!("the sniffer lost {n} packets: the count would mean nothing"),
        }
    }

    /// Packets that the sniffer's queue refused since the last call (`PACKET_STATISTICS` resets itself).
    fn dropped(&self) -> Result<u32> {
        let mut stats = [0_u32; 2];
        let mut length = 8;
        // SAFETY: `stats` has `length` bytes of room.
        let result = unsafe {
            libc::getsockopt(
                self.sniffer.as_fd().as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("PACKET_STATISTICS");
        }
        Ok(stats[1])
    }

    fn collect(&mut self) -> Result<Vec<Packet>> {
        let mut waited = self.send_markers()?;
        let mut packets = Vec::new();
        let mut buffer = [0_u8; 65_536];
        let deadline = Instant::now() + PATIENCE;
        while !waited.is_empty() {
            if !readable(self.sniffer.as_fd().as_raw_fd(), Duration::from_millis(100))
                && Instant::now() > deadline
            {
                bail!("markers {waited:?} did not pass the wire");
            }
            while let Some((n, protocol, kind)) = self.receive(&mut buffer)? {
                let frame = &buffer[..n];
                match protocol {
                    // Seen again where it arrives: the loopback interface delivers to itself.
                    _ if kind == libc::PACKET_OUTGOING => {}
                    ETH_P_MARKER => {
                        if let Some((sequence, _)) = frame.split_first_chunk::<8>() {
                            waited.retain(|w| w.to_ne_bytes() != *sequence);
                        }
                    }
                    ETH_P_IP => packets.extend(parse_v4(frame)),
                    ETH_P_IPV6 => packets.extend(parse_v6(frame)),
                    _ => {}
                }
            }
        }
        Ok(packets)
    }

    fn send_markers(&mut self) -> Result<Vec<u64>> {
        let before = affinity()?;
        let mut sent = Vec::new();
        for cpu in 0..libc::CPU_SETSIZE as usize {
            // SAFETY: `cpu` is below CPU_SETSIZE; `before` is a valid set.
            if !unsafe { libc::CPU_ISSET(cpu, &before) } {
                continue;
            }
            // SAFETY: a `cpu_set_t` of zeros is the empty set; `cpu` is in range.
            let one = unsafe {
                let mut one: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut one);
                one
            };
            set_affinity(&one)?;
            self.sequence += 1;
            let mut frame = self.sequence.to_ne_bytes().to_vec();
            frame.resize(60, 0);
            self.marker.send_to(&frame, 0, &self.marker_to)?;
            sent.push(self.sequence);
        }
        set_affinity(&before)?;
        Ok(sent)
    }

    /// One frame: its length, ethertype and packet type.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, u16, u8)>> {
        // SAFETY: a `sockaddr_ll` of zeros is valid.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&from) as libc::socklen_t;
        // SAFETY: the pointers describe `buffer` and `from`.
        let n = unsafe {
            let from = (&raw mut from).cast();
            let fd = self.sniffer.as_fd().as_raw_fd();
            libc::recvfrom(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0, from, &raw mut length)
        };
        match usize::try_from(n) {
            Ok(n) => Ok(Some((n, u16::from_be(from.sll_protocol), from.sll_pkttype))),
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                e => Err(e).context("the sniffer"),
            },
        }
    }
}

fn affinity() -> Result<libc::cpu_set_t> {
    // SAFETY: `set` is written by the kernel up to its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) {
            0.. => Ok(set),
            _ => Err(io::Error::last_os_error()).context("sched_getaffinity"),
        }
    }
}

fn set_affinity(set: &libc::cpu_set_t) -> Result<()> {
    // SAFETY: the kernel reads `set` up to its size.
    match unsafe { libc::sched_setaffinity(0, size_of_val(set), set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("sched_setaffinity"),
    }
}

/// A `sockaddr_ll` with the broadcast address as destination.
pub fn link_name(index: u32, ethertype: u16) -> Name {
    let mut bytes = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(index.to_ne_bytes());
    bytes.extend([0, 0, 0, 6]);
    bytes.extend([0xff; 6]);
    bytes.extend([0, 0]);
    Name::raw(&bytes)
}

fn port(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

fn parse_v4(b: &[u8]) -> Option<Packet> {
    let to = Ipv4Addr::from(*b.get(16..)?.first_chunk::<4>()?);
    let header = usize::from(b[0] & 15) * 4;
    let total = usize::from(port(b, 2)).min(b.len());
    transport(IpAddr::V4(to), b[9], b.get(header..total)?, header > 20, to.is_multicast())
}

fn parse_v6(b: &[u8]) -> Option<Packet> {
    let to = Ipv6Addr::from(*b.get(24..)?.first_chunk::<16>()?);
    let end = (40 + usize::from(port(b, 4))).min(b.len());
    let (mut next, mut at, mut options) = (b[6], 40, false);
    // Hop-by-hop, routing, destination options; 44 is a fragment header of fixed size.
    while matches!(next, 0 | 43 | 44 | 60) && at + 8 <= end {
        options = true;
        let length = if next == 44 { 8 } else { (usize::from(b[at + 1]) + 1) * 8 };
        next = b[at];
        at += length;
    }
    transport(IpAddr::V6(to), next, b.get(at..end)?, options, to.is_multicast())
}

fn transport(to: IpAddr, protocol: u8, b: &[u8], options: bool, multicast: bool) -> Option<Packet> {
    let (mut syn, mut payload) = (false, b.len());
    match protocol {
        6 => {
            syn = b.get(13)? & 2 != 0;
            payload = b.len().saturating_sub(usize::from(b[12] >> 4) * 4);
            if !syn && payload == 0 {
                return None;
            }
        }
        // Only echo requests: the kernel answers by itself with errors, neighbour discovery and reports.
        1 if b.first() != Some(&8) => return None,
        58 if b.first() != Some(&128) => return None,
        _ if multicast => return None,
        17 | 136 => payload = b.len().saturating_sub(8),
        _ => {}
    }
    let ported = matches!(protocol, 6 | 17 | 33 | 132 | 136);
    let (from_port, port) = if ported { (port(b, 0), port(b, 2)) } else { (0, 0) };
    Some(Packet { to, protocol, port, from_port, syn, payload, options })
}
