//! `agent-monitor diff`: what does the new profile allow that the old one does not, and the other way round?
//!
//! Compares what the kernel would get of either, so another way to write the same thing is no difference. Exit code 1 if
//! the new profile allows anything more, else 0: a gate for changes of profiles.

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::profile::BasesArgs;
use super::{colours, print};
use crate::exit::Exit;
use crate::policy::diagnostic::printable;
use crate::policy::diff::{Difference, Example, OverTime, diff_over_time};

#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The profile as it was, by file or name
    #[arg(value_name = "OLD")]
    pub old: String,
    /// The profile as it shall be
    #[arg(value_name = "NEW")]
    pub new: String,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
}

/// Prints the difference.
///
/// # Errors
/// A profile that can't be used.
pub fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let (old, new) = (args.bases.judge(&args.old, None)?, args.bases.judge(&args.new, None)?);
    let found = diff_over_time(&old, &new)?;
    let text = if args.json {
        let report = Report { grants_more: found.grants_more(), difference: &found };
        format!("{}\n", serde_json::to_string_pretty(&report).context("JSON")?)
    } else {
        text(&found, colours(&std::io::stdout()))
    };
    print(&text)?;
    Ok(if found.grants_more() { Exit::Failure.into() } else { ExitCode::SUCCESS })
}

#[derive(Serialize)]
struct Report<'d> {
    grants_more: bool,
    #[serde(flatten)]
    difference: &'d OverTime,
}

/// Programs of an example that the text names.
const MOST_PROGRAMS: usize = 3;

fn text(found: &OverTime, colour: bool) -> String {
    if found.is_empty() {
        return "no difference: both allow the same\n".to_owned();
    }
    let mut out = differences(&found.now, "", colour);
    out.push_str(&differences(&found.after_leases, "when the leases have ended, ", colour));
    let more = if found.grants_more() {
        "the new profile allows more"
    } else {
        "the new profile allows nothing more"
    };
    out.push_str(&format!("{more}\n"));
    out
}

/// Examples of what differs; `when`: from then on.
fn differences(found: &Difference, when: &str, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let mut out = String::new();
    for (sign, code, what, examples, more) in [
        ('+', "\x1b[31m", "allowed by the new profile only", &found.wider, found.more.0),
        ('-', "\x1b[32m", "allowed by the old profile only", &found.narrower, found.more.1),
    ] {
        let changes: Vec<&str> =
            found.whole.iter().filter(|c| c.wider == (sign == '+')).map(|c| c.what.as_str()).collect();
        if examples.is_empty() && changes.is_empty() {
            continue;
        }
        out.push_str(&format!("{when}{what}, for example\n"));
        for change in changes {
            out.push_str(&format!("{}{sign}{} {}\n", paint(code), paint("\x1b[0m"), printable(change)));
        }
        for example in examples {
            let (start, end) = (paint(code), paint("\x1b[0m"));
            out.push_str(&format!(
                "{start}{sign}{end} {}{}\n",
                printable(&example.request),
                programs(example)
            ));
            out.push_str(&format!("    old  {}\n    new  {}\n", example.old, example.new));
        }
        if more > 0 {
            out.push_str(&format!("  and {more} more of these kinds\n"));
        }
        out.push('\n');
    }
    out
}

/// For whom, unless it is for every program.
fn programs(example: &Example) -> String {
    let named: Vec<&str> =
        example.programs.iter().map(String::as_str).filter(|name| *name != "unknown").collect();
    match named.as_slice() {
        [] => "  by programs that could not be told".to_owned(),
        _ if example.every_program => String::new(),
        some => {
            let more = some.len().saturating_sub(MOST_PROGRAMS);
            let shown = some[..some.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("  by {}{more}", printable(&shown))
        }
    }
}
