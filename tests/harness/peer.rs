//! The other side of the wire: a process in its own network namespace that accepts what the attacks send.

use std::net::{IpAddr, Ipv6Addr};
use std::thread;

use crate::attempt::{Attempt, Failure};
use crate::child::Stage;
use crate::socket::{Name, Socket};

/// Accepts TCP, UDP, UDP-Lite, SCTP, DCCP and discards; TCP Fast Open is on.
pub const SINK: u16 = 7000;
/// TCP and UDP: sends back what it gets.
pub const ECHO: u16 = 7001;
/// TCP: sends without end.
pub const SOURCE: u16 = 7002;
/// MPTCP: discards.
pub const MPTCP_SINK: u16 = 7003;

const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The service code that DCCP clients and servers must share.
pub const DCCP_SERVICE: [u8; 4] = 42_u32.to_be_bytes();
/// `SOL_DCCP`, `DCCP_SOCKOPT_SERVICE`.
pub const DCCP_SERVICE_OPTION: (i32, i32) = (269, 2);
/// Fast Open queue of the sink.
const FASTOPEN_QUEUE: i32 = 16;

/// Serves until the process is killed. Pauses once, when every port is open.
pub fn serve(stage: &mut Stage) -> Attempt {
    // SAFETY: no pointers. The peer lives as long as the test process.
    unsafe { libc::alarm(0) };
    let sink = listener(libc::SOCK_STREAM, 0, SINK)?;
    sink.set_int(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, FASTOPEN_QUEUE)?;
    let mut threads = vec![thread::spawn(move || accept_all(&sink, discard))];
    let echo = listener(libc::SOCK_STREAM, 0, ECHO)?;
    threads.push(thread::spawn(move || accept_all(&echo, send_back)));
    let source = listener(libc::SOCK_STREAM, 0, SOURCE)?;
    threads.push(thread::spawn(move || accept_all(&source, send_endlessly)));

    let udp_sink = Socket::udp6()?;
    udp_sink.bind(&Name::new(ANY, SINK))?;
    threads.push(thread::spawn(move || discard(&udp_sink)));
    let udp_echo =
        std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO)).map_err(|e| Failure::of("bind", &e))?;
    threads.push(thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = udp_echo.recv_from(&mut buffer) {
            let _ = udp_echo.send_to(&buffer[..n], from);
        }
    }));

    // What a kernel does not have, the attack's twin finds out by itself.
    for (kind, protocol, port) in [
        (libc::SOCK_STREAM, libc::IPPROTO_SCTP, SINK),
        (libc::SOCK_DCCP, libc::IPPROTO_DCCP, SINK),
        (libc::SOCK_STREAM, libc::IPPROTO_MPTCP, MPTCP_SINK),
    ] {
        if let Ok(socket) = listener(kind, protocol, port) {
            threads.push(thread::spawn(move || accept_all(&socket, discard)));
        }
    }
    let udplite = Socket::new(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)
        .and_then(|s| s.bind(&Name::new(ANY, SINK)).map(|()| s));
    if let Ok(socket) = udplite {
        threads.push(thread::spawn(move || discard(&socket)));
    }
    stage.pause()?;
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn listener(kind: i32, protocol: i32, port: u16) -> Result<Socket, Failure> {
    let socket = Socket::new(libc::AF_INET6, kind, protocol)?;
    socket.set_int(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if protocol == libc::IPPROTO_DCCP {
        socket.set(DCCP_SERVICE_OPTION.0, DCCP_SERVICE_OPTION.1, &DCCP_SERVICE)?;
    }
    socket.bind(&Name::new(ANY, port))?;
    socket.listen()?;
    Ok(socket)
}

fn accept_all(socket: &Socket, serve: fn(&Socket)) {
    loop {
        if let Ok(connection) = socket.accept(u32::MAX) {
            thread::spawn(move || serve(&connection));
        }
    }
}

/// Reads until the end; a time-out is not the end.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match socket.receive(buffer) {
            Ok(0) => return None,
            Ok(n) => return Some(n),
            Err(e) if e.errno == libc::EAGAIN => {}
            Err(_) => return None,
        }
    }
}

fn discard(socket: &Socket) {
    let mut buffer = [0; 65_536];
    while receive(socket, &mut buffer).is_some() {}
}

fn send_back(socket: &Socket) {
    let mut buffer = [0; 65_536];
    while let Some(n) = receive(socket, &mut buffer) {
        if socket.send(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn send_endlessly(socket: &Socket) {
    let data = [b'd'; 1024];
    loop {
        match socket.send(&data) {
            // About 1 MB/s: enough to see a flow stop, little enough for the sniffer's queue in a slow guest.
            Ok(_) => thread::sleep(std::time::Duration::from_millis(1)),
            Err(e) if e.errno == libc::EAGAIN => {}
            Err(_) => return,
        }
    }
}
