//! The commands without a daemon, and the daemon that must not come up: exit codes and words.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::daemon::{Daemon, PROFILE, binary};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("usage_errors_exit_64", usage),
        trial("a_daemon_with_a_bad_profile_exits_65_and_leaves_nothing", bad_profile),
        trial("L14_a_kernel_that_cannot_enforce_is_refused_with_69", cannot_enforce),
        trial("without_a_capability_the_daemon_exits_77_and_names_it", unprivileged),
        trial("doctor_and_its_exit_code_agree", doctor),
        trial("without_a_daemon_the_next_step_is_named", no_daemon),
    ]
}

fn usage() -> Result<()> {
    for words in [&["--nonsense"][..], &["run"], &["events", "--type", "nonsense"], &[]] {
        let output = Command::new(binary()?).args(words).output()?;
        ensure!(output.status.code() == Some(64), "{words:?}: {output:?}");
    }
    for words in
        [&["--help"][..], &["--version"], &["completions", "bash"], &["schema"], &["schema", "--events"]]
    {
        let output = Command::new(binary()?).args(words).output()?;
        ensure!(output.status.success() && !output.stdout.is_empty(), "{words:?}: {output:?}");
    }
    Ok(())
}

fn bad_profile() -> Result<()> {
    let daemon = Daemon::prepare(&PROFILE.replace("127.0.0.7", "127.0.0.777"))?;
    let output = daemon.command(&[])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(65), "{output:?}");
    ensure!(said.contains("tester.yaml:8") && said.contains("127.0.0.777"), "{said}");
    ensure!(!daemon.path("control.sock").exists() && !daemon.path("events.jsonl").exists());
    Ok(())
}

fn cannot_enforce() -> Result<()> {
    let report = Command::new(binary()?).args(["doctor", "--json"]).output()?;
    let found: serde_json::Value = serde_json::from_slice(&report.stdout)?;
    let blind = found["mechanisms"].as_array().is_some_and(|all| all.iter().any(|one| one["works"] == false));
    let daemon = Daemon::prepare(PROFILE)?;
    let socket = daemon.path("control.sock");
    let mut command = Command::new(binary()?);
    command.args(["daemon", "--no-pins", "--profiles"]).arg(daemon.path("profiles"));
    command.arg("--cgroup").arg(daemon.cgroup.path()).arg("--socket").arg(&socket);
    command.args(["--no-metrics", "--no-events-file"]);
    if !blind {
        // This kernel does all of it: the daemon comes up, and ends when told.
        let mut child = command.spawn()?;
        let up = crate::daemon::wait("the daemon is ready", || Ok(daemon.status().ok()));
        child.kill()?;
        child.wait()?;
        return up.map(drop);
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(69), "{output:?}");
    ensure!(said.contains("--allow-degraded") && said.contains("tester"), "{said}");
    ensure!(!socket.exists(), "the socket of a daemon that did not come up stays behind");
    drop(daemon);
    // The twin: with leave it starts, and posture says what is missing.
    let degraded = Daemon::start(PROFILE)?;
    let gaps = degraded.status()?["profiles"][0]["gaps"].as_array().map_or(0, Vec::len);
    ensure!(gaps > 0);
    ensure!(degraded.metric("agent_monitor_profile_gaps{profile=\"tester\"}")? == Some(gaps as f64));
    Ok(())
}

fn unprivileged() -> Result<()> {
    let daemon = Daemon::prepare(PROFILE)?;
    let program = std::path::Path::new("/tmp").join(format!("agent-monitor-e2e-{}", std::process::id()));
    std::fs::copy(binary()?, &program)?;
    let output = Command::new(&program)
        .args(["daemon", "--no-pins", "--profiles"])
        .arg(daemon.path("profiles"))
        .uid(65534)
        .gid(65534)
        .output();
    std::fs::remove_file(&program)?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(77), "{output:?}");
    ensure!(said.contains("CAP_BPF") && said.contains("root"), "{said}");
    Ok(())
}

fn doctor() -> Result<()> {
    let output = Command::new(binary()?).args(["doctor", "--json"]).output()?;
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let code = if found["enforces_everything"] == true { 0 } else { 69 };
    ensure!(output.status.code() == Some(code), "{output:?}");
    let active = |name: &str| {
        let all = found["mechanisms"].as_array().into_iter().flatten();
        all.filter(|one| one["name"] == name).any(|one| one["works"] == true)
    };
    ensure!(active("cgroup/connect4") && active("cgroup_skb/egress"), "{found}");
    Ok(())
}

fn no_daemon() -> Result<()> {
    let output = Command::new(binary()?).args(["status", "--socket", "/nowhere/control.sock"]).output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("/nowhere/control.sock") && said.contains("agent-monitor daemon"), "{said}");
    Ok(())
}
