//! Pinned programs, where the kernel runs BPF LSM programs that may sleep: what is about to run is hashed by the kernel,
//! from the open file that will run, where its IMA hashes with SHA-256; elsewhere the daemon told what the file held when
//! it had the times and the size that it has now.
//!
//! A pinned file becomes code only by an exec that found it unchanged: mapping it otherwise (`ld.so program`) is denied.
//! What must stay true: `verified` names a file whose content was found right by the task's own last exec, and none once
//! that exec has succeeded. One that fails behind this check leaves the name; so it counts only while the task is in an
//! exec, and the next one forgets it before anything is mapped.

use agent_monitor_common::counters::Site;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::layout::ABSENT;
use agent_monitor_common::pin::{self, FileKey};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_ima_file_hash};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::file::{EXECUTE, Entry, Object, Subject, enter_paths, of_file, settle};
use crate::fail;
use crate::kernel::{offset, typed};
use crate::maps::{CHECKED, HASH_TRIAL, SCRATCH};
use crate::mark::{Identity, stamp};
use crate::path::{self, Place, Scratch};
use crate::path_hash;
use crate::subject::current_tgid;

/// Where an object's pin is in the image; `None`: its path has none. `Err`: there is no telling, and it was counted.
///
/// # Safety
/// `s` is the current task's; the object's pointers come from typed loads.
#[inline(always)]
unsafe fn pin_of(subject: &Subject, s: *mut Scratch, object: Object) -> Result<Option<u32>, Site> {
    // SAFETY: the caller's promise.
    unsafe {
        match path::place(object.mnt)? {
            // What has no path is executed by no rule, and another program of the same hook denies it.
            Place::Internal => return Ok(None),
            Place::Mounted => {}
        }
        path::walk(s, object.mnt, object.dentry)?;
        Ok(pin::find(&subject.policy.table, path_hash::hash(s)))
    }
}

/// Denies an object of which nothing can be told.
///
/// # Safety
/// As [`pin_of`].
#[inline(always)]
unsafe fn untold(subject: &Subject, hook: Hook, s: *mut Scratch, site: Site, object: Object) -> bool {
    fail::count(site);
    // SAFETY: the caller's promise.
    unsafe { settle(s, subject, hook, Reason::NoPath.code() as u32, object, EXECUTE, false.into()) }
}

/// Whether the loader saw the kernel hash with SHA-256.
#[inline(always)]
fn hashes() -> bool {
    // SAFETY: an array element; the loader writes it before anything is in force.
    HASH_TRIAL.get_ptr(0).is_some_and(|trial| unsafe { (*trial).answer == pin::SHA256 })
}

/// Whether the daemon told the content of a file as it is now; its digest.
///
/// # Safety
/// `inode` is a typed `struct inode *` that is not null.
#[inline(always)]
unsafe fn told(is: Identity, inode: *const c_void, digest: &mut [u64; 4]) -> bool {
    let key = FileKey { inode: is.inode, device: is.device, version: is.version };
    let Some(checked) = CHECKED.get_ptr(key) else { return false };
    // SAFETY: the caller's promise; a preallocated element.
    unsafe {
        let (now, then) = (stamp(inode), (*checked).stamp);
        *digest = (*checked).digest;
        now.modified == then.modified
            && now.changed == then.changed
            && now.modified_nanos == then.modified_nanos
            && now.changed_nanos == then.changed_nanos
            && now.size == then.size
    }
}

/// `int bprm_check_security(struct linux_binprm *bprm)`: the content of a pinned program.
#[lsm(hook = "bprm_check_security", sleepable)]
pub fn digest_bprm_check(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<1>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    if pin::table(&subject.policy.table).1 == 0 {
        return 0;
    }
    let bprm: *const c_void = ctx.arg(0);
    // SAFETY: a trusted argument of the hook; its file is open. The scratch is the current task's.
    unsafe {
        let file: *const c_void = typed(bprm, offset!(bprm_file));
        let object = of_file(file);
        let Some(s) = SCRATCH.current() else {
            fail::count(Site::TaskStorage);
            return if subject.enforces() { -13 } else { 0 };
        };
        (*s).verified = Identity::NONE;
        let at = match pin_of(&subject, s, object) {
            Ok(Some(at)) => at,
            Ok(None) => return 0,
            Err(site) => {
                return if untold(&subject, Hook::LsmBprmCheck, s, site, object) { -13 } else { 0 };
            }
        };
        let mut digest = [0_u64; 4];
        let known = if hashes() {
            bpf_ima_file_hash(file.cast_mut().cast(), (&raw mut digest).cast(), 32) as i64 == pin::SHA256
        } else {
            told(object.identity, typed(file, offset!(file_inode)), &mut digest)
        };
        let reason = if !known {
            Reason::DigestUnknown
        } else if pin::agrees(&subject.policy.table, at, &digest) {
            (*s).verified = object.identity;
            return 0;
        } else {
            Reason::Digest
        };
        // The helper may have opened the file once more, in another hook of this task.
        let walked = path::walk(s, object.mnt, object.dentry).is_ok();
        let reason = reason.code() as u32;
        if settle(s, &subject, Hook::LsmBprmCheck, reason, object, EXECUTE, walked.into()) { -13 } else { 0 }
    }
}

/// Whether the current task is in the middle of an exec. Where the kernel does not tell, it never is: then no pinned
/// program runs.
#[inline(always)]
fn in_exec() -> bool {
    let bit = offset!(task_in_execve);
    if bit == ABSENT as usize {
        return false;
    }
    // SAFETY: the current task is a trusted pointer; the byte that has the bit.
    unsafe {
        let task: *const c_void = bpf_get_current_task_btf().cast::<c_void>().cast_const();
        typed::<u8>(task, bit / 8) >> (bit % 8) & 1 == 1
    }
}

/// Whether a file that becomes code is pinned, and not what is being executed.
///
/// # Safety
/// The object's pointers come from typed loads.
#[inline(always)]
pub unsafe fn maps_unverified(subject: &Subject, hook: Hook, object: Object) -> bool {
    if pin::table(&subject.policy.table).1 == 0 {
        return false;
    }
    // SAFETY: the caller's promise; the scratch is the current task's.
    unsafe {
        let Some(s) = SCRATCH.current() else {
            fail::count(Site::TaskStorage);
            return subject.enforces();
        };
        let verified = (*s).verified;
        match pin_of(subject, s, object) {
            Ok(None) => return false,
            Ok(Some(_)) if verified == object.identity && in_exec() => return false,
            Ok(Some(_)) => {}
            Err(site) => return untold(subject, hook, s, site, object),
        }
        settle(s, subject, hook, Reason::Digest.code() as u32, object, EXECUTE, true.into())
    }
}

/// `int file_lock(struct file *file, unsigned int cmd)`: attached only while the loader shows the kernel a file, to see
/// what it makes of it.
#[lsm(hook = "file_lock", sleepable)]
pub fn digest_trial(ctx: LsmContext) -> i32 {
    let Some(trial) = HASH_TRIAL.get_ptr_mut(0) else { return 0 };
    // SAFETY: an array element, used by one loader at a time; a trusted argument of the hook.
    unsafe {
        if (*trial).tgid != current_tgid() {
            return 0;
        }
        let file: *mut c_void = ctx.arg(0);
        let mut digest = [0_u64; 4];
        let answer = bpf_ima_file_hash(file.cast(), (&raw mut digest).cast(), 32) as i64;
        (*trial).digest = digest;
        (*trial).answer = answer;
    }
    0
}
