//! From single paths to globs, by stated thresholds.
//!
//! What must stay true: a glob matches every path that it stands for; a directory is granted whole only where enough of
//! it was used, and never one that is nearer to the root than a project is.

use std::collections::{BTreeMap, BTreeSet};

use super::Wishes;
use crate::policy::written::glob as glob_of;

/// When paths become globs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Objects used directly in a directory that grant all of them: `/a/*`.
    pub files: usize,
    /// Directories used below a directory that grant everything below it: `/a/**`.
    pub directories: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { files: 5, directories: 3 }
    }
}

/// Steps that a directory has at least, to be granted whole: `/usr/lib`, `~/.cache`.
const DEPTH: usize = 2;

/// The globs for these paths, each with the positions of those it stands for.
#[must_use]
pub fn globs(paths: &[&str], wishes: &Wishes) -> BTreeMap<String, Vec<usize>> {
    let mut globs: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut tree = Tree::default();
    for (position, path) in paths.iter().enumerate() {
        if let Some(glob) = known_place(path, wishes) {
            globs.entry(glob).or_default().push(position);
        } else {
            tree.insert(&steps(path, wishes), position);
        }
    }
    tree.write(&mut Vec::new(), wishes.thresholds, &mut globs);
    globs
}

/// Places that one path is enough for: the workspace, and what only differs in numbers.
fn known_place(path: &str, wishes: &Wishes) -> Option<String> {
    let below = |directory: &str| {
        path.strip_prefix(directory.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(directory) = wishes.workspace.iter().find(|directory| below(directory)) {
        let itself = path == directory.trim_end_matches('/');
        return Some(if itself { "${workspace}" } else { "${workspace}/**" }.to_owned());
    }
    let mut steps = path.split('/').skip(1);
    if steps.next() == Some("proc") {
        let number = |step: &str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        let rest: Vec<String> =
            steps.map(|step| if number(step) { "*".to_owned() } else { glob_of(step) }).collect();
        return Some(format!("/proc/{}", rest.join("/")));
    }
    None
}

/// The steps of a path; the home of a user is one, `~`.
fn steps(path: &str, wishes: &Wishes) -> Vec<String> {
    let home = wishes.homes.iter().find_map(|home| {
        let rest = path.strip_prefix(home.trim_end_matches('/'))?;
        rest.starts_with('/').then_some(rest)
    });
    let (first, rest) = match home {
        Some(rest) => (Some("~".to_owned()), rest),
        None => (None, path),
    };
    first.into_iter().chain(rest.split('/').skip(1).map(str::to_owned)).collect()
}

/// What was used below a directory.
#[derive(Default)]
struct Tree {
    children: BTreeMap<String, Tree>,
    /// Positions of the paths that end here.
    here: Vec<usize>,
}

impl Tree {
    fn insert(&mut self, steps: &[String], position: usize) {
        match steps {
            [] => self.here.push(position),
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest, position),
        }
    }

    fn everything(&self, into: &mut Vec<usize>) {
        into.extend(&self.here);
        self.children.values().for_each(|child| child.everything(into));
    }

    fn write(&self, way: &mut Vec<String>, limits: Thresholds, globs: &mut BTreeMap<String, Vec<usize>>) {
        let files: BTreeSet<&String> = self
            .children
            .iter()
            .filter(|(_, child)| child.children.is_empty())
            .map(|(name, _)| name)
            .collect();
        let directories = self.children.len() - files.len();
        let deep = way.len() >= DEPTH;
        if deep && directories >= limits.directories {
            let mut below = Vec::new();
            self.everything(&mut below);
            globs.entry(format!("{}{{,/**}}", text(way))).or_default().extend(below);
            return;
        }
        if !self.here.is_empty() {
            globs.entry(text(way)).or_default().extend(&self.here);
        }
        let whole = deep && files.len() >= limits.files;
        if whole {
            let all = globs.entry(format!("{}/*", text(way))).or_default();
            files.iter().for_each(|name| all.extend(&self.children[*name].here));
        }
        for (name, child) in &self.children {
            if whole && files.contains(name) {
                continue;
            }
            way.push(name.clone());
            child.write(way, limits, globs);
            way.pop();
        }
    }
}

/// The glob of exactly these steps.
fn text(way: &[String]) -> String {
    let mut glob = String::new();
    for (at, step) in way.iter().enumerate() {
        match (at, step.as_str()) {
            (0, "~") => glob.push('~'),
            _ => glob.extend(["/", &glob_of(step)]),
        }
    }
    if matches!(glob.as_str(), "" | "/") { glob_of("/") } else { glob }
}
