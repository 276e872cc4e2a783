//! N21 to N28: what a grant is, and what it is not. Each case is one agent that tries several peers in turn.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use agent_monitor::kernel::InstallError;
use agent_monitor_common::counters::{Domain, Effect, Mode, Ring, decision_cell};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::image::{IMAGE_WORDS, header};
use agent_monitor_tests::bpf;
use agent_monitor_tests::monitor::{SLOT, image};
use agent_monitor_tests::peer::{ECHO, SINK, SOURCE};
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::wire::Packet;
use agent_monitor_tests::world::{DENIED4, DENIED6, GRANTED4, GRANTED6, OTHER4};
use agent_monitor_tests::{Attempt, Body, Child, Failure, Socket};
use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, MapInfo, MapType};
use libtest_mimic::Trial;

use crate::attack;
use crate::kernel_maps;
use crate::lab::{self, Lab, PROFILE, Run};
use crate::network_out::mapped;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Tcp,
    Udp,
    /// Datagrams of one socket, which all such tries of an agent share.
    Shared,
}
use Over::{Shared, Tcp, Udp};

/// One try: transport, peer, port, and whether the profile grants it.
type Try = (Over, IpAddr, u16, bool);

fn profile(network: &str) -> String {
    format!("version: 1\nname: grants\nmode: enforce\nnetwork:\n{network}")
}

fn attempt((over, ip, port, _): Try, shared: &Socket) -> Attempt {
    let name = Name::new(ip, port);
    match (over, ip) {
        (Shared, _) => shared.send_to(b"x", 0, &name).map(drop),
        (Tcp, IpAddr::V4(_)) => Socket::tcp4()?.connect(&name),
        (Tcp, IpAddr::V6(_)) => Socket::tcp6()?.connect(&name),
        (Udp, IpAddr::V4(_)) => Socket::udp4()?.send_to(b"x", 0, &name).map(drop),
        (Udp, IpAddr::V6(_)) => Socket::udp6()?.send_to(b"x", 0, &name).map(drop),
    }
}

/// An agent of `yaml` makes all tries: what came of it, and the errno of each, 0 where it arrived. A port at which
/// nobody listens was reached, unless `refused_means_denied`.
fn try_all(lab: &mut Lab, yaml: &str, tries: &[Try], refused_means_denied: bool) -> Result<(Run, Vec<i32>)> {
    let (mut reader, mut writer) = std::io::pipe()?;
    let all = tries.to_vec();
    let run = lab.attack(yaml, move |stage| {
        stage.pause()?;
        let shared = Socket::udp4()?;
        for one in all {
            let ended = match attempt(one, &shared) {
                Ok(()) => 0,
                // The SYN went and came back as a reset.
                Err(f) if f.step == "connect" && f.errno == libc::ECONNREFUSED && !refused_means_denied => 0,
                Err(f) => f.errno,
            };
            writer.write_all(&ended.to_ne_bytes()).map_err(|e| Failure::of("report", &e))?;
        }
        Ok(())
    })?;
    run.attempt.clone()?;
    let mut ends = Vec::new();
    for _ in tries {
        let mut ended = [0; 4];
        reader.read_exact(&mut ended)?;
        ends.push(i32::from_ne_bytes(ended));
    }
    Ok((run, ends))
}

/// Whether a packet is that of a try. The unspecified addresses lead to the loopback.
fn reaches(packet: &Packet, one: &Try) -> bool {
    let to = match one.1.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    to == packet.to && one.2 == packet.port
}

/// Each try ends as its flag says, and each denial is counted and recorded once.
fn reach(lab: &mut Lab, yaml: &str, tries: &[Try], errno: i32) -> Result<()> {
    let (run, ends) = try_all(lab, yaml, tries, errno == libc::ECONNREFUSED)?;
    for (one, ended) in tries.iter().zip(ends) {
        let expected = if one.3 { 0 } else { errno };
        ensure!(ended == expected, "{one:?} ended with errno {ended}, not {expected}");
    }
    let denied = tries.iter().filter(|t| !t.3).count();
    ensure!(run.denials == denied as u64, "{} denials for {denied} tries", run.denials);
    ensure!(run.records.len() == denied, "{} records for {denied} tries", run.records.len());
    // What answers on the loopback has the port as its own.
    for packet in run.left.iter().chain(run.looped.iter().filter(|p| p.port == SINK)) {
        ensure!(tries.iter().any(|t| t.3 && reaches(packet, t)), "on the wire without a grant: {packet}");
    }
    Ok(())
}

/// The twin of [`reach`]: the same agent, with the same profile in audit mode, arrives everywhere.
fn reach_with_enforcement_off(lab: &mut Lab, yaml: &str, tries: &[Try]) -> Result<()> {
    let (run, ends) = try_all(lab, &lab::in_audit(yaml), tries, false)?;
    for (one, ended) in tries.iter().zip(ends) {
        ensure!(ended == 0, "{one:?} ended with errno {ended} with enforcement off");
        let left = run.left.iter().chain(&run.looped).any(|p| reaches(p, one));
        ensure!(left, "{one:?} did not leave with enforcement off");
    }
    ensure!(run.counted == 0, "{} enforced denials with enforcement off", run.counted);
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        lab::check("what_is_granted_works", granted_works),
        lab::check("what_is_granted_is_recorded_and_counted", granted_is_told),
        lab::check("N25_no_policy_map_evicts", no_evicting_map),
        lab::check("N25_a_map_that_evicts_is_told_from_one_that_does_not", |_| evicting_maps_are_known()),
        lab::check("N26_an_image_that_does_not_fit_is_refused_and_the_old_one_stays", too_large),
        lab::check("N26_the_same_image_is_put_in_force_where_it_fits", |lab| put_in_force(lab, &wide()?)),
        lab::check("L13_an_image_of_another_version_is_refused_and_the_old_one_stays", another_version),
        lab::check("L13_the_same_image_is_put_in_force_with_our_version", |lab| {
            // Two wrongs: what the other trial writes over, written back.
            put_in_force(lab, &of_another_version(of_another_version(wide()?)))
        }),
        lab::check("N28_the_order_of_rules_is_nothing", order),
        lab::check("N28_another_rule_is_another_image_and_another_verdict", another_rule),
        lab::check("the_profile_chooses_the_errno_of_denied_peers", errnos),
        lab::check("audit_and_learn_let_pass_and_count", modes),
    ];
    for (name, network, tries) in CASES {
        trials.extend(attack::checked_pair(
            name,
            move |lab| reach(lab, &profile(network), tries, libc::ENETUNREACH),
            move |lab| reach_with_enforcement_off(lab, &profile(network), tries),
        ));
    }
    trials
}

const BEHIND_NAT64: [IpAddr; 3] = [nat64([10, 9, 0, 3]), nat64([10, 9, 0, 4]), nat64([169, 254, 169, 254])];

/// `64:ff9b::a.b.c.d`.
const fn nat64([a, b, c, d]: [u8; 4]) -> IpAddr {
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low))
}

/// What is tried beside a grant: name, `network`, tries.
const CASES: &[(&str, &str, &[Try])] = &[
    (
        "N21_port_granted_on_another_host",
        "  allow:\n    - { address: 10.9.0.3, ports: [7000] }\n    - { address: 10.9.0.5, ports: [7001] }\n",
        &[
            (Tcp, GRANTED4, SINK, true),
            (Tcp, GRANTED4, ECHO, false),
            (Tcp, OTHER4, ECHO, true),
            (Tcp, OTHER4, SINK, false),
            (Tcp, DENIED4, SINK, false),
        ],
    ),
    (
        "N23_udp_to_a_host_granted_for_tcp",
        "  allow:\n    - { address: [10.9.0.3, 'fd09::3'], ports: [7000], protocol: tcp }\n",
        &[
            (Tcp, GRANTED4, SINK, true),
            (Udp, GRANTED4, SINK, false),
            (Tcp, GRANTED6, SINK, true),
            (Udp, GRANTED6, SINK, false),
        ],
    ),
    (
        "N24_port_granted_to_an_overlapping_network",
        "  allow:\n    - { cidr: 10.9.0.0/24, ports: [7000] }\n    - { cidr: 10.9.0.4/31, ports: [7001-7002] }\n",
        &[
            (Tcp, GRANTED4, SINK, true),
            (Tcp, GRANTED4, ECHO, false),
            (Tcp, DENIED4, SINK, true),
            (Tcp, DENIED4, ECHO, true),
            (Tcp, OTHER4, SOURCE, true),
            (Tcp, OTHER4, 7003, false),
        ],
    ),
    (
        "N24_deny_inside_of_a_grant",
        "  allow:\n    - { cidr: 10.9.0.0/16, ports: [7000-7001], protocol: any }\n  deny:\n    - { cidr: 10.9.0.4/32, protocol: any }\n    - { cidr: 10.9.0.0/24, ports: [7001], protocol: tcp }\n",
        &[
            (Tcp, GRANTED4, SINK, true),
            (Udp, GRANTED4, ECHO, true),
            (Tcp, GRANTED4, ECHO, false),
            (Tcp, DENIED4, SINK, false),
            (Udp, DENIED4, SINK, false),
        ],
    ),
    // Other names of what the deny names.
    (
        "N4_unspecified_address_where_loopback_is_denied",
        "  allow:\n    - { cidr: [0.0.0.0/0, '::/0'], ports: [7000] }\n  deny:\n    - { cidr: [127.0.0.0/8, '::1/128'] }\n",
        &[
            (Tcp, DENIED4, SINK, true),
            (Tcp, IpAddr::V4(Ipv4Addr::UNSPECIFIED), SINK, false),
            (Tcp, IpAddr::V6(Ipv6Addr::UNSPECIFIED), SINK, false),
            (Tcp, mapped(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), SINK, false),
            (Tcp, IpAddr::V4(Ipv4Addr::LOCALHOST), SINK, false),
            (Tcp, IpAddr::V6(Ipv6Addr::LOCALHOST), SINK, false),
        ],
    ),
    // What a socket remembers of its last verdict is that flow's alone.
    (
        "N7_udp_socket_that_reached_a_granted_port",
        "  allow:\n    - { address: 10.9.0.3, ports: [7000], protocol: udp }\n",
        &[
            (Shared, GRANTED4, SINK, true),
            (Shared, GRANTED4, ECHO, false),
            (Shared, DENIED4, SINK, false),
            (Shared, GRANTED4, SINK, true),
        ],
    ),
    (
        "N27_what_a_wide_grant_leaves_out",
        "  allow:\n    - { cidr: 0.0.0.0/0, ports: [7000], protocol: tcp }\n",
        &[
            (Tcp, DENIED4, SINK, true),
            (Tcp, DENIED4, ECHO, false),
            (Udp, DENIED4, SINK, false),
            (Tcp, DENIED6, SINK, false),
        ],
    ),
    (
        "N2_mapped_form_of_granted_and_ungranted",
        "  allow:\n    - { address: 10.9.0.3, ports: [7000], protocol: any }\n",
        &[
            (Tcp, MAPPED_GRANTED, SINK, true),
            (Udp, MAPPED_GRANTED, SINK, true),
            (Tcp, MAPPED_DENIED, SINK, false),
            (Udp, MAPPED_DENIED, SINK, false),
        ],
    ),
    (
        "N3_ipv4_behind_a_granted_nat64",
        "  allow:\n    - { cidr: '64:ff9b::/96', ports: [7000], protocol: any }\n    - { address: 10.9.0.3, ports: [7000], protocol: any }\n",
        &[
            (Udp, BEHIND_NAT64[0], SINK, true),
            (Udp, BEHIND_NAT64[1], SINK, false),
            (Tcp, BEHIND_NAT64[2], SINK, false),
        ],
    ),
    (
        "anything_under_an_empty_profile",
        "  allow: []\n",
        &[
            (Tcp, GRANTED4, SINK, false),
            (Udp, GRANTED4, SINK, false),
            (Tcp, GRANTED6, SINK, false),
            (Udp, GRANTED6, SINK, false),
        ],
    ),
];

const MAPPED_GRANTED: IpAddr = mapped(GRANTED4);
const MAPPED_DENIED: IpAddr = mapped(DENIED4);

/// Bytes of a transfer: several windows, segments of 64 KiB before they are cut.
const TRANSFER: usize = 400_000;

/// Streams in both directions, datagrams larger than a frame, fast open, a reconnected socket: no denial, nothing lost.
fn granted_works(lab: &mut Lab) -> Result<()> {
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        for (ip, tcp, udp) in [
            (GRANTED4, Socket::tcp4()?, Socket::udp4()?),
            (GRANTED6, Socket::tcp6()?, Socket::udp6()?),
            (mapped(GRANTED4), Socket::tcp6()?, Socket::udp6()?),
        ] {
            let echo = Name::new(ip, ECHO);
            // Longer than one packet, so that it is cut into fragments behind the egress hook.
            let datagram = [b'u'; 2000];
            udp.send_to(&datagram, 0, &echo)?;
            let mut answer = [0; 4096];
            if udp.receive(&mut answer)? != datagram.len() {
                return Err(Failure::new("the datagram's answer is cut", 0));
            }
            tcp.send_to(b"hello", libc::MSG_FASTOPEN, &echo)?;
            tcp.receive(&mut answer)?;
            tcp.connect(&Name::unspecified())?;
            tcp.connect(&Name::new(ip, SINK))?;
            let mut sent = 0;
            while sent < TRANSFER {
                sent += tcp.send(&[b's'; 65_536])?;
            }
            let source = if ip == GRANTED4 { Socket::tcp4()? } else { Socket::tcp6()? };
            source.connect(&Name::new(ip, SOURCE))?;
            let mut received = 0;
            while received < 65_536 {
                match source.receive(&mut answer)? {
                    0 => return Err(Failure::new("the source ended", 0)),
                    n => received += n,
                }
            }
        }
        Ok(())
    })?;
    ensure!(
        run.attempt.is_ok() && run.denials == 0,
        "{:?}, {} denials, {:?}",
        run.attempt,
        run.denials,
        run.records
    );
    Ok(())
}

fn granted_is_told(lab: &mut Lab) -> Result<()> {
    let (monitor, world) = lab.parts()?;
    monitor.install(PROFILE)?;
    let mut child = Child::spawn(&world.agents, |stage| {
        stage.pause()?;
        Socket::tcp4()?.connect(&Name::new(GRANTED4, SINK))
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    let cell = decision_cell(Domain::NetworkOut, Effect::Allow, Mode::Enforce) as usize;
    let before = monitor.decisions()[cell];
    child.go_on()?;
    child.finish()??;
    let record = monitor.wait_for(Ring::Activity, "the granted connection", |r| {
        r.header.agent == agent && matches!(r.body, Body::Network(_))
    })?;
    let header = &record.header;
    ensure!(
        header.effect == Effect::Allow.code() && header.mode == Mode::Enforce.code() && header.errno == 0,
        "{record:?}"
    );
    ensure!(header.tgid == child.pid() && u32::from(header.profile) == SLOT, "{record:?}");
    ensure!(Some(header.generation) == monitor.kernel.generation(SLOT), "{record:?}");
    ensure!(header.cgroup == fs::metadata(world.agents.path())?.ino(), "another cgroup: {record:?}");
    ensure!(record.hook() == Some(Hook::Connect4) && record.reason() == Some(Reason::Rule), "{record:?}");
    ensure!(record.port() == Some(SINK), "{record:?}");
    ensure!(monitor.decisions()[cell] == before + 1, "{} decisions", monitor.decisions()[cell] - before);
    let state = monitor.kernel.agent(agent).context("the agent is in no table")?;
    ensure!(state.allowed == 1 && state.denied == 0, "{state:?}");
    Ok(())
}

/// Whether a map of this kind makes room for a new entry by dropping an old one.
fn evicts(map: &MapInfo) -> Result<bool> {
    Ok(matches!(map.map_type()?, MapType::LruHash | MapType::LruPerCpuHash))
}

fn no_evicting_map(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    let maps = kernel_maps::of_programs(&lab.world.agents)?;
    ensure!(maps.len() >= 5, "only {} maps were found", maps.len());
    for map in maps {
        // Who asks: a question whose asker is not known is refused.
        if map.name_as_str() == Some("ASKERS") {
            continue;
        }
        ensure!(!evicts(&map)?, "{:?} is a {:?}", map.name_as_str(), map.map_type());
    }
    Ok(())
}

/// The counterpart: a map that drops entries is called one, and a hash that does not drop them refuses the entry that
/// it has no room for.
fn evicting_maps_are_known() -> Result<()> {
    const HASH: u32 = 1;
    const LRU_HASH: u32 = 9;
    const ENTRIES: u32 = 4;
    const FAR_MORE: u32 = 4096;
    for (kind, drops) in [(HASH, false), (LRU_HASH, true)] {
        let map = bpf::create_map(kind, 4, ENTRIES)?;
        let full = (0..FAR_MORE).map(|n| bpf::update(map.as_fd(), &n.to_ne_bytes(), &n.to_ne_bytes()));
        let refused = full.filter_map(Result::err).count();
        ensure!(drops == (refused == 0), "map type {kind} refused {refused} entries");
        ensure!(evicts(&MapData::from_fd(map)?.info()?)? == drops, "map type {kind} is taken for another");
    }
    Ok(())
}

/// What must hold after a failed install: the same generation, and the same denials.
fn old_image_stays(lab: &mut Lab, install: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    lab.monitor()?.install(PROFILE)?;
    let generation = lab.monitor()?.kernel.generation(SLOT);
    install(lab)?;
    ensure!(lab.monitor()?.kernel.generation(SLOT) == generation, "the generation moved");
    let tries = [(Tcp, GRANTED4, SINK, true), (Tcp, DENIED4, SINK, false)];
    reach(lab, PROFILE, &tries, libc::ENETUNREACH)
}

/// An image that grants every IPv4 peer.
fn wide() -> Result<Vec<u64>> {
    Ok(image(&profile("  allow:\n    - { cidr: 0.0.0.0/0, protocol: any }\n"))?.words)
}

/// The counterpart of a refused image: it is taken, and what it grants is granted.
fn put_in_force(lab: &mut Lab, words: &[u64]) -> Result<()> {
    let monitor = lab.monitor()?;
    monitor.install(PROFILE)?;
    let before = monitor.kernel.generation(SLOT);
    monitor.kernel.install(SLOT, words)?;
    ensure!(monitor.kernel.generation(SLOT) != before, "the generation stands still");
    // In force under this name, so that the attack does not put the other one back.
    monitor.installed_as(PROFILE);
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        Socket::udp4()?.send_to(b"x", 0, &Name::new(DENIED4, SINK)).map(drop)
    });
    lab.monitor()?.forget();
    let run = run?;
    ensure!(run.attempt.is_ok() && run.ungranted().count() == 1, "{}", run.describe());
    Ok(())
}

fn too_large(lab: &mut Lab) -> Result<()> {
    old_image_stays(lab, |lab| {
        let mut words = wide()?;
        words.resize(IMAGE_WORDS + 1, 0);
        match lab.monitor()?.kernel.install(SLOT, &words) {
            Err(InstallError::TooLarge { .. }) => Ok(()),
            other => anyhow::bail!("not refused as too large: {other:?}"),
        }
    })
}

fn of_another_version(mut words: Vec<u64>) -> Vec<u64> {
    words[header::MAGIC] ^= 1;
    words
}

fn another_version(lab: &mut Lab) -> Result<()> {
    old_image_stays(lab, |lab| match lab.monitor()?.kernel.install(SLOT, &of_another_version(wide()?)) {
        Err(InstallError::Version) => Ok(()),
        other => anyhow::bail!("not refused as another version: {other:?}"),
    })
}

const RULES: [&str; 3] = [
    "    - { cidr: 10.9.0.0/24, ports: [7000], protocol: tcp }\n",
    "    - { cidr: 10.9.0.4/32, ports: [7001], protocol: tcp }\n",
    "    - { cidr: 10.9.0.0/28, ports: [7002], protocol: any }\n",
];

fn in_order(order: &[usize]) -> String {
    let allow: String = order.iter().map(|i| RULES[*i]).collect();
    profile(&format!("  deny:\n    - {{ address: 10.9.0.5 }}\n  allow:\n{allow}"))
}

/// Tries under [`RULES`]; `second`: whether the second of them is there.
fn tries_under_rules(second: bool) -> [Try; 5] {
    [
        (Tcp, DENIED4, SINK, true),
        (Tcp, DENIED4, ECHO, second),
        (Tcp, GRANTED4, ECHO, false),
        (Udp, GRANTED4, SINK, false),
        (Tcp, OTHER4, SOURCE, false),
    ]
}

fn order(lab: &mut Lab) -> Result<()> {
    let mut images = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let yaml = in_order(&order);
        images.push(image(&yaml)?.words);
        reach(lab, &yaml, &tries_under_rules(true), libc::ENETUNREACH)
            .with_context(|| format!("order {order:?}"))?;
    }
    ensure!(images.windows(2).all(|pair| pair[0] == pair[1]), "the order changed the image");
    Ok(())
}

/// The counterpart: what is not the order of rules does change the image and the verdicts.
fn another_rule(lab: &mut Lab) -> Result<()> {
    let without = in_order(&[0, 2]);
    ensure!(image(&without)?.words != image(&in_order(&[0, 1, 2]))?.words, "a rule less is the same image");
    reach(lab, &without, &tries_under_rules(false), libc::ENETUNREACH)
}

fn errnos(lab: &mut Lab) -> Result<()> {
    for (word, errno) in [
        ("unreachable", libc::ENETUNREACH),
        ("refused", libc::ECONNREFUSED),
        ("denied", libc::EACCES),
        ("not-permitted", libc::EPERM),
    ] {
        let yaml =
            profile(&format!("  denied: {word}\n  allow:\n    - {{ address: 10.9.0.3, ports: [7000] }}\n"));
        let tries = [
            (Tcp, DENIED4, SINK, false),
            (Tcp, DENIED6, SINK, false),
            (Udp, DENIED4, SINK, false),
            (Udp, DENIED6, SINK, false),
        ];
        reach(lab, &yaml, &tries, errno).with_context(|| format!("denied: {word}"))?;
    }
    Ok(())
}

fn modes(lab: &mut Lab) -> Result<()> {
    for (word, mode) in [("audit", Mode::Audit), ("learn", Mode::Learn)] {
        let yaml = PROFILE.replace("mode: enforce", &format!("mode: {word}"));
        let cell = decision_cell(Domain::NetworkOut, Effect::Deny, mode) as usize;
        let before = lab.monitor()?.decisions()[cell];
        let run = lab.attack(&yaml, |stage| {
            stage.pause()?;
            let socket = Socket::tcp4()?;
            socket.connect(&Name::new(DENIED4, SINK))?;
            socket.send(b"x")?;
            Socket::new(libc::AF_INET, libc::SOCK_RAW, 253)?;
            Socket::tcp4()?.bind(&Name::new(agent_monitor_tests::world::AGENT4, 7050))
        })?;
        ensure!(run.attempt.is_ok(), "{word} denied: {}", run.describe());
        ensure!(run.ungranted().count() > 0, "nothing left in {word} mode");
        ensure!(lab.monitor()?.decisions()[cell] > before, "{word}: the would-denial was not counted");
        ensure!(run.counted == 0, "{word}: counted as an enforced denial");
        for record in &run.records {
            ensure!(record.header.errno == 0 && record.header.mode == mode.code(), "{word}: {record:?}");
        }
        ensure!(word == "learn" || run.records.len() >= 3, "audit: {} records", run.records.len());
    }
    Ok(())
}
