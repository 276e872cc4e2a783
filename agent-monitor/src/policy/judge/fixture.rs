//! A judge of a profile that a test writes.

use std::path::PathBuf;

use super::Judge;
use crate::policy::load_profile;

/// Of the profile `p` with these sections, in a world with one user, whose home is `/home/u`.
pub fn judge_of(sections: &str) -> Judge {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.yaml");
    std::fs::write(&file, format!("version: 1\nname: p\nmode: enforce\n{sections}")).unwrap();
    let mut profile = load_profile(&file, &[]).unwrap_or_else(|e| panic!("{}", e.render(false))).profile;
    profile.homes = vec![PathBuf::from("/home/u")];
    Judge::new(profile).unwrap()
}
