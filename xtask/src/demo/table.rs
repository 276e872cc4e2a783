//! The table: what was tried, what the profile says, what happened, which mechanism decided.

use serde_json::Value;

use super::Attempted;
use super::files;
use super::stage::{ATTACKER, METADATA, METADATA_NAT64, MODEL, TUNNEL};

/// What the demo claims of an attempt.
struct Claim {
    key: &'static str,
    /// For people.
    attempt: &'static str,
    /// What the governed agent must see: 0, an errno, or 128 + signal.
    governed: i32,
    /// The event that must explain it.
    event: Seen,
    /// What judges it where the kernel can't, and what the agent then sees.
    stand_in: Option<StandIn>,
}

/// Landlock and seccomp tell nobody of what they refuse: the agent's errno, and that the same works without them, is
/// all there is to see.
struct StandIn {
    mechanism: &'static str,
    governed: i32,
    /// Of the profile, where the rule that it enforces is written: the line that holds this.
    written: Option<&'static str>,
}

/// How to find an attempt's event.
enum Seen {
    Network {
        address: &'static str,
        port: u16,
        protocol: &'static str,
        mechanism: &'static str,
    },
    /// A question about a name.
    Lookup(&'static str),
    Socket(&'static str),
    Capability(&'static str),
    Syscall(&'static str),
    /// A use of a file, by the end of its path; of what is granted the first use is told.
    File(&'static str),
}

const fn network(address: &'static str, port: u16, protocol: &'static str, mechanism: &'static str) -> Seen {
    Seen::Network { address, port, protocol, mechanism }
}

/// A claim about a file. `written`: the line of the profile that grants or denies it, or the section that does not.
const fn file(
    key: &'static str,
    attempt: &'static str,
    name: &'static str,
    governed: i32,
    written: &'static str,
) -> Claim {
    let stand_in = StandIn { mechanism: "landlock", governed, written: Some(written) };
    Claim { key, attempt, governed, event: Seen::File(name), stand_in: Some(stand_in) }
}

const CLAIMS: &[Claim] = &[
    file("read-project", "read a file of its project", files::GRANTED, 0, "/project"),
    file("read-key", "steal the SSH key, ~/.ssh/id_ed25519", files::KEY, libc::EACCES, "/.ssh/**"),
    file("write-startup", "plant a line in ~/.bashrc", files::STARTUP, libc::EACCES, "files:"),
    file("run-dropped", "run a program that it dropped", files::DROPPED, libc::EACCES, "exec:"),
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
    claim("dns-tunnel", "… in DNS queries, UDP 53", libc::ENOENT, Seen::Lookup(TUNNEL)),
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
    Claim {
        key: "raw-socket",
        attempt: "make a raw socket",
        governed: libc::EPERM,
        event: Seen::Capability("net_raw"),
        stand_in: Some(StandIn { mechanism: "capabilities", governed: libc::EPERM, written: None }),
    },
    Claim {
        key: "packet-socket",
        attempt: "make a packet socket",
        governed: libc::EAFNOSUPPORT,
        event: Seen::Socket("packet"),
        stand_in: Some(StandIn { mechanism: "seccomp", governed: libc::EAFNOSUPPORT, written: None }),
    },
    Claim {
        key: "kernel-module",
        attempt: "unload a kernel module",
        governed: 128 + libc::SIGKILL,
        event: Seen::Syscall("delete_module"),
        // The call is stopped before it begins.
        stand_in: Some(StandIn { mechanism: "seccomp", governed: 128 + libc::SIGSYS, written: None }),
    },
];

const UNREACHABLE: i32 = libc::ENETUNREACH;

const fn claim(key: &'static str, attempt: &'static str, governed: i32, event: Seen) -> Claim {
    Claim { key, attempt, governed, event, stand_in: None }
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

/// What was observed.
pub struct Observed<'a> {
    pub free: &'a [Attempted],
    pub governed: &'a [Attempted],
    pub events: &'a [Value],
    /// Landlock and seccomp held the agent.
    pub stand_ins: bool,
    /// The text of the profile.
    pub profile: &'a str,
}

/// Holds claims against what was observed.
pub fn rows(observed: &Observed) -> Vec<Row> {
    CLAIMS.iter().map(|claim| row(claim, observed)).collect()
}

fn row(claim: &Claim, observed: &Observed) -> Row {
    let result = |of: &[Attempted]| of.iter().find(|a| a.key == claim.key).map(|a| a.result);
    let (free, seen) = (result(observed.free), result(observed.governed));
    let events = observed.events;
    let granted = claim.governed == 0;
    // What the profile says where there is no event to say it.
    let written = |stand_in: &StandIn| {
        let verb = match stand_in.written {
            Some(_) if granted => "granted",
            Some(line) if line.starts_with('/') => "denied",
            Some(_) => "not granted",
            None if matches!(claim.event, Seen::Syscall(_)) => "kill",
            None => "not granted",
        };
        match stand_in.written.and_then(|begins| files::line(observed.profile, begins)) {
            Some(line) => format!("{verb}, {}.yaml:{line}", files::PROFILE),
            None => verb.to_owned(),
        }
    };
    if let Some(stand_in) = &claim.stand_in
        && observed.stand_ins
    {
        return Row {
            attempt: claim.attempt,
            says: written(stand_in),
            free: text(free),
            governed: text(seen),
            decided: stand_in.mechanism.to_owned(),
            as_claimed: free == Some(0) && seen == Some(stand_in.governed),
        };
    }
    let event = events.iter().find(|e| matches(&claim.event, e));
    let verdict = event.map(|e| &e["verdict"]);
    let word = |key: &str| verdict.and_then(|v| v[key].as_str()).unwrap_or("–").to_owned();
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
        Seen::Lookup(name) => event["lookup"]["name"] == *name,
        Seen::Socket(kind) => event["socket"]["kind"] == *kind,
        Seen::Capability(name) => {
            event["privilege"]["kind"] == "capability" && event["privilege"]["name"] == *name
        }
        Seen::Syscall(name) => event["syscall"]["name"] == *name,
        Seen::File(name) => event["file"]["path"].as_str().is_some_and(|path| path.ends_with(name)),
    }
}

/// A result in words.
fn text(result: Option<i32>) -> String {
    match result {
        None => "not tried".to_owned(),
        Some(0) => "works".to_owned(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".to_owned(),
        Some(libc::EACCES) => "EACCES".to_owned(),
        // Only the name server's answer is told so.
        Some(libc::ENOENT) => "NXDOMAIN".to_owned(),
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::ETIMEDOUT) => "ETIMEDOUT".to_owned(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT".to_owned(),
        Some(libc::EPROTONOSUPPORT) => "EPROTONOSUPPORT".to_owned(),
        Some(n) if n == 128 + libc::SIGKILL || n == 128 + libc::SIGSYS => "killed".to_owned(),
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
        println!(
            "This kernel refuses BPF LSM programs, or does not call them. Landlock and seccomp hold a command that"
        );
        println!(
            "`run` starts, as far as they go, and tell of no denial; claimed and attached agents go unheld. Missing:"
        );
        for (name, blind) in missing {
            println!("  {name:<24} {blind}");
        }
    }
}
