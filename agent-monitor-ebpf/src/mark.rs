//! Objects that are denied whatever they are called here: the look-up of `agent_monitor_common::mark`.

use agent_monitor_common::layout::ABSENT;
use agent_monitor_common::mark::{MarkKey, Stamp};
use agent_monitor_common::path::Rights;
use core::ffi::c_void;

use crate::kernel::{offset, typed};
use crate::maps::{MARKED, MARKS};

/// What an inode is; all zero: there is none.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Identity {
    pub inode: u64,
    pub device: u32,
    pub version: u32,
}

impl Identity {
    pub const NONE: Identity = Identity { inode: 0, device: 0, version: 0 };
}

/// The identity of `inode`, a `struct inode *`.
///
/// # Safety
/// `inode` is a typed pointer.
#[inline(always)]
pub unsafe fn identity(inode: *const c_void) -> Identity {
    if inode.is_null() {
        return Identity::NONE;
    }
    // SAFETY: the caller's promise; an inode has a super block.
    unsafe {
        let sb: *const c_void = typed(inode, offset!(inode_sb));
        Identity {
            inode: typed(inode, offset!(inode_ino)),
            device: typed(sb, offset!(sb_dev)),
            version: typed(inode, offset!(inode_generation)),
        }
    }
}

/// The stamp of `inode`, a `struct inode *`.
///
/// # Safety
/// `inode` is a typed pointer that is not null.
#[inline(always)]
pub unsafe fn stamp(inode: *const c_void) -> Stamp {
    // Without a field of their own nanoseconds lie behind the seconds.
    let mut modified_nanos = offset!(inode_mtime_nsec);
    if modified_nanos == ABSENT as usize {
        modified_nanos = offset!(inode_mtime) + 8;
    }
    let mut changed_nanos = offset!(inode_ctime_nsec);
    if changed_nanos == ABSENT as usize {
        changed_nanos = offset!(inode_ctime) + 8;
    }
    // SAFETY: the caller's promise.
    unsafe {
        Stamp {
            modified: typed(inode, offset!(inode_mtime)),
            changed: typed(inode, offset!(inode_ctime)),
            modified_nanos: typed(inode, modified_nanos),
            // From 6.13 the upper bit says that somebody asked (`I_CTIME_QUERIED`, include/linux/fs.h).
            changed_nanos: typed::<u32>(inode, changed_nanos) & 0x7fff_ffff,
            size: typed(inode, offset!(inode_size)),
        }
    }
}

/// Whose marks are asked for.
#[derive(Clone, Copy)]
pub struct Owner {
    pub profile: u32,
    pub generation: u32,
    pub class: u32,
}

/// Whether a mark denies one of `needed` on an object, or on whatever lies in its directory. `deep`: of a directory,
/// what lies in it counts too.
#[inline(always)]
pub fn denies(owner: Owner, object: Identity, directory: Identity, deep: bool, needed: Rights) -> bool {
    match MARKED.get(owner.profile) {
        Some(0) => return false,
        Some(_) => {}
        None => return true,
    }
    let (own, inside) = marks(owner, object);
    let mut denied = own;
    if deep {
        denied |= inside;
    }
    denied |= marks(owner, directory).1;
    denied & needed != 0
}

/// What is denied on an object, and in it.
#[inline(always)]
fn marks(owner: Owner, object: Identity) -> (Rights, Rights) {
    if object.inode == 0 {
        return (0, 0);
    }
    let key = MarkKey {
        inode: object.inode,
        device: object.device,
        version: object.version,
        generation: owner.generation,
        profile: owner.profile,
        class: owner.class,
        pad: 0,
    };
    match MARKS.get_ptr(key) {
        // SAFETY: a preallocated element; two words that are written once.
        Some(mark) => unsafe { ((*mark).denied, (*mark).inside) },
        None => (0, 0),
    }
}
