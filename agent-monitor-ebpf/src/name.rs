//! Prepends names to the text of the path that is walked.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use core::ffi::c_void;

use crate::kernel::{offset, typed};
use crate::path::{CAP, SLACK, Scratch, below};

/// Makes the text `/` and the name of `dentry`. False: it can't be read.
///
/// # Safety
/// `scratch` is the current task's; `dentry` is a typed `struct dentry *`.
#[inline(always)]
pub unsafe fn name_only(scratch: *mut Scratch, dentry: *const c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*scratch).start = CAP as u32;
        prepend_name(scratch, dentry)
    }
}

/// The length of the name of `dentry`.
///
/// # Safety
/// `dentry` is a typed `struct dentry *`.
#[inline(always)]
pub unsafe fn length_of(dentry: *const c_void) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { typed(dentry, offset!(dentry_name) + offset!(qstr_len)) }
}

/// The word at an address that need not be a multiple of its size: of such a load the compiler makes eight.
///
/// # Safety
/// `at` points into a map value with eight bytes behind it.
#[inline(always)]
pub unsafe fn word_at(at: *const u8) -> u64 {
    let word: u64;
    // SAFETY: the caller's promise; one load.
    unsafe {
        core::arch::asm!("{w} = *(u64 *)({a} + 0)", w = out(reg) word, a = in(reg) at, options(nostack, readonly));
    }
    word
}

/// Sets the word at an address that need not be a multiple of its size.
///
/// # Safety
/// As [`word_at`].
#[inline(always)]
unsafe fn set_word_at(at: *mut u8, word: u64) {
    // SAFETY: the caller's promise; one store.
    unsafe {
        core::arch::asm!("*(u64 *)({a} + 0) = {w}", a = in(reg) at, w = in(reg) word, options(nostack))
    };
}

/// Longest name that is copied by loads: what a `struct dentry` has room for itself, at least.
const SHORT: usize = 32;

/// Prepends `/` and the name of `dentry`. False: it does not fit, or can't be read.
///
/// # Safety
/// As [`walk`](crate::path::walk); `dentry` is a typed `struct dentry *`.
#[inline(always)]
pub unsafe fn prepend_name(s: *mut Scratch, dentry: *const c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let length = length_of(dentry);
        let text: u64 = typed(dentry, offset!(dentry_name) + offset!(qstr_name));
        let short = offset!(dentry_short_name);
        let inside = text == (dentry as u64).wrapping_add(short as u64);
        // The slash needs room too.
        let copied = inside
            && length != 0
            && (*s).start > length
            && prepend_words(s, length, |word| typed(dentry, short + word * 8));
        if !copied {
            return prepend(s, length, text);
        }
        let slash = below::<CAP>(((*s).start as usize).wrapping_sub(1));
        *(&raw mut (*s).text).cast::<u8>().add(slash) = b'/';
        (*s).start = slash as u32;
        true
    }
}

/// Prepends the first `length` bytes of up to four words. False: they do not fit, or are more.
///
/// # Safety
/// As [`walk`](crate::path::walk).
#[inline(always)]
pub unsafe fn prepend_words(s: *mut Scratch, length: u32, word: impl Fn(usize) -> u64) -> bool {
    // SAFETY: the caller's promise; behind `CAP` there is `SLACK`.
    unsafe {
        let (start, length) = ((*s).start as usize, length as usize);
        if length > SHORT || start > CAP || start < length || start == 0 {
            return false;
        }
        let buffer = (&raw mut (*s).text).cast::<u8>();
        // The last word reaches up to seven bytes too far, where begins what was prepended before.
        let behind = buffer.add(below::<CAP>(start - 1) + 1);
        let kept = word_at(behind);
        let at = below::<CAP>(start - length);
        let text = buffer.add(at);
        set_word_at(text, word(0));
        if length > 8 {
            set_word_at(text.add(8), word(1));
        }
        if length > 16 {
            set_word_at(text.add(16), word(2));
        }
        if length > 24 {
            set_word_at(text.add(24), word(3));
        }
        set_word_at(behind, kept);
        (*s).start = at as u32;
        true
    }
}

/// Prepends `/` and a name of `length` bytes at `text`. False: it does not fit, or can't be read.
///
/// # Safety
/// As [`walk`](crate::path::walk).
#[inline(always)]
pub unsafe fn prepend(s: *mut Scratch, length: u32, text: u64) -> bool {
    // SAFETY: the caller's promise; the helper checks the address, the indices are bounded.
    unsafe {
        let length = length as usize;
        let start = (*s).start as usize;
        if length == 0 || length >= SLACK || start > CAP || start < length + 1 {
            return false;
        }
        let at = below::<CAP>(start - length);
        let length = below::<SLACK>(length);
        let buffer = (&raw mut (*s).text).cast::<u8>();
        if bpf_probe_read_kernel(buffer.add(at).cast(), length as u32, text as *const c_void) != 0 {
            return false;
        }
        let slash = below::<CAP>(at.wrapping_sub(1));
        *buffer.add(slash) = b'/';
        (*s).start = slash as u32;
        true
    }
}
