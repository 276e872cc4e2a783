//! Names through the whole line: an agent asks, the resolver asks a server, the kernel lets what answered be reached.
//!
//! Addresses of 198.51.100.0/24 and 2001:db8::/32 lie on this host's loopback here, by routes: they are public, so that
//! they may answer for a name, and no address of an interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use agent_monitor_tests::netlink::{Netlink, Route, index_of};
use agent_monitor_tests::zone::Zone;
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::daemon::{Daemon, Server, Talker, wait};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("N29_a_granted_name_resolves_and_its_address_is_reached_while_the_answer_holds", granted),
        trial("N29_N30_an_ungranted_name_does_not_exist_by_any_way_of_asking", every_way),
        trial("N32_A03_names_that_carry_data_go_nowhere_and_are_told", tunnel),
        trial("N31_other_ways_to_resolve_do_not_exist", encrypted),
        trial("N33_an_address_is_reached_after_its_answer_and_never_before", race),
        trial("N34_addresses_go_when_their_answers_expire_and_long_flows_stay", expiry),
        trial("N34_a_name_that_changes_its_address_every_second_fills_no_map", rotation),
        trial("N36_A35_what_lies_behind_the_hosts_own_doors_answers_for_no_name", rebinding),
        trial("N35_a_shared_address_is_reached_by_the_granted_name_and_the_other_does_not_resolve", shared),
        trial("A34_a_name_has_one_form", forms),
        trial("aliases_are_followed_from_the_asked_name_only", aliases),
        trial("answers_that_do_not_fit_a_datagram_come_over_tcp", large),
        trial("a_server_that_fails_lies_or_says_nothing_is_no_answer", failing),
        trial("names_hold_for_the_programs_of_their_rules", programs),
        trial("registries_of_the_host_exist_for_their_package_manager_alone", registries),
        trial("a_reload_keeps_what_names_grant_and_takes_what_they_do_not", reload),
        trial("a_killed_daemon_leaves_no_name_and_addresses_that_expire", killed),
        trial("doctor_status_and_metrics_say_whether_names_resolve", outlook),
        trial("N29_with_enforcement_off_an_ungranted_name_is_asked_for_and_reached", unenforced),
    ]
}

const UNREACHABLE: &str = "101";

/// A server that the C library asks; nobody is there.
const SERVER: &str = "192.0.2.53:53";

const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { host: api.example.test, ports: [18443] }
    - { host: ['*.example.net', example.org], ports: [18443], protocol: [tcp, udp] }
";

/// Where everybody answers, once for the process.
pub fn net() -> Result<()> {
    static MADE: OnceLock<()> = OnceLock::new();
    if MADE.get().is_none() {
        let (link, lo) = (Netlink::open()?, index_of("lo")?);
        link.route(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), 24, lo, Route::Local)?;
        link.route(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)), 32, lo, Route::Local)?;
        let _ = MADE.set(());
    }
    // IPv4 too.
    Server::on("[::]:18443")
}

/// A daemon whose resolver asks the zone.
pub fn daemon(profile: &str, more: &[&str]) -> Result<(Daemon, Zone)> {
    net()?;
    let zone = Zone::serve(Ipv4Addr::LOCALHOST.into())?;
    let server = zone.address.to_string();
    let words = [&["--name-server", &server, "--name-grace", "1"], more].concat();
    Ok((Daemon::start_with(profile, &words)?, zone))
}

/// An agent that does as it is told.
pub struct Asker(Talker);

impl From<Talker> for Asker {
    fn from(talker: Talker) -> Self {
        Asker(talker)
    }
}

impl Asker {
    pub fn start(daemon: &Daemon) -> Result<Self> {
        let mut talker = daemon.agent_in_background(&["names"])?;
        ensure!(talker.line()? == "ready");
        Ok(Asker(talker))
    }

    pub fn does(&mut self, words: &str) -> Result<String> {
        self.0.tell(words)?;
        self.0.line()
    }

    pub fn must(&mut self, words: &str, wanted: &str) -> Result<()> {
        let said = self.does(words)?;
        ensure!(said == wanted, "{words}: {said}, not {wanted}");
        Ok(())
    }
}

fn granted() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    zone.set_addresses("api.example.test", 2, &["198.51.100.7"]);
    zone.set_addresses("evil.example.test", 60, &["198.51.100.7"]);
    let mut agent = Asker::start(&daemon)?;
    // Not before the look-up.
    agent.must("connect 198.51.100.7:18443", UNREACHABLE)?;
    // No other name exists, and nobody is asked for it.
    agent.must(&format!("udp {SERVER} evil.example.test A"), &format!("NXDomain from {SERVER}:"))?;
    agent.must("resolve evil.example.test", "none")?;
    ensure!(zone.asked().is_empty(), "{:?}", zone.asked());
    let event = daemon.event("the denied look-up", |event| event["type"] == "dns")?;
    ensure!(event["lookup"]["name"] == "evil.example.test", "{event}");
    ensure!(event["verdict"]["rule"] == "tester:network.default", "{event}");
    ensure!(event["verdict"]["effect"] == "deny" && event["process"]["pid"] == agent.0.pid(), "{event}");

    agent.must("resolve api.example.test", "198.51.100.7")?;
    let began = Instant::now();
    ensure!(zone.asked().iter().any(|asked| asked == "api.example.test A"), "{:?}", zone.asked());
    agent.must("connect 198.51.100.7:18443", "connected")?;
    // The name's ports, the name's protocol.
    agent.must("connect 198.51.100.7:18080", UNREACHABLE)?;
    agent.must("send 198.51.100.7:18443", UNREACHABLE)?;
    agent.must("connect 198.51.100.8:18443", UNREACHABLE)?;
    let event = daemon.event("the connection", |event| {
        event["type"] == "network" && event["verdict"]["effect"] == "allow"
    })?;
    ensure!(event["network"]["host"] == "api.example.test", "{event}");
    ensure!(event["verdict"]["rule"] == "tester:network.allow[0]", "{event}");
    ensure!(event["verdict"]["reason"] == "name", "{event}");
    // TTL 2 and grace 1.
    let expired = wait("the answer expires", || {
        Ok((agent.does("connect 198.51.100.7:18443")? == UNREACHABLE).then(|| began.elapsed()))
    })?;
    ensure!(expired >= Duration::from_secs(2), "{expired:?}");
    ensure!(daemon.events()?.iter().all(|event: &Value| event["type"] != "loss"));
    Ok(())
}

/// The twin: what is denied above is there.
fn unenforced() -> Result<()> {
    let (daemon, zone) = daemon(&PROFILE.replace("mode: enforce", "mode: audit"), &[])?;
    zone.set_addresses("evil.example.test", 60, &["198.51.100.7"]);
    let mut agent = Asker::start(&daemon)?;
    agent.must("connect 198.51.100.7:18443", "connected")?;
    agent.must("resolve evil.example.test", "198.51.100.7")?;
    ensure!(zone.asked().iter().any(|asked| asked == "evil.example.test A"), "{:?}", zone.asked());
    let event = daemon.event("the would-denial", |event| event["type"] == "dns")?;
    ensure!(event["verdict"]["effect"] == "would-deny", "{event}");
    Ok(())
}

/// What answers `words` with NXDOMAIN.
const WAYS: &[(&str, &str)] = &[
    ("udp", "192.0.2.53:53"),
    ("udp", "127.0.0.53:53"),
    ("udp", "127.0.0.1:53"),
    ("udp", "[2001:db8:53::1]:53"),
    ("udp", "[::1]:53"),
    ("udp", "[::ffff:192.0.2.53]:53"),
    ("udp-edns", "192.0.2.53:53"),
    ("unconnected", "192.0.2.53:53"),
    ("unconnected", "[2001:db8:53::1]:53"),
    ("unconnected", "[::ffff:192.0.2.53]:53"),
    ("sendmmsg", "192.0.2.53:53"),
    ("pieces", "192.0.2.53:53"),
    ("tcp", "192.0.2.53:53"),
    ("tcp", "[2001:db8:53::1]:53"),
    ("tcp", "[::ffff:192.0.2.53]:53"),
    ("tcp", "127.0.0.53:53"),
];

fn every_way() -> Result<()> {
    for (mode, exists) in [("enforce", false), ("audit", true)] {
        let (daemon, zone) = daemon(&PROFILE.replace("mode: enforce", &format!("mode: {mode}")), &[])?;
        zone.set_addresses("evil.example.test", 60, &["198.51.100.9"]);
        zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
        let mut agent = Asker::start(&daemon)?;
        for (way, server) in WAYS {
            // In the form that the agent wrote: a v6 socket has a mapped peer.
            let wanted = if exists { "NoError" } else { "NXDomain" };
            let said = agent.does(&format!("{way} {server} evil.EXAMPLE.test A"))?;
            ensure!(said.starts_with(&format!("{wanted} from {server}:")), "{mode} {way} {server}: {said}");
            ensure!(said.contains("198.51.100.9") == exists, "{mode} {way} {server}: {said}");
            let said = agent.does(&format!("{way} {server} API.example.test A"))?;
            ensure!(said == format!("NoError from {server}: 198.51.100.7"), "{mode} {way} {server}: {said}");
        }
        let evil = zone.asked().iter().any(|asked| asked.contains("evil"));
        ensure!(evil == exists, "{mode}: {:?}", zone.asked());
    }
    Ok(())
}

fn encrypted() -> Result<()> {
    Server::on("[::]:853")?;
    for (mode, wanted) in [("enforce", UNREACHABLE), ("audit", "connected")] {
        let (daemon, _zone) = daemon(&PROFILE.replace("mode: enforce", &format!("mode: {mode}")), &[])?;
        let mut agent = Asker::start(&daemon)?;
        agent.must("connect 198.51.100.53:853", wanted)?;
        agent.must("connect 198.51.100.53:18443", wanted)?;
        let sent = if mode == "audit" { "sent" } else { UNREACHABLE };
        agent.must("send 198.51.100.53:443", sent)?;
        agent.must("send 198.51.100.53:5353", sent)?;
    }
    Ok(())
}

fn tunnel() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    let mut agent = Asker::start(&daemon)?;
    // To a domain that is not granted: nothing leaves.
    for n in 0..12 {
        let name = format!("4d5a90000300000004000000{n:08x}ffff0000b8000000.x.evil.test");
        agent.must(&format!("udp {SERVER} {name} TXT"), &format!("NXDomain from {SERVER}:"))?;
    }
    ensure!(zone.asked().is_empty(), "{:?}", zone.asked());
    let told = daemon.event("the tunnel", |event| event["lookup"]["odd"] == 10)?;
    ensure!(told["type"] == "dns" && told.get("verdict").is_none(), "{told}");
    ensure!(daemon.metric("agent_monitor_tunnels_total")? == Some(1.0));
    ensure!(daemon.metric("agent_monitor_odd_lookups_total")? == Some(12.0));
    ensure!(daemon.metric("agent_monitor_lookups_total{outcome=\"denied\"}")? == Some(12.0));
    // Below a granted domain it leaves, and is told all the same.
    let mut other = Asker::start(&daemon)?;
    for n in 0..12 {
        let name = format!("4d5a90000300000004000000{n:08x}ffff0000b8000000.x.example.net");
        other.does(&format!("udp {SERVER} {name} TXT"))?;
    }
    ensure!(zone.asked().len() == 12, "{:?}", zone.asked());
    wait("the second tunnel", || {
        Ok((daemon.metric("agent_monitor_tunnels_total")? == Some(2.0)).then_some(()))
    })?;
    // The twin: with enforcement off it leaves for anywhere.
    daemon.write_profile(&PROFILE.replace("mode: enforce", "mode: audit"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.does(&format!("udp {SERVER} 4d5a9000.x.evil.test TXT"))?;
    ensure!(zone.asked().iter().any(|asked| asked == "4d5a9000.x.evil.test TXT"), "{:?}", zone.asked());
    Ok(())
}

fn race() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    zone.set_addresses("n*.fresh.example.net", 60, &["2001:db8:1::"]);
    let count = if std::env::var_os("AGENT_MONITOR_VM").is_some() { 300 } else { 10_000 };
    let mut agent = Asker::start(&daemon)?;
    let words = format!("reach-many {SERVER} fresh.example.net 2001:db8:1:: 18443 {count}");
    agent.must(&words, "0 early 0 denied")?;
    // The twin: with enforcement off every call comes early.
    daemon.write_profile(&PROFILE.replace("mode: enforce", "mode: audit"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    let mut agent = Asker::start(&daemon)?;
    agent.must(&format!("reach-many {SERVER} other.example.net 2001:db8:2:: 18443 20"), "20 early 20 denied")
}

fn expiry() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    zone.set_addresses("api.example.test", 1, &["198.51.100.7", "2001:db8:7::1"]);
    let mut agent = Asker::start(&daemon)?;
    let mut second = Asker::start(&daemon)?;
    agent.must("resolve api.example.test", "198.51.100.7 2001:db8:7::1")?;
    agent.must("hold 198.51.100.7:18443", "connected")?;
    second.must("hold [2001:db8:7::1]:18443", "connected")?;
    // Another answer: the first address stays until it expires, and no longer.
    zone.set_addresses("api.example.test", 1, &["198.51.100.8"]);
    wait(
        "the new answer",
        || Ok((second.does("resolve api.example.test")? == "198.51.100.8").then_some(())),
    )?;
    wait("the old address expires", || {
        Ok((second.does("connect 198.51.100.7:18443")? == UNREACHABLE).then_some(()))
    })?;
    wait("the old IPv6 address expires", || {
        Ok((second.does("connect [2001:db8:7::1]:18443")? == UNREACHABLE).then_some(()))
    })?;
    agent.must("held", "carries")?;
    second.must("held", "carries")?;
    // A reload that leaves the grant leaves the flows.
    daemon.write_profile(&PROFILE.replace("example.org", "example.com"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("held", "carries")?;
    second.must("held", "carries")?;
    second.must("connect 198.51.100.7:18443", UNREACHABLE)
}

/// A name with a TTL of a second that has another address each time it is asked for. For ten seconds, or as many as
/// `AGENT_MONITOR_ROTATION_SECONDS` says; every minute it says how many addresses the kernel knows.
fn rotation() -> Result<()> {
    const GRACE: u64 = 1;
    let told = std::env::var("AGENT_MONITOR_ROTATION_SECONDS").ok();
    let seconds = told.map_or(Ok(10), |text| text.parse::<u64>())?;
    let (daemon, zone) = daemon(PROFILE, &[])?;
    let mut agent = Asker::start(&daemon)?;
    let named = || -> Result<u64> {
        let total = daemon.metric("agent_monitor_named_addresses")?.unwrap_or(-1.0);
        ensure!(total >= 0.0, "no metric");
        Ok(total as u64)
    };
    let (began, mut round, mut most) = (Instant::now(), 0_u32, 0);
    let mut minute = 0;
    let mut before: Vec<(Instant, String)> = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        let address = format!("2001:db8:34::{:x}:{:x}", round >> 16, round & 0xffff);
        zone.set_addresses("api.example.test", 1, &[&address]);
        let wanted: Option<IpAddr> = address.parse().ok();
        wait("the next address", || {
            Ok((agent.does("resolve api.example.test")?.parse().ok() == wanted).then_some(()))
        })?;
        agent.must(&format!("connect [{address}]:18443"), "connected")?;
        // Those that were answered longer ago than TTL, grace and a second are gone.
        before.retain(|(at, _)| at.elapsed() < Duration::from_secs(60));
        let old = before.iter().rev().find(|(at, _)| at.elapsed() > Duration::from_secs(1 + GRACE + 1));
        if let Some((_, old)) = old {
            agent.must(&format!("connect [{old}]:18443"), UNREACHABLE)?;
        }
        before.push((Instant::now(), address));
        round += 1;
        let live = named()?;
        most = most.max(live);
        ensure!(live <= 4, "{live} addresses stand for a name with one of a second, after {round} of them");
        if began.elapsed().as_secs() / 60 > minute {
            minute += 1;
            let kept = daemon.metric("agent_monitor_named_addresses_kept")?.unwrap_or(-1.0);
            println!("{minute} min: {round} addresses so far, {live} live ({most} at most), {kept} kept");
        }
    }
    println!("{round} addresses in {seconds} s, {most} live at most");
    ensure!(u64::from(round) >= seconds / 3, "only {round} rounds");
    // Expired ones are kept for flows that go on, one for each answer and no more.
    let kept = daemon.metric("agent_monitor_named_addresses_kept")?;
    ensure!(kept == Some(f64::from(round)), "{kept:?} are kept of {round}");
    Ok(())
}

fn rebinding() -> Result<()> {
    const INSIDE: &[&str] = &[
        "127.0.0.1",
        "169.254.169.254",
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "fe80::1",
        "64:ff9b::7f00:1",
        "::ffff:127.0.0.1",
    ];
    let (daemon, zone) = daemon(PROFILE, &[])?;
    let mut agent = Asker::start(&daemon)?;
    for (n, inside) in INSIDE.iter().enumerate() {
        let (name, kind) = (format!("r{n}.example.net"), if inside.contains(':') { "AAAA" } else { "A" });
        zone.set_addresses(&name, 60, &[inside]);
        agent.must(&format!("udp {SERVER} {name} {kind}"), &format!("NoError from {SERVER}:"))?;
    }
    agent.must("connect 127.0.0.1:18443", UNREACHABLE)?;
    let event = daemon.event("the refused address", |event| event["verdict"]["reason"] == "rebinding")?;
    ensure!(
        event["lookup"]["refused"][0] == "127.0.0.1" && event["lookup"]["name"] == "r0.example.net",
        "{event}"
    );
    // What is beside it in the answer stays.
    zone.set_addresses("both.example.net", 60, &["10.1.2.3", "198.51.100.7"]);
    agent.must("resolve both.example.net", "198.51.100.7")?;
    // Granted by number, it may answer; the name opens no port of it.
    let other = PROFILE.replace("  allow:\n", "  allow:\n    - { address: 127.0.0.1, ports: [9] }\n");
    daemon.write_profile(&other)?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("resolve r0.example.net", "127.0.0.1")?;
    agent.must("connect 127.0.0.1:18443", UNREACHABLE)?;
    let granting = PROFILE.replace("  allow:\n", "  allow:\n    - { address: 127.0.0.1, ports: [18443] }\n");
    daemon.write_profile(&granting)?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("reach r0.example.net 18443", "connected")?;
    // The twin.
    daemon.write_profile(&PROFILE.replace("mode: enforce", "mode: audit"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("reach r0.example.net 18443", "connected")
}

/// Blind, and said so in the README: what lives at a granted name's address is reached, whatever it is called.
fn shared() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
    zone.set_addresses("evil.test", 60, &["198.51.100.7"]);
    let mut agent = Asker::start(&daemon)?;
    agent.must("resolve evil.test", "none")?;
    agent.must("connect 198.51.100.7:18443", UNREACHABLE)?;
    agent.must("reach api.example.test 18443", "connected")?;
    agent.must("connect 198.51.100.7:18443", "connected")?;
    let event = daemon.event("the connection", |event| {
        event["type"] == "network" && event["verdict"]["effect"] == "allow"
    })?;
    ensure!(event["network"]["host"] == "api.example.test", "{event}");
    // Another rule's name at the same address: each name's ports.
    zone.set_addresses("a.example.net", 60, &["198.51.100.7"]);
    agent.must("send 198.51.100.7:18443", UNREACHABLE)?;
    agent.must("resolve a.example.net", "198.51.100.7")?;
    agent.must("send 198.51.100.7:18443", "sent")?;
    // The twin.
    daemon.write_profile(&PROFILE.replace("mode: enforce", "mode: audit"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("reach evil.test 18443", "connected")
}

fn forms() -> Result<()> {
    let profile = PROFILE.replace("api.example.test", "['API.Example.Test.', 'bücher.example']");
    let (daemon, zone) = daemon(&profile, &[])?;
    zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
    zone.set_addresses("xn--bcher-kva.example", 60, &["198.51.100.8"]);
    zone.set_addresses("example.net", 60, &["198.51.100.9"]);
    zone.set_addresses("evil.test", 60, &["198.51.100.9"]);
    let mut agent = Asker::start(&daemon)?;
    for granted in ["api.example.test", "API.EXAMPLE.TEST", "api.example.test."] {
        agent.must(&format!("resolve {granted}"), "198.51.100.7")?;
    }
    agent.must("resolve xn--bcher-kva.example", "198.51.100.8")?;
    for other in [
        "example.net",
        "evil.test",
        "EVIL.test",
        "api.example.test.evil.test",
        "xapi.example.test",
        "evil.test\\000.api.example.test",
        "api\\.example.test",
        "evil.test\\.x.example.net",
    ] {
        let said = agent.does(&format!("udp {SERVER} {other} A"))?;
        ensure!(said == format!("NXDomain from {SERVER}:"), "{other}: {said}");
    }
    ensure!(zone.asked().iter().all(|asked| !asked.contains("evil")), "{:?}", zone.asked());
    // The twin: the same question, with enforcement off.
    daemon.write_profile(&profile.replace("mode: enforce", "mode: audit"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("resolve EVIL.test", "198.51.100.9")
}

fn aliases() -> Result<()> {
    use agent_monitor_tests::zone::Says;
    let (daemon, zone) = daemon(PROFILE, &[])?;
    zone.set("api.example.test", 60, vec![Says::Alias("edge.cdn.test".into())]);
    zone.set("edge.cdn.test", 60, vec![Says::Alias("pop.cdn.test".into())]);
    zone.set_addresses("pop.cdn.test", 60, &["198.51.100.7"]);
    let mut agent = Asker::start(&daemon)?;
    agent.must("udp 192.0.2.53:53 edge.cdn.test A", &format!("NXDomain from {SERVER}:"))?;
    agent.must("connect 198.51.100.7:18443", UNREACHABLE)?;
    agent.must("reach api.example.test 18443", "connected")?;
    zone.set("loop.example.net", 60, vec![Says::Alias("loop.example.net".into())]);
    agent.must("resolve loop.example.net", "none")?;
    // A text answer grants nothing.
    zone.set("text.example.net", 60, vec![Says::Text("198.51.100.99".into())]);
    let said = agent.does(&format!("udp {SERVER} text.example.net TXT"))?;
    ensure!(said.contains("198.51.100.99"), "{said}");
    agent.must("connect 198.51.100.99:18443", UNREACHABLE)
}

fn large() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    let many: Vec<String> = (1..=120).map(|n| format!("198.51.100.{n}")).collect();
    zone.set_addresses("api.example.test", 60, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut agent = Asker::start(&daemon)?;
    agent.must(&format!("udp {SERVER} api.example.test A"), &format!("NoError truncated from {SERVER}:"))?;
    ensure!(zone.asked().contains(&"api.example.test A/tcp".to_owned()), "{:?}", zone.asked());
    // What was not told is not reached.
    agent.must("connect 198.51.100.5:18443", UNREACHABLE)?;
    let said = agent.does(&format!("tcp {SERVER} api.example.test A"))?;
    ensure!(said.split(' ').count() == 123, "{said}");
    agent.must("connect 198.51.100.5:18443", "connected")?;
    agent.must("connect 198.51.100.120:18443", "connected")?;
    let all = agent.does("resolve api.example.test")?;
    ensure!(all.split(' ').count() == 120, "{all}");
    Ok(())
}

fn failing() -> Result<()> {
    use agent_monitor_tests::zone::Mood;
    let other = Zone::serve(Ipv4Addr::LOCALHOST.into())?;
    let second = other.address.to_string();
    let (daemon, zone) = daemon(PROFILE, &["--name-server", &second])?;
    for zone in [&zone, &other] {
        zone.set_addresses("n*.example.net", 60, &["2001:db8:3::"]);
    }
    let mut agent = Asker::start(&daemon)?;
    zone.mood(Mood::Fails);
    let said = agent.does(&format!("udp {SERVER} n1.example.net AAAA"))?;
    ensure!(said.ends_with("2001:db8:3::1"), "the second server was not asked: {said}");
    zone.mood(Mood::Silent);
    let said = agent.does(&format!("udp {SERVER} n2.example.net AAAA"))?;
    ensure!(said.ends_with("2001:db8:3::2"), "the second server was not asked: {said}");
    zone.mood(Mood::Lies);
    let said = agent.does(&format!("udp {SERVER} n3.example.net AAAA"))?;
    ensure!(said.ends_with("2001:db8:3::3"), "{said}");
    other.forget();
    let said = agent.does(&format!("udp {SERVER} n4.example.net AAAA"))?;
    ensure!(said.ends_with("2001:db8:3::4") && other.asked().is_empty(), "{said}");
    zone.mood(Mood::Silent);
    other.mood(Mood::Fails);
    let began = Instant::now();
    agent.must(&format!("udp {SERVER} n5.example.net AAAA"), &format!("ServFail from {SERVER}:"))?;
    ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    agent.must("connect [2001:db8:3::5]:18443", UNREACHABLE)?;
    // What is known needs no server.
    let said = agent.does(&format!("udp {SERVER} n1.example.net AAAA"))?;
    ensure!(said.ends_with("2001:db8:3::1"), "{said}");
    Ok(())
}

fn programs() -> Result<()> {
    let me = std::env::current_exe()?;
    let profile = PROFILE.replace(
        "host: api.example.test, ports: [18443]",
        &format!("host: api.example.test, ports: [18443], exe: {}", me.display()),
    );
    let (daemon, zone) = daemon(&profile, &[])?;
    zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
    let mut agent = Asker::start(&daemon)?;
    agent.must("reach api.example.test 18443", "connected")?;
    // Another program: a copy of this one.
    let copy = daemon.path("copy");
    std::fs::copy(&me, &copy)?;
    let words = format!("run {} --agent names", copy.display());
    agent.must(&format!("{words} udp {SERVER} api.example.test A"), &format!("0 NXDomain from {SERVER}:"))?;
    agent.must(&format!("{words} connect 198.51.100.7:18443"), &format!("0 {UNREACHABLE}"))
}

/// A host and port that apt is configured with, read in another way than the daemon's.
fn apt_registry() -> Option<(String, u16)> {
    let directory = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let files = directory.map(|entry| entry.path()).chain(["/etc/apt/sources.list".into()]);
    let files = files.filter(|file| file.extension().is_some_and(|kind| kind == "list" || kind == "sources"));
    let text: String = files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    let lines = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    lines.flat_map(str::split_whitespace).find_map(|word| {
        let (rest, port) = match word.strip_prefix("http://") {
            Some(rest) => (rest, 80),
            None => (word.strip_prefix("https://")?, 443),
        };
        let place = rest.split('/').next()?;
        let (host, port) =
            place.split_once(':').map_or((place, Some(port)), |(host, port)| (host, port.parse().ok()));
        Some((host.to_owned(), port?))
    })
}

fn registries() -> Result<()> {
    let Some((host, port)) = apt_registry() else {
        println!("this host's apt is configured with no registry by HTTP: nothing to see");
        return Ok(());
    };
    let me = std::env::current_exe()?;
    // Without `files` the system's own configuration counts.
    let profile = format!(
        "version: 1\nname: tester\nmode: enforce\nprograms:\n  apt: ['{}']\nnetwork:\n  hosts_from: [apt]\n",
        me.display()
    );
    let (daemon, zone) = daemon(&profile, &[])?;
    zone.set_addresses(&host, 60, &["198.51.100.77"]);
    zone.set_addresses("api.example.test", 60, &["198.51.100.77"]);
    let mut agent = Asker::start(&daemon)?;
    // Nobody listens there: what is granted is refused by the host, what is not by the monitor.
    const REFUSED: &str = "111";
    agent.must("resolve api.example.test", "none")?;
    agent.must(&format!("connect 198.51.100.77:{port}"), UNREACHABLE)?;
    let copy = daemon.path("copy");
    std::fs::copy(&me, &copy)?;
    let other = format!("run {} --agent names", copy.display());
    agent.must(&format!("{other} udp {SERVER} {host} A"), &format!("0 NXDomain from {SERVER}:"))?;
    ensure!(zone.asked().is_empty(), "{:?}", zone.asked());
    agent.must(&format!("resolve {host}"), "198.51.100.77")?;
    agent.must(&format!("connect 198.51.100.77:{port}"), REFUSED)?;
    agent.must(&format!("{other} connect 198.51.100.77:{port}"), &format!("0 {UNREACHABLE}"))
}

fn reload() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    zone.set_addresses("api.example.test", 60, &["198.51.100.7"]);
    let mut agent = Asker::start(&daemon)?;
    agent.must("resolve api.example.test", "198.51.100.7")?;
    agent.must("hold 198.51.100.7:18443", "connected")?;
    zone.forget();
    // Another rule, the same grant; names are numbered anew.
    daemon.write_profile(
        &PROFILE.replace("  allow:\n", "  allow:\n    - { host: a.example.com, ports: [1] }\n"),
    )?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("connect 198.51.100.7:18443", "connected")?;
    agent.must("held", "carries")?;
    agent.must("connect 198.51.100.7:1", UNREACHABLE)?;
    // Only the name differs, so that the automaton is the same.
    daemon.write_profile(&PROFILE.replace("api.example.test", "ape.example.test"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("connect 198.51.100.7:18443", UNREACHABLE)?;
    wait("the flow is cut", || Ok((agent.does("held")? != "carries").then_some(())))?;
    agent.must("resolve api.example.test", "none")?;
    ensure!(zone.asked().is_empty(), "{:?}", zone.asked());
    // Without names nobody is in the way of a question.
    daemon.write_profile("version: 1\nname: tester\nmode: enforce\nnetwork: {}\n")?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must(&format!("udp {SERVER} api.example.test A"), UNREACHABLE)
}

fn killed() -> Result<()> {
    net()?;
    let zone = Zone::serve(Ipv4Addr::LOCALHOST.into())?;
    zone.set_addresses("api.example.test", 4, &["198.51.100.7"]);
    let profile = format!("{PROFILE}  listen:\n    - {{ protocol: udp }}\n");
    let mut daemon = Daemon::prepare(&profile)?;
    daemon.pins = Some(daemon.path("pins"));
    daemon.arguments(&["--name-server", &zone.address.to_string(), "--name-grace", "1"]);
    daemon.launch()?;
    let mut agent = Asker::start(&daemon)?;
    agent.must("resolve api.example.test", "198.51.100.7")?;
    agent.must("connect 198.51.100.7:18443", "connected")?;
    daemon.signal(libc::SIGKILL)?;
    daemon.ended()?;
    agent.must("connect 198.51.100.7:18443", "connected")?;
    agent.must(&format!("udp {SERVER} api.example.test A"), "111")?;
    agent.must("resolve api.example.test", "none")?;
    // Nobody takes the resolver's place.
    let log = daemon.log();
    let port = log.split("port=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("?");
    agent.must(&format!("bind 127.0.0.1:{port}"), "13")?;
    agent.must("bind 127.0.0.1:9053", "bound")?;
    wait("the address expires", || {
        Ok((agent.does("connect 198.51.100.7:18443")? == UNREACHABLE).then_some(()))
    })?;
    daemon.launch()?;
    agent.must("reach api.example.test 18443", "connected")
}

fn outlook() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    let status = daemon.status()?;
    let server = zone.address.to_string();
    ensure!(status["names"]["servers"] == serde_json::json!([server]), "{}", status["names"]);
    ensure!(status["names"]["source"] == "--name-server", "{}", status["names"]);
    let resolver = status["posture"].as_array().into_iter().flatten().find(|one| one["name"] == "resolver");
    ensure!(resolver.is_some_and(|one| one["state"] == "active" && one["works"] == true), "{resolver:?}");
    let series = "agent_monitor_posture{mechanism=\"resolver\",state=\"active\"}";
    ensure!(daemon.metric(series)? == Some(1.0), "{}", daemon.page("/metrics")?);
    let text = String::from_utf8(daemon.ask(&["status"])?.stdout)?;
    ensure!(text.contains(&format!("asked from {server} (--name-server)")), "{text}");
    let doctor: Value = serde_json::from_slice(&daemon.ask(&["doctor", "--json"])?.stdout)?;
    ensure!(doctor["names"]["redirected"] == true, "{}", doctor["names"]);
    ensure!(!doctor["names"]["servers"].as_array().is_none_or(Vec::is_empty), "{}", doctor["names"]);
    Ok(())
}
