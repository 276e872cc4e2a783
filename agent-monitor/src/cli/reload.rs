//! `agent-monitor reload`: changed profiles into force.

use std::process::ExitCode;

use super::{SocketArgs, print};
use crate::control::client::ask;
use crate::control::protocol::{Code, Op, ReloadOutcome, Reloaded};
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// Only this profile [default: all]
    #[arg(value_name = "PROFILE")]
    pub profile: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the daemon's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Reloads and says what happened to each profile.
///
/// # Errors
/// When the daemon refuses. A refused profile is an outcome: exit code 65, or 69 where the kernel can't enforce it.
pub fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let op = Op::Reload { profile: args.profile.clone() };
    let reloaded: Reloaded = ask(&args.socket.socket, op).map_err(|error| error.into_exit())?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&reloaded)?))?;
    } else {
        let mut text = String::new();
        for profile in &reloaded.profiles {
            let generation = profile.generation.map(|n| format!(", generation {n}")).unwrap_or_default();
            text.push_str(&match profile.outcome {
                ReloadOutcome::Installed => format!("{}: in force{generation}\n", profile.name),
                ReloadOutcome::Unchanged => format!("{}: unchanged{generation}\n", profile.name),
                ReloadOutcome::Removed => format!("{}: removed\n", profile.name),
                ReloadOutcome::Retained => {
                    format!(
                        "{}: its file is gone; in force until its last agent ends{generation}\n",
                        profile.name
                    )
                }
                ReloadOutcome::Refused if profile.generation.is_some() => {
                    format!("{}: REFUSED, the old one stays in force{generation}\n", profile.name)
                }
                ReloadOutcome::Refused => format!("{}: REFUSED, and none is in force\n", profile.name),
            });
        }
        if reloaded.flows_cut > 0 {
            text.push_str(&format!(
                "{} established flows lost their grant and were reset\n",
                reloaded.flows_cut
            ));
        }
        print(&text)?;
        for error in reloaded.profiles.iter().filter_map(|profile| profile.error.as_deref()) {
            eprintln!("\n{error}");
        }
    }
    Ok(exit(&reloaded))
}

fn exit(reloaded: &Reloaded) -> ExitCode {
    let codes: Vec<Code> = reloaded.profiles.iter().filter_map(|profile| profile.code).collect();
    if codes.is_empty() {
        ExitCode::SUCCESS
    } else if codes.contains(&Code::BadProfile) {
        Exit::BadProfile.into()
    } else if codes.contains(&Code::CannotEnforce) {
        Exit::CannotEnforce.into()
    } else {
        Exit::Failure.into()
    }
}
