//! Holds the list of registered trials against the bypass catalogue: no id without a trial, no attack without a twin.
//!
//! `main` gives it the names of all other trials. A trial that carries a catalogue id is one of a pair (`ATTACK` and
//! `TWIN`, or `REFUSED` and `REFUSED_TWIN`), or [`EXCEPTIONS`] says what stands in for its twin. What must stay true: an
//! exception that fits no trial, or whose counterpart is gone, is a failure too.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

/// Ends the name of an attack on an agent.
pub const ATTACK: &str = "::is_denied";
/// Ends the name of the same attack where nothing enforces: it must succeed.
pub const TWIN: &str = "::succeeds_with_enforcement_off";
/// Ends the name of an attack that the kernel refuses to everybody.
pub const REFUSED: &str = "::is_refused";
/// Ends the name of the same attack where nothing enforces: recorded, so that a kernel that changes this is seen.
pub const REFUSED_TWIN: &str = "::is_refused_with_enforcement_off";

const PAIRS: [(&str, &str); 2] = [(ATTACK, TWIN), (REFUSED, REFUSED_TWIN)];

/// Ids that must have a trial.
const IDS: &[&str] = &[
    "N1", "N2", "N3", "N4", "N5", "N6", "N7", "N9", "N11", "N12", "N13", "N14", "N15", "N16", "N17", "N18",
    "N19", "N20", "N21", "N22", "N23", "N24", "N25", "N26", "N27", "N28", "L1", "L3", "L4", "L6", "L10",
    "L11", "L12", "L13", "F1", "F2", "F3", "F4", "F6", "F7", "F8", "F9", "F10", "F11", "F12", "F14", "S7",
    "N29", "N30", "N31", "N32", "N33", "N34", "N35", "N36", "A03", "A34", "A35", "U7", "S2", "L5", "F16",
    "S4", "A36", "L7", "L2", "L8", "L9", "F17", "U1", "U2", "U3", "U4", "U6", "S1",
];

/// Trials that are no attacks, or whose twin has another form.
struct Exception {
    /// How the names of the trials start.
    start: &'static str,
    /// The trial that shows that these can fail; `None`: the reason says how it is shown.
    counterpart: Option<&'static str>,
    reason: &'static str,
}

const fn with(start: &'static str, counterpart: &'static str, reason: &'static str) -> Exception {
    Exception { start, counterpart: Some(counterpart), reason }
}
const fn alone(start: &'static str, reason: &'static str) -> Exception {
    Exception { start, counterpart: None, reason }
}

const EXCEPTIONS: &[Exception] = &[
    with(
        "N18_unchanged_profile_keeps_an_established_tcp_flow",
        "N18_tightened_tcp_flow::is_denied",
        "what is granted goes on: the attack is its counterpart",
    ),
    with(
        "N19_granted_listener_serves",
        "N19_listen_without_bind::is_denied",
        "what is granted works: the attack is its counterpart",
    ),
    with(
        "N25_no_policy_map_evicts",
        "N25_a_map_that_evicts_is_told_from_one_that_does_not",
        "a property of the maps, with nothing to enforce",
    ),
    with(
        "N25_a_map_that_evicts_is_told_from_one_that_does_not",
        "N25_no_policy_map_evicts",
        "the other half of that pair",
    ),
    with(
        "N26_an_image_that_does_not_fit_is_refused_and_the_old_one_stays",
        "N26_the_same_image_is_put_in_force_where_it_fits",
        "a refusal of the loader: without it there is no attack",
    ),
    with(
        "N26_the_same_image_is_put_in_force_where_it_fits",
        "N26_an_image_that_does_not_fit_is_refused_and_the_old_one_stays",
        "the other half of that pair",
    ),
    with(
        "N28_the_order_of_rules_is_nothing",
        "N28_another_rule_is_another_image_and_another_verdict",
        "a property of the compiler, with nothing to enforce",
    ),
    with(
        "N28_another_rule_is_another_image_and_another_verdict",
        "N28_the_order_of_rules_is_nothing",
        "the other half of that pair",
    ),
    with(
        "L13_an_image_of_another_version_is_refused_and_the_old_one_stays",
        "L13_the_same_image_is_put_in_force_with_our_version",
        "a refusal of the loader: without it there is no attack",
    ),
    with(
        "L13_the_same_image_is_put_in_force_with_our_version",
        "L13_an_image_of_another_version_is_refused_and_the_old_one_stays",
        "the other half of that pair",
    ),
    alone(
        "L2_label_survives_leaving_the_cgroup",
        "asks for the label alone: what is denied behind the cgroup is in the pairs L2_outside_…",
    ),
    with(
        "L3_fork_exec_and_exit_are_recorded",
        "unlabelled_process_of_the_same_cgroup_is_untouched",
        "records, no denial; of a process without a label there are none",
    ),
    with(
        "L3_label_ends_with_the_process",
        "L3_child::is_denied",
        "asks for the label before and after the end; that it holds until then is every L3 attack",
    ),
    with(
        "L6_our_programs_are_attached_and_stay",
        "L6_program_in_a_child_cgroup::succeeds_with_enforcement_off",
        "an inventory; the twins of L6 show what goes when ours are not there, or are there in another mode",
    ),
    with(
        "L15_",
        "the_syscall_hook_is_attached_only_while_it_is_wanted",
        "counts of calls, no denials; without the hook nothing is counted and nobody is killed",
    ),
    with(
        "U6_unix_sockets_of_the_agent_itself_and_granted_ones_work",
        "U1_container_engine::is_denied",
        "what is granted works: the attack is its counterpart",
    ),
    alone(
        "L19_kernel_and_userspace_",
        "compares three judges, and demands that they allow and deny often enough to differ",
    ),
];

/// Trials about names need a daemon; each has its twin, in mode `audit`, as its last step.
const NAMES: &str = include_str!("../e2e/names.rs");

/// Trials of other binaries: id, the source that registers it, how its name starts there.
const ELSEWHERE: [(&str, &str, &str); 13] = [
    // Needs a daemon. Its twin, the same commands without a label, is the last step of the trial.
    ("L10", include_str!("../e2e/control.rs"), "trial(\"L10_"),
    ("N29", NAMES, "trial(\"N29_"),
    ("N30", NAMES, "trial(\"N29_N30_"),
    ("N31", NAMES, "trial(\"N31_"),
    ("N32", NAMES, "trial(\"N32_"),
    ("N33", NAMES, "trial(\"N33_"),
    ("N34", NAMES, "trial(\"N34_"),
    ("N35", NAMES, "trial(\"N35_"),
    ("N36", NAMES, "trial(\"N36_"),
    ("A03", NAMES, "trial(\"N32_A03_"),
    ("A34", NAMES, "trial(\"A34_"),
    ("A35", NAMES, "trial(\"N36_A35_"),
    // Needs the build whose helpers fail; its pairs are made as this binary's are.
    ("F17", include_str!("faults.rs"), "\"F17_{}_without_{}\""),
];

/// The catalogue ids at the start of a trial's name: `L11_L12_flood…` has two.
fn ids(name: &str) -> impl Iterator<Item = &str> {
    let is_id = |word: &&str| {
        word.split_at_checked(1).is_some_and(|(letter, number)| {
            "NUSFLA".contains(letter) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
    };
    name.split('_').take_while(is_id)
}

/// What the list of trials lacks.
fn gaps(names: &[&str]) -> Vec<String> {
    let known: HashSet<&str> = names.iter().copied().collect();
    let mut gaps = Vec::new();
    for name in names.iter().filter(|name| ids(name).next().is_some()) {
        let partner = PAIRS.iter().find_map(|(attack, twin)| {
            let to_twin = name.strip_suffix(attack).map(|base| format!("{base}{twin}"));
            to_twin.or_else(|| name.strip_suffix(twin).map(|base| format!("{base}{attack}")))
        });
        match partner {
            Some(partner) if !known.contains(partner.as_str()) => {
                gaps.push(format!("{name} has no {partner}"))
            }
            Some(_) => {}
            None if EXCEPTIONS.iter().any(|e| name.starts_with(e.start)) => {}
            None => gaps.push(format!("{name} is neither an attack, nor a twin, nor an exception")),
        }
    }
    for Exception { start, counterpart, reason } in EXCEPTIONS {
        if !names.iter().any(|name| name.starts_with(start)) {
            gaps.push(format!("no trial is called {start}…, the exception of which says: {reason}"));
        }
        if let Some(counterpart) = counterpart
            && !known.contains(counterpart)
        {
            gaps.push(format!("{start}… has lost its counterpart {counterpart}"));
        }
    }
    let elsewhere =
        |id: &str| ELSEWHERE.iter().any(|(its, source, start)| id == *its && source.contains(start));
    for &id in IDS {
        // The twin alone tests nothing of ours.
        let tested = |name: &&&str| !PAIRS.iter().any(|(_, twin)| name.ends_with(twin));
        if !names.iter().filter(tested).any(|name| ids(name).any(|one| one == id)) && !elsewhere(id) {
            gaps.push(format!("{id} has no trial"));
        }
    }
    gaps
}

/// The checks of all other trials.
pub fn trials(others: &[Trial]) -> Vec<Trial> {
    let names: Vec<String> = others.iter().map(|trial| trial.name().to_owned()).collect();
    let same = names.clone();
    let test = |name: &str, body: fn(&[&str]) -> Result<()>, names: Vec<String>| {
        Trial::test(name, move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Ok(body(&names).map_err(|e| format!("{e:#}"))?)
        })
    };
    vec![
        test("every_catalogue_id_has_a_trial_and_every_attack_its_twin", complete, names),
        test("a_trial_that_is_taken_away_is_missed", missed, same),
    ]
}

fn complete(names: &[&str]) -> Result<()> {
    let gaps = gaps(names);
    ensure!(gaps.is_empty(), "{}", gaps.join("\n"));
    Ok(())
}

/// The twin of the check above: without any one half of a pair, and without the trials of any one id, it fails.
fn missed(names: &[&str]) -> Result<()> {
    let without = |keep: &dyn Fn(&str) -> bool| {
        let left: Vec<&str> = names.iter().copied().filter(|name| keep(name)).collect();
        gaps(&left)
    };
    for taken in names.iter().filter(|name| PAIRS.iter().any(|(a, t)| name.ends_with(a) || name.ends_with(t)))
    {
        // A pair that no id asks for is the author's own matter.
        if ids(taken).next().is_some() {
            ensure!(!without(&|name| name != *taken).is_empty(), "nobody misses {taken}");
        }
    }
    for &id in IDS {
        let found = without(&|name| !ids(name).any(|one| one == id));
        let missed = found.contains(&format!("{id} has no trial"));
        ensure!(missed || ELSEWHERE.iter().any(|(its, ..)| *its == id), "nobody misses the trials of {id}");
    }
    Ok(())
}
