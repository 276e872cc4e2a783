//! `agent-monitor blast-radius`: what could a compromised agent reach under this profile?
//!
//! Exit code 0, with `--diff` 1 where more is in reach than under the old profile.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::profile::BasesArgs;
use super::{colours, print, table};
use crate::exit::Exit;
use crate::policy::blast_radius::{BlastRadius, Group, blast_radius, html, svg};
use crate::policy::diagnostic::printable;

#[derive(Debug, clap::Args)]
pub struct BlastRadiusArgs {
    /// The profile, by file or name
    #[arg(value_name = "PROFILE")]
    pub profile: String,
    /// Say what is in reach now and was not, and the other way round, against this profile
    #[arg(long, value_name = "OLD")]
    pub diff: Option<String>,
    /// Write a picture here, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write a page with the picture and the lists here
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
}

/// Prints what is in reach.
///
/// # Errors
/// A profile that can't be used, a picture that can't be written.
pub fn run(args: &BlastRadiusArgs) -> anyhow::Result<ExitCode> {
    let radius = |profile: &str| -> anyhow::Result<BlastRadius> {
        Ok(blast_radius(&args.bases.judge(profile, None)?)?)
    };
    let new = radius(&args.profile)?;
    let old = args.diff.as_deref().map(radius).transpose()?;
    for (file, text) in [(&args.svg, svg as fn(&BlastRadius) -> String), (&args.html, html)] {
        if let Some(file) = file {
            std::fs::write(file, text(&new)).with_context(|| format!("can't write {}", file.display()))?;
        }
    }
    let changes = old.as_ref().map(|old| Changes::between(old, &new));
    let text = if args.json {
        let report = Report { radius: &new, changes: changes.as_ref() };
        format!("{}\n", serde_json::to_string_pretty(&report).context("JSON")?)
    } else {
        text(&new, old.as_ref(), changes.as_ref(), colours(&std::io::stdout()))
    };
    print(&text)?;
    let more = changes.is_some_and(|changes| !changes.in_reach_now.is_empty());
    Ok(if more { Exit::Failure.into() } else { ExitCode::SUCCESS })
}

#[derive(Serialize)]
struct Report<'r> {
    #[serde(flatten)]
    radius: &'r BlastRadius,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<&'r Changes>,
}

#[derive(Debug, Serialize)]
struct Changes {
    in_reach_now: Vec<String>,
    out_of_reach_now: Vec<String>,
}

impl Changes {
    fn between(old: &BlastRadius, new: &BlastRadius) -> Self {
        let reached = |radius: &BlastRadius| -> Vec<String> {
            let of_groups = radius.groups.iter().flat_map(|group| {
                group.in_reach.iter().map(|one| {
                    let by = if one.programs.is_empty() {
                        String::new()
                    } else {
                        format!(", by {}", one.programs.join(", "))
                    };
                    format!("{}{by}", one.name)
                })
            });
            let names = radius.network.names.iter().map(|name| format!("the name {name}"));
            let zones = radius.network.zones.iter().skip(1).filter(|z| z.tcp.addresses + z.udp.addresses > 0);
            of_groups.chain(names).chain(zones.map(|zone| format!("addresses in {}", zone.name))).collect()
        };
        let (before, now) = (reached(old), reached(new));
        let without = |some: &[String], others: &[String]| -> Vec<String> {
            some.iter().filter(|one| !others.contains(one)).cloned().collect()
        };
        Changes { in_reach_now: without(&now, &before), out_of_reach_now: without(&before, &now) }
    }
}

fn text(radius: &BlastRadius, old: Option<&BlastRadius>, changes: Option<&Changes>, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let (red, green, plain) = (paint("\x1b[31m"), paint("\x1b[32m"), paint("\x1b[0m"));
    let before = old.map(|old| format!(" ({} under `{}`)", old.score, old.profile)).unwrap_or_default();
    let mut out = format!("blast radius of `{}`: {} of 100{before}\n", radius.profile, radius.score);
    if !radius.enforced() {
        out.push_str(&format!(
            "  in mode {} nothing is denied: this is what enforcing it would leave\n",
            radius.mode
        ));
    }
    for group in &radius.groups {
        out.push_str(&describe(group, red, plain));
    }
    out.push_str(&format!(
        "\nwhere it can connect to: {:.0} of {} points\n",
        radius.network.share() * f64::from(radius.network.worth),
        radius.network.worth
    ));
    let rows =
        radius.network.zones.iter().filter(|zone| zone.tcp.addresses + zone.udp.addresses > 0).map(|zone| {
            vec![
                zone.name.to_owned(),
                format!("{} addresses, {} destinations by TCP", zone.tcp.addresses, zone.tcp.destinations),
                format!("{} by UDP", zone.udp.destinations),
            ]
        });
    out.push_str(&table::render(&rows.collect::<Vec<_>>()));
    if !radius.network.names.is_empty() {
        out.push_str(&format!("  names  {}\n", printable(&radius.network.names.join(", "))));
    }
    if !radius.network.ipv6.is_empty() {
        out.push_str(&format!("  IPv6   {}\n", radius.network.ipv6.join(", ")));
    }
    let tedious: Vec<_> = radius.limits.iter().filter(|limit| limit.way_round.is_some()).collect();
    let hard = radius.limits.len() - tedious.len();
    out.push_str(&format!(
        "\n{hard} rules are limits that nothing goes round, {} only cost effort\n",
        tedious.len()
    ));
    for limit in tedious {
        let way = limit.way_round.as_deref().unwrap_or_default();
        out.push_str(&format!("  {} ({}): {}\n", limit.rule, limit.source, printable(way)));
    }
    if !radius.techniques.is_empty() {
        out.push_str(&format!("\nATT&CK techniques left open: {}\n", radius.techniques.join(", ")));
    }
    if let Some(changes) = changes {
        out.push('\n');
        for what in &changes.in_reach_now {
            out.push_str(&format!("{red}+{plain} {what}\n"));
        }
        for what in &changes.out_of_reach_now {
            out.push_str(&format!("{green}-{plain} {what}\n"));
        }
        if changes.in_reach_now.is_empty() && changes.out_of_reach_now.is_empty() {
            out.push_str("the same is in reach\n");
        }
    }
    out
}

fn describe(group: &Group, red: &str, plain: &str) -> String {
    let all = group.in_reach.len() + group.out_of_reach.len();
    let points = group.share() * f64::from(group.worth);
    let mut out = format!(
        "\n{}: {} of {all}, {points:.0} of {} points\n",
        group.name,
        group.in_reach.len(),
        group.worth
    );
    let rows = group.in_reach.iter().map(|one| {
        let by =
            if one.programs.is_empty() { String::new() } else { format!("by {}", one.programs.join(", ")) };
        vec![one.name.to_owned(), printable(&one.request), one.technique.to_owned(), printable(&by)]
    });
    for line in table::render(&rows.collect::<Vec<_>>()).lines() {
        out.push_str(&format!("{red}!{plain}{line}\n"));
    }
    if !group.out_of_reach.is_empty() {
        out.push_str(&format!("  out of reach: {}\n", group.out_of_reach.join(", ")));
    }
    out
}
