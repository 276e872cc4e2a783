//! The hash of a walked path, by which pins are found.

use agent_monitor_common::pin::PathHash;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;

use crate::path::{CAP, Scratch, below};

/// Bytes of one call of the loop's callback.
const CHUNK: usize = 16;

/// The hash of the walked path.
///
/// # Safety
/// `scratch` is the current task's, with a walked path.
#[inline(always)]
pub unsafe fn hash(scratch: *mut Scratch) -> PathHash {
    // SAFETY: the caller's promise.
    let at = unsafe { (*scratch).start };
    let mut hashing = Hashing { scratch, hash: PathHash::BEGIN.0, at: at as u64 };
    // SAFETY: the callback gets the stack struct that it expects.
    unsafe {
        bpf_loop(
            (CAP / CHUNK) as u32 + 1,
            hash_callback as *const () as *mut c_void,
            (&raw mut hashing).cast(),
            0,
        )
    };
    PathHash(hashing.hash)
}

/// The hashing of the text; on the stack, as `bpf_loop` asks.
#[repr(C)]
struct Hashing {
    scratch: *mut Scratch,
    hash: u64,
    at: u64,
}

unsafe extern "C" fn hash_callback(_index: u64, hashing: *mut Hashing) -> i64 {
    // SAFETY: `hash` passed its own stack struct.
    unsafe {
        let text = (&raw const (*(*hashing).scratch).text).cast::<u8>();
        let mut at = (*hashing).at as usize;
        let mut hash = PathHash((*hashing).hash);
        let mut ended = 0;
        let mut i = 0;
        while i < CHUNK {
            if at >= CAP {
                ended = 1;
                break;
            }
            hash = hash.then(*text.add(below::<CAP>(at)));
            at += 1;
            i += 1;
        }
        (*hashing).hash = hash.0;
        (*hashing).at = at as u64;
        ended
    }
}
