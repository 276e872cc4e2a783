//! `/metrics` before a real Prometheus and its checker.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::daemon::{Daemon, PROFILE, on_path, wait};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    // A guest has no Prometheus; `cargo xtask test` brings one to the host.
    let guest = std::env::var_os("AGENT_MONITOR_VM").is_some();
    vec![
        trial("promtool_finds_nothing_to_complain_about", promtool).with_ignored_flag(guest),
        trial("a_real_prometheus_scrapes_the_denials", prometheus).with_ignored_flag(guest),
        trial("L16_no_series_carries_a_word_that_an_agent_chose", bounded),
    ]
}

fn program(name: &str) -> Result<std::path::PathBuf> {
    on_path(name).with_context(|| format!("`{name}` is not on PATH: run `cargo xtask test`"))
}

fn promtool() -> Result<()> {
    let daemon = Daemon::start_with(PROFILE, &["--program-stats"])?;
    daemon.agent(&["connect", "127.0.0.7:18080"])?;
    let text = daemon.page("/metrics")?;
    ensure!(text.contains("agent_monitor_program_runs_total{"), "{text}");
    let mut child = Command::new(program("promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

/// A server that is killed with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn prometheus() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    daemon.agent(&["connect", "127.0.0.7:18080"])?;
    let config = daemon.path("prometheus.yml");
    fs::write(
        &config,
        "global: { scrape_interval: 1s }\nscrape_configs:\n  - job_name: agent-monitor\n    static_configs: [{ targets: ['127.0.0.1:9761'] }]\n",
    )?;
    let log = fs::File::create(daemon.path("prometheus.log"))?;
    let _server = Killed(
        Command::new(program("prometheus")?)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", daemon.path("tsdb").display()))
            .arg("--web.listen-address=127.0.0.1:9090")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?,
    );
    let query = |text: &str| -> Result<Option<Value>> {
        let query = ["query", "instant", "-o", "json", "http://127.0.0.1:9090", text];
        let output = Command::new(program("promtool")?).args(query).output()?;
        // Until the server listens there is no answer, and until it scraped an empty one.
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        Ok(answer.filter(|answer| answer.as_array().is_some_and(|all| !all.is_empty())))
    };
    wait("Prometheus has the denial", || {
        let answer =
            query("agent_monitor_decisions_total{domain='network_out',effect='deny',mode='enforce'}")?;
        Ok(answer.filter(|answer| answer[0]["value"][1] == "1"))
    })?;
    let up = query("up{job='agent-monitor'}")?;
    ensure!(up.as_ref().is_some_and(|up| up[0]["value"][1] == "1"), "{up:?}");
    Ok(())
}

fn bounded() -> Result<()> {
    let daemon = Daemon::start(PROFILE)?;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    daemon.agent(&["connect", "127.0.0.7:18080"])?;
    let gone = || {
        wait("every agent is gone", || {
            Ok(daemon.status()?["agents"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })
    };
    gone()?;
    let before = daemon.page("/metrics")?;
    let program = daemon.path("evil{label=\"x\"}");
    fs::copy(std::env::current_exe()?, &program)?;
    for port in 1..20 {
        let address = format!("127.0.0.9:{port}");
        let words = ["exec", program.to_str().context("path")?, crate::agent::ARGUMENT, "connect", &address];
        daemon.agent(&words)?;
    }
    daemon.event("the last denial", |event| event["network"]["port"] == 19)?;
    gone()?;
    let after = daemon.page("/metrics")?;
    ensure!(!after.contains("evil") && !after.contains("127.0.0.9"), "{after}");
    ensure!(series(&after) == series(&before), "{} series became {}", series(&before), series(&after));
    Ok(())
}
