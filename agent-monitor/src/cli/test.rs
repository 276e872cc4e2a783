//! `agent-monitor test`: does a profile say what its test cases expect?
//!
//! Exit code 0 if every case comes out as expected, 1 if one does not, 65 if cases or profile have mistakes. Needs no
//! privilege and no daemon: what decides is the image that the kernel would get.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::profile::BasesArgs;
use super::{colours, print};
use crate::exit::{Exit, Failed};
use crate::policy::cases::{self, Cases};
use crate::policy::diagnostic::render_all;
use crate::policy::judge::Judge;

#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Files of test cases (see `agent-monitor schema --cases`)
    #[arg(required = true, value_name = "CASES")]
    pub files: Vec<PathBuf>,
    /// Ask this profile and not the one that the cases name
    #[arg(long, short, value_name = "PROFILE")]
    pub profile: Option<String>,
    #[command(flatten)]
    pub bases: BasesArgs,
}

/// Asks every case and tells what comes out otherwise.
///
/// # Errors
/// Cases or a profile that can't be read.
pub fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let mut all_as_expected = true;
    for file in &args.files {
        let cases = cases::load(file).map_err(|errors| {
            let told = errors.render(colours(&std::io::stderr()));
            Failed::error(Exit::BadProfile, format!("{} can't be used\n{told}", file.display()))
        })?;
        let judge = judge(args, file, &cases)?;
        let failures = cases.failures(&judge)?;
        all_as_expected &= failures.is_empty();
        let requests = counted(cases.asked.len(), "request");
        let of = format!(
            "{}: {requests} in {} of `{}`",
            file.display(),
            counted(cases.count, "case"),
            judge.profile().name
        );
        let outcome = match failures.len() {
            0 => "all as expected".to_owned(),
            wrong => format!("{wrong} otherwise than expected"),
        };
        print(&format!("{}{of}: {outcome}\n", render_all(&failures, colours(&std::io::stdout()))))?;
    }
    Ok(if all_as_expected { ExitCode::SUCCESS } else { Exit::Failure.into() })
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The profile that the cases are about, with the homes that they give.
fn judge(args: &TestArgs, file: &Path, cases: &Cases) -> anyhow::Result<Judge> {
    let beside = file.parent().unwrap_or(Path::new("")).join(&cases.profile);
    let named = match &args.profile {
        Some(profile) => profile.clone(),
        None if beside.is_file() => beside.to_string_lossy().into_owned(),
        None => cases.profile.clone(),
    };
    let mut profile = args.bases.load(&named)?.profile;
    if let Some(homes) = &cases.homes {
        profile.homes.clone_from(homes);
    }
    Judge::new(profile).map_err(|error| Failed::error(Exit::BadProfile, error.to_string()))
}
