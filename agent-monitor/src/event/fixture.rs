//! Profiles built by hand, for tests of what explains verdicts.

use std::path::Path;
use std::sync::Arc;

use crate::policy::{
    Denied, Mode, NetRule, NetworkPolicy, ProtocolSet, ResolvedProfile, SocketKinds, Source, SyscallRule,
};

/// A profile that denies 10.0.0.0/8, allows 10.1.0.0/16, 192.0.2.0/24 port 443 and NAT64, and watches `ptrace`.
pub(crate) fn profile(name: &str) -> Arc<ResolvedProfile> {
    let file: Arc<Path> = Path::new("/etc/agent-monitor/profiles.d/p.yaml").into();
    let source = |line| Source { file: Arc::clone(&file), line, column: 1 };
    let rule = |id: &str, line, net: &str, ports| NetRule {
        id: format!("{name}:network.{id}"),
        source: source(line),
        nets: vec![net.parse().unwrap()],
        ports: vec![ports],
        protocols: ProtocolSet::ANY,
    };
    let (allow, deny) = (
        vec![
            rule("allow[0]", 5, "10.1.0.0/16", 0..=65535),
            rule("allow[1]", 6, "192.0.2.0/24", 443..=443),
            rule("allow[2]", 6, "64:ff9b::/96", 0..=65535),
        ],
        vec![rule("deny[0]", 7, "10.0.0.0/8", 0..=65535)],
    );
    Arc::new(ResolvedProfile {
        name: name.to_owned(),
        description: None,
        mode: Mode::Enforce,
        file: Arc::clone(&file),
        files: vec![Arc::clone(&file)],
        claims: Vec::new(),
        network: NetworkPolicy {
            denied: Denied::Unreachable,
            allow,
            deny,
            listen: Vec::new(),
            sockets: SocketKinds::NONE,
            source: source(4),
        },
        syscalls: vec![SyscallRule {
            id: format!("{name}:syscalls.watch[0]"),
            source: source(9),
            name: "ptrace".to_owned(),
            nr: 101,
            kill: false,
        }],
    })
}
