//! That a widening is never missed, that every example is one, and how a difference is told.

use agent_monitor_common::request::{Direction, Protocol};
use proptest::prelude::*;

use super::*;
use crate::policy::ResolvedProfile;
use crate::policy::compile::{sample, sample_names, sample_paths};
use crate::policy::judge::fixture::judge_of;
use crate::policy::judge::{Destination, Effect};

fn told(examples: &[Example]) -> Vec<&str> {
    examples.iter().map(|example| example.request.as_str()).collect()
}

/// What is wider and what is narrower.
fn between(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let found = diff(&judge_of(old), &judge_of(new)).unwrap();
    let owned = |examples: &[Example]| told(examples).iter().map(|text| (*text).to_owned()).collect();
    (owned(&found.wider), owned(&found.narrower))
}

#[test]
fn a_profile_differs_from_itself_in_nothing_however_it_is_written() {
    let one = judge_of(
        "network: { allow: [{ cidr: 10.0.0.0/8, ports: [80, 443] }] }\nfiles: { read: ['/a/**', '/b'] }\n",
    );
    let other = judge_of(
        "network: { allow: [{ cidr: [10.128.0.0/9, 10.0.0.0/9], ports: [443] }, { cidr: 10.0.0.0/8, ports: [80] }] }\n\
         files: { read: ['/b', '/a/{*,*/**}', '/{a/**,b}'] }\n",
    );
    assert!(diff(&one, &one).unwrap().is_empty());
    assert_eq!(diff(&one, &other).unwrap(), Difference::default());
}

#[test]
fn wider_and_narrower_are_told_by_one_example_for_the_same_rules() {
    let old = "files: { read: ['/usr/**'], deny: ['/usr/secret/**'] }\n";
    let new =
        "files: { read: ['/usr/**', '/etc/a'], write: ['/tmp/**'], deny: ['/usr/secret/**', '/usr/b'] }\n";
    let (wider, narrower) = between(old, new);
    assert_eq!(wider, ["read /etc/a", "write /tmp/a"]);
    // Two rules that open the same are told each.
    let two = "files: { read: ['/usr/**', '/etc/a', '/etc/b{c,d}'], deny: ['/usr/secret/**'] }\n";
    let (wider, _) = between(old, two);
    assert_eq!(wider, ["read /etc/a", "read /etc/bc"]);
    assert_eq!(narrower, ["read /usr/b"]);
    let (wider, _) = between(new, "files: { read: ['/usr/**'], deny: ['/usr/b'] }\n");
    assert!(wider.contains(&"read /usr/secret/a".to_owned()), "{wider:?}");
}

#[test]
fn addresses_ports_protocols_and_forms_are_told_apart() {
    let old = "network: { allow: [{ cidr: 10.0.0.0/8, ports: [443] }] }\n";
    let (wider, narrower) = between(
        old,
        "network: { allow: [{ cidr: 10.0.0.0/8, ports: [443, 8080], protocol: [tcp, udp] }] }\n",
    );
    assert_eq!((wider.len(), narrower.len()), (2, 0));
    assert!(wider[0].starts_with("connect tcp 10.") && wider[0].ends_with(":8080"), "{wider:?}");
    assert!(wider[1].starts_with("connect udp 10."), "{wider:?}");
    // Both forms must be granted: the outer one alone opens nothing of the private network.
    let outer = "network: { allow: [{ cidr: '64:ff9b::/96', ports: [443] }] }\n";
    assert_eq!(between("network: {}\n", outer), (vec![], vec![]));
    let both = "network: { allow: [{ cidr: ['64:ff9b::/96', 192.0.2.0/24], ports: [443] }] }\n";
    let (wider, _) = between("network: { allow: [{ cidr: 192.0.2.0/24, ports: [443] }] }\n", both);
    assert_eq!(wider.len(), 1);
    assert!(wider[0].starts_with("connect tcp [64:ff9b::c000:2"), "{wider:?}");
    // The unspecified address is no destination.
    assert_eq!(
        between("network: {}\n", "network: { allow: [{ address: 0.0.0.0, ports: [1] }] }\n"),
        (vec![], vec![])
    );
    let (wider, _) = between("network: {}\n", "network: { listen: [{ address: 0.0.0.0, ports: [80] }] }\n");
    assert_eq!(wider, ["listen tcp 203.0.113.10:80"]);
}

#[test]
fn names_are_compared_by_the_kinds_that_patterns_tell_apart() {
    let old = "network: { allow: [{ host: ['*.example.com', a.example.com], ports: [443] }] }\n";
    assert_eq!(
        between(old, "network: { allow: [{ host: '*.example.com', ports: [443] }] }\n"),
        (vec![], vec![])
    );
    let (wider, narrower) = between(
        old,
        "network: { allow: [{ host: ['*.example.com'], ports: [443, 80] }, { host: '*.b.net', ports: [1-9] }] }\n",
    );
    assert_eq!(narrower, [""; 0]);
    assert_eq!(wider, ["connect tcp a.example.com:80", "connect tcp any.b.net:1"]);
    let (wider, narrower) = between(
        "network: { allow: [{ host: '*.b.net', ports: [5] }] }\n",
        "network: { allow: [{ host: '*.c.b.net', ports: [5] }] }\n",
    );
    assert_eq!((wider.len(), narrower), (0, vec!["connect tcp any.b.net:5".to_owned()]));
}

#[test]
fn a_hello_that_is_asked_for_no_more_is_wider() {
    let rule = |sni: &str| format!("network: {{ allow: [{{ host: h.example, ports: [443]{sni} }}] }}\n");
    let (with, without) = (judge_of(&rule(", sni: require")), judge_of(&rule("")));
    let found = diff(&with, &without).unwrap();
    assert_eq!((told(&found.wider), found.narrower.len()), (vec!["connect tcp h.example:443"], 0));
    assert!(
        found.wider[0].old.starts_with("allow, with its name in the TLS hello, by"),
        "{:?}",
        found.wider[0]
    );
    assert!(!diff(&without, &with).unwrap().grants_more());
}

#[test]
fn a_grant_to_one_program_is_told_with_that_program() {
    let old = "programs: { git: [/usr/bin/git] }\nnetwork: { allow: [{ host: h.example, ports: [22], exe: git }] }\n";
    let new = "programs: { git: [/usr/bin/git, /opt/git] }\nnetwork: { allow: [{ host: h.example, ports: [22], exe: git }] }\n";
    let found = diff(&judge_of(old), &judge_of(new)).unwrap();
    assert_eq!(found.wider.len(), 1);
    assert_eq!(found.wider[0].programs, ["any other -> git (/opt/git)"]);
    assert!(found.wider[0].old.starts_with("deny by p:network.default"));
    assert!(found.wider[0].new.starts_with("allow by p:network.allow[0]"));
}

#[test]
fn what_is_no_path_and_no_address_counts_too() {
    let old = "agents: [{ exe: /usr/bin/a }]\nnetwork: {}\nprivileges: {}\nexec: { allow: ['/usr/**'], pinned: [{ path: /usr/p, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 }] }\nsyscalls: { kill: [kexec_load] }\n";
    let new = "agents: [{ exe: /usr/bin/b }]\nnetwork: { sockets: [raw] }\nprivileges: { capabilities: [net_raw], ptrace: any }\nexec: { allow: ['/usr/**'] }\nsyscalls: { watch: [kexec_load] }\n";
    let found = diff(&judge_of(old), &judge_of(new)).unwrap();
    let wider = told(&found.wider);
    for part in
        ["socket raw", "capability net_raw", "privilege ptrace", "system call kexec_load", "write /usr/p"]
    {
        // A pinned program may not be written; without `files` nothing else about writing is judged.
        assert!(wider.contains(&part) || part.starts_with("write"), "{part}: {wider:?}");
    }
    let whole: Vec<_> = found.whole.iter().map(|change| (change.wider, change.what.as_str())).collect();
    assert_eq!(
        whole,
        [
            (true, "agents: exe /usr/bin/a is claimed no more"),
            (false, "agents: exe /usr/bin/b is claimed"),
            (true, "exec.pinned: /usr/p may have any content, where it may be executed"),
        ]
    );
    // A section that goes takes every denial with it.
    let (wider, _) = between("files: { read: ['/usr/**'] }\nprivileges: {}\n", "network: {}\n");
    assert!(
        wider.contains(&"write /a".to_owned()) && wider.iter().any(|w| w.starts_with("capability")),
        "{wider:?}"
    );
    let mode = diff(&judge_of("network: {}\n"), &judge_of("network: {}\n#")).unwrap();
    assert!(!mode.grants_more());
}

/// F3: what lies below keeps a directory in its place, also where nothing else differs.
#[test]
fn a_directory_that_may_move_now_is_wider() {
    let old = "files: { write: ['/w', '/w/*'], deny: ['/w/d/k'] }\n";
    let new = "files: { write: ['/w', '/w/*'] }\n";
    let (wider, _) = between(old, new);
    assert_eq!(wider, ["move the directory /w", "move the directory /w/d"]);
}

/// Removes, adds and changes some rules.
fn changed(mut profile: ResolvedProfile, other: &ResolvedProfile, seed: u64) -> ResolvedProfile {
    fn mix<T: Clone>(list: &mut Vec<T>, other: &[T], seed: u64) {
        let mut at = 0;
        list.retain(|_| {
            at += 1;
            !(seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).is_multiple_of(5)
        });
        let added = other.iter().enumerate().filter(|(at, _)| (seed >> (at % 60)) & 3 == 1);
        list.extend(added.map(|(_, rule)| rule.clone()).take(3));
    }
    mix(&mut profile.network.allow, &other.network.allow, seed);
    mix(&mut profile.network.deny, &other.network.deny, seed ^ 3);
    mix(&mut profile.network.listen, &other.network.listen, seed ^ 5);
    if let (Some(files), Some(others)) = (&mut profile.filesystem, &other.filesystem) {
        mix(&mut files.read, &others.read, seed ^ 7);
        mix(&mut files.write, &others.write, seed ^ 9);
        mix(&mut files.deny, &others.deny, seed ^ 11);
    }
    profile
}

/// Whether the request is denied before and allowed now, for any program.
fn widens(old: &Judge, new: &Judge, request: &Request) -> bool {
    classes(old, new).into_iter().any(|(a, b, _)| {
        let (before, now) = (old.ask(a, request).unwrap(), new.ask(b, request).unwrap());
        before.effect == Effect::Deny && now.effect == Effect::Allow
    })
}

/// Every example is what it is told as; `sampled` requests widen only where the difference says so.
fn consistent(
    old: ResolvedProfile,
    new: ResolvedProfile,
    sampled: &[Request],
) -> Result<usize, TestCaseError> {
    let (old, new) = (Judge::new(old).unwrap(), Judge::new(new).unwrap());
    let found = diff(&old, &new).unwrap();
    // Less is also a grant that asks for a hello where the other does not.
    let less = |text: &str| text.starts_with("deny") || text.starts_with("allow, with its name");
    for (examples, wider) in [(&found.wider, true), (&found.narrower, false)] {
        for example in examples.iter().filter(|example| example.kind != "move") {
            let (low, high) = if wider { (&example.old, &example.new) } else { (&example.new, &example.old) };
            prop_assert!(less(low) && high.starts_with("allow"), "{example:?}");
        }
    }
    let mut widened = 0;
    for request in sampled {
        if widens(&old, &new, request) {
            widened += 1;
            // What may not be listed may not be read either, and is told once.
            let same = |told: &str, asked: &str| told == asked || (told, asked) == ("read", "list");
            let told =
                found.more.0 > 0 || found.wider.iter().any(|example| same(example.kind, kind(request)));
            prop_assert!(told, "{request} is wider, and nothing of its kind is told");
        }
    }
    // And the other way round: what is called no wider is none.
    if found.wider.is_empty() {
        prop_assert_eq!(widened, 0);
    }
    Ok(widened)
}

fn network_requests(profile: &ResolvedProfile, count: usize, seed: u64) -> Vec<Request> {
    let asked = sample::requests(profile, count, seed).into_iter();
    let request = |asked: agent_monitor_common::request::NetRequest| {
        let address = std::net::IpAddr::from(asked.address.bytes()).to_canonical();
        let (port, protocol) = (asked.port, asked.protocol);
        let port = if protocol == Protocol::Icmp { 0 } else { port };
        match asked.direction {
            Direction::Out => Request::Connect { to: Destination::Address(address), port, protocol },
            Direction::Listen => Request::Listen { address, port, protocol },
        }
    };
    asked.map(request).collect()
}

/// `DIFF_CASES` for a long run: a case asks some two thousand requests.
fn cases() -> u32 {
    std::env::var("DIFF_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn a_widening_of_addresses_is_never_missed(seed: u64, rules in 1_usize..12) {
        let old = sample::profile_of_programs(rules, seed);
        let new = changed(old.clone(), &sample::profile_of_programs(rules, seed ^ 77), seed ^ 0x5555);
        let sampled = [network_requests(&old, 1_000, seed ^ 1), network_requests(&new, 1_000, seed ^ 2)].concat();
        consistent(old, new, &sampled)?;
    }

    #[test]
    fn a_widening_of_names_is_never_missed(seed: u64, rules in 1_usize..12) {
        let old = sample_names::named_profile(rules, seed);
        let new = changed(old.clone(), &sample_names::named_profile(rules, seed ^ 77), seed ^ 0x5555);
        let names = [sample_names::names(&old, 200, seed ^ 1), sample_names::names(&new, 200, seed ^ 2)].concat();
        let ports = [22, 53, 80, 443, 8080];
        let sampled = names.into_iter().flat_map(|name| ports.map(|port| Request::Connect {
            to: Destination::Host(name.clone()), port, protocol: Protocol::Tcp,
        }));
        consistent(old, new, &sampled.collect::<Vec<_>>())?;
    }

    #[test]
    fn a_widening_of_paths_is_never_missed(seed: u64, rules in 1_usize..16) {
        let mix = sample_paths::Mix::of(rules);
        let old = sample_paths::path_profile(rules, mix, seed);
        let new = changed(old.clone(), &sample_paths::path_profile(rules, mix, seed ^ 77), seed ^ 0x5555);
        let paths = [sample_paths::paths(&old, 300, seed ^ 1), sample_paths::paths(&new, 300, seed ^ 2)].concat();
        let sampled = paths.into_iter().filter_map(|path| Request::path(&path, 1).ok());
        let sampled = sampled.flat_map(|request| match request {
            Request::Path { path, directory, .. } => [1, 2, 4].map(|rights| {
                // A directory is opened to be listed, and for nothing else.
                Request::Path { path: path.clone(), rights, directory: directory && rights == 1 }
            }),
            _ => unreachable!(),
        });
        consistent(old, new, &sampled.collect::<Vec<_>>())?;
    }
}

#[test]
fn a_lease_that_is_made_a_grant_for_good_is_wider_later() {
    let rule =
        |expires: &str| format!("network: {{ allow: [{{ address: 10.0.0.1, ports: [22]{expires} }}] }}\n");
    let (lent, granted, nothing) =
        (judge_of(&rule(", expires: 2h")), judge_of(&rule("")), judge_of("network: {}\n"));
    let found = diff_over_time(&lent, &granted).unwrap();
    assert!(found.now.is_empty() && found.grants_more());
    assert_eq!(told(&found.after_leases.wider), ["connect tcp 10.0.0.1:22"]);
    assert!(!diff_over_time(&granted, &lent).unwrap().grants_more());
    assert!(diff_over_time(&lent, &lent).unwrap().is_empty());
    // What is new now is told once.
    let found = diff_over_time(&nothing, &granted).unwrap();
    assert!(found.now.grants_more() && found.after_leases.is_empty());
    let found = diff_over_time(&nothing, &lent).unwrap();
    assert!(found.now.grants_more() && found.after_leases.is_empty());
}

#[test]
fn a_denial_that_is_tried_out_denies_nothing() {
    let sections = |audit: &str| {
        format!(
            "network:\n  allow: [{{ cidr: 10.0.0.0/8, ports: [22] }}]\n  deny: [{{ cidr: 10.1.0.0/16{audit} }}]\nfiles:\n  read: ['/srv/**']\n  deny: [{{ path: '/srv/key'{audit} }}]\n"
        )
    };
    let none = "network: { allow: [{ cidr: 10.0.0.0/8, ports: [22] }] }\nfiles: { read: ['/srv/**'] }\n";
    let (tried, denied, none) =
        (judge_of(&sections(", audit: true")), judge_of(&sections("")), judge_of(none));
    assert!(diff(&tried, &none).unwrap().is_empty());
    let found = diff(&denied, &tried).unwrap();
    assert!(told(&found.wider).iter().any(|request| request.starts_with("connect tcp 10.1.")), "{found:?}");
    assert!(told(&found.wider).iter().any(|request| request.starts_with("read /srv/key")), "{found:?}");
    assert!(found.wider[0].new.starts_with("allow, would-deny by p:"), "{found:?}");
}
