//! `agent-monitor notices`: what the monitor denied to the agent that asks.
//!
//! Run by an agent or its hooks, so it reads nothing but the socket, and prints what waits since the last time.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::print;
use crate::control::notices;
use crate::settings::DEFAULT_NOTICES;

#[derive(Debug, clap::Args)]
pub struct NoticesArgs {
    /// Print nothing, or one JSON document as hooks of agents take it, for this event of theirs: `PostToolUse`
    #[arg(long, value_name = "EVENT")]
    pub hook: Option<String>,
    /// The socket
    #[arg(long, value_name = "PATH", env = notices::VARIABLE, default_value = DEFAULT_NOTICES)]
    pub notices: PathBuf,
}

/// # Errors
/// When nobody listens at the socket.
pub fn run(args: &NoticesArgs) -> anyhow::Result<ExitCode> {
    let lines = notices::ask(&args.notices).with_context(|| {
        format!(
            "can't ask at {}: is the daemon running, and has the profile `notices`?",
            args.notices.display()
        )
    })?;
    let text = match &args.hook {
        None => lines,
        Some(event) => hook(event, &lines).map_or_else(String::new, |document| format!("{document}\n")),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The document for a hook; `None`: nothing to say.
fn hook(event: &str, lines: &str) -> Option<Value> {
    let notices: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said: Vec<String> = notices.iter().filter_map(sentence).collect();
    (!said.is_empty()).then(
        || json!({ "hookSpecificOutput": { "hookEventName": event, "additionalContext": said.join("\n") } }),
    )
}

/// A notice in words: what, by which rule, and what the operator says about asking for it.
fn sentence(notice: &Value) -> Option<String> {
    if let Some(lost) = notice.get("lost").and_then(Value::as_u64) {
        return Some(format!("The monitor denied more: {lost} notices were lost."));
    }
    let word = |key: &str| notice.get(key).and_then(Value::as_str);
    let parts = notice.get("denied")?.as_object()?.iter().filter(|(_, value)| !value.is_null());
    let denied: Vec<String> = parts.map(|(key, value)| format!("{key} {value}")).collect();
    let verb = if word("effect") == Some("kill") { "killed" } else { "denied" };
    let mut text = format!("The monitor {verb} ({}): {}", word("type")?, denied.join(", "));
    if let Some(rule) = word("rule") {
        text.push_str(&format!("; rule {rule}"));
    }
    text.push_str(&format!(", reason {}.", word("reason").unwrap_or("unknown")));
    if let Some(request) = word("request") {
        text.push_str(&format!(" To request it: {request}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_gets_one_document_or_nothing() {
        assert_eq!(hook("PostToolUse", ""), None);
        assert_eq!(hook("PostToolUse", "no json\n"), None);
        let line = r#"{"type":"network","effect":"deny","denied":{"address":"192.0.2.1","host":null,"port":443},"rule":"p:network.default","reason":"default-deny","request":"ask in #agents"}"#;
        let document = hook("PostToolUse", &format!("{line}\n{{\"lost\":3}}\n")).unwrap();
        let text = "The monitor denied (network): address \"192.0.2.1\", port 443; rule p:network.default, reason default-deny. To request it: ask in #agents\nThe monitor denied more: 3 notices were lost.";
        let whole =
            json!({"hookSpecificOutput": {"hookEventName": "PostToolUse", "additionalContext": text}});
        assert_eq!(document, whole);
    }
}
