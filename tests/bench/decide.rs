//! The kernel's `decide()` by test-run: nanoseconds of a decision over what the probe itself costs, by number of
//! rules, beside an LPM trie with port lists. And what compiling and installing those profiles takes.

use std::cell::Cell;
use std::time::Instant;

use agent_monitor::kernel::{BaselinePorts, Kernel, LoadOptions};
use agent_monitor::policy::ResolvedProfile;
use agent_monitor::policy::compile::{self, sample};
use agent_monitor_common::automaton::Words;
use agent_monitor_common::decide::decide;
use agent_monitor_common::image::Class;
use agent_monitor_common::request::{Direction, NetRequest, PROBE_BATCH};
use agent_monitor_tests::cgroup::Cgroup;
use anyhow::{Context, Result};
use ipnet::IpNet;
use std::collections::BTreeMap;

use crate::report::{Report, median};

const ROUNDS: usize = 9;
const REPEAT: u32 = 400_000;
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const SEED: u64 = 7;
/// Requests whose words the nearest cache holds.
const FEW: usize = 64;

pub fn run(report: &mut Report) -> Result<()> {
    eprintln!("decide, {ROUNDS} rounds of {REPEAT} runs");
    let cgroup = Cgroup::create("decide")?;
    // By size: [v4, v6, lpm v4, lpm v6]
    let mut figures = Vec::new();
    for size in SIZES {
        let profile = sample::network_profile(size, SEED);
        // A fresh load for each size: the baseline's maps have no way to be emptied.
        let mut kernel = Kernel::load(&LoadOptions::new(cgroup.path()))?;
        let start = Instant::now();
        let image = compile::profile(&profile)?;
        let compiled = start.elapsed();
        kernel.install(0, &image.words)?;
        let installed = start.elapsed();
        let name = format!("compile + install, {size} rules");
        let note =
            format!("compile {:.0} ms, {} KiB", compiled.as_secs_f64() * 1e3, image.words_used() / 128);
        let ms = installed.as_secs_f64() * 1e3;
        match size {
            1_000 => report.at_most(name, ms, " ms", 300.0, note),
            10_000 => report.at_most(name, ms, " ms", 3_000.0, note),
            _ => report.info(name, ms, " ms", note),
        }
        fill_baseline(&mut kernel, &profile)?;
        let mut row = Vec::new();
        for v4 in [true, false] {
            let requests = requests(&profile, v4);
            kernel.fill_probe(0, &requests)?;
            let name = format!("words read a decision, {}, {size} rules", if v4 { "IPv4" } else { "IPv6" });
            report.info(name, words_read(&image.words, &requests), "", String::new());
            row.push(time(&mut kernel, "probe_decide")?);
            if size == 10_000 {
                // The same few again and again: what it costs when the words are in the nearest cache.
                kernel.fill_probe(0, &requests[..requests.len().min(FEW)])?;
                let name =
                    format!("decide {}, 10000 rules, {FEW} requests", if v4 { "IPv4" } else { "IPv6" });
                report.info(name, time(&mut kernel, "probe_decide")?, " ns", String::new());
                kernel.fill_probe(0, &requests)?;
            }
            row.push(time(&mut kernel, "probe_lpm")?);
        }
        figures.push((size, row[0], row[2], row[1], row[3]));
    }
    for &(size, v4, v6, lpm4, lpm6) in &figures {
        if size == 1_000 {
            report.at_most("decide IPv4, 1000 rules", v4, " ns", 80.0, String::new());
            report.at_most("decide IPv6, 1000 rules", v6, " ns", 250.0, String::new());
        } else {
            report.info(format!("decide IPv4, {size} rules"), v4, " ns", String::new());
            report.info(format!("decide IPv6, {size} rules"), v6, " ns", String::new());
        }
        let note = |ours: f64, lpm: f64| format!("decide {ours:.0} ns, LPM + ports {lpm:.0} ns");
        report.at_most(format!("decide / LPM, IPv4, {size} rules"), v4 / lpm4, "x", 1.0, note(v4, lpm4));
        report.at_most(format!("decide / LPM, IPv6, {size} rules"), v6 / lpm6, "x", 1.0, note(v6, lpm6));
    }
    let (first, last) = (figures[0], figures[figures.len() - 1]);
    report.at_most("decide IPv4, 10 000 rules / 10 rules", last.1 / first.1, "x", 1.5, String::new());
    report.at_most("decide IPv6, 10 000 rules / 10 rules", last.2 / first.2, "x", 1.5, String::new());
    Ok(())
}

/// A batch of outgoing requests of one family.
fn requests(profile: &ResolvedProfile, v4: bool) -> Vec<NetRequest> {
    sample::requests(profile, PROBE_BATCH * 8, SEED)
        .into_iter()
        .filter(|r| r.direction == Direction::Out && r.address.as_v4().is_some() == v4)
        .take(PROBE_BATCH)
        .collect()
}

/// Words of the image that a decision reads, on average: they depend on one another, so their number is its time.
fn words_read(image: &[u64], requests: &[NetRequest]) -> f64 {
    struct Counting<'a>(&'a [u64], Cell<usize>);
    impl Words for Counting<'_> {
        fn word(&self, index: u64) -> u64 {
            self.1.set(self.1.get() + 1);
            self.0.word(index)
        }
    }
    let image = Counting(image, Cell::new(0));
    for request in requests {
        decide(&image, Class::PLAIN, *request);
    }
    image.1.get() as f64 / requests.len() as f64
}

/// Nanoseconds of one run of a probe over the empty probe: the median of the rounds.
fn time(kernel: &mut Kernel, name: &'static str) -> Result<f64> {
    let mut over = Vec::new();
    for _ in 0..ROUNDS {
        let empty = kernel.time_probe("probe_empty", REPEAT)?.each;
        let full = kernel.time_probe(name, REPEAT)?.each;
        over.push(full.as_nanos() as f64 - empty.as_nanos() as f64);
    }
    // At least one nanosecond, so that ratios exist: the kernel gives whole ones.
    Ok(median(&mut over).middle.max(1.0))
}

/// The profile's rules as an LPM trie can hold them: per prefix at most eight port ranges; denies where they stand.
fn fill_baseline(kernel: &mut Kernel, profile: &ResolvedProfile) -> Result<()> {
    let mut groups: BTreeMap<([u8; 16], u32), BaselinePorts> = BTreeMap::new();
    let rules =
        profile.network.deny.iter().map(|r| (r, 2)).chain(profile.network.allow.iter().map(|r| (r, 1)));
    for (rule, answer) in rules {
        for net in &rule.nets {
            let key = match net {
                IpNet::V4(n) => (n.network().to_ipv6_mapped().octets(), 96 + u32::from(n.prefix_len())),
                IpNet::V6(n) => (n.network().octets(), u32::from(n.prefix_len())),
            };
            let ports = groups.entry(key).or_default();
            for protocol in [0, 1] {
                for range in &rule.ports {
                    if let Some(free) = ports.ranges.get_mut(ports.used as usize) {
                        *free = [*range.start(), *range.end(), protocol, answer];
                        ports.used += 1;
                    }
                }
            }
        }
    }
    let entries: Vec<_> =
        groups.into_iter().map(|((address, length), p)| (address, length, p)).take(16_384).collect();
    kernel.fill_baseline(&entries).context("cannot fill the LPM baseline")
}
