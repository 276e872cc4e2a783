//! That a learnt profile allows all that it was learnt from, and grants nothing sensitive.

use std::path::Path;

use super::*;
use crate::policy::load_profile;

const SENSITIVE: &str = "version: 1\nname: sensitive\nmode: enforce\nnetwork: { deny: [{ cidr: 169.254.0.0/16, protocol: any }] }\nfiles: { deny: ['~/.ssh/**', '**/.env'] }\n";

fn loaded(directory: &Path, name: &str, text: &str) -> Judge {
    let file = directory.join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    let mut profile =
        load_profile(&file, &[]).unwrap_or_else(|e| panic!("{}\n{text}", e.render(false))).profile;
    profile.homes = vec!["/home/u".into()];
    Judge::new(profile).unwrap()
}

fn event(minute: u8, exe: &str, rest: serde_json::Value) -> Event<'static> {
    let mut whole = serde_json::json!({
        "schema": "agent-monitor.event/1", "id": "01M82BSFQMEB6WTZJZQPGNK0V7",
        "time": format!("2026-11-22T19:{minute:02}:08Z"),
        "process": { "pid": 1, "exe": exe },
        "verdict": { "effect": "would-deny", "mode": "learn", "reason": "default-deny", "mechanism": "x", "generation": 1 },
    });
    for (key, value) in rest.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn file(minute: u8, exe: &str, access: &str, path: &str) -> Event<'static> {
    event(minute, exe, serde_json::json!({ "type": "file", "file": { "path": path, "access": [access] } }))
}

fn connect(exe: &str, address: &str, host: Option<&str>, port: u16) -> Event<'static> {
    let network = serde_json::json!({ "direction": "out", "address": address, "port": port, "protocol": "tcp", "host": host });
    event(30, exe, serde_json::json!({ "type": "network", "network": network }))
}

fn wishes() -> Wishes {
    Wishes {
        name: "learnt".to_owned(),
        extends: Vec::new(),
        workspace: vec!["/srv/work".to_owned()],
        homes: vec!["/home/u".to_owned()],
        thresholds: Thresholds::default(),
        files_seen: true,
        runs: 1,
    }
}

fn session() -> Observations {
    let mut seen = Observations::default();
    for number in 0..6 {
        seen.event(&file(number, "/usr/bin/cc", "read", &format!("/usr/include/a/{number}.h")));
        seen.event(&file(number, "/usr/bin/cc", "read", &format!("/usr/lib/gcc/{number}/x/y")));
    }
    for (minute, exe, access, path) in [
        (1, "/usr/bin/cc", "write", "/srv/work/a.o"),
        (2, "/usr/bin/cc", "read", "/srv/work"),
        (3, "/usr/bin/node", "read", "/home/u/.npmrc"),
        (4, "/usr/bin/node", "read", "/home/u/.npmrc"),
        (5, "/usr/bin/cat", "read", "/home/u/.ssh/id_ed25519"),
        (6, "/usr/bin/cat", "read", "/proc/4711/stat"),
        (7, "/usr/bin/cat", "read", "/etc/odd [name]*"),
        (8, "/bin/sh", "execute", "/usr/bin/cat"),
        (9, "/bin/sh", "read", "/etc/\\xff"),
        (10, "/bin/sh", "read", "/"),
    ] {
        seen.event(&file(minute, exe, access, path));
    }
    seen.event(&event(
        11,
        "/usr/bin/cat",
        serde_json::json!({ "type": "unix", "file": { "path": "@bus", "access": ["connect"] } }),
    ));
    seen.event(&connect("/usr/bin/node", "192.0.2.1", Some("api.example.com"), 443));
    seen.event(&connect("/usr/bin/node", "192.0.2.2", Some("api.example.com"), 443));
    seen.event(&connect("/usr/bin/curl", "169.254.169.254", None, 80));
    seen.event(&connect("/usr/bin/curl", "198.51.100.7", None, 8443));
    let listen =
        serde_json::json!({ "direction": "listen", "address": "127.0.0.1", "port": 3000, "protocol": "tcp" });
    seen.event(&event(12, "/usr/bin/node", serde_json::json!({ "type": "network", "network": listen })));
    let asked = serde_json::json!({ "kind": "capability", "name": "net_raw", "number": 13 });
    seen.event(&event(13, "/usr/bin/ping", serde_json::json!({ "type": "privilege", "privilege": asked })));
    seen
}

#[test]
fn a_learnt_profile_reads_as_a_person_would_write_it() {
    let directory = tempfile::tempdir().unwrap();
    let sensitive = loaded(directory.path(), "sensitive", SENSITIVE);
    let learned = session().profile(&wishes(), None, &sensitive);
    let expected = r#"version: 1
name: learnt
mode: audit   # then `enforce`, when `agent-monitor events --verdict would-deny` stays empty
workspace: ["/srv/work"]

network:
  allow:
    - { address: "198.51.100.7", ports: [8443], exe: "/usr/bin/curl" }   # once, 2026-11-22 19:30, by curl
    - { host: api.example.com, ports: [443], exe: "/usr/bin/node" }   # 2 times, 2026-11-22 19:30, by node
  listen:
    - { address: "127.0.0.1", ports: [3000], exe: "/usr/bin/node" }   # once, 2026-11-22 19:12, by node

files:
  read:
    - "${workspace}"   # once, 2026-11-22 19:02, by cc
    - "/etc/odd \\[name\\]\\*"   # once, 2026-11-22 19:07, by cat
    - "/proc/*/stat"   # once, 2026-11-22 19:06, by cat
    - "/usr/include/a/*"   # 6 times, 2026-11-22 19:00 to 2026-11-22 19:05, by cc
    - "/usr/lib/gcc{,/**}"   # 6 times, 2026-11-22 19:00 to 2026-11-22 19:05, by cc
    - "/{,}"   # once, 2026-11-22 19:10, by sh
    - { path: "~/.npmrc", exe: "/usr/bin/node" }   # 2 times, 2026-11-22 19:03 to 2026-11-22 19:04, by node
  write:
    - "${workspace}/**"   # once, 2026-11-22 19:01, by cc

exec:
  allow:
    - "/usr/bin/cat"   # once, 2026-11-22 19:08, by sh

unix:
  allow:
    - { path: "@bus", exe: "/usr/bin/cat" }   # once, 2026-11-22 19:11, by cat

privileges: {}

# Seen too, and not granted. Add a rule for what you want, with `exe` for the program that needs it:
#   capability net_raw: a privilege of the host: say yes to it yourself; once, 2026-11-22 19:13, by ping
#   connect tcp 169.254.169.254:80: the shipped base denies it (sensitive:network.deny[0]); once, 2026-11-22 19:30, by curl
#   read /etc/\xff: its path is no text, so no glob can name it alone; once, 2026-11-22 19:09, by sh
#   read /home/u/.ssh/id_ed25519: the shipped base denies it (sensitive:files.deny[0]); once, 2026-11-22 19:05, by cat
"#;
    assert_eq!(learned.text, expected);
    assert_eq!((learned.rules, learned.held.len()), (13, 4));
}

#[test]
fn what_is_learnt_is_allowed_and_what_is_sensitive_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let sensitive = loaded(directory.path(), "sensitive", SENSITIVE);
    let seen = session();
    let learned = seen.profile(&wishes(), None, &sensitive);
    let judge = loaded(directory.path(), "learnt", &learned.text);
    assert_eq!(seen.denied_by(&judge, &learned), Vec::<String>::new());
    for request in [
        Request::path(b"/home/u/.ssh/id_ed25519", 1).unwrap(),
        Request::path(b"/home/u/.npmrc", 1).unwrap(), // by another program
        Request::path(b"/etc/shadow", 1).unwrap(),
        Request::path(b"/usr/include/b", 1).unwrap(),
        Request::capability("net_raw").unwrap(),
    ] {
        assert!(!allowed(&judge, Some("/usr/bin/cat"), &request), "{request}");
    }
    // A profile that lacks a rule is caught.
    let lacking =
        loaded(directory.path(), "learnt", &learned.text.replace("    - \"/{,}\" ", "    - \"/x\" "));
    assert_eq!(seen.denied_by(&lacking, &learned), ["read /"]);
}

#[test]
fn what_the_base_grants_is_not_written_again_and_what_it_denies_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let sensitive = loaded(directory.path(), "sensitive", SENSITIVE);
    let base = loaded(
        directory.path(),
        "base",
        "version: 1\nname: base\nmode: enforce\nnetwork: {}\nfiles: { read: ['/usr/**', '/etc/**', '/{,}'], deny: ['/etc/odd*'] }\nunix: { allow: ['@bus'] }\n",
    );
    let learned =
        session().profile(&Wishes { extends: vec!["base".to_owned()], ..wishes() }, Some(&base), &sensitive);
    assert!(!learned.text.contains("/usr/include") && !learned.text.contains("@bus"), "{}", learned.text);
    assert!(learned.text.contains("extends: [base]"));
    assert!(learned.held.iter().any(|held| held.starts_with("read /etc/odd")), "{:?}", learned.held);
}

#[test]
fn one_odd_run_of_several_grants_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let sensitive = loaded(directory.path(), "sensitive", SENSITIVE);
    let mut seen = Observations::default();
    for run in 0..3 {
        seen.event(&file(1, "/usr/bin/cc", "read", "/usr/include/a.h"));
        if run == 1 {
            seen.event(&file(1, "/usr/bin/cc", "read", "/opt/odd"));
        }
        seen.next_run();
    }
    let learned = seen.profile(&Wishes { runs: 2, ..wishes() }, None, &sensitive);
    assert!(learned.text.contains("- \"/usr/include/a.h\"   # 3 times"), "{}", learned.text);
    assert!(learned.text.contains("#   read /opt/odd: seen in 1 of 3 runs only"), "{}", learned.text);
}

#[test]
fn packets_that_name_no_program_are_learnt_where_nothing_else_explains_them() {
    let directory = tempfile::tempdir().unwrap();
    let sensitive = loaded(directory.path(), "sensitive", SENSITIVE);
    let packet = |address: &str, port: u16, own: u16| {
        let network = serde_json::json!({ "direction": "out", "address": address, "port": port, "protocol": "tcp", "local_port": own });
        event(1, "", serde_json::json!({ "type": "network", "network": network, "process": null }))
    };
    let mut seen = Observations::default();
    let listen =
        serde_json::json!({ "direction": "listen", "address": "127.0.0.1", "port": 3000, "protocol": "tcp" });
    seen.event(&packet("127.0.0.1", 55_476, 3000)); // an answer of the server
    seen.event(&event(2, "/usr/bin/node", serde_json::json!({ "type": "network", "network": listen })));
    seen.event(&connect("/usr/bin/curl", "192.0.2.9", None, 443));
    seen.event(&packet("192.0.2.9", 443, 40_000)); // of curl's connection
    seen.event(&packet("192.0.2.10", 443, 40_001)); // older than the label
    seen.next_run();
    let text = seen.profile(&wishes(), None, &sensitive).text;
    assert!(
        !text.contains("55476") && text.contains("- { address: \"192.0.2.10\", ports: [443] }"),
        "{text}"
    );
    assert!(
        text.contains("- { address: \"192.0.2.9\", ports: [443], exe: \"/usr/bin/curl\" }   # once"),
        "{text}"
    );
}

#[test]
fn thresholds_and_depth_bound_what_a_glob_stands_for() {
    let globs = |paths: &[String], files, directories| -> Vec<String> {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let wishes = Wishes { thresholds: Thresholds { files, directories }, ..wishes() };
        generalise::globs(&paths, &wishes).into_keys().collect()
    };
    let many = |place: &str| (0..9).map(|n| format!("{place}/{n}/f")).collect::<Vec<_>>();
    assert_eq!(globs(&many("/a"), 5, 3).len(), 9, "a directory at the root is never granted whole");
    assert_eq!(globs(&many("/a/b"), 5, 3), ["/a/b{,/**}"]);
    assert_eq!(globs(&many("/a/b"), 5, 10).len(), 9);
    assert_eq!(globs(&many("/home/u"), 5, 3).len(), 9, "nor a home");
    assert_eq!(globs(&many("/home/u/.cache"), 5, 3), ["~/.cache{,/**}"]);
}
