//! Rounds of operations: monitor off, programs that do nothing in its place, on for an unlabelled process, on for a
//! labelled one. What the empty programs cost is the kernel's price of having a hook at all.

use std::fs;
use std::path::{Path, PathBuf};

use agent_monitor::kernel::{Kernel, LoadOptions};
use agent_monitor::policy::compile::sample_paths;
use agent_monitor_common::image::Class;
use agent_monitor_common::label::LabelOrigin;
use agent_monitor_common::path::{Right, Rights, decide_path};
use agent_monitor_tests::bpf::{self, CgroupHook};
use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Context, Result};

use crate::operations::{self, FILE, Operation, Peer, Worker};
use crate::report::{Report, median};

/// Rounds, unless the caller wants another number: in a virtual machine that counts instructions three are plenty.
pub const ROUNDS: usize = 40;

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
files:
  read: ['/tmp/agent-monitor-benchmark/**', '/usr/**', '/lib*/**', '/etc/**', '/proc/**']
  write: ['/dev/null']
exec:
  allow: ['/usr/**', '/lib*/**', '/bin/*']
";

/// Globs about files and programs besides those.
const GLOBS: usize = 300;

/// Seed of the globs.
const SEED: u64 = 7;

/// What is compared with the monitor being off.
const EMPTY: usize = 1;
const UNLABELLED: usize = 2;
const LABELLED: usize = 3;

/// Hooks of a connect or a datagram, for the programs that do nothing.
const HOOKS: [CgroupHook; 4] = [bpf::CONNECT4, bpf::SENDMSG4, bpf::SOCK_CREATE, bpf::EGRESS];

pub fn run(report: &mut Report, operations: &[Operation], rounds: usize) -> Result<()> {
    eprintln!("operations, {rounds} rounds");
    let cgroup = Cgroup::create("bench")?;
    let peer = Peer::start()?;
    let image = image()?;
    for file in (0..operations::DIRECTORIES).map(operations::elsewhere) {
        fs::create_dir_all(Path::new(&file).parent().context("the file has a directory")?)?;
        fs::write(&file, "x")?;
    }
    let directory = Path::new(FILE).parent().context("the file has a directory")?;
    fs::create_dir_all(directory)?;
    fs::write(FILE, "x")?;
    let mut workers = operations
        .iter()
        .map(|&operation| Worker::start(operation, cgroup.path(), peer.port))
        .collect::<Result<Vec<_>>>()?;
    // An agent lives all the while, so that its label makes the hooks work.
    let resident = Worker::start(Operation::Getppid, cgroup.path(), peer.port)?;
    // [operation][condition][round]
    let mut times = vec![[const { Vec::new() }; 4]; operations.len()];
    let mut off = turns(&mut workers)?;
    for round in 0..rounds {
        eprint!("  round {} of {rounds}\r", round + 1);
        let empty = {
            let _programs: Vec<_> = HOOKS
                .iter()
                .map(|hook| bpf::attach_allow_all(&cgroup, *hook, bpf::ALLOW_MULTI, true))
                .collect::<Result<_>>()?;
            turns(&mut workers)?
        };
        let mut kernel = Kernel::load(&LoadOptions::new(cgroup.path()))?;
        kernel.install(0, &image)?;
        let agent = kernel.new_agent(0, resident.pid(), LabelOrigin::Run)?;
        let unlabelled = turns(&mut workers)?;
        for worker in &workers {
            kernel.label_tree(agent, 0, worker.pid(), LabelOrigin::Run)?;
        }
        let labelled = turns(&mut workers)?;
        let faults: u64 = kernel.counters().sites.iter().map(|(_, n)| n).sum();
        anyhow::ensure!(faults == 0, "helpers failed while measuring: {:?}", kernel.counters().sites);
        drop(kernel);
        // The machine's speed drifts: what the conditions are compared with is measured before and after them.
        let after = turns(&mut workers)?;
        for (i, times) in times.iter_mut().enumerate() {
            times[0].push(off[i].midpoint(after[i]));
            times[EMPTY].push(empty[i]);
            times[UNLABELLED].push(unlabelled[i]);
            times[LABELLED].push(labelled[i]);
        }
        off = after;
    }
    for worker in workers {
        worker.finish()?;
    }
    resident.finish()?;
    for (i, &operation) in operations.iter().enumerate() {
        let base = median(&mut times[i][0].clone()).middle;
        report.info(format!("{}, monitor off", operation.name()), base, " ns", String::new());
        for (condition, who) in
            [(EMPTY, "empty programs"), (UNLABELLED, "unlabelled"), (LABELLED, "labelled")]
        {
            if condition == EMPTY && !matches!(operation, Operation::Connect | Operation::Send) {
                continue;
            }
            let mut ratios: Vec<f64> =
                times[i][condition].iter().zip(&times[i][0]).map(|(on, off)| on / off).collect();
            let spread = median(&mut ratios);
            let name = format!("{}, {who}", operation.name());
            let note = format!("middle half of the rounds {:.3} to {:.3}", spread.lower, spread.upper);
            match target(operation, condition) {
                Some(target) => report.at_most(name, spread.middle, "x", target, note),
                None => report.info(name, spread.middle, "x", note),
            }
        }
    }
    Ok(())
}

/// A turn of each worker.
fn turns(workers: &mut [Worker]) -> Result<Vec<f64>> {
    workers.iter_mut().map(Worker::turn).collect()
}

fn target(operation: Operation, condition: usize) -> Option<f64> {
    Some(match (operation, condition) {
        (Operation::Connect, UNLABELLED) => 1.05,
        (Operation::Connect, LABELLED) => 1.15,
        (Operation::Exec, UNLABELLED) => 1.03,
        (Operation::Open | Operation::OpenElsewhere, UNLABELLED) => 1.035,
        (Operation::Open | Operation::OpenElsewhere, LABELLED) => 1.40,
        (Operation::Getppid, UNLABELLED) => 1.01,
        (Operation::Send, UNLABELLED) => 1.05,
        (Operation::Send, LABELLED) => 1.20,
        _ => return None,
    })
}

fn image() -> Result<Vec<u64>> {
    let file: PathBuf = std::env::temp_dir().join(format!("agent-monitor-bench-{}.yaml", std::process::id()));
    fs::write(&file, PROFILE)?;
    let loaded = agent_monitor::policy::load_profile(&file, &[]);
    fs::remove_file(&file)?;
    let loaded = loaded.map_err(|e| anyhow::anyhow!("{e}")).context("the bench profile is wrong")?;
    let mut profile = loaded.profile;
    let globs = sample_paths::path_profile(GLOBS, sample_paths::Mix::of(GLOBS), SEED);
    let (Some(files), Some(exec)) = (&mut profile.filesystem, &mut profile.exec) else {
        anyhow::bail!("the bench profile has no sections about paths")
    };
    let (Some(more_files), Some(more_exec)) = (globs.filesystem, globs.exec) else {
        anyhow::bail!("the sample has no sections about paths")
    };
    files.read.extend(more_files.read);
    files.write.extend(more_files.write);
    files.deny.extend(more_files.deny);
    exec.allow.extend(more_exec.allow);
    exec.deny.extend(more_exec.deny);
    let image = agent_monitor::policy::compile::profile(&profile)?;
    for (path, right) in [(FILE, Right::Read), ("/usr/bin/true", Right::Execute)] {
        let decision = decide_path(&image, Class::PLAIN, path.as_bytes(), right as Rights);
        anyhow::ensure!(decision.allowed(), "{path} is to be measured and not granted");
    }
    Ok(image.words)
}
