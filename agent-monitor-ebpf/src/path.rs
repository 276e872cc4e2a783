//! The path of a file as its mount namespace shows it, without `bpf_d_path` (which tracing hooks may not call).
//!
//! Walks dentries up to the mount's root, then goes on at the mount point, until the root mount. The text grows
//! backwards in the task's scratch. The first [`NAMES`] names are read through the hook's own typed pointer, which
//! costs a load where a helper costs a call; what is deeper, and what lies above the mount, is read in `bpf_loop` by
//! helpers. All state lives in the scratch, so both converge at once in the verifier (measured on 6.1 to 7.3).

use agent_monitor_common::automaton::{self, TERMINAL};
use agent_monitor_common::counters::Site;
use agent_monitor_common::decide::forget;

use agent_monitor_common::event::{ARGV_BYTES, ExecBody, Header, PATH_BYTES};
use agent_monitor_common::path::PATH_CAP;
use agent_monitor_common::pin::PathHash;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_kernel};
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use crate::directory::{self, Directories};
use crate::fail;
use crate::kernel::{offset, read, typed};
use crate::mark::Identity;
use crate::subject::Table;

/// Longest path that is walked.
pub const CAP: usize = PATH_CAP;
/// Upper bound of one name, for the verifier.
pub const SLACK: usize = 256;
/// Most names and mounts of one path, besides the first [`NAMES`].
const STEPS: u32 = 2048;
/// Names that are read without helpers.
const NAMES: u32 = 32;

/// Room to build a path and its record in.
#[repr(C)]
pub struct Scratch {
    /// First used byte of `text`.
    pub start: u32,
    status: i32,
    dentry: u64,
    /// The mount that is walked.
    pub walk: WalkedMount,
    /// The mount that the walk began on.
    pub first: WalkedMount,
    /// Where the part of the text begins that lies on `first`; 0: the walk was not there.
    pub inner: u32,
    /// 1: [`directory::knows_mount`] knows the mount.
    known: u32,
    /// The walk that ended last went from its object to the directory that the object lies in, not to a mount point.
    pub inside: u32,
    pad: u32,
    pub directories: Directories,
    cursor: Cursor,
    /// The pinned program whose content was found right and that is being executed.
    pub verified: Identity,
    /// The walked path, ending at `CAP`.
    pub text: [u8; CAP + SLACK],
    /// The record being built.
    pub header: Header,
    pub body: ExecBody,
    /// Path, then argv. The slack bounds the second copy for the verifier.
    pub tail: [u8; PATH_BYTES + ARGV_BYTES + SLACK],
}

/// A mount that is walked: addresses of `struct mount` and `struct dentry`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WalkedMount {
    mount: u64,
    root: u64,
    parent: u64,
    mountpoint: u64,
}

/// `n`, at most `MAX`, so that the verifier sees it.
// VERIFIER: "R2 unbounded memory access": the compiler proves the bound itself and drops a plain comparison; and on
// 6.1 a plain move keeps the register linked to a copy that was compared before, whose contradicting branch is then
// walked ("R1 type=scalar expected=fp"). The AND cuts the link.
#[inline(always)]
pub fn bounded_length<const MAX: usize>(n: usize) -> usize {
    let mut n = n as u64;
    // SAFETY: one AND with all ones, no memory.
    unsafe { core::arch::asm!("{0} &= -1", inout(reg) n, options(pure, nomem, nostack)) };
    if n > MAX as u64 { MAX } else { n as usize }
}

/// How the verifier knows a dentry: decides how its names are read.
pub trait Known {
    /// Whether what lies in a known directory is judged by its own name, and on a known mount by its path there.
    const REMEMBERS: bool;
    /// The path of `dentry` on `mnt`, as [`walk`]; `known`: the mount is known.
    ///
    /// # Safety
    /// As [`walk`] or [`walk_address`]; `known` is what [`directory::knows_mount`] said.
    unsafe fn walk(scratch: *mut Scratch, mnt: u64, dentry: u64, known: bool) -> Result<(), Site>;
}

/// By its type: names are read by loads.
pub struct ByType;

/// As a number: names are read by helpers.
pub struct ByAddress;

impl Known for ByType {
    const REMEMBERS: bool = true;

    #[inline(always)]
    unsafe fn walk(scratch: *mut Scratch, mnt: u64, dentry: u64, known: bool) -> Result<(), Site> {
        // SAFETY: the caller's promise.
        unsafe { walk_from(scratch, mnt, dentry, known) }
    }
}

impl Known for ByAddress {
    const REMEMBERS: bool = false;

    #[inline(always)]
    unsafe fn walk(scratch: *mut Scratch, mnt: u64, dentry: u64, _known: bool) -> Result<(), Site> {
        // SAFETY: the caller's promise.
        unsafe { walk_address(scratch, mnt, dentry) }
    }
}

/// Copies the walked path to the front of the tail, as much as a record carries. Its length there, and in whole.
///
/// # Safety
/// `s` is the current task's, with a walked path.
#[inline(always)]
pub unsafe fn copy_to_tail(s: *mut Scratch) -> (usize, usize) {
    // SAFETY: the caller's promise; the length is bounded by the size of the field.
    unsafe {
        let start = (*s).start as usize;
        let total = CAP.wrapping_sub(start);
        let length = if total > PATH_BYTES { PATH_BYTES } else { total };
        let n = bounded_length::<PATH_BYTES>(length);
        let from = (&raw const (*s).text).cast::<u8>().add(below::<CAP>(start));
        if bpf_probe_read_kernel((&raw mut (*s).tail).cast(), n as u32, from.cast()) != 0 {
            fail::count(Site::KernelRead);
            return (0, total);
        }
        (length, total)
    }
}

/// What kind of place a walked object lies in.
#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    /// In the task's mount namespace: it has a path.
    Mounted,
    /// On a mount of the kernel's own: a memfd, a pipe, a namespace; or a layer below an overlay, whose own object was
    /// judged already.
    Internal,
}

/// The place of an object on `mnt` (a `struct vfsmount *`; 0: not known).
#[inline(always)]
pub fn place(mnt: u64) -> Result<Place, Site> {
    if mnt == 0 {
        return Err(Site::NoMount);
    }
    let mount = mnt.wrapping_sub(offset!(mount_mnt) as u64);
    let namespace = read::<u64>(mount.wrapping_add(offset!(mount_ns) as u64)).ok_or(Site::KernelRead)?;
    // MNT_NS_INTERNAL is ERR_PTR(-EINVAL) (fs/mount.h). Null: unmounted while something holds it. Another than the
    // task's own: a tree that `open_tree` or `fsmount` made and nobody put anywhere, or another container's; in both,
    // what lies there under a path that a rule names is not what the rule means.
    match namespace {
        0 => Err(Site::PathWalk),
        n if n > u64::MAX - 4095 => Ok(Place::Internal),
        n if n == own_namespace() => Ok(Place::Mounted),
        _ => Err(Site::PathWalk),
    }
}

/// In place of a state: none was reached.
pub const NOWHERE: u32 = u32::MAX;

/// The mount namespace of the current task.
#[inline(always)]
pub fn own_namespace() -> u64 {
    // SAFETY: the current task is a trusted pointer; what it points to is read through its type.
    unsafe {
        let task: *const c_void = bpf_get_current_task_btf().cast::<c_void>().cast_const();
        let namespaces: *const c_void = typed(task, offset!(task_nsproxy));
        typed(namespaces, offset!(nsproxy_mnt))
    }
}

/// The state of a path automaton behind the walked path, from `start`.
///
/// # Safety
/// `scratch` is the current task's, with a walked path.
#[inline(always)]
pub unsafe fn run(table: Table, start: u32, scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { run_split(table, start, scratch, (*scratch).start, CAP as u32).1 }
}

/// The states behind `text[at..split]` and behind `text[at..CAP]`.
///
/// # Safety
/// As [`run`].
#[inline(always)]
pub unsafe fn run_split(table: Table, start: u32, scratch: *mut Scratch, at: u32, split: u32) -> (u32, u32) {
    // SAFETY: the caller's promise; behind `CAP` there is `SLACK`.
    unsafe {
        let cursor = &raw mut (*scratch).cursor;
        (*cursor).split = split as u64;
        let end = run_text(table, start, (&raw const (*scratch).text).cast(), cursor, at);
        (forget((*cursor).behind as u32), end)
    }
}

/// The state behind `text[at..CAP]`. The cursor's `split` lies in between, or at `CAP`.
///
/// # Safety
/// `text` points into a map value, with `CAP + CHUNK` bytes behind it; `cursor` into one that nobody else writes.
#[inline(always)]
pub unsafe fn run_text(table: Table, start: u32, text: *const u8, cursor: *mut Cursor, at: u32) -> u32 {
    let mut run = Run { table, text, cursor };
    // SAFETY: the caller's promise; the callback gets the stack struct that it expects.
    unsafe {
        (*cursor).state = start as u64;
        (*cursor).at = at as u64;
        bpf_loop(
            (CAP / CHUNK) as u32 + 3,
            run_callback as *const () as *mut c_void,
            (&raw mut run).cast(),
            0,
        );
        forget((*cursor).state as u32)
    }
}

/// The hash of the walked path, by which pins are found.
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

/// Bytes of one call of the loop's callback.
const CHUNK: usize = 16;
const _: () = assert!(CHUNK <= SLACK);

/// The walk over the text; on the stack, as `bpf_loop` asks.
#[repr(C)]
struct Run {
    table: Table,
    text: *const u8,
    cursor: *mut Cursor,
}

/// How far the walk over the text has come.
// VERIFIER: "The sequence of 8193 jumps is too complex": on the stack it would be known too well to be known again.
#[repr(C)]
pub struct Cursor {
    /// In 64 bits: see [`automaton::step_wide`].
    state: u64,
    /// The next byte to read.
    at: u64,
    /// Where the state is wanted too, and what it is there, or where the walk was over before.
    pub split: u64,
    behind: u64,
}

/// One step for each of the next `n` bytes; out of the block where the walk is over.
macro_rules! steps {
    ($over:lifetime, $run:expr, $state:ident, $at:ident, $n:literal: $($i:literal)*) => {
        let bytes = (*$run).text.add(below::<CAP>($at));
        $(
            if $state >= TERMINAL as u64 {
                break $over;
            }
            $state = automaton::step_wide(&(*$run).table, $state, *bytes.add($i));
        )*
        // VERIFIER: "BPF program is too large": whether these bytes were there is one way from here on.
        $at = forget($at as u32 + $n) as usize;
    };
}

unsafe extern "C" fn run_callback(_index: u64, run: *mut Run) -> i64 {
    // SAFETY: `run_text` passed its own stack struct; a chunk lies in the text or in the slack behind it.
    unsafe {
        let cursor = (*run).cursor;
        let (mut at, split, mut state) = ((*cursor).at as usize, (*cursor).split as usize, (*cursor).state);
        if at <= split {
            (*cursor).behind = state;
        }
        if state >= TERMINAL as u64 || at >= CAP {
            return 1;
        }
        let end = if at < split { split } else { CAP };
        let left = forget((end - at) as u32);
        'over: {
            if left >= CHUNK as u32 {
                steps!('over, run, state, at, 16: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
                break 'over;
            }
            if left & 8 != 0 {
                steps!('over, run, state, at, 8: 0 1 2 3 4 5 6 7);
            }
            if left & 4 != 0 {
                steps!('over, run, state, at, 4: 0 1 2 3);
            }
            if left & 2 != 0 {
                steps!('over, run, state, at, 2: 0 1);
            }
            if left & 1 != 0 {
                steps!('over, run, state, at, 1: 0);
            }
        }
        if state >= TERMINAL as u64 {
            at = end;
        }
        (*cursor).at = at as u64;
        (*cursor).state = state;
        0
    }
}

/// The `struct mount` at which a finished walk ended: the root of its mount namespace.
///
/// # Safety
/// `scratch` is the current task's, with a walked path.
#[inline(always)]
pub unsafe fn top_mount(scratch: *mut Scratch) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { (*scratch).walk.mount }
}

const GOING: i32 = 1;
const DONE: i32 = 0;
const FAILED: i32 = -1;

/// An index below the power of two `N`.
// VERIFIER: "R1 unbounded memory access": the bound must be on the very register that indexes.
#[inline(always)]
pub fn below<const N: usize>(index: usize) -> usize {
    const { assert!(N.is_power_of_two()) };
    let mut index = index as u64;
    // SAFETY: one AND, no memory.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) index, const (N - 1) as u64, options(pure, nomem, nostack));
    }
    index as usize
}

/// `bpf_loop`'s context must be a stack pointer; it carries the map-value pointer.
#[repr(C)]
struct Context {
    scratch: *mut Scratch,
}

/// The path of `dentry` on `mnt` (a `struct vfsmount *`). On success it is `text[start..CAP]`.
///
/// # Safety
/// `scratch` is the current task's; `mnt` and `dentry` come from typed loads or are arguments of the hook, and `dentry`
/// went through no arithmetic, so that the verifier still knows its type.
#[inline(always)]
pub unsafe fn walk(scratch: *mut Scratch, mnt: u64, dentry: u64) -> Result<(), Site> {
    // SAFETY: the caller's promise.
    unsafe { walk_from(scratch, mnt, dentry, false) }
}

/// [`walk`]; `known`: what [`directory::knows_mount`] knows of the mount spares the way above it.
///
/// # Safety
/// As [`walk`], of the object of whose directory [`directory::behind`] was asked last.
#[inline(always)]
unsafe fn walk_from(scratch: *mut Scratch, mnt: u64, dentry: u64, known: bool) -> Result<(), Site> {
    // SAFETY: the caller's promise.
    unsafe {
        write_volatile(&raw mut (*scratch).known, known as u32);
        if known {
            (*scratch).start = CAP as u32;
            (*scratch).status = GOING;
            directory::begin_on_mount(scratch);
        } else {
            begin(scratch, mnt)?;
            (*scratch).first = (*scratch).walk;
        }
        (*scratch).inner = 0;
        (*scratch).inside = u32::from(dentry != (*scratch).walk.root);
        climb(scratch, dentry);
        finish(scratch)
    }
}

/// Whether the last walk was on a mount that was known.
///
/// # Safety
/// `scratch` is the current task's.
// VERIFIER: "BPF program is too large": read from memory, it is not a second way through all that lies in between.
#[inline(always)]
pub unsafe fn is_known(scratch: *const Scratch) -> bool {
    // SAFETY: the caller's promise.
    unsafe { read_volatile(&raw const (*scratch).known) == 1 }
}

/// As [`walk`], of a `dentry` that the verifier knows as a number only: it was read by a helper.
///
/// # Safety
/// `scratch` is the current task's; `mnt` and `dentry` were read from kernel structs.
#[inline(always)]
pub unsafe fn walk_address(scratch: *mut Scratch, mnt: u64, dentry: u64) -> Result<(), Site> {
    // SAFETY: the caller's promise.
    unsafe {
        begin(scratch, mnt)?;
        (*scratch).dentry = dentry;
        finish(scratch)
    }
}

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

/// Starts a walk at the mount `mnt`.
///
/// # Safety
/// As [`walk`].
#[inline(always)]
unsafe fn begin(scratch: *mut Scratch, mnt: u64) -> Result<(), Site> {
    if fail::injected(Site::PathWalk) {
        return Err(Site::PathWalk);
    }
    // SAFETY: the caller's promise.
    unsafe {
        (*scratch).start = CAP as u32;
        (*scratch).status = GOING;
        if !enter(scratch, mnt.wrapping_sub(offset!(mount_mnt) as u64)) {
            return Err(Site::KernelRead);
        }
    }
    Ok(())
}

/// Walks the rest by addresses, if there is any.
///
/// # Safety
/// As [`walk`].
#[inline(always)]
unsafe fn finish(scratch: *mut Scratch) -> Result<(), Site> {
    // SAFETY: the caller's promise.
    unsafe {
        if (*scratch).status == GOING {
            let mut context = Context { scratch };
            bpf_loop(STEPS, step_callback as *const () as *mut c_void, (&raw mut context).cast(), 0);
        }
        if (*scratch).status != DONE {
            return Err(Site::PathWalk);
        }
        if (*scratch).start as usize == CAP {
            (*scratch).start = CAP as u32 - 1;
            (*scratch).text[CAP - 1] = b'/';
        }
    }
    Ok(())
}

/// Prepends the names from `dentry` on until the mount's root, or [`NAMES`] of them. Where that is the whole path, the
/// status is `DONE`.
///
/// # Safety
/// As [`walk`].
#[inline(always)]
unsafe fn climb(s: *mut Scratch, dentry: u64) {
    // SAFETY: the caller's promise: `dentry` is typed, and so is each parent.
    unsafe {
        let root = (*s).walk.root;
        let parent_at = offset!(dentry_parent);
        let mut dentry = dentry;
        let mut names = 0;
        while names < NAMES {
            if dentry == root {
                (*s).inner = (*s).start;
                if is_known(s) {
                    (*s).status = if directory::prepend_place(s) { DONE } else { FAILED };
                } else if (*s).walk.parent == (*s).walk.mount {
                    (*s).status = DONE;
                }
                break;
            }
            let this = dentry as *const c_void;
            let parent: u64 = typed(this, parent_at);
            if parent == dentry || !prepend_name(s, this) {
                (*s).status = FAILED;
                break;
            }
            dentry = parent;
            names += 1;
        }
        (*s).dentry = dentry;
    }
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
const SHORT: u32 = 32;

/// Prepends `/` and the name of `dentry`. False: it does not fit, or can't be read.
///
/// # Safety
/// As [`walk`]; `dentry` is a typed `struct dentry *`.
#[inline(always)]
unsafe fn prepend_name(s: *mut Scratch, dentry: *const c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let length = length_of(dentry);
        let text: u64 = typed(dentry, offset!(dentry_name) + offset!(qstr_name));
        let short = offset!(dentry_short_name);
        let inside = text == (dentry as u64).wrapping_add(short as u64);
        // The slash needs room too.
        if !inside || length == 0 || (*s).start <= length {
            return prepend(s, length, text);
        }
        if !prepend_words(s, length, |word| typed(dentry, short + word * 8)) {
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
/// As [`walk`].
#[inline(always)]
pub unsafe fn prepend_words(s: *mut Scratch, length: u32, word: impl Fn(usize) -> u64) -> bool {
    // SAFETY: the caller's promise; behind `CAP` there is `SLACK`.
    unsafe {
        let start = (*s).start;
        if length > SHORT || start > CAP as u32 || start < length || start == 0 {
            return false;
        }
        let buffer = (&raw mut (*s).text).cast::<u8>();
        // The last word reaches up to seven bytes too far, where begins what was prepended before.
        let behind = buffer.add(below::<CAP>(start as usize - 1) + 1);
        let kept = word_at(behind);
        let at = below::<CAP>((start - length) as usize);
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
/// As [`walk`].
#[inline(always)]
unsafe fn prepend(s: *mut Scratch, length: u32, text: u64) -> bool {
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

unsafe extern "C" fn step_callback(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `walk` passed its own stack struct.
    unsafe { step((*context).scratch) as i64 }
}

/// One name or one mount. True: the walk is over.
///
/// # Safety
/// As [`walk`].
#[inline(always)]
unsafe fn step(s: *mut Scratch) -> bool {
    // SAFETY: the caller's promise; kernel memory is read by helpers.
    unsafe {
        let dentry = (*s).dentry;
        if dentry == (*s).walk.root {
            let up = (*s).walk.parent;
            if up == (*s).walk.mount {
                (*s).status = DONE;
                return true;
            }
            (*s).dentry = (*s).walk.mountpoint;
            return !enter(s, up);
        }
        let Some([parent, length, text]) = three(
            dentry,
            offset!(dentry_parent),
            // `struct qstr` begins with a hash, and the length in the same word.
            offset!(dentry_name) + offset!(qstr_len) - 4,
            offset!(dentry_name) + offset!(qstr_name),
        ) else {
            (*s).status = FAILED;
            return true;
        };
        // A dentry that is its own parent and no mount's root is not reachable from here: no path.
        if parent == dentry || !prepend(s, (length >> 32) as u32, text) {
            (*s).status = FAILED;
            return true;
        }
        (*s).dentry = parent;
        false
    }
}

/// The words at three offsets of a kernel struct; in one read where they are neighbours, as they are on 6.1 to 7.3.
#[inline(always)]
fn three(base: u64, first: usize, second: usize, third: usize) -> Option<[u64; 3]> {
    if second == first + 8 && third == first + 16 {
        return read(base.wrapping_add(first as u64));
    }
    let word = |offset: usize| read::<u64>(base.wrapping_add(offset as u64));
    Some([word(first)?, word(second)?, word(third)?])
}

/// Makes `mount` (a `struct mount *`) the mount that is walked.
///
/// # Safety
/// As [`walk`].
#[inline(always)]
unsafe fn enter(s: *mut Scratch, mount: u64) -> bool {
    let words = three(
        mount,
        offset!(mount_parent),
        offset!(mount_mountpoint),
        offset!(mount_mnt) + offset!(vfsmount_root),
    );
    // SAFETY: the caller's promise.
    unsafe {
        let Some([parent, point, root]) = words else {
            (*s).status = FAILED;
            return false;
        };
        (*s).walk.mount = mount;
        (*s).walk.parent = parent;
        (*s).walk.mountpoint = point;
        (*s).walk.root = root;
    }
    true
}
