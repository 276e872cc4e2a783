//! An agent that asks for names from where the resolver's loopback is not: on a device, by a device, in another network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::Failure;
use crate::asker::{PATIENCE, answer, question};
use crate::netlink::{Netlink, Route, index_of};
use crate::socket::{Control, Name, Socket};

/// Asks `server` for an address of `name`: what it answered, or the errno.
#[must_use]
pub fn ask(how: &str, device: &str, server: &str, name: &str) -> String {
    let Ok(server) = server.parse::<SocketAddr>() else { return "no address".to_owned() };
    let bytes = question(name, "A", None).unwrap_or_default();
    let asked = match how {
        "bound" => bound(device, server, &bytes),
        "bound-late" => bound_late(device, server, &bytes),
        "by-device" => by_device(device, server, &bytes),
        "elsewhere" => std::thread::spawn(move || elsewhere(server, &bytes))
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("it panicked"))),
        _ => return "unknown way".to_owned(),
    };
    answer(asked.map(|reply| (reply, server)))
}

fn received(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(PATIENCE / 8))?;
    let mut room = vec![0; 4_096];
    let length = socket.recv(&mut room)?;
    Ok(room[..length].to_vec())
}

fn bind_to(socket: &UdpSocket, device: &str) -> std::io::Result<()> {
    // SAFETY: pointer and length describe the device's name.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            device.len() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn bound(device: &str, server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    bind_to(&socket, device)?;
    socket.connect(server)?;
    socket.send(bytes)?;
    received(&socket)
}

/// The question is led to the resolver, and then the socket is bound. (From a loopback address nothing leaves by a device
/// that is none.)
fn bound_late(device: &str, server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("192.0.2.1:0")?;
    socket.connect(server)?;
    bind_to(&socket, device)?;
    socket.send(bytes)?;
    received(&socket)
}

/// The device is said with the datagram (`IP_PKTINFO`).
fn by_device(device: &str, server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let errno = |failure: Failure| std::io::Error::from_raw_os_error(failure.errno);
    let index = index_of(device).map_err(std::io::Error::other)?;
    let socket = Socket::udp4().map_err(errno)?;
    // `struct in_pktinfo`.
    let info = [&index.to_ne_bytes()[..], &[0; 8]].concat();
    let control = Control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
    socket.send_message(bytes, Some(&Name::from(server)), &[control]).map_err(errno)?;
    let mut room = vec![0; 4_096];
    let length = socket.receive(&mut room).map_err(errno)?;
    Ok(room[..length].to_vec())
}

/// In a network namespace of the agent's own, where the agent is the server too.
fn elsewhere(server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    // SAFETY: takes a flag; only this thread moves.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let made = (|| {
        let (link, lo) = (Netlink::open()?, index_of("lo")?);
        link.up(lo)?;
        link.route(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24, lo, Route::Local)
    })();
    made.map_err(|error| std::io::Error::other(format!("{error:#}")))?;
    let own = UdpSocket::bind(server)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.send(bytes)?;
    let mut question = [0; 512];
    own.set_read_timeout(Some(PATIENCE / 8))?;
    let (length, from) = own.recv_from(&mut question)?;
    question[2] |= 0x80;
    own.send_to(&question[..length], from)?;
    received(&socket)
}
