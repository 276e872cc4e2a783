//! The network automaton decides every request as the rules read by themselves do.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use agent_monitor_common::automaton::{FREE_CELL, PORTS, TERMINAL};
use agent_monitor_common::decide::{Decision, decide, decide_socket};
use agent_monitor_common::image::{
    Class, HAS_SYSCALLS, IMAGE_WORDS, MAGIC, MAX_CLASSES, PLAIN_CLASS, Settings, class, field, has_syscall,
    header,
};
use agent_monitor_common::request::{self, Address, Direction, NetRequest, STARTS};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::policy::attribute::{self, Attributor};
use crate::policy::compile::{self, CompileError, Image, profile_within, sample};
use crate::policy::{
    Condition, Denied, Membership, Mode, NetRule, Protocol, ProtocolSet, ResolvedProfile, SocketKind,
    SocketKinds, Source, SyscallRule, naive,
};

const LISTS: [&str; 4] = ["allow", "deny", "listen", "audited"];

/// A rule from its parts; `list` is one of [`LISTS`].
fn rule(
    list: usize,
    index: usize,
    nets: &[&str],
    ports: &[RangeInclusive<u16>],
    protocols: ProtocolSet,
) -> NetRule {
    NetRule {
        id: format!("t:network.{}[{index}]", LISTS[list]),
        source: Source { file: Arc::from(Path::new("t.yaml")), line: index as u32 + 1, column: 3 },
        nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
        hosts: Vec::new(),
        sni: false,
        ports: ports.to_vec(),
        protocols,
        programs: Condition::default(),
    }
}

pub(super) fn profile(allow: Vec<NetRule>, deny: Vec<NetRule>, listen: Vec<NetRule>) -> ResolvedProfile {
    let mut profile = sample::network_profile(0, 0);
    profile.network.allow = allow;
    profile.network.deny = deny;
    profile.network.listen = listen;
    profile
}

/// One list of rules as the tests write them: networks, ports, protocols.
fn rules(list: usize, written: &[(&str, RangeInclusive<u16>, ProtocolSet)]) -> Vec<NetRule> {
    let rules = written.iter().enumerate();
    rules
        .map(|(i, (net, ports, protocols))| rule(list, i, &[net], std::slice::from_ref(ports), *protocols))
        .collect()
}

const TCP: ProtocolSet = ProtocolSet::of(Protocol::Tcp);
const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

fn tcp(address: &str, port: u16) -> NetRequest {
    let address = match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    NetRequest::out(Address::from_bytes(address.octets()), port, request::Protocol::Tcp)
}

/// Asks the automaton, the naive matcher and the index; they must agree.
fn ask(profile: &ResolvedProfile, request: NetRequest) -> Decision {
    let image = compile::profile(profile).unwrap();
    let decision = decide(&image, Class::PLAIN, request);
    assert_eq!(naive::decide(&profile.network, &Membership::PLAIN, request).0, decision, "{request:?}");
    assert_eq!(
        Attributor::new(Arc::new(profile.clone())).network(PLAIN_CLASS, request).decision,
        decision,
        "{request:?}"
    );
    decision
}

/// Networks that touch, nest and repeat: few addresses, every prefix length.
fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (
        prop::sample::select(vec![0x0a00_0000_u32, 0x0a01_0203, 0x7f00_0001, 0xc0a8_0101, 0xa9fe_a9fe]),
        0..=32_u8,
    )
        .prop_map(|(address, length)| IpNet::new(Ipv4Addr::from_bits(address).into(), length).unwrap());
    let v6 = (
        prop::sample::select(vec![
            "::1",
            "2001:db8::1",
            "2001:db8:0:1::",
            "fd00::a",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a01:203::",
            "2001:0:1::",
            "::a01:203",
            "::ffff:10.1.2.3",
            "::",
        ]),
        0..=128_u8,
    )
        .prop_map(|(address, length)| {
            IpNet::new(IpAddr::V6(address.parse::<Ipv6Addr>().unwrap()), length).unwrap()
        });
    prop_oneof![3 => v4, 2 => v6].prop_map(|net| net.trunc())
}

fn ports() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    let edge = prop_oneof![
        prop::sample::select(vec![0_u16, 1, 22, 80, 255, 256, 257, 443, 511, 512, 8000, 65279, 65280, 65535]),
        any::<u16>(),
    ];
    let range = (edge.clone(), edge).prop_map(|(a, b)| a.min(b)..=a.max(b));
    prop_oneof![1 => Just(vec![ALL_PORTS]), 3 => prop::collection::vec(range, 1..4)]
}

fn net_rules(list: usize, most: usize) -> impl Strategy<Value = Vec<NetRule>> {
    let protocols = prop::collection::vec(prop::sample::select(Protocol::ALL.to_vec()), 1..4);
    let parts = (prop::collection::vec(net(), 1..3), ports(), protocols);
    prop::collection::vec(parts, 0..most).prop_map(move |rules| {
        let rules = rules.into_iter().enumerate();
        rules
            .map(|(index, (nets, ports, protocols))| NetRule {
                nets,
                hosts: Vec::new(),
                sni: false,
                ..rule(list, index, &[], &ports, protocols.into_iter().collect())
            })
            .collect()
    })
}

pub(super) fn profiles() -> impl Strategy<Value = ResolvedProfile> {
    (net_rules(0, 12), net_rules(1, 6), net_rules(2, 4), net_rules(3, 4)).prop_map(
        |(allow, deny, listen, audited)| {
            let mut profile = profile(allow, deny, listen);
            profile.network.audited = audited;
            profile
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    /// 160 profiles × 1 200 requests: the kernel's walk, the rules read one by one, and the index say the same.
    #[test]
    fn automaton_naive_matcher_and_index_agree(profile in profiles(), seed: u64) {
        let image = compile::profile(&profile).unwrap();
        let index = Attributor::new(Arc::new(profile.clone()));
        for request in sample::requests(&profile, 1_200, seed) {
            let (decision, rule) = naive::decide(&profile.network, &Membership::PLAIN, request);
            prop_assert_eq!(decide(&image, Class::PLAIN, request), decision, "{:?}", request);
            let attribution = index.network(PLAIN_CLASS, request);
            prop_assert_eq!(attribution.decision, decision);
            prop_assert_eq!(attribution.rule, rule, "{:?}", request);
            prop_assert_eq!(attribution, attribute::network(&profile, &Membership::PLAIN, request));
        }
    }

    /// N28: the order of rules, of a rule's networks and of its ranges changes neither a decision nor a byte, and
    /// neither does a rule that is there twice.
    #[test]
    fn order_and_repetition_change_nothing(
        (before, after) in profiles().prop_flat_map(|p| {
            let shuffled = (
                Just(p.network.allow.clone()).prop_shuffle(),
                Just(p.network.deny.clone()).prop_shuffle(),
                Just(p.network.listen.clone()).prop_shuffle(),
                Just(p.network.audited.clone()).prop_shuffle(),
            );
            let after = shuffled.prop_map(|(allow, deny, listen, audited)| {
                let mut after = profile(allow, deny, listen);
                after.network.audited = audited;
                after
            });
            (Just(p), after)
        }),
        twice in any::<prop::sample::Index>(),
    ) {
        let mut after = after;
        if !after.network.allow.is_empty() {
            let again = twice.get(&after.network.allow).clone();
            after.network.allow.push(again);
        }
        for rule in &mut after.network.allow {
            rule.nets.reverse();
            rule.ports.reverse();
        }
        prop_assert_eq!(compile::profile(&before).unwrap(), compile::profile(&after).unwrap());
    }

    /// Whatever a table holds, a walk ends and gives one of the decisions.
    #[test]
    fn garbage_tables_give_a_decision(words in prop::collection::vec(any::<u64>(), 0..600), address: [u8; 16], port: u16) {
        for protocol in request::Protocol::ALL {
            let address = Address::from_bytes(address);
            decide(words.as_slice(), Class::PLAIN, NetRequest::out(address, port, *protocol));
            decide(words.as_slice(), Class::PLAIN, NetRequest::listen(address, port, *protocol));
        }
    }
}

/// A large profile of the kind that benchmarks use.
#[test]
fn a_thousand_rules_decide_as_the_rules_do() {
    let profile = sample::network_profile(1_000, 1);
    let image = compile::profile(&profile).unwrap();
    let index = Attributor::new(Arc::new(profile.clone()));
    let mut decisions = [0; 3];
    for request in sample::requests(&profile, 20_000, 2) {
        let attribution = index.network(PLAIN_CLASS, request);
        assert_eq!(decide(&image, Class::PLAIN, request), attribution.decision, "{request:?}");
        decisions[attribution.decision.code() as usize] += 1;
    }
    assert!(decisions.iter().all(|&count| count > 500), "the requests are one-sided: {decisions:?}");
    for request in sample::requests(&profile, 300, 3) {
        assert_eq!(
            index.network(PLAIN_CLASS, request),
            attribute::network(&profile, &Membership::PLAIN, request)
        );
    }
}

/// N24: a port granted on a wide network is not granted on other ports of a narrow one, and a deny holds wherever it
/// is nested.
#[test]
fn a_deny_wins_at_every_nesting() {
    let wide_allow = profile(
        rules(0, &[("10.0.0.0/8", 443..=443, TCP), ("10.1.0.0/16", 22..=22, TCP)]),
        rules(1, &[("10.1.2.0/24", ALL_PORTS, TCP)]),
        vec![],
    );
    assert_eq!(ask(&wide_allow, tcp("10.9.9.9", 443)), Decision::Allow);
    assert_eq!(ask(&wide_allow, tcp("10.9.9.9", 22)), Decision::DenyDefault);
    assert_eq!(ask(&wide_allow, tcp("10.1.3.1", 22)), Decision::Allow);
    assert_eq!(ask(&wide_allow, tcp("10.1.3.1", 443)), Decision::Allow);
    assert_eq!(ask(&wide_allow, tcp("10.1.2.1", 443)), Decision::DenyRule);
    let wide_deny = profile(
        rules(0, &[("10.1.2.3/32", ALL_PORTS, TCP), ("10.1.2.0/24", 443..=443, TCP)]),
        rules(1, &[("10.0.0.0/8", 0..=442, TCP)]),
        vec![],
    );
    assert_eq!(ask(&wide_deny, tcp("10.1.2.3", 22)), Decision::DenyRule);
    assert_eq!(ask(&wide_deny, tcp("10.1.2.3", 443)), Decision::Allow);
    assert_eq!(ask(&wide_deny, tcp("10.1.2.4", 443)), Decision::Allow);
    assert_eq!(ask(&wide_deny, tcp("10.1.2.4", 444)), Decision::DenyDefault);
}

/// N2, N27: `0.0.0.0/0` and `::/0` are one family each; mapped addresses are IPv4.
#[test]
fn everything_is_one_family() {
    let v6 = profile(rules(0, &[("::/0", ALL_PORTS, TCP)]), vec![], vec![]);
    assert_eq!(ask(&v6, tcp("2001:db8::1", 1)), Decision::Allow);
    assert_eq!(ask(&v6, tcp("10.0.0.1", 1)), Decision::DenyDefault);
    assert_eq!(ask(&v6, tcp("::ffff:10.0.0.1", 1)), Decision::DenyDefault);
    let v4 = profile(rules(0, &[("0.0.0.0/0", ALL_PORTS, TCP)]), vec![], vec![]);
    assert_eq!(ask(&v4, tcp("10.0.0.1", 1)), Decision::Allow);
    assert_eq!(ask(&v4, tcp("::ffff:10.0.0.1", 1)), Decision::Allow);
    assert_eq!(ask(&v4, tcp("::1", 1)), Decision::DenyDefault);
    let mapped = profile(rules(0, &[("::ffff:10.0.0.0/104", ALL_PORTS, TCP)]), vec![], vec![]);
    assert_eq!(ask(&mapped, tcp("10.255.0.1", 1)), Decision::Allow);
    assert_eq!(ask(&mapped, tcp("11.0.0.1", 1)), Decision::DenyDefault);
    // The mapped form of all of IPv4, as a profile that was not loaded may have it. What is one bit shorter is IPv6.
    let all = profile(rules(0, &[("::ffff:0:0/96", ALL_PORTS, TCP)]), vec![], vec![]);
    assert_eq!(ask(&all, tcp("203.0.113.9", 1)), Decision::Allow);
    assert_eq!(ask(&all, tcp("::ffff:10.0.0.1", 1)), Decision::Allow);
    assert_eq!(ask(&all, tcp("2001:db8::1", 1)), Decision::DenyDefault);
    let shorter = profile(rules(0, &[("::fffe:0:0/95", ALL_PORTS, TCP)]), vec![], vec![]);
    assert_eq!(ask(&shorter, tcp("10.0.0.1", 1)), Decision::DenyDefault);
    assert_eq!(ask(&shorter, tcp("::fffe:10.0.0.1", 1)), Decision::Allow);
}

/// N3: an IPv6 form that carries an IPv4 address needs both grants; the IPv4 rule is named when it denies.
#[test]
fn carried_addresses_need_both_grants() {
    let nat64 = "64:ff9b::169.254.169.254";
    let only_v6 = profile(rules(0, &[("::/0", ALL_PORTS, TCP)]), vec![], vec![]);
    assert_eq!(ask(&only_v6, tcp(nat64, 80)), Decision::DenyDefault);
    let both = profile(
        rules(0, &[("::/0", ALL_PORTS, TCP), ("0.0.0.0/0", ALL_PORTS, TCP)]),
        rules(1, &[("169.254.169.254/32", ALL_PORTS, TCP)]),
        vec![],
    );
    assert_eq!(ask(&both, tcp(nat64, 80)), Decision::DenyRule);
    assert_eq!(attribute::network(&both, &Membership::PLAIN, tcp(nat64, 80)).id, "t:network.deny[0]");
    assert_eq!(ask(&both, tcp("64:ff9b::10.0.0.1", 80)), Decision::Allow);
    assert_eq!(
        attribute::network(&both, &Membership::PLAIN, tcp("64:ff9b::10.0.0.1", 80)).id,
        "t:network.allow[0]"
    );
}

/// Every direction × protocol has a start of its own, in both families; denies do not reach listens.
#[test]
fn each_start_state_is_its_own() {
    for direction in [Direction::Out, Direction::Listen] {
        for protocol in Protocol::ALL {
            for net in ["10.0.0.0/8", "fd00::/8"] {
                let list = usize::from(direction == Direction::Listen) * 2;
                let granted = vec![rule(list, 0, &[net], &[80..=80], ProtocolSet::of(protocol))];
                let deny = vec![rule(1, 0, &["11.0.0.0/8", "fd01::/16"], &[ALL_PORTS], ProtocolSet::ANY)];
                let policy = match direction {
                    Direction::Out => profile(granted, deny, vec![]),
                    Direction::Listen => profile(vec![], deny, granted),
                };
                let image = compile::profile(&policy).unwrap();
                for asked in [Direction::Out, Direction::Listen] {
                    for kind in request::Protocol::ALL {
                        for (address, family) in [("10.1.1.1", "10.0.0.0/8"), ("fd00::1", "fd00::/8")] {
                            let request =
                                NetRequest { direction: asked, protocol: *kind, ..tcp(address, 80) };
                            let hit = asked == direction && *kind as u8 == protocol as u8 && family == net;
                            assert_eq!(
                                decide(&image, Class::PLAIN, request).allowed(),
                                hit,
                                "{request:?} of {net} {protocol:?}"
                            );
                        }
                    }
                }
                let denied = NetRequest { direction: Direction::Listen, ..tcp("11.0.0.1", 80) };
                assert_eq!(decide(&image, Class::PLAIN, denied), Decision::DenyDefault);
                assert_eq!(decide(&image, Class::PLAIN, tcp("11.0.0.1", 80)), Decision::DenyRule);
            }
        }
    }
}

#[test]
fn no_rules_are_no_states() {
    let image = compile::profile(&profile(vec![], vec![], vec![])).unwrap();
    assert_eq!(image.words_used(), header::END);
    for number in 0..MAX_CLASSES as u32 {
        for word in class::START_V4..=class::START_PATH {
            assert_eq!(Class::new(number).field(&image, word), u64::from(TERMINAL));
        }
    }
    assert_eq!(decide(&image, Class::PLAIN, tcp("10.0.0.1", 80)), Decision::DenyDefault);
}

#[test]
fn the_header_says_what_the_profile_says() {
    let mut policy = sample::network_profile(20, 9);
    policy.mode = Mode::Audit;
    policy.network.denied = Denied::NotPermitted;
    policy.network.sockets = SocketKinds::NONE.with(SocketKind::Smc).with(SocketKind::Netlink);
    let source = policy.network.source.clone();
    let call = |name: &str, nr, kill| SyscallRule {
        id: format!("sample:syscalls[{nr}]"),
        source: source.clone(),
        name: name.into(),
        nr,
        kill,
    };
    policy.syscalls = vec![call("ptrace", 101, false), call("bpf", 321, true)];
    let image = compile::profile(&policy).unwrap();
    assert_eq!(field(&image, header::MAGIC), MAGIC);
    assert_eq!(field(&image, header::LENGTH), image.words_used() as u64);
    assert_eq!(
        Settings::from_word(field(&image, header::SETTINGS)),
        Settings { mode: 1, errno: 3, flags: HAS_SYSCALLS }
    );
    for kind in request::SocketKind::ALL {
        let granted = matches!(kind, request::SocketKind::Smc | request::SocketKind::Netlink);
        assert_eq!(decide_socket(&image, Class::PLAIN, *kind).allowed(), granted, "{kind:?}");
        let attribution = attribute::socket(&policy, *kind);
        assert_eq!(attribution.decision.allowed(), granted);
        assert_eq!(attribution.id, if granted { "sample:network.sockets" } else { "sample:network.default" });
    }
    for nr in 0..512 {
        assert_eq!(has_syscall(&image, header::SYSCALL_WATCH, nr), nr == 101 || nr == 321);
        assert_eq!(has_syscall(&image, header::SYSCALL_KILL, nr), nr == 321);
        assert_eq!(attribute::syscall(&policy, nr).is_some(), nr == 101 || nr == 321);
    }
    policy.syscalls.push(call("future", 512, false));
    assert!(matches!(compile::profile(&policy), Err(CompileError::SyscallNumber { nr: 512, .. })));
}

/// The names of socket kinds in profiles and in the kernel are the same words.
#[test]
fn socket_kinds_have_one_name() {
    for kind in SocketKind::ALL {
        assert_eq!(compile::kernel_kind(kind).name(), kind.as_str());
    }
}

/// N26: what does not fit is an error that names the dearest rules; nothing is dropped.
#[test]
fn what_does_not_fit_is_refused_by_name() {
    let scattered: Vec<String> =
        (0..200_u32).map(|i| format!("10.{}.{}.0/24", i * 7 % 256, i * 31 % 256)).collect();
    let scattered: Vec<&str> = scattered.iter().map(String::as_str).collect();
    let mut allow = rules(0, &[("192.168.1.1/32", 443..=443, TCP), ("192.168.0.0/16", 80..=80, TCP)]);
    let many_ports: Vec<_> = (0..2_000).map(|i| i * 31 + 7..=i * 31 + 9).collect();
    allow.push(rule(0, 2, &["172.16.0.0/12"], &many_ports, TCP));
    allow.push(rule(0, 3, &scattered, &[443..=443], TCP));
    let policy = profile(allow, vec![], vec![]);
    let needed = compile::profile(&policy).unwrap().words_used();
    let fits = |limit: usize| profile_within(&policy, limit);
    // States keep 256 words off the end, so an exact fit needs a little more.
    assert!(fits(needed + 257).is_ok());
    let Err(CompileError::TooLarge { words, dearest, limit, .. }) = fits(1_500) else { panic!("fits") };
    assert_eq!(limit, 1_500);
    assert!(words > 1_500 && words <= needed, "{words} of {needed}");
    let ids: Vec<&str> = dearest.iter().map(|cost| cost.id.as_str()).collect();
    assert_eq!(ids[..2], ["t:network.allow[2]", "t:network.allow[3]"]);
    let total: usize = dearest.iter().map(|cost| cost.words).sum();
    assert!(total.abs_diff(needed - header::END) < needed / 10, "{total} of {needed}");
    let message = fits(1_500).unwrap_err().to_string();
    assert!(message.contains("t:network.allow[2] (t.yaml:3): "), "{message}");
}

/// What the walk takes for granted of a table: states behind the header, and no index beyond the image.
fn check_layout(words: &[u64], limit: usize) {
    let starts = Class::PLAIN.at(class::START_V4);
    let mut open: Vec<u32> = words[starts..starts + 2 * STARTS].iter().map(|&w| w as u32).collect();
    let mut states = BTreeSet::new();
    while let Some(next) = open.pop() {
        let state = next & !PORTS;
        if next & TERMINAL != 0 || !states.insert(state) {
            continue;
        }
        let word = words[state as usize];
        assert_eq!(word as u32 & 0xffff_ff00, 0xff00_0000, "no state word at {state}");
        open.push((word >> 32) as u32);
        let row = words.iter().skip(state as usize + 1).take(256);
        open.extend(row.filter(|&&cell| cell as u32 == state).map(|&cell| (cell >> 32) as u32));
    }
    for &state in &states {
        assert!(state as usize >= header::END, "a state in the header");
        assert!(state as usize + 256 < limit, "a row that ends beyond the image");
    }
}

#[test]
fn tables_are_laid_out_as_the_walk_assumes() {
    let policy = sample::network_profile(500, 4);
    let Image { words } = compile::profile(&policy).unwrap();
    check_layout(&words, IMAGE_WORDS);
    let free = words.iter().filter(|&&word| word == FREE_CELL).count();
    assert!(free * 10 < words.len(), "{free} of {} words are holes", words.len());
    // The smallest image that these rules fit into, found from below.
    let small = sample::network_profile(60, 4);
    let needed = compile::profile(&small).unwrap().words_used();
    let (limit, tight) =
        (needed..).find_map(|limit| Some((limit, profile_within(&small, limit).ok()?))).unwrap();
    assert!(limit <= needed + 257);
    check_layout(&tight.words, limit);
}
