//! N21 to N28: what a grant is, and what it is not. Each case is one agent that tries several peers in turn.

use std::io::{Read, Write};
use std::net::IpAddr;

use agent_monitor::kernel::InstallError;
use agent_monitor_common::counters::{Domain, Effect, Mode, decision_cell};
use agent_monitor_common::image::{IMAGE_WORDS, header};
use agent_monitor_tests::monitor::{SLOT, image};
use agent_monitor_tests::peer::{ECHO, SINK, SOURCE};
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{DENIED4, DENIED6, GRANTED4, GRANTED6, OTHER4};
use agent_monitor_tests::{Attempt, Failure, Socket};
use anyhow::{Context, Result, ensure};
use aya::maps::MapType;
use libtest_mimic::Trial;

use crate::kernel_maps;
use crate::lab::{self, Lab, PROFILE};
use crate::network_out::mapped;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Tcp,
    Udp,
}
use Over::{Tcp, Udp};

/// One try: transport, peer, port, and whether the profile grants it.
type Try = (Over, IpAddr, u16, bool);

fn profile(network: &str) -> String {
    format!("version: 1\nname: grants\nmode: enforce\nnetwork:\n{network}")
}

fn attempt((over, ip, port, _): Try) -> Attempt {
    let name = Name::new(ip, port);
    match (over, ip) {
        (Tcp, IpAddr::V4(_)) => Socket::tcp4()?.connect(&name),
        (Tcp, IpAddr::V6(_)) => Socket::tcp6()?.connect(&name),
        (Udp, IpAddr::V4(_)) => Socket::udp4()?.send_to(b"x", 0, &name).map(drop),
        (Udp, IpAddr::V6(_)) => Socket::udp6()?.send_to(b"x", 0, &name).map(drop),
    }
}

/// An agent of `yaml` makes all tries; each ends as its flag says, and each denial is counted and recorded once.
fn reach(lab: &mut Lab, yaml: &str, tries: &[Try], errno: i32) -> Result<()> {
    let (mut reader, mut writer) = std::io::pipe()?;
    let all = tries.to_vec();
    let run = lab.attack(yaml, move |stage| {
        stage.pause()?;
        for one in all {
            let ended = match attempt(one) {
                Ok(()) => 0,
                // Nobody answers at that port of the peer: the SYN went and came back as a reset.
                Err(f)
                    if f.step == "connect"
                        && f.errno == libc::ECONNREFUSED
                        && errno != libc::ECONNREFUSED =>
                {
                    0
                }
                Err(f) => f.errno,
            };
            writer.write_all(&ended.to_ne_bytes()).map_err(|e| Failure::of("report", &e))?;
        }
        Ok(())
    })?;
    run.attempt?;
    for one in tries {
        let mut ended = [0; 4];
        reader.read_exact(&mut ended)?;
        let expected = if one.3 { 0 } else { errno };
        let ended = i32::from_ne_bytes(ended);
        ensure!(ended == expected, "{one:?} ended with errno {ended}, not {expected}");
    }
    let denied = tries.iter().filter(|t| !t.3).count();
    ensure!(run.denials == denied as u64, "{} denials for {denied} tries", run.denials);
    ensure!(run.records.len() == denied, "{} records for {denied} tries", run.records.len());
    for packet in &run.left {
        let granted = tries.iter().any(|t| t.3 && t.1.to_canonical() == packet.to && t.2 == packet.port);
        ensure!(granted, "on the wire without a grant: {packet}");
    }
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    let case = |name: &'static str, network: &'static str, tries: &'static [Try]| {
        lab::check(name, move |lab| reach(lab, &profile(network), tries, libc::ENETUNREACH))
    };
    vec![
        case(
            "N21_a_port_granted_on_one_host_is_denied_on_another",
            "  allow:\n    - { address: 10.9.0.3, ports: [7000] }\n    - { address: 10.9.0.5, ports: [7001] }\n",
            &[
                (Tcp, GRANTED4, SINK, true),
                (Tcp, GRANTED4, ECHO, false),
                (Tcp, OTHER4, ECHO, true),
                (Tcp, OTHER4, SINK, false),
                (Tcp, DENIED4, SINK, false),
            ],
        ),
        case(
            "N23_udp_to_a_host_granted_for_tcp_is_denied",
            "  allow:\n    - { address: [10.9.0.3, 'fd09::3'], ports: [7000], protocol: tcp }\n",
            &[
                (Tcp, GRANTED4, SINK, true),
                (Udp, GRANTED4, SINK, false),
                (Tcp, GRANTED6, SINK, true),
                (Udp, GRANTED6, SINK, false),
            ],
        ),
        case(
            "N24_network_and_port_hold_together",
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
        case(
            "N24_a_deny_inside_of_a_grant_wins",
            "  allow:\n    - { cidr: 10.9.0.0/16, ports: [7000-7001], protocol: any }\n  deny:\n    - { cidr: 10.9.0.4/32, protocol: any }\n    - { cidr: 10.9.0.0/24, ports: [7001], protocol: tcp }\n",
            &[
                (Tcp, GRANTED4, SINK, true),
                (Udp, GRANTED4, ECHO, true),
                (Tcp, GRANTED4, ECHO, false),
                (Tcp, DENIED4, SINK, false),
                (Udp, DENIED4, SINK, false),
            ],
        ),
        case(
            "N27_a_wide_grant_leaves_the_default_deny",
            "  allow:\n    - { cidr: 0.0.0.0/0, ports: [7000], protocol: tcp }\n",
            &[
                (Tcp, DENIED4, SINK, true),
                (Tcp, DENIED4, ECHO, false),
                (Udp, DENIED4, SINK, false),
                (Tcp, DENIED6, SINK, false),
            ],
        ),
        case(
            "N2_a_grant_of_ipv4_holds_for_the_mapped_form",
            "  allow:\n    - { address: 10.9.0.3, ports: [7000], protocol: any }\n",
            &[
                (Tcp, MAPPED_GRANTED, SINK, true),
                (Udp, MAPPED_GRANTED, SINK, true),
                (Tcp, MAPPED_DENIED, SINK, false),
                (Udp, MAPPED_DENIED, SINK, false),
            ],
        ),
        case(
            "an_empty_profile_grants_nothing",
            "  allow: []\n",
            &[
                (Tcp, GRANTED4, SINK, false),
                (Udp, GRANTED4, SINK, false),
                (Tcp, GRANTED6, SINK, false),
                (Udp, GRANTED6, SINK, false),
            ],
        ),
        lab::check("N3_a_grant_of_ipv6_does_not_open_the_ipv4_behind_nat64", nat64_needs_both),
        lab::check("what_is_granted_works", granted_works),
        lab::check("N25_no_policy_map_evicts", no_evicting_map),
        lab::check("N26_an_image_that_does_not_fit_is_refused_and_the_old_one_stays", too_large),
        lab::check("L13_an_image_of_another_version_is_refused_and_the_old_one_stays", another_version),
        lab::check("N28_the_order_of_rules_is_nothing", order),
        lab::check("the_profile_chooses_the_errno_of_denied_peers", errnos),
        lab::check("audit_and_learn_let_pass_and_count", modes),
    ]
}

const MAPPED_GRANTED: IpAddr = mapped(GRANTED4);
const MAPPED_DENIED: IpAddr = mapped(DENIED4);

fn nat64_needs_both(lab: &mut Lab) -> Result<()> {
    let behind = |v4: &str| -> Result<IpAddr> { Ok(format!("64:ff9b::{v4}").parse()?) };
    let tries = [
        (Udp, behind("10.9.0.3")?, SINK, true),
        (Udp, behind("10.9.0.4")?, SINK, false),
        (Tcp, behind("169.254.169.254")?, SINK, false),
    ];
    let yaml = profile(
        "  allow:\n    - { cidr: '64:ff9b::/96', ports: [7000], protocol: any }\n    - { address: 10.9.0.3, ports: [7000], protocol: any }\n",
    );
    reach(lab, &yaml, &tries, libc::ENETUNREACH)
}

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

fn no_evicting_map(lab: &mut Lab) -> Result<()> {
    lab.monitor()?;
    let maps = kernel_maps::of_programs(&lab.world.agents)?;
    ensure!(maps.len() >= 5, "only {} maps were found", maps.len());
    for map in maps {
        let kind = map.map_type()?;
        let evicts = matches!(kind, MapType::LruHash | MapType::LruPerCpuHash);
        ensure!(!evicts, "{:?} is a {kind:?}", map.name_as_str());
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

fn too_large(lab: &mut Lab) -> Result<()> {
    old_image_stays(lab, |lab| {
        let mut words = image(&profile("  allow:\n    - { cidr: 0.0.0.0/0, protocol: any }\n"))?.words;
        words.resize(IMAGE_WORDS + 1, 0);
        match lab.monitor()?.kernel.install(SLOT, &words) {
            Err(InstallError::TooLarge { .. }) => Ok(()),
            other => anyhow::bail!("not refused as too large: {other:?}"),
        }
    })
}

fn another_version(lab: &mut Lab) -> Result<()> {
    old_image_stays(lab, |lab| {
        let mut words = image(&profile("  allow:\n    - { cidr: 0.0.0.0/0, protocol: any }\n"))?.words;
        words[header::MAGIC] ^= 1;
        match lab.monitor()?.kernel.install(SLOT, &words) {
            Err(InstallError::Version) => Ok(()),
            other => anyhow::bail!("not refused as another version: {other:?}"),
        }
    })
}

fn order(lab: &mut Lab) -> Result<()> {
    let rules = [
        "    - { cidr: 10.9.0.0/24, ports: [7000], protocol: tcp }\n",
        "    - { cidr: 10.9.0.4/32, ports: [7001], protocol: tcp }\n",
        "    - { cidr: 10.9.0.0/28, ports: [7002], protocol: any }\n",
    ];
    let tries = [
        (Tcp, DENIED4, SINK, true),
        (Tcp, DENIED4, ECHO, true),
        (Tcp, GRANTED4, ECHO, false),
        (Udp, GRANTED4, SINK, false),
        (Tcp, OTHER4, SOURCE, false),
    ];
    let mut images = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let allow: String = order.iter().map(|i| rules[*i]).collect();
        let yaml = profile(&format!("  deny:\n    - {{ address: 10.9.0.5 }}\n  allow:\n{allow}"));
        images.push(image(&yaml)?.words);
        reach(lab, &yaml, &tries, libc::ENETUNREACH).with_context(|| format!("order {order:?}"))?;
    }
    ensure!(images.windows(2).all(|pair| pair[0] == pair[1]), "the order changed the image");
    Ok(())
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
