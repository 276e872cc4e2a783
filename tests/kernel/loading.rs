//! Every program loads, on every kernel that lets it. Without this a program that a verifier refuses would look like a
//! host that has no such hook, and its attacks like ones that nobody claims to stop.

use agent_monitor::kernel::State;
use agent_monitor::kernel::programs::{Kind, PROGRAMS};
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::lab::{self, Lab};

/// Half of the million at which a verifier gives up: the next kernel's may walk further. The longest way is that of
/// `file_open` on 7.3, 342 000.
const MOST_INSTRUCTIONS: u32 = 500_000;

pub fn trials() -> Vec<Trial> {
    vec![
        lab::check("no_program_is_refused_by_a_verifier", none_refused),
        lab::test("programs_verify_within_the_verifiers_budget", within_budget),
    ]
}

/// A host may refuse LSM programs and function entries as such; a verifier's complaint has other numbers.
fn none_refused(lab: &mut Lab) -> Result<()> {
    let posture = lab.monitor()?.kernel.posture();
    for entry in PROGRAMS {
        let mechanism = posture.mechanisms.iter().find(|mechanism| mechanism.name == entry.mechanism);
        let state = &mechanism.with_context(|| format!("posture does not know {}", entry.mechanism))?.state;
        let State::Refused { errno, why } = state else { continue };
        let forbidden = matches!(entry.kind, Kind::Lsm | Kind::FunctionEntry) && *errno == libc::EPERM;
        let guest = std::env::var_os("AGENT_MONITOR_VM").is_some();
        ensure!(forbidden && !guest, "{} is refused: {why}", entry.name);
    }
    Ok(())
}

fn within_budget(lab: &mut Lab) -> Result<Completion> {
    let mut programs = lab.monitor()?.kernel.program_stats();
    ensure!(!programs.is_empty(), "no program is loaded");
    if programs.iter().all(|program| program.verified_instructions == 0) {
        return Ok(Completion::ignored_with("this kernel does not count what its verifier walks"));
    }
    programs.sort_by_key(|program| std::cmp::Reverse(program.verified_instructions));
    println!("instructions that the verifier walked:");
    for program in &programs {
        println!("{:>9} {}", program.verified_instructions, program.name);
    }
    let most = &programs[0];
    ensure!(most.verified_instructions <= MOST_INSTRUCTIONS, "{}: {}", most.name, most.verified_instructions);
    Ok(Completion::Completed)
}
