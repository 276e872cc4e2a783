//! Socket and task storage: the two map types (with the flags we need) that aya-ebpf has no definition for.

use core::ffi::c_void;
use core::ptr::null;

use agent_monitor_common::counters::Site;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_sk_storage_get, bpf_task_storage_get};

use crate::fail;

const CREATE: u64 = 1; // BPF_{SK,LOCAL}_STORAGE_GET_F_CREATE

/// Socket storage with these flags of the map.
#[repr(C)]
pub struct Storage<T, const FLAGS: usize> {
    r#type: *const [i32; 24],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

/// Socket storage that accepted sockets inherit: `BPF_F_NO_PREALLOC | BPF_F_CLONE`.
pub type ClonedSocketStorage<T> = Storage<T, 0x201>;
/// Socket storage of one socket: `BPF_F_NO_PREALLOC`.
pub type SocketStorage<T> = Storage<T, 1>;

// SAFETY: a map definition: the loader reads its type, the programs only its address.
unsafe impl<T, const FLAGS: usize> Sync for Storage<T, FLAGS> {}

impl<T, const FLAGS: usize> Storage<T, FLAGS> {
    pub const fn new() -> Self {
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// The storage of `sk`, if it has one.
    ///
    /// # Safety
    /// `sk` is a socket pointer that the verifier knows (`ctx->sk`, `skb->sk`, a typed `struct sock *`).
    #[inline(always)]
    pub unsafe fn get(&self, sk: *mut c_void) -> Option<*mut T> {
        // SAFETY: the caller's promise; the verifier checks it again.
        let p = unsafe {
            bpf_sk_storage_get(core::ptr::from_ref(self).cast_mut().cast(), sk, core::ptr::null_mut(), 0)
        };
        if p.is_null() { None } else { Some(p.cast()) }
    }

    /// The storage of `sk`, made of zeros if it had none; `None`: no memory.
    ///
    /// # Safety
    /// As [`Self::get`].
    #[inline(always)]
    pub unsafe fn get_or_create(&self, sk: *mut c_void) -> Option<*mut T> {
        if fail::injected(Site::SocketStorage) {
            return None;
        }
        // SAFETY: the caller's promise; the verifier checks it again.
        let p = unsafe {
            bpf_sk_storage_get(core::ptr::from_ref(self).cast_mut().cast(), sk, core::ptr::null_mut(), CREATE)
        };
        if p.is_null() { None } else { Some(p.cast()) }
    }
}

/// Task storage: refused in cgroup programs before 6.18, so only tracing programs use it.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; 29],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 1],
}

// SAFETY: as above.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    /// 7.3 makes larger maps and then gives no element (`kmalloc_nolock` takes 8 KiB, header included).
    const FITS: () = assert!(size_of::<T>() <= 8_120);

    pub const fn new() -> Self {
        let () = Self::FITS;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// The current task's storage, made if it had none; `None`: no memory.
    #[inline(always)]
    pub fn current(&self) -> Option<*mut T> {
        if fail::injected(Site::TaskStorage) {
            return None;
        }
        // SAFETY: the current task is a trusted pointer in tracing programs.
        let p = unsafe {
            bpf_task_storage_get(
                core::ptr::from_ref(self).cast_mut().cast(),
                bpf_get_current_task_btf(),
                core::ptr::null_mut(),
                CREATE,
            )
        };
        if p.is_null() { None } else { Some(p.cast()) }
    }
}
