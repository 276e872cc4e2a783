//! The smallest change of a profile that would turn a denial into a grant.
//!
//! What must stay true: it grants this request and nothing more than a rule must (one path, one address and port, the
//! one program that asked); where a rule denies, no grant is shown, for none would help. It says how a person changes
//! the profile, and is never shown to an agent.

use std::net::{IpAddr, Ipv4Addr};

use agent_monitor_common::path::Right;
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{Address, Protocol};

use super::{Answer, Destination, Effect, Reason, Request};
use crate::event::escape;
use crate::policy::written::{glob as glob_of, quoted};
use crate::policy::{Source, capabilities, syscalls};

/// How a profile changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These lines, in the profile's own file.
    Add(String),
    /// Something that is there must change, in this way.
    Edit(String),
    /// Nothing that a profile can say.
    Impossible(&'static str),
}

/// The smallest change that grants a denied `request` of the program at `exe`; `None` where it is granted.
#[must_use]
pub fn smallest(request: &Request, exe: Option<&str>, answer: &Answer) -> Option<Change> {
    match (answer.effect, answer.reason) {
        (Effect::Allow, _) => None,
        (_, Reason::DeniedByRule) => Some(narrow(request, exe, answer.rule.as_ref())),
        // Of an address inside another one (NAT64 …) both are judged, and the inner one is denied.
        _ => match answer.others.iter().find(|rule| rule.holds && rule.effect == Effect::Deny) {
            Some(denying) => Some(narrow(request, exe, Some(&(denying.id.clone(), denying.source.clone())))),
            None => Some(add(request, exe)),
        },
    }
}

fn narrow(request: &Request, exe: Option<&str>, rule: Option<&(String, Source)>) -> Change {
    let Some((id, source)) = rule else { return Change::Impossible("no rule of the profile decides it") };
    if id.starts_with(crate::policy::protected::MONITOR) {
        return Change::Impossible("no profile grants what belongs to the monitor");
    }
    if let Request::Syscall(nr) = request {
        let name = syscalls::name(*nr).unwrap_or("the call");
        return Change::Edit(format!("take `{name}` out of `syscalls.kill` at {source}"));
    }
    if id.contains(":exec.pinned") {
        return Change::Edit(format!(
            "a pinned program is never written to; {id} at {source} would have to go"
        ));
    }
    let except = match exe {
        Some(exe) => format!("add `except: {}` to it", quoted(&glob_of(exe))),
        None => "add `except:` with the program that may".to_owned(),
    };
    Change::Edit(format!("narrow {id} at {source}, or {except}"))
}

fn add(request: &Request, exe: Option<&str>) -> Change {
    let condition = exe.map(|exe| format!(", exe: {}", quoted(&glob_of(exe)))).unwrap_or_default();
    let lines = match request {
        Request::Connect { to, port, protocol } => {
            let to = match to {
                Destination::Address(address) => format!("address: {}", addresses(*address)),
                Destination::Host(name) => format!("host: {name}"),
            };
            let Some(protocol) = protocol_key(*protocol) else {
                return Change::Add(format!(
                    "network:\n  allow:\n    - {{ {to}, protocol: any{condition} }}"
                ));
            };
            let port = if protocol.contains("icmp") { String::new() } else { format!(", ports: [{port}]") };
            format!("network:\n  allow:\n    - {{ {to}{port}{protocol}{condition} }}")
        }
        Request::LookUp(name) => {
            format!("network:\n  allow:\n    - {{ host: {name}, ports: [443]{condition} }}")
        }
        Request::Listen { address, port, protocol } => {
            let protocol = protocol_key(*protocol).unwrap_or(", protocol: any");
            let address = quoted(&address.to_string());
            format!(
                "network:\n  listen:\n    - {{ address: {address}, ports: [{port}]{protocol}{condition} }}"
            )
        }
        Request::Path { path, rights, directory: _ } => {
            let Ok(path) = std::str::from_utf8(path) else {
                return Change::Edit(format!(
                    "a path that is no text can't be written in a profile: grant what lies above {}",
                    escape::text(path)
                ));
            };
            let lists = [
                (Right::Read, "files", "read"),
                (Right::Write, "files", "write"),
                (Right::Execute, "exec", "allow"),
                (Right::Connect, "unix", "allow"),
            ];
            let asked = lists.into_iter().filter(|(right, ..)| rights & *right as u32 != 0);
            let glob = quoted(&glob_of(path));
            let item = match exe {
                Some(_) => format!("{{ path: {glob}{condition} }}"),
                None => glob,
            };
            let mut text = String::new();
            let mut before = "";
            for (_, section, list) in asked {
                if section != before {
                    text.push_str(&format!("{}{section}:\n", if text.is_empty() { "" } else { "\n" }));
                } else {
                    text.push('\n');
                }
                before = section;
                text.push_str(&format!("  {list}:\n    - {item}"));
            }
            text
        }
        Request::Socket(kind) => format!("network:\n  sockets: [{}]", kind.name()),
        Request::Capability(number) => match capabilities::name(*number) {
            Some(name) => format!("privileges:\n  capabilities: [{name}]"),
            None => "privileges:\n  capabilities: [any]".to_owned(),
        },
        Request::Privilege { privilege, own } => {
            let (key, value) = match privilege {
                Privilege::Capability => ("capabilities", "[any]"),
                Privilege::Setuid => ("setuid", "true"),
                Privilege::UserNamespace => ("user_namespaces", "true"),
                Privilege::Ptrace => ("ptrace", if *own { "own" } else { "any" }),
                Privilege::Signal => ("signals", if *own { "own" } else { "any" }),
                Privilege::Mount => ("mounts", "true"),
                Privilege::Module => ("modules", "true"),
                Privilege::Bpf => ("bpf", "true"),
                Privilege::Perf => ("perf", "true"),
                Privilege::IoUring => ("io_uring", "true"),
            };
            format!("privileges:\n  {key}: {value}")
        }
        Request::Syscall(_) => {
            return Change::Impossible("system calls are killed or watched, and need no grant");
        }
    };
    Change::Add(lines)
}

/// A destination, and the IPv4 address that it carries: both must be granted.
fn addresses(address: IpAddr) -> String {
    let outer = quoted(&address.to_string());
    let inner = match address {
        IpAddr::V6(v6) => Address::from_bytes(v6.octets()).embedded_v4(),
        IpAddr::V4(_) => None,
    };
    match inner {
        Some(be) => format!("[{outer}, {}]", quoted(&Ipv4Addr::from_bits(u32::from_be(be)).to_string())),
        None => outer,
    }
}

/// What a rule says of a protocol beside its port; `None`: it can't be named.
fn protocol_key(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => Some(""),
        Protocol::Udp => Some(", protocol: udp"),
        Protocol::Icmp => Some(", protocol: icmp"),
        Protocol::Other => None,
    }
}
