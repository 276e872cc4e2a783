//! The few rtnetlink requests (rtnetlink(7)) that make a veth pair, its addresses, neighbours and routes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, bail};

use crate::socket::Socket;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;

const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE_EXCLUSIVE: u16 = 0x400 | 0x200;
const NLMSG_ERROR: u16 = 2;

/// Where a route leads.
#[derive(Clone, Copy)]
pub enum Route {
    /// To a neighbour.
    Via(IpAddr),
    /// To this host itself: any address of the prefix is answered locally.
    Local,
}

/// One end of a veth pair.
pub struct End<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
}

/// An rtnetlink socket of the network namespace in which it was opened.
pub struct Netlink(Socket);

struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(body);
        Message { bytes }
    }

    fn attribute(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        self.nested(kind, |m| m.bytes.extend_from_slice(data))
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// The body of a link message (`struct ifinfomsg`).
fn link_body(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

/// The index of an interface in the current namespace.
pub fn index_of(name: &str) -> Result<u32> {
    let c = std::ffi::CString::new(name)?;
    // SAFETY: a C string that outlives the call.
    match unsafe { libc::if_nametoindex(c.as_ptr()) } {
        0 => bail!("no interface {name}: {}", io::Error::last_os_error()),
        index => Ok(index),
    }
}

impl Netlink {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self> {
        Ok(Netlink(Socket::new(libc::AF_NETLINK, libc::SOCK_RAW, 0)?))
    }

    fn request(&self, mut message: Message, what: &str) -> Result<()> {
        let length = message.bytes.len() as u32;
        message.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.0.send(&message.bytes)?;
        let mut answer = [0; 4096];
        let n = self.0.receive(&mut answer)?;
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        if n < 20 || kind != NLMSG_ERROR {
            bail!("{what}: rtnetlink answered with message type {kind}");
        }
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            e => Err(io::Error::from_raw_os_error(-e)).with_context(|| what.to_owned()),
        }
    }

    /// Makes a veth pair: `here` in this namespace, `there` in the namespace of `netns`.
    pub fn veth(&self, here: &End, there: &End, netns: BorrowedFd<'_>) -> Result<()> {
        let mut m = Message::new(NEW_LINK, CREATE_EXCLUSIVE, &link_body(0, 0));
        let name = |m: &mut Message, end: &End| {
            m.attribute(3, &[end.name.as_bytes(), &[0]].concat()); // IFLA_IFNAME
            m.attribute(1, &end.mac); // IFLA_ADDRESS
        };
        name(&mut m, here);
        // IFLA_LINKINFO { IFLA_INFO_KIND, IFLA_INFO_DATA { VETH_INFO_PEER { ifinfomsg, … } } }
        m.nested(18, |m| {
            m.attribute(1, b"veth");
            m.nested(2, |m| {
                m.nested(1, |m| {
                    m.bytes.extend(link_body(0, 0));
                    name(m, there);
                    m.attribute(28, &netns.as_raw_fd().to_ne_bytes()); // IFLA_NET_NS_FD
                });
            });
        });
        self.request(m, "make a veth pair")
    }

    /// Sets an interface up.
    pub fn up(&self, index: u32) -> Result<()> {
        let up = libc::IFF_UP as u32;
        self.request(Message::new(NEW_LINK, 0, &link_body(index, up)), "set an interface up")
    }

    /// Gives an interface an address, without duplicate address detection (it takes a second or two).
    pub fn address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<()> {
        const NO_DAD: u8 = 0x2;
        let mut body = vec![family(ip), prefix, NO_DAD, 0];
        body.extend(index.to_ne_bytes());
        let mut m = Message::new(NEW_ADDRESS, CREATE_EXCLUSIVE, &body);
        m.attribute(2, &octets(ip)).attribute(1, &octets(ip)); // IFA_LOCAL, IFA_ADDRESS
        self.request(m, "add an address")
    }

    /// A permanent neighbour entry, so that no packet waits for ARP or neighbour discovery.
    pub fn neighbour(&self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<()> {
        const PERMANENT: u16 = 0x80;
        let mut body = vec![family(ip), 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(PERMANENT.to_ne_bytes());
        body.extend([0, 0]);
        let mut m = Message::new(NEW_NEIGHBOUR, CREATE_EXCLUSIVE, &body);
        m.attribute(1, &octets(ip)).attribute(2, &mac); // NDA_DST, NDA_LLADDR
        self.request(m, "add a neighbour")
    }

    /// Adds a route out of `index`.
    pub fn route(&self, to: IpAddr, prefix: u8, index: u32, route: Route) -> Result<()> {
        let (table, scope, kind) = match route {
            Route::Via(_) => (254, 0, 1), // main, universe, unicast
            // In the main table, where the link's own prefix wins: in IPv6 the local table is asked first.
            Route::Local => (254, 254, 2), // main, host, local
        };
        const PROTOCOL_STATIC: u8 = 4;
        let body = [family(to), prefix, 0, 0, table, PROTOCOL_STATIC, scope, kind, 0, 0, 0, 0];
        let mut m = Message::new(NEW_ROUTE, CREATE_EXCLUSIVE, &body);
        if prefix > 0 {
            m.attribute(1, &octets(to)); // RTA_DST
        }
        m.attribute(4, &index.to_ne_bytes()); // RTA_OIF
        if let Route::Via(gateway) = route {
            m.attribute(5, &octets(gateway)); // RTA_GATEWAY
        }
        self.request(m, "add a route")
    }
}
