//! Grants that end by themselves, with a daemon and without.

use std::net::Ipv4Addr;
use std::time::Duration;

use agent_monitor_tests::talker::wait;
use agent_monitor_tests::zone::Zone;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::daemon::{Daemon, Server};
use crate::names::{Asker, net};
use crate::survival::{connects, kill, pinning_with, unreachable, waiting_agent};
use crate::trial;

const SHORT: &str = "127.0.0.1:18080";
const LONG: &str = "127.0.0.7:18080";
const FOR_GOOD: &str = "127.0.0.8:18080";

/// From the last change of the file.
const HOLDS: Duration = Duration::from_secs(6);

const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { address: 127.0.0.1, ports: [18080], expires: 6s }
    - { address: 127.0.0.7, ports: [18080], expires: 1h }
    - { address: 127.0.0.8, ports: [18080] }
";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_lease_ends_and_the_others_hold_on", ends),
        trial("leases_end_after_the_daemon_was_killed_and_no_restart_renews_them", ends_alone),
        trial("a_lease_that_is_over_is_told_and_grants_nothing", over),
        trial("a_name_that_is_lent_goes_with_its_addresses", name),
        trial("the_addresses_of_a_lent_name_close_without_a_daemon", name_alone),
    ]
}

/// A daemon under [`PROFILE`], written this moment.
fn lending() -> Result<Daemon> {
    for address in [SHORT, LONG, FOR_GOOD] {
        Server::on(address)?;
    }
    let daemon = pinning_with(&PROFILE.replace("6s", "1h"))?;
    renew(&daemon)?;
    Ok(daemon)
}

fn renew(daemon: &Daemon) -> Result<()> {
    daemon.write_profile(PROFILE)?;
    let reloaded = daemon.ask(&["reload"])?;
    ensure!(reloaded.status.success(), "{reloaded:?}");
    Ok(())
}

fn ends() -> Result<()> {
    let daemon = lending()?;
    let mut agent = waiting_agent(&daemon, SHORT)?;
    let mut held = daemon.agent_in_background(&["hold", SHORT])?;
    ensure!(held.line()? == "connected");
    ensure!(connects(&mut agent)? == "connected");
    ensure!(daemon.agent(&["connect", LONG])? == "connected");
    let generation = generation(&daemon)?;
    // A little before its time; then the daemon has put an image without it in force.
    wait("the lease ends", || Ok((connects(&mut agent)? == unreachable()).then_some(())))?;
    wait("the daemon has seen it", || Ok((generation_is_after(&daemon, generation)?).then_some(())))?;
    let line = held.line()?;
    ensure!(line == "reset", "the flow of the lease ended as: {line}");
    for address in [LONG, FOR_GOOD] {
        ensure!(daemon.agent(&["connect", address])? == "connected", "{address} must hold on");
    }
    let denial = daemon.event("the denial", |event| event["verdict"]["errno"] == "ENETUNREACH")?;
    ensure!(denial["verdict"]["rule"] == "tester:network.default", "{denial}");
    ensure!(daemon.log().contains("a lease ends"), "{}", daemon.log());
    // Saved again, it is granted again.
    renew(&daemon)?;
    ensure!(connects(&mut agent)? == "connected");
    Ok(())
}

fn generation(daemon: &Daemon) -> Result<u64> {
    daemon.status()?["profiles"][0]["generation"].as_u64().context("a generation")
}

fn generation_is_after(daemon: &Daemon, before: u64) -> Result<bool> {
    Ok(generation(daemon)? > before)
}

fn ends_alone() -> Result<()> {
    let mut daemon = lending()?;
    let mut agents = Vec::new();
    for address in [SHORT, LONG, FOR_GOOD] {
        let mut agent = waiting_agent(&daemon, address)?;
        ensure!(connects(&mut agent)? == "connected", "{address}");
        agents.push(agent);
    }
    kill(&mut daemon)?;
    std::thread::sleep(HOLDS);
    let ended: Vec<String> = agents.iter_mut().map(connects).collect::<Result<_>>()?;
    // One image has one deadline: where nobody makes another image, all leases end with the first.
    ensure!(ended == [unreachable(), unreachable(), "connected".to_owned()], "{ended:?}");
    daemon.launch()?;
    let after: Vec<String> = agents.iter_mut().map(connects).collect::<Result<_>>()?;
    ensure!(after == [unreachable(), "connected".to_owned(), "connected".to_owned()], "{after:?}");
    Ok(())
}

fn over() -> Result<()> {
    Server::on(SHORT)?;
    let daemon = pinning_with(&PROFILE.replace("6s", "2020-01-01T00:00:00Z"))?;
    ensure!(daemon.log().contains("this grant ended at 2020-01-01T00:00:00Z"), "{}", daemon.log());
    ensure!(daemon.agent(&["connect", SHORT])? == unreachable());
    Ok(())
}

const NAMES: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { host: lent.example.test, ports: [18443], expires: 6s }
    - { host: kept.example.test, ports: [18443] }
";

/// A daemon that resolves, under [`NAMES`] written this moment; both names answer for an hour.
fn naming() -> Result<(Daemon, Zone)> {
    net()?;
    let zone = Zone::serve(Ipv4Addr::LOCALHOST.into())?;
    zone.set_addresses("lent.example.test", 3_600, &["198.51.100.7"]);
    zone.set_addresses("kept.example.test", 3_600, &["198.51.100.8"]);
    let mut daemon = Daemon::prepare(&NAMES.replace("6s", "1h"))?;
    daemon.pins = Some(daemon.path("pins"));
    daemon.arguments(&["--name-server", &zone.address.to_string()]);
    daemon.launch()?;
    daemon.write_profile(NAMES)?;
    let reloaded = daemon.ask(&["reload"])?;
    ensure!(reloaded.status.success(), "{reloaded:?}");
    Ok((daemon, zone))
}

fn both_are_reached(agent: &mut Asker) -> Result<()> {
    agent.must("reach lent.example.test 18443", "connected")?;
    agent.must("reach kept.example.test 18443", "connected")
}

fn name() -> Result<()> {
    let (daemon, _zone) = naming()?;
    let mut agent = Asker::start(&daemon)?;
    both_are_reached(&mut agent)?;
    let lent = "connect 198.51.100.7:18443";
    wait("the lease ends", || Ok((agent.does(lent)? == unreachable()).then_some(())))?;
    wait("the name is gone", || Ok((agent.does("resolve lent.example.test")? == "none").then_some(())))?;
    agent.must("connect 198.51.100.8:18443", "connected")?;
    agent.must("reach kept.example.test 18443", "connected")
}

fn name_alone() -> Result<()> {
    let (mut daemon, _zone) = naming()?;
    let mut agent = Asker::start(&daemon)?;
    both_are_reached(&mut agent)?;
    kill(&mut daemon)?;
    agent.must("connect 198.51.100.7:18443", "connected")?;
    std::thread::sleep(HOLDS);
    agent.must("connect 198.51.100.7:18443", &unreachable())?;
    agent.must("connect 198.51.100.8:18443", "connected")
}
