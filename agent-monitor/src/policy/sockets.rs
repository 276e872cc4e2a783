//! The kinds of socket that a profile can grant beyond TCP, UDP and Unix
//! sockets, which always exist for an agent.
//!
//! Read by the profile model (`network.sockets`) and by the image compiler,
//! which turns a kind into the family, type and protocol that
//! `socket(2)` is called with. A kind that is not listed here can't be
//! granted. Values are bit positions in [`SocketKinds`] and never change.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

/// A kind of socket that does not exist for an agent unless granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SocketKind {
    /// Multipath TCP: one connection over several addresses.
    Mptcp = 0,
    /// Stream Control Transmission Protocol.
    Sctp = 1,
    /// Datagram Congestion Control Protocol (gone since Linux 6.16).
    Dccp = 2,
    /// UDP-Lite.
    Udplite = 3,
    /// Unprivileged ICMP echo (`ping` without a capability).
    Ping = 4,
    /// Raw IP packets of any protocol.
    Raw = 5,
    /// L2TP over IP.
    L2tp = 6,
    /// Shared memory communications, by address family or IP protocol.
    Smc = 7,
    /// Netlink: address look-ups of the C library, `ip`, udev.
    Netlink = 8,
    /// Raw link-layer frames (packet capture).
    Packet = 9,
    /// Sockets between a virtual machine and its host.
    Vsock = 10,
    /// The kernel's cryptography interface.
    Alg = 11,
    /// IPsec key management (`PF_KEY`).
    Key = 12,
    /// Express data path sockets.
    Xdp = 13,
    /// Controller area network.
    Can = 14,
    /// Bluetooth.
    Bluetooth = 15,
    /// Cluster communication (TIPC).
    Tipc = 16,
    /// Reliable datagram sockets.
    Rds = 17,
    /// Kernel connection multiplexer.
    Kcm = 18,
}

impl SocketKind {
    pub const ALL: [Self; 19] = [
        Self::Mptcp,
        Self::Sctp,
        Self::Dccp,
        Self::Udplite,
        Self::Ping,
        Self::Raw,
        Self::L2tp,
        Self::Smc,
        Self::Netlink,
        Self::Packet,
        Self::Vsock,
        Self::Alg,
        Self::Key,
        Self::Xdp,
        Self::Can,
        Self::Bluetooth,
        Self::Tipc,
        Self::Rds,
        Self::Kcm,
    ];

    /// The word used in profiles and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mptcp => "mptcp",
            Self::Sctp => "sctp",
            Self::Dccp => "dccp",
            Self::Udplite => "udplite",
            Self::Ping => "ping",
            Self::Raw => "raw",
            Self::L2tp => "l2tp",
            Self::Smc => "smc",
            Self::Netlink => "netlink",
            Self::Packet => "packet",
            Self::Vsock => "vsock",
            Self::Alg => "alg",
            Self::Key => "key",
            Self::Xdp => "xdp",
            Self::Can => "can",
            Self::Bluetooth => "bluetooth",
            Self::Tipc => "tipc",
            Self::Rds => "rds",
            Self::Kcm => "kcm",
        }
    }

    /// The address family that has this kind to itself (`AF_…` number), or
    /// `None` for a kind that is a type or protocol of `AF_INET`/`AF_INET6`.
    ///
    /// `smc` is both: a family of its own and, since Linux 6.11, IP protocol 256.
    #[must_use]
    pub fn family(self) -> Option<i32> {
        match self {
            Self::Mptcp | Self::Sctp | Self::Dccp | Self::Udplite | Self::Ping | Self::Raw | Self::L2tp => {
                None
            }
            Self::Smc => Some(43), // AF_SMC; libc has no constant
            Self::Netlink => Some(libc::AF_NETLINK),
            Self::Packet => Some(libc::AF_PACKET),
            Self::Vsock => Some(libc::AF_VSOCK),
            Self::Alg => Some(libc::AF_ALG),
            Self::Key => Some(libc::AF_KEY),
            Self::Xdp => Some(libc::AF_XDP),
            Self::Can => Some(libc::AF_CAN),
            Self::Bluetooth => Some(libc::AF_BLUETOOTH),
            Self::Tipc => Some(libc::AF_TIPC),
            Self::Rds => Some(libc::AF_RDS),
            Self::Kcm => Some(41), // AF_KCM; libc has no constant
        }
    }
}

impl fmt::Display for SocketKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A set of [`SocketKind`]s; bit *n* stands for the kind of value *n*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketKinds(u32);

impl SocketKinds {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn with(self, kind: SocketKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn contains(self, kind: SocketKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Bit *n* set: the kind of value *n* is granted.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = SocketKind> {
        SocketKind::ALL.into_iter().filter(move |&kind| self.contains(kind))
    }
}

impl FromIterator<SocketKind> for SocketKinds {
    fn from_iter<I: IntoIterator<Item = SocketKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_its_own_bit() {
        for (position, kind) in SocketKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, position);
            assert_eq!(SocketKinds::NONE.with(kind).bits(), 1 << position);
        }
    }

    #[test]
    fn a_set_lists_what_was_put_in() {
        let set: SocketKinds = [SocketKind::Raw, SocketKind::Netlink].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [SocketKind::Raw, SocketKind::Netlink]);
        assert!(!set.contains(SocketKind::Packet));
    }
}
