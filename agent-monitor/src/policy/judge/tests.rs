//! That image and rules agree on every question, and that the change which is proposed does what it is proposed for.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use agent_monitor_common::path::Right;
use proptest::prelude::*;

use super::*;
use crate::policy::compile::{sample, sample_names, sample_paths};
use crate::policy::load_profile;

const BASE: &str = r#"
version: 1
name: base-of-test
mode: enforce
programs: { git: [/usr/bin/git] }
network:
  allow:
    - { cidr: 10.0.0.0/8, ports: [443] }
    - { host: ["api.example.com", "*.example.net"], ports: [443] }
    - { host: code.example.org, ports: [22], exe: git }
  deny:
    - { address: 10.9.9.9 }
  listen: [{ ports: [3000] }]
files:
  read: ["/usr/**"]
  write: ["/work/**"]
  deny: ["/work/secret", { path: "/usr/private/**", except: git }]
exec: { allow: ["/usr/bin/*"] }
unix: { allow: [/run/own.sock] }
privileges: { ptrace: none }
syscalls: { kill: [kexec_load], watch: [bpf] }
"#;

fn loaded(directory: &Path, name: &str, text: &str) -> Judge {
    let file = directory.join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    Judge::new(load_profile(&file, &[]).unwrap_or_else(|e| panic!("{}\n{text}", e.render(false))).profile)
        .unwrap()
}

fn judge() -> Judge {
    loaded(tempfile::tempdir().unwrap().path(), "base-of-test", BASE)
}

fn said(judge: &Judge, exe: Option<&str>, request: Request) -> (Effect, Reason, Option<String>) {
    let answer = judge.ask(judge.class_of(exe.map(str::as_bytes)), &request).unwrap();
    (answer.effect, answer.reason, answer.rule.map(|(id, _)| id))
}

#[test]
fn every_kind_of_request_has_its_answer() {
    let judge = judge();
    let tcp = Protocol::Tcp;
    let connect = |to: &str| Request::connect(to, tcp).unwrap();
    let path = |path: &str, right: Right| Request::path(path.as_bytes(), right as Rights).unwrap();
    let rule = |id: &str| Some(format!("base-of-test:{id}"));
    let git = Some("/usr/bin/git");
    use Effect::{Allow, Deny, Kill};
    use Reason::{DeniedByRule, Granted, NotGranted, NotJudged};
    for (exe, request, expected) in [
        (None, connect("10.1.1.1:443"), (Allow, Granted, rule("network.allow[0]"))),
        (None, connect("10.9.9.9:443"), (Deny, DeniedByRule, rule("network.deny[0]"))),
        (None, connect("10.1.1.1:80"), (Deny, NotGranted, rule("network.default"))),
        (None, connect("api.example.com:443"), (Allow, Granted, rule("network.allow[1]"))),
        (None, connect("example.net:443"), (Deny, NotGranted, rule("network.default"))),
        (None, connect("code.example.org:22"), (Deny, NotGranted, rule("network.default"))),
        (git, connect("code.example.org:22"), (Allow, Granted, rule("network.allow[2]"))),
        (git, connect("code.example.org:443"), (Deny, NotGranted, rule("network.default"))),
        (None, Request::LookUp("a.example.net".into()), (Allow, Granted, rule("network.allow[1]"))),
        (None, Request::LookUp("code.example.org".into()), (Deny, NotGranted, rule("network.default"))),
        (None, Request::listen("3000", tcp).unwrap(), (Allow, Granted, rule("network.listen[0]"))),
        (None, Request::listen("0.0.0.0:3000", tcp).unwrap(), (Deny, NotGranted, rule("network.default"))),
        (None, path("/usr/x", Right::Read), (Allow, Granted, rule("files.read[0]"))),
        (None, path("/usr/x", Right::Write), (Deny, NotGranted, rule("files.default"))),
        (None, path("/usr/", Right::Read), (Allow, Granted, rule("files.read[0]"))),
        // To make a directory is no look at what lies in it.
        (None, path("/work/", Right::Write), (Deny, NotGranted, rule("files.default"))),
        (None, path("/usr", Right::Read), (Deny, NotGranted, rule("files.default"))),
        (None, path("/work/secret", Right::Write), (Deny, DeniedByRule, rule("files.deny[0]"))),
        (None, path("/usr/private/a", Right::Read), (Deny, DeniedByRule, rule("files.deny[1]"))),
        (git, path("/usr/private/a", Right::Read), (Allow, Granted, rule("files.read[0]"))),
        (None, path("/usr/bin/sh", Right::Execute), (Allow, Granted, rule("exec.allow[0]"))),
        (None, path("/tmp/sh", Right::Execute), (Deny, NotGranted, rule("exec.default"))),
        (None, Request::unix(b"/run/own.sock").unwrap(), (Allow, Granted, rule("unix.allow[0]"))),
        (None, Request::unix(b"@other").unwrap(), (Deny, NotGranted, rule("unix.default"))),
        (None, Request::socket("raw").unwrap(), (Deny, NotGranted, rule("network.default"))),
        (None, Request::capability("chown").unwrap(), (Deny, NotGranted, rule("privileges.capabilities"))),
        (None, Request::privilege("own-ptrace").unwrap(), (Deny, NotGranted, rule("privileges.ptrace"))),
        (None, Request::privilege("own-signal").unwrap(), (Allow, Granted, rule("privileges.signals"))),
        (None, Request::syscall("kexec_load").unwrap(), (Kill, DeniedByRule, rule("syscalls.kill[0]"))),
        (None, Request::syscall("bpf").unwrap(), (Allow, NotJudged, rule("syscalls.watch[0]"))),
        (None, Request::syscall("read").unwrap(), (Allow, NotJudged, None)),
    ] {
        assert_eq!(said(&judge, exe, request.clone()), expected, "{request} by {exe:?}");
    }
}

#[test]
fn rules_that_did_not_decide_are_told_with_what_they_say() {
    let judge = judge();
    let request = Request::path(b"/usr/private/a", Right::Read as Rights).unwrap();
    let others = |exe: Option<&[u8]>| -> Vec<(String, Effect, bool)> {
        let answer = judge.ask(judge.class_of(exe), &request).unwrap();
        answer.others.into_iter().map(|rule| (rule.id, rule.effect, rule.holds)).collect()
    };
    assert_eq!(others(None), [("base-of-test:files.read[0]".to_owned(), Effect::Allow, true)]);
    assert_eq!(
        others(Some(b"/usr/bin/git")),
        [("base-of-test:files.deny[1]".to_owned(), Effect::Deny, false)]
    );
}

#[test]
fn without_a_section_nothing_of_it_is_judged() {
    let directory = tempfile::tempdir().unwrap();
    let judge = loaded(directory.path(), "p", "version: 1\nname: p\nmode: enforce\nnetwork: {}\n");
    let free = (Effect::Allow, Reason::NotJudged, None);
    for request in [
        Request::path(b"/etc/shadow", Right::Write as Rights).unwrap(),
        Request::path(b"/tmp/x", Right::Execute as Rights).unwrap(),
        Request::unix(b"/run/docker.sock").unwrap(),
        Request::capability("sys_admin").unwrap(),
        Request::LookUp("example.com".into()),
    ] {
        assert_eq!(said(&judge, None, request), free);
    }
    // What belongs to the monitor is never written, whatever the profile speaks of.
    let mut profile = judge.profile().clone();
    let mut protected = crate::policy::protected::Protected::default();
    protected.glob("/etc/agent-monitor/**".to_owned());
    profile.protect(&protected);
    let judge = Judge::new(profile).unwrap();
    let write = |path: &[u8]| said(&judge, None, Request::path(path, Right::Write as Rights).unwrap());
    assert_eq!(write(b"/etc/shadow"), free);
    let (effect, reason, rule) = write(b"/etc/agent-monitor/profiles.d/p.yaml");
    assert_eq!(
        (effect, reason, rule.as_deref()),
        (Effect::Deny, Reason::DeniedByRule, Some("monitor:protected"))
    );
}

/// Each proposal is put into a profile that extends the one that denied, and the request asked again.
#[test]
fn the_proposed_grant_grants_the_request_and_only_to_the_program_that_asked() {
    let directory = tempfile::tempdir().unwrap();
    let judge = loaded(directory.path(), "base-of-test", BASE);
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let path = |path: &[u8], rights: Rights| Request::path(path, rights).unwrap();
    let mut tried = 0;
    for request in [
        Request::connect("192.0.2.1:22", tcp).unwrap(),
        Request::connect("192.0.2.1:53", udp).unwrap(),
        Request::connect("192.0.2.1:0", Protocol::Icmp).unwrap(),
        Request::connect("192.0.2.1:7", Protocol::Other).unwrap(),
        Request::connect("[64:ff9b::192.0.2.1]:22", tcp).unwrap(),
        Request::connect("[2001:db8::1]:22", tcp).unwrap(),
        Request::connect("new.example.com:8443", tcp).unwrap(),
        Request::LookUp("new.example.com".into()),
        Request::listen("[::1]:9000", tcp).unwrap(),
        path(b"/etc/passwd", 1),
        path(b"/opt/[a]{b,c}*?", 3),
        path(b"/opt/tool", 5),
        path(b"/opt/d/", 1),
        path(b"/", 1),
        Request::unix(b"/run/other.sock").unwrap(),
        Request::unix(b"@name").unwrap(),
        Request::socket("netlink").unwrap(),
        Request::capability("net_admin").unwrap(),
        Request::privilege("bpf").unwrap(),
        Request::privilege("own-ptrace").unwrap(),
        Request::privilege("signal").unwrap(),
        Request::privilege("setuid").unwrap(),
    ] {
        for exe in [None, Some("/usr/lib/a b/c")] {
            // Which sockets of the kernel and privileges exist is said for all programs.
            let of_all =
                matches!(request, Request::Socket(_) | Request::Capability(_) | Request::Privilege { .. });
            if exe.is_some() && of_all {
                continue;
            }
            // The sections about Unix sockets can't name programs.
            if exe.is_some() && matches!(&request, Request::Path { rights: 8, .. }) {
                continue;
            }
            let class = judge.class_of(exe.map(str::as_bytes));
            let answer = judge.ask(class, &request).unwrap();
            let Some(Change::Add(lines)) = smallest(&request, exe, &answer) else {
                panic!("{request}: no proposal");
            };
            let text = format!("version: 1\nname: child\nextends: [base-of-test]\n{lines}\n");
            let child = loaded(directory.path(), "child", &text);
            assert_eq!(said(&child, exe, request.clone()).0, Effect::Allow, "{request}\n{lines}");
            if exe.is_some() {
                assert_eq!(said(&child, None, request.clone()).0, Effect::Deny, "{request}\n{lines}");
            }
            tried += 1;
        }
    }
    assert!(tried > 30);
}

#[test]
fn where_a_rule_denies_no_grant_is_proposed() {
    let judge = judge();
    let denied = |request: &Request| {
        let answer = judge.ask(Class::PLAIN, request).unwrap();
        match smallest(request, Some("/usr/bin/x"), &answer) {
            Some(Change::Edit(how)) => how,
            other => panic!("{request}: {other:?}"),
        }
    };
    let path = denied(&Request::path(b"/usr/private/a", 1).unwrap());
    assert!(path.contains("files.deny[1]") && path.contains("except: \"/usr/bin/x\""), "{path}");
    // The address inside is denied, which a grant of the outer one does not change.
    let inner = denied(&Request::connect("[64:ff9b::10.9.9.9]:443", Protocol::Tcp).unwrap());
    assert!(inner.contains("network.deny[0]"), "{inner}");
    assert!(denied(&Request::syscall("kexec_load").unwrap()).contains("syscalls.kill"));
}

#[test]
fn events_are_asked_again_as_they_were() {
    let event = |json: serde_json::Value| {
        let mut whole = serde_json::json!({
            "schema": "agent-monitor.event/1", "id": "01M82BSFQMEB6WTZJZQPGNK0V7", "time": "2026-11-22T19:30:08Z",
            "verdict": { "effect": "deny", "mode": "enforce", "reason": "rule", "mechanism": "x", "generation": 1 },
        });
        for (key, value) in json.as_object().unwrap() {
            whole[key] = value.clone();
        }
        of_event(&serde_json::from_value(whole).unwrap())
    };
    let network = serde_json::json!({ "direction": "out", "address": "10.0.0.1", "port": 80, "protocol": "tcp", "host": "a.example" });
    let asked = event(serde_json::json!({ "type": "network", "network": network }));
    assert_eq!(asked.unwrap().to_string(), "connect tcp 10.0.0.1:80");
    let named = serde_json::json!({ "effect": "allow", "mode": "enforce", "reason": "name", "mechanism": "x", "generation": 1 });
    let asked = event(serde_json::json!({ "type": "network", "network": network, "verdict": named }));
    assert_eq!(asked.unwrap().to_string(), "connect tcp a.example:80");
    let file = serde_json::json!({ "path": "/a\\x0ab", "access": ["read", "write"] });
    let asked = event(serde_json::json!({ "type": "file", "file": file }));
    assert_eq!(asked, Ok(Request::Path { path: b"/a\nb".to_vec(), rights: 3, directory: false }));
    let cut = serde_json::json!({ "path": "/a", "truncated": true, "access": ["read"] });
    assert_eq!(event(serde_json::json!({ "type": "file", "file": cut })), Err(NotAsked::NoObject));
    let compat = serde_json::json!({ "nr": 11, "compat": true, "killed": false });
    assert_eq!(event(serde_json::json!({ "type": "syscall", "syscall": compat })), Err(NotAsked::Unknown));
    assert_eq!(event(serde_json::json!({ "type": "fork", "verdict": null })), Err(NotAsked::NoVerdict));
    let failed = serde_json::json!({ "effect": "deny", "mode": "enforce", "reason": "helper-failed", "mechanism": "x", "generation": 1 });
    assert_eq!(
        event(serde_json::json!({ "type": "network", "network": network, "verdict": failed })),
        Err(NotAsked::NoRule)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// `ask` is an error where image and rules disagree.
    #[test]
    fn image_and_rules_agree_about_addresses_and_names(seed: u64, rules in 1_usize..60) {
        let plain = sample::profile_of_programs(rules, seed);
        let requests = sample::requests(&plain, 300, seed ^ 1);
        let judge = Judge::new(plain).unwrap();
        for asked in requests {
            let address = IpAddr::from(Ipv6Addr::from(asked.address.bytes())).to_canonical();
            let request = match asked.direction {
                agent_monitor_common::request::Direction::Out => {
                    Request::Connect { to: Destination::Address(address), port: asked.port, protocol: asked.protocol }
                }
                _ => Request::Listen { address, port: asked.port, protocol: asked.protocol },
            };
            for class in 0..judge.memberships.len() as u32 {
                prop_assert!(judge.ask(Class::new(class), &request).is_ok());
            }
        }
        let named = sample_names::named_profile(rules, seed);
        let names = sample_names::names(&named, 100, seed ^ 2);
        let judge = Judge::new(named).unwrap();
        for name in names {
            for (port, protocol) in [(443, Protocol::Tcp), (53, Protocol::Udp), (80, Protocol::Tcp)] {
                let request = Request::Connect { to: Destination::Host(name.clone()), port, protocol };
                for class in 0..judge.memberships.len() as u32 {
                    prop_assert!(judge.ask(Class::new(class), &request).is_ok());
                }
            }
        }
    }

    #[test]
    fn image_and_rules_agree_about_paths(seed: u64, rules in 1_usize..80) {
        let profile = sample_paths::path_profile(rules, sample_paths::Mix::of(rules), seed);
        let paths = sample_paths::paths(&profile, 200, seed ^ 1);
        let judge = Judge::new(profile).unwrap();
        for path in paths {
            for rights in [1, 2, 3, 4, 5] {
                for directory in [false, true] {
                    let request = Request::Path { path: path.clone(), rights, directory };
                    prop_assert!(judge.ask(Class::PLAIN, &request).is_ok(), "{request}");
                }
            }
        }
    }
}

#[test]
fn a_denial_that_is_tried_out_is_told_of_what_is_granted() {
    let judge = fixture::judge_of(
        "programs: { git: [/usr/bin/git] }\nnetwork:\n  allow: [{ cidr: 10.0.0.0/8, ports: [443] }]\n  deny: [{ cidr: 10.1.0.0/16, audit: true }]\nfiles:\n  read: ['/srv/**']\n  deny:\n    - { path: '/srv/**/key', audit: true, except: git }\n    - '/srv/closed/**'\n",
    );
    let tcp = Protocol::Tcp;
    let read = |path: &str| Request::path(path.as_bytes(), Right::Read as Rights).unwrap();
    use Effect::{Allow, Deny};
    use Reason::{Audited, DeniedByRule, Granted, NotGranted};
    for (exe, request, effect, reason, rule) in [
        (None, Request::connect("10.1.2.3:443", tcp).unwrap(), Allow, Audited, "network.deny[0]"),
        (None, Request::connect("10.2.2.3:443", tcp).unwrap(), Allow, Granted, "network.allow[0]"),
        (None, Request::connect("10.1.2.3:80", tcp).unwrap(), Deny, NotGranted, "network.default"),
        (None, read("/srv/a/key"), Allow, Audited, "files.deny[0]"),
        (Some("/usr/bin/git"), read("/srv/a/key"), Allow, Granted, "files.read[0]"),
        (None, read("/srv/closed/key"), Deny, DeniedByRule, "files.deny[1]"),
        (None, read("/etc/key"), Deny, NotGranted, "files.default"),
    ] {
        let answer = judge.ask(judge.class_of(exe.map(str::as_bytes)), &request).unwrap();
        let id = answer.rule.map(|(id, _)| id);
        assert_eq!(
            (answer.effect, answer.reason, id.as_deref()),
            (effect, reason, Some(format!("p:{rule}").as_str())),
            "{request}"
        );
    }
}
