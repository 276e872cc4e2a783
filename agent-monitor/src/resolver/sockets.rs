//! The resolver's ports: four in a row, UDP and TCP, on both loopbacks.
//!
//! A port says which of its servers an agent's socket meant to ask.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use agent_monitor_common::name::{Resolver, SERVERS_OF_SOCKET};

/// Where a search for free ports begins, below the range that the kernel gives to callers.
const FIRST: u16 = 15_353;
/// How many places are tried.
const TRIES: u16 = 2_000;

/// Bound sockets.
pub struct Bound {
    pub resolver: Resolver,
    /// The kernel's cookie of their network namespace.
    pub network: u64,
    pub datagrams: Vec<UdpSocket>,
    pub listeners: Vec<TcpListener>,
}

/// Binds at `before`, where an earlier resolver listened (0: nowhere), or at the first place that is free.
///
/// # Errors
/// When no place is free, or there is no loopback.
pub fn bind(before: u16) -> io::Result<Bound> {
    let mut last = io::Error::other("no ports are left");
    let places = (0..TRIES).map(|n| FIRST + n * SERVERS_OF_SOCKET as u16);
    for port in (before != 0).then_some(before).into_iter().chain(places) {
        match bind_at(port) {
            Ok(bound) => return Ok(bound),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn bind_at(port: u16) -> io::Result<Bound> {
    let mut bound = Bound {
        resolver: Resolver { port, v4: true, v6: true },
        network: 0,
        datagrams: Vec::new(),
        listeners: Vec::new(),
    };
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        for slot in 0..SERVERS_OF_SOCKET as u16 {
            let Some(port) = port.checked_add(slot) else {
                return Err(io::ErrorKind::AddrInUse.into());
            };
            let at = SocketAddr::new(ip, port);
            let pair = UdpSocket::bind(at).and_then(|udp| Ok((udp, TcpListener::bind(at)?)));
            let (udp, tcp) = match pair {
                Ok(pair) => pair,
                // A host without IPv6: servers of that family are not reached, and neither are we.
                Err(error) if ip.is_ipv6() && error.kind() == io::ErrorKind::AddrNotAvailable => {
                    bound.resolver.v6 = false;
                    return Ok(bound);
                }
                Err(error) if ip.is_ipv6() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    bound.resolver.v6 = false;
                    return Ok(bound);
                }
                Err(error) => return Err(error),
            };
            bound.network = network_of(&udp)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            bound.datagrams.push(udp);
            bound.listeners.push(tcp);
        }
    }
    Ok(bound)
}

/// The cookie of a socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
fn network_of(socket: &UdpSocket) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to values of ours, and the length is that of the first.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
