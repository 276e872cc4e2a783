//! Repeated activity: what was allowed once is told once, and counted from there on.
//!
//! Writer: `agent-monitor-ebpf/src/activity.rs`. Reader: `agent-monitor/src/event/repeats.rs`. Nothing here decides: a
//! count that is lost, or shared by two objects, changes no verdict.

use crate::path::{ALL_RIGHTS, Rights};
use crate::privilege::Privilege;
use crate::wire_struct;

/// Objects whose repeats are counted at one time; the least used make room, and are told again at their next use.
pub const MAX_USED: usize = 16_384;

wire_struct! {
    /// An agent did this to that object.
    pub struct UsedKey: 16 {
        /// Agent.
        pub agent: u32,
        /// [`Rights`] that were needed, or [`PRIVILEGE`], or [`SOCKET_KIND`].
        pub rights: u32,
        /// [`object_of`]: the object, or the directory of entries that did not exist yet; or the word of a privilege
        /// ([`UsedKey::privilege`]); or the code of a kind of socket.
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

/// In place of [`Rights`]: a granted privilege.
pub const PRIVILEGE: u32 = 1 << 31;
/// In place of [`Rights`]: a granted kind of socket.
pub const SOCKET_KIND: u32 = 1 << 30;
const _: () = assert!(ALL_RIGHTS & (PRIVILEGE | SOCKET_KIND) == 0);

impl UsedKey {
    /// The word of a privilege. Capabilities are told apart; of the others the number is not what is granted, and an
    /// agent could choose it.
    #[inline(always)]
    pub const fn privilege(privilege: u32, number: u32) -> u64 {
        let apart = privilege == Privilege::Capability.code();
        (privilege as u64) << 32 | if apart { number as u64 } else { 0 }
    }

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
