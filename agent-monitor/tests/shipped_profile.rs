//! What the shipped profile of a coding agent says, and what it costs.

#![expect(clippy::unwrap_used, reason = "what these tests prepare either works or fails the test")]

use std::path::{Path, PathBuf};

use agent_monitor::policy::diagnostic::render_all;
use agent_monitor::policy::judge::Judge;
use agent_monitor::policy::{ResolvedProfile, cases, compile, load_profile};

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn profile() -> ResolvedProfile {
    let mut profile = load_profile(&policies().join("coding-agent.yaml"), &[]).unwrap().profile;
    profile.homes = ["/root", "/home/dev", "/var/www"].map(PathBuf::from).to_vec();
    profile
}

#[test]
fn the_shipped_profile_says_what_its_cases_expect() {
    let cases = cases::load(&policies().join("tests/coding-agent.yaml")).unwrap();
    assert!(cases.asked.len() > 150);
    let mut profile = profile();
    profile.homes.clone_from(cases.homes.as_ref().unwrap());
    let failures = cases.failures(&Judge::new(profile).unwrap()).unwrap();
    assert!(failures.is_empty(), "{}", render_all(&failures, false));
}

#[test]
fn it_is_small_in_the_kernel() {
    let image = compile::profile(&profile()).unwrap();
    let kibibytes = size_of_val(image.words.as_slice()) / 1024;
    assert!(kibibytes < 512, "{kibibytes} KiB");
}
