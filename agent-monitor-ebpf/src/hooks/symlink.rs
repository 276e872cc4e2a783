//! Symlinks, where the kernel runs BPF LSM programs: none comes to be at a name on the way to a denied object, where it
//! would lead whoever follows the name elsewhere (`.git/hooks` under a denial of `.git/hooks/*`).
//!
//! Programs of their own at the hooks of `file.rs`, which judge the names themselves.
// VERIFIER: "BPF program is too large": in one program with those.

use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::image::class;
use agent_monitor_common::path::leads_astray;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::file::{EXCHANGE, Entry, Object, Subject, WRITE, enter_paths, judged, of_entry, scratch, settle};
use crate::automaton;
use crate::fail;
use crate::kernel::{offset, typed};
use crate::path::{self, Place, Scratch};
use crate::subject::Policy;

/// Judges a name that becomes a symlink's. True: deny it.
///
/// # Safety
/// `directory` is the typed `struct path *` of the name's directory; the object's pointers come from typed loads.
#[inline(always)]
unsafe fn astray(subject: &Subject, hook: Hook, directory: *const c_void, object: Object) -> bool {
    let needed = judged(&subject.policy, WRITE);
    if needed == 0 {
        return false;
    }
    let s = match scratch(subject, needed) {
        Ok(s) => s,
        Err(deny) => return deny,
    };
    // SAFETY: the caller's promise; the current task's own scratch.
    unsafe {
        let above: u64 = typed(directory, offset!(path_dentry));
        let (reason, walked) = match ends(subject, s, object, above) {
            Ok(None) => return false,
            Ok(Some((beside, there))) if !leads_astray(&subject.policy.table, beside, there) => return false,
            Ok(Some(_)) => (Reason::DeniedBelow, true),
            Err(()) => (Reason::NoPath, false),
        };
        settle(s, subject, hook, reason.code() as u32, object, needed, walked.into())
    }
}

/// Where the walks over the paths of a directory and of a name in it end; `None`: they have none.
///
/// # Safety
/// As [`astray`]; `s` is the current task's scratch, `above` the directory's `struct dentry *`.
#[inline(always)]
unsafe fn ends(
    subject: &Subject,
    s: *mut Scratch,
    object: Object,
    above: u64,
) -> Result<Option<(u32, u32)>, ()> {
    let Policy { table, class, .. } = &subject.policy;
    // SAFETY: the caller's promise.
    unsafe {
        if matches!(path::place(object.mnt).map_err(fail::count)?, Place::Internal) {
            return Ok(None);
        }
        let start = class.field(table, class::START_PATH) as u32;
        path::walk_address(s, object.mnt, above).map_err(fail::count)?;
        let beside = automaton::run(*table, start, s);
        path::walk_address(s, object.mnt, object.dentry).map_err(fail::count)?;
        Ok(Some((beside, automaton::run(*table, start, s))))
    }
}

/// `int path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`.
#[lsm(hook = "path_symlink")]
pub fn file_symlink_way(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<3>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (directory, dentry): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: trusted arguments of the hook.
    unsafe {
        let object = of_entry(directory, dentry);
        if astray(&subject, Hook::LsmPathSymlink, directory, object) { -13 } else { 0 }
    }
}

/// `int path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)`.
#[lsm(hook = "path_link")]
pub fn file_link_way(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<3>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (old, directory, new): (*const c_void, *const c_void, *const c_void) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    // SAFETY: trusted arguments of the hook.
    unsafe {
        if !of_entry(directory, old).link {
            return 0;
        }
        if astray(&subject, Hook::LsmPathLink, directory, of_entry(directory, new)) { -13 } else { 0 }
    }
}

/// `int path_rename(const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir, struct dentry
/// *new_dentry, unsigned int flags)`.
#[lsm(hook = "path_rename")]
pub fn file_rename_way(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<5>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (from, old): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let (to, new): (*const c_void, *const c_void) = (ctx.arg(2), ctx.arg(3));
    let flags: u64 = ctx.arg(4);
    // SAFETY: trusted arguments of the hook.
    unsafe {
        let (moved, replaced) = (of_entry(from, old), of_entry(to, new));
        if moved.link && astray(&subject, Hook::LsmPathRename, to, replaced) {
            return -13;
        }
        // What is exchanged moves too.
        let exchanged = replaced.link && flags as u32 & EXCHANGE != 0;
        if exchanged && astray(&subject, Hook::LsmPathRename, from, moved) { -13 } else { 0 }
    }
}
