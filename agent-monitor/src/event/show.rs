//! An event as one line for a person.
//!
//! Called by `cli::events`. The event's texts were escaped when it was made, so a line holds no control character but
//! the colours that are added here.

use std::fmt::Write;

use super::model::{Event, EventType, Process, Verdict, VerdictEffect};

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// `17:09:13.123 DENY coding-agent curl[812] connect tcp 10.0.0.5:22 ENETUNREACH …`, without a newline.
#[must_use]
pub fn line(event: &Event<'_>, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let (word, code) = headline(event);
    let time = event.time.to_string();
    let clock = time.get(11..23).unwrap_or(&time);
    let mut out = format!("{}{clock}{} {}{word:<11}{}", paint(DIM), paint(PLAIN), paint(code), paint(PLAIN));
    if let Some(agent) = &event.agent {
        let _ = write!(out, " {}", agent.profile);
    }
    if let Some(process) = &event.process {
        let _ = write!(out, " {}[{}]", name(process), process.pid);
    }
    if !event.program.is_empty() {
        let _ = write!(out, " ({})", event.program.join("+"));
    }
    details(event, &mut out);
    if let Some(verdict) = &event.verdict {
        verdict_tail(verdict, &mut out, paint(DIM), paint(PLAIN));
    }
    out
}

fn headline(event: &Event<'_>) -> (&'static str, &'static str) {
    match (event.kind, event.verdict.as_ref().map(|verdict| verdict.effect)) {
        (_, Some(VerdictEffect::Deny)) => ("DENY", RED),
        (_, Some(VerdictEffect::WouldDeny)) => ("WOULD-DENY", YELLOW),
        (_, Some(VerdictEffect::Kill)) => ("KILL", RED),
        (_, Some(VerdictEffect::WouldKill)) => ("WOULD-KILL", YELLOW),
        (EventType::Syscall, _) => ("SYSCALL", YELLOW),
        (_, Some(VerdictEffect::Allow)) => ("ALLOW", GREEN),
        (EventType::Loss, None) => ("LOSS", RED),
        (kind, None) => (kind.as_str(), DIM),
    }
}

/// What people call a process: the last part of its executable's path.
fn name<'a>(process: &'a Process<'_>) -> &'a str {
    let exe = process.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
    exe.or(process.comm.as_deref()).unwrap_or("?")
}

fn details(event: &Event<'_>, out: &mut String) {
    // Writing to a String can't fail.
    if let Some(network) = &event.network {
        let verb = if network.direction == "listen" { "listen" } else { "connect" };
        let _ = write!(out, " {verb} {}", network.protocol);
        let _ = match network.address {
            Some(address) => write!(out, " {}", std::net::SocketAddr::new(address, network.port)),
            None => write!(out, " port {}", network.port),
        };
        if let Some(host) = &network.host {
            let _ = write!(out, " ({host})");
        }
        if let Some(hello) = &network.hello {
            let _ = match &network.sni {
                Some(name) => write!(out, " as {name}"),
                None => write!(out, " hello {hello}"),
            };
        }
    }
    if let Some(lookup) = &event.lookup {
        let _ = write!(out, " look up {} {}", lookup.r#type, lookup.name);
        if let (Some(questions), Some(odd)) = (lookup.questions, lookup.odd) {
            let _ = write!(out, ", {questions} questions this minute, {odd} labels like data: a tunnel?");
        }
        if !lookup.refused.is_empty() {
            let addresses: Vec<_> = lookup.refused.iter().map(ToString::to_string).collect();
            let _ = write!(out, " -> {}", addresses.join(", "));
        }
    }
    if let Some(socket) = &event.socket {
        let _ = write!(
            out,
            " socket {} (family {}, type {}, protocol {})",
            socket.kind, socket.family, socket.r#type, socket.protocol
        );
    }
    if let Some(call) = &event.syscall {
        let _ = match &call.name {
            Some(name) => write!(out, " {name}"),
            None => write!(out, " system call {}{}", call.nr, if call.compat { " (32-bit)" } else { "" }),
        };
    }
    if let Some(file) = &event.file {
        let _ = write!(out, " {} {}", file.access.join("+"), file.path.as_deref().unwrap_or("(no path)"));
        if file.truncated {
            out.push_str(" …");
        }
    }
    if let Some(asked) = &event.privilege {
        let _ = write!(out, " {}", asked.kind);
        let _ = match (&asked.name, asked.number) {
            (Some(name), _) => write!(out, " {name}"),
            (None, Some(number)) => write!(out, " {number}"),
            (None, None) => Ok(()),
        };
        if let Some(target) = asked.target {
            let _ = write!(out, " on process {target}");
        }
    }
    let repeats = event.times() - 1;
    if repeats > 0 {
        let _ = write!(out, ", {repeats} times more");
    }
    if event.exec.is_some()
        && let Some(process) = &event.process
    {
        let _ = write!(out, " {}", process.argv.join(" "));
        if process.argv_truncated {
            out.push_str(" …");
        }
    }
    if let Some(fork) = &event.fork {
        let _ = write!(out, " -> {}{}", fork.child, if fork.label_lost { " LABEL LOST" } else { "" });
    }
    if let Some(exit) = &event.exit {
        let _ = match (exit.signal, exit.status) {
            (Some(signal), _) => write!(out, " by signal {signal}"),
            (None, Some(status)) => write!(out, " with {status}"),
            (None, None) => Ok(()),
        };
    }
    if let Some(loss) = &event.loss {
        let _ = write!(out, " {} events lost ({})", loss.lost, loss.stage);
    }
    if let Some(flow) = &event.flow {
        let _ = write!(out, " descriptor {} to port {}: {}", flow.fd, flow.port, flow.result);
    }
    if let Some(change) = &event.profile {
        let _ = write!(out, " {} {}", change.name, change.outcome);
        if let Some(generation) = change.generation {
            let _ = write!(out, ", generation {generation}");
        }
    }
    if matches!(event.kind, EventType::AgentStarted | EventType::AgentEnded)
        && let Some(id) = event.agent.as_ref().and_then(|agent| agent.id)
    {
        let _ = write!(out, " {}", id.0);
    }
}

fn verdict_tail(verdict: &Verdict<'_>, out: &mut String, dim: &str, plain: &str) {
    if let Some(errno) = &verdict.errno {
        let _ = write!(out, " {errno}");
    }
    let _ = write!(out, " {dim}");
    let _ = match (&verdict.rule, &verdict.source) {
        (Some(rule), Some(source)) => write!(out, "{rule} ({source}), "),
        _ => Ok(()),
    };
    let _ = write!(out, "{}, {}{plain}", verdict.reason, verdict.mechanism);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::model::{Agent, Network};
    use jiff::Timestamp;
    use ulid::Ulid;

    #[test]
    fn a_denial_reads_as_one_sentence() {
        let mut event = Event::new(Ulid::from(1_u128), Timestamp::UNIX_EPOCH, EventType::Network);
        event.agent = Some(Agent { id: None, profile: "coding-agent".into(), origin: None });
        event.process = Some(Process { exe: Some("/usr/bin/curl".into()), ..Process::numbered(812) });
        event.network = Some(Network {
            direction: "out".into(),
            address: Some("fd00::5".parse().unwrap()),
            host: None,
            port: 22,
            protocol: "tcp".into(),
            local_port: None,
            hello: None,
            sni: None,
        });
        event.verdict = Some(Verdict {
            effect: VerdictEffect::Deny,
            mode: "enforce".into(),
            errno: Some("ENETUNREACH".into()),
            rule: Some("coding-agent:network.default".into()),
            source: Some("p.yaml:4".into()),
            reason: "default-deny".into(),
            mechanism: "cgroup/connect6".into(),
            generation: 1,
        });
        assert_eq!(
            line(&event, false),
            "00:00:00.000 DENY        coding-agent curl[812] connect tcp [fd00::5]:22 ENETUNREACH \
             coding-agent:network.default (p.yaml:4), default-deny, cgroup/connect6"
        );
        assert!(line(&event, true).contains("\x1b[31mDENY"));
    }

    #[test]
    fn a_denied_privilege_names_what_it_was_aimed_at() {
        let mut event = Event::new(Ulid::from(1_u128), Timestamp::UNIX_EPOCH, EventType::Privilege);
        event.process = Some(Process { comm: Some("sh".into()), ..Process::numbered(812) });
        event.privilege = Some(crate::event::model::Privilege {
            kind: "signal".into(),
            name: Some("SIGKILL".into()),
            number: Some(9),
            target: Some(1),
            repeats: None,
        });
        assert_eq!(line(&event, false), "00:00:00.000 privilege   sh[812] signal SIGKILL on process 1");
        event.privilege.as_mut().unwrap().repeats = Some(7);
        assert!(line(&event, false).ends_with("SIGKILL on process 1, 7 times more"));
    }
}
