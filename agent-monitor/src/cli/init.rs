//! `agent-monitor init`: which agents this host has, and a profile for each.
//!
//! It looks, and proposes; with `--write` it puts files beside the profiles in force, each a few lines over a shipped
//! profile, for a person to go on from. What must stay true: nothing is written that would not load together with what is
//! in the directory, a file that somebody edited stays as it is without `--force`, and a second run changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::profile::BasesArgs;
use super::scratch::Scratch;
use super::{install, print, table};
use crate::agent::known::{self, Found};
use crate::exit::{Exit, Failed};
use crate::policy::diagnostic::Code;
use crate::policy::hosts_from::{self, Findings, Host, Manager, Place};
use crate::policy::load::{DEFAULT_DIRECTORIES, EXTENSIONS};
use crate::policy::{Checked, FailedProfile, ResolvedProfile, check_profile_on, load_directory_on};

/// The profile where one of the agents has none of its own; `install` puts it in force.
const GENERAL: &str = "coding-agent";
/// What `init` calls its profiles: this, and the name of the one that it extends.
const PREFIX: &str = "local-";
/// Where people keep their work, as the shipped profiles have it.
const WORKPLACES: &[&str] = &["src", "code", "work", "dev", "git", "projects", "repos", "workspace"];

#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Write the proposed profiles
    #[arg(long)]
    pub write: bool,
    /// With --write: overwrite proposals of earlier runs that somebody edited
    #[arg(long, requires = "write")]
    pub force: bool,
    /// Where the profiles in force are
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORIES[0])]
    pub directory: PathBuf,
    /// Where the agents' work lies, as in a profile: `~/src/*`; may be given several times [default: what homes have of
    /// src, code, work, dev, git, projects, repos and workspace]
    #[arg(long, value_name = "GLOB")]
    pub workspace: Vec<String>,
    /// Look at the host below this directory, for images and tests
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
}

/// What was found, and what is proposed.
#[derive(Debug, Serialize)]
struct Report {
    agents: Vec<AgentLine>,
    package_managers: Vec<ManagerLine>,
    profiles: Vec<Proposal>,
    /// Files of the directory that the proposals take the place of.
    replaced: Vec<PathBuf>,
    written: bool,
}

#[derive(Debug, Serialize)]
struct AgentLine {
    name: &'static str,
    command: &'static str,
    #[serde(flatten)]
    found: Found,
    /// The proposed profile.
    profile: String,
    /// The profile knows its processes by their executable; else `run` starts them.
    claimed: bool,
}

#[derive(Debug, Serialize)]
struct ManagerLine {
    name: &'static str,
    registries: Vec<Registry>,
    remarks: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Registry {
    host: String,
    port: u16,
    /// The file that says so.
    from: PathBuf,
}

#[derive(Debug, Serialize)]
struct Proposal {
    name: String,
    extends: String,
    file: PathBuf,
    state: State,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There is no such file.
    New,
    /// It is there as proposed.
    Same,
    /// `init` wrote it, and would write it otherwise now.
    Older,
    /// Somebody edited it.
    Edited,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Same => "there already",
            Self::Older => "replaces one of an earlier run",
            Self::Edited => "somebody edited it",
        }
    }
}

/// # Errors
/// When a shipped profile is missing, the proposals would not load, or a file can't be written.
pub fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let mut report = propose(args)?;
    if args.write {
        write(args, &mut report)?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("can't print the report")? + "\n"
    } else {
        text(args, &report)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn propose(args: &InitArgs) -> anyhow::Result<Report> {
    let this = args.root == Path::new("/");
    let host =
        if this { Host::this() } else { Host::below(&args.root).context(args.root.display().to_string())? };
    // What the caller's path leads to, where it is the host's own.
    let path: Vec<PathBuf> = match std::env::var_os("PATH").filter(|_| this) {
        Some(path) => std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect(),
        None => Vec::new(),
    };
    let mut parents: BTreeMap<&'static str, ResolvedProfile> = BTreeMap::new();
    let mut agents = Vec::new();
    let all = known::find(&host, &path);
    // The general profile claims what the others do: it is for all of them, or for none.
    let each_its_own = all.iter().all(|found| args.bases.find(found.known.profile).is_ok());
    for found in all {
        let known = found.known;
        let parent = if each_its_own { known.profile } else { GENERAL };
        if !parents.contains_key(parent) {
            parents.insert(parent, load(&host, args, parent)?);
        }
        let claimed = !known.script && !parents[parent].claims.is_empty();
        let profile = format!("{PREFIX}{parent}");
        agents.push(AgentLine { name: known.name, command: known.command, found, profile, claimed });
    }
    // A manager that grants nothing in one profile is no reason to leave it out of another.
    let mut managers: BTreeMap<Manager, Findings> = BTreeMap::new();
    let mut proposals = Vec::new();
    for (parent, profile) in &parents {
        let mut granting = Vec::new();
        // Packages of the system are not for agents to install, as long as they are not root.
        for manager in Manager::ALL.into_iter().filter(|&manager| manager != Manager::Apt) {
            if !hosts_from::is_installed(manager, &host) {
                continue;
            }
            let findings = hosts_from::findings(manager, &host, profile);
            if !findings.registries.is_empty() {
                granting.push(manager);
            }
            managers.entry(manager).or_insert(findings);
        }
        let text = profile_text(parent, &granting, &workspace(args, &host));
        proposals.push(proposal(args, parent, text)?);
    }
    let replaced = replaced(args, &host, &proposals)?;
    let package_managers = managers.into_iter().map(|(manager, findings)| line(manager, findings)).collect();
    Ok(Report { agents, package_managers, profiles: proposals, replaced, written: false })
}

/// The shipped profile of this name.
fn load(host: &Host, args: &InitArgs, name: &str) -> anyhow::Result<ResolvedProfile> {
    let file = args.bases.find(name).map_err(|error| {
        Failed::error(
            Exit::Usage,
            format!("{error}; `agent-monitor install` puts the shipped profiles there"),
        )
    })?;
    let unusable =
        |why: String| Failed::error(Exit::BadProfile, format!("{} can't be used\n{why}", file.display()));
    match check_profile_on(host, &file, &args.bases.bases) {
        Ok(Checked::Profile(loaded)) => Ok(loaded.profile),
        Ok(Checked::Base(_)) => Err(unusable("it is only a base".to_owned())),
        Err(errors) => Err(unusable(errors.render(false))),
    }
}

/// What was told, else the places that somebody's home has.
fn workspace(args: &InitArgs, host: &Host) -> Vec<String> {
    if !args.workspace.is_empty() {
        return args.workspace.clone();
    }
    let there = |place: &&&str| !host.find(&format!("~/{place}/")).is_empty();
    WORKPLACES.iter().filter(there).map(|place| format!("~/{place}/*")).collect()
}

fn profile_text(parent: &str, managers: &[Manager], workspace: &[String]) -> String {
    let mut text = format!("version: 1\nname: {PREFIX}{parent}\nextends: [{parent}]\n\n");
    text.push_str("# Where the work lies: each directory in these is a project.\n");
    let listed = |items: &[String]| items.join(", ");
    let quoted: Vec<String> = workspace.iter().map(|glob| crate::policy::written::quoted(glob)).collect();
    match quoted.as_slice() {
        [] => text.push_str("#workspace: [\"~/src/*\"]\n"),
        globs => writeln!(text, "workspace: [{}]", listed(globs)).unwrap_or_default(),
    }
    if !managers.is_empty() {
        let names: Vec<&str> = managers.iter().map(|manager| manager.as_str()).collect();
        text.push_str("\nnetwork:\n  # The registries that these are configured with; `agent-monitor check` says more.\n");
        writeln!(text, "  hosts_from: [{}]", names.join(", ")).unwrap_or_default();
    }
    format!("{}{text}", head(&text))
}

/// What tells a file as `init` wrote it from one that was edited since.
fn head(text: &str) -> String {
    let digest = Sha256::digest(text);
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("# Written by `agent-monitor init` ({short}). Make it yours: an edited file stays as it is.\n")
}

fn proposal(args: &InitArgs, parent: &str, text: String) -> anyhow::Result<Proposal> {
    let name = format!("{PREFIX}{parent}");
    let file = args.directory.join(format!("{name}.yaml"));
    let state = match install::read(&file)? {
        None => State::New,
        Some(have) if have == text.as_bytes() => State::Same,
        Some(have) => {
            let have = String::from_utf8_lossy(&have);
            let untouched = have.split_once('\n').is_some_and(|(first, rest)| head(rest).trim_end() == first);
            if untouched { State::Older } else { State::Edited }
        }
    };
    Ok(Proposal { name, extends: parent.to_owned(), file, state, text })
}

/// Loads the proposals with what is in the directory. Two profiles never claim one executable, so the general one gives
/// way where it is as it was shipped; what this returns.
fn replaced(args: &InitArgs, host: &Host, proposals: &[Proposal]) -> anyhow::Result<Vec<PathBuf>> {
    let general = args.directory.join(format!("{GENERAL}.yaml"));
    // What fails without them is not this command's to judge.
    let before = failing(args, host, &[], None)?;
    let known = |failed: &FailedProfile| before.iter().any(|b| b.file.file_name() == failed.file.file_name());
    let mut failed = failing(args, host, proposals, None)?;
    failed.retain(|failed| !known(failed));
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    let twice = |failed: &FailedProfile| failed.errors.0.iter().all(|error| error.code == Code::ClaimedTwice);
    if failed.iter().all(twice) && is_as_shipped(args, &general)? {
        let left = failing(args, host, proposals, Some(&general))?;
        if left.iter().all(known) {
            return Ok(vec![general]);
        }
    }
    let why: Vec<String> = failed.iter().map(|failed| failed.errors.render(false)).collect();
    let message = format!(
        "the proposals do not go together with what is in {}: nothing was written\n{}",
        args.directory.display(),
        why.join("\n")
    );
    Err(Failed::error(Exit::BadProfile, message))
}

/// Whether a file of the directory is a copy of one where bases are looked up, which stays.
fn is_as_shipped(args: &InitArgs, file: &Path) -> anyhow::Result<bool> {
    let Some(have) = install::read(file)? else { return Ok(false) };
    let name = file.file_name().unwrap_or_default();
    let others = args.bases.bases.iter().map(|directory| directory.join(name)).filter(|other| other != file);
    for other in others {
        if install::read(&other)?.is_some_and(|shipped| shipped == have) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What would not load of the directory with the proposals in it, and without one file.
fn failing(
    args: &InitArgs,
    host: &Host,
    proposals: &[Proposal],
    without: Option<&Path>,
) -> anyhow::Result<Vec<FailedProfile>> {
    let stage = Scratch::new("init")?;
    let present = match std::fs::read_dir(&args.directory) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(install::refused(&args.directory, error)),
    };
    for entry in present {
        let path = entry.path();
        let profile =
            path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        if profile && path.is_file() && Some(path.as_path()) != without {
            std::fs::copy(&path, stage.0.join(entry.file_name()))
                .map_err(|error| install::refused(&path, error))?;
        }
    }
    for proposal in proposals.iter().filter(|proposal| proposal.state != State::Edited || args.force) {
        let name = proposal.file.file_name().unwrap_or_default();
        std::fs::write(stage.0.join(name), &proposal.text)?;
    }
    // The directory itself is a place of bases by default; here its copy is, so that none counts twice.
    let own = args.directory.canonicalize().unwrap_or_else(|_| args.directory.clone());
    let is_own = |base: &&PathBuf| base.canonicalize().is_ok_and(|base| base == own);
    let bases: Vec<PathBuf> = args.bases.bases.iter().filter(|base| !is_own(base)).cloned().collect();
    Ok(load_directory_on(host, &stage.0, &bases)?.failed)
}

fn line(manager: Manager, findings: Findings) -> ManagerLine {
    let registries = findings.registries.into_iter().map(|(location, from)| Registry {
        host: match location.host {
            Place::Name(name) => name.to_string(),
            Place::Address(address) => address.to_string(),
        },
        port: location.port,
        from,
    });
    ManagerLine {
        name: manager.as_str(),
        registries: registries.collect(),
        remarks: findings.remarks.into_iter().map(|(what, hint)| format!("{what}: {hint}")).collect(),
    }
}

fn write(args: &InitArgs, report: &mut Report) -> anyhow::Result<()> {
    let mut told = String::new();
    for file in &report.replaced {
        install::remove(file, &mut told)?;
    }
    for proposal in report.profiles.iter().filter(|proposal| proposal.state != State::Edited || args.force) {
        install::write(&proposal.file, proposal.text.as_bytes(), 0o644, &mut told)?;
    }
    report.written = true;
    Ok(())
}

fn text(args: &InitArgs, report: &Report) -> String {
    let mut text = String::new();
    let mut section = |title: &str, rows: &[Vec<String>]| {
        if !rows.is_empty() {
            text.push_str(&format!("{title}\n{}", table::render(rows)));
        }
    };
    let shown = |path: &Path| crate::policy::diagnostic::printable(&path.to_string_lossy());
    let agents = report.agents.iter().flat_map(|agent| {
        agent.found.places.iter().enumerate().map(|(nth, place)| match nth {
            0 => {
                let version = agent.found.version.clone().unwrap_or_else(|| "-".to_owned());
                vec![agent.name.to_owned(), version, agent.profile.clone(), shown(place)]
            }
            _ => vec![String::new(), String::new(), String::new(), shown(place)],
        })
    });
    section("agents, and their profiles", &agents.collect::<Vec<_>>());
    let mut managers = Vec::new();
    for manager in &report.package_managers {
        for registry in &manager.registries {
            let place = format!("{}:{}", registry.host, registry.port);
            managers.push(vec![manager.name.to_owned(), place, format!("from {}", shown(&registry.from))]);
        }
        for remark in &manager.remarks {
            managers.push(vec![manager.name.to_owned(), "!".to_owned(), remark.clone()]);
        }
    }
    section("package managers, and their registries", &managers);
    if report.agents.is_empty() {
        text.push_str(
            "no agent was found: start one with `agent-monitor run --profile coding-agent -- COMMAND`\n",
        );
        return text;
    }
    for Proposal { file, state, text: proposed, .. } in &report.profiles {
        let state = match (report.written, state) {
            (true, State::New | State::Older) => "written",
            (true, State::Edited) if args.force => "written over what somebody edited",
            (true, State::Edited) => "kept: somebody edited it (--force overwrites it)",
            (_, state) => state.as_str(),
        };
        text.push_str(&format!("{}: {state}\n", file.display()));
        if !report.written && state != State::Same.as_str() {
            for line in proposed.lines() {
                text.push_str(format!("  {line}").trim_end());
                text.push('\n');
            }
        }
    }
    for file in &report.replaced {
        let state = if report.written { "removed" } else { "would go" };
        let why = "its copy stays where bases are; no two profiles claim one executable";
        text.push_str(&format!("{}: {state}: {why}\n", file.display()));
    }
    for agent in report.agents.iter().filter(|agent| !agent.claimed) {
        let AgentLine { name, command, profile, .. } = agent;
        text.push_str(&format!(
            "{name} is a script: start it with `agent-monitor run --profile {profile} -- {command}`\n"
        ));
    }
    text.push_str(match report.written {
        false => "next: `agent-monitor init --write` writes the files\n",
        true => {
            "next: edit them, then `agent-monitor reload`; run this again when you install another agent\n"
        }
    });
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BASE: &str = "version: 1\nname: base\nabstract: true\nmode: enforce\nfiles: { read: [\"/**\"], write: [\"~/src/**\"] }\n";
    const CLAUDE: &str = "agents: [{ exe: \"~/.local/share/claude/versions/*\" }]\n";

    struct Host(tempfile::TempDir);

    impl Host {
        /// A host with Claude Code, aider and npm, on which the shipped profiles are these.
        fn new(shipped: &[&str]) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            for path in [
                "home/user/src/x",
                "home/user/.local/share/claude/versions/2.1.4",
                "usr/local/bin/aider",
                "usr/lib/node_modules/npm/x",
            ] {
                host.put(&format!("root/{path}"), "");
            }
            host.put("root/etc/npmrc", "registry=https://packages.example.com/\n");
            host.put("share/base.yaml", BASE);
            for name in shipped {
                let claims = if *name == "aider" { "" } else { CLAUDE };
                host.put(
                    &format!("share/{name}.yaml"),
                    &format!("version: 1\nname: {name}\nextends: [base]\n{claims}"),
                );
            }
            host
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(&path, mode).unwrap();
        }

        fn init(&self, write: bool, force: bool) -> anyhow::Result<Report> {
            let args = InitArgs {
                write,
                force,
                directory: self.at("profiles.d"),
                workspace: Vec::new(),
                root: self.at("root"),
                json: false,
                bases: BasesArgs { bases: vec![self.at("profiles.d"), self.at("share")] },
            };
            let mut report = propose(&args)?;
            if write {
                super::write(&args, &mut report)?;
            }
            Ok(report)
        }

        /// The profiles in force, by name, and how many agents they claim.
        fn loads(&self) -> Vec<(String, usize)> {
            let host = hosts_from::Host::below(&self.at("root")).unwrap();
            let loaded = load_directory_on(&host, &self.at("profiles.d"), &[self.at("share")]).unwrap();
            assert!(loaded.failed.is_empty(), "{:?}", loaded.failed);
            loaded.profiles.into_iter().map(|l| (l.profile.name, l.profile.claims.len())).collect()
        }
    }

    fn states(report: &Report) -> Vec<(&str, State)> {
        report.profiles.iter().map(|proposal| (proposal.name.as_str(), proposal.state)).collect()
    }

    #[test]
    fn each_agent_gets_the_profile_for_it() {
        let host = Host::new(&["coding-agent", "claude-code", "aider"]);
        let report = host.init(false, false).unwrap();
        assert_eq!(states(&report), [("local-aider", State::New), ("local-claude-code", State::New)]);
        assert!(!host.at("profiles.d").exists(), "nothing is written unless told");
        assert!(report.profiles[1].text.contains("hosts_from: [npm]"));
        assert!(report.profiles[1].text.contains("workspace: [\"~/src/*\"]"));
        assert_eq!(report.agents.iter().map(|agent| agent.claimed).collect::<Vec<_>>(), [true, false]);
        host.init(true, false).unwrap();
        assert_eq!(host.loads(), [("local-aider".to_owned(), 0), ("local-claude-code".to_owned(), 1)]);
    }

    #[test]
    fn where_one_agent_has_no_profile_all_get_the_general_one() {
        let host = Host::new(&["coding-agent", "claude-code"]);
        host.put(
            "profiles.d/coding-agent.yaml",
            &fs::read_to_string(host.at("share/coding-agent.yaml")).unwrap(),
        );
        let report = host.init(true, false).unwrap();
        assert_eq!(states(&report), [("local-coding-agent", State::New)]);
        // It extends the one in force, and so takes its claims.
        assert_eq!(report.replaced, [""; 0].map(PathBuf::from));
        assert_eq!(host.loads(), [("coding-agent".to_owned(), 0), ("local-coding-agent".to_owned(), 1)]);
    }

    #[test]
    fn the_general_profile_gives_way_unless_somebody_edited_it() {
        let host = Host::new(&["coding-agent", "claude-code", "aider"]);
        let shipped = fs::read_to_string(host.at("share/coding-agent.yaml")).unwrap();
        let general = host.at("profiles.d/coding-agent.yaml");
        host.put("profiles.d/coding-agent.yaml", &format!("{shipped}# mine\n"));
        let error = host.init(true, false).unwrap_err().to_string();
        assert!(error.contains("is also claimed by") && general.exists(), "{error}");
        assert_eq!(fs::read_dir(host.at("profiles.d")).unwrap().count(), 1);
        host.put("profiles.d/coding-agent.yaml", &shipped);
        assert_eq!(host.init(false, false).unwrap().replaced, std::slice::from_ref(&general));
        assert!(general.exists());
        host.init(true, false).unwrap();
        assert!(!general.exists());
        assert_eq!(host.loads().len(), 2);
    }

    #[test]
    fn an_edited_file_stays_and_a_second_run_changes_nothing() {
        let host = Host::new(&["claude-code", "aider"]);
        host.init(true, false).unwrap();
        let file = host.at("profiles.d/local-claude-code.yaml");
        let first = fs::read_to_string(&file).unwrap();
        assert!(states(&host.init(true, false).unwrap()).iter().all(|(_, state)| *state == State::Same));
        // What it wrote itself follows the host.
        fs::remove_file(host.at("root/etc/npmrc")).unwrap();
        assert_eq!(states(&host.init(true, false).unwrap())[1].1, State::Older);
        assert_ne!(fs::read_to_string(&file).unwrap(), first);
        fs::write(&file, first.replace("src", "mine")).unwrap();
        assert_eq!(states(&host.init(true, false).unwrap())[1].1, State::Edited);
        assert!(fs::read_to_string(&file).unwrap().contains("mine"));
        host.init(true, true).unwrap();
        assert!(!fs::read_to_string(&file).unwrap().contains("mine"));
    }

    #[test]
    fn what_would_not_load_is_not_written() {
        let host = Host::new(&["claude-code", "aider"]);
        host.put("profiles.d/other.yaml", "version: 1\nname: local-aider\nmode: audit\n");
        let error = host.init(true, false).unwrap_err().to_string();
        assert!(error.contains("local-aider"), "{error}");
        assert!(!host.at("profiles.d/local-claude-code.yaml").exists());
    }
}
