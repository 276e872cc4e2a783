//! The names and numbers of Linux capabilities, for `privileges.capabilities` and for whoever prints one.
//!
//! Source: `include/uapi/linux/capability.h` of Linux 6.18. Numbers are the same on every architecture.

/// Every capability; its number is its place.
#[rustfmt::skip]
pub const NAMES: [&str; 41] = [
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill",
    "setgid", "setuid", "setpcap", "linux_immutable", "net_bind_service", "net_broadcast",
    "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio",
    "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write",
    "audit_control", "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm",
    "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
];

/// What grants every capability, also those of later kernels.
pub const ANY: &str = "any";

/// The mask of the capability `name`, or of [`ANY`].
#[must_use]
pub fn mask(name: &str) -> Option<u64> {
    if name == ANY {
        return Some(u64::MAX);
    }
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// The name of the capability `number`.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(number).ok()?).copied()
}

/// The names in `mask`, or [`ANY`] alone for all.
#[must_use]
pub fn names(mask: u64) -> Vec<&'static str> {
    if mask == u64::MAX {
        return vec![ANY];
    }
    NAMES.iter().enumerate().filter(|(number, _)| mask >> number & 1 == 1).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        for (word, number) in [
            ("chown", 0),
            ("net_bind_service", 10),
            ("sys_admin", 21),
            ("setfcap", 31),
            ("checkpoint_restore", 40),
        ] {
            assert_eq!(mask(word), Some(1 << number));
            assert_eq!(name(number), Some(word));
        }
        assert_eq!(name(41), None);
        assert_eq!(mask("CAP_CHOWN"), None);
    }

    #[test]
    fn a_mask_names_what_is_in_it() {
        assert_eq!(names(1 << 10 | 1), ["chown", "net_bind_service"]);
        assert_eq!(names(u64::MAX), ["any"]);
    }
}
