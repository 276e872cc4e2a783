//! Capabilities that a profile does not grant are given up before the command starts.
//!
//! Called by `agent::confine`, where no BPF LSM judges the use of a capability. What must stay true: together with
//! `no_new_privs` nothing that the command executes gets one back, root's programs and those with file capabilities
//! included.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Keeps of this thread's capabilities those in `granted` (bit *n*: the capability of number *n*), for good.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_only(granted: u64) -> io::Result<()> {
    let granted = CapabilitySet::from_bits_retain(granted);
    let has = capabilities(None)?;
    // Whoever lacks it can't shrink the bound, and has `no_new_privs` to hold what is behind it.
    if has.permitted.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if granted.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // Beyond the last that this kernel knows.
                Err(rustix::io::Errno::INVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    clear_ambient_capability_set()?;
    let kept = CapabilitySets {
        effective: has.effective & granted,
        permitted: has.permitted & granted,
        inheritable: has.inheritable & granted,
    };
    Ok(set_capabilities(None, kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_granted_is_gone() {
        // A thread has capabilities of its own.
        let thread = std::thread::spawn(|| {
            let before = capabilities(None).unwrap().permitted;
            keep_only(CapabilitySet::NET_BIND_SERVICE.bits()).unwrap();
            (before, capabilities(None).unwrap())
        });
        let (before, after) = thread.join().unwrap();
        assert_eq!(after.permitted, before & CapabilitySet::NET_BIND_SERVICE);
        assert_eq!(after.effective, after.permitted);
        assert!(after.inheritable.is_empty() || after.inheritable == CapabilitySet::NET_BIND_SERVICE);
    }
}
