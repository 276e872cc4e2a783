//! Who is at the other end of a control connection, as the kernel tells.
//!
//! Used by `control::server`. Two witnesses: `SO_PEERCRED` is whoever connected; `SCM_CREDENTIALS`, which the kernel
//! stamps on every message, is whoever wrote these bytes, so an inherited or passed descriptor does not lend its
//! opener's identity. A sender with `CAP_SYS_ADMIN` may name another process in the second, which is why both are
//! asked and why a connection carries one request only (unix(7), `scm_check_creds`). Both name a process by its number,
//! and a process that ends loses its label before its bytes are read: [`lives`] must hold after the label was asked for.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A process, its user and its group, in the daemon's namespaces; pid 0: a process that this namespace can't see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

impl From<libc::ucred> for Peer {
    fn from(cred: libc::ucred) -> Self {
        Peer { pid: u32::try_from(cred.pid).unwrap_or(0), uid: cred.uid, gid: cred.gid }
    }
}

/// Whoever connected.
///
/// # Errors
/// When the socket is not a connected Unix socket.
pub fn connected(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` is the size of `cred`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut length,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(cred.into()) }
}

/// Room for one credentials message and for descriptors that a client sends along: they are closed, see below.
const CONTROL_BYTES: usize = 256;

/// Control messages want this alignment.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL_BYTES]);

/// Reads bytes and who wrote them. The kernel never joins bytes of different senders in one read. 0 bytes: the end.
///
/// The socket must have `SO_PASSCRED`; accepted sockets have it from their listener.
///
/// # Errors
/// What `recvmsg` returns; `InvalidData` for bytes without credentials.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<Peer>)> {
    let mut control = Control([const { MaybeUninit::uninit() }; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a value of `msghdr`: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the message points at live locals of the stated lengths. CLOEXEC: descriptors that a client slips in
    // must not reach a child.
    let read = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT)
    };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let mut peer = None;
    // SAFETY: `message` is as `recvmsg` left it; the macros stay inside `msg_control`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the kernel wrote a whole header here, and its data behind it.
        unsafe {
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    peer = Some(libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned().into());
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => close_all(header),
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if read > 0 && peer.is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message carries no credentials"));
    }
    Ok((read, peer))
}

/// Closes descriptors that a client sent: a daemon that kept them would run out.
///
/// # Safety
/// `header` is a whole `SCM_RIGHTS` message that `recvmsg` has written.
unsafe fn close_all(header: *const libc::cmsghdr) {
    // SAFETY: the caller's promise; `cmsg_len` counts the header and the descriptors behind it.
    unsafe {
        let bytes = (*header).cmsg_len - (libc::CMSG_DATA(header) as usize - header as usize);
        for n in 0..bytes / size_of::<libc::c_int>() {
            libc::close(libc::CMSG_DATA(header).cast::<libc::c_int>().add(n).read_unaligned());
        }
    }
}

/// Whether a user may use the control socket: root, or a member of `group`.
#[must_use]
pub fn permitted(peer: Peer, group: Option<u32>) -> bool {
    peer.uid == 0 || group.is_some_and(|group| peer.gid == group || supplementary(peer.pid).contains(&group))
}

/// Supplementary groups of a process (proc(5), `Groups` of `status`).
fn supplementary(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// Whether a process lives and is not about to end.
///
/// The kernel marks a task as exiting (`exit_signals` in `do_exit`) before the programs drop its label, so a process
/// that lives after it was found without a label had none.
#[must_use]
pub fn lives(pid: u32) -> bool {
    /// `PF_EXITING` (include/linux/sched.h), in field 9 of `stat` (proc(5)).
    const EXITING: u64 = 0x4;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `comm`, the second field, may hold anything.
    let flags = stat.iter().rposition(|&byte| byte == b')').and_then(|end| {
        std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()
    });
    flags.is_some_and(|flags| flags & EXITING == 0)
}

const _: () = assert!(offset_of!(Control, 0) == 0 && align_of::<Control>() >= align_of::<libc::cmsghdr>());

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::set_socket_passcred;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn both_witnesses_name_this_process() {
        let (mut client, server) = UnixStream::pair().unwrap();
        set_socket_passcred(&server, true).unwrap();
        client.write_all(b"hello").unwrap();
        let mut buffer = [0; 16];
        let (read, sender) = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"hello");
        let me = std::process::id();
        assert_eq!(sender.unwrap().pid, me);
        assert_eq!(connected(server.as_fd()).unwrap().pid, me);
    }

    #[test]
    fn another_process_that_inherited_the_socket_is_named() {
        let (client, server) = UnixStream::pair().unwrap();
        set_socket_passcred(&server, true).unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo request"])
            .stdout(std::os::fd::OwnedFd::from(client))
            .spawn()
            .unwrap();
        child.wait().unwrap();
        let (_, sender) = receive(server.as_fd(), &mut [0; 16]).unwrap();
        assert_eq!(sender.unwrap().pid, child.id());
        assert_eq!(connected(server.as_fd()).unwrap().pid, std::process::id());
    }

    #[test]
    fn a_process_lives_until_it_exits_whether_it_was_waited_for_or_not() {
        assert!(lives(std::process::id()));
        assert!(!lives(u32::MAX));
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(lives(child.id()));
        drop(child.stdin.take());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while lives(child.id()) {
            assert!(std::time::Instant::now() < deadline, "a child that nobody waited for seems to live");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!lives(child.id()));
    }

    #[test]
    fn root_and_the_group_are_permitted() {
        let peer = |uid, gid| Peer { pid: 0, uid, gid };
        assert!(permitted(peer(0, 5), None));
        assert!(!permitted(peer(1000, 5), None));
        assert!(permitted(peer(1000, 5), Some(5)));
        assert!(!permitted(peer(1000, 6), Some(5)));
    }
}
