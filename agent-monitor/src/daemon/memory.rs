//! The C library's allocator, told to give memory back.
//!
//! Called by `daemon::run` when everything is in force. Reading the kernel's type information and compiling profiles
//! takes tens of megabytes for a moment, and glibc keeps what is freed; it also raises its threshold for separate
//! mappings with every large block that is freed, so that the pipeline's buffers would end up in the heap for good.

/// Blocks from this size on get a mapping of their own and go back when they are freed.
#[cfg(target_env = "gnu")]
const SEPARATE: libc::c_int = 128 << 10;

/// Fixes the threshold for separate mappings; call before the daemon allocates.
pub fn prepare() {
    // SAFETY: takes numbers only. Setting the threshold turns its growth off (mallopt(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, SEPARATE);
        // Two heaps: the runtime and the pipeline; each further one would keep its own rest.
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives back what the start has left free.
pub fn settle() {
    // SAFETY: takes a number only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
