//! Profiles and events built by hand, for tests of what explains verdicts and of what leaves.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use super::model::{
    Agent, Event, EventType, Exec, Exit, File, Flow, Fork, Id, Lookup, Loss, Network, Privilege, Process,
    ProfileChange, Socket, Syscall, Verdict, VerdictEffect,
};
use crate::policy::{
    Condition, Denied, Mode, NetRule, NetworkPolicy, Programs, ProtocolSet, ResolvedProfile, SocketKinds,
    Source, SyscallRule,
};

/// A profile that denies 10.0.0.0/8, allows 10.1.0.0/16, 192.0.2.0/24 port 443 and NAT64, and watches `ptrace`.
pub(crate) fn profile(name: &str) -> Arc<ResolvedProfile> {
    let file: Arc<Path> = Path::new("/etc/agent-monitor/profiles.d/p.yaml").into();
    let source = |line| Source { file: Arc::clone(&file), line, column: 1 };
    let rule = |id: &str, line, net: &str, ports| NetRule {
        id: format!("{name}:network.{id}"),
        source: source(line),
        nets: vec![net.parse().unwrap()],
        hosts: Vec::new(),
        sni: false,
        ports: vec![ports],
        protocols: ProtocolSet::ANY,
        programs: Condition::default(),
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
        programs: Programs::new(),
        network: NetworkPolicy {
            denied: Denied::Unreachable,
            allow,
            deny,
            listen: Vec::new(),
            audited: Vec::new(),
            sockets: SocketKinds::NONE,
            source: source(4),
        },
        filesystem: None,
        exec: None,
        unix: None,
        privileges: None,
        audited: Vec::new(),
        notices: None,
        protected: Default::default(),
        homes: Vec::new(),
        workspace: Vec::new(),
        syscalls: vec![SyscallRule {
            id: format!("{name}:syscalls.watch[0]"),
            source: source(9),
            name: "ptrace".to_owned(),
            nr: 101,
            kill: false,
        }],
    })
}

/// An event with every section and every field, as none has them.
pub(crate) fn full_event() -> Event<'static> {
    Event {
        agent: Some(Agent { id: Some(Id(Ulid::nil())), profile: "p".into(), origin: Some("run".into()) }),
        process: Some(Process {
            tid: Some(5),
            parent: Some(1),
            uid: Some(0),
            comm: Some("sh".into()),
            exe: Some("/bin/sh".into()),
            argv: vec!["sh".to_owned()].into(),
            argv_truncated: true,
            cgroup: Some("/a".into()),
            cgroup_id: Some(9),
            ..Process::numbered(4)
        }),
        program: vec!["shell".to_owned()].into(),
        network: Some(Network {
            direction: "out".into(),
            address: Some("10.0.0.5".parse().unwrap()),
            host: Some("git.example.com".to_owned()),
            port: 22,
            protocol: "tcp".into(),
            local_port: Some(4_000),
            hello: Some("named".into()),
            sni: Some("evil.test".to_owned()),
        }),
        lookup: Some(Lookup {
            name: "git.example.com".into(),
            r#type: "A".into(),
            refused: vec!["127.0.0.1".parse().unwrap()],
            questions: Some(20),
            names: Some(15),
            odd: Some(10),
        }),
        socket: Some(Socket { kind: "raw".into(), family: 2, r#type: 3, protocol: 1, repeats: Some(2) }),
        syscall: Some(Syscall { nr: 101, name: Some("ptrace".into()), compat: true, killed: true }),
        file: Some(File {
            path: Some("/etc/shadow".into()),
            truncated: true,
            access: vec!["read".into()],
            inode: Some(7),
            repeats: Some(41),
        }),
        privilege: Some(Privilege {
            kind: "signal".into(),
            name: Some("SIGKILL".into()),
            number: Some(9),
            target: Some(1),
            repeats: Some(3),
        }),
        exec: Some(Exec { claimed: true, inode: 7 }),
        fork: Some(Fork { child: 6, label_lost: true }),
        exit: Some(Exit { status: Some(1), signal: Some(9), last: true }),
        loss: Some(Loss { stage: "decode".into(), lost: 3 }),
        flow: Some(Flow { fd: 3, port: 443, result: "reset".into() }),
        profile: Some(ProfileChange {
            name: "p".into(),
            outcome: "refused".into(),
            generation: Some(1),
            error: Some("why".into()),
        }),
        verdict: Some(Verdict {
            effect: VerdictEffect::Deny,
            mode: "enforce".into(),
            errno: Some("EPERM".into()),
            rule: Some("p:network.default".into()),
            source: Some("p.yaml:4".into()),
            reason: "default-deny".into(),
            mechanism: "cgroup/connect4".into(),
            generation: 1,
        }),
        ..Event::new(Ulid::nil(), Timestamp::UNIX_EPOCH, EventType::Network)
    }
}
