//! `agent-monitor explain`: what a profile says about a request or a recorded event, by which rule, and what would change
//! it.
//!
//! Exit code 0 whatever the verdict. Needs no privilege for a request and a profile; the events of a daemon are root's.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_monitor_common::path::Right;
use agent_monitor_common::request::Protocol;
use anyhow::Context;

use super::explanation::{Explained, Explanation, Outside, Told};
use super::profile::{self, BasesArgs};
use super::{SocketArgs, colours, event_files, print};
use crate::control::protocol::Status;
use crate::event::escape;
use crate::event::model::Event;
use crate::exit::{Exit, Failed};
use crate::policy::judge::{self, Destination, Request};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("asked").required(true))]
pub struct ExplainArgs {
    /// An event, by its id or the beginning of it
    #[arg(value_name = "EVENT", group = "asked")]
    pub event: Option<String>,
    /// A file or directory: is what `--access` says allowed?
    #[arg(long, value_name = "PATH", group = "asked")]
    pub file: Option<OsString>,
    /// What to do with the file
    #[arg(long, value_enum, value_name = "ACCESS", requires = "file", default_value = "read")]
    pub access: Access,
    /// A program: may it be executed?
    #[arg(long, value_name = "PATH", group = "asked")]
    pub exec: Option<OsString>,
    /// A destination: may it be reached? A name, or an address (IPv6 in brackets), and a port
    #[arg(long, value_name = "HOST:PORT", group = "asked")]
    pub connect: Option<String>,
    /// A local port: may it be listened on? On 127.0.0.1 where no address is given
    #[arg(long, value_name = "[ADDRESS:]PORT", group = "asked")]
    pub listen: Option<String>,
    /// A Unix socket by its path, or `@` and its abstract name: may it be connected to?
    #[arg(long, value_name = "PATH", group = "asked")]
    pub unix: Option<OsString>,
    /// A kind of socket (`raw`, `netlink` …): does it exist?
    #[arg(long, value_name = "KIND", group = "asked")]
    pub socket_kind: Option<String>,
    /// A capability: may it be used?
    #[arg(long, value_name = "NAME", group = "asked")]
    pub capability: Option<String>,
    /// Another privilege (`ptrace`, `mount`, `bpf` …): is it there? `own-ptrace`: on processes of the same agent
    #[arg(long, value_name = "KIND", group = "asked")]
    pub privilege: Option<String>,
    /// A system call: is its caller killed?
    #[arg(long, value_name = "NAME", group = "asked")]
    pub syscall: Option<String>,
    /// Of `--connect` and `--listen`
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "tcp")]
    pub protocol: Transport,
    /// The program that asks, by the path of its executable [default: one that no rule names]
    #[arg(long, value_name = "PATH")]
    pub exe: Option<OsString>,
    /// The profile, by file or name [default: the event's]
    #[arg(long, short, value_name = "PROFILE", required_unless_present = "event")]
    pub profile: Option<String>,
    /// Take paths as they are, and not as this host resolves their links now
    #[arg(long)]
    pub no_resolve: bool,
    /// Look the event up in this file [default: the running daemon's]
    #[arg(long, value_name = "FILE", requires = "event")]
    pub events: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bases: BasesArgs,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What can be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Access {
    Read,
    /// Also create, remove, rename, truncate, change mode or owner.
    Write,
    /// Also map as code.
    Execute,
}

impl Access {
    const fn right(self) -> Right {
        match self {
            Self::Read => Right::Read,
            Self::Write => Right::Write,
            Self::Execute => Right::Execute,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::Icmp => Protocol::Icmp,
        }
    }
}

/// Prints the explanation.
///
/// # Errors
/// A request that can't be read (64), a profile that can't be used (65), an event that is not there.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let daemon = profile::daemon(&args.socket.socket);
    let explained = match &args.event {
        Some(id) => recorded(args, id, daemon.as_ref())?,
        None => asked(args, daemon.as_ref())?,
    };
    let text = match (args.json, &explained) {
        (true, _) => format!("{}\n", serde_json::to_string_pretty(&explained).context("JSON")?),
        (false, Explanation::Outside(one)) => one.text(),
        (false, Explanation::Rules(all)) => {
            let colour = colours(&std::io::stdout());
            all.iter().map(|one| one.text(colour)).collect::<Vec<_>>().join("\n")
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn usage(error: &judge::BadRequest) -> anyhow::Error {
    Failed::error(Exit::Usage, error.to_string())
}

/// A request of the command line; of a name that the profile knows nothing about, one for each address it has here.
fn asked(args: &ExplainArgs, daemon: Option<&Status>) -> anyhow::Result<Explanation> {
    let wanted = args.profile.as_deref().unwrap_or_default();
    let judge = args.bases.judge(wanted, daemon)?;
    let exe = args.exe.as_ref().map(|exe| resolved(exe.as_bytes(), args.no_resolve).0);
    let mut notes = Vec::new();
    let mut path = |given: &OsString| {
        let given = given.as_bytes();
        let (path, directory) = resolved(given, args.no_resolve);
        if path != given.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(given) {
            notes.push(format!("{} leads to it on this host", escape::text(given)));
        }
        let end: &[u8] = if directory && path != b"/" { b"/" } else { b"" };
        [&path[..], end].concat()
    };
    let protocol = args.protocol.into();
    let request = if let Some(file) = &args.file {
        Request::path(&path(file), args.access.right() as u32)
    } else if let Some(program) = &args.exec {
        Request::path(&path(program), Right::Execute as u32)
    } else if let Some(to) = &args.connect {
        Request::connect(to, protocol)
    } else if let Some(at) = &args.listen {
        Request::listen(at, protocol)
    } else if let Some(name) = &args.unix {
        if name.as_bytes().starts_with(b"@") {
            Request::unix(name.as_bytes())
        } else {
            Request::unix(&path(name))
        }
    } else if let Some(kind) = &args.socket_kind {
        Request::socket(kind)
    } else if let Some(name) = &args.capability {
        Request::capability(name)
    } else if let Some(kind) = &args.privilege {
        Request::privilege(kind)
    } else {
        Request::syscall(args.syscall.as_deref().unwrap_or_default())
    };
    let request = request.map_err(|error| usage(&error))?;
    let requests = match &request {
        Request::Connect { to: Destination::Host(name), port, protocol } if !judge.grants_names() => {
            notes.push(format!(
                "the profile grants no names: these are the addresses of {name} as this host knows them"
            ));
            let found = (name.as_str(), *port).to_socket_addrs().with_context(|| {
                format!("`{}` grants no names, and {name} has no address here", judge.profile().name)
            })?;
            let mut all: Vec<Request> = found
                .map(|at| Request::Connect {
                    to: Destination::Address(at.ip().to_canonical()),
                    port: *port,
                    protocol: *protocol,
                })
                .collect();
            all.dedup();
            all
        }
        _ => vec![request],
    };
    let explain = |request| Explained::new(&judge, request, exe.as_deref(), daemon, notes.clone(), None);
    requests.into_iter().map(explain).collect::<Result<_, _>>().map(Explanation::Rules)
}

/// Where a path leads on this host, and whether to a directory. What does not exist yet is looked up as far as it does.
fn resolved(path: &[u8], as_it_is: bool) -> (Vec<u8>, bool) {
    let given = Path::new(std::ffi::OsStr::from_bytes(path));
    if as_it_is || !given.is_absolute() {
        let directory = path.len() > 1 && path.ends_with(b"/");
        return (path.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(path).to_vec(), directory);
    }
    let mut missing = Vec::new();
    let mut at = given;
    loop {
        if let Ok(real) = at.canonicalize() {
            let directory = missing.is_empty() && real.is_dir();
            let whole = missing.iter().rev().fold(real, |path, step| path.join(step));
            return (whole.into_os_string().into_vec(), directory);
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                at = parent;
            }
            _ => return (path.to_vec(), false),
        }
    }
}

/// An event of the file, by its id or the beginning of one.
fn recorded(args: &ExplainArgs, id: &str, daemon: Option<&Status>) -> anyhow::Result<Explanation> {
    let file = args.events.clone().unwrap_or_else(|| event_files::of_daemon(daemon));
    let wanted = id.to_ascii_uppercase();
    let mut found: Vec<(String, Event<'static>)> = Vec::new();
    event_files::lines(&file, |line| {
        // Without reading every line as JSON: the file may be long.
        if line.contains(&wanted)
            && let Ok(event) = serde_json::from_str::<Event<'static>>(line)
            && event.id.0.to_string().starts_with(&wanted)
        {
            found.push((event.id.0.to_string(), event));
        }
        Ok(found.len() < 2)
    })?;
    let [(_, event)] = found.as_slice() else {
        let message = match found.as_slice() {
            [] => format!("no event in {} has an id that begins with {id}", file.display()),
            _ => format!(
                "several events in {} have an id that begins with {id}: give more of it",
                file.display()
            ),
        };
        return Err(Failed::error(Exit::Usage, message));
    };
    let named = event.agent.as_ref().map(|agent| agent.profile.clone().into_owned());
    let profile = match args.profile.clone().or_else(|| of_running(daemon, named.as_deref())).or(named) {
        Some(profile) => profile,
        None => {
            return Err(Failed::error(Exit::Usage, "the event names no profile: give one with --profile"));
        }
    };
    let judge = args.bases.judge(&profile, daemon)?;
    let told = Told::of(event);
    let request = match judge::of_event(event) {
        Ok(request) => request,
        Err(why) => return Ok(Explanation::Outside(Outside::new(event, why))),
    };
    let exe = event.process.as_ref().and_then(|process| process.exe.as_deref()).and_then(escape::bytes);
    Explained::new(&judge, request, exe.as_deref(), daemon, Vec::new(), Some(told))
        .map(|one| Explanation::Rules(vec![one]))
}

/// The file of a profile that the daemon has in force.
fn of_running(daemon: Option<&Status>, name: Option<&str>) -> Option<String> {
    daemon?.profiles.iter().find(|profile| Some(profile.name.as_str()) == name)?.files.first().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_the_host_says_as_far_as_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let asked = |path: &str, as_it_is| {
            let (path, directory) = resolved(root.join(path).as_os_str().as_bytes(), as_it_is);
            (String::from_utf8(path).unwrap().replace(root.to_str().unwrap(), ""), directory)
        };
        assert_eq!(asked("link", false), ("/real".to_owned(), true));
        assert_eq!(asked("link/new/file", false), ("/real/new/file".to_owned(), false));
        assert_eq!(asked("link/", true), ("/link".to_owned(), true));
        assert_eq!(asked("link", true), ("/link".to_owned(), false));
    }
}
