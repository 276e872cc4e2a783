//! Landlock: what a profile says of files and programs, where no BPF LSM enforces it.
//!
//! Used by `agent::confine` for `run`, and by `check` and `doctor`. The kernel enforces a ruleset on the process that
//! took it and on its descendants, for good: no setuid program and no capability sheds it, and mounts can't be changed
//! under it. It tells nobody of a denial before 6.15 (there, the audit log).

mod plan;
mod reach;
mod report;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use agent_monitor_common::path::{Right, Rights};
use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

pub use self::plan::{Bounds, Note, Plan, Rule, Unexamined, plan, plan_below};
pub use self::report::{Expressed, RuleReport, report};

/// Version 2 (5.19) is the first in which files can be moved between directories at all.
pub const NEEDED_ABI: i32 = 2;
/// `truncate(2)` of a file that is not open is seen from version 3 (6.2) on.
pub const TRUNCATE_ABI: i32 = 3;

/// Signals to processes outside are seen from version 6 (6.12) on.
pub const SIGNAL_ABI: i32 = 6;
/// From version 7 (6.15) on, denials can be found in the kernel's audit log.
pub const AUDIT_ABI: i32 = 7;

/// Why Landlock can't stand in.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    #[error("this kernel has no Landlock, or one before 5.19 (version {0} of {NEEDED_ABI})")]
    Missing(i32),
    #[error("Landlock: {0}")]
    Ruleset(#[from] RulesetError),
    #[error("the root directory can't be opened: {0}")]
    Root(std::io::Error),
    #[error("Landlock took the rules in part only, which must not happen: {0:?}")]
    InPart(RulesetStatus),
}

/// The version of the kernel's Landlock; 0 where there is none or it is switched off.
#[must_use]
pub fn kernel_abi() -> i32 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no attributes, reads nothing and makes nothing.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// What a right is in Landlock's terms, to a file and to what lies below a directory.
fn access(rule: &Rule, abi: ABI) -> BitFlags<AccessFs> {
    let mut access = rights(rule.rights, abi);
    if rule.list {
        access |= AccessFs::ReadDir;
    }
    match rule.directory {
        Some(_) => access,
        None => access & AccessFs::from_file(abi),
    }
}

/// As [`access`], of a directory that may not be listed.
fn rights(of: Rights, abi: ABI) -> BitFlags<AccessFs> {
    let mut access = BitFlags::EMPTY;
    if of & Right::Read as Rights != 0 {
        access |= AccessFs::ReadFile;
    }
    if of & Right::Write as Rights != 0 {
        // Calls to devices (`ioctl`) are not a matter of the profile.
        access |= AccessFs::from_write(abi) & !(AccessFs::IoctlDev | AccessFs::ResolveUnix);
    }
    if of & Right::Execute as Rights != 0 {
        access |= AccessFs::Execute;
    }
    access
}

/// A ruleset of the kernel's, not in force yet.
#[derive(Debug)]
pub struct Made {
    ruleset: RulesetCreated,
    /// What changed between the plan and the rule, and was left out.
    pub left_out: Vec<PathBuf>,
}

impl Plan {
    /// Hands the rules to the kernel. Nothing is in force before [`Made::enforce`].
    ///
    /// # Errors
    /// Where the kernel has no Landlock that will do, or refuses a rule.
    pub fn make(&self) -> Result<Made, LandlockError> {
        let version = kernel_abi();
        if version < NEEDED_ABI {
            return Err(LandlockError::Missing(version));
        }
        let abi = ABI::from(version);
        let mut handled = rights(self.handled, abi);
        if self.handled & Right::Read as Rights != 0 {
            handled |= AccessFs::ReadDir;
        }
        // Asked for is what this version has, so whatever the kernel does not take is an error.
        let mut asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        if self.signals && version >= SIGNAL_ABI {
            asked = asked.scope(Scope::Signal)?;
        }
        // Any ruleset keeps tracers out, and the kernel takes none that is empty.
        let nothing = handled.is_empty();
        if nothing {
            handled = AccessFs::Execute.into();
        }
        let mut ruleset = asked.handle_access(handled)?.create()?;
        if nothing {
            let root =
                openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty());
            let root = root.map_err(|errno| LandlockError::Root(errno.into()))?;
            ruleset = ruleset.add_rule(PathBeneath::new(root, AccessFs::Execute))?;
        }
        let mut left_out = Vec::new();
        for rule in &self.rules {
            match open(rule) {
                Ok(fd) => ruleset = ruleset.add_rule(PathBeneath::new(fd, access(rule, abi)))?,
                // Gone, or no longer what was looked at.
                Err(_) => left_out.push(rule.path.clone()),
            }
        }
        Ok(Made { ruleset, left_out })
    }
}

impl Made {
    /// Puts the rules in force for this thread, and takes from it and its children the way to new privileges. They
    /// stay through `execve`.
    ///
    /// # Errors
    /// Where the kernel does not take all of it.
    pub fn enforce(self) -> Result<(), LandlockError> {
        let status = self.ruleset.no_new_privs(true).restrict_self()?;
        match status.ruleset {
            RulesetStatus::FullyEnforced if status.no_new_privs => Ok(()),
            other => Err(LandlockError::InPart(other)),
        }
    }
}

/// The object of a rule, as it was when the plan was made.
fn open(rule: &Rule) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(CWD, &rule.path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let stat = fstat(&fd)?;
    let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    match rule.directory {
        Some(identity) if (stat.st_dev, stat.st_ino) == identity => Ok(fd),
        None if !directory => Ok(fd),
        _ => Err(Errno::STALE),
    }
}

/// What Landlock says nothing of, whatever the rules of a plan are: for people.
#[must_use]
pub fn unseen(plan: &Plan, abi: i32) -> Vec<&'static str> {
    let mut unseen = Vec::new();
    if plan.handled & (Right::Read as Rights | Right::Write as Rights) != 0 {
        unseen.push("modes, owners, times, extended attributes and ACLs of files");
        unseen.push("files that were open before the command started");
        if abi < TRUNCATE_ABI {
            unseen.push("truncation of files, before kernel 6.2");
        }
    }
    if plan.handled & Right::Execute as Rights != 0 {
        unseen.push("libraries, and programs that the dynamic linker is told to run: only execve is seen");
    }
    if plan.signals && abi < SIGNAL_ABI {
        unseen.push("signals to processes outside of the agent, before kernel 6.12");
    }
    unseen
}

/// For [`Note`]s: a path with what no terminal should see escaped.
#[must_use]
pub fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    crate::event::escape::text(path.as_os_str().as_bytes()).into_owned()
}
