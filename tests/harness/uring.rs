//! io_uring, one operation at a time: one entry, one completion.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::attempt::Failure;

/// `enum io_uring_op`.
pub const OP_SENDMSG: u8 = 9;
pub const OP_CONNECT: u8 = 16;
pub const OP_OPENAT: u8 = 18;
pub const OP_SEND: u8 = 26;
pub const OP_OPENAT2: u8 = 28;
pub const OP_UNLINKAT: u8 = 36;
pub const OP_SETXATTR: u8 = 42;
pub const OP_SOCKET: u8 = 45;
pub const OP_COMMAND: u8 = 46;

/// `IOSQE_FIXED_FILE`: `fd` is an index among the registered files.
pub const FIXED_FILE: u8 = 1;

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

/// A ring of this process.
pub struct Ring {
    fd: OwnedFd,
    params: Params,
    submissions: Mapping,
    completions: Mapping,
    entries: Mapping,
    done: u32,
}

impl Ring {
    /// Makes a ring. `polled`: the kernel's own thread picks entries up (SQPOLL).
    pub fn new(polled: bool) -> Result<Self, Failure> {
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
        let completions =
            Mapping::new(&fd, params.cq[5] as usize + params.cq_entries as usize * 16, 0x800_0000)?;
        let entries = Mapping::new(&fd, params.sq_entries as usize * 64, 0x1000_0000)?;
        Ok(Ring { fd, params, submissions, completions, entries, done: 0 })
    }

    /// Gives the ring a file of its own, which [`FIXED_FILE`] entries name by index 0.
    pub fn register(&self, file: BorrowedFd<'_>) -> Result<(), Failure> {
        const REGISTER_FILES: u32 = 2;
        let files = [file.as_raw_fd()];
        // SAFETY: the kernel reads one descriptor.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.fd.as_raw_fd(),
                REGISTER_FILES,
                files.as_ptr(),
                1_u32,
            )
        };
        if result < 0 { Err(Failure::last("io_uring_register")) } else { Ok(()) }
    }

    /// Registers this process' credentials; the number by which entries name them.
    pub fn register_personality(&self) -> Result<u16, Failure> {
        const REGISTER_PERSONALITY: u32 = 9;
        let none = ptr::null::<u8>();
        // SAFETY: no pointers are passed.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_register, self.fd.as_raw_fd(), REGISTER_PERSONALITY, none, 0_u32)
        };
        if result < 0 { Err(Failure::last("io_uring_register")) } else { Ok(result as u16) }
    }

    /// Submits `entry` and waits for its result. What the entry points to must live until this returns.
    pub fn run(&mut self, entry: Entry) -> Result<i32, Failure> {
        let polled = self.params.flags & SETUP_SQPOLL != 0;
        // One entry is under way at a time, so the first cell is free.
        // SAFETY: the mapping holds at least one entry.
        unsafe { self.entries.at.cast::<Entry>().write_volatile(entry) };
        let mask = self.params.sq_entries - 1;
        self.submissions.word(self.params.sq[6] + (self.done & mask) * 4).store(0, Ordering::Relaxed);
        self.submissions.word(self.params.sq[1]).store(self.done + 1, Ordering::Release);
        if !polled && self.enter(1, 0) < 0 {
            return Err(Failure::last("io_uring_enter"));
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.completions.word(self.params.cq[1]).load(Ordering::Acquire) == self.done {
            if Instant::now() > deadline {
                return Err(Failure::new("io_uring", libc::EINPROGRESS));
            }
            if polled && self.submissions.word(self.params.sq[4]).load(Ordering::Acquire) & NEED_WAKEUP != 0 {
                self.enter(0, ENTER_SQ_WAKEUP);
            }
            std::thread::yield_now();
        }
        let cell = self.done & (self.params.cq_entries - 1);
        let result = self.completions.word(self.params.cq[5] + cell * 16 + 8).load(Ordering::Acquire) as i32;
        self.done += 1;
        self.completions.word(self.params.cq[0]).store(self.done, Ordering::Release);
        if result < 0 {
            return Err(Failure::of("io_uring", &io::Error::from_raw_os_error(-result)));
        }
        Ok(result)
    }

    fn enter(&self, count: u32, flags: u32) -> i64 {
        let none = ptr::null::<u8>();
        // SAFETY: no pointers are passed.
        unsafe {
            libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), count, 0_u32, flags, none, 0_usize)
        }
    }
}

/// One operation on a ring of its own.
pub fn run(entry: Entry, polled: bool) -> Result<i32, Failure> {
    Ring::new(polled)?.run(entry)
}
