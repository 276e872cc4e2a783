//! One io_uring operation at a time: `io_uring_setup`, one entry, one completion.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::attempt::Failure;

/// `enum io_uring_op`.
pub const OP_SENDMSG: u8 = 9;
pub const OP_CONNECT: u8 = 16;
pub const OP_SEND: u8 = 26;
pub const OP_SOCKET: u8 = 45;

const SETUP_SQPOLL: u32 = 1 << 1;
const NEED_WAKEUP: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;

/// `struct io_uring_params`, with its two offset structs as words.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    /// head, tail, ring_mask, ring_entries, flags, dropped, array, …
    sq: [u32; 10],
    /// head, tail, ring_mask, ring_entries, overflow, cqes, …
    cq: [u32; 10],
}

/// `struct io_uring_sqe`, the fields that these operations use.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub opcode: u8,
    pub flags: u8,
    pub priority: u16,
    pub fd: i32,
    /// `off` or `addr2`.
    pub offset: u64,
    pub address: u64,
    pub length: u32,
    pub operation_flags: u32,
    pub user_data: u64,
    pub buffer: u16,
    pub personality: u16,
    /// `addr_len` in its low half.
    pub address_length: u32,
    pub rest: [u64; 2],
}
const _: () = assert!(size_of::<Entry>() == 64 && size_of::<Params>() == 120);

struct Mapping {
    at: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(fd: &OwnedFd, length: usize, offset: i64) -> Result<Self, Failure> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new shared mapping of the ring.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), length, access, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            Err(Failure::last("mmap"))
        } else {
            Ok(Mapping { at: at.cast(), length })
        }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        assert!(offset as usize + 4 <= self.length);
        // SAFETY: in bounds and 4-aligned (the kernel's ring offsets are), alive as long as `self`.
        unsafe { &*self.at.add(offset as usize).cast::<AtomicU32>() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// Submits `entry` and waits for its result. `polled`: the kernel's own thread picks it up (SQPOLL).
/// What the entry points to must live until this returns.
pub fn run(entry: Entry, polled: bool) -> Result<i32, Failure> {
    let flags = if polled { SETUP_SQPOLL } else { 0 };
    let mut params = Params { flags, sq_thread_idle: 200, ..Params::default() };
    // SAFETY: `params` is read and written by the call only.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4_u32, &raw mut params) };
    if fd < 0 {
        return Err(Failure::last("io_uring_setup"));
    }
    // SAFETY: a new descriptor of ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let submissions = Mapping::new(&fd, params.sq[6] as usize + params.sq_entries as usize * 4, 0)?;
    let completions = Mapping::new(&fd, params.cq[5] as usize + params.cq_entries as usize * 16, 0x800_0000)?;
    let entries = Mapping::new(&fd, params.sq_entries as usize * 64, 0x1000_0000)?;
    // SAFETY: the mapping holds at least one entry.
    unsafe { entries.at.cast::<Entry>().write_volatile(entry) };
    submissions.word(params.sq[6]).store(0, Ordering::Relaxed);
    submissions.word(params.sq[1]).store(1, Ordering::Release);
    let enter = |count: u32, flags: u32| {
        // SAFETY: no pointers are passed.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd.as_raw_fd(),
                count,
                0_u32,
                flags,
                ptr::null::<u8>(),
                0_usize,
            )
        }
    };
    if !polled && enter(1, 0) < 0 {
        return Err(Failure::last("io_uring_enter"));
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while completions.word(params.cq[1]).load(Ordering::Acquire) == 0 {
        if Instant::now() > deadline {
            return Err(Failure::new("io_uring", libc::EINPROGRESS));
        }
        if polled && submissions.word(params.sq[4]).load(Ordering::Acquire) & NEED_WAKEUP != 0 {
            enter(0, ENTER_SQ_WAKEUP);
        }
        std::thread::yield_now();
    }
    let result = completions.word(params.cq[5] + 8).load(Ordering::Acquire) as i32;
    if result < 0 { Err(Failure::of("io_uring", &io::Error::from_raw_os_error(-result))) } else { Ok(result) }
}
