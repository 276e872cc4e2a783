//! The path automaton by test-run: nanoseconds per byte of a walk over what the probe itself costs, by number of globs.
//! And what compiling those profiles takes, and how large they are.

use std::time::Instant;

use agent_monitor::kernel::{Kernel, LoadOptions};
use agent_monitor::policy::compile::{self, sample_paths};
use agent_monitor_common::automaton::{TERMINAL, step};
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::path::PATH_BATCH;
use agent_monitor_tests::cgroup::Cgroup;
use anyhow::Result;

use crate::report::{Report, median};

const ROUNDS: usize = 9;
const REPEAT: u32 = 200_000;
const SIZES: [usize; 3] = [50, 300, 1_000];
const SEED: u64 = 7;
/// Bytes of the paths.
const LENGTHS: std::ops::RangeInclusive<usize> = 45..=60;

pub fn run(report: &mut Report) -> Result<()> {
    eprintln!("files, {ROUNDS} rounds of {REPEAT} runs");
    let cgroup = Cgroup::create("files")?;
    let mut kernel = Kernel::load(&LoadOptions::new(cgroup.path()))?;
    let mut verdicts = Vec::new();
    for size in SIZES {
        let profile = sample_paths::path_profile(size, sample_paths::Mix::of(size), SEED);
        let start = Instant::now();
        let image = compile::profile(&profile)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let name = format!("compile, {size} globs");
        let note = format!("{} KiB of 4096", image.words_used() / 128);
        match size {
            1_000 => report.at_most(name, ms, " ms", 3_000.0, note),
            _ => report.info(name, ms, " ms", note),
        }
        kernel.install(0, &image.words)?;
        let paths: Vec<Vec<u8>> = sample_paths::paths(&profile, PATH_BATCH * 40, SEED)
            .into_iter()
            .filter(|path| LENGTHS.contains(&path.len()))
            .take(PATH_BATCH)
            .collect();
        // A walk ends where nothing that follows matters: what counts is the bytes that it reads.
        let start = Class::PLAIN.field(&image, class::START_PATH) as u32;
        let read = |path: &Vec<u8>| {
            let mut state = start;
            let walked = path.iter().take_while(|&&byte| {
                let going = state & TERMINAL == 0;
                if going {
                    state = step(&image, state, byte);
                }
                going
            });
            walked.count()
        };
        let bytes = paths.iter().map(read).sum::<usize>() as f64 / paths.len() as f64;
        let length = paths.iter().map(Vec::len).sum::<usize>() as f64 / paths.len() as f64;
        kernel.fill_path_probe(0, &paths)?;
        let mut over = Vec::new();
        for _ in 0..ROUNDS {
            let empty = kernel.time_probe("probe_path_empty", REPEAT)?.each.as_nanos() as f64;
            over.push(kernel.time_probe("probe_path", REPEAT)?.each.as_nanos() as f64 - empty);
        }
        let verdict = median(&mut over).middle.max(1.0);
        let note = format!("{verdict:.0} ns a path of {length:.0} bytes, of which it reads {bytes:.0}");
        report.at_most(format!("path automaton, {size} globs, per byte"), verdict / bytes, " ns", 6.0, note);
        verdicts.push(verdict / bytes);
    }
    if let [few, .., many] = verdicts[..] {
        report.at_most("path automaton, 1000 globs / 50 globs", many / few, "x", 1.5, "per byte".into());
    }
    Ok(())
}
