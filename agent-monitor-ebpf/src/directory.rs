//! Directories that a task's last walks led through, and where the automaton stood behind each: what is opened next in
//! one of them costs a walk over its own name only.
//!
//! What is remembered holds as long as the directory is where it was. A directory has one name; it gets another by
//! `d_move` alone, which writes `rename_lock`; and its mount another place by a change of the mounts of its namespace
//! alone, which counts up that namespace's `event`. Of the mount itself, what lies above it is remembered by the same
//! rule. Both are part of the key, beside the directory, its mount, its
//! namespace and whose rules were asked. A dentry that is freed and made again is not taken for the one before: its
//! inode is another, and the hash of its name is salted with its parent.

use agent_monitor_common::counters::Site;
use agent_monitor_common::image::Class;
use agent_monitor_common::layout::ABSENT;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use crate::kernel::{RENAME_LOCK, offset, read, typed};
use crate::mark::Identity;
use crate::name;
use crate::path::{CAP, NOWHERE, Scratch, WalkedMount, below, own_namespace};
use crate::{atomic, fail};

/// Directories that a task remembers; one for each remainder of the inode's number.
const DIRECTORIES: usize = 8;

/// Words of a key.
const KEY: usize = 9;

/// What a task remembers; all zero: nothing.
#[repr(C)]
pub struct Directories {
    /// The key that is looked for.
    wanted: [u64; KEY],
    /// Orders the reads of the key before those of the walk.
    fence: u64,
    known: [Directory; DIRECTORIES],
    /// 1: `wanted` is that of the object that is judged.
    asked: u64,
    mount: Mounted,
}

/// The mount of the last walk; all zero: none.
#[repr(C)]
struct Mounted {
    /// The words of [`PLACE`] of the directory's key, and the sequence of the lock.
    key: [u64; PLACE.len() + 1],
    walk: WalkedMount,
    number: u32,
    /// Bytes of `way`.
    length: u32,
    /// The path of the place where it is mounted; of the root mount none.
    way: [u64; WAY / 8],
}

/// The words of a directory's key that say where its mount is: the mount, its namespace, how often that changed.
const PLACE: [usize; 3] = [1, 3, 4];

/// Longest path of a mount's place that is remembered.
const WAY: usize = 32;

#[repr(C)]
struct Directory {
    key: [u64; KEY],
    state: u32,
    mount: u32,
}

/// Whose rules are asked.
#[derive(Clone, Copy)]
pub struct Asked {
    pub profile: u32,
    pub generation: u32,
    pub class: Class,
}

/// What is remembered of the directory of an object.
#[derive(Clone, Copy)]
pub struct Behind {
    /// Where the automaton stands behind the directory's path and `/`; [`NOWHERE`]: that is not known.
    pub state: u32,
    /// The number of its mount.
    pub mount: u32,
}

const UNKNOWN: Behind = Behind { state: NOWHERE, mount: 0 };

/// What the current task remembers of the directory that `dentry` lies in, `parent`, on `mnt`. What it does not
/// remember, [`remember`] may be told after a walk over the object's path.
///
/// # Safety
/// `s` is the current task's scratch; `dentry` is a typed `struct dentry *`.
#[inline(always)]
pub unsafe fn behind(
    s: *mut Scratch,
    asked: Asked,
    mnt: u64,
    dentry: *const c_void,
    parent: Identity,
) -> Behind {
    // SAFETY: the caller's promise.
    unsafe { write_volatile(&raw mut (*s).directories.asked, 0) };
    // SAFETY: the static is the loader's; frozen.
    let rename_lock = unsafe { read_volatile(&raw const RENAME_LOCK) };
    let events_at = offset!(mnt_namespace_event);
    if rename_lock == 0 || events_at == ABSENT as usize || fail::injected(Site::PathWalk) {
        return UNKNOWN;
    }
    // SAFETY: the caller's promise. The words go through memory, so that the verifier takes pointers for numbers.
    unsafe {
        let directories = &raw mut (*s).directories;
        let wanted = (&raw mut (*directories).wanted).cast::<u64>();
        let directory: *const c_void = typed(dentry, offset!(dentry_parent));
        let namespace = own_namespace();
        write_volatile(wanted, directory as u64);
        write_volatile(wanted.add(1), mnt);
        let hash: u32 = typed(directory, offset!(dentry_name) + offset!(qstr_hash));
        write_volatile(wanted.add(2), (hash as u64) << 32 | name::length_of(directory) as u64);
        write_volatile(wanted.add(3), namespace);
        write_volatile(wanted.add(4), typed(namespace as *const c_void, events_at));
        write_volatile(wanted.add(5), parent.inode);
        write_volatile(wanted.add(6), (parent.device as u64) << 32 | parent.version as u64);
        write_volatile(wanted.add(7), (asked.profile as u64) << 32 | asked.generation as u64);
        // The sequence of the lock is the first word of it. Odd: something is being renamed.
        let renames = read::<u32>(rename_lock).unwrap_or(1);
        write_volatile(wanted.add(8), (asked.class.record() as u64) << 32 | renames as u64);
        write_volatile(&raw mut (*directories).asked, 1);
        let known = slot(directories, parent);
        // Most often another directory is known in its place.
        if read_volatile((&raw const (*known).key).cast::<u64>()) != directory as u64 {
            atomic::add(&raw mut (*directories).fence, 0);
            return UNKNOWN;
        }
        // A root is its own parent and lies in no directory: its name is `/`, and its path is not that twice.
        let mut differs = renames as u64 & 1 | u64::from(directory as u64 == dentry as u64);
        let mut i = 0;
        while i < KEY {
            differs |=
                read_volatile(wanted.add(i)) ^ read_volatile((&raw const (*known).key).cast::<u64>().add(i));
            i += 1;
        }
        if differs != 0 {
            atomic::add(&raw mut (*directories).fence, 0);
            return UNKNOWN;
        }
        Behind { state: (*known).state, mount: (*known).mount }
    }
}

/// Remembers `behind` of the directory that was looked for last.
///
/// # Safety
/// `s` is the current task's scratch; [`behind`] was asked, and the path that was walked since is of an object that lies
/// in that directory on that mount.
#[inline(always)]
pub unsafe fn remember(s: *mut Scratch, parent: Identity, behind: Behind) {
    // SAFETY: the caller's promise.
    unsafe {
        let directories = &raw mut (*s).directories;
        let known = slot(directories, parent);
        let mut i = 0;
        while i < KEY {
            let word = read_volatile((&raw const (*directories).wanted).cast::<u64>().add(i));
            write_volatile((&raw mut (*known).key).cast::<u64>().add(i), word);
            i += 1;
        }
        (*known).state = behind.state;
        (*known).mount = behind.mount;
    }
}

/// Whether the mount of the object of whose directory [`behind`] was asked last is remembered.
///
/// # Safety
/// `s` is the current task's scratch.
#[inline(always)]
pub unsafe fn knows_mount(s: *mut Scratch) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let directories = &raw mut (*s).directories;
        let wanted = (&raw const (*directories).wanted).cast::<u64>();
        let key = (&raw const (*directories).mount.key).cast::<u64>();
        let renames = read_volatile(wanted.add(8)) as u32 as u64;
        let mut differs = (read_volatile(&raw const (*directories).asked) ^ 1) | renames & 1;
        let mut i = 0;
        while i < PLACE.len() {
            differs |= read_volatile(wanted.add(PLACE[i])) ^ read_volatile(key.add(i));
            i += 1;
        }
        differs | renames ^ read_volatile(key.add(PLACE.len())) == 0
    }
}

/// The number of the mount that [`knows_mount`] knows.
///
/// # Safety
/// As [`knows_mount`].
#[inline(always)]
pub unsafe fn mount_number(s: *mut Scratch) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { (*s).directories.mount.number }
}

/// Begins a walk on the mount that [`knows_mount`] knows.
///
/// # Safety
/// As [`knows_mount`].
#[inline(always)]
pub unsafe fn begin_on_mount(s: *mut Scratch) {
    // SAFETY: the caller's promise.
    unsafe { (*s).walk = (*s).directories.mount.walk };
}

/// Prepends the path of the place of the mount that [`knows_mount`] knows. False: it does not fit.
///
/// # Safety
/// As [`knows_mount`], with a path that was walked to the root of that mount.
#[inline(always)]
pub unsafe fn prepend_place(s: *mut Scratch) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let mount = &raw const (*s).directories.mount;
        let length = (*mount).length;
        if length == 0 {
            return true;
        }
        name::prepend_words(s, length, |word| {
            read_volatile((&raw const (*mount).way).cast::<u64>().add(word))
        })
    }
}

/// Remembers the mount that was walked, and its `number`.
///
/// # Safety
/// As [`remember`].
#[inline(always)]
pub unsafe fn remember_mount(s: *mut Scratch, number: u32) {
    // SAFETY: the caller's promise; behind the text there is more than a way is long.
    unsafe {
        let directories = &raw mut (*s).directories;
        let (start, inner) = ((*s).start, (*s).inner);
        let length = inner.wrapping_sub(start);
        // Of the root of a mount the text says nothing else than `/`, or what lies above.
        let inside = inner < CAP as u32 && length as usize <= WAY;
        if !inside || read_volatile(&raw const (*directories).asked) != 1 {
            return;
        }
        let mount = &raw mut (*directories).mount;
        let wanted = (&raw const (*directories).wanted).cast::<u64>();
        let key = (&raw mut (*mount).key).cast::<u64>();
        let mut i = 0;
        while i < PLACE.len() {
            write_volatile(key.add(i), read_volatile(wanted.add(PLACE[i])));
            i += 1;
        }
        write_volatile(key.add(PLACE.len()), read_volatile(wanted.add(8)) as u32 as u64);
        (*mount).walk = (*s).first;
        (*mount).number = number;
        (*mount).length = length;
        let text = (&raw const (*s).text).cast::<u8>().add(below::<CAP>(start as usize));
        let mut word = 0;
        while word < WAY / 8 {
            write_volatile(
                (&raw mut (*mount).way).cast::<u64>().add(word),
                name::word_at(text.add(word * 8)),
            );
            word += 1;
        }
    }
}

/// # Safety
/// `directories` is the current task's.
#[inline(always)]
unsafe fn slot(directories: *mut Directories, parent: Identity) -> *mut Directory {
    // SAFETY: the caller's promise; the index is bounded.
    unsafe {
        (&raw mut (*directories).known).cast::<Directory>().add(below::<DIRECTORIES>(parent.inode as usize))
    }
}
