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
fn net() -> Result<()> {
    static MADE: OnceLock<()> = OnceLock::new();
    if MADE.get().is_none() {
        let (link, lo) = (Netlink::open()?, index_of("lo")?);
        link.route(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), 24, lo, Route::Local)?;
        link.route(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)), 32, lo, Route::Local)?;
        let _ = MADE.set(());
    }
    Server::on("0.0.0.0:18443")?;
    Server::on("[::]:18444")
}

/// A daemon whose resolver asks the zone.
fn daemon(profile: &str, more: &[&str]) -> Result<(Daemon, Zone)> {
    net()?;
    let zone = Zone::serve(Ipv4Addr::LOCALHOST.into())?;
    let server = zone.address.to_string();
    let words = [&["--name-server", &server, "--name-grace", "1"], more].concat();
    Ok((Daemon::start_with(profile, &words)?, zone))
}

/// An agent that does as it is told.
struct Asker(Talker);

impl Asker {
    fn start(daemon: &Daemon) -> Result<Self> {
        let mut talker = daemon.agent_in_background(&["names"])?;
        ensure!(talker.line()? == "ready");
        Ok(Asker(talker))
    }

    fn does(&mut self, words: &str) -> Result<String> {
        self.0.tell(words)?;
        self.0.line()
    }

    fn must(&mut self, words: &str, wanted: &str) -> Result<()> {
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
