//! Clients as people have them: each looks a granted name up unchanged, and is told that another does not exist.
//!
//! They differ in what they do: glibc sends two questions on one connected socket and looks where answers come from, musl
//! asks all servers from one unconnected socket, c-ares compares what `recvfrom` says, Go asks by itself, dig by TCP too.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::daemon::{Daemon, on_path};
use crate::names::{Asker, daemon};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("N29_common_clients_resolve_granted_names_unchanged", clients),
        trial("N29_with_enforcement_off_clients_resolve_every_name", unenforced),
    ]
}

const PROFILE: &str = "\
version: 1
name: tester
mode: enforce
network:
  allow:
    - { host: api.example.test, ports: [18443] }
";

/// Where the name is.
const ADDRESS: &str = "198.51.100.7";

/// A client: the program that it needs, how it is called, and what it says of a name that does not exist.
struct Client {
    what: &'static str,
    needs: &'static str,
    words: &'static str,
    unknown: &'static str,
}

const fn client(
    what: &'static str,
    needs: &'static str,
    words: &'static str,
    unknown: &'static str,
) -> Client {
    Client { what, needs, words, unknown }
}

/// `DIR` is the directory of the scripts and of what was built.
const CLIENTS: &[Client] = &[
    client("getent (glibc)", "getent", "hosts NAME", "2"),
    client("curl", "curl", "-sS -m 2 -o /dev/null -w %{remote_ip}_%{exitcode} telnet://NAME:18443", "_6"),
    client("Python getaddrinfo", "python3", "DIR/look_up.py NAME", "EAI_NONAME"),
    client("Node dns.lookup", "node", "DIR/look_up.js lookup NAME", "ENOTFOUND"),
    client("Node dns.resolve4 (c-ares)", "node", "DIR/look_up.js resolve4 NAME", "ENOTFOUND"),
    client("dig", "dig", "+noall +comments +answer +tries=1 NAME A", "NXDOMAIN"),
    client("dig +tcp", "dig", "+tcp +noall +comments +answer +tries=1 NAME A", "NXDOMAIN"),
    client("nslookup", "nslookup", "NAME", "NXDOMAIN"),
    client("a static program of musl", "DIR/musl", "NAME", "EAI_NONAME"),
    client("Go without cgo", "DIR/go", "NAME", "no such host"),
];

const SOURCES: &[(&str, &str)] = &[
    ("look_up.c", include_str!("clients/look_up.c")),
    ("look_up.go", include_str!("clients/look_up.go")),
    ("look_up.py", include_str!("clients/look_up.py")),
    ("look_up.js", include_str!("clients/look_up.js")),
];

/// Builds what must be built, where its compiler is.
fn build(directory: &Path) -> Result<()> {
    for (name, text) in SOURCES {
        std::fs::write(directory.join(name), text)?;
    }
    let mut musl = on_path("musl-gcc").map(Command::new);
    if let Some(compiler) = &mut musl {
        compiler.args(["-static", "-O1", "-o"]).arg(directory.join("musl")).arg(directory.join("look_up.c"));
    }
    let mut go = on_path("go").map(Command::new);
    if let Some(compiler) = &mut go {
        compiler
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", directory.join("go-cache"))
            .env("GOPATH", directory.join("go-path"))
            .env("GO111MODULE", "off")
            .args(["build", "-o"])
            .arg(directory.join("go"))
            .arg(directory.join("look_up.go"));
    }
    for mut compiler in musl.into_iter().chain(go) {
        let built = compiler.output().with_context(|| format!("{compiler:?}"))?;
        ensure!(built.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(())
}

/// The program of a client on this host.
fn program(client: &Client, directory: &Path) -> Option<PathBuf> {
    match client.needs.strip_prefix("DIR/") {
        Some(built) => Some(directory.join(built)).filter(|program| program.is_file()),
        None => on_path(client.needs),
    }
}

/// Has each client of this host look `name` up; what it is and what it said.
fn look_up(daemon: &Daemon, agent: &mut Asker, name: &str) -> Result<Vec<(&'static Client, String)>> {
    let mut said = Vec::new();
    for client in CLIENTS {
        let Some(program) = program(client, daemon.directory.path()) else {
            println!("skipped: {} (`{}` is not on this host)", client.what, client.needs);
            continue;
        };
        let directory = daemon.directory.path().display().to_string();
        let words = client.words.replace("DIR", &directory).replace("NAME", name);
        said.push((client, agent.does(&format!("run {} {words}", program.display()))?));
    }
    ensure!(!said.is_empty() || std::env::var_os("AGENT_MONITOR_VM").is_some(), "no client is on this host");
    Ok(said)
}

fn clients() -> Result<()> {
    let (daemon, zone) = daemon(PROFILE, &[])?;
    build(daemon.directory.path())?;
    zone.set_addresses("api.example.test", 60, &[ADDRESS]);
    zone.set_addresses("evil.example.test", 60, &[ADDRESS]);
    let mut agent = Asker::start(&daemon)?;
    for (client, said) in look_up(&daemon, &mut agent, "api.example.test")? {
        println!("{}: {said}", client.what);
        ensure!(said.contains(ADDRESS), "{}: {said}", client.what);
    }
    for (client, said) in look_up(&daemon, &mut agent, "evil.example.test")? {
        println!("{}: {said}", client.what);
        ensure!(said.contains(client.unknown) && !said.contains(ADDRESS), "{}: {said}", client.what);
    }
    ensure!(zone.asked().iter().all(|asked| !asked.contains("evil")), "{:?}", zone.asked());
    Ok(())
}

/// The twin: so their words for a name that does not exist are about this one.
fn unenforced() -> Result<()> {
    let (daemon, zone) = daemon(&PROFILE.replace("mode: enforce", "mode: audit"), &[])?;
    build(daemon.directory.path())?;
    zone.set_addresses("evil.example.test", 60, &[ADDRESS]);
    let mut agent = Asker::start(&daemon)?;
    for (client, said) in look_up(&daemon, &mut agent, "evil.example.test")? {
        ensure!(said.contains(ADDRESS), "{}: {said}", client.what);
    }
    Ok(())
}
