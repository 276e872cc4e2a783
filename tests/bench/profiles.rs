//! What the commands cost that a person waits for: `check` and `diff` of profiles with a thousand rules, as whole
//! processes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use agent_monitor::policy::compile::{sample, sample_names, sample_paths};
use agent_monitor::policy::{NetRule, PathRule, ResolvedProfile};
use anyhow::{Context, Result, ensure};

use crate::daemon::product;
use crate::report::{Report, median};

const ROUNDS: usize = 9;
const SEED: u64 = 7;

pub fn run(report: &mut Report) -> Result<()> {
    let Some(binary) = product("profiles") else { return Ok(()) };
    eprintln!("profiles, {ROUNDS} rounds");
    let directory = tempfile::tempdir()?;
    let write = |name: &str, text: String| -> Result<_> {
        let file = directory.path().join(format!("{name}.yaml"));
        std::fs::write(&file, format!("version: 1\nname: {name}\nmode: enforce\n{text}"))?;
        Ok(file)
    };
    let network = sample::network_profile(1_000, SEED);
    let paths = sample_paths::path_profile(1_000, sample_paths::Mix::of(1_000), SEED);
    // As a profile that grew: a third addresses, a third names, a third paths.
    let mixed = |seed| {
        let mut mixed = sample_paths::path_profile(334, sample_paths::Mix::of(334), seed);
        mixed.network = sample::network_profile(333, seed).network;
        mixed.network.allow.extend(sample_names::named_profile(333, seed).network.allow);
        mixed
    };
    let (old, other) = (mixed(SEED), mixed(SEED + 1));
    let mut new = old.clone();
    // One rule in fifty is another.
    for (at, rule) in new.network.allow.iter_mut().enumerate().filter(|(at, _)| at % 50 == 0) {
        if let Some(changed) = other.network.allow.get(at) {
            *rule = changed.clone();
        }
    }
    if let (Some(files), Some(others)) = (&mut new.filesystem, &other.filesystem) {
        for (at, rule) in files.read.iter_mut().enumerate().filter(|(at, _)| at % 50 == 0) {
            if let Some(changed) = others.read.get(at) {
                rule.glob.clone_from(&changed.glob);
            }
        }
    }
    for (what, name, profile, target) in [
        ("check, 1 000 rules: addresses, names, paths", "mixed", &old, Some(50.0)),
        ("check, 1 000 rules about addresses", "network", &network, None),
        ("check, 1 000 globs", "paths", &paths, None),
    ] {
        let file = write(name, yaml(profile))?;
        let ms = timed(&binary, &["check".as_ref(), &file], &[0])?;
        match target {
            Some(target) => report.at_most(what, ms, " ms", target, "whole process, median".to_owned()),
            None => report.info(what, ms, " ms", String::new()),
        }
    }
    let (old, new) = (write("old", yaml(&old))?, write("new", yaml(&new))?);
    let ms = timed(&binary, &["diff".as_ref(), &old, &new], &[0, 1])?;
    report.at_most(
        "diff of two such profiles",
        ms,
        " ms",
        1_000.0,
        "one rule in fifty is another".to_owned(),
    );
    Ok(())
}

/// Milliseconds that a run of the program takes; it must end with one of `codes`.
fn timed(binary: &Path, arguments: &[&Path], codes: &[i32]) -> Result<f64> {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let ended = Command::new(binary)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .context("agent-monitor")?;
        all.push(start.elapsed().as_secs_f64() * 1e3);
        let told = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.code().is_some_and(|code| codes.contains(&code)), "{}: {told}", ended.status);
    }
    Ok(median(&mut all).middle)
}

/// The profile's rules as a person writes them.
fn yaml(profile: &ResolvedProfile) -> String {
    let mut text = String::new();
    let network = &profile.network;
    if !(network.allow.is_empty() && network.deny.is_empty() && network.listen.is_empty()) {
        text.push_str("network:\n");
    }
    for (list, rules) in [("allow", &network.allow), ("deny", &network.deny), ("listen", &network.listen)] {
        nets(&mut text, list, rules);
    }
    if let Some(files) = &profile.filesystem {
        text.push_str("files:\n");
        for (list, rules) in [("read", &files.read), ("write", &files.write), ("deny", &files.deny)] {
            globs(&mut text, list, rules);
        }
    }
    if let Some(exec) = &profile.exec {
        text.push_str("exec:\n");
        for (list, rules) in [("allow", &exec.allow), ("deny", &exec.deny)] {
            globs(&mut text, list, rules);
        }
    }
    text
}

fn nets(text: &mut String, list: &str, rules: &[NetRule]) {
    if rules.is_empty() {
        return;
    }
    let _ = writeln!(text, "  {list}:");
    for rule in rules {
        let to = if rule.hosts.is_empty() {
            let nets: Vec<String> = rule.nets.iter().map(|net| format!("\"{net}\"")).collect();
            let key = if list == "listen" { "address" } else { "cidr" };
            let nets = if list == "listen" {
                rule.nets.iter().map(|net| format!("\"{}\"", net.addr())).collect()
            } else {
                nets
            };
            format!("{key}: [{}]", nets.join(", "))
        } else {
            let hosts: Vec<String> = rule.hosts.iter().map(|host| format!("\"{host}\"")).collect();
            format!("host: [{}]", hosts.join(", "))
        };
        let ports: Vec<String> = rule
            .ports
            .iter()
            .map(|range| format!("{}-{}", (*range.start()).max(1), (*range.end()).max(1)))
            .collect();
        let protocols: Vec<&str> = rule
            .protocols
            .iter()
            .map(|protocol| protocol.as_str())
            .filter(|word| matches!(*word, "tcp" | "udp"))
            .collect();
        let protocols =
            if protocols.is_empty() { "any".to_owned() } else { format!("[{}]", protocols.join(", ")) };
        let _ = writeln!(text, "    - {{ {to}, ports: [{}], protocol: {protocols} }}", ports.join(", "));
    }
}

fn globs(text: &mut String, list: &str, rules: &[PathRule]) {
    if rules.is_empty() {
        return;
    }
    let _ = writeln!(text, "  {list}:");
    for rule in rules {
        let _ = writeln!(text, "    - '{}'", rule.glob);
    }
}
