//! The maps of the programs under test, found as any tool on the host finds them: by the programs of the cgroup.

use std::os::fd::AsFd;

use agent_monitor_common::label::{Label, MAX_LABELS, PID_LIMIT};
use agent_monitor_common::wire::Wire;
use agent_monitor_tests::bpf;
use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Context, Result, bail};
use aya::maps::{MapData, MapInfo};
use aya::programs::loaded_programs;

/// All maps that the cgroup's address programs and packet programs use.
pub fn of_programs(cgroup: &Cgroup) -> Result<Vec<MapInfo>> {
    let mut programs = bpf::attached(cgroup, bpf::CONNECT4)?;
    programs.extend(bpf::attached(cgroup, bpf::EGRESS)?);
    let mut maps = Vec::new();
    for program in loaded_programs() {
        let program = program?;
        if programs.contains(&program.id()) {
            maps.extend(program.map_ids()?.context("the kernel names no maps")?);
        }
    }
    maps.sort_unstable();
    maps.dedup();
    maps.into_iter().map(|id| MapInfo::from_id(id).context("a map's description")).collect()
}

/// The map of this name.
pub fn of_cgroup(cgroup: &Cgroup, name: &str) -> Result<MapData> {
    for info in of_programs(cgroup)? {
        if info.name_as_str() == Some(name) {
            return Ok(MapData::from_id(info.id())?);
        }
    }
    bail!("the programs use no map {name}")
}

/// Takes the label of process `pid` away; its bit stays.
pub fn lose_label(cgroup: &Cgroup, pid: u32) -> Result<()> {
    let labels = of_cgroup(cgroup, "LABELS")?;
    bpf::delete(labels.fd().as_fd(), &pid.to_ne_bytes()).context("take the label away")
}

/// Labels for numbers that no process has; taken out on drop.
pub struct Filler {
    labels: MapData,
    keys: Vec<u32>,
}

impl Filler {
    /// Fills the label map until it takes no more.
    pub fn fill(labels: MapData) -> Result<Self> {
        let mut filler = Filler { labels, keys: Vec::new() };
        let label = Label { agent: 1, origin: 1, ..Label::ZERO };
        for key in (PID_LIMIT - 1 - MAX_LABELS as u32..PID_LIMIT).rev() {
            match bpf::update(filler.labels.fd().as_fd(), &key.to_ne_bytes(), label.as_bytes()) {
                Ok(()) => filler.keys.push(key),
                Err(e) if e.raw_os_error() == Some(libc::E2BIG) => return Ok(filler),
                Err(e) => return Err(e).context("fill the label map"),
            }
        }
        bail!("the label map has no end")
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        for key in &self.keys {
            // An entry that is gone is what we want.
            let _ = bpf::delete(self.labels.fd().as_fd(), &key.to_ne_bytes());
        }
    }
}
