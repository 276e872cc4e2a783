//! Allowed repeats: told of once, counted afterwards, so that an `npm install` is no flood.

use agent_monitor_common::activity::{UsedKey, object_of};
use agent_monitor_common::counters::Site;
use agent_monitor_common::path::Rights;

use crate::kernel::{offset, read};
use crate::maps::USED;
use crate::{atomic, fail};

const NO_EXIST: u64 = 1; // BPF_NOEXIST

/// The word under which uses of an object on `mnt` (a `struct vfsmount *`) are counted: its own, or its directory's where
/// it does not exist yet.
#[inline(always)]
pub fn object(mnt: u64, dentry: u64, inode: u64) -> u64 {
    object_on(mount(mnt), dentry, inode)
}

/// The number of `mnt` (a `struct vfsmount *`).
#[inline(always)]
pub fn mount(mnt: u64) -> u32 {
    let id = mnt.wrapping_sub(offset!(mount_mnt) as u64).wrapping_add(offset!(mount_id) as u64);
    read::<u32>(id).unwrap_or_else(|| {
        fail::count(Site::KernelRead);
        0
    })
}

/// [`object`] on the mount of a number.
#[inline(always)]
pub fn object_on(mount: u32, dentry: u64, inode: u64) -> u64 {
    if inode != 0 {
        return object_of(mount, inode, false);
    }
    let directory = read::<u64>(dentry.wrapping_add(offset!(dentry_parent) as u64))
        .and_then(|parent| read::<u64>(parent.wrapping_add(offset!(dentry_inode) as u64)))
        .and_then(|inode| read::<u64>(inode.wrapping_add(offset!(inode_ino) as u64)));
    match directory {
        Some(directory) => object_of(mount, directory, true),
        None => {
            fail::count(Site::KernelRead);
            object_of(mount, 0, true)
        }
    }
}

/// Counts a use. Whether the agent was told of for it already.
#[inline(always)]
pub fn again(agent: u32, rights: Rights, object: u64) -> bool {
    let key = UsedKey::new(agent, rights, object);
    if count(&key) {
        return true;
    }
    if USED.insert(key, 1, NO_EXIST).is_ok() {
        return false;
    }
    // Another processor was first, or there is no room.
    let counted = count(&key);
    if !counted {
        fail::count(Site::UsedInsert);
    }
    counted
}

#[inline(always)]
fn count(key: &UsedKey) -> bool {
    match USED.get_ptr_mut(key) {
        Some(cell) => {
            // SAFETY: an element of a preallocated map; all writers use atomics.
            unsafe { atomic::add(cell, 1) };
            true
        }
        None => false,
    }
}
