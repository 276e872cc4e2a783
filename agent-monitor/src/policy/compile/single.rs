//! One glob by itself: what it matches, and where it could.
//!
//! Called by `agent::landlock`, to say of each rule how far a mechanism that knows no globs expresses it.

use std::path::PathBuf;

use super::glob::{GlobError, Nfa};
use super::home::expand_home;

/// A glob, its `~` expanded.
#[derive(Debug)]
pub struct Glob {
    nfa: Nfa,
    /// What it stands for, one for each home.
    pub expanded: Vec<String>,
}

impl Glob {
    /// Reads a glob.
    ///
    /// # Errors
    /// For one that the loader lets through nowhere.
    pub fn read(glob: &str, homes: &[PathBuf]) -> Result<Self, GlobError> {
        let mut nfa = Nfa::new();
        let expanded = expand_home(glob, homes);
        expanded.iter().try_for_each(|glob| nfa.add(glob, 1))?;
        Ok(Glob { nfa, expanded })
    }

    /// Whether it matches a path.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.nfa.answers(path) != 0
    }

    /// Whether it matches something that lies in a directory, or could.
    #[must_use]
    pub fn reaches_into(&self, directory: &[u8]) -> bool {
        let mut inside = directory.to_vec();
        if inside.last() != Some(&b'/') {
            inside.push(b'/');
        }
        !self.nfa.after(&inside).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_reaches_where_it_could_match() {
        let read = |glob| Glob::read(glob, &["/home/ann".into()]).unwrap();
        for (glob, directory, reaches) in [
            ("/usr/**", "/usr", true),
            ("/usr/**", "/", true),
            ("/usr/**", "/etc", false),
            ("**/.env*", "/any/where", true),
            ("~/.ssh/**", "/home", true),
            ("~/.ssh/**", "/home/ann/src", false),
            ("/a/b", "/a/b", false),
            ("/a/*", "/a/b", false),
        ] {
            assert_eq!(read(glob).reaches_into(directory.as_bytes()), reaches, "{glob} in {directory}");
        }
        assert!(read("~/.ssh/**").matches(b"/home/ann/.ssh/id") && !read("/a/*").matches(b"/a/b/c"));
    }
}
