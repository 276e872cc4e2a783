//! Privileges of the host, in the one form that both sides judge: one bit of the image each, and a mask of capabilities.
//!
//! A profile with a `privileges` section grants what it lists and nothing else. What is aimed at another process is
//! judged by whether that process belongs to the same agent.

use crate::automaton::Words;
use crate::image::{Class, class};
use crate::wire_codes;

wire_codes! {
    /// What a process asks of the host beyond what any process may. The code is the bit in the image's mask.
    pub enum Privilege: u32 {
        /// Use of a capability (capabilities(7)).
        Capability = 0 "capability",
        /// Another user or group, or more capabilities: by a program's set-user-id bit or file capabilities, or by
        /// `setuid` and its like.
        Setuid = 1 "setuid",
        /// A new user namespace.
        UserNamespace = 2 "user-namespace",
        /// Tracing or reading another process: `ptrace`, `process_vm_readv`, `/proc/PID/mem`, `/proc/PID/environ`.
        Ptrace = 3 "ptrace",
        /// A signal to a process that is none of the agent's.
        Signal = 4 "signal",
        /// A change of mounts.
        Mount = 5 "mount",
        /// A kernel module, or another kernel to boot.
        Module = 6 "module",
        /// `bpf(2)`.
        Bpf = 7 "bpf",
        /// `perf_event_open(2)`.
        Perf = 8 "perf",
        /// io_uring beyond plain operations: a polling kernel thread, another's credentials, driver commands.
        IoUring = 9 "io-uring",
    }
}

/// In the mask of privileges: processes of the same agent may be traced.
pub const PTRACE_OWN: u64 = 1 << 32;

/// `CAP_SETGID` and `CAP_SETUID` (include/uapi/linux/capability.h).
pub const CAP_SETIDS: u64 = 1 << 6 | 1 << 7;
/// `CAP_DAC_OVERRIDE`.
pub const CAP_DAC_OVERRIDE: u64 = 1 << 1;
/// `CAP_DAC_READ_SEARCH`.
pub const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

/// Whether an image grants a program of `class` a privilege that has no other condition.
#[inline(always)]
pub fn granted<W: Words + ?Sized>(image: &W, class: Class, privilege: Privilege) -> bool {
    class.field(image, class::PRIVILEGES) >> privilege.code() & 1 == 1
}

/// Whether an image grants a program of `class` the use of a capability. `made`: in a user namespace that is not the
/// host's, which the agent can have made only with that grant: it includes the capabilities there.
#[inline(always)]
pub fn capability_granted<W: Words + ?Sized>(image: &W, class: Class, number: u32, made: bool) -> bool {
    class.field(image, class::CAPABILITIES) >> (number & 63) & 1 == 1
        || made && granted(image, class, Privilege::UserNamespace)
}

/// Whether an image lets a program of `class` trace a process, or send it a signal. `own`: it belongs to the same agent.
#[inline(always)]
pub fn target_granted<W: Words + ?Sized>(image: &W, class: Class, privilege: Privilege, own: bool) -> bool {
    if granted(image, class, privilege) {
        return true;
    }
    own && (!matches!(privilege, Privilege::Ptrace)
        || class.field(image, class::PRIVILEGES) & PTRACE_OWN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::header;

    fn image(privileges: u64, capabilities: u64) -> [u64; header::END] {
        let mut words = [0; header::END];
        words[Class::PLAIN.at(class::PRIVILEGES)] = privileges;
        words[Class::PLAIN.at(class::CAPABILITIES)] = capabilities;
        words
    }

    #[test]
    fn nothing_is_granted_by_an_empty_mask() {
        let image = image(0, 0);
        let image = image.as_slice();
        assert!(Privilege::ALL.iter().all(|p| !granted(image, Class::PLAIN, *p)));
        assert!((0..64).all(|cap| !capability_granted(image, Class::PLAIN, cap, false)
            && !capability_granted(image, Class::PLAIN, cap, true)));
        assert!(
            !target_granted(image, Class::PLAIN, Privilege::Ptrace, true)
                && !target_granted(image, Class::PLAIN, Privilege::Ptrace, false)
        );
        assert!(
            target_granted(image, Class::PLAIN, Privilege::Signal, true)
                && !target_granted(image, Class::PLAIN, Privilege::Signal, false)
        );
    }

    #[test]
    fn own_processes_and_all_processes_are_told_apart() {
        let own = image(PTRACE_OWN, 0);
        assert!(target_granted(own.as_slice(), Class::PLAIN, Privilege::Ptrace, true));
        assert!(!target_granted(own.as_slice(), Class::PLAIN, Privilege::Ptrace, false));
        let any = image(1 << Privilege::Ptrace.code(), 0);
        assert!(target_granted(any.as_slice(), Class::PLAIN, Privilege::Ptrace, false));
    }

    #[test]
    fn a_user_namespace_brings_its_own_capabilities_only() {
        let image = image(1 << Privilege::UserNamespace.code(), 1 << 10);
        assert!(capability_granted(image.as_slice(), Class::PLAIN, 10, false));
        assert!(!capability_granted(image.as_slice(), Class::PLAIN, 21, false));
        assert!(capability_granted(image.as_slice(), Class::PLAIN, 21, true));
    }
}
