//! The profiles in force, by slot, and what they claim.
//!
//! Owned by `daemon::core` behind its lock; changed by `daemon::reload` only. What must stay true: it says what the
//! kernel has, never what a file would like.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use agent_monitor_common::image::MAX_PROFILES;
use sha2::{Digest as _, Sha256};

use crate::kernel::{Gap, PinnedProfile, is_noted_as};
use crate::policy::{ClaimKind, ResolvedProfile};

/// SHA-256 of an image's words, little-endian: tells whether two hosts enforce the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    #[must_use]
    pub fn of(words: &[u64]) -> Self {
        let mut hash = Sha256::new();
        for word in words {
            hash.update(word.to_le_bytes());
        }
        Digest(hash.finalize().into())
    }

    /// Its bytes, as the pins' note holds them.
    #[must_use]
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// A profile that the kernel enforces.
#[derive(Clone, Debug)]
pub struct InForce {
    pub profile: Arc<ResolvedProfile>,
    pub generation: u32,
    pub digest: Digest,
    /// As it is in the kernel, without the rest that is zero: `run` makes rules of it where the kernel can't enforce.
    pub image: Arc<[u64]>,
    /// What it asks and this kernel can't enforce.
    pub gaps: Vec<Gap>,
    /// Why its newest file is not in force.
    pub refused: Option<String>,
    /// Its file is gone; it goes with its last agent, and takes no new ones.
    pub retired: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    pub slots: BTreeMap<u32, InForce>,
    /// Slots that an earlier daemon's profiles hold until their files are read, or their last agents have ended.
    pub inherited: BTreeMap<u32, PinnedProfile>,
    /// The claims' image in force in the kernel; `None`: nobody claims an executable.
    pub exe_claims: Option<Vec<u64>>,
    /// The same automaton for cgroup paths, walked here.
    pub cgroup_claims: Option<Vec<u64>>,
    /// Directories below which claimed cgroups can be, as paths in the hierarchy.
    pub cgroup_prefixes: Vec<String>,
}

impl Table {
    /// The profile with this name that takes new agents.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(u32, &InForce)> {
        let found = self.slots.iter().find(|(_, held)| held.profile.name == name && !held.retired);
        found.map(|(slot, held)| (*slot, held))
    }

    /// The slot of a profile by name, retired or not.
    #[must_use]
    pub fn slot_of(&self, name: &str) -> Option<u32> {
        self.slots.iter().find(|(_, held)| held.profile.name == name).map(|(slot, _)| *slot)
    }

    /// The slot in which an earlier daemon left the profile with this name.
    #[must_use]
    pub fn inherited_slot(&self, name: &str) -> Option<u32> {
        self.inherited.iter().find(|(_, left)| is_noted_as(&left.name, name)).map(|(slot, _)| *slot)
    }

    /// A slot that no profile has, and that is not `carried` by a living agent.
    #[must_use]
    pub fn free_slot(&self, carried: impl Fn(u32) -> bool) -> Option<u32> {
        (0..MAX_PROFILES as u32).find(|slot| {
            !self.slots.contains_key(slot) && !self.inherited.contains_key(slot) && !carried(*slot)
        })
    }

    /// Names of the profiles that take new agents.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.slots.values().filter(|held| !held.retired).map(|held| held.profile.name.as_str()).collect()
    }

    /// The globs of all claims of one kind, with the slots that they lead to, `~` expanded for each of `homes`.
    #[must_use]
    pub fn claims(&self, homes: &[PathBuf], cgroups: bool) -> Vec<(u32, String)> {
        let mut globs = Vec::new();
        for (slot, held) in self.slots.iter().filter(|(_, held)| !held.retired) {
            for claim in &held.profile.claims {
                match &claim.what {
                    ClaimKind::Exe(glob) if !cgroups => {
                        let expanded = crate::policy::compile::expand_home(glob, homes);
                        globs.extend(expanded.into_iter().map(|glob| (*slot, glob)));
                    }
                    ClaimKind::Cgroup(glob) if cgroups => globs.push((*slot, glob.clone())),
                    ClaimKind::Exe(_) | ClaimKind::Cgroup(_) => {}
                }
            }
        }
        globs
    }
}
