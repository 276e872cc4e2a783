//! Privileges of the host, where the kernel runs BPF LSM programs: capabilities, gains of user and capabilities by exec,
//! user namespaces, tracing, signals, kernel modules, `bpf`, `perf_event_open` and io_uring's own powers.
//!
//! The kernel's own checks run first (the `capability` module is always in front), so what is denied here is what the
//! process would have got. Nothing is judged for a profile without a `privileges` section.

use agent_monitor_common::activity::{PRIVILEGE, UsedKey};
use agent_monitor_common::counters::{Domain, Effect, Mode};
use agent_monitor_common::event::{Hook, Kind, PrivilegeBody, Reason};
use agent_monitor_common::image::{HAS_PRIVILEGES, HAS_PROTECTED};
use agent_monitor_common::privilege::{Privilege, capability_granted, granted, target_granted};
use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_task_btf};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::file::{Entry, Subject, enter};
use super::lsm::{is_null, not_permitted};
use super::protect::{is_monitor, protects, reaches_others};
use crate::activity;
use crate::emit::{self, Outcome, Record};
use crate::kernel::{offset, typed};
use crate::maps::REPORTED;
use crate::subject::{current_tgid, has_bit, label_of};

const EPERM: u16 = 1;

/// What is asked, for the record.
#[derive(Clone, Copy)]
pub struct Asked {
    privilege: Privilege,
    /// See [`PrivilegeBody::number`].
    number: u32,
    /// The process that it is aimed at; 0: none.
    target: u32,
    /// Why a denial of it falls.
    reason: Reason,
    /// Only counted: a probe that the kernel itself does not audit, a denial that was reported before, or what is allowed
    /// without a grant.
    quiet: bool,
}

impl Asked {
    /// A privilege that is aimed at no process.
    #[inline(always)]
    pub fn plain(privilege: Privilege, number: u32) -> Self {
        Asked { privilege, number, target: 0, reason: Reason::Default, quiet: false }
    }
}

/// The current process, if its profile judges privileges; `N`: number of the hook's arguments.
#[inline(always)]
fn enter_privileges<const N: usize>(ctx: &LsmContext) -> Entry {
    enter::<N>(ctx, Domain::Privilege, HAS_PRIVILEGES)
}

/// Counts a decision, reports a denial and the first use of a grant. The hook's verdict.
#[inline(always)]
pub fn judge(subject: &Subject, hook: Hook, allowed: bool, asked: Asked) -> i32 {
    let Subject { label, policy, .. } = subject;
    if allowed {
        emit::decision(Domain::Privilege, Effect::Allow, policy.mode());
        let used = UsedKey::privilege(asked.privilege.code(), asked.number);
        if !asked.quiet && !activity::again(label.agent, PRIVILEGE, used) {
            report(subject, hook, Effect::Allow, 0, Asked { reason: Reason::Rule, ..asked });
        }
        return 0;
    }
    emit::decision(Domain::Privilege, Effect::Deny, policy.mode());
    let enforce = matches!(policy.mode(), Mode::Enforce);
    if !asked.quiet {
        report(subject, hook, Effect::Deny, if enforce { EPERM } else { 0 }, asked);
        emit::denied(label.agent);
    }
    not_permitted(enforce)
}

#[inline(always)]
fn report(subject: &Subject, hook: Hook, effect: Effect, errno: u16, asked: Asked) {
    let Subject { label, policy, .. } = subject;
    let outcome = Outcome { effect, mode: policy.mode(), generation: policy.generation, errno };
    let length = size_of::<Record<PrivilegeBody>>();
    let mut record = Record {
        header: emit::header(Kind::Privilege, hook, length, label, outcome),
        body: PrivilegeBody {
            privilege: asked.privilege.code(),
            reason: asked.reason.code() as u32,
            number: asked.number,
            target: asked.target,
            uid: bpf_get_current_uid_gid() as u32,
            ..PrivilegeBody::ZERO // 6.1 does not pad `comm`
        },
    };
    // SAFETY: the helper writes at most 16 bytes.
    unsafe { bpf_get_current_comm((&raw mut record.body.comm).cast(), 16) };
    emit::record(outcome.ring(), label.agent, &record);
}

/// A hook about one privilege, whatever its arguments say.
macro_rules! plain_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $arguments:literal, $privilege:ident) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter_privileges::<$arguments>(&ctx) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let allowed = granted(&subject.policy.table, subject.policy.class, Privilege::$privilege);
            judge(&subject, Hook::$code, allowed, Asked::plain(Privilege::$privilege, 0))
        }
    };
}

/// `CAP_OPT_NOAUDIT` (include/linux/security.h): the kernel only wants to know.
const NOAUDIT: u32 = 2;

/// `int capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)`: called for what the
/// process has, after the `capability` module said yes.
#[lsm(hook = "capable")]
pub fn privilege_capable(ctx: LsmContext) -> i32 {
    let subject = match enter_privileges::<4>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let namespace: *const c_void = ctx.arg(1);
    let (number, options): (i32, u32) = (ctx.arg(2), ctx.arg(3));
    // SAFETY: a trusted argument of the hook.
    let made = unsafe { typed::<i32>(namespace, offset!(userns_level)) } > 0;
    let allowed = capability_granted(&subject.policy.table, subject.policy.class, number as u32, made);
    let mut asked = Asked::plain(Privilege::Capability, number as u32);
    asked.quiet = options & NOAUDIT != 0;
    if asked.quiet {
        // A probe is no first time.
    } else if !allowed {
        asked.quiet = reported(&subject, number as u32);
    } else if made {
        // By the grant of user namespaces, as a rule.
        asked.quiet = !capability_granted(&subject.policy.table, subject.policy.class, number as u32, false);
    }
    judge(&subject, Hook::LsmCapable, allowed, asked)
}

/// Whether this task's denial of a capability was reported before; from now on it is.
#[inline(always)]
fn reported(subject: &Subject, number: u32) -> bool {
    // Without storage it is reported once more.
    let Some(known) = REPORTED.current() else { return false };
    let bit = 1 << (number & 63);
    // SAFETY: the current task's own storage.
    unsafe {
        if (*known).agent != subject.label.agent || (*known).generation != subject.policy.generation {
            (*known).agent = subject.label.agent;
            (*known).generation = subject.policy.generation;
            (*known).capabilities = 0;
        }
        let before = (*known).capabilities;
        (*known).capabilities = before | bit;
        before & bit != 0
    }
}

/// The ids of a `struct cred` that say who acts.
struct Ids {
    real: u32,
    saved: u32,
    effective: u32,
    file_system: u32,
}

impl Ids {
    /// Whether `id` is one of them.
    #[inline(always)]
    fn have(&self, id: u32) -> bool {
        id == self.real || id == self.saved || id == self.effective || id == self.file_system
    }

    /// One that `old` does not have, if there is any.
    #[inline(always)]
    fn beyond(&self, old: &Ids) -> Option<u32> {
        if !old.have(self.real) {
            Some(self.real)
        } else if !old.have(self.saved) {
            Some(self.saved)
        } else if !old.have(self.effective) {
            Some(self.effective)
        } else if !old.have(self.file_system) {
            Some(self.file_system)
        } else {
            None
        }
    }
}

/// The user ids of `cred`.
///
/// # Safety
/// A typed `struct cred *`.
#[inline(always)]
unsafe fn users(cred: *const c_void) -> Ids {
    // SAFETY: the caller's promise.
    unsafe {
        Ids {
            real: typed(cred, offset!(cred_uid)),
            saved: typed(cred, offset!(cred_suid)),
            effective: typed(cred, offset!(cred_euid)),
            file_system: typed(cred, offset!(cred_fsuid)),
        }
    }
}

/// The group ids of `cred`.
///
/// # Safety
/// A typed `struct cred *`.
#[inline(always)]
unsafe fn groups(cred: *const c_void) -> Ids {
    // SAFETY: the caller's promise.
    unsafe {
        Ids {
            real: typed(cred, offset!(cred_gid)),
            saved: typed(cred, offset!(cred_sgid)),
            effective: typed(cred, offset!(cred_egid)),
            file_system: typed(cred, offset!(cred_fsgid)),
        }
    }
}

/// The permitted capabilities of `cred`. Two words: before 6.3 it is an array of such, and a load across its elements
/// is refused.
///
/// # Safety
/// A typed `struct cred *`.
#[inline(always)]
unsafe fn permitted(cred: *const c_void) -> u64 {
    let at = offset!(cred_permitted);
    // SAFETY: the caller's promise.
    unsafe { typed::<u32>(cred, at) as u64 | (typed::<u32>(cred, at + 4) as u64) << 32 }
}

/// `int bprm_creds_from_file(struct linux_binprm *bprm, struct file *file)`: an exec is about to gain another user,
/// another group or capabilities by what the file is.
#[lsm(hook = "bprm_creds_from_file")]
pub fn privilege_exec(ctx: LsmContext) -> i32 {
    let subject = match enter_privileges::<2>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let bprm: *const c_void = ctx.arg(0);
    // SAFETY: a trusted argument of the hook; the current task's and the exec's credentials are there.
    let gained = unsafe {
        let task: *const c_void = bpf_get_current_task_btf().cast_const().cast();
        let old: *const c_void = typed(task, offset!(task_cred));
        let new: *const c_void = typed(bprm, offset!(bprm_cred));
        let (old_user, new_user) = (users(old).effective, users(new).effective);
        let (old_group, new_group) = (groups(old).effective, groups(new).effective);
        // What root gets by an exec is no gain by the file: it is root's, and each use is judged.
        let by_file = new_user != 0 && permitted(new) & !permitted(old) != 0;
        if old_user != new_user {
            Some(new_user)
        } else if old_group != new_group {
            Some(new_group)
        } else if by_file {
            Some(new_user)
        } else {
            None
        }
    };
    let Some(id) = gained else { return 0 };
    let allowed = granted(&subject.policy.table, subject.policy.class, Privilege::Setuid);
    judge(&subject, Hook::LsmBprmCredsFromFile, allowed, Asked::plain(Privilege::Setuid, id))
}

/// A hook about new ids of the current process: `(struct cred *new, const struct cred *old, int flags)`.
macro_rules! ids_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $ids:ident) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter_privileges::<3>(&ctx) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let (new, old): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
            // SAFETY: trusted arguments of the hook.
            let Some(id) = (unsafe { $ids(new).beyond(&$ids(old)) }) else { return 0 };
            let allowed = granted(&subject.policy.table, subject.policy.class, Privilege::Setuid);
            judge(&subject, Hook::$code, allowed, Asked::plain(Privilege::Setuid, id))
        }
    };
}

ids_hook!(
    /// `int task_fix_setuid(struct cred *new, const struct cred *old, int flags)`: `setuid` and its like, to a user
    /// that the process is not already by its real, effective, saved or file system id.
    privilege_setuid, "task_fix_setuid", LsmTaskFixSetuid, users
);
ids_hook!(
    /// `int task_fix_setgid(struct cred *new, const struct cred *old, int flags)`.
    privilege_setgid, "task_fix_setgid", LsmTaskFixSetgid, groups
);

plain_hook!(
    /// `int userns_create(const struct cred *cred)`.
    privilege_userns, "userns_create", LsmUsernsCreate, 1, UserNamespace
);

/// The process of a task, and whether it belongs to the agent.
///
/// # Safety
/// A typed `struct task_struct *`.
#[inline(always)]
unsafe fn target(subject: &Subject, task: *const c_void) -> (u32, bool) {
    // SAFETY: the caller's promise.
    let tgid: u32 = unsafe { typed(task, offset!(task_tgid)) };
    let own = tgid == current_tgid()
        || has_bit(tgid) && matches!(label_of(tgid), Ok(label) if label.agent == subject.label.agent);
    (tgid, own)
}

/// What is asked of a process.
#[inline(always)]
fn aimed(privilege: Privilege, number: u32, target: u32, own: bool) -> Asked {
    let reason = if own { Reason::Default } else { Reason::Outside };
    Asked { privilege, number, target, reason, quiet: false }
}

/// The verdict where the target is the monitor, or where the profile says nothing of privileges.
#[inline(always)]
fn aimed_at_monitor(
    subject: &Subject,
    hook: Hook,
    privilege: Privilege,
    number: u32,
    tgid: u32,
    own: bool,
) -> Option<i32> {
    if protects(&subject.policy) && !own && is_monitor(tgid) {
        let mut asked = Asked { privilege, number, target: tgid, reason: Reason::Protected, quiet: false };
        asked.quiet = matches!(privilege, Privilege::Ptrace) && number & PTRACE_NOAUDIT != 0;
        return Some(judge(subject, hook, false, asked));
    }
    if subject.policy.flags & HAS_PRIVILEGES == 0 { Some(0) } else { None }
}

/// `PTRACE_MODE_NOAUDIT` (include/linux/ptrace.h): `ps` reads every process' state and is content without the rest.
const PTRACE_NOAUDIT: u32 = 4;

/// `int ptrace_access_check(struct task_struct *child, unsigned int mode)`: attaching, `process_vm_readv`, `pidfd_getfd`,
/// `/proc/PID/{mem,environ,maps,fd,root,ns,…}`. A process' threads are not asked about.
#[lsm(hook = "ptrace_access_check")]
pub fn privilege_ptrace(ctx: LsmContext) -> i32 {
    let subject = match enter::<2>(&ctx, Domain::Privilege, HAS_PRIVILEGES | HAS_PROTECTED) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let child: *const c_void = ctx.arg(0);
    let mode: u32 = ctx.arg(1);
    // SAFETY: a trusted argument of the hook.
    let (tgid, own) = unsafe { target(&subject, child) };
    if let Some(verdict) =
        aimed_at_monitor(&subject, Hook::LsmPtraceAccessCheck, Privilege::Ptrace, mode, tgid, own)
    {
        return verdict;
    }
    let allowed = target_granted(&subject.policy.table, subject.policy.class, Privilege::Ptrace, own);
    let mut asked = aimed(Privilege::Ptrace, mode, tgid, own);
    asked.quiet = mode & PTRACE_NOAUDIT != 0 || allowed && own;
    judge(&subject, Hook::LsmPtraceAccessCheck, allowed, asked)
}

/// `int ptrace_traceme(struct task_struct *parent)`: a process asks its parent to trace it. Whoever the parent is, the
/// agent gains nothing over it; so this is denied only where no tracing is granted at all.
#[lsm(hook = "ptrace_traceme")]
pub fn privilege_traceme(ctx: LsmContext) -> i32 {
    let subject = match enter_privileges::<1>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let allowed = target_granted(&subject.policy.table, subject.policy.class, Privilege::Ptrace, true);
    let asked = Asked { quiet: allowed, ..Asked::plain(Privilege::Ptrace, 0) };
    judge(&subject, Hook::LsmPtraceTraceme, allowed, asked)
}

/// `int task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)`: every signal
/// that a process sends; the kernel's own are not asked about. `cred`: sent for another (USB), not by the current one.
#[lsm(hook = "task_kill")]
pub fn privilege_signal(ctx: LsmContext) -> i32 {
    let subject = match enter::<4>(&ctx, Domain::Privilege, HAS_PRIVILEGES | HAS_PROTECTED) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let task: *const c_void = ctx.arg(0);
    let signal: i32 = ctx.arg(2);
    // Signal 0 tells whether there is such a process, and so does `/proc`: lock files with a process' number need it.
    if signal == 0 || !is_null::<3>(&ctx) {
        return 0;
    }
    // A process that has ended lost its label and can't be harmed: whoever ends its children does not wait first.
    // SAFETY: a trusted argument of the hook, and its signal struct.
    let ended = unsafe {
        let shared: *const c_void = typed(task, offset!(task_signal));
        typed::<i32>(shared, offset!(signal_live)) == 0
    };
    if ended {
        return 0;
    }
    // SAFETY: a trusted argument of the hook.
    let (tgid, own) = unsafe { target(&subject, task) };
    if let Some(verdict) =
        aimed_at_monitor(&subject, Hook::LsmTaskKill, Privilege::Signal, signal as u32, tgid, own)
    {
        return verdict;
    }
    let allowed = target_granted(&subject.policy.table, subject.policy.class, Privilege::Signal, own);
    let mut asked = aimed(Privilege::Signal, signal as u32, tgid, own);
    asked.quiet = allowed && own;
    judge(&subject, Hook::LsmTaskKill, allowed, asked)
}

plain_hook!(
    /// `int kernel_module_request(char *kmod_name)`: what the process does would load a module.
    privilege_module_request, "kernel_module_request", LsmKernelModuleRequest, 1, Module
);

/// `enum kernel_read_file_id` and `enum kernel_load_data_id` (include/linux/kernel_read_file.h): a module, a kernel or
/// its initial file system to boot, or an integrity policy; firmware and certificates are the kernel's own matter.
#[inline(always)]
fn changes_the_kernel(id: u32) -> bool {
    matches!(id, 2..=5)
}

/// A hook about a file or bytes that become part of the kernel; the kind is argument `$at`.
macro_rules! content_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $arguments:literal, $at:literal) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter_privileges::<$arguments>(&ctx) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let id: u32 = ctx.arg($at);
            if !changes_the_kernel(id) {
                return 0;
            }
            let allowed = granted(&subject.policy.table, subject.policy.class, Privilege::Module);
            judge(&subject, Hook::$code, allowed, Asked::plain(Privilege::Module, id))
        }
    };
}

content_hook!(
    /// `int kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)`: `finit_module`,
    /// `kexec_file_load`.
    privilege_read_file, "kernel_read_file", LsmKernelReadFile, 3, 1
);
content_hook!(
    /// `int kernel_load_data(enum kernel_load_data_id id, bool contents)`: `init_module`, `kexec_load`.
    privilege_load_data, "kernel_load_data", LsmKernelLoadData, 2, 0
);

/// The subject of a hook whose arguments have grown, so that no fixed place holds the verdict of the program before it.
/// None is lost: the trampoline calls no further program behind one that denied.
#[inline(always)]
fn enter_grown(sections: u8) -> Entry {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return Entry::Settled(0);
    }
    super::file::known(tgid, Domain::Privilege, sections)
}

/// `int bpf(int cmd, union bpf_attr *attr, unsigned int size)`; from 6.15 with a fourth argument.
#[lsm(hook = "bpf")]
pub fn privilege_bpf(ctx: LsmContext) -> i32 {
    let subject = match enter_grown(HAS_PRIVILEGES | HAS_PROTECTED) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let command: i32 = ctx.arg(0);
    let mut asked = Asked::plain(Privilege::Bpf, command as u32);
    let judged = subject.policy.flags & HAS_PRIVILEGES != 0;
    let mut allowed = judged && granted(&subject.policy.table, subject.policy.class, Privilege::Bpf);
    if protects(&subject.policy) && (!judged || allowed && reaches_others(command as u32)) {
        allowed = false;
        asked.reason = Reason::Protected;
    }
    judge(&subject, Hook::LsmBpf, allowed, asked)
}

/// `int perf_event_open(struct perf_event_attr *attr, int type)`; later kernels pass the type alone.
#[lsm(hook = "perf_event_open")]
pub fn privilege_perf(_ctx: LsmContext) -> i32 {
    let subject = match enter_grown(HAS_PRIVILEGES) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let allowed = granted(&subject.policy.table, subject.policy.class, Privilege::Perf);
    judge(&subject, Hook::LsmPerfEventOpen, allowed, Asked::plain(Privilege::Perf, 0))
}

plain_hook!(
    /// `int uring_override_creds(const struct cred *new)`: an operation under another's registered credentials.
    privilege_uring_credentials, "uring_override_creds", LsmUringOverrideCreds, 1, IoUring
);
plain_hook!(
    /// `int uring_sqpoll(void)`: a kernel thread picks the operations up.
    privilege_uring_poll, "uring_sqpoll", LsmUringSqpoll, 0, IoUring
);
plain_hook!(
    /// `int uring_cmd(struct io_uring_cmd *ioucmd)`: a driver's own commands.
    privilege_uring_command, "uring_cmd", LsmUringCmd, 1, IoUring
);
