//! `agent-monitor learn`: a least-agency profile from what an agent does.
//!
//! Runs a command under a profile that denies nothing and records everything, by a monitor of its own, or reads what was
//! recorded before. The profile is asked about all that it was learnt from before it is shown.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::profile::BasesArgs;
use super::scratch::Scratch;
use super::{event_files, print, recording};
use crate::event::model::Event;
use crate::exit::{Exit, Failed};
use crate::policy::homes;
use crate::policy::judge::Judge;
use crate::policy::learn::{Observations, Thresholds, Wishes};
use crate::policy::load_profile;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("seen").required(true).multiple(true))]
pub struct LearnArgs {
    /// Name of the profile
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// A profile or base that it extends: what that grants is not written again; may be given several times
    #[arg(long, value_name = "PROFILE")]
    pub extends: Vec<String>,
    /// A directory of the work: one grant for all below it; may be given several times [default: the working directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Vec<PathBuf>,
    /// Recorded events of a run; may be given several times, once for each run
    #[arg(long, value_name = "EVENTS", group = "seen")]
    pub from: Vec<PathBuf>,
    /// Only events of this agent (ULID); may be given several times
    #[arg(long, value_name = "ID")]
    pub agent: Vec<String>,
    /// Grant what was seen in so many runs at least; the rest is listed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub runs: usize,
    /// Objects used directly in a directory from which all of them are granted
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().files)]
    pub files: usize,
    /// Directories used below a directory from which everything below it is granted
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().directories)]
    pub directories: usize,
    /// Write the profile here [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Learn from a process that runs already, and its descendants, until they end or Ctrl-C; what it opened before is
    /// not seen
    #[arg(long, value_name = "PID", group = "seen", conflicts_with_all = ["command", "user"])]
    pub attach: Option<u32>,
    /// With --attach: no longer than this, such as `10m` or `2h`
    #[arg(long = "for", value_name = "TIME", requires = "attach", conflicts_with = "command", value_parser = span)]
    pub time: Option<Duration>,
    /// Keep the events of the run here, for `--from`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Run the command as this user
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// The cgroup (v2) in which the command runs [default: the root of the hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Server from which names are asked; may be given several times [default: the host's]
    #[arg(long, value_name = "ADDRESS")]
    pub name_server: Vec<String>,
    #[command(flatten)]
    pub bases: BasesArgs,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND", group = "seen")]
    pub command: Vec<OsString>,
}

/// A time from the command line.
fn span(text: &str) -> Result<Duration, String> {
    let told = || format!("{text:?} is no time such as `90s`, `10m` or `2h`");
    let span: jiff::SignedDuration = text.parse().map_err(|_| told())?;
    Duration::try_from(span).ok().filter(|span| !span.is_zero()).ok_or_else(told)
}

/// What no agent gets without a person's word.
const SENSITIVE: &str = include_str!("../../../policies/base.yaml");

/// Records, and writes the profile.
///
/// # Errors
/// A command that can't be watched, events that can't be read, a base that can't be used.
pub fn run(args: &LearnArgs) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new("learn")?;
    let sensitive = judge_of(&scratch, "sensitive", &sensitive_profile())?;
    let base = match args.extends.as_slice() {
        [] => None,
        bases => {
            // Beside the host's own: names are looked up as the profile's will be.
            let text =
                format!("version: 1\nname: extended\nmode: enforce\nextends: [{}]\n", bases.join(", "));
            let file = scratch.0.join("extended.yaml");
            fs::write(&file, text)?;
            let profile = load_profile(&file, &args.bases.bases).map_err(|errors| {
                Failed::error(Exit::BadProfile, format!("--extends can't be used\n{}", errors.render(false)))
            })?;
            Some(Judge::new(profile.profile).map_err(|e| Failed::error(Exit::BadProfile, e.to_string()))?)
        }
    };
    let mut seen = Observations::default();
    for file in &args.from {
        read(args, file, &mut seen)?;
    }
    let mut files_seen = false;
    let mut ended = None;
    if !args.command.is_empty() || args.attach.is_some() {
        let recorded = recording::record(args, &scratch.0)?;
        files_seen = recorded.files_seen;
        read(args, &recorded.events, &mut seen)?;
        if let Some(kept) = &args.record {
            fs::copy(&recorded.events, kept).with_context(|| kept.display().to_string())?;
        }
        ended = recorded.status;
    }
    if seen.is_empty() {
        return Err(Failed::error(
            Exit::Failure,
            "nothing was recorded from which a profile could be learnt",
        ));
    }
    let workspace = match args.workspace.as_slice() {
        [] => vec![std::env::current_dir()?],
        given => given.to_vec(),
    };
    let text =
        |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned();
    let wishes = Wishes {
        name: args.name.clone(),
        extends: args.extends.clone(),
        workspace: workspace.iter().map(text).collect(),
        homes: homes::of_host().iter().map(|home| home.to_string_lossy().into_owned()).collect(),
        thresholds: Thresholds { files: args.files.max(2), directories: args.directories.max(2) },
        files_seen: files_seen || seen.has_paths(),
        runs: args.runs,
    };
    let learned = seen.profile(&wishes, base.as_ref(), &sensitive);
    // The proof, before anybody reads it.
    let file = scratch.0.join("learnt.yaml");
    fs::write(&file, &learned.text)?;
    let bases: Vec<PathBuf> = args.bases.bases.clone();
    let judge = load_profile(&file, &bases)
        .map_err(|errors| {
            let told = format!(
                "the learnt profile can't be used, which is a fault of agent-monitor:\n{}",
                errors.render(false)
            );
            Failed::error(Exit::BadProfile, told)
        })
        .and_then(|loaded| {
            Judge::new(loaded.profile).map_err(|error| Failed::error(Exit::BadProfile, error.to_string()))
        })?;
    let denied = seen.denied_by(&judge, &learned);
    match &args.output {
        Some(file) => fs::write(file, &learned.text).with_context(|| file.display().to_string())?,
        None => drop(print(&learned.text)?),
    }
    eprintln!(
        "agent-monitor: {} requests seen, {} rules; allowed by them or their base {}, left for you to decide {}",
        seen.len(),
        learned.rules,
        seen.len().saturating_sub(learned.held.len() + denied.len()),
        learned.held.len()
    );
    for request in &denied {
        eprintln!(
            "agent-monitor: the profile denies {request}, from which it was learnt: a fault of agent-monitor"
        );
    }
    if seen.lost + seen.beyond > 0 {
        eprintln!(
            "agent-monitor: {} events are missing, so the profile may lack something",
            seen.lost + seen.beyond
        );
    }
    if !wishes.files_seen {
        eprintln!(
            "agent-monitor: nothing was recorded about files and programs: it takes BPF LSM (agent-monitor doctor)"
        );
    }
    Ok(match ended {
        Some(code) if code != 0 => {
            eprintln!("agent-monitor: the command ended with {code}");
            ExitCode::SUCCESS
        }
        _ if !denied.is_empty() => Exit::Failure.into(),
        _ => ExitCode::SUCCESS,
    })
}

/// The shipped base as a profile by itself.
fn sensitive_profile() -> String {
    SENSITIVE.replace("abstract: true", "mode: enforce")
}

fn judge_of(scratch: &Scratch, name: &str, text: &str) -> anyhow::Result<Judge> {
    let file = scratch.0.join(format!("{name}.yaml"));
    fs::write(&file, text)?;
    let loaded = load_profile(&file, &[]).map_err(|errors| anyhow::anyhow!("{}", errors.render(false)))?;
    Ok(Judge::new(loaded.profile)?)
}

fn read(args: &LearnArgs, file: &Path, seen: &mut Observations) -> anyhow::Result<()> {
    event_files::lines(file, |line| {
        if let Ok(event) = serde_json::from_str::<Event<'static>>(line) {
            let id = event.agent.as_ref().and_then(|agent| agent.id).map(|id| id.0.to_string());
            if args.agent.is_empty() || id.is_some_and(|id| args.agent.contains(&id)) {
                seen.event(&event);
            }
        }
        Ok(true)
    })?;
    seen.next_run();
    Ok(())
}
