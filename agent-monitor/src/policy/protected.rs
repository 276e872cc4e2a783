//! What belongs to the monitor itself: paths that no agent writes and addresses that none calls, whatever its profile
//! grants.
//!
//! Made by the daemon from its settings and laid under every profile before it is compiled. What must stay true: what a
//! path leads to today and the links on the way are both named, for either would do to put something else in its place;
//! the list is the same at every start with the same settings, so that an image keeps its digest.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::programs::Condition;
use super::{NetRule, PathRule, Protocol, ProtocolSet, ResolvedProfile, Source};

/// Rules of the monitor are named so, and events that they decide have the reason `protected`.
pub const MONITOR: &str = "monitor:protected";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// Not to be written, created, removed, renamed, linked or changed in mode or owner.
    pub paths: Vec<PathRule>,
    /// Not to be called.
    pub network: Vec<NetRule>,
}

impl ResolvedProfile {
    /// Lays what belongs to the monitor under the profile, in place of what was laid there before.
    pub fn protect(&mut self, protected: &Protected) {
        self.network.deny.retain(|rule| rule.id != MONITOR);
        self.network.deny.extend(protected.network.iter().cloned());
        self.protected = protected.clone();
    }

    /// Where the profile has `notices`: lets its agents connect to the socket at which they ask for them.
    pub fn let_ask(&mut self, socket: &Path) {
        let (Some(_), Some(unix)) = (&self.notices, &mut self.unix) else { return };
        let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
        let rule = PathRule {
            id: format!("{}:notices", self.name),
            source: unix.source.clone(),
            glob: escape(&real(&socket)),
            programs: Condition::default(),
            access: None,
        };
        // What is in force is put in force again when a lease ends.
        if !unix.allow.contains(&rule) {
            unix.allow.push(rule);
        }
    }
}

/// Where a person is pointed to: there is no file to point at.
fn source() -> Source {
    Source { file: Path::new("monitor").into(), line: 0, column: 0 }
}

impl Protected {
    /// A file or what a directory holds; and the links that lead there.
    pub fn path(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let real = real(&path);
        for link in links(&path) {
            self.glob(escape(&link));
        }
        let glob = escape(&real);
        self.glob(format!("{glob}/**"));
        self.glob(glob);
    }

    /// Files beside `path` whose names begin as its own does: it is renamed when it has grown.
    pub fn begins_with(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        for link in links(&path) {
            self.glob(escape(&link));
        }
        self.glob(format!("{}*", escape(&real(&path))));
    }

    /// A glob of its own.
    pub fn glob(&mut self, glob: String) {
        if !self.paths.iter().any(|known| known.glob == glob) {
            self.paths.push(PathRule {
                id: MONITOR.to_owned(),
                source: source(),
                glob,
                programs: Condition::default(),
                access: None,
            });
        }
    }

    /// An address that the monitor serves; of one that stands for every address, the loopback ones.
    pub fn address(&mut self, address: SocketAddr) {
        let nets: Vec<IpNet> = match address.ip() {
            ip if ip.is_unspecified() => vec![
                IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8).trunc(),
                IpAddr::from(Ipv6Addr::LOCALHOST).into(),
                IpAddr::from(Ipv4Addr::UNSPECIFIED).into(),
                IpAddr::from(Ipv6Addr::UNSPECIFIED).into(),
            ],
            // To call the unspecified address is to call the loopback.
            ip if ip.is_loopback() => {
                let any: IpAddr =
                    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                vec![ip.into(), any.into()]
            }
            ip => vec![ip.into()],
        };
        self.net(nets, address.port());
    }

    fn net(&mut self, nets: Vec<IpNet>, port: u16) {
        self.network.push(NetRule {
            id: MONITOR.to_owned(),
            source: source(),
            nets,
            hosts: Vec::new(),
            sni: false,
            ports: vec![port..=port],
            protocols: ProtocolSet::of(Protocol::Tcp),
            programs: Condition::default(),
        });
    }

    /// What is protected, for people.
    pub fn describe(&self) -> impl Iterator<Item = String> {
        let paths = self.paths.iter().map(|rule| rule.glob.clone());
        let network = self.network.iter().flat_map(|rule| {
            let port = rule.ports.first().map_or(0, |range| *range.start());
            rule.nets.iter().map(move |net| {
                let host = net.prefix_len() == net.max_prefix_len();
                if host { format!("{}:{port}", net.addr()) } else { format!("{net}:{port}") }
            })
        });
        paths.chain(network)
    }

    /// What [`Protected::describe`] told of; what can't be read is left out.
    #[must_use]
    pub fn described<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut protected = Protected::default();
        for word in words {
            if word.starts_with('/') {
                protected.glob(word.to_owned());
            } else if let Some((net, port)) = word.rsplit_once(':')
                && let Ok(port) = port.parse()
                && let Ok(net) = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from))
            {
                protected.net(vec![net], port);
            }
        }
        protected
    }
}

/// The path without links; what does not exist yet is named behind what does.
fn real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        if let Ok(real) = at.canonicalize() {
            return missing.iter().rev().fold(real, |path, name: &&OsStr| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

/// The links among a path and the directories above it, each by its own place.
fn links(path: &Path) -> Vec<PathBuf> {
    let is_link = |path: &&Path| path.symlink_metadata().is_ok_and(|data| data.is_symlink());
    let place = |path: &Path| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    };
    path.ancestors().filter(is_link).map(place).collect()
}

/// A path as a glob that matches nothing else.
fn escape(path: &Path) -> String {
    let mut glob = String::new();
    // A path that is no text can't be said in a glob: its strange bytes are any byte.
    for c in String::from_utf8_lossy(path.as_os_str().as_bytes()).chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' | '\\' | ',' | '~' => glob.extend(['\\', c]),
            char::REPLACEMENT_CHARACTER => glob.push('*'),
            c => glob.push(c),
        }
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_the_protected_is_the_protected() {
        let mut protected = Protected::default();
        protected.path(Path::new("/etc/agent-monitor"));
        protected.glob("/var/log/x*".to_owned());
        for address in ["127.0.0.1:9761", "[::]:80", "10.0.0.1:1"] {
            protected.address(address.parse().unwrap());
        }
        let told: Vec<String> = protected.describe().collect();
        let again = Protected::described(told.iter().map(String::as_str));
        assert_eq!(again.paths, protected.paths);
        assert_eq!(again.describe().collect::<Vec<_>>(), told);
    }

    #[test]
    fn the_socket_of_notices_is_granted_where_there_are_some() {
        use crate::policy::judge::{Effect, Judge, Request};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("notices.sock");
        let file = directory.path().join("p.yaml");
        for (notices, connects) in [("notices: {}\n", Effect::Allow), ("", Effect::Deny)] {
            let text = format!(
                "version: 1\nname: p\nmode: enforce\nunix: {{}}\nfiles: {{ write: [\"/**\"] }}\n{notices}"
            );
            fs::write(&file, text).unwrap();
            let mut profile = crate::policy::load_profile(&file, &[]).unwrap().profile;
            let mut protected = Protected::default();
            protected.path(&socket);
            profile.protect(&protected);
            profile.let_ask(&socket);
            let judge = Judge::new(profile).unwrap();
            let plain = judge.class_of(None);
            let name = socket.as_os_str().as_bytes();
            let ask = |request| judge.ask(plain, &request).unwrap().effect;
            assert_eq!(ask(Request::unix(name).unwrap()), connects);
            let writing = agent_monitor_common::path::Right::Write as u32;
            assert_eq!(ask(Request::path(name, writing).unwrap()), Effect::Deny, "nobody puts another there");
        }
    }
    use std::fs;
    use std::os::unix::fs::symlink;

    fn globs(protected: &Protected) -> Vec<&str> {
        protected.paths.iter().map(|rule| rule.glob.as_str()).collect()
    }

    #[test]
    fn a_link_and_what_it_leads_to_are_both_protected() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("link")).unwrap();
        let mut protected = Protected::default();
        protected.path(&root.join("link/profiles.d"));
        let root = root.display();
        assert_eq!(
            globs(&protected),
            [format!("{root}/link"), format!("{root}/real/profiles.d/**"), format!("{root}/real/profiles.d")]
        );
    }

    #[test]
    fn a_name_that_reads_like_a_glob_stands_for_itself() {
        let mut protected = Protected::default();
        protected.begins_with(Path::new("/nowhere/a*[b]{c,d}~"));
        assert_eq!(globs(&protected), ["/nowhere/a\\*\\[b\\]\\{c\\,d\\}\\~*"]);
        for glob in globs(&protected) {
            crate::policy::compile::check_glob(glob).unwrap();
        }
    }

    #[test]
    fn every_spelling_of_a_loopback_is_protected() {
        let mut protected = Protected::default();
        protected.address("127.0.0.1:9761".parse().unwrap());
        protected.address("[::]:9762".parse().unwrap());
        let all: Vec<_> = protected.describe().collect();
        for one in ["127.0.0.1:9761", "0.0.0.0:9761", "127.0.0.0/8:9762", "::1:9762", "0.0.0.0:9762"] {
            assert!(all.iter().any(|known| known == one), "{one}: {all:?}");
        }
    }
}
