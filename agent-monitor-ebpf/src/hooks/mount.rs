//! Mounts, where the kernel runs BPF LSM programs: rules about files speak of paths, and who may mount decides what
//! lies at a path. So a process whose profile has rules about paths changes no mount, in any namespace and whatever is
//! granted; without such rules mounts are a privilege like any other. A profile that speaks of neither leaves them to
//! whoever is not root: root's mounts could put another file in the place of the monitor's.

use agent_monitor_common::counters::{Domain, Effect, Mode};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::image::{
    HAS_EXEC, HAS_FILES, HAS_PRIVILEGES, HAS_PROGRAMS, HAS_PROTECTED, HAS_UNIX,
};
use agent_monitor_common::privilege::{Privilege, granted};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use super::file::{Entry, enter};
use super::lsm::not_permitted;
use super::privilege::{self, Asked};
use super::protect::is_root;
use crate::emit::{self, Outcome};

const EPERM: u16 = 1;
/// A profile with rules about paths: of files, of programs that run, of programs that ask, of sockets.
const PATHS: u8 = HAS_FILES | HAS_EXEC | HAS_PROGRAMS | HAS_UNIX;

/// A hook about a change of mounts.
macro_rules! mount_hook {
    ($(#[$doc:meta])* $name:ident, $hook:literal, $code:ident, $arguments:literal) => {
        $(#[$doc])*
        #[lsm(hook = $hook)]
        pub fn $name(ctx: LsmContext) -> i32 {
            let subject = match enter::<$arguments>(&ctx, Domain::File, PATHS | HAS_PRIVILEGES | HAS_PROTECTED) {
                Entry::Settled(verdict) => return verdict,
                Entry::Judge(subject) => subject,
            };
            let flags = subject.policy.flags;
            if flags & (PATHS | HAS_PRIVILEGES) == 0 && !is_root() {
                return 0;
            }
            if flags & PATHS == 0 && flags & HAS_PRIVILEGES != 0 {
                let allowed = granted(&subject.policy.table, subject.policy.class, Privilege::Mount);
                return privilege::judge(&subject, Hook::$code, allowed, Asked::plain(Privilege::Mount, 0));
            }
            let mode = subject.policy.mode();
            let enforce = matches!(mode, Mode::Enforce);
            emit::decision(Domain::File, Effect::Deny, mode);
            let outcome = Outcome {
                effect: Effect::Deny,
                mode,
                generation: subject.policy.generation,
                errno: if enforce { EPERM } else { 0 },
            };
            emit::mount(&subject.label, Hook::$code, Reason::Mount, outcome);
            emit::denied(subject.label.agent);
            not_permitted(enforce)
        }
    };
}

mount_hook!(
    /// `int sb_mount(const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data)`:
    /// new mounts, binds, moves and changes of propagation by `mount(2)`.
    mount_mount, "sb_mount", LsmSbMount, 5
);
mount_hook!(
    /// `int move_mount(const struct path *from_path, const struct path *to_path)`: what `fsopen`, `open_tree` and
    /// `fsmount` made is put somewhere.
    mount_move, "move_mount", LsmMoveMount, 2
);
mount_hook!(
    /// `int sb_umount(struct vfsmount *mnt, int flags)`: what lies under a mount comes to light.
    mount_umount, "sb_umount", LsmSbUmount, 2
);
mount_hook!(
    /// `int sb_pivotroot(const struct path *old_path, const struct path *new_path)`.
    mount_pivot_root, "sb_pivotroot", LsmSbPivotroot, 2
);
