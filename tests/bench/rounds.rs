//! Rounds of operations: monitor off, on for an unlabelled process, on for a labelled one.

use std::fs;
use std::path::PathBuf;

use agent_monitor::kernel::{Kernel, LoadOptions};
use agent_monitor_common::label::LabelOrigin;
use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Context, Result};

use crate::operations::{Operation, Peer, Worker};
use crate::report::{Report, median};

const ROUNDS: usize = 9;

/// The profile that the labelled workers run under: what they do is granted, among ordinary rules.
const PROFILE: &str = "version: 1
name: bench
mode: enforce
network:
  allow:
    - { cidr: 127.0.0.0/8, protocol: [tcp, udp] }
    - { cidr: 10.0.0.0/8, ports: [443, 8000-8100] }
    - { cidr: 'fd00::/8', ports: [443] }
  deny:
    - { cidr: 169.254.0.0/16, protocol: any }
  listen:
    - { ports: [3000-3999] }
";

pub fn run(report: &mut Report) -> Result<()> {
    eprintln!("operations, {ROUNDS} rounds");
    let cgroup = Cgroup::create("bench")?;
    let peer = Peer::start()?;
    let image = image()?;
    // [operation][condition][round]
    let mut times = vec![[const { Vec::new() }; 3]; Operation::ALL.len()];
    for round in 0..ROUNDS {
        eprint!("  round {} of {ROUNDS}\r", round + 1);
        for (i, operation) in Operation::ALL.into_iter().enumerate() {
            times[i][0].push(Worker::start(operation, cgroup.path(), peer.port)?.finish()?);
        }
        let mut kernel = Kernel::load(&LoadOptions::new(cgroup.path()))?;
        kernel.install(0, &image)?;
        for (i, operation) in Operation::ALL.into_iter().enumerate() {
            // An agent lives all the while, so that its label makes the hooks work.
            let resident = Worker::start(Operation::Getppid, cgroup.path(), peer.port)?;
            let agent = kernel.new_agent(0, resident.pid(), LabelOrigin::Run)?;
            times[i][1].push(Worker::start(operation, cgroup.path(), peer.port)?.finish()?);
            let labelled = Worker::start(operation, cgroup.path(), peer.port)?;
            kernel.label_tree(agent, 0, labelled.pid(), LabelOrigin::Run)?;
            times[i][2].push(labelled.finish()?);
            resident.finish()?;
        }
        let faults: u64 = kernel.counters().sites.iter().map(|(_, n)| n).sum();
        anyhow::ensure!(faults == 0, "helpers failed while measuring: {:?}", kernel.counters().sites);
    }
    for (i, operation) in Operation::ALL.into_iter().enumerate() {
        let (base, ..) = median(&mut times[i][0].clone());
        report.info(format!("{}, monitor off", operation.name()), base, " ns", String::new());
        for (condition, who) in [(1, "unlabelled"), (2, "labelled")] {
            let mut ratios: Vec<f64> =
                times[i][condition].iter().zip(&times[i][0]).map(|(on, off)| on / off).collect();
            let (middle, low, high) = median(&mut ratios);
            let name = format!("{}, {who}", operation.name());
            let note = format!("rounds {low:.3} to {high:.3}");
            match target(operation, condition) {
                Some(target) => report.at_most(name, middle, "x", target, note),
                None => report.info(name, middle, "x", note),
            }
        }
    }
    Ok(())
}

fn target(operation: Operation, condition: usize) -> Option<f64> {
    Some(match (operation, condition) {
        (Operation::Connect, 1) => 1.05,
        (Operation::Connect, 2) => 1.15,
        (Operation::Exec, 1) => 1.03,
        (Operation::Getppid, 1) => 1.01,
        (Operation::Send, 1) => 1.05,
        (Operation::Send, 2) => 1.20,
        _ => return None,
    })
}

fn image() -> Result<Vec<u64>> {
    let file: PathBuf = std::env::temp_dir().join(format!("agent-monitor-bench-{}.yaml", std::process::id()));
    fs::write(&file, PROFILE)?;
    let loaded = agent_monitor::policy::load_profile(&file, &[]);
    fs::remove_file(&file)?;
    let loaded = loaded.map_err(|e| anyhow::anyhow!("{e}")).context("the bench profile is wrong")?;
    Ok(agent_monitor::policy::compile::profile(&loaded.profile)?.words)
}
