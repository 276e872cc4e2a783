//! Sockets as attacks need them: any family, any protocol, any address, every call's errno by step.
//!
//! Blocking with short time-outs (`SO_SNDTIMEO`, which bounds `connect` too): an operation whose packets are dropped
//! ends in `EINPROGRESS` or `EAGAIN` instead of hanging.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::attempt::Failure;

/// Milliseconds after which a blocked call gives up.
const PATIENCE_MS: i64 = 700;

/// A socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// A socket address of any family.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; 128],
    length: usize,
}

/// A control message: level, type, data.
pub struct Control<'a>(pub i32, pub i32, pub &'a [u8]);

impl Name {
    /// The name of an IP address and port.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        let mut bytes = Vec::with_capacity(28);
        match ip {
            IpAddr::V4(v4) => {
                bytes.extend((libc::AF_INET as u16).to_ne_bytes());
                bytes.extend(port.to_be_bytes());
                bytes.extend(v4.octets());
                bytes.extend([0; 8]);
            }
            IpAddr::V6(v6) => {
                bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
                bytes.extend(port.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(v6.octets());
                bytes.extend([0; 4]);
            }
        }
        Self::raw(&bytes)
    }

    /// Any bytes as an address; more than a `sockaddr_storage` holds are cut.
    pub fn raw(from: &[u8]) -> Self {
        let mut bytes = [0; 128];
        let length = from.len().min(bytes.len());
        bytes[..length].copy_from_slice(&from[..length]);
        Name { bytes, length }
    }

    /// `AF_UNSPEC`: disconnects.
    pub fn unspecified() -> Self {
        Self::raw(&[0; 16])
    }

    /// The same bytes under another family.
    pub fn with_family(mut self, family: u16) -> Self {
        self.bytes[..2].copy_from_slice(&family.to_ne_bytes());
        self
    }

    /// The bytes of the address.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl From<SocketAddr> for Name {
    fn from(a: SocketAddr) -> Self {
        Name::new(a.ip(), a.port())
    }
}

fn check(result: isize, step: &str) -> Result<usize, Failure> {
    usize::try_from(result).map_err(|_| Failure::last(step))
}

impl Socket {
    /// `socket(family, kind, protocol)`, with time-outs where the family knows them.
    pub fn new(family: i32, kind: i32, protocol: i32) -> Result<Self, Failure> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
        check(fd as isize, "socket")?;
        // SAFETY: `fd` is new and ours.
        let socket = Socket(unsafe { OwnedFd::from_raw_fd(fd) });
        let patience = [PATIENCE_MS / 1000, PATIENCE_MS % 1000 * 1000].map(i64::to_ne_bytes).concat();
        let _ = socket.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &patience);
        let _ = socket.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience);
        Ok(socket)
    }

    /// TCP over IPv4.
    pub fn tcp4() -> Result<Self, Failure> {
        Self::new(libc::AF_INET, libc::SOCK_STREAM, 0)
    }
    /// TCP over IPv6.
    pub fn tcp6() -> Result<Self, Failure> {
        Self::new(libc::AF_INET6, libc::SOCK_STREAM, 0)
    }
    /// UDP over IPv4.
    pub fn udp4() -> Result<Self, Failure> {
        Self::new(libc::AF_INET, libc::SOCK_DGRAM, 0)
    }
    /// UDP over IPv6.
    pub fn udp6() -> Result<Self, Failure> {
        Self::new(libc::AF_INET6, libc::SOCK_DGRAM, 0)
    }

    /// A connected pair of `AF_UNIX` stream sockets.
    pub fn pair() -> Result<(Self, Self), Failure> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for two descriptors.
        let result = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr()) };
        check(result as isize, "socketpair")?;
        // SAFETY: both descriptors are new and ours.
        Ok(unsafe { (Socket(OwnedFd::from_raw_fd(fds[0])), Socket(OwnedFd::from_raw_fd(fds[1]))) })
    }

    /// Takes a descriptor that is a socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Socket(fd)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// `setsockopt`.
    pub fn set(&self, level: i32, option: i32, value: &[u8]) -> Result<(), Failure> {
        // SAFETY: pointer and length describe `value`.
        let result = unsafe {
            libc::setsockopt(self.fd(), level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
        };
        check(result as isize, "setsockopt").map(drop)
    }

    /// `setsockopt` of an `int`.
    pub fn set_int(&self, level: i32, option: i32, value: i32) -> Result<(), Failure> {
        self.set(level, option, &value.to_ne_bytes())
    }

    /// `connect`; an unanswered one ends with `EINPROGRESS`.
    pub fn connect(&self, to: &Name) -> Result<(), Failure> {
        let bytes = to.bytes();
        // SAFETY: pointer and length describe `bytes`.
        let result =
            unsafe { libc::connect(self.fd(), bytes.as_ptr().cast(), bytes.len() as libc::socklen_t) };
        check(result as isize, "connect").map(drop)
    }

    /// `bind`.
    pub fn bind(&self, at: &Name) -> Result<(), Failure> {
        let bytes = at.bytes();
        // SAFETY: pointer and length describe `bytes`.
        let result = unsafe { libc::bind(self.fd(), bytes.as_ptr().cast(), bytes.len() as libc::socklen_t) };
        check(result as isize, "bind").map(drop)
    }

    /// `listen`.
    pub fn listen(&self) -> Result<(), Failure> {
        // The local servers accept nobody: their queues hold the connections of a whole run.
        const QUEUE: i32 = 1024;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(self.fd(), QUEUE) } as isize, "listen").map(drop)
    }

    /// `accept`, within the socket's time-out repeated `tries` times.
    pub fn accept(&self, tries: u32) -> Result<Self, Failure> {
        for _ in 0..tries {
            // SAFETY: null pointers ask for no address.
            let fd = unsafe {
                libc::accept4(self.fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
            };
            if fd >= 0 {
                // SAFETY: `fd` is new and ours.
                return Ok(Socket(unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            if io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN) {
                break;
            }
        }
        Err(Failure::last("accept"))
    }

    /// The port that the socket is bound to.
    pub fn local_port(&self) -> Result<u16, Failure> {
        let mut bytes = [0_u8; 128];
        let mut length = bytes.len() as libc::socklen_t;
        // SAFETY: `bytes` has `length` bytes of room.
        let result = unsafe { libc::getsockname(self.fd(), bytes.as_mut_ptr().cast(), &raw mut length) };
        check(result as isize, "getsockname")?;
        Ok(u16::from_be_bytes([bytes[2], bytes[3]]))
    }

    /// `send` on a connected socket.
    pub fn send(&self, data: &[u8]) -> Result<usize, Failure> {
        // SAFETY: pointer and length describe `data`.
        check(unsafe { libc::send(self.fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) }, "send")
    }

    /// `write`.
    pub fn write(&self, data: &[u8]) -> Result<usize, Failure> {
        // SAFETY: pointer and length describe `data`.
        check(unsafe { libc::write(self.fd(), data.as_ptr().cast(), data.len()) }, "write")
    }

    /// `sendto` with flags.
    pub fn send_to(&self, data: &[u8], flags: i32, to: &Name) -> Result<usize, Failure> {
        let name = to.bytes();
        // SAFETY: pointers and lengths describe `data` and `name`.
        let result = unsafe {
            let (data, room) = (data.as_ptr().cast(), data.len());
            let flags = flags | libc::MSG_NOSIGNAL;
            libc::sendto(self.fd(), data, room, flags, name.as_ptr().cast(), name.len() as libc::socklen_t)
        };
        check(result, "sendto")
    }

    /// `sendmsg` to `to`, with control messages.
    pub fn send_message(
        &self,
        data: &[u8],
        to: Option<&Name>,
        control: &[Control],
    ) -> Result<usize, Failure> {
        let control = encode_control(control);
        let mut iov = iovec(data);
        let message = header(to, &mut iov, &control);
        // SAFETY: the message's pointers outlive the call; the kernel only reads through them.
        check(unsafe { libc::sendmsg(self.fd(), &raw const message, libc::MSG_NOSIGNAL) }, "sendmsg")
    }

    /// `sendmmsg` of one datagram to each name; how many went.
    pub fn send_messages(&self, data: &[u8], to: &[Name]) -> Result<usize, Failure> {
        let mut iov = iovec(data);
        let mut messages: Vec<libc::mmsghdr> = to
            .iter()
            .map(|name| libc::mmsghdr { msg_hdr: header(Some(name), &mut iov, &[]), msg_len: 0 })
            .collect();
        // SAFETY: every message's pointers outlive the call.
        let sent = unsafe { libc::sendmmsg(self.fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
        check(sent as isize, "sendmmsg")
    }

    /// `recv`; 0 is the end of the stream.
    pub fn receive(&self, into: &mut [u8]) -> Result<usize, Failure> {
        // SAFETY: pointer and length describe `into`.
        check(unsafe { libc::recv(self.fd(), into.as_mut_ptr().cast(), into.len(), 0) }, "recv")
    }

    /// Passes a descriptor through this `AF_UNIX` socket.
    pub fn pass(&self, fd: BorrowedFd<'_>) -> Result<(), Failure> {
        let control = [Control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &fd.as_raw_fd().to_ne_bytes())];
        self.send_message(b"f", None, &control).map(drop)
    }

    /// Receives a descriptor. Where an LSM refuses it, the kernel delivers the message without one: `EACCES` here.
    pub fn take(&self) -> Result<OwnedFd, Failure> {
        let mut byte = [0_u8; 1];
        let mut room = [0_u64; 8];
        let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        // SAFETY: a `msghdr` of zeros is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = room.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&room) as _;
        // SAFETY: the message's pointers outlive the call.
        check(unsafe { libc::recvmsg(self.fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) }, "recvmsg")?;
        // SAFETY: the kernel filled `room` up to `msg_controllen`; CMSG_FIRSTHDR checks the length.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
                return Err(Failure::new("receive the descriptor", libc::EACCES));
            }
            Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()))
        }
    }

    /// `splice` of `data` from a pipe into the socket: no `sendmsg` call is made.
    pub fn splice(&self, data: &[u8]) -> Result<usize, Failure> {
        use std::io::Write;
        let (reader, mut writer) = io::pipe().map_err(|e| Failure::of("pipe", &e))?;
        writer.write_all(data).map_err(|e| Failure::of("pipe", &e))?;
        // SAFETY: null offsets are what pipes and sockets ask for.
        let moved = unsafe {
            libc::splice(
                reader.as_raw_fd(),
                std::ptr::null_mut(),
                self.fd(),
                std::ptr::null_mut(),
                data.len(),
                0,
            )
        };
        check(moved, "splice")
    }

    fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn iovec(data: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
}

fn header(to: Option<&Name>, iov: &mut libc::iovec, control: &[u64]) -> libc::msghdr {
    // SAFETY: a `msghdr` of zeros is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(name) = to {
        message.msg_name = name.bytes().as_ptr().cast_mut().cast();
        message.msg_namelen = name.bytes().len() as libc::socklen_t;
    }
    message.msg_iov = iov;
    message.msg_iovlen = 1;
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = size_of_val(control) as _;
    }
    message
}

/// Control messages as `cmsg(3)` lays them out, in words so that they are aligned.
fn encode_control(messages: &[Control]) -> Vec<u64> {
    let mut out = Vec::new();
    for Control(level, kind, data) in messages {
        let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        out.extend(
            bytes
                .chunks_exact(8)
                .map(|c| u64::from_ne_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])),
        );
    }
    out
}
