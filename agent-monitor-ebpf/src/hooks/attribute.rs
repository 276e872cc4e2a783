//! Attributes of files, where the kernel runs BPF LSM programs: extended attributes, ACLs, times and flags.
//!
//! The kernel's hooks about them get a dentry and no mount, and without its mount an object has no path. But whoever
//! changes an attribute asks the mount for write access first (`mnt_want_write`, fs/namespace.c), in the same call of
//! the same task: a program at its entry notes the mount, the hook takes it from there. A note about another file system
//! is not the object's: then a file system that is stacked on others (overlay) changes the object below, with the
//! credentials of its own mounter, and the object above was judged; or something is wrong, and it is denied.

use agent_monitor_common::counters::Site;
use agent_monitor_common::event::Hook;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use aya_ebpf::macros::{fentry, lsm};
use aya_ebpf::programs::{FEntryContext, LsmContext};
use core::ffi::c_void;

use super::file::{Act, Entry, Subject, WRITE, denies, enter_paths, of_dentry, of_file};
use crate::fail;
use crate::kernel::{offset, read, typed};
use crate::maps::WRITES;
use crate::subject::{current_tgid, has_bit};

/// `ATTR_SIZE`, and `ATTR_ATIME | ATTR_MTIME` (include/linux/fs.h).
const SIZE: u32 = 1 << 3;
const TIMES: u32 = 1 << 4 | 1 << 5;

/// The calls that change what `chattr` changes, which a descriptor for reading is enough for: `FS_IOC_SETFLAGS`, its
/// 32-bit form, `FS_IOC_FSSETXATTR`, `FS_IOC_SETVERSION` (include/uapi/linux/fs.h).
const SET_FLAGS: [u32; 4] = [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4008_7602];

/// Notes the mount that the current task is about to write to.
#[inline(always)]
fn note(mnt: u64) {
    match WRITES.current() {
        // SAFETY: the current task's own element.
        Some(cell) => unsafe { *cell = mnt },
        // The hook finds none either, and denies.
        None => fail::count(Site::TaskStorage),
    }
}

/// `int mnt_want_write(struct vfsmount *m)`.
#[fentry(function = "mnt_want_write")]
pub fn file_want_write(ctx: FEntryContext) -> i32 {
    if has_bit(current_tgid()) {
        let mnt: *const c_void = ctx.arg(0);
        note(mnt as u64);
    }
    0
}

/// `int mnt_want_write_file(struct file *file)`.
#[fentry(function = "mnt_want_write_file")]
pub fn file_want_write_file(ctx: FEntryContext) -> i32 {
    if has_bit(current_tgid()) {
        let file: *const c_void = ctx.arg(0);
        // SAFETY: an argument of the traced function.
        note(unsafe { typed(file, offset!(file_path) + offset!(path_mnt)) });
    }
    0
}

/// The mount by which the current task reached an object of the file system `sb`; `None`: another file system asked
/// for it, and judged. 0: it is not known.
#[inline(always)]
fn mount_of(sb: u64) -> Option<u64> {
    if let Some(cell) = WRITES.current() {
        // SAFETY: the current task's own element.
        let mnt = unsafe { *cell };
        if mnt != 0 && read::<u64>(mnt.wrapping_add(offset!(vfsmount_sb) as u64)) == Some(sb) {
            return Some(mnt);
        }
    }
    // SAFETY: the current task is a trusted pointer.
    let (own, acting): (u64, u64) = unsafe {
        let task: *const c_void = bpf_get_current_task_btf().cast::<c_void>().cast_const();
        (typed(task, offset!(task_real_cred)), typed(task, offset!(task_cred)))
    };
    if own == acting { Some(0) } else { None }
}

/// Judges a change of an attribute. True: deny it.
///
/// # Safety
/// `dentry` is a trusted `struct dentry *`.
#[inline(always)]
unsafe fn changes(subject: &Subject, hook: Hook, dentry: *const c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match mount_of(typed(dentry, offset!(dentry_sb))) {
            Some(mnt) => denies(subject, hook, Act::Use, of_dentry(mnt, dentry), WRITE),
            None => false,
        }
    }
}

/// A hook about one attribute; `$dentry`: the number of the argument.
macro_rules! attribute_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $arguments:literal, $dentry:literal) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter_paths::<$arguments>(&ctx) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let dentry: *const c_void = ctx.arg($dentry);
            // SAFETY: a trusted argument of the hook.
            if unsafe { changes(&subject, Hook::$code, dentry) } { -13 } else { 0 }
        }
    };
}

attribute_hook!(
    /// `int inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name, const void *value, size_t
    /// size, int flags)`: before 6.2 ACLs too.
    file_setxattr, "inode_setxattr", LsmInodeSetxattr, 6, 1
);
attribute_hook!(
    /// `int inode_removexattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name)`.
    file_removexattr, "inode_removexattr", LsmInodeRemovexattr, 3, 1
);
attribute_hook!(
    /// `int inode_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name, struct posix_acl *kacl)`,
    /// from 6.2.
    file_set_acl, "inode_set_acl", LsmInodeSetAcl, 4, 1
);
attribute_hook!(
    /// `int inode_remove_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name)`, from 6.2.
    file_remove_acl, "inode_remove_acl", LsmInodeRemoveAcl, 3, 1
);
attribute_hook!(
    /// `int inode_file_setattr(struct dentry *dentry, struct file_kattr *fa)`, from 6.17: flags by path too.
    file_set_flags, "inode_file_setattr", LsmInodeFileSetattr, 2, 0
);

/// Argument `N` of a hook.
// VERIFIER: "dereference of modified ctx ptr": of two branches that load different arguments LLVM makes one load with a
// chosen offset.
#[inline(always)]
fn argument<const N: usize>(ctx: &LsmContext) -> *const c_void {
    let pointer: *const c_void;
    // SAFETY: one load from the hook's context.
    unsafe {
        core::arch::asm!(
            "{v} = *(u64 *)({c} + {n})",
            v = out(reg) pointer,
            c = in(reg) ctx.as_ptr(),
            n = const N * 8,
            options(nostack, readonly),
        );
    }
    pointer
}

/// `int inode_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)`, before 6.9 without the
/// first: times. A new size, mode or owner is judged by its own hook.
#[lsm(hook = "inode_setattr")]
pub fn file_set_times(ctx: LsmContext) -> i32 {
    // The loader found which; the verifier walks that branch only.
    let (subject, dentry, attributes) = if offset!(inode_setattr_dentry) == 0 {
        match enter_paths::<2>(&ctx) {
            Entry::Settled(verdict) => return verdict,
            Entry::Judge(subject) => (subject, argument::<0>(&ctx), argument::<1>(&ctx)),
        }
    } else {
        match enter_paths::<3>(&ctx) {
            Entry::Settled(verdict) => return verdict,
            Entry::Judge(subject) => (subject, argument::<1>(&ctx), argument::<2>(&ctx)),
        }
    };
    // SAFETY: trusted arguments of the hook.
    unsafe {
        let valid: u32 = typed(attributes, offset!(iattr_valid));
        if valid & TIMES == 0 || valid & SIZE != 0 {
            return 0;
        }
        if changes(&subject, Hook::LsmInodeSetattr, dentry) { -13 } else { 0 }
    }
}

/// `int file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`: flags by descriptor.
#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<3>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (file, command): (*const c_void, u32) = (ctx.arg(0), ctx.arg(1));
    if !SET_FLAGS.contains(&command) {
        return 0;
    }
    // SAFETY: a trusted argument of the hook.
    unsafe { if denies(&subject, Hook::LsmFileIoctl, Act::Use, of_file(file), WRITE) { -13 } else { 0 } }
}
