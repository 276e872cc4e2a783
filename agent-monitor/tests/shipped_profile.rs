//! What the shipped profiles say, and what they cost.

#![expect(clippy::unwrap_used, reason = "what these tests prepare either works or fails the test")]

use std::path::{Path, PathBuf};

use agent_monitor::policy::diagnostic::render_all;
use agent_monitor::policy::judge::Judge;
use agent_monitor::policy::{ResolvedProfile, cases, compile, load_profile};

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// The profiles that govern, and the least number of requests in their cases.
const SHIPPED: &[(&str, usize)] = &[
    ("coding-agent", 150),
    ("claude-code", 100),
    ("codex", 100),
    ("gemini-cli", 100),
    ("cursor", 100),
    ("aider", 100),
    ("openhands", 100),
    ("copilot-cli", 100),
    ("opencode", 100),
    ("goose", 100),
];

fn profile(name: &str) -> ResolvedProfile {
    let mut profile = load_profile(&policies().join(format!("{name}.yaml")), &[]).unwrap().profile;
    profile.homes = ["/root", "/home/dev", "/var/www"].map(PathBuf::from).to_vec();
    profile
}

#[test]
fn every_shipped_profile_says_what_its_cases_expect() {
    for (name, least) in SHIPPED {
        let cases = cases::load(&policies().join(format!("tests/{name}.yaml"))).unwrap();
        assert!(cases.asked.len() >= *least, "{name}: {}", cases.asked.len());
        let mut profile = profile(name);
        profile.homes.clone_from(cases.homes.as_ref().unwrap());
        let failures = cases.failures(&Judge::new(profile).unwrap()).unwrap();
        assert!(failures.is_empty(), "{name}: {}", render_all(&failures, false));
    }
}

#[test]
fn each_profile_has_its_cases() {
    let files = std::fs::read_dir(policies().join("tests")).unwrap();
    let mut names: Vec<_> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut shipped: Vec<_> = SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    shipped.sort();
    assert_eq!(names, shipped);
}

#[test]
fn they_are_small_in_the_kernel() {
    for (name, _) in SHIPPED {
        let image = compile::profile(&profile(name)).unwrap();
        let kibibytes = size_of_val(image.words.as_slice()) / 1024;
        assert!(kibibytes < 512, "{name}: {kibibytes} KiB");
    }
}
