//! Cuts an established flow of another process, so that the application sees a reset at once.
//!
//! Called by the daemon after a profile was tightened, for each socket that the kernel's flow iterator lists. The
//! egress hook already drops the flow's packets; a drop alone leaves the application hanging. The descriptor is
//! fetched with `pidfd_getfd`, so this works in any network namespace and needs no netlink.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, connect_unspec, getpeername, shutdown, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// How a flow was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Disconnected: TCP was reset, UDP has no peer any more.
    Reset,
    /// Could not be disconnected (another thread waits in it); both directions were shut.
    Shut,
    /// The process or its descriptor is gone, or is another flow or no socket now.
    Gone,
}

/// Cuts the flow to remote `port` of descriptor `fd` of process `tgid`.
///
/// # Errors
/// When the process can't be reached or the socket not be cut.
pub fn cut(tgid: u32, fd: u32, port: u32) -> io::Result<Cut> {
    let (Ok(pid), Ok(fd)) = (i32::try_from(tgid), i32::try_from(fd)) else { return Ok(Cut::Gone) };
    let Some(pid) = Pid::from_raw(pid) else { return Ok(Cut::Gone) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(Cut::Gone),
        pidfd => pidfd?,
    };
    let socket = match pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()) {
        Err(Errno::SRCH | Errno::BADF) => return Ok(Cut::Gone),
        socket => socket?,
    };
    // The number may have been closed and used again since the iterator saw it: what is there now may be granted.
    let internet = matches!(sockopt::socket_domain(&socket), Ok(AddressFamily::INET | AddressFamily::INET6));
    // A connection that is still being made has no peer to ask for.
    let peer = getpeername(&socket).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
    if !internet || peer.is_some_and(|peer| u32::from(peer.port()) != port) {
        return Ok(Cut::Gone);
    }
    // AF_UNSPEC disconnects: `tcp_disconnect` sends a reset and wakes waiters with ECONNRESET.
    match connect_unspec(&socket) {
        Ok(()) => Ok(Cut::Reset),
        Err(_) => match shutdown(&socket, Shutdown::Both) {
            Ok(()) => Ok(Cut::Shut),
            Err(Errno::NOTCONN) => Ok(Cut::Gone),
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_blocked_reader_sees_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"x").unwrap();
        let fd = stream.as_raw_fd() as u32;
        let port = u32::from(listener.local_addr().unwrap().port());
        stream.read_exact(&mut [0]).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let reader = std::thread::spawn(move || stream.read(&mut [0; 8]));
        // Whether the reader is blocked yet or not, it must end and not by its timeout.
        let how = cut(std::process::id(), fd, port).unwrap();
        assert!(matches!(how, Cut::Reset | Cut::Shut), "{how:?}");
        match reader.join().unwrap() {
            Ok(n) => assert_eq!(n, 0),
            // ECONNRESET, or EPIPE or ENOTCONN where the read began in the middle of the disconnection.
            Err(error) => {
                assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}")
            }
        }
        let error = peer.read(&mut [0; 8]).map_or_else(|error| error.kind(), |_| ErrorKind::UnexpectedEof);
        assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}");
    }

    #[test]
    fn a_connected_datagram_socket_loses_its_peer() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        let port = u32::from(peer.local_addr().unwrap().port());
        let cut = |port| cut(std::process::id(), socket.as_raw_fd() as u32, port).unwrap();
        assert_eq!(cut(port ^ 1), Cut::Gone, "another flow by now");
        assert!(socket.send(b"x").is_ok());
        assert_eq!(cut(port), Cut::Reset);
        assert!(socket.send(b"x").is_err());
    }

    #[test]
    fn what_is_gone_or_no_socket_is_left_alone() {
        assert_eq!(cut(u32::MAX, 1, 1).unwrap(), Cut::Gone);
        assert_eq!(cut(0, 1, 1).unwrap(), Cut::Gone);
        assert_eq!(cut(std::process::id(), 999_999, 1).unwrap(), Cut::Gone);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(cut(std::process::id(), file.as_raw_fd() as u32, 1).unwrap(), Cut::Gone);
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(cut(std::process::id(), ours.as_raw_fd() as u32, 1).unwrap(), Cut::Gone);
        assert!(theirs.write_all(b"x").is_ok());
    }
}
