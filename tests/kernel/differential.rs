//! The kernel's `decide()` against the one that explains, and both against the rules read one by one.

use agent_monitor::policy::compile::{self, PathMatcher, sample, sample_names, sample_paths};
use agent_monitor::policy::{Membership, NameClasses, naive};
use agent_monitor_common::decide::{Decision, decide, decide_name};
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::path::{DENIED_BELOW, PATH_BATCH, PathAnswer, Right, Rights, decide_answer, walk};
use agent_monitor_common::request::{PROBE_BATCH, Protocol};
use agent_monitor_tests::monitor::SLOT;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::lab::{self, Lab};

/// Pairs of a run.
const PAIRS: usize = 100_000;
/// Rules of the profiles, in turn.
const RULES: [usize; 7] = [0, 1, 3, 10, 40, 150, 400];

pub fn trials() -> Vec<Trial> {
    vec![
        lab::check("L19_kernel_and_userspace_decide_alike", alike),
        lab::check("L19_kernel_and_userspace_judge_paths_alike", paths_alike),
        lab::check("L19_kernel_and_userspace_judge_names_alike", names_alike),
    ]
}

/// The seed of this run; a failure names it, and `DIFFERENTIAL_SEED` repeats it.
fn seed() -> Result<u64> {
    match std::env::var("DIFFERENTIAL_SEED") {
        Ok(text) => text.parse().context("DIFFERENTIAL_SEED is not a number"),
        Err(_) => Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs()),
    }
}

fn alike(lab: &mut Lab) -> Result<()> {
    let first = seed()?;
    let monitor = lab.monitor()?;
    let (mut pairs, mut allowed, mut by_rule) = (0, 0, 0);
    for (round, rules) in RULES.iter().cycle().enumerate() {
        if pairs >= PAIRS {
            break;
        }
        let seed = first.wrapping_add(round as u64);
        // Every class of a profile with rules about programs; without such rules every class is alike.
        let profile = match round % 2 {
            0 => sample::network_profile(*rules, seed),
            _ => sample::profile_of_programs(*rules, seed),
        };
        let classes = compile::memberships(&profile)?;
        let class = (round / 2 % classes.len()) as u32;
        let program = &classes[class as usize];
        let image = compile::profile(&profile)?;
        monitor.kernel.install(SLOT, &image.words)?;
        let requests = sample::requests(&profile, PROBE_BATCH, seed);
        let kernel = monitor.kernel.decide_probe(SLOT, class, &requests)?;
        ensure!(kernel.len() == requests.len(), "{} answers for {} requests", kernel.len(), requests.len());
        for (request, kernel) in requests.iter().zip(kernel) {
            let user = decide(&image, Class::new(class), *request);
            let (rules_say, _) = naive::decide(&profile.network, program, *request);
            ensure!(
                kernel == user && user == rules_say,
                "seed {seed}, {rules} rules, {program:?}, {request:?}: kernel {kernel:?}, userspace {user:?}, rules {rules_say:?}"
            );
            allowed += usize::from(kernel == Decision::Allow);
            by_rule += usize::from(kernel == Decision::DenyRule);
        }
        pairs += requests.len();
    }
    monitor.forget();
    // A run that hardly ever allows, or never meets a deny rule, compares nothing.
    ensure!(
        allowed > pairs / 50 && by_rule > pairs / 200,
        "{allowed} allowed, {by_rule} denied by rules of {pairs}"
    );
    Ok(())
}

/// Profiles that grant names: every name in a batch by every protocol.
fn names_alike(lab: &mut Lab) -> Result<()> {
    const PORTS: [u16; 6] = [22, 80, 443, 8_000, 8_080, u16::MAX];
    let first = seed()?;
    let monitor = lab.monitor()?;
    let (mut pairs, mut allowed) = (0, 0);
    for (round, rules) in [1, 3, 10, 40, 150].iter().cycle().enumerate() {
        if pairs >= PAIRS / 4 {
            break;
        }
        let seed = first.wrapping_add(round as u64);
        let profile = sample_names::named_profile(*rules, seed);
        let image = compile::profile(&profile)?;
        let classes = NameClasses::of(&profile.network).map_err(|many| anyhow::anyhow!("{many:?}"))?;
        monitor.kernel.install(SLOT, &image.words)?;
        let mut asked = Vec::new();
        for name in sample_names::names(&profile, 160, seed) {
            for &protocol in Protocol::ALL {
                asked.extend(PORTS.map(|port| (name.clone(), protocol, port)));
            }
        }
        asked.truncate(PROBE_BATCH);
        let class = |name: &str| classes.class_of(name).unwrap_or(u16::MAX);
        let requests: Vec<_> =
            asked.iter().map(|(name, protocol, port)| (class(name), *protocol, *port)).collect();
        let kernel = monitor.kernel.decide_names(SLOT, Class::PLAIN.number(), &requests)?;
        for ((name, protocol, port), kernel) in asked.iter().zip(&kernel) {
            let (says, _) = naive::decide_name(&profile.network, &Membership::PLAIN, name, *protocol, *port);
            let user = decide_name(&image, Class::PLAIN, class(name), *protocol, *port);
            ensure!(
                *kernel == user && user == says,
                "seed {seed}, {rules} rules, {name} {protocol:?} {port}: kernel {kernel:?}, userspace {user:?}, rules {says:?}"
            );
            allowed += usize::from(kernel.allowed());
        }
        ensure!(kernel.len() == asked.len(), "{} answers for {}", kernel.len(), asked.len());
        pairs += kernel.len();
    }
    monitor.forget();
    ensure!(allowed > pairs / 50, "{allowed} allowed of {pairs}");
    Ok(())
}

/// Rules of the profiles of paths, in turn.
const GLOBS: [usize; 6] = [0, 2, 8, 30, 100, 300];
/// Batches that one profile judges: compiling it costs more than judging.
const BATCHES: usize = 24;
/// Of profiles with more globs than this, the globs are matched one by one for every sixteenth path only.
const FEW_GLOBS: usize = 30;

/// The kernel's walk, userspace's walk, and the globs matched one by one.
fn paths_alike(lab: &mut Lab) -> Result<()> {
    let first = seed()?;
    let monitor = lab.monitor()?;
    let (mut pairs, mut allowed, mut by_rule, mut below, mut longest) = (0, 0, 0, 0, 0);
    // An emulated guest is some fifty times slower: there the kernel's walk is compared, on the host the compiler's work.
    let guest = std::env::var_os("AGENT_MONITOR_VM").is_some();
    let (most, largest, batches) = if guest { (6_000, 30, 3) } else { (PAIRS, usize::MAX, BATCHES) };
    for (round, globs) in GLOBS.iter().filter(|globs| **globs <= largest).cycle().enumerate() {
        if pairs >= most {
            break;
        }
        let seed = first.wrapping_add(round as u64);
        let profile = sample_paths::path_profile(*globs, sample_paths::Mix::of(*globs), seed);
        let image = compile::profile(&profile)?;
        let matcher = PathMatcher::new(&profile);
        let start = Class::PLAIN.field(&image, class::START_PATH) as u32;
        monitor.kernel.install(SLOT, &image.words)?;
        for batch in 0..batches {
            let paths =
                sample_paths::paths(&profile, PATH_BATCH, seed.wrapping_mul(31).wrapping_add(batch as u64));
            let kernel = monitor.kernel.decide_paths(SLOT, &paths)?;
            ensure!(kernel.len() == paths.len(), "{} answers for {} paths", kernel.len(), paths.len());
            for (index, (path, kernel)) in paths.iter().zip(kernel).enumerate() {
                let user = PathAnswer::of(&image, walk(&image, start, path));
                let shown = String::from_utf8_lossy(path);
                ensure!(
                    kernel == user,
                    "seed {seed}, {globs} globs, {shown}: kernel {kernel:?}, userspace {user:?}"
                );
                below += usize::from(kernel.own & DENIED_BELOW != 0);
                longest = longest.max(path.len());
                for right in Right::ALL {
                    let decided = decide_answer(kernel.own, right as Rights);
                    allowed += usize::from(decided == Decision::Allow);
                    by_rule += usize::from(decided == Decision::DenyRule);
                    if *globs > FEW_GLOBS && index % 16 != 0 {
                        continue;
                    }
                    let rules_say = if matcher.denying(&Membership::PLAIN, path, right as Rights).is_some() {
                        Decision::DenyRule
                    } else if matcher.granting(&Membership::PLAIN, path, right).is_some() {
                        Decision::Allow
                    } else {
                        Decision::DenyDefault
                    };
                    ensure!(
                        decided == rules_say,
                        "seed {seed}, {globs} globs, {shown}, {right:?}: kernel {decided:?}, rules {rules_say:?}"
                    );
                }
            }
            pairs += paths.len();
        }
    }
    monitor.forget();
    // A run that hardly ever allows, or never meets a deny rule, compares nothing.
    ensure!(
        allowed > pairs / 20
            && by_rule > pairs / if guest { 200 } else { 20 }
            && (guest || below > pairs / 500)
            && longest > 3_000,
        "{allowed} allowed, {by_rule} denied by rules, {below} above a denied path of {pairs}; longest {longest}"
    );
    Ok(())
}
