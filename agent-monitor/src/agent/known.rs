//! The AI agents that `init` looks for: what each is called, where its installers put it, and which shipped profile is
//! for it.
//!
//! Looking is by file names alone, in the system's places and every home: nothing found is executed, and of its content
//! only a version is read, which is shown and decides nothing. What must stay true: a find never grants anything by
//! itself; the profile is a shipped one, and a person says `--write`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::policy::hosts_from::Host;

/// An agent that is known.
#[derive(Debug)]
pub struct Known {
    /// As its makers call it.
    pub name: &'static str,
    /// What is typed to start it.
    pub command: &'static str,
    /// The shipped profile for it.
    pub profile: &'static str,
    /// It is run by an interpreter, which is the executable then: no profile can claim it.
    pub script: bool,
    /// Its packages for npm.
    npm: &'static [&'static str],
    /// Its packages for uv and pipx: name of the tool, name of the package in `*.dist-info`.
    python: &'static [(&'static str, &'static str)],
    /// Where its own installer puts it, with what is behind the last `/` a version if `*`.
    places: &'static [&'static str],
}

/// The catalogue.
pub const KNOWN: &[Known] = &[
    Known {
        name: "Claude Code",
        command: "claude",
        profile: "claude-code",
        script: false,
        npm: &["@anthropic-ai/claude-code"],
        python: &[],
        places: &["~/.local/share/claude/versions/*"],
    },
    Known {
        name: "Codex",
        command: "codex",
        profile: "codex",
        script: false,
        npm: &["@openai/codex"],
        python: &[],
        places: &["/usr/bin/codex", "/usr/local/bin/codex", "~/.local/bin/codex"],
    },
    Known {
        name: "Gemini CLI",
        command: "gemini",
        profile: "gemini-cli",
        script: true,
        npm: &["@google/gemini-cli"],
        python: &[],
        places: &[],
    },
    Known {
        name: "Cursor",
        command: "cursor-agent",
        profile: "cursor",
        script: false,
        npm: &[],
        python: &[],
        places: &["~/.local/share/cursor-agent/versions/*", "/usr/share/cursor/cursor"],
    },
    Known {
        name: "aider",
        command: "aider",
        profile: "aider",
        script: true,
        npm: &[],
        python: &[("aider-chat", "aider_chat")],
        places: &[],
    },
    Known {
        name: "OpenHands",
        command: "openhands",
        profile: "openhands",
        script: true,
        npm: &[],
        python: &[("openhands", "openhands"), ("openhands-ai", "openhands_ai")],
        places: &[],
    },
    Known {
        name: "Copilot CLI",
        command: "copilot",
        profile: "copilot-cli",
        script: false,
        npm: &["@github/copilot"],
        python: &[],
        places: &[],
    },
    Known {
        name: "OpenCode",
        command: "opencode",
        profile: "opencode",
        script: false,
        npm: &["opencode-ai"],
        python: &[],
        places: &["~/.opencode/bin/opencode"],
    },
    Known {
        name: "Goose",
        command: "goose",
        profile: "goose",
        script: false,
        npm: &[],
        python: &[],
        places: &["/usr/bin/goose", "/usr/local/bin/goose", "~/.local/bin/goose"],
    },
];

/// Where npm puts packages for the whole system or a user.
const NPM_MODULES: &[&str] = &[
    "/usr/lib/node_modules",
    "/usr/local/lib/node_modules",
    "/opt/node*/lib/node_modules",
    "~/.nvm/versions/node/*/lib/node_modules",
    "~/.npm-global/lib/node_modules",
    "~/.local/lib/node_modules",
];
/// Where uv and pipx put programs of Python, each in an environment of its own.
const PYTHON_TOOLS: &[&str] =
    &["~/.local/share/uv/tools", "~/.local/share/pipx/venvs", "~/.local/pipx/venvs", "/opt/pipx/venvs"];
/// Where commands are, for agents that came another way.
const COMMANDS: &[&str] = &[
    "/usr/bin",
    "/usr/local/bin",
    "~/.local/bin",
    "~/bin",
    "~/.npm-global/bin",
    "~/.bun/bin",
    "~/.pyenv/versions/*/bin",
];
/// Longest text that is taken for a version.
const MAX_VERSION: usize = 32;
/// Places of one agent that are told.
const MAX_PLACES: usize = 8;

/// An agent that is installed.
#[derive(Debug, Serialize)]
pub struct Found {
    #[serde(skip)]
    pub known: &'static Known,
    /// Paths on the host, the first ones where it was found.
    pub places: Vec<PathBuf>,
    /// The newest, where a file says one.
    pub version: Option<String>,
}

/// The agents that are installed on a host, in the order of the catalogue. `path`: more directories with commands.
#[must_use]
pub fn find(host: &Host, path: &[PathBuf]) -> Vec<Found> {
    KNOWN.iter().filter_map(|known| known.find(host, path)).collect()
}

impl Known {
    fn find(&'static self, host: &Host, path: &[PathBuf]) -> Option<Found> {
        let mut found: Vec<(PathBuf, Option<String>)> = Vec::new();
        for pattern in self.places {
            let of_place = |place: PathBuf| {
                let version =
                    pattern.ends_with('*').then(|| place.file_name()?.to_str().and_then(version)).flatten();
                (place, version)
            };
            found.extend(host.find(pattern).into_iter().map(of_place));
        }
        for package in self.npm {
            let places = NPM_MODULES.iter().flat_map(|modules| host.find(&format!("{modules}/{package}")));
            found.extend(places.map(|place| (place.clone(), npm_version(host, &place))));
        }
        for (tool, package) in self.python {
            let places = PYTHON_TOOLS.iter().flat_map(|tools| host.find(&format!("{tools}/{tool}")));
            found.extend(places.map(|place| (place.clone(), python_version(host, &place, package))));
        }
        if found.is_empty() {
            let listed = path.iter().map(|directory| directory.join(self.command));
            let commands = COMMANDS.iter().flat_map(|at| host.find(&format!("{at}/{}", self.command)));
            let all = commands.chain(listed.filter(|command| host.at(command).is_file()));
            found.extend(all.map(|place| (place, None)));
        }
        let version =
            found.iter().filter_map(|(_, version)| version.clone()).max_by_key(|text| in_order(text));
        let mut places: Vec<PathBuf> = found.into_iter().map(|(place, _)| place).collect();
        places.sort_unstable();
        places.dedup();
        places.truncate(MAX_PLACES);
        (!places.is_empty()).then_some(Found { known: self, places, version })
    }
}

/// What looks like a version; anything else from a file of somebody's is not shown.
fn version(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    let begins = text.starts_with(|c: char| c.is_ascii_digit());
    (begins && text.len() <= MAX_VERSION && text.chars().all(fits)).then(|| text.to_owned())
}

/// Numbers of a version, so that 10 comes behind 9.
fn in_order(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn npm_version(host: &Host, package: &Path) -> Option<String> {
    let text = host.open(&package.join("package.json")).ok()??.text().ok()?;
    let all: serde_json::Value = serde_json::from_str(&text).ok()?;
    all.get("version")?.as_str().and_then(version)
}

fn python_version(host: &Host, environment: &Path, package: &str) -> Option<String> {
    // The environment's path is one that `find` just returned: of a home or a place above.
    let environment = glob::Pattern::escape(environment.to_str()?);
    let said = host.find(&format!("{environment}/lib/python3*/site-packages/{package}-*.dist-info"));
    let name = said.first()?.file_name()?.to_str()?;
    version(name.strip_prefix(package)?.strip_prefix('-')?.strip_suffix(".dist-info")?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::below(root.path()).unwrap();
        (root, host)
    }

    fn shown(files: &[(&str, &str)], path: &[PathBuf]) -> Vec<String> {
        let (_root, host) = host(files);
        let line = |found: Found| {
            let places: Vec<String> = found.places.iter().map(|place| place.display().to_string()).collect();
            format!(
                "{} {} {}",
                found.known.profile,
                found.version.as_deref().unwrap_or("-"),
                places.join(" ")
            )
        };
        find(&host, path).into_iter().map(line).collect()
    }

    #[test]
    fn each_way_of_installing_is_found_in_every_home() {
        let found = shown(
            &[
                ("home/a/.local/share/claude/versions/2.1.9", ""),
                ("home/b/.local/share/claude/versions/2.1.10", ""),
                ("usr/lib/node_modules/@google/gemini-cli/package.json", "{\"version\": \"0.9.1\"}"),
                (
                    "home/a/.local/share/uv/tools/aider-chat/lib/python3.12/site-packages/aider_chat-0.86.1.dist-info/x",
                    "",
                ),
                ("home/b/.local/bin/goose", ""),
                ("usr/local/bin/copilot", ""),
            ],
            &[],
        );
        assert_eq!(
            found,
            [
                "claude-code 2.1.10 /home/a/.local/share/claude/versions/2.1.9 /home/b/.local/share/claude/versions/2.1.10",
                "gemini-cli 0.9.1 /usr/lib/node_modules/@google/gemini-cli",
                "aider 0.86.1 /home/a/.local/share/uv/tools/aider-chat",
                "copilot-cli - /usr/local/bin/copilot",
                "goose - /home/b/.local/bin/goose",
            ]
        );
    }

    #[test]
    fn a_command_of_the_path_is_found_too() {
        assert_eq!(shown(&[("opt/x/opencode", "")], &[]), [""; 0]);
        assert_eq!(shown(&[("opt/x/opencode", "")], &["/opt/x".into()]), ["opencode - /opt/x/opencode"]);
    }

    #[test]
    fn what_is_no_version_is_not_shown() {
        for hostile in ["\\u001b[2J", "1.0\\nprofile: evil", "latest", &"1".repeat(99)] {
            let text = format!("{{\"version\": \"{hostile}\"}}");
            let found = shown(&[("usr/lib/node_modules/@openai/codex/package.json", &text)], &[]);
            assert_eq!(found, ["codex - /usr/lib/node_modules/@openai/codex"], "{hostile}");
        }
        assert_eq!(shown(&[("usr/lib/node_modules/@openai/codex/package.json", "[")], &[]).len(), 1);
    }

    #[test]
    fn profiles_and_commands_are_distinct() {
        let mut profiles: Vec<&str> = KNOWN.iter().map(|known| known.profile).collect();
        profiles.sort_unstable();
        profiles.dedup();
        assert_eq!(profiles.len(), KNOWN.len());
    }
}
