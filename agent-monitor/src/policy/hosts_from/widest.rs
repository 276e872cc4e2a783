//! Whether an agent of a profile could have written a file: the profile at its widest, whatever program asks.
//!
//! A grant counts for every program, a denial only where it is about every program. What must stay true: where this says
//! no, no program of an agent writes the file, puts another in its place, or puts another directory in the place of one
//! above it, while the profile is enforced.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_monitor_common::path::{Right, Rights};

use crate::policy::compile::PathMatcher;
use crate::policy::{Condition, Membership, ResolvedProfile};

/// See the module; `None` of a profile that does not judge files.
pub struct Widest(Option<PathMatcher>);

impl Widest {
    #[must_use]
    pub fn of(profile: &ResolvedProfile) -> Self {
        let mut profile = profile.clone();
        let Some(files) = &mut profile.filesystem else { return Self(None) };
        files.deny.retain(|rule| rule.programs.is_any());
        for rule in files.read.iter_mut().chain(&mut files.write) {
            rule.programs = Condition::default();
        }
        Self(Some(PathMatcher::new(&profile)))
    }

    /// Whether the profile says who may write files.
    #[must_use]
    pub fn judges(&self) -> bool {
        self.0.is_some()
    }

    /// Whether an agent may write the file, or a name on the way to it.
    #[must_use]
    pub fn writes(&self, path: &Path) -> bool {
        let Some(matcher) = &self.0 else { return true };
        let writes = |path: &Path| {
            let path = path.as_os_str().as_bytes();
            matcher.granting(&Membership::PLAIN, path, Right::Write).is_some()
                && matcher.denying(&Membership::PLAIN, path, Right::Write as Rights).is_none()
        };
        // A directory that something denied lies in is neither moved nor replaced.
        let held = |directory: &Path| {
            matcher.denying_below(&Membership::PLAIN, directory.as_os_str().as_bytes()).is_some()
        };
        writes(path) || path.ancestors().skip(1).any(|above| writes(above) && !held(above))
    }
}
