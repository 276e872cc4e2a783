//! Repeated activity: what was allowed once is told once, and counted from there on.
//!
//! Writer: `agent-monitor-ebpf/src/activity.rs`. Reader: `agent-monitor/src/event/repeats.rs`. Nothing here decides: a
//! count that is lost, or shared by two objects, changes no verdict.

use crate::path::Rights;
use crate::wire_struct;

/// Objects whose repeats are counted at one time; the least used make room, and are told again at their next use.
pub const MAX_USED: usize = 16_384;

wire_struct! {
    /// An agent did this to that object.
    pub struct UsedKey: 16 {
        /// Agent.
        pub agent: u32,
        /// [`Rights`] that were needed.
        pub rights: u32,
        /// [`object_of`]: the object, or the directory of entries that did not exist yet.
        pub object: u64,
    }
}

/// One word for an inode on a mount (by its id); `entries`: for what is made in that directory.
///
/// On one mount no two inodes share a word, for the factors are odd, so that an agent can't choose two files that are
/// counted as one.
#[inline(always)]
pub const fn object_of(mount: u32, inode: u64, entries: bool) -> u64 {
    const INODE: u64 = 0x9e37_79b9_7f4a_7c15;
    const ENTRIES: u64 = 0xc2b2_ae3d_27d4_eb4f;
    (mount as u64) << 40 ^ inode.wrapping_mul(if entries { ENTRIES } else { INODE })
}

impl UsedKey {
    #[inline(always)]
    pub const fn new(agent: u32, rights: Rights, object: u64) -> Self {
        UsedKey { agent, rights, object }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_one_mount_have_words_of_their_own() {
        let mount = 29;
        let mut words: Vec<u64> = (0..10_000).map(|inode| object_of(mount, inode, false)).collect();
        words.extend((1..10_000).map(|inode| object_of(mount, inode, true)));
        words.sort_unstable();
        let before = words.len();
        words.dedup();
        assert_eq!(words.len(), before);
        assert_ne!(object_of(mount, 7, false), object_of(mount + 1, 7, false));
    }
}
