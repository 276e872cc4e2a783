//! Files and programs, where the kernel runs BPF LSM programs: every way to open, run, map as code, create, remove,
//! rename, link or truncate an object, or to change its mode or owner, judged by the path that the object has.
//!
//! The object is what the kernel resolved, so a symlink, a bind mount, `/proc/self/root` or a descriptor of
//! `/proc/self/fd` lead to the same path and the same verdict. An object on a mount of the kernel's own (memfd, pipe)
//! has no path: it may be read and written, for no name leads to it, and never executed.

use agent_monitor_common::automaton::accept;
use agent_monitor_common::counters::{Domain, Effect, Mode, Site};
use agent_monitor_common::decide::{Decision, forget};
use agent_monitor_common::event::{FileBody, Header, Hook, Kind, PATH_BYTES, Reason};
use agent_monitor_common::image::{HAS_EXEC, HAS_FILES, HAS_PROTECTED, class};
use agent_monitor_common::label::Label;
use agent_monitor_common::path::{DENIED_BELOW, Right, Rights, decide_answer, directory_answer, move_denied};
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_uid_gid};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::digest::maps_unverified;
use super::lsm::{before_by, literal};
use super::protect::protects;
use crate::activity;
use crate::atomic;
use crate::automaton::{self, Begin};
use crate::directory::{self, Asked, Behind};
use crate::emit::{self, Outcome};
use crate::fail;
use crate::kernel::{offset, typed};
use crate::maps::SCRATCH;
use crate::mark::{self, Identity, Owner, identity};
use crate::name;
use crate::path::{self, ByAddress, ByType, Known, NOWHERE, Place, Scratch, bounded_length};
use crate::subject::{Policy, current_tgid, forget_how, held_label, policy, set_word};

pub const READ: Rights = Right::Read as Rights;
pub const WRITE: Rights = Right::Write as Rights;
pub const EXECUTE: Rights = Right::Execute as Rights;

/// What a denied operation shows.
const EACCES: u16 = 13;
/// `__FMODE_EXEC` (include/linux/fs.h) in `f_flags`: opened to be executed.
const OPENED_TO_EXECUTE: u32 = 0x20;
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const PROT_EXEC: u64 = 4;
const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;
/// `RENAME_EXCHANGE` (include/uapi/linux/fs.h).
pub const EXCHANGE: u32 = 2;

/// What becomes of the object.
#[derive(Clone, Copy, PartialEq)]
pub enum Act {
    /// It is used where it is.
    Use,
    /// It is opened: of a directory, the rules about what lies in it count too.
    Open,
    /// It gets another path: of a directory, marks of what lies in it count too.
    Move,
}

/// An object of the file system, as a hook got it.
#[derive(Clone, Copy)]
pub struct Object {
    /// `struct vfsmount *`.
    pub mnt: u64,
    /// `struct dentry *`.
    pub dentry: u64,
    /// None: it does not exist yet.
    pub identity: Identity,
    /// The directory that it lies in.
    parent: Identity,
    directory: bool,
    /// A symlink.
    pub link: bool,
    /// The number of its mount, where that was read already.
    mount: Option<u32>,
}

/// The object of an open file.
///
/// # Safety
/// `file` is a typed `struct file *` that is not null.
#[inline(always)]
pub unsafe fn of_file(file: *const c_void) -> Object {
    // SAFETY: the caller's promise.
    unsafe {
        let path = offset!(file_path);
        let inode: *const c_void = typed(file, offset!(file_inode));
        let dentry: *const c_void = typed(file, path + offset!(path_dentry));
        let mode: u16 = typed(inode, offset!(inode_mode));
        Object {
            mnt: typed(file, path + offset!(path_mnt)),
            dentry: dentry as u64,
            identity: identity(inode),
            parent: parent_of(dentry),
            directory: mode & S_IFMT == S_IFDIR,
            link: mode & S_IFMT == S_IFLNK,
            mount: None,
        }
    }
}

/// The identity of the directory that `dentry` lies in.
///
/// # Safety
/// `dentry` is a typed `struct dentry *`.
#[inline(always)]
unsafe fn parent_of(dentry: *const c_void) -> Identity {
    // SAFETY: the caller's promise; a root is its own parent.
    unsafe {
        let parent: *const c_void = typed(dentry, offset!(dentry_parent));
        identity(typed(parent, offset!(dentry_inode)))
    }
}

/// The object of a directory entry on the mount of `path`.
///
/// # Safety
/// `path` is a typed `struct path *`, `dentry` a typed `struct dentry *`; neither is null.
#[inline(always)]
pub unsafe fn of_entry(path: *const c_void, dentry: *const c_void) -> Object {
    // SAFETY: the caller's promise.
    unsafe { of_dentry(typed(path, offset!(path_mnt)), dentry) }
}

/// The object of a dentry on `mnt` (a `struct vfsmount *`; 0: not known).
///
/// # Safety
/// `dentry` is a typed `struct dentry *` that is not null.
#[inline(always)]
pub unsafe fn of_dentry(mnt: u64, dentry: *const c_void) -> Object {
    // SAFETY: the caller's promise; the inode is checked.
    unsafe {
        let inode: *const c_void = typed(dentry, offset!(dentry_inode));
        let mode = if inode.is_null() { 0 } else { typed::<u16>(inode, offset!(inode_mode)) };
        Object {
            mnt,
            dentry: dentry as u64,
            identity: identity(inode),
            parent: parent_of(dentry),
            directory: mode & S_IFMT == S_IFDIR,
            link: mode & S_IFMT == S_IFLNK,
            mount: None,
        }
    }
}

/// The object that a `struct path *` names.
///
/// # Safety
/// `path` is a typed `struct path *` that is not null.
#[inline(always)]
unsafe fn of_path(path: *const c_void) -> Object {
    // SAFETY: the caller's promise.
    unsafe {
        let dentry: *const c_void = typed(path, offset!(path_dentry));
        of_entry(path, dentry)
    }
}

/// Who asks, where a profile judges what is asked.
pub struct Subject {
    pub label: Label,
    /// Where its label counts what is allowed it.
    allowed: *mut u64,
    pub policy: Policy,
}

impl Subject {
    /// Whether a denial denies.
    #[inline(always)]
    pub fn enforces(&self) -> bool {
        matches!(self.policy.mode(), Mode::Enforce)
    }
}

/// What a hook does before it looks at the object.
pub enum Entry {
    /// Nothing is judged: the verdict to return.
    Settled(i32),
    Judge(Subject),
}

/// The current process, if its profile has one of `sections` ([`HAS_FILES`] and the like); `N`: number of the hook's
/// arguments.
#[inline(always)]
pub fn enter<const N: usize>(ctx: &LsmContext, domain: Domain, sections: u8) -> Entry {
    let tgid = current_tgid();
    let Some(word) = set_word(tgid) else {
        return Entry::Settled(0);
    };
    // SAFETY: a word of a map.
    let before = unsafe { before_by::<N>(ctx, word) };
    if before != 0 {
        return Entry::Settled(literal(before));
    }
    known(tgid, domain, sections)
}

/// The current process, `tgid`, whose bit is set, if its profile has one of `sections`.
#[inline(always)]
pub fn known(tgid: u32, domain: Domain, sections: u8) -> Entry {
    let Ok(held) = held_label(tgid) else {
        fail::count(Site::LabelMissing);
        emit::decision(domain, Effect::Deny, Mode::Enforce);
        return Entry::Settled(-13);
    };
    // SAFETY: as `label_of`.
    let (label, allowed) = unsafe { (*held, &raw mut (*held).allowed) };
    let Some(policy) = policy(&label) else {
        fail::count(Site::ImageMissing);
        emit::decision(domain, Effect::Deny, Mode::Enforce);
        emit::denied(label.agent);
        return Entry::Settled(-13);
    };
    if policy.flags & sections == 0 {
        return Entry::Settled(0);
    }
    Entry::Judge(Subject { label, allowed, policy })
}

/// [`enter`] for the sections that speak of paths.
#[inline(always)]
pub fn enter_paths<const N: usize>(ctx: &LsmContext) -> Entry {
    enter::<N>(ctx, Domain::File, HAS_FILES | HAS_EXEC | HAS_PROTECTED)
}

/// What came of a judgement.
#[derive(Clone, Copy)]
struct Judged {
    deny: u32,
    state: u32,
}

impl Judged {
    const PASSED: Judged = Judged { deny: 0, state: NOWHERE };

    #[inline(always)]
    fn denies(self) -> bool {
        self.deny != 0
    }

    /// Where the walk over the path ended; `None`: there was none, and what had to be said was said.
    #[inline(always)]
    fn state(self) -> Option<u32> {
        if self.state == NOWHERE { None } else { Some(self.state) }
    }
}

/// The rights of `needed` that the profile judges: of a section that it does not have, nothing is.
#[inline(always)]
pub fn judged(policy: &Policy, needed: Rights) -> Rights {
    let mut judged = 0;
    if policy.flags & HAS_FILES != 0 {
        judged |= READ | WRITE;
    } else if protects(policy) {
        // Of the monitor's own objects, and of nothing else.
        judged |= WRITE;
    }
    if policy.flags & HAS_EXEC != 0 {
        judged |= EXECUTE;
    }
    forget(needed & judged)
}

/// The scratch of the current task. `Err`: whether to deny without one.
#[inline(always)]
pub fn scratch(subject: &Subject, needed: Rights) -> Result<*mut Scratch, bool> {
    let Subject { label, policy, .. } = subject;
    let Some(s) = SCRATCH.current() else {
        fail::count(Site::TaskStorage);
        emit::decision(domain(needed), Effect::Deny, policy.mode());
        emit::denied(label.agent);
        return Err(matches!(policy.mode(), Mode::Enforce));
    };
    Ok(s)
}

#[inline(always)]
fn domain(needed: Rights) -> Domain {
    if needed & EXECUTE != 0 { Domain::Exec } else { Domain::File }
}

/// Judges one operation on one object. True: deny it.
#[inline(always)]
pub fn denies(subject: &Subject, hook: Hook, act: Act, object: Object, needed: Rights) -> bool {
    denies_known::<ByAddress>(subject, hook, act, object, needed)
}

/// [`denies`], by the quicker way where `K` is [`ByType`].
// VERIFIER: that way it walks twice as far, which only what happens all the time is worth.
#[inline(always)]
fn denies_known<K: Known>(subject: &Subject, hook: Hook, act: Act, object: Object, needed: Rights) -> bool {
    let needed = judged(&subject.policy, needed);
    if needed == 0 {
        return false;
    }
    match scratch(subject, needed) {
        // SAFETY: the scratch is the current task's own; the object's pointers come from typed loads.
        Ok(s) => unsafe {
            let marked = marked(subject, object, act, needed);
            judge::<K>(s, subject, hook, act, object, needed, marked).denies()
        },
        Err(deny) => deny,
    }
}

/// Judges one operation on one object, of whose rights `needed` all are judged; `marked`: what [`marked`] said of it.
///
/// # Safety
/// `s` is the current task's scratch; the object's pointers come from typed loads.
// VERIFIER: "BPF program is too large": how it came to its answer is forgotten, so that what follows is walked once.
#[inline(always)]
unsafe fn judge<K: Known>(
    s: *mut Scratch,
    subject: &Subject,
    hook: Hook,
    act: Act,
    object: Object,
    needed: Rights,
    marked: u32,
) -> Judged {
    // SAFETY: the caller's promise.
    let Judged { deny, state } = unsafe { judged_once::<K>(s, subject, hook, act, object, needed, marked) };
    Judged { deny: forget(deny), state: forget(state) }
}

/// # Safety
/// As [`judge`].
#[inline(always)]
unsafe fn judged_once<K: Known>(
    s: *mut Scratch,
    subject: &Subject,
    hook: Hook,
    act: Act,
    object: Object,
    needed: Rights,
    marked: u32,
) -> Judged {
    let policy = &subject.policy;
    // SAFETY: the caller's promise.
    unsafe {
        let (reason, End { state, text, mount }) = match end_of::<K>(s, subject, object, needed) {
            Err(None) => return Judged::PASSED,
            Err(Some(reason)) => (reason.code(), End { state: NOWHERE, text: Text::ABSENT, mount: 0 }),
            Ok(end) => {
                let answer = if object.directory && act == Act::Open {
                    directory_answer(&policy.table, end.state)
                } else {
                    accept(&policy.table, end.state)
                };
                let answer = forget(answer);
                // What no rule speaks of is free where there is no `files` section.
                let free = policy.flags & HAS_FILES == 0;
                let by_default = if free { needed & !WRITE } else { needed };
                let reason = match decide_answer(answer, needed) {
                    Decision::DenyRule => Reason::Rule.code(),
                    Decision::DenyDefault if !decide_answer(answer, by_default).passes() => {
                        Reason::Default.code()
                    }
                    _ if marked != 0 => Reason::OtherName.code(),
                    Decision::Allow => ALLOWED,
                    Decision::Audit => AUDITED,
                    // No path ends so.
                    Decision::AllowHello => Reason::Default.code(),
                    Decision::DenyDefault => return Judged { deny: 0, state: end.state },
                };
                (reason, end)
            }
        };
        let (reason, text) = (forget(reason as u32), Text(forget(text.0)));
        let object = Object { mount: Some(forget(mount)), ..object };
        Judged { deny: settle(s, subject, hook, reason, object, needed, text) as u32, state }
    }
}

/// Where the path automaton ended for an object.
struct End {
    state: u32,
    text: Text,
    /// The number of its mount.
    mount: u32,
}

/// Where the automaton ends behind the path of an object. `Err`: it has none, and why that denies, if it does.
///
/// # Safety
/// As [`judge`].
#[inline(always)]
unsafe fn end_of<K: Known>(
    s: *mut Scratch,
    subject: &Subject,
    object: Object,
    needed: Rights,
) -> Result<End, Option<Reason>> {
    let Subject { label, policy: Policy { table, generation, class, .. }, .. } = subject;
    let dentry = object.dentry as *const c_void;
    // SAFETY: the caller's promise.
    unsafe {
        let asked = Asked { profile: label.profile, generation: *generation, class: *class };
        let (mut start, mut at, mut mount) = (0, 0, 0);
        if K::REMEMBERS {
            let known = directory::behind(s, asked, object.mnt, dentry, object.parent);
            if known.state != NOWHERE && name::name_only(s, dentry) {
                (start, at, mount) = (known.state, (*s).start + 1, known.mount);
            }
        }
        // VERIFIER: "BPF program is too large": the many ways of not knowing the directory are one from here on.
        let (mut start, mut at, mut mount) = (forget(start), forget(at), forget(mount));
        let (mut split, mut text) = (path::CAP as u32, Text::UNWALKED);
        automaton::keep_nothing(s);
        if at == 0 {
            let known = K::REMEMBERS && directory::knows_mount(s);
            if !known {
                match path::place(object.mnt) {
                    Ok(Place::Mounted) => {}
                    Ok(Place::Internal) if needed & EXECUTE == 0 => return Err(None),
                    Ok(Place::Internal) => return Err(Some(Reason::Anonymous)),
                    Err(site) => {
                        fail::count(site);
                        return Err(Some(Reason::NoPath));
                    }
                }
            }
            if let Err(site) = K::walk(s, object.mnt, object.dentry, known) {
                fail::count(site);
                return Err(Some(Reason::NoPath));
            }
            (start, at, text) = (class.field(table, class::START_PATH) as u32, (*s).start, Text::WALKED);
            if K::REMEMBERS && path::is_known(s) {
                mount = directory::mount_number(s);
            } else {
                mount = activity::mount(object.mnt);
                if K::REMEMBERS {
                    directory::remember_mount(s, mount);
                }
            }
            mount = forget(mount);
            if K::REMEMBERS && (*s).inside == 1 && object.parent.inode != 0 {
                split = path::CAP as u32 - name::length_of(dentry);
            }
            split = forget(split);
            if K::REMEMBERS {
                Begin { state: start, at } = automaton::recall(s, asked, start, split);
            }
        }
        let (start, at, split, mount) = (forget(start), forget(at), forget(split), forget(mount));
        let text = Text(forget(text.0));
        let (behind, state) = automaton::run_split(*table, Begin { state: start, at }, s, split);
        if K::REMEMBERS && split != path::CAP as u32 {
            directory::remember(s, object.parent, Behind { state: behind, mount });
        }
        Ok(End { state, text, mount })
    }
}

/// Whether the scratch has the path of the object.
#[derive(Clone, Copy, PartialEq)]
pub struct Text(u32);

impl Text {
    /// The object has none.
    const ABSENT: Text = Text(0);
    const WALKED: Text = Text(1);
    /// Not yet.
    const UNWALKED: Text = Text(2);
}

impl From<bool> for Text {
    #[inline(always)]
    fn from(walked: bool) -> Text {
        if walked { Text::WALKED } else { Text::ABSENT }
    }
}

/// Counts and reports what was decided, with the path in the scratch if there is one; `reason`: why it is denied, or
/// [`ALLOWED`]. True: deny it.
///
/// # Safety
/// As [`judge`].
#[inline(always)]
pub unsafe fn settle(
    s: *mut Scratch,
    subject: &Subject,
    hook: Hook,
    reason: u32,
    object: Object,
    needed: Rights,
    text: Text,
) -> bool {
    let Subject { label, policy, .. } = subject;
    let allowed = reason == ALLOWED as u32;
    let mut used = 0;
    if allowed {
        emit::decision_of(domain(needed), Effect::Allow, policy.mode_code());
        // SAFETY: an element of a preallocated map; all writers use atomics.
        unsafe { atomic::add(subject.allowed, 1) };
        let mount = match object.mount {
            Some(mount) => mount,
            None => activity::mount(object.mnt),
        };
        used = activity::object_on(mount, object.dentry, object.identity.inode);
        if activity::again(label.agent, needed, used) {
            return false;
        }
    }
    let (mut mode, mut reason) = (policy.mode(), reason);
    if reason == AUDITED as u32 {
        (mode, reason) = (mode.tried_out(), Reason::Rule.code() as u32);
    }
    // VERIFIER: "BPF program is too large": a denial that is tried out goes the way of any other one.
    let (mode, mut reason) = (forget_how(mode), forget(reason));
    let enforce = matches!(mode, Mode::Enforce);
    let (mut effect, mut errno) = (Effect::Deny, if enforce { EACCES } else { 0 });
    if allowed {
        (effect, errno, reason) = (Effect::Allow, 0, Reason::Rule.code() as u32);
    } else {
        emit::decision(domain(needed), effect, mode);
    }
    let outcome = Outcome { effect, mode, generation: policy.generation, errno };
    // SAFETY: the caller's promise.
    unsafe {
        let mut walked = text == Text::WALKED;
        if text == Text::UNWALKED {
            walked = path::walk_address(s, object.mnt, object.dentry).is_ok();
        }
        let walked = forget(walked as u32) != 0;
        record(s, hook, label, outcome, walked, reason, needed, object.identity.inode, used);
    }
    if allowed {
        return false;
    }
    emit::denied(label.agent);
    enforce
}

/// Among the reasons: there is none.
pub const ALLOWED: u8 = 0xff;
/// In place of a reason: it goes on, and a rule that is tried out would deny it.
pub const AUDITED: u8 = 0xfe;

/// Whether a rule denies the object by another of its names; 0: none does.
// VERIFIER: "BPF program is too large": asked before the path is walked, and forgotten how it was found.
#[inline(always)]
fn marked(subject: &Subject, object: Object, act: Act, needed: Rights) -> u32 {
    let Subject { label, policy, .. } = subject;
    let owner = Owner { profile: label.profile, generation: policy.generation, class: policy.class.number() };
    let deep = object.directory && act != Act::Use;
    forget(mark::denies(owner, object.identity, object.parent, deep, needed) as u32)
}

/// Longest record.
const RECORD_BYTES: usize = size_of::<Header>() + size_of::<FileBody>() + PATH_BYTES;

/// Writes the record: header, body, path.
///
/// # Safety
/// `s` is the current task's scratch.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call, inlined; a struct would only be taken apart again")]
pub unsafe fn record(
    s: *mut Scratch,
    hook: Hook,
    label: &Label,
    outcome: Outcome,
    walked: bool,
    reason: u32,
    rights: Rights,
    inode: u64,
    used: u64,
) {
    // SAFETY: the caller's promise; every length is bounded by the size of its field.
    unsafe {
        let (path_length, path_total) = if walked { path::copy_to_tail(s) } else { (0, 0) };
        let length = size_of::<Header>() + size_of::<FileBody>() + path_length;
        (*s).header = emit::header(Kind::File, hook, length, label, outcome);
        let body = (&raw mut (*s).body).cast::<FileBody>();
        (*body).rights = rights;
        (*body).reason = reason;
        (*body).path_length = path_length as u32;
        (*body).path_total = path_total as u32;
        (*body).inode = inode;
        (*body).uid = bpf_get_current_uid_gid() as u32;
        (*body).repeats = 0;
        (*body).object = used;
        (*body).comm = [0; 16]; // 6.1 does not pad
        bpf_get_current_comm((&raw mut (*body).comm).cast(), 16);
        let length = bounded_length::<RECORD_BYTES>(length);
        emit::bytes(outcome.ring(), label.agent, (&raw const (*s).header).cast(), length as u64);
    }
}

/// What the holder of an open file may do with it: its modes ask for no more. An `O_PATH` descriptor asks for nothing:
/// whatever opens it again is judged there.
///
/// # Safety
/// `file` is a typed `struct file *` that is not null.
#[inline(always)]
pub unsafe fn rights_of(file: *const c_void) -> Rights {
    // SAFETY: the caller's promise.
    let mode: u32 = unsafe { typed(file, offset!(file_mode)) };
    let mut rights = 0;
    if mode & FMODE_READ != 0 {
        rights |= READ;
    }
    if mode & FMODE_WRITE != 0 {
        rights |= WRITE;
    }
    rights
}

/// `int file_open(struct file *file)`: every open, also `openat2`, `open_by_handle_at`, io_uring and the kernel's own
/// open of a program and its interpreter.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<1>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let file: *const c_void = ctx.arg(0);
    // SAFETY: a trusted argument of the hook.
    unsafe {
        let flags: u32 = typed(file, offset!(file_flags));
        let mut needed = rights_of(file);
        if flags & OPENED_TO_EXECUTE != 0 {
            needed = needed & WRITE | EXECUTE;
        }
        if denies_known::<ByType>(&subject, Hook::LsmFileOpen, Act::Open, of_file(file), needed) {
            -13
        } else {
            0
        }
    }
}

/// `int mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`: a file becomes
/// code: shared libraries, and what `ld.so` runs without an exec.
#[lsm(hook = "mmap_file")]
pub fn file_mmap(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<4>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (file, prot): (*const c_void, u64) = (ctx.arg(0), ctx.arg(2));
    if prot & PROT_EXEC == 0 || file.is_null() {
        return 0;
    }
    // SAFETY: a trusted argument of the hook, not null.
    unsafe {
        let object = of_file(file);
        if denies(&subject, Hook::LsmMmapFile, Act::Use, object, EXECUTE)
            || maps_unverified(&subject, Hook::LsmMmapFile, object)
        {
            -13
        } else {
            0
        }
    }
}

/// `int file_mprotect(struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)`: a mapped file becomes
/// code afterwards.
#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<3>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (vma, prot): (*const c_void, u64) = (ctx.arg(0), ctx.arg(2));
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    // SAFETY: a trusted argument of the hook; its file is checked.
    unsafe {
        let file: *const c_void = typed(vma, offset!(vma_file));
        if file.is_null() {
            return 0;
        }
        let object = of_file(file);
        if denies(&subject, Hook::LsmFileMprotect, Act::Use, object, EXECUTE)
            || maps_unverified(&subject, Hook::LsmFileMprotect, object)
        {
            -13
        } else {
            0
        }
    }
}

/// A hook about an entry of a directory: `(struct path *dir, struct dentry *dentry, …)`.
macro_rules! entry_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $arguments:literal, $act:ident) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter_paths::<$arguments>(&ctx) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let (directory, dentry): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
            // SAFETY: trusted arguments of the hook.
            unsafe {
                if denies(&subject, Hook::$code, Act::$act, of_entry(directory, dentry), WRITE) { -13 } else { 0 }
            }
        }
    };
}

entry_hook!(
    /// `int path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev)`: also O_CREAT
    /// and the bind of a Unix socket.
    file_mknod, "path_mknod", LsmPathMknod, 4, Use
);
entry_hook!(
    /// `int path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`.
    file_mkdir, "path_mkdir", LsmPathMkdir, 3, Use
);
entry_hook!(
    /// `int path_unlink(const struct path *dir, struct dentry *dentry)`.
    file_unlink, "path_unlink", LsmPathUnlink, 2, Use
);
entry_hook!(
    /// `int path_rmdir(const struct path *dir, struct dentry *dentry)`.
    file_rmdir, "path_rmdir", LsmPathRmdir, 2, Use
);
entry_hook!(
    /// `int path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`.
    file_symlink, "path_symlink", LsmPathSymlink, 3, Use
);

/// A hook about an existing object: `(struct path *path, …)`.
macro_rules! object_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $arguments:literal) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter_paths::<$arguments>(&ctx) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let object: *const c_void = ctx.arg(0);
            // SAFETY: a trusted argument of the hook.
            unsafe {
                if denies(&subject, Hook::$code, Act::Use, of_path(object), WRITE) { -13 } else { 0 }
            }
        }
    };
}

object_hook!(
    /// `int path_truncate(const struct path *path)`.
    file_path_truncate, "path_truncate", LsmPathTruncate, 1
);
object_hook!(
    /// `int path_chmod(const struct path *path, umode_t mode)`.
    file_chmod, "path_chmod", LsmPathChmod, 2
);
object_hook!(
    /// `int path_chown(const struct path *path, kuid_t uid, kgid_t gid)`.
    file_chown, "path_chown", LsmPathChown, 3
);

/// `int file_truncate(struct file *file)`: ftruncate and O_TRUNC, from 6.2; before, `path_truncate` has them.
#[lsm(hook = "file_truncate")]
pub fn file_truncate(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<1>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let file: *const c_void = ctx.arg(0);
    // SAFETY: a trusted argument of the hook.
    unsafe { if denies(&subject, Hook::LsmFileTruncate, Act::Use, of_file(file), WRITE) { -13 } else { 0 } }
}

/// `int path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)`: the object gets
/// a second name, under which its old rules don't find it: so what is linked must be the agent's to read and write.
#[lsm(hook = "path_link")]
pub fn file_link(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<3>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let (old, directory, new): (*const c_void, *const c_void, *const c_void) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    // SAFETY: trusted arguments of the hook. A link across mounts is refused before, so the mount is the same.
    unsafe {
        let old = of_entry(directory, old);
        if denies(&subject, Hook::LsmPathLink, Act::Use, old, READ | WRITE)
            || denies(&subject, Hook::LsmPathLink, Act::Use, of_entry(directory, new), WRITE)
        {
            -13
        } else {
            0
        }
    }
}

/// `int path_rename(const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir, struct dentry
/// *new_dentry, unsigned int flags)`: both names must be the agent's to write, and what lies in a directory that moves
/// must neither leave the reach of a denial nor come into it.
#[lsm(hook = "path_rename")]
pub fn file_rename(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<5>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let needed = judged(&subject.policy, WRITE);
    if needed == 0 {
        return 0;
    }
    let (from, old): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let (to, new): (*const c_void, *const c_void) = (ctx.arg(2), ctx.arg(3));
    let flags: u64 = ctx.arg(4);
    let s = match scratch(&subject, needed) {
        Ok(s) => s,
        Err(deny) => return if deny { -13 } else { 0 },
    };
    // SAFETY: trusted arguments of the hook; the current task's own scratch.
    unsafe {
        let (from, to) = (of_entry(from, old), of_entry(to, new));
        let moved_to = judge::<ByAddress>(s, &subject, Hook::LsmPathRename, Act::Use, to, needed, 0);
        if moved_to.denies() {
            return -13;
        }
        // Last, so that its path is the one in the scratch.
        let moved = judge::<ByAddress>(s, &subject, Hook::LsmPathRename, Act::Use, from, needed, 0);
        if moved.denies() {
            return -13;
        }
        // What is exchanged moves too; what is replaced is gone.
        if !(from.directory || to.directory && flags as u32 & EXCHANGE != 0) {
            return 0;
        }
        let (Some(here), Some(there)) = (moved.state(), moved_to.state()) else { return 0 };
        let table = &subject.policy.table;
        if !move_denied(table, here, there) {
            return 0;
        }
        let reason = Reason::DeniedBelow.code() as u32;
        let mut object = from;
        let mut walked = true;
        if accept(table, here) & DENIED_BELOW == 0 {
            // The rule speaks about the new place.
            object = to;
            walked = path::walk_address(s, to.mnt, to.dentry).is_ok();
        }
        if settle(s, &subject, Hook::LsmPathRename, reason, object, needed, walked.into()) { -13 } else { 0 }
    }
}

/// `path_rename` once more: what has a mark moves under no name, and nothing takes its place.
// VERIFIER: "BPF program is too large": in one program with the walks over two paths.
#[lsm(hook = "path_rename")]
pub fn file_rename_marked(ctx: LsmContext) -> i32 {
    let subject = match enter_paths::<5>(&ctx) {
        Entry::Settled(verdict) => return verdict,
        Entry::Judge(subject) => subject,
    };
    let needed = judged(&subject.policy, WRITE);
    if needed == 0 {
        return 0;
    }
    let (from, old): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let (to, new): (*const c_void, *const c_void) = (ctx.arg(2), ctx.arg(3));
    // SAFETY: trusted arguments of the hook; the current task's own scratch.
    unsafe {
        let (mut object, to) = (of_entry(from, old), of_entry(to, new));
        if marked(&subject, object, Act::Move, needed) == 0 {
            if marked(&subject, to, Act::Move, needed) == 0 {
                return 0;
            }
            object = to;
        }
        let s = match scratch(&subject, needed) {
            Ok(s) => s,
            Err(deny) => return if deny { -13 } else { 0 },
        };
        let walked = path::walk_address(s, object.mnt, object.dentry).is_ok();
        let reason = Reason::OtherName.code() as u32;
        if settle(s, &subject, Hook::LsmPathRename, reason, object, needed, walked.into()) { -13 } else { 0 }
    }
}

/// A file that another process opened, and for what it opened it.
///
/// # Safety
/// `file` is the trusted argument of `file_receive`.
#[inline(always)]
pub unsafe fn received(ctx: &LsmContext, file: *const c_void) -> i32 {
    let subject = match enter_paths::<1>(ctx) {
        Entry::Settled(verdict) => return literal(verdict),
        Entry::Judge(subject) => subject,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let needed = rights_of(file);
        if denies(&subject, Hook::LsmFileReceive, Act::Open, of_file(file), needed) { -13 } else { 0 }
    }
}
