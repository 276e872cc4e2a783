//! That what is in reach is found, what is not is not, and addresses are counted right.

use proptest::prelude::*;

use super::*;
use crate::policy::compile::sample;
use crate::policy::judge::fixture::judge_of;
use agent_monitor_common::decide::decide;
use agent_monitor_common::request::{Address, NetRequest};

fn found(text: &str) -> BlastRadius {
    blast_radius(&judge_of(text)).unwrap()
}

#[test]
fn a_profile_that_grants_nothing_leaves_nothing_in_reach() {
    let nothing = found("network: {}\nfiles: {}\nexec: {}\nunix: {}\nprivileges: {}\n");
    assert_eq!((nothing.score, nothing.techniques.len()), (0, 0));
    assert!(nothing.groups.iter().all(|group| group.in_reach.is_empty() && !group.out_of_reach.is_empty()));
}

#[test]
fn what_no_section_speaks_of_is_all_in_reach() {
    let open = found("network: { allow: [{ cidr: 0.0.0.0/0, protocol: any }] }\n");
    // Socket kinds are the network's, which has a section.
    let kinds: Vec<_> = open.groups.iter().flat_map(|group| &group.out_of_reach).collect();
    assert_eq!(kinds, [&"raw and packet sockets"]);
    assert!(open.score >= 95, "{}", open.score);
    let all = &open.network.zones[0];
    assert_eq!((all.tcp.addresses, all.tcp.destinations), (1 << 32, 1 << 48));
    assert_eq!(open.network.zones[1].udp.addresses, 1 << 24);
}

#[test]
fn what_one_program_may_counts_half_and_names_it() {
    let text = "programs: { npm: [/usr/bin/node] }\nnetwork: {}\nfiles: { read: [{ path: '~/.npmrc', exe: npm }, /etc/shadow] }\nexec: {}\nunix: {}\nprivileges: {}\n";
    let found = found(text);
    let secrets = &found.groups[0];
    let reached: Vec<_> = secrets.in_reach.iter().map(|one| (one.name, one.programs.as_slice())).collect();
    assert_eq!(
        reached,
        [("tokens of package registries", &["npm".to_owned()][..]), ("password hashes", &[][..])]
    );
    assert!((secrets.share() - 1.5 / 13.0).abs() < 1e-9);
    assert_eq!(found.techniques, ["T1003.008", "T1552.001"]);
}

#[test]
fn what_a_workspace_lets_others_run_is_asked_where_the_profile_has_it() {
    const REPOSITORIES: &str = "configuration of repositories";
    let head = "network: {}\nexec: {}\nworkspace: ['/srv/{a,b}/*', '/opt/work']\n";
    for (files, reached) in [
        ("write: ['${workspace}/**']", Some("write /opt/work/.git/config")),
        ("write: ['/srv/**']", Some("write /srv/a/x/.git/config")),
        ("write: ['${workspace}/**'], deny: ['${workspace}/.git/config']", None),
        ("write: ['/opt/**']", Some("write /opt/work/.git/config")),
        ("write: ['/opt/*']", None),
        ("write: ['~/x/**']", Some("write /home/u/x/.git/config")),
    ] {
        let found = found(&format!("{head}files: {{ {files} }}\n"));
        let one = found.groups[1].in_reach.iter().find(|one| one.name == REPOSITORIES);
        assert_eq!(one.map(|one| one.request.as_str()), reached, "{files}");
        assert_eq!(found.groups[1].out_of_reach.contains(&REPOSITORIES), reached.is_none());
    }
}

#[test]
fn limits_are_told_apart_by_whether_there_is_a_way_round() {
    let text = "programs: { git: [/usr/bin/git] }\nnetwork:\n  allow:\n    - { host: '*.a.example', ports: [443] }\n    - { host: b.example, ports: [443], sni: require }\n    - { cidr: 10.0.0.0/8, ports: [22], exe: git }\n  deny: [{ cidr: 169.254.0.0/16 }]\nfiles: { read: ['/usr/**'], deny: ['~/.ssh/**', { path: '~/.netrc', except: git }] }\n";
    let limits: Vec<_> = found(text).limits.into_iter().map(|limit| (limit.rule, limit.kind)).collect();
    let rule = |id: &str| format!("p:{id}");
    assert_eq!(
        limits,
        [
            (rule("files.deny[0]"), "impossible"),
            (rule("files.deny[1]"), "tedious"),
            (rule("network.deny[0]"), "impossible"),
            (rule("network.allow[0]"), "tedious"),
            (rule("network.allow[2]"), "tedious"),
        ]
    );
}

#[test]
fn the_picture_is_well_formed_and_holds_no_foreign_markup() {
    let mut radius = found("network: {}\n");
    radius.profile = "<script>&\"".to_owned();
    for text in [svg(&radius), html(&radius)] {
        assert!(!text.contains("<script>") && text.contains("&lt;script&gt;&amp;&quot;"), "{text}");
        let open = text.matches("<path").count();
        assert_eq!(open, 9, "five pale sectors, and the filled ones of four");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// In a small network every destination can be asked one by one.
    #[test]
    fn destinations_are_counted_as_they_are_decided(seed: u64, rules in 1_usize..10) {
        let judge = Judge::new(sample::network_profile(rules, seed)).unwrap();
        let image = judge.image();
        // A network in which rules differ, where there is one.
        let nets = judge.profile().network.allow.iter().flat_map(|rule| &rule.nets);
        let base = nets.filter_map(|net| match net { ipnet::IpNet::V4(net) => Some(net.addr()), ipnet::IpNet::V6(_) => None }).next();
        let net = Ipv4Net::new(base.unwrap_or([10, 0, 0, 0].into()), 30).unwrap().trunc();
        let (mut addresses, mut destinations) = (0, 0);
        for address in net.addr().to_bits()..=net.broadcast().to_bits() {
            let ports = (0..=u16::MAX).filter(|&port| {
                let request = NetRequest { address: Address::v4(address.to_be()), port, direction: agent_monitor_common::request::Direction::Out, protocol: Protocol::Tcp };
                decide(image, Class::PLAIN, request).allowed()
            });
            let ports = ports.count() as u64;
            addresses += u64::from(ports > 0);
            destinations += ports;
        }
        prop_assert_eq!(space::reachable(image, Class::PLAIN, Protocol::Tcp, net), Space { addresses, destinations });
    }
}
