//! The monitor's own objects, out of reach for every agent whose profile was compiled with them, whatever it grants.
//!
//! Called first by the hooks for signals, tracing and `bpf` (`privilege.rs`) and for mounts (`mount.rs`); paths are denies
//! in the profile's own automaton (`file.rs`). What must stay true: whoever may reach the monitor's process, programs or
//! maps may end every denial, so no grant of a profile stands above this.

use agent_monitor_common::image::HAS_PROTECTED;
use aya_ebpf::helpers::bpf_get_current_uid_gid;

use crate::maps::MONITOR;
use crate::subject::Policy;

/// Whether the policy holds the monitor's objects out of reach.
#[inline(always)]
pub fn protects(policy: &Policy) -> bool {
    policy.flags & HAS_PROTECTED != 0
}

/// Whether a process is the monitor.
#[inline(always)]
pub fn is_monitor(tgid: u32) -> bool {
    // SAFETY: an element of an array; the daemon writes it as one word.
    tgid != 0 && MONITOR.get_ptr(0).is_some_and(|pid| unsafe { core::ptr::read_volatile(pid) } == tgid as u64)
}

/// Whether a `bpf` command reaches objects that the process did not make: by number, by pin, or by where they are
/// attached (`enum bpf_cmd`, include/uapi/linux/bpf.h).
#[inline(always)]
pub fn reaches_others(command: u32) -> bool {
    // OBJ_GET, PROG_DETACH, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, LINK_GET_FD_BY_ID, LINK_DETACH.
    matches!(command, 7 | 9 | 13 | 14 | 30 | 34)
}

/// Whether the current process may put one thing in another's place by a mount: root, also root of a user namespace that
/// root made, for the monitor's files are root's.
#[inline(always)]
pub fn is_root() -> bool {
    bpf_get_current_uid_gid() as u32 == 0
}
