//! What an agent could ask for, as a person writes it.
//!
//! Made by the commands that ask what a profile says (`explain`, `test`, `simulate`) and from recorded events; judged by
//! [`super::Judge`]. A request names one object, never a pattern.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use agent_monitor_common::path::{Right, Rights};
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{Protocol, SocketKind};

use crate::event::escape;
use crate::policy::{capabilities, names, syscalls};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// To connect or send.
    Connect { to: Destination, port: u16, protocol: Protocol },
    /// To look a name up, at whatever port it is called then; in the form of [`Destination::Host`].
    LookUp(String),
    /// To listen on a local address.
    Listen { address: IpAddr, port: u16, protocol: Protocol },
    /// To do something to the object of this path.
    Path {
        /// As the kernel resolves it, from `/`; of a Unix socket with an abstract name `@` and that.
        path: Vec<u8>,
        /// One [`Right`] or several.
        rights: Rights,
        /// It is an open directory, which is judged by what lies in it too.
        directory: bool,
    },
    /// To make a socket of this kind.
    Socket(SocketKind),
    /// To use the capability of this number.
    Capability(u32),
    /// A privilege that is no capability; `own`: aimed at a process of the same agent.
    Privilege { privilege: Privilege, own: bool },
    /// A system call of the native table, by number.
    Syscall(u32),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    Address(IpAddr),
    /// A name in the form that rules have: lower case, A-labels, no trailing dot.
    Host(String),
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(out, "{address}"),
            Self::Host(name) => out.write_str(name),
        }
    }
}

/// A request that can't be read, and what it should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRequest(pub String);

fn bad<T>(text: impl Into<String>) -> Result<T, BadRequest> {
    Err(BadRequest(text.into()))
}

impl Request {
    /// `HOST:PORT`: a name, an IPv4 address, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// [`BadRequest`]; so do the others.
    pub fn connect(text: &str, protocol: Protocol) -> Result<Self, BadRequest> {
        let (host, port) = host_and_port(text)?;
        let to = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => Destination::Address(address.to_canonical()),
            Err(_) if host.starts_with('*') => {
                return bad(format!("{host:?} is a pattern: ask about one name below it"));
            }
            Err(_) => Destination::Host(
                names::host(host).map_err(|problem| BadRequest(problem.message))?.to_string(),
            ),
        };
        Ok(Self::Connect { to, port, protocol })
    }

    /// `PORT`, which means on 127.0.0.1, or `ADDRESS:PORT`.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn listen(text: &str, protocol: Protocol) -> Result<Self, BadRequest> {
        if let Ok(port) = text.parse() {
            return Ok(Self::Listen { address: Ipv4Addr::LOCALHOST.into(), port, protocol });
        }
        match text.parse::<SocketAddr>() {
            Ok(at) => Ok(Self::Listen { address: at.ip().to_canonical(), port: at.port(), protocol }),
            Err(_) => bad(format!("{text:?} is neither a port nor an address and port (`[::1]:8080`)")),
        }
    }

    /// A path from `/`; one that ends in `/` is an open directory.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn path(path: &[u8], rights: Rights) -> Result<Self, BadRequest> {
        if path.first() != Some(&b'/') {
            return bad(format!("{:?} does not begin with `/`", escape::text(path)));
        }
        let directory = path.len() > 1 && path.ends_with(b"/");
        let path = if directory { &path[..path.len() - 1] } else { path };
        // As the kernel resolves it: no `.`, no `..`, no empty step.
        if path.len() > 1 && path[1..].split(|&b| b == b'/').any(|step| matches!(step, b"" | b"." | b"..")) {
            return bad(format!("{:?} has an empty step, `.` or `..`", escape::text(path)));
        }
        Ok(Self::Path { path: path.to_vec(), rights, directory: directory || path == b"/" })
    }

    /// A path from `/`, or `@` and an abstract name.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn unix(name: &[u8]) -> Result<Self, BadRequest> {
        if name.first() == Some(&b'@') && name.len() > 1 {
            let rights = Right::Connect as Rights;
            return Ok(Self::Path { path: name.to_vec(), rights, directory: false });
        }
        match Self::path(name, Right::Connect as Rights)? {
            Self::Path { directory: true, .. } => bad("a directory is no socket"),
            request => Ok(request),
        }
    }

    /// A word of `network.sockets`.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn socket(word: &str) -> Result<Self, BadRequest> {
        match SocketKind::ALL.iter().find(|kind| kind.name() == word) {
            Some(kind) => Ok(Self::Socket(*kind)),
            None => bad(format!(
                "{word:?} is no kind of socket; there are {}",
                SocketKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
            )),
        }
    }

    /// A capability's name, with or without `CAP_`.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn capability(word: &str) -> Result<Self, BadRequest> {
        let lower = word.to_ascii_lowercase();
        let name = lower.strip_prefix("cap_").unwrap_or(&lower);
        match capabilities::NAMES.iter().position(|known| *known == name) {
            Some(number) => Ok(Self::Capability(number as u32)),
            None => bad(format!("{word:?} is no capability (capabilities(7)), such as `net_admin`")),
        }
    }

    /// The word that events use for a privilege, `own-` in front of one that is aimed at the agent's own process.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn privilege(word: &str) -> Result<Self, BadRequest> {
        let (name, own) = word.strip_prefix("own-").map_or((word, false), |name| (name, true));
        let known =
            |privilege: &&Privilege| privilege.name() == name && !matches!(privilege, Privilege::Capability);
        let aimed = |privilege: &Privilege| matches!(privilege, Privilege::Ptrace | Privilege::Signal);
        match Privilege::ALL.iter().find(known) {
            Some(&privilege) if !own || aimed(&privilege) => Ok(Self::Privilege { privilege, own }),
            _ => {
                let all = Privilege::ALL.iter().filter(|kind| !matches!(kind, Privilege::Capability));
                let mut words: Vec<&str> = all.map(|kind| kind.name()).collect();
                words.extend(["own-ptrace", "own-signal"]);
                bad(format!("{word:?} is no privilege; there are {}", words.join(", ")))
            }
        }
    }

    /// A system call by name.
    ///
    /// # Errors
    /// See [`Request::connect`].
    pub fn syscall(word: &str) -> Result<Self, BadRequest> {
        match syscalls::number(word) {
            Some(number) => Ok(Self::Syscall(number)),
            None => bad(format!("{word:?} is no system call of this architecture")),
        }
    }
}

fn host_and_port(text: &str) -> Result<(&str, u16), BadRequest> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return bad(format!("{text:?} has no port: write `{text}:443`"));
    };
    if host.contains(':') && !host.starts_with('[') {
        return bad(format!("{text:?}: write an IPv6 address in brackets, `[{text}]:443`"));
    }
    match port.parse() {
        Ok(port) if !host.is_empty() => Ok((host, port)),
        _ => bad(format!("{text:?} is no name or address and port, such as `api.example.com:443`")),
    }
}

/// `read`, `write+execute`.
fn words(rights: Rights) -> String {
    let held = Right::ALL.iter().filter(|&&right| rights & right as Rights != 0);
    held.map(|right| right.name()).collect::<Vec<_>>().join("+")
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { to: Destination::Address(address), port, protocol } => {
                write!(out, "connect {} {}", protocol.name(), SocketAddr::new(*address, *port))
            }
            Self::Connect { to: Destination::Host(name), port, protocol } => {
                write!(out, "connect {} {name}:{port}", protocol.name())
            }
            Self::LookUp(name) => write!(out, "look up {name}"),
            Self::Listen { address, port, protocol } => {
                write!(out, "listen {} {}", protocol.name(), SocketAddr::new(*address, *port))
            }
            Self::Path { path, rights, directory } => {
                let end = if *directory && path != b"/" { "/" } else { "" };
                write!(out, "{} {}{end}", words(*rights), escape::text(path))
            }
            Self::Socket(kind) => write!(out, "socket {}", kind.name()),
            Self::Capability(number) => match capabilities::name(*number) {
                Some(name) => write!(out, "capability {name}"),
                None => write!(out, "capability {number}"),
            },
            Self::Privilege { privilege, own } => {
                write!(out, "privilege {}{}", if *own { "own-" } else { "" }, privilege.name())
            }
            Self::Syscall(number) => match syscalls::name(*number) {
                Some(name) => write!(out, "system call {name}"),
                None => write!(out, "system call {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Rights = Right::Read as Rights;

    #[test]
    fn requests_are_read_as_they_are_written() {
        let shown = |request: Result<Request, BadRequest>| request.unwrap().to_string();
        let tcp = Protocol::Tcp;
        for (written, read) in [
            ("10.0.0.5:22", "connect tcp 10.0.0.5:22"),
            ("[::ffff:10.0.0.5]:22", "connect tcp 10.0.0.5:22"),
            ("[fd00::1]:443", "connect tcp [fd00::1]:443"),
            ("API.Example.com.:443", "connect tcp api.example.com:443"),
            ("bücher.example:443", "connect tcp xn--bcher-kva.example:443"),
        ] {
            assert_eq!(shown(Request::connect(written, tcp)), read);
        }
        assert_eq!(shown(Request::listen("8080", tcp)), "listen tcp 127.0.0.1:8080");
        assert_eq!(shown(Request::listen("[::]:80", Protocol::Udp)), "listen udp [::]:80");
        assert_eq!(shown(Request::path(b"/usr/", READ)), "read /usr/");
        assert_eq!(shown(Request::path(b"/", READ)), "read /");
        assert_eq!(shown(Request::path(b"/a\n\xff", READ)), "read /a\\x0a\\xff");
        assert_eq!(shown(Request::unix(b"@bus")), "connect @bus");
        assert_eq!(shown(Request::capability("CAP_NET_ADMIN")), "capability net_admin");
        assert_eq!(shown(Request::privilege("own-ptrace")), "privilege own-ptrace");
        assert_eq!(shown(Request::syscall("bpf")), "system call bpf");
        assert_eq!(shown(Request::socket("raw")), "socket raw");
    }

    #[test]
    fn what_is_no_request_is_told_with_what_would_be() {
        let tcp = Protocol::Tcp;
        for (wrong, told) in [
            (Request::connect("host", tcp), "host:443"),
            (Request::connect("::1:443", tcp), "brackets"),
            (Request::connect(":443", tcp), "api.example.com:443"),
            (Request::connect("a:70000", tcp), "api.example.com:443"),
            (Request::connect("*.example.com:443", tcp), "one name"),
            (Request::listen("x", tcp), "[::1]:8080"),
            (Request::path(b"etc/passwd", READ), "begin with `/`"),
            (Request::path(b"/a/../b", READ), "`..`"),
            (Request::path(b"//a", READ), "empty step"),
            (Request::unix(b"@"), "begin with `/`"),
            (Request::unix(b"/run/"), "directory"),
            (Request::capability("root"), "net_admin"),
            (Request::privilege("own-bpf"), "own-ptrace"),
            (Request::privilege("capability"), "own-ptrace"),
            (Request::socket("tcp"), "vsock"),
            (Request::syscall("opens"), "no system call"),
        ] {
            let told_so = wrong.unwrap_err().to_string();
            assert!(told_so.contains(told), "{told_so}");
        }
    }
}
