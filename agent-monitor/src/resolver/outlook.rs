//! Whether names can be resolved here: for `doctor`, `status` and the posture metric.
//!
//! Three things must be there: the programs that lead questions to the resolver, its ports, and servers of the host that
//! can be asked. Nothing is asked here; whether a server answers, `agent_monitor_lookups_total` says.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::server::Options;
use super::upstream::servers_in;
use crate::control::protocol::MechanismStatus;

/// What lead questions to the resolver, and answers back.
pub const REDIRECT: &[&str] = &[
    "cgroup/connect4",
    "cgroup/connect6",
    "cgroup/sendmsg4",
    "cgroup/sendmsg6",
    "cgroup/recvmsg4",
    "cgroup/recvmsg6",
    "cgroup/getpeername4",
    "cgroup/getpeername6",
    "cgroup_skb/egress",
];

/// As the mechanism is named.
const NAME: &str = "resolver";

/// Who is asked for granted names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    /// First to be asked first.
    pub servers: Vec<String>,
    /// Who named them: `--name-server`, or a file; `None`: nobody did, so the host's own is asked.
    pub source: Option<String>,
    /// What to do where nobody did.
    pub next: Option<String>,
}

impl Servers {
    #[must_use]
    pub fn of(options: &Options) -> Self {
        let words = |servers: &[SocketAddr]| servers.iter().map(ToString::to_string).collect();
        if !options.servers.is_empty() {
            let source = Some("--name-server".to_owned());
            return Servers { servers: words(&options.servers), source, next: None };
        }
        Self::of_file(&options.resolv_conf)
    }

    fn of_file(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let (servers, named) = servers_in(&text);
        Servers {
            servers: servers.iter().map(ToString::to_string).collect(),
            source: named.then(|| file.display().to_string()),
            next: (!named).then(|| {
                format!(
                    "name a server in {} (`nameserver ADDRESS`), or start the daemon with --name-server ADDRESS",
                    file.display()
                )
            }),
        }
    }

    /// A sentence for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let servers = self.servers.join(", ");
        match &self.source {
            Some(source) => format!("granted names are asked from {servers} ({source})"),
            None => format!("no server is named, so {servers} is asked"),
        }
    }
}

/// The resolver as a mechanism; `port`: where it runs.
#[must_use]
pub fn mechanism(port: Option<u16>) -> MechanismStatus {
    MechanismStatus {
        name: NAME.to_owned(),
        state: if port.is_some() { "active" } else { "absent" }.to_owned(),
        works: port.is_some(),
        why: port.is_none().then(|| {
            "the resolver does not run: the daemon's log says why; mend it and start the daemon again"
                .to_owned()
        }),
        blind: "nothing, but no name exists for any agent whose profile has `host`".to_owned(),
        instead: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_named_the_servers_and_what_to_do_where_nobody_did() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let options = |servers: &[&str]| Options {
            servers: servers.iter().map(|text| text.parse().unwrap()).collect(),
            resolv_conf: place.path().to_owned(),
            ..Options::default()
        };
        let told = Servers::of(&options(&["192.0.2.1:53"]));
        assert_eq!(told.describe(), "granted names are asked from 192.0.2.1:53 (--name-server)");
        std::fs::write(place.path(), "search x\nnameserver 192.0.2.2\nnameserver 2001:db8::1\n").unwrap();
        let found = Servers::of(&options(&[]));
        assert_eq!(found.servers, ["192.0.2.2:53", "[2001:db8::1]:53"]);
        assert_eq!((found.source, found.next), (Some(place.path().display().to_string()), None));
        std::fs::write(place.path(), "search x\n").unwrap();
        let nobody = Servers::of(&options(&[]));
        assert_eq!(nobody.describe(), "no server is named, so 127.0.0.1:53 is asked");
        assert!(nobody.next.is_some_and(|next| next.contains("--name-server")));
    }

    #[test]
    fn a_resolver_that_does_not_run_is_absent_and_says_what_to_do() {
        let gone = mechanism(None);
        assert!(!gone.works && gone.state == "absent" && gone.why.is_some_and(|why| why.contains("log")));
        assert_eq!(mechanism(Some(5_399)).state, "active");
    }

    #[test]
    fn every_program_of_the_way_is_known() {
        use crate::kernel::programs::PROGRAMS;
        for name in REDIRECT {
            assert!(PROGRAMS.iter().any(|entry| entry.mechanism == *name), "{name}");
        }
    }
}
