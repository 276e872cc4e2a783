//! `agent-monitor status`: the daemon, its profiles, its agents.

use std::process::ExitCode;

use super::{SocketArgs, print, table};
use crate::control::client::ask;
use crate::control::protocol::{Op, Status};

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
///
/// # Errors
/// When the daemon does not answer.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status: Status = ask(&args.socket.socket, Op::Status).map_err(|error| error.into_exit())?;
    let text = if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { describe(&status) };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let mut text = format!(
        "agent-monitor {}, process {}, up {}, governs {}\n",
        status.version,
        status.pid,
        duration(status.uptime_seconds),
        status.cgroup
    );
    for (what, place) in [("events in", &status.events_file), ("metrics on", &status.metrics)] {
        if let Some(place) = place {
            text.push_str(&format!("{what} {place}\n"));
        }
    }
    if let Some(names) = &status.names {
        text.push_str(&format!("{}\n", names.describe()));
        text.extend(names.next.iter().map(|next| format!("  next: {next}\n")));
    }
    profiles(status, &mut text);
    agents(status, &mut text);
    posture(status, &mut text);
    losses(status, &mut text);
    text
}

fn profiles(status: &Status, text: &mut String) {
    text.push_str("\nProfiles\n");
    if status.profiles.is_empty() {
        text.push_str("  none is in force\n");
    }
    let rows: Vec<_> = status
        .profiles
        .iter()
        .map(|profile| {
            vec![
                profile.name.clone(),
                profile.mode.clone(),
                format!("generation {}", profile.generation),
                format!("{} agents", profile.agents),
                profile.files.first().cloned().unwrap_or_default(),
            ]
        })
        .collect();
    text.push_str(&table::render(&rows));
    for profile in &status.profiles {
        if let Some(end) = &profile.lease_ends {
            text.push_str(&format!("  {}: a lease ends at {end}\n", profile.name));
        }
        if let Some(why) = &profile.refused {
            text.push_str(&format!("  {}: its newest file is NOT in force:\n", profile.name));
            text.extend(why.lines().map(|line| format!("    {line}\n")));
        }
        for gap in &profile.gaps {
            text.push_str(&format!(
                "  {}: degraded, no {}; blind: {} ({})\n",
                profile.name, gap.mechanism, gap.blind, gap.why
            ));
        }
    }
}

fn agents(status: &Status, text: &mut String) {
    text.push_str("\nAgents\n");
    if status.agents.is_empty() {
        text.push_str("  none lives\n");
    }
    let rows: Vec<_> = status
        .agents
        .iter()
        .map(|agent| {
            vec![
                agent.id.clone(),
                agent.profile.clone(),
                format!("process {} ({})", agent.root, agent.origin),
                format!("{} alive", agent.processes),
                format!("{} denied", agent.denied),
                if agent.killed > 0 { format!("{} killed", agent.killed) } else { String::new() },
                format!("{} allowed", agent.allowed),
                if agent.lost > 0 { format!("{} records LOST", agent.lost) } else { String::new() },
                if agent.confined { "landlock, seccomp".to_owned() } else { String::new() },
            ]
        })
        .collect();
    text.push_str(&table::render(&rows));
}

fn posture(status: &Status, text: &mut String) {
    text.push_str("\nMechanisms\n");
    let rows: Vec<_> = status
        .posture
        .iter()
        .map(|mechanism| {
            let why = match &mechanism.why {
                Some(why) => format!("blind: {} ({why})", mechanism.blind),
                None => String::new(),
            };
            vec![mechanism.name.clone(), mechanism.state.clone(), why]
        })
        .collect();
    text.push_str(&table::render(&rows));
}

fn losses(status: &Status, text: &mut String) {
    let losses = &status.losses;
    if !losses.none() {
        text.push_str(&format!(
            "\nLOST events: {} verdicts and {} activity records in the kernel, {} undecodable, {} by the file, {} by followers, {} of the daemon's own\n",
            losses.ring_verdicts,
            losses.ring_activity,
            losses.undecodable,
            losses.file,
            losses.followers,
            losses.own
        ));
    }
    if !status.helper_failures.is_empty() {
        let failures: Vec<_> =
            status.helper_failures.iter().map(|(site, total)| format!("{site} {total}")).collect();
        text.push_str(&format!("\nFailures inside the kernel programs: {}\n", failures.join(", ")));
    }
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        assert_eq!(duration(7), "7 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(7_260), "2 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }
}
