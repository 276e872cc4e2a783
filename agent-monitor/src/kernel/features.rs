//! What this kernel and this process bring: version, BTF, cgroup v2, active LSMs, capabilities.

use std::fs;
use std::path::PathBuf;

/// Facts about the host, read from `/proc` and `/sys`.
#[derive(Clone, Debug)]
pub struct Features {
    /// `uname -r`.
    pub release: String,
    /// Whether `/sys/kernel/btf/vmlinux` exists.
    pub btf: bool,
    /// Mount point of the cgroup v2 hierarchy (`/sys/fs/cgroup/unified` in hybrid mode).
    pub cgroup2: Option<PathBuf>,
    /// Active security modules in order, if securityfs says.
    pub lsms: Option<Vec<String>>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u32>,
}

impl Features {
    /// Reads them now.
    pub fn read() -> Self {
        Features {
            release: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            cgroup2: cgroup2_mount(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
            lsms: fs::read_to_string("/sys/kernel/security/lsm")
                .ok()
                .map(|s| s.trim().split(',').map(str::to_owned).collect()),
            unprivileged_bpf_disabled: fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
                .ok()
                .and_then(|s| s.trim().parse().ok()),
        }
    }

    /// Whether BPF LSM programs are called. With `bpf` missing from the list they load, attach, and never run
    /// (measured on 6.1 and 6.12). `None`: securityfs is not mounted.
    pub fn bpf_lsm_listed(&self) -> Option<bool> {
        self.lsms.as_ref().map(|l| l.iter().any(|m| m == "bpf"))
    }
}

/// The mount point of the first cgroup2 file system in a `mountinfo` (proc(5)).
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        (kind == "cgroup2").then(|| left.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

/// A capability that loading the programs needs and this process lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingCapability {
    /// As capabilities(7) spells it.
    pub name: &'static str,
    /// What it is needed for.
    pub why: &'static str,
}

/// Capabilities by number (linux/capability.h).
const NEEDED: &[(u32, &str, &str)] = &[
    (39, "CAP_BPF", "to load BPF programs and maps"),
    (38, "CAP_PERFMON", "to attach to process tracepoints"),
    (12, "CAP_NET_ADMIN", "to attach network programs to cgroups"),
    (21, "CAP_SYS_ADMIN", "to use iterators over all processes and to find programs by id"),
    (19, "CAP_SYS_PTRACE", "to cut connections that lost their grant"),
    (1, "CAP_DAC_OVERRIDE", "to place agents in cgroups"),
];

/// The capabilities that this process lacks; empty: all there.
pub fn check_privileges() -> Vec<MissingCapability> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_from(effective(&status).unwrap_or(0))
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_from(effective: u64) -> Vec<MissingCapability> {
    NEEDED
        .iter()
        .filter(|(bit, ..)| effective >> bit & 1 == 0)
        .map(|&(_, name, why)| MissingCapability { name, why })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_in_hybrid_mode() {
        let text = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    30 25 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("25 20 0:22 / /x rw - tmpfs tmpfs rw\n"), None);
    }

    #[test]
    fn names_the_missing_capability() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001fffeffffff\n"), Some(0x1ff_feff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
        assert!(missing_from(u64::MAX).is_empty());
        let missing = missing_from(!(1 << 39));
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].name, "CAP_BPF");
    }
}
