//! `agent-monitor check`: are these profiles right?
//!
//! Prints every problem of every file with its place, or what a sound profile
//! says in short. Exit code 0, or 65 if a profile has errors; warnings do not
//! count. Needs no privilege and no kernel.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::policy::diagnostic::{Diagnostic, DiagnosticRecord, Severity, printable, render_all};
use crate::policy::load::DEFAULT_DIRECTORIES;
use crate::policy::{Base, Checked, Loaded, check_profile, load_directory};

/// `EX_DATAERR`: a profile has errors.
const BAD_PROFILE: u8 = 65;

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Profile files, or directories whose profiles are checked together.
    #[arg(required = true, value_name = "PROFILE")]
    pub profiles: Vec<PathBuf>,
    /// Where bases are looked up that are not beside the profile; may be given
    /// several times.
    #[arg(long = "bases", value_name = "DIR", default_values = DEFAULT_DIRECTORIES)]
    pub bases: Vec<PathBuf>,
    /// `text` for people: problems on standard error. `json`: one document on
    /// standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Checks all profiles and prints the outcome.
///
/// # Errors
/// If the outcome can't be printed or a directory can't be listed; problems of
/// profiles are an outcome.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut outcomes = Vec::new();
    for path in &args.profiles {
        if path.is_dir() {
            check_directory(path, &args.bases, &mut outcomes)?;
        } else {
            outcomes.push(match check_profile(path, &args.bases) {
                Ok(Checked::Profile(loaded)) => Outcome::profile(*loaded),
                Ok(Checked::Base(base)) => Outcome::base(*base),
                Err(errors) => Outcome::failed(path, errors.0),
            });
        }
    }
    forget_repeats(&mut outcomes);
    match args.format {
        Format::Text => print_text(&outcomes)?,
        Format::Json => print_json(&outcomes)?,
    }
    let all_sound = outcomes.iter().all(|outcome| outcome.summary.is_some());
    Ok(if all_sound { ExitCode::SUCCESS } else { ExitCode::from(BAD_PROFILE) })
}

fn check_directory(path: &Path, bases: &[PathBuf], outcomes: &mut Vec<Outcome>) -> anyhow::Result<()> {
    let directory = load_directory(path, bases)?;
    let before = outcomes.len();
    outcomes.extend(directory.profiles.into_iter().map(Outcome::profile));
    outcomes.extend(directory.bases.into_iter().map(Outcome::base));
    outcomes
        .extend(directory.failed.into_iter().map(|failed| Outcome::failed(&failed.file, failed.errors.0)));
    outcomes[before..].sort_by(|a, b| a.file.cmp(&b.file));
    anyhow::ensure!(outcomes.len() > before, "{} holds no profiles (*.yaml)", path.display());
    Ok(())
}

/// One checked file.
struct Outcome {
    file: PathBuf,
    /// Nothing if there are errors.
    summary: Option<Summary>,
    diagnostics: Vec<Diagnostic>,
}

/// What a sound file says, in short.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    /// Nothing for a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    /// The files it was read from, itself first.
    files: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    rules: Rules,
}

#[derive(Debug, Default, Serialize)]
struct Rules {
    claims: usize,
    network_allow: usize,
    network_deny: usize,
    network_listen: usize,
    sockets: Vec<&'static str>,
    syscalls_watched: usize,
    syscalls_killed: usize,
}

impl Outcome {
    fn profile(loaded: Loaded) -> Self {
        let Loaded { profile, warnings } = loaded;
        let killed = profile.syscalls.iter().filter(|rule| rule.kill).count();
        let rules = Rules {
            claims: profile.claims.len(),
            network_allow: profile.network.allow.len(),
            network_deny: profile.network.deny.len(),
            network_listen: profile.network.listen.len(),
            sockets: profile.network.sockets.iter().map(|kind| kind.as_str()).collect(),
            syscalls_watched: profile.syscalls.len() - killed,
            syscalls_killed: killed,
        };
        let summary = Summary {
            name: profile.name,
            mode: Some(profile.mode.as_str()),
            files: profile.files.iter().map(|file| file.display().to_string()).collect(),
            description: profile.description,
            rules,
        };
        Self { file: profile.file.to_path_buf(), summary: Some(summary), diagnostics: warnings }
    }

    fn base(base: Base) -> Self {
        let summary = Summary {
            name: base.name,
            mode: None,
            files: base.files.iter().map(|file| file.display().to_string()).collect(),
            description: base.description,
            rules: Rules {
                claims: base.claims,
                network_allow: base.network.allow.len(),
                network_deny: base.network.deny.len(),
                network_listen: base.network.listen.len(),
                sockets: base.network.sockets.iter().map(|kind| kind.as_str()).collect(),
                syscalls_killed: base.syscalls.iter().filter(|rule| rule.kill).count(),
                syscalls_watched: base.syscalls.iter().filter(|rule| !rule.kill).count(),
            },
        };
        Self { file: base.file.to_path_buf(), summary: Some(summary), diagnostics: base.warnings }
    }

    fn failed(file: &Path, diagnostics: Vec<Diagnostic>) -> Self {
        Self { file: file.to_path_buf(), summary: None, diagnostics }
    }
}

/// A base's problem is found again by every profile that extends it.
fn forget_repeats(outcomes: &mut [Outcome]) {
    let mut seen = HashSet::new();
    for outcome in outcomes {
        outcome.diagnostics.retain(|diagnostic| {
            seen.insert((
                diagnostic.file.clone(),
                diagnostic.place(),
                diagnostic.code,
                diagnostic.message.clone(),
            ))
        });
    }
}

fn print_text(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let stderr = std::io::stderr();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut problems = Vec::new();
    let mut summary = String::new();
    for outcome in outcomes {
        problems.extend(outcome.diagnostics.iter().cloned());
        if let Some(sound) = &outcome.summary {
            summary.push_str(&sound.describe(&outcome.file));
        }
    }
    let count = |severity| problems.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut text = render_all(&problems, colour);
    if errors + warnings > 0 {
        let bad = outcomes.iter().filter(|outcome| outcome.summary.is_none()).count();
        let plural =
            |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let verdict = match bad {
            0 => "the profiles can be used".to_owned(),
            _ => format!("{} can't be used", plural(bad, "profile")),
        };
        text.push_str(&format!(
            "\n{}, {}: {verdict}\n",
            plural(errors, "error"),
            plural(warnings, "warning")
        ));
    }
    stderr.lock().write_all(text.as_bytes()).context("can't write to standard error")?;
    std::io::stdout().lock().write_all(summary.as_bytes()).context("can't write to standard output")
}

impl Summary {
    fn describe(&self, file: &Path) -> String {
        let rules = &self.rules;
        let kind = match self.mode {
            Some(mode) => format!("profile {}, mode {mode}", self.name),
            None => format!("base {}", self.name),
        };
        let sockets = match rules.sockets.as_slice() {
            [] => String::new(),
            kinds => format!("; sockets {}", kinds.join(", ")),
        };
        let bases = match self.files.as_slice() {
            [] | [_] => String::new(),
            [_, bases @ ..] => format!("\n  extends {}", printable(&bases.join(", "))),
        };
        format!(
            "{}: OK, {kind}{bases}\n  {} agent claims; network {} allow, {} deny, {} listen{sockets}; system calls {} watched, {} killed\n",
            printable(&file.to_string_lossy()),
            rules.claims,
            rules.network_allow,
            rules.network_deny,
            rules.network_listen,
            rules.syscalls_watched,
            rules.syscalls_killed,
        )
    }
}

#[derive(Serialize)]
struct Report<'a> {
    profiles: Vec<ReportedProfile<'a>>,
}

#[derive(Serialize)]
struct ReportedProfile<'a> {
    file: String,
    ok: bool,
    #[serde(flatten)]
    summary: Option<&'a Summary>,
    diagnostics: Vec<DiagnosticRecord>,
}

fn print_json(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let profiles = outcomes.iter().map(|outcome| ReportedProfile {
        file: outcome.file.display().to_string(),
        ok: outcome.summary.is_some(),
        summary: outcome.summary.as_ref(),
        diagnostics: outcome.diagnostics.iter().map(DiagnosticRecord::from).collect(),
    });
    let report = Report { profiles: profiles.collect() };
    let text = serde_json::to_string_pretty(&report).context("can't print the report")?;
    writeln!(std::io::stdout().lock(), "{text}").context("can't write to standard output")
}
