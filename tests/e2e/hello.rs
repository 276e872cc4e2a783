//! The name that a TLS client says first (`sni: require`), through the whole line.
//!
//! The server answers whatever comes, so that what it heard of can be told: hellos are made by hand here, in every form
//! that may go round the look, and by real clients.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::daemon::{Daemon, Talker, on_path, wait};
use crate::names::{Asker, daemon};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("N35_A03_a_hello_that_says_another_name_is_dropped_and_told", fronting),
        trial("N35_what_is_no_hello_or_not_whole_is_dropped", forms),
        trial("N35_a_granted_name_is_said_in_every_way_that_clients_have", granted),
        trial("N35_with_enforcement_off_every_hello_is_heard", unenforced),
        trial("a_rule_without_sni_grants_whatever_is_said", plain_rules),
        trial("a_hello_outlives_its_answer_a_reload_and_no_more", reloaded),
        trial("N35_a_connection_from_before_its_agent_is_no_place_for_a_hello", inherited),
        trial("N35_real_clients_say_the_granted_name_and_reach_no_other", clients),
    ]
}

const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { host: [api.example.test, '*.example.net'], ports: [18444, 18446], sni: require }
    - { host: plain.example.test, ports: [18444] }
    - { host: other.example.test, ports: [18445], sni: require }
";

const V4: &str = "198.51.100.7:18444";
const V6: &str = "[2001:db8:7::1]:18444";

/// Answers the first bytes of every connection.
fn listen() -> Result<()> {
    static MADE: OnceLock<()> = OnceLock::new();
    if MADE.set(()).is_err() {
        return Ok(());
    }
    for port in [18_444, 18_445] {
        let listener = TcpListener::bind(("::", port))?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut bytes = [0; 4_096];
                    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
                        if stream.write_all(b"heard").is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
    Ok(())
}

/// A daemon, and an agent that has looked up names which share an address.
fn set_up(profile: &str) -> Result<(Daemon, Asker)> {
    listen()?;
    let (daemon, zone) = daemon(profile, &[])?;
    for name in ["api.example.test", "a.example.net", "other.example.test", "evil.test"] {
        zone.set_addresses(name, 60, &["198.51.100.7", "2001:db8:7::1"]);
    }
    zone.set_addresses("plain.example.test", 60, &["198.51.100.8"]);
    let mut agent = Asker::start(&daemon)?;
    agent.must("resolve api.example.test", "198.51.100.7 2001:db8:7::1")?;
    Ok((daemon, agent))
}

fn greet(agent: &mut Asker, address: &str, form: &str, name: &str, wanted: &str) -> Result<()> {
    agent.must(&format!("greet {address} {form} {name}"), wanted)
}

fn hello_events(daemon: &Daemon) -> Result<Vec<Value>> {
    let all = daemon.events()?;
    Ok(all.into_iter().filter(|event| event["verdict"]["reason"] == "sni").collect())
}

/// A shared front end: the address is granted, the name that is said is not.
fn fronting() -> Result<()> {
    let (daemon, mut agent) = set_up(PROFILE)?;
    agent.must("connect 198.51.100.7:18444", "connected")?;
    greet(&mut agent, V4, "hello", "evil.test", "silence")?;
    let event = daemon.event("the denial", |event| event["verdict"]["reason"] == "sni")?;
    ensure!(event["type"] == "network" && event["verdict"]["effect"] == "deny", "{event}");
    ensure!(event["network"]["sni"] == "evil.test" && event["network"]["hello"] == "named", "{event}");
    ensure!(event["network"]["host"] == "api.example.test" && event["network"]["port"] == 18_444, "{event}");
    ensure!(event["network"]["address"] == "198.51.100.7", "{event}");
    ensure!(event["verdict"]["rule"] == "tester:network.allow[0]", "{event}");
    ensure!(event["network"]["local_port"].as_u64().is_some_and(|port| port > 0), "{event}");
    // TCP sends it again and again; it is told once.
    greet(&mut agent, V6, "hello", "evil.test", "silence")?;
    wait("the second denial", || Ok((hello_events(&daemon)?.len() >= 2).then_some(())))?;
    ensure!(hello_events(&daemon)?.len() == 2, "{:?}", hello_events(&daemon)?);
    let count = |effect: &str| {
        format!("agent_monitor_decisions_total{{domain=\"sni\",effect=\"{effect}\",mode=\"enforce\"}}")
    };
    wait("the counter", || Ok(daemon.metric(&count("deny"))?.filter(|total| *total >= 2.0)))?;
    // Bytes of the agent's choice are shown as what they are.
    greet(&mut agent, V4, "hello", "evil\u{1b}[2J.test", "silence")?;
    daemon.event("the escaped name", |event| event["network"]["sni"] == "evil\\x1b[2j.test")?;
    // Of a name that a rule grants at another port, and of one that is granted here and was never looked up.
    greet(&mut agent, V4, "hello", "other.example.test", "silence")?;
    greet(&mut agent, V4, "hello", "b.example.net", "silence")?;
    greet(&mut agent, V4, "hello", "api.example.test", "heard")?;
    wait("the grants are counted", || Ok(daemon.metric(&count("allow"))?.filter(|total| *total >= 1.0)))?;
    Ok(())
}

fn forms() -> Result<()> {
    let (daemon, mut agent) = set_up(PROFILE)?;
    for (form, hello) in [
        ("plain", "not-tls"),
        ("short", "not-tls"),
        ("alert", "not-tls"),
        ("no-name", "no-name"),
        ("no-extensions", "no-name"),
        ("empty", "no-name"),
        ("two", "not-tls"),
        ("wrong-length", "not-tls"),
        ("segments", "cut"),
        ("first-byte", "cut"),
        ("records", "cut"),
        ("smuggled", "not-tls"),
    ] {
        for address in [V4, V6] {
            let before = hello_events(&daemon)?.len();
            greet(&mut agent, address, form, "api.example.test", "silence")?;
            let event = wait(form, || Ok(hello_events(&daemon)?.into_iter().nth(before)))?;
            ensure!(event["network"]["hello"] == hello, "{form}: {event}");
            ensure!(event["network"].get("sni").is_none(), "{form}: {event}");
        }
    }
    greet(&mut agent, V4, "zero", "api.example.test", "silence")?;
    daemon.event("the name with a zero", |event| event["network"]["sni"] == "api.example.test\\x00")?;
    greet(&mut agent, V4, "open", "evil.test", "silence")?;
    // What was dropped has not been sent for TCP, so what is written next goes with it: then the hello is whole. What
    // stands before a hello still stands there.
    greet(&mut agent, V4, "writes", "api.example.test", "heard")?;
    greet(&mut agent, V4, "smuggled-writes", "api.example.test", "silence")
}

fn granted() -> Result<()> {
    let (daemon, mut agent) = set_up(PROFILE)?;
    for address in [V4, V6] {
        for form in ["hello", "behind-key", "open"] {
            greet(&mut agent, address, form, "api.example.test", "heard")?;
        }
        greet(&mut agent, address, "hello", "API.Example.TEST", "heard")?;
    }
    // Another granted name of the address, when it was looked up.
    agent.must("resolve A.example.net", "198.51.100.7 2001:db8:7::1")?;
    greet(&mut agent, V4, "hello", "a.example.net", "heard")?;
    // What follows the hello is nobody's business: the stream stays open.
    ensure!(hello_events(&daemon)?.is_empty(), "{:?}", hello_events(&daemon)?);
    Ok(())
}

/// The twin.
fn unenforced() -> Result<()> {
    let (daemon, mut agent) = set_up(&PROFILE.replace("mode: enforce", "mode: audit"))?;
    for form in ["hello", "plain", "no-name", "segments", "first-byte", "records", "smuggled", "open"] {
        greet(&mut agent, V4, form, "evil.test", "heard")?;
    }
    let event = daemon.event("the would-denial", |event| event["verdict"]["reason"] == "sni")?;
    ensure!(event["verdict"]["effect"] == "would-deny" && event["network"]["sni"] == "evil.test", "{event}");
    Ok(())
}

fn plain_rules() -> Result<()> {
    let (daemon, mut agent) = set_up(PROFILE)?;
    agent.must("resolve plain.example.test", "198.51.100.8")?;
    for form in ["hello", "plain", "segments"] {
        greet(&mut agent, "198.51.100.8:18444", form, "evil.test", "heard")?;
    }
    ensure!(hello_events(&daemon)?.is_empty(), "{:?}", hello_events(&daemon)?);
    // Rules add up: where one that does not ask grants the same, nobody looks.
    greet(&mut agent, V4, "plain", "x", "silence")?;
    daemon.write_profile(&format!("{PROFILE}    - {{ host: '*.example.test', ports: [18444] }}\n"))?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    greet(&mut agent, V4, "plain", "x", "heard")
}

fn reloaded() -> Result<()> {
    let (daemon, mut agent) = set_up(PROFILE)?;
    agent.must("greet 198.51.100.7:18444 hello api.example.test", "heard")?;
    // Names are numbered anew, and another grant of the same name.
    daemon.write_profile(
        &PROFILE.replace("  allow:\n", "  allow:\n    - { host: a.example.com, ports: [1] }\n"),
    )?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("go-on", "heard")?;
    greet(&mut agent, V4, "hello", "api.example.test", "heard")?;
    greet(&mut agent, V4, "hello", "evil.test", "silence")?;
    // A connection that had to say nothing, and has, goes on when the rule begins to ask.
    let asking_nothing = PROFILE.replace(", sni: require", "");
    daemon.write_profile(&asking_nothing)?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("greet 198.51.100.7:18444 plain x", "heard")?;
    daemon.write_profile(PROFILE)?;
    ensure!(daemon.ask(&["reload"])?.status.success());
    agent.must("go-on", "heard")?;
    greet(&mut agent, V4, "plain", "x", "silence")?;
    // The answer holds no more, and the client that called while it did is late.
    greet(&mut agent, V4, "late", "api.example.test", "heard")
}

/// Whom it called as what was said before anybody looked.
fn inherited() -> Result<()> {
    let (daemon, _agent) = set_up(PROFILE)?;
    for (attached, wanted) in [(false, "heard"), (true, "silence")] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([agent_monitor_tests::agent::ARGUMENT, "names"]);
        let mut talker = Talker::spawn(command)?;
        ensure!(talker.line()? == "ready");
        let pid = talker.pid().to_string();
        std::fs::write(daemon.cgroup.path().join("cgroup.procs"), &pid)?;
        let mut process = Asker::from(talker);
        greet(&mut process, V4, "hello", "evil.test", "heard")?;
        if attached {
            let output = daemon.ask(&["attach", "--pid", &pid, "--profile", "tester"])?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        process.must("go-on api.example.test", wanted)?;
    }
    Ok(())
}

/// A server of TLS, ended with the test.
struct TlsServer(Child);

impl TlsServer {
    fn start(directory: &std::path::Path, openssl: &std::path::Path) -> Result<Self> {
        let (key, certificate) = (directory.join("key.pem"), directory.join("certificate.pem"));
        let made = Command::new(openssl)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = Command::new(openssl)
            .args(["s_server", "-accept", "0.0.0.0:18446", "-www", "-quiet", "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("server.log"))?)
            .spawn()?;
        let mut server = TlsServer(server);
        wait("the TLS server listens", || {
            let log = || std::fs::read_to_string(directory.join("server.log")).unwrap_or_default();
            ensure!(server.0.try_wait()?.is_none(), "the TLS server ended: {}", log());
            Ok(std::net::TcpStream::connect("127.0.0.1:18446").ok())
        })?;
        Ok(server)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clients, and the scripts of those that need one: each calls port 18446 of 198.51.100.7 and says its first argument.
const CLIENTS: &[(&str, &str)] = &[
    ("curl", ""),
    (
        "python3",
        "import socket, ssl, sys
context = ssl._create_unverified_context()
plain = socket.create_connection(('198.51.100.7', 18446), 3)
stream = context.wrap_socket(plain, server_hostname=sys.argv[1])
stream.write(b'GET / HTTP/1.0\\r\\n\\r\\n')
print(stream.read(12))
",
    ),
    (
        "node",
        "const options = {host: '198.51.100.7', port: 18446, servername: process.argv[2], rejectUnauthorized: false};
setTimeout(() => process.exit(1), 3000);
require('https').get(options, answer => { console.log(answer.statusCode); process.exit(); });
",
    ),
];

fn clients() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        println!("skipped: no openssl here, so no TLS server");
        return Ok(());
    };
    let (daemon, mut agent) = set_up(PROFILE)?;
    let mut tried = 0;
    for (program, words) in CLIENTS {
        let Some(path) = on_path(program) else {
            println!("skipped: no {program} here");
            continue;
        };
        tried += 1;
        let script = daemon.path(&format!("client-{program}"));
        std::fs::write(&script, words)?;
        let mut says = |name: &str| {
            // Each call its own: a server of one connection at a time waits for what was dropped.
            let _server = TlsServer::start(daemon.directory.path(), &openssl)?;
            let (to, url) = (format!("--connect-to {name}::198.51.100.7:"), format!("https://{name}:18446/"));
            let words = match *program {
                "curl" => format!("-sSk -m 3 -o /dev/null -w %{{http_code}} {to} {url}"),
                _ => format!("{} {name}", script.display()),
            };
            agent.does(&format!("run {} {words}", path.display()))
        };
        let said = says("api.example.test")?;
        ensure!(said.contains("200"), "{program}: {said}");
        let said = says("evil.test")?;
        ensure!(!said.contains("200"), "{program} reached another name: {said}");
    }
    ensure!(tried > 0, "no client is installed here");
    let told = hello_events(&daemon)?;
    ensure!(
        told.len() >= tried && told.iter().all(|event| event["network"]["sni"] == "evil.test"),
        "{told:?}"
    );
    Ok(())
}
