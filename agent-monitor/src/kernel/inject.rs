//! Makes helpers of the kernel side fail, in the build that tests what follows from it.

use agent_monitor_common::counters::Site;
use aya::maps::{Array, MapError};

use super::loader::Kernel;

impl Kernel {
    /// From here on the helpers at these sites fail, and at no others.
    pub fn inject(&mut self, sites: &[Site]) -> Result<(), MapError> {
        let mask = sites.iter().fold(0_u64, |mask, site| mask | 1 << site.code());
        let map = self.object.map_mut("INJECT").ok_or(MapError::InvalidName { name: "INJECT".to_owned() })?;
        Array::<_, u64>::try_from(map)?.set(0, mask, 0)
    }
}
