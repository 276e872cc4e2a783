//! What the daemon is told: flags of `agent-monitor daemon`, each with an environment variable for unit files.
//!
//! Read by `cli::daemon`, used by `daemon::run` and by tests, which make their own.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_monitor_common::name::DNS_PORT;

use crate::control::notices;
use crate::kernel::Pinning;
use crate::policy::load::DEFAULT_DIRECTORIES;
use crate::policy::protected::Protected;
use crate::resolver::server;
use crate::sink::jsonl::FileSettings;

/// Where the daemon listens for `run`, `status` and the other commands.
pub const DEFAULT_SOCKET: &str = "/run/agent-monitor/control.sock";
/// Where agents ask for what they were denied.
pub const DEFAULT_NOTICES: &str = "/run/agent-monitor/notices.sock";
/// Where the daemon writes events.
pub const DEFAULT_EVENTS: &str = "/var/log/agent-monitor/events.jsonl";
/// Where the daemon serves metrics.
pub const DEFAULT_METRICS: &str = "127.0.0.1:9761";
/// Where programs, links and maps are pinned.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/agent-monitor";
/// Name of the cgroup below the governed one in which agents get theirs.
pub const AGENTS_CGROUP: &str = "agents";

/// See the module.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Directory of the profiles in force
    #[arg(long, value_name = "DIR", env = "AGENT_MONITOR_PROFILES", default_value = DEFAULT_DIRECTORIES[0])]
    pub profiles: PathBuf,
    /// Where bases are looked up that are not beside the profile; may be given several times
    #[arg(long = "bases", value_name = "DIR", default_values = DEFAULT_DIRECTORIES)]
    pub bases: Vec<PathBuf>,
    /// The cgroup (v2) to govern: outside it only LSM programs judge the network of agents [default: the root of the hierarchy]
    #[arg(long, value_name = "DIR", env = "AGENT_MONITOR_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Directory in which programs and maps are pinned, so that enforcement outlives the daemon; a BPF file system is
    /// mounted there if it lies on none [default: /sys/fs/bpf/agent-monitor, where a BPF file system is mounted]
    #[arg(long, value_name = "DIR", env = "AGENT_MONITOR_PINS", conflicts_with = "no_pins")]
    pub pins: Option<PathBuf>,
    /// Pin nothing: enforcement ends with the daemon
    #[arg(long)]
    pub no_pins: bool,
    /// Control socket
    #[arg(long, value_name = "PATH", env = "AGENT_MONITOR_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Group whose members may use the control socket too; they attach processes of their own only [default: root only]
    #[arg(long, value_name = "GID", env = "AGENT_MONITOR_CONTROL_GID")]
    pub control_gid: Option<u32>,
    /// File of JSON lines for events
    #[arg(long, value_name = "FILE", env = "AGENT_MONITOR_EVENTS", default_value = DEFAULT_EVENTS)]
    pub events: PathBuf,
    /// Write no event file
    #[arg(long)]
    pub no_events_file: bool,
    /// Size in MiB at which the event file is renamed; 0: never
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub events_rotate: u64,
    /// Renamed event files to keep
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub events_keep: u32,
    /// Address of /metrics and /healthz
    #[arg(long, value_name = "ADDRESS", env = "AGENT_MONITOR_METRICS", default_value = DEFAULT_METRICS)]
    pub metrics: SocketAddr,
    /// Serve no metrics
    #[arg(long)]
    pub no_metrics: bool,
    /// Serve metrics on an address that is not loopback: everybody who reaches it can read them
    #[arg(long)]
    pub metrics_anywhere: bool,
    /// Start although this kernel can't enforce all that the profiles ask; posture says what is missing
    #[arg(long, env = "AGENT_MONITOR_ALLOW_DEGRADED")]
    pub allow_degraded: bool,
    /// Let the kernel count runs and times of the programs, for metrics; some 30 ns a run
    #[arg(long)]
    pub program_stats: bool,
    /// Server that agents' granted names are asked from, as address or address:port; may be given several times
    /// [default: those of --resolv-conf]
    #[arg(long = "name-server", value_name = "ADDRESS", value_parser = name_server)]
    pub name_servers: Vec<SocketAddr>,
    /// Where the host's own name servers are told
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Seconds for which an address stays reachable after the answer that gave it to a name has expired
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub name_grace: u32,
    /// Bytes of the ring for verdicts: a power of two, 4096 or more [default: 8 MiB]
    #[arg(long, value_name = "BYTES", value_parser = ring_bytes)]
    pub verdict_ring: Option<u32>,
}

/// The kernel takes whole pages, and a power of two of them.
fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if bytes.is_power_of_two() && bytes >= 4_096 {
        Ok(bytes)
    } else {
        Err("a ring has a power of two of bytes, 4096 or more, such as 8388608".to_owned())
    }
}

/// An address, with port 53 where none is given.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    address
        .or_else(|_| text.parse())
        .map_err(|_| "a name server is an address, such as 192.0.2.53 or [2001:db8::53]:53".to_owned())
}

impl Settings {
    /// How agents' names are resolved.
    #[must_use]
    pub fn resolver(&self) -> server::Options {
        server::Options {
            servers: self.name_servers.clone(),
            resolv_conf: self.resolv_conf.clone(),
            grace: Duration::from_secs(self.name_grace.into()),
        }
    }

    /// Where agents ask for what they were denied: beside the control socket.
    #[must_use]
    pub fn notices(&self) -> PathBuf {
        self.socket.with_file_name(notices::NAME)
    }

    /// The event file, if one is to be written.
    #[must_use]
    pub fn event_file(&self) -> Option<FileSettings> {
        (!self.no_events_file).then(|| FileSettings {
            path: self.events.clone(),
            rotate_bytes: self.events_rotate << 20,
            keep: self.events_keep,
        })
    }

    /// What no agent may touch, whatever its profile grants: everything that this daemon is made of and told by.
    /// `cgroups`: where the hierarchy is mounted.
    #[must_use]
    pub fn protected(&self, cgroups: &Path) -> Protected {
        let mut protected = Protected::default();
        protected.path(self.pin_directory());
        if let Ok(program) = std::env::current_exe() {
            protected.path(&program);
        }
        self.bases.iter().chain([&self.profiles]).for_each(|directory| protected.path(directory));
        for place in ["/etc", "/run", "/usr/lib", "/lib"] {
            for what in ["agent-monitor.service", "agent-monitor.service.d", "agent-monitor.service.d/**"] {
                protected.glob(format!("{place}/systemd/**/{what}"));
            }
        }
        protected.path(&self.socket);
        protected.path(&self.notices());
        if !self.no_events_file {
            protected.begins_with(&self.events);
        }
        // Who may move processes, freeze or kill a cgroup takes an agent out of the governed one, or ends the daemon.
        protected.glob(format!("{}/**/cgroup.*", cgroups.display()));
        if !self.no_metrics {
            protected.address(self.metrics);
        }
        protected
    }

    /// Where to pin.
    #[must_use]
    pub fn pinning(&self) -> Pinning {
        match &self.pins {
            _ if self.no_pins => Pinning::Off,
            Some(directory) => Pinning::Told(directory.clone()),
            None => Pinning::Default(DEFAULT_PINS.into()),
        }
    }

    /// The directory of the pins, whether there is anything in it or not.
    #[must_use]
    pub fn pin_directory(&self) -> &Path {
        self.pins.as_deref().unwrap_or(Path::new(DEFAULT_PINS))
    }

    /// The directory in which agents get their cgroups.
    #[must_use]
    pub fn agents_cgroup(governed: &Path) -> PathBuf {
        governed.join(AGENTS_CGROUP)
    }
}

#[cfg(test)]
mod tests {
    use super::{name_server, ring_bytes};

    #[test]
    fn a_name_server_has_a_port_or_53() {
        for (text, read) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ] {
            assert_eq!(name_server(text).map(|server| server.to_string()).as_deref(), Ok(read));
        }
        for wrong in ["", "dns.example", "192.0.2.53:", "192.0.2.53:99999"] {
            assert!(name_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rings_are_what_the_kernel_takes() {
        assert_eq!(ring_bytes("8388608"), Ok(8 << 20));
        for wrong in ["", "0", "1024", "8388607", "8M", "4294967296"] {
            assert!(ring_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
