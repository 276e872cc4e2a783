//! Reading kernel structs: offsets come from `.rodata`, written by the loader from the running kernel's BTF.

use agent_monitor_common::counters::Site;
use agent_monitor_common::layout::Layout;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use core::ffi::c_void;

use crate::fail;

/// Resolved by the loader before load; frozen, so the verifier sees constants.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::ABSENT;

/// The address of the kernel's `rename_lock`; 0: not known. Written by the loader as the layout is.
#[unsafe(no_mangle)]
pub static RENAME_LOCK: u64 = 0;

/// The governed cgroup: its id, and its depth below the root of the hierarchy. A depth of 0: it is the root, or that is
/// not known; then nobody looks what is outside of it. Written by the loader as the layout is.
// No plain zero: LLVM makes one of a static and of every constant that equals what it begins with, and a look-up of the
// key 0 would follow what the loader writes here.
#[unsafe(no_mangle)]
pub static GOVERNED: [u64; 2] = [UNWRITTEN, UNWRITTEN];
const UNWRITTEN: u64 = 0xdead_0000_0000_0001;

/// The offset of a field. One load of one word: a volatile read of the whole struct would load every field.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::load(&raw const $crate::kernel::LAYOUT.$field)
    };
}
pub(crate) use offset;

/// Reads one word of the layout; call it through `offset!`.
#[inline(always)]
pub fn load(word: *const u32) -> usize {
    // SAFETY: `offset!` passes a field of the static that the loader replaced. Volatile, so that the compiler does
    // not fold the placeholder.
    unsafe { core::ptr::read_volatile(word) as usize }
}

/// Reads a field through a BTF-typed pointer; the verifier turns a fault into zero.
///
/// # Safety
/// `base` is a pointer whose BTF type the verifier knows, and `offset` comes from the layout of that type.
#[inline(always)]
pub unsafe fn typed<T: Copy>(base: *const c_void, offset: usize) -> T {
    // SAFETY: the caller's promise. Volatile: one load as wide as `T`, as the verifier wants it.
    unsafe { core::ptr::read_volatile(base.cast::<u8>().add(offset).cast::<T>()) }
}

/// Reads kernel memory by a helper; `None`: the address was bad.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    if fail::injected(Site::KernelRead) {
        return None;
    }
    let mut out = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address; on success it wrote all bytes of `out`.
    unsafe {
        if bpf_probe_read_kernel(out.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void)
            != 0
        {
            return None;
        }
        Some(out.assume_init())
    }
}
