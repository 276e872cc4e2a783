//! The kernel's counters, summed over CPUs.

use agent_monitor_common::counters::{DECISIONS, Ring, RingCounters, Site};
use aya::maps::{MapData, PerCpuArray};

use super::control::RingPod;
use super::loader::Kernel;

/// All counters at one moment.
#[derive(Clone, Debug)]
pub struct Counters {
    /// By [`agent_monitor_common::counters::decision_cell`].
    pub decisions: [u64; DECISIONS],
    /// Helper failures.
    pub sites: Vec<(Site, u64)>,
    /// By [`Ring`].
    pub rings: [RingCounters; 2],
}

/// Kernel statistics of one program; zero unless statistics are on (`LoadOptions::stats`).
#[derive(Clone, Debug)]
pub struct ProgramStats {
    pub name: &'static str,
    /// As posture names it.
    pub mechanism: &'static str,
    pub run_count: u64,
    pub run_time_ns: u64,
    /// Instructions that the verifier walked at load.
    pub verified_instructions: u32,
}

impl Kernel {
    /// Reads all counters. A cell that can't be read counts as 0: the maps are arrays and always there.
    pub fn counters(&self) -> Counters {
        let mut decisions = [0; DECISIONS];
        for (i, cell) in decisions.iter_mut().enumerate() {
            *cell = sum(&self.maps.decisions, i as u32);
        }
        let sites = Site::ALL.iter().map(|s| (*s, sum(&self.maps.faults, s.code()))).collect();
        let mut rings = [RingCounters::ZERO; 2];
        for ring in Ring::ALL {
            if let Ok(cpus) = self.maps.rings.get(&ring.code(), 0) {
                for RingPod(c) in cpus.iter() {
                    let total = &mut rings[ring.code() as usize];
                    total.written += c.written;
                    total.lost += c.lost;
                }
            }
        }
        Counters { decisions, sites, rings }
    }
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    map.get(&index, 0).map(|cpus| cpus.iter().sum()).unwrap_or(0)
}
