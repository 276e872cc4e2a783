//! The path of a file as its mount namespace shows it, without `bpf_d_path` (which tracing hooks may not call).
//!
//! Walks dentries up to the mount's root, then goes on at the mount point, until the root mount. The text grows
//! backwards in the task's scratch. The first [`NAMES`] names are read through the hook's own typed pointer, which
//! costs a load where a helper costs a call; what is deeper, and what lies above the mount, is read in `bpf_loop` by
//! helpers. All state lives in the scratch, so both converge at once in the verifier (measured on 6.1 to 7.3).

use agent_monitor_common::counters::Site;
use agent_monitor_common::event::{ARGV_BYTES, ExecBody, Header, PATH_BYTES};
use agent_monitor_common::path::PATH_CAP;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_kernel};
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use crate::automaton::Cursor;
use crate::directory::{self, Directories};
use crate::fail;
use crate::kernel::{offset, read, typed};
use crate::mark::Identity;
use crate::name::{prepend, prepend_name};

/// Longest path that is walked.
pub const CAP: usize = PATH_CAP;
/// Upper bound of one name, for the verifier.
pub const SLACK: usize = 256;
/// Most names and mounts of one path, besides the first [`NAMES`].
const STEPS: u32 = 2048;
/// Names that are read without helpers.
const NAMES: usize = 32;

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
    pub cursor: Cursor,
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
