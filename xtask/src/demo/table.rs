//! The table: what was tried, what the profile says, what happened, which mechanism decided.

use serde_json::Value;

use super::Attempted;
use super::stage::{ATTACKER, METADATA, METADATA_NAT64, MODEL};

/// What the demo claims of an attempt.
struct Claim {
    key: &'static str,
    /// For people.
    attempt: &'static str,
    /// What the governed agent must see: 0, an errno, or 128 + signal.
    governed: i32,
    /// The event that must explain it.
    event: Seen,
    /// The mechanism without which the attempt can't be stopped on this kernel.
    needs: Option<&'static str>,
}

/// How to find an attempt's event.
enum Seen {
    Network { address: &'static str, port: u16, protocol: &'static str, mechanism: &'static str },
    Socket(&'static str),
    Syscall(&'static str),
}

const fn network(address: &'static str, port: u16, protocol: &'static str, mechanism: &'static str) -> Seen {
    Seen::Network { address, port, protocol, mechanism }
}

const CLAIMS: &[Claim] = &[
    claim("model", "ask the model, 160.79.104.10:443", 0, network(MODEL, 443, "tcp", "cgroup/connect4")),
    claim(
        "metadata",
        "steal cloud credentials, 169.254.169.254",
        UNREACHABLE,
        network(METADATA, 80, "tcp", "cgroup/connect4"),
    ),
    claim(
        "metadata-mapped",
        "… as ::ffff:169.254.169.254",
        UNREACHABLE,
        network(METADATA, 80, "tcp", "cgroup/connect6"),
    ),
    claim(
        "metadata-nat64",
        "… through NAT64, 64:ff9b::a9fe:a9fe",
        UNREACHABLE,
        network(METADATA_NAT64, 80, "tcp", "cgroup/connect6"),
    ),
    claim(
        "exfiltrate",
        "send secrets to 203.0.113.10:443",
        UNREACHABLE,
        network(ATTACKER, 443, "tcp", "cgroup/connect4"),
    ),
    claim(
        "exfiltrate-daemon",
        "… from a daemonised grandchild",
        UNREACHABLE,
        network(ATTACKER, 443, "tcp", "cgroup/connect4"),
    ),
    claim(
        "fast-open",
        "… as TCP Fast Open data",
        UNREACHABLE,
        network(ATTACKER, 443, "tcp", "cgroup/connect4"),
    ),
    claim(
        "dns-tunnel",
        "… in DNS queries, UDP 53",
        UNREACHABLE,
        network(ATTACKER, 53, "udp", "cgroup/sendmsg4"),
    ),
    claim(
        "quic",
        "QUIC to the model (TCP is granted)",
        UNREACHABLE,
        network(MODEL, 443, "udp", "cgroup/sendmsg4"),
    ),
    claim(
        "backdoor",
        "open a backdoor on port 4444",
        libc::EACCES,
        network("0.0.0.0", 4444, "tcp", "cgroup/bind4"),
    ),
    claim(
        "dev-server",
        "start a dev server on 127.0.0.1:3000",
        0,
        network("127.0.0.1", 3000, "tcp", "cgroup/bind4"),
    ),
    claim("raw-socket", "make a raw socket", libc::EPROTONOSUPPORT, Seen::Socket("raw")),
    Claim {
        key: "packet-socket",
        attempt: "make a packet socket",
        governed: libc::EAFNOSUPPORT,
        event: Seen::Socket("packet"),
        needs: Some("lsm/socket_create"),
    },
    claim("kernel-module", "unload a kernel module", 128 + libc::SIGKILL, Seen::Syscall("delete_module")),
];

const UNREACHABLE: i32 = libc::ENETUNREACH;

const fn claim(key: &'static str, attempt: &'static str, governed: i32, event: Seen) -> Claim {
    Claim { key, attempt, governed, event, needs: None }
}

/// One line.
pub struct Row {
    attempt: &'static str,
    says: String,
    free: String,
    governed: String,
    decided: String,
    pub as_claimed: bool,
}

/// Holds claims against what was observed. `active`: mechanisms that work on this kernel.
pub fn rows(free: &[Attempted], governed: &[Attempted], events: &[Value], active: &[String]) -> Vec<Row> {
    CLAIMS.iter().map(|claim| row(claim, free, governed, events, active)).collect()
}

fn row(
    claim: &Claim,
    free: &[Attempted],
    governed: &[Attempted],
    events: &[Value],
    active: &[String],
) -> Row {
    let result = |of: &[Attempted]| of.iter().find(|a| a.key == claim.key).map(|a| a.result);
    let (free, seen) = (result(free), result(governed));
    let enforceable = claim.needs.is_none_or(|m| active.iter().any(|a| a == m));
    if !enforceable {
        return Row {
            attempt: claim.attempt,
            says: "not granted".to_owned(),
            free: text(free),
            governed: text(seen),
            decided: format!("nothing: needs {}", claim.needs.unwrap_or_default()),
            // Claimed is that this kernel can't stop it: then it must really work.
            as_claimed: free == Some(0) && seen == Some(0),
        };
    }
    let event = events.iter().find(|e| matches(&claim.event, e));
    let verdict = event.map(|e| &e["verdict"]);
    let word = |key: &str| verdict.and_then(|v| v[key].as_str()).unwrap_or("–").to_owned();
    let granted = claim.governed == 0;
    let says = match word("source") {
        source if source == "–" => source,
        source => {
            let verb = match claim.event {
                Seen::Syscall(_) => "kill",
                _ if granted => "granted",
                _ if word("reason") == "rule" => "denied",
                _ => "not granted",
            };
            format!("{verb}, {}", source.rsplit('/').next().unwrap_or_default())
        }
    };
    let effect = match claim.event {
        Seen::Syscall(_) => "kill",
        _ if granted => "allow",
        _ => "deny",
    };
    Row {
        attempt: claim.attempt,
        says,
        free: text(free),
        governed: text(seen),
        decided: word("mechanism"),
        as_claimed: free == Some(0) && seen == Some(claim.governed) && word("effect") == effect,
    }
}

fn matches(seen: &Seen, event: &Value) -> bool {
    match seen {
        Seen::Network { address, port, protocol, mechanism } => {
            let n = &event["network"];
            n["address"] == *address
                && n["port"] == *port
                && n["protocol"] == *protocol
                && event["verdict"]["mechanism"] == *mechanism
        }
        Seen::Socket(kind) => event["socket"]["kind"] == *kind,
        Seen::Syscall(name) => event["syscall"]["name"] == *name,
    }
}

/// A result in words.
fn text(result: Option<i32>) -> String {
    match result {
        None => "not tried".to_owned(),
        Some(0) => "works".to_owned(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".to_owned(),
        Some(libc::EACCES) => "EACCES".to_owned(),
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::ETIMEDOUT) => "ETIMEDOUT".to_owned(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT".to_owned(),
        Some(libc::EPROTONOSUPPORT) => "EPROTONOSUPPORT".to_owned(),
        Some(n) if n == 128 + libc::SIGKILL => "killed".to_owned(),
        Some(n) => format!("errno {n}"),
    }
}

/// Prints the table, and what this kernel can't enforce.
pub fn print(rows: &[Row], missing: &[(String, String)]) {
    println!();
    let line = |mark: &str, a: &str, s: &str, f: &str, g: &str, d: &str| {
        println!("{mark} {a:<41} {s:<37} {f:<9} {g:<16} {d}");
    };
    line(
        " ",
        "the compromised agent tries to",
        "the profile says",
        "without",
        "under the monitor",
        "decided by",
    );
    for r in rows {
        line(if r.as_claimed { " " } else { "!" }, r.attempt, &r.says, &r.free, &r.governed, &r.decided);
    }
    if !missing.is_empty() {
        println!();
        println!("This kernel refuses BPF LSM programs, or does not call them. Not enforced here:");
        for (name, blind) in missing {
            println!("  {name:<24} {blind}");
        }
    }
}
