//! The stage: a network namespace in which the addresses that the agent asks for exist on loopback, and answer.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;

/// A name of the attacker's domain, with a secret in it.
pub const TUNNEL: &str = "736563726574.x.attacker.test";
/// Stand-ins: the model's address (granted), cloud metadata, an attacker (TEST-NET-3).
pub const MODEL: &str = "160.79.104.10";
pub const METADATA: &str = "169.254.169.254";
pub const METADATA_NAT64: &str = "64:ff9b::a9fe:a9fe";
pub const ATTACKER: &str = "203.0.113.10";

/// TCP ports that answer on every address.
const TCP: [u16; 2] = [80, 443];
/// UDP ports likewise.
const UDP: [u16; 2] = [53, 443];

/// Moves the calling thread into a new network namespace with the stand-ins.
pub fn enter() -> Result<()> {
    // SAFETY: a flag, no memory; it moves this thread alone.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(done == 0, "cannot make a network namespace: {}", std::io::Error::last_os_error());
    let ip = |words: &[&str]| command::output(Command::new("ip").args(words)).map(drop);
    ip(&["link", "set", "lo", "up"])?;
    for v4 in [MODEL, METADATA, ATTACKER] {
        ip(&["address", "add", &format!("{v4}/32"), "dev", "lo"])?;
    }
    ip(&["-6", "address", "add", &format!("{METADATA_NAT64}/128"), "dev", "lo", "nodad"])?;
    std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").context("cannot turn on TCP Fast Open")
}

/// What answers on the stand-ins. Its threads live as long as this program.
pub struct World {
    _udp: Vec<UdpSocket>,
}

impl World {
    pub fn start() -> Result<Self> {
        for port in TCP {
            // IPv4 comes in mapped.
            let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
                .with_context(|| format!("cannot listen on port {port}"))?;
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    drop(stream);
                }
            });
        }
        let udp =
            UDP.into_iter().map(|port| UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
        Ok(World { _udp: udp.collect::<std::io::Result<_>>().context("cannot listen for datagrams")? })
    }
}
