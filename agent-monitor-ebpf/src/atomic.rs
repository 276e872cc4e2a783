//! Atomic operations on map values. Rust's atomics have no read-modify-write on this target, so the instructions are
//! written out; each is a full barrier in the kernel's memory model (`BPF_ATOMIC` with `BPF_FETCH`, 5.12).

use core::arch::asm;

/// Adds and returns the value before.
///
/// # Safety
/// `cell` is an aligned `u64` in a map value.
#[inline(always)]
pub unsafe fn add(cell: *mut u64, n: u64) -> u64 {
    let mut v = n;
    // SAFETY: the caller's promise.
    unsafe { asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", p = in(reg) cell, v = inout(reg) v) };
    v
}

/// Sets bits.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn or(cell: *mut u64, bits: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{v} = atomic_fetch_or((u64 *)({p} + 0), {v})", p = in(reg) cell, v = inout(reg) bits => _);
    }
}

/// Keeps only `bits` and returns the value before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn and(cell: *mut u64, bits: u64) -> u64 {
    let mut v = bits;
    // SAFETY: the caller's promise.
    unsafe { asm!("{v} = atomic_fetch_and((u64 *)({p} + 0), {v})", p = in(reg) cell, v = inout(reg) v) };
    v
}
