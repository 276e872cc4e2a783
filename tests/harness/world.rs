//! The stage on which attacks run: two network namespaces joined by a veth pair, a peer, sniffers, two cgroups.
//!
//! `v0` (agent side, the test process' own namespace): 10.9.0.1/24, fd09::1/64, default routes to the peer.
//! `v1` (peer side): 10.9.0.2 to 10.9.0.5 and fd09::2 to fd09::5; everything else that the agent sends is answered
//! there too (local default routes), so that 64:ff9b::/96 or 169.254.169.254 have someone behind them.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};

use crate::attempt::{Attempt, Failure};
use crate::cgroup::{self, Cgroup};
use crate::child::{Child, Stage};
use crate::netlink::{End, Netlink, Route, index_of};
use crate::peer;
use crate::socket::{Name, Socket};
use crate::wire::Wire;

/// The agent's own addresses.
pub const AGENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
pub const AGENT6: IpAddr = fd09(1);
/// The peer's addresses: the gateway, one that the tests' profile grants, two that it does not.
pub const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
pub const GATEWAY6: IpAddr = fd09(2);
pub const GRANTED4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 3));
pub const GRANTED6: IpAddr = fd09(3);
pub const DENIED4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 4));
pub const DENIED6: IpAddr = fd09(4);
pub const OTHER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 5));

/// Interface on the agent's side.
pub const AGENT_LINK: &str = "v0";
const PEER_LINK: &str = "v1";
const AGENT_MAC: [u8; 6] = [2, 0, 0, 9, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 9, 0, 2];

const fn fd09(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, host))
}

/// All that the tests share. One per test process.
pub struct World {
    /// Behind the agent's interface.
    pub wire: Wire,
    /// The agent's loopback.
    pub loopback: Wire,
    /// Where agents run, and where cgroup programs are attached.
    pub agents: Cgroup,
    /// Where the twins run: no program is attached here.
    pub outside: Cgroup,
    peer_namespace: File,
    _peer: Child,
    _local: [Socket; 3],
}

impl World {
    /// Moves the process into its own network namespace and builds the rest.
    pub fn new() -> Result<Self> {
        cgroup::remove_leftovers()?;
        unshare_network()?;
        let agent_namespace = own_namespace()?;
        settings().context("network settings of the agent's namespace")?;
        unshare_network()?;
        let peer_namespace = own_namespace()?;
        settings().context("network settings of the peer's namespace")?;
        enter(&agent_namespace)?;

        let here = Netlink::open()?;
        here.veth(
            &End { name: AGENT_LINK, mac: AGENT_MAC },
            &End { name: PEER_LINK, mac: PEER_MAC },
            peer_namespace.as_fd(),
        )
        .context("the kernel needs veth (module `veth`)")?;
        let (lo, v0) = (index_of("lo")?, index_of(AGENT_LINK)?);
        here.up(lo)?;
        for (own, prefix) in [(AGENT4, 24), (AGENT6, 64)] {
            here.address(v0, own, prefix)?;
        }
        here.up(v0)?;

        enter(&peer_namespace)?;
        let there = Netlink::open()?;
        let (peer_lo, v1) = (index_of("lo")?, index_of(PEER_LINK)?);
        there.up(peer_lo)?;
        for host in 2..=5 {
            there.address(v1, IpAddr::V4(Ipv4Addr::new(10, 9, 0, host)), 24)?;
            there.address(v1, fd09(host.into()), 64)?;
        }
        there.up(v1)?;
        there.neighbour(v1, AGENT4, AGENT_MAC)?;
        there.neighbour(v1, AGENT6, AGENT_MAC)?;
        there.route(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, peer_lo, Route::Local)?;
        there.route(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, peer_lo, Route::Local)?;
        let sniffer = Wire::sniff(PEER_LINK)?;
        enter(&agent_namespace)?;

        for host in 2..=5 {
            here.neighbour(v0, IpAddr::V4(Ipv4Addr::new(10, 9, 0, host)), PEER_MAC)?;
            here.neighbour(v0, fd09(host.into()), PEER_MAC)?;
        }
        here.route(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, v0, Route::Via(GATEWAY4))?;
        here.route(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, v0, Route::Via(GATEWAY6))?;

        let namespace = peer_namespace.try_clone()?;
        let mut peer = Child::spawn_outside(move |stage| {
            enter(&namespace).map_err(|e| Failure::of("setns", &e))?;
            peer::serve(stage)
        })?;
        peer.paused().context("the peer did not come up")?;

        Ok(World {
            wire: Wire::new(sniffer, AGENT_LINK)?,
            loopback: Wire::new(Wire::sniff("lo")?, "lo")?,
            agents: Cgroup::create("agents")?,
            outside: Cgroup::create("outside")?,
            peer_namespace,
            _peer: peer,
            _local: local_servers()?,
        })
    }

    /// Runs `body` in the peer's namespace, in a child of its own.
    pub fn from_peer(&self, body: impl FnOnce(&mut Stage) -> Attempt) -> Result<Child> {
        let namespace = self.peer_namespace.try_clone()?;
        Child::spawn_outside(move |stage| {
            enter(&namespace).map_err(|e| Failure::of("setns", &e))?;
            body(stage)
        })
    }
}

/// What listens on the agent's own host, outside the agent: handshakes complete in the kernel, nobody needs to accept.
fn local_servers() -> Result<[Socket; 3]> {
    let any = Name::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), peer::SINK);
    let tcp = Socket::tcp6()?;
    tcp.bind(&any)?;
    tcp.listen()?;
    let udp = Socket::udp6()?;
    udp.bind(&any)?;
    let second = Socket::tcp6()?;
    second.bind(&Name::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), peer::ECHO))?;
    second.listen()?;
    Ok([tcp, udp, second])
}

fn own_namespace() -> Result<File> {
    File::open("/proc/self/ns/net").context("/proc/self/ns/net")
}

fn unshare_network() -> Result<()> {
    // SAFETY: no pointers; the process has one thread.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("can't make a network namespace (root is needed)"),
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is a network namespace.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens what the attacks use: `/proc/sys/net` shows the current namespace. A host with safer defaults than an
/// attacker wishes would make a twin prove nothing.
fn settings() -> Result<()> {
    // Client and server, data in the SYN without a cookie (tcp_fastopen in ip-sysctl.rst).
    const FASTOPEN: &str = "519";
    for (name, value) in [
        ("ipv4/tcp_fastopen", FASTOPEN),
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/conf/all/accept_source_route", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ip_nonlocal_bind", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/seg6_enabled", "1"),
        ("ipv6/conf/default/seg6_enabled", "1"),
    ] {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).with_context(|| path.clone())?;
    }
    Ok(())
}
