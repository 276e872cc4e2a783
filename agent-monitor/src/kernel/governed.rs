//! Where the governed cgroup lies in the hierarchy, as the programs that look for sockets outside of it must know.
//!
//! Called by the loader. The kernel counts from the root of the whole hierarchy; in a cgroup namespace, or where only a
//! part of the hierarchy is mounted, that root is out of sight.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

/// Inode of the first cgroup namespace (`PROC_CGROUP_INIT_INO`, include/linux/proc_ns.h).
const FIRST_NAMESPACE: u64 = 0xeffffffb;

/// How far `cgroup` lies below the root of the cgroup v2 hierarchy; 0: it is the root.
///
/// # Errors
/// Why that can't be told.
pub fn level(cgroup: &Path) -> Result<u32, String> {
    let namespace = fs::metadata("/proc/self/ns/cgroup").map_err(|error| error.to_string())?;
    if namespace.st_ino() != FIRST_NAMESPACE {
        return Err("the monitor runs in a cgroup namespace, which hides where the governed cgroup lies; run it on the host".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    let cgroup = cgroup.canonicalize().map_err(|error| error.to_string())?;
    level_in(&mounts, &cgroup)
        .ok_or_else(|| format!("{} lies in no cgroup v2 hierarchy that is mounted whole", cgroup.display()))
}

/// [`level`] by a `mountinfo` (proc(5)): of the last mount above `cgroup`.
fn level_in(mounts: &str, cgroup: &Path) -> Option<u32> {
    let whole = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (right.split(' ').next()? == "cgroup2" && root == "/").then_some(Path::new(at))
    });
    let below = whole.filter_map(|at| cgroup.strip_prefix(at).ok());
    below.map(|below| below.components().count() as u32).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_below_the_mount_is_the_level() {
        let mounts = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      30 25 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n\
                      31 25 0:26 /some/part /part rw shared:4 - cgroup2 cgroup2 rw\n";
        let level = |path: &str| level_in(mounts, Path::new(path));
        assert_eq!(level("/sys/fs/cgroup/unified"), Some(0));
        assert_eq!(level("/sys/fs/cgroup/unified/a/b"), Some(2));
        assert_eq!(level("/sys/fs/cgroup/a"), None);
        assert_eq!(level("/part/a"), None);
    }
}
