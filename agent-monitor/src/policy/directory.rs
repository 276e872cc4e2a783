//! All profiles of a directory, as the daemon loads them.
//!
//! A profile with errors does not keep the others from being used: each is
//! loaded for itself, and what failed is listed with the reasons. What must
//! stay true: no two profiles of the result have the same name or claim the
//! same agents.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Code, Diagnostic, ProfileErrors, Severity, quoted};
use super::hosts_from::Host;
use super::load::{self, Base, Checked, Loaded};
use super::resolved::{Claim, ClaimKind, ResolvedProfile};

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Directory {
    /// Profiles ready to use, sorted by file name.
    pub profiles: Vec<Loaded>,
    /// Files with `abstract: true`, which give no profile.
    pub bases: Vec<Base>,
    pub failed: Vec<FailedProfile>,
}

/// A profile or base that can't be used, and why.
#[derive(Debug)]
pub struct FailedProfile {
    pub file: PathBuf,
    pub errors: ProfileErrors,
}

#[derive(Debug, thiserror::Error)]
#[error("can't list the profile directory {}", .directory.display())]
pub struct ListError {
    pub directory: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Loads every `*.yaml` and `*.yml` in `directory` that is not hidden. Files
/// with `abstract: true` are checked but give no profile. Bases are looked up in
/// the directory, then in `search`.
///
/// If two profiles claim the same executables or cgroup, the one that extends
/// the other keeps the claim; if neither does, the file later in order fails.
///
/// # Errors
/// Only if the directory itself can't be listed.
pub fn load_directory(directory: &Path, search: &[PathBuf]) -> Result<Directory, ListError> {
    load_directory_on(&Host::this(), directory, search)
}

/// As [`load_directory`], for another host: its homes and its package managers.
///
/// # Errors
/// Only if the directory itself can't be listed.
pub fn load_directory_on(host: &Host, directory: &Path, search: &[PathBuf]) -> Result<Directory, ListError> {
    let files = load::profile_files(directory)
        .map_err(|source| ListError { directory: directory.to_path_buf(), source })?;
    let mut loaded = Directory::default();
    for file in files {
        match load::check_profile_on(host, &file, search) {
            Ok(Checked::Profile(profile)) => loaded.profiles.push(*profile),
            Ok(Checked::Base(base)) => loaded.bases.push(*base),
            Err(errors) => loaded.failed.push(FailedProfile { file, errors }),
        }
    }
    refuse_same_names(&mut loaded);
    settle_claims(&mut loaded);
    Ok(loaded)
}

fn refuse_same_names(directory: &mut Directory) {
    let mut names: HashMap<String, Arc<Path>> = HashMap::new();
    let failed = &mut directory.failed;
    directory.profiles.retain(|loaded| {
        let profile = &loaded.profile;
        let Some(first) = names.get(&profile.name) else {
            names.insert(profile.name.clone(), Arc::clone(&profile.file));
            return true;
        };
        let message =
            format!("the name {} is taken by {}", quoted(&profile.name), quoted(&first.to_string_lossy()));
        let diagnostic = Diagnostic::of_file(Code::DuplicateName, &profile.file, message)
            .hint("give this profile a name of its own");
        let errors = ProfileErrors(vec![diagnostic]);
        failed.push(FailedProfile { file: profile.file.to_path_buf(), errors });
        false
    });
}

/// Refuses profiles that claim what an accepted one claims, unless one of the
/// two extends the other; then gives each claim to the profile that extends
/// all others that make it.
fn settle_claims(directory: &mut Directory) {
    let mut holders: HashMap<ClaimKind, Vec<Loaded>> = HashMap::new();
    let mut accepted: Vec<Loaded> = Vec::new();
    for loaded in directory.profiles.drain(..) {
        let conflicts: Vec<Diagnostic> = loaded
            .profile
            .claims
            .iter()
            .filter_map(|claim| {
                let holder = holders.get(&claim.what)?.iter().find(|held| !related(held, &loaded))?;
                Some(claimed_twice(claim, &holder.profile))
            })
            .collect();
        if conflicts.is_empty() {
            for claim in &loaded.profile.claims {
                holders.entry(claim.what.clone()).or_default().push(loaded.clone());
            }
            accepted.push(loaded);
        } else {
            let file = loaded.profile.file.to_path_buf();
            directory.failed.push(FailedProfile { file, errors: ProfileErrors(conflicts) });
        }
    }
    for loaded in &mut accepted {
        let Loaded { profile, warnings } = loaded;
        let own_file = Arc::clone(&profile.file);
        profile.claims.retain(|claim| {
            let winner = holders
                .get(&claim.what)
                .into_iter()
                .flatten()
                .find(|held| held.profile.file != own_file && held.profile.files.contains(&own_file));
            let Some(winner) = winner else { return true };
            let message = format!(
                "{} is governed by the profile `{}`, which extends this one",
                quoted(glob(claim)),
                winner.profile.name
            );
            let diagnostic = Diagnostic::at_source(Code::ClaimedTwice, &claim.source, message);
            warnings.push(
                Diagnostic { severity: Severity::Warning, ..diagnostic }
                    .hint("set `abstract: true` here if this profile should only be a base"),
            );
            false
        });
    }
    directory.profiles = accepted;
}

fn related(a: &Loaded, b: &Loaded) -> bool {
    a.profile.files.contains(&b.profile.file) || b.profile.files.contains(&a.profile.file)
}

fn glob(claim: &Claim) -> &str {
    match &claim.what {
        ClaimKind::Exe(glob) | ClaimKind::Cgroup(glob) => glob,
    }
}

fn claimed_twice(claim: &Claim, holder: &ResolvedProfile) -> Diagnostic {
    let message = format!("{} is also claimed by the profile `{}`", quoted(glob(claim)), holder.name);
    let there = holder.claims.iter().find(|there| there.what == claim.what);
    let hint = match there {
        Some(there) => {
            format!("remove this claim or the one at {}, or let one profile extend the other", there.source)
        }
        None => "let one profile extend the other".to_owned(),
    };
    Diagnostic::at_source(Code::ClaimedTwice, &claim.source, message).hint(hint)
}
