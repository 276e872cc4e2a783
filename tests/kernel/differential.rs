//! The kernel's `decide()` against the one that explains, and both against the rules read one by one.

use agent_monitor::policy::compile::{self, sample};
use agent_monitor::policy::naive;
use agent_monitor_common::decide::{Decision, decide};
use agent_monitor_common::image::Class;
use agent_monitor_common::request::PROBE_BATCH;
use agent_monitor_tests::monitor::SLOT;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::lab::{self, Lab};

/// Pairs of a run.
const PAIRS: usize = 100_000;
/// Rules of the profiles, in turn.
const RULES: [usize; 7] = [0, 1, 3, 10, 40, 150, 400];

pub fn trials() -> Vec<Trial> {
    vec![lab::check("L19_kernel_and_userspace_decide_alike", alike)]
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
