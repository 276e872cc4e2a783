//! Reading the kernel's counts of repeated activity.

use agent_monitor_common::activity::UsedKey;
use aya::maps::{HashMap, MapData};

use super::control::UsedPod;

/// The counts: how often an agent did something again that it was seen to do.
pub struct UsedReader {
    map: HashMap<MapData, UsedPod, u64>,
}

impl UsedReader {
    pub(super) fn new(map: HashMap<MapData, UsedPod, u64>) -> Self {
        UsedReader { map }
    }

    /// Every key and how often it happened since it was made. A key that is evicted meanwhile is left out.
    pub fn counts(&self) -> impl Iterator<Item = (UsedKey, u64)> + '_ {
        self.map.iter().flatten().map(|(UsedPod(key), count)| (key, count))
    }

    /// Takes a count out.
    pub fn forget(&mut self, key: UsedKey) {
        // One that is gone is what we want.
        let _ = self.map.remove(&UsedPod(key));
    }
}
