//! Makes profiles of path rules, and paths that they nearly or just match, out of a seed: for the kernel's differential
//! test, property tests and `cargo xtask bench`.
//!
//! The shape is that of a profile that grew: directories granted whole, single files, names that are denied anywhere,
//! endings below a directory, some braces and sets. The same arguments give the same profile.

use std::path::Path;
use std::sync::Arc;

use super::sample::{self, Random};
use crate::policy::{Condition, ExecPolicy, FilesPolicy, PathRule, ResolvedProfile, Source};

/// How many rules of each unanchored kind a profile has; the others begin with a place.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// `**/name`, `**/.name`.
    pub names: usize,
    /// `**/.name/**`.
    pub below: usize,
    /// `**/*part*`.
    pub parts: usize,
    /// `/place/**/*.ext`.
    pub endings: usize,
}

impl Mix {
    /// The mix that the design measured, for `rules` rules.
    #[must_use]
    pub fn of(rules: usize) -> Self {
        match rules {
            0..200 => Mix { names: rules / 6, below: rules / 16, parts: rules / 50, endings: rules / 12 },
            200..600 => {
                Mix { names: rules * 2 / 15, below: rules * 2 / 75, parts: rules / 100, endings: rules / 15 }
            }
            _ => Mix {
                names: rules / 10,
                below: rules * 3 / 200,
                parts: rules * 3 / 500,
                endings: rules * 3 / 50,
            },
        }
    }
}

const TOPS: [&str; 10] =
    ["/usr", "/etc", "/opt", "/srv", "/var/lib", "/home/dev/src", "/lib", "/run", "/tmp", "~"];
const SYLLABLES: [&str; 24] = [
    "al", "ba", "cor", "da", "en", "fi", "go", "hu", "in", "ja", "ko", "lib", "mo", "node", "on", "pro",
    "qu", "re", "sys", "test", "un", "ver", "wi", "x",
];
const ENDINGS: [&str; 10] = ["js", "rs", "py", "so", "pem", "key", "json", "lock", "env", "sock"];
const LISTS: [&str; 5] = ["files.read", "files.write", "exec.allow", "files.deny", "exec.deny"];

/// A profile of `rules` path rules mixed as `mix` says, and no network rules.
#[must_use]
pub fn path_profile(rules: usize, mix: Mix, seed: u64) -> ResolvedProfile {
    let mut random = Random::new(seed);
    let file: Arc<Path> = Arc::from(Path::new("sample.yaml"));
    let source = |line: usize| Source { file: file.clone(), line: line as u32 + 1, column: 1 };
    let mut lists: [Vec<PathRule>; 5] = Default::default();
    for index in 0..rules {
        let glob = random.glob(index, mix);
        // Of what is named anywhere most is denied; of places most are granted.
        let floats = index < mix.names + mix.below + mix.parts;
        let list = match (floats, random.below(20)) {
            (true, 0..3) => 0,
            (true, _) => 3,
            (false, 0..8) => 0,
            (false, 8..13) => 1,
            (false, 13..17) => 2,
            (false, 17..19) => 3,
            (false, _) => 4,
        };
        let of_list = &mut lists[list];
        of_list.push(PathRule {
            id: format!("sample:{}[{}]", LISTS[list], of_list.len()),
            source: source(index),
            glob,
            programs: Condition::default(),
            access: None,
        });
    }
    let [read, write, allow, deny, deny_exec] = lists;
    let mut profile = sample::network_profile(0, seed);
    profile.filesystem = Some(FilesPolicy { read, write, deny, source: source(0) });
    profile.exec =
        Some(ExecPolicy { allow, deny: deny_exec, pinned: Vec::new(), pins: Vec::new(), source: source(0) });
    profile.homes = vec!["/home/dev".into(), "/root".into()];
    profile
}

/// Paths about a profile: most spell one of its globs, some of those with a mistake or something more behind; some
/// anywhere.
#[must_use]
pub fn paths(profile: &ResolvedProfile, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let globs: Vec<String> =
        globs(profile).flat_map(|glob| super::expand_home(glob, &profile.homes)).collect();
    (0..count).map(|_| random.path(&globs)).collect()
}

fn globs(profile: &ResolvedProfile) -> impl Iterator<Item = &str> {
    let files = profile.filesystem.iter().flat_map(|files| [&files.read, &files.write, &files.deny]);
    let exec = profile.exec.iter().flat_map(|exec| [&exec.allow, &exec.deny]);
    files.chain(exec).flatten().map(|rule| rule.glob.as_str())
}

impl Random {
    fn word(&mut self) -> String {
        (0..=self.below(3)).map(|_| self.pick(&SYLLABLES)).collect()
    }

    fn place(&mut self) -> String {
        let top = self.pick(&TOPS).to_owned();
        (0..self.below(4)).fold(top, |place, _| format!("{place}/{}", self.word()))
    }

    /// The glob of rule number `index`: kinds by position, so that the mix is exact.
    fn glob(&mut self, index: usize, mix: Mix) -> String {
        let kinds = [mix.names, mix.below, mix.parts, mix.endings];
        let mut kind = 0;
        let mut before = 0;
        while kind < kinds.len() && index >= before + kinds[kind] {
            before += kinds[kind];
            kind += 1;
        }
        match kind {
            0 if self.below(2) == 0 => format!("**/{}.{}", self.word(), self.pick(&ENDINGS)),
            0 => format!("**/.{}", self.word()),
            1 => format!("**/.{}/**", self.word()),
            2 => format!("**/*{}{}*", self.word(), self.pick(&SYLLABLES)),
            3 => format!("{}/**/*.{}", self.place(), self.pick(&ENDINGS)),
            _ => {
                let place = self.place();
                match self.below(12) {
                    0..4 => format!("{place}/{}/**", self.word()),
                    4..7 => format!("{place}/{}.{}", self.word(), self.pick(&ENDINGS)),
                    7 => format!("{place}/{{{},{}/{}}}/*", self.word(), self.word(), self.word()),
                    8 => format!("{place}/{}-[0-9]*", self.word()),
                    9 => format!("{place}/{}?/[!a-c]*", self.word()),
                    10 => format!("{place}/*.{{{},{}}}", self.pick(&ENDINGS), self.pick(&ENDINGS)),
                    _ => format!("{place}/{}/*", self.word()),
                }
            }
        }
    }

    fn path(&mut self, globs: &[String]) -> Vec<u8> {
        let mut path = match globs.len() {
            0 => self.place().into_bytes(),
            _ if self.below(12) == 0 => self.place().into_bytes(),
            count => {
                let at = self.below(count);
                let mut out = Vec::new();
                self.spell(globs[at].as_bytes(), &mut out);
                out
            }
        };
        match self.below(8) {
            0 if path.len() > 1 => {
                let at = 1 + self.below(path.len() - 1);
                path[at] = self.next() as u8;
            }
            1 if path.len() > 2 => drop(path.pop()),
            2 => path.extend(format!("/{}", self.word()).bytes()),
            3 => {
                // The same name somewhere else.
                let from = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                let name = path.split_off(from);
                path = self.place().into_bytes();
                path.extend(name);
            }
            // A path as long as paths get.
            4 if self.below(16) == 0 => {
                let mut long = Vec::new();
                while long.len() + 40 + path.len() < 4_000 {
                    long.extend(format!("/{}", self.word()).bytes());
                }
                long.extend(path);
                path = long;
            }
            _ => {}
        }
        path
    }

    /// A path that `glob` matches (nearly: a set becomes any of some bytes).
    fn spell(&mut self, glob: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while let Some(&byte) = glob.get(at) {
            match byte {
                b'*' if glob[at..].starts_with(b"**/") => {
                    if out.is_empty() {
                        out.push(b'/');
                    }
                    for _ in 0..self.below(4) {
                        out.extend(self.word().bytes());
                        out.push(b'/');
                    }
                    at += 2;
                }
                b'*' => {
                    out.extend(self.word().bytes());
                    at += usize::from(glob.get(at + 1) == Some(&b'*'));
                }
                b'?' => out.push(self.pick(b"ax0.-\xff")),
                b'[' => {
                    at += glob[at..].iter().position(|&byte| byte == b']').unwrap_or(0);
                    out.push(self.pick(b"0a9dz"));
                }
                b'{' => {
                    let end = at + glob[at..].iter().position(|&byte| byte == b'}').unwrap_or(0);
                    let alternatives: Vec<&[u8]> =
                        glob[at + 1..end.max(at + 1)].split(|&byte| byte == b',').collect();
                    let one = self.pick(&alternatives);
                    self.spell(one, out);
                    at = end;
                }
                b'\\' => {
                    at += 1;
                    out.extend(glob.get(at));
                }
                literal => out.push(literal),
            }
            at += 1;
        }
    }
}
