//! Programs, where the kernel runs BPF LSM programs: judged once more where the kernel has decided to run them, so that
//! executing rests on more than the flag of an open.

use agent_monitor_common::event::Hook;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::file::{Act, EXECUTE, Entry, denies, enter_paths, of_file};
use crate::kernel::{offset, typed};

/// `int bprm_check_security(struct linux_binprm *bprm)`: the program, and after it each interpreter that it names, also
/// one that `binfmt_misc` holds open since long, a memfd, a file without a name.
#[lsm(hook = "bprm_check_security")]
pub fn file_bprm_check(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<1>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let bprm: *const c_void = ctx.arg(0);
    // SAFETY: a trusted argument of the hook; its file is open.
    unsafe {
        let file: *const c_void = typed(bprm, offset!(bprm_file));
        if denies(&subject, Hook::LsmBprmCheck, Act::Use, of_file(file), EXECUTE) { -13 } else { 0 }
    }
}
