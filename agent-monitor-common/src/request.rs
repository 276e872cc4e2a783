//! Network requests, in the one form that `decide()` judges.

use crate::wire_codes;

wire_codes! {
    /// Which grants apply.
    pub enum Direction: u8 {
        /// To a destination: `network.allow`, `network.deny`.
        Out = 0 "out",
        /// On a local address and port: `network.listen`.
        Listen = 1 "listen",
    }
}

wire_codes! {
    /// The protocol classes that rules tell apart.
    pub enum Protocol: u8 {
        Tcp = 0 "tcp",
        Udp = 1 "udp",
        /// ICMP and ICMPv6 (`ping` sockets, where the profile grants them).
        Icmp = 2 "icmp",
        /// Any other (SCTP, raw …, where the profile grants such sockets).
        Other = 3 "other",
    }
}

impl Protocol {
    /// The class of an IP protocol number (IANA).
    #[inline(always)]
    pub const fn from_ip(number: u32) -> Self {
        match number {
            6 | 262 => Protocol::Tcp, // 262: MPTCP, whose subflows are TCP
            17 | 136 => Protocol::Udp,
            1 | 58 => Protocol::Icmp,
            _ => Protocol::Other,
        }
    }
}

/// An IPv6 address, or an IPv4 address in its mapped form `::ffff:a.b.c.d`, as four words in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

/// `::ffff:0:0/96`, third word.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// From an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn v4(be: u32) -> Self {
        Address([0, 0, MAPPED, be])
    }

    /// The IPv4 address (network byte order) of a mapped address.
    #[inline(always)]
    pub const fn as_v4(self) -> Option<u32> {
        let [a, b, c, d] = self.0;
        // One comparison of a derived word, here and below: a comparison of the words themselves would leave the
        // verifier with several versions of the address, each of which it walks to the end of the program.
        if a | b | (c ^ MAPPED) == 0 { Some(d) } else { None }
    }

    /// Byte `i` (0 to 15) in network order.
    #[inline(always)]
    pub const fn byte(self, i: usize) -> u8 {
        (u32::from_be(self.0[(i >> 2) & 3]) >> (24 - 8 * (i as u32 & 3))) as u8
    }

    /// The 16 bytes in network order.
    pub const fn bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        let mut i = 0;
        while i < 16 {
            out[i] = self.byte(i);
            i += 1;
        }
        out
    }

    /// From 16 bytes in network order.
    pub const fn from_bytes(b: [u8; 16]) -> Self {
        Address([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// The address that a *destination* reaches: Linux sends `0.0.0.0` and `::` to the loopback
    /// (`ip_route_output_key_hash_rcu`, `ip6_dst_lookup_tail`), so a profile that does not grant loopback must not
    /// grant it under that name.
    #[inline(always)]
    pub const fn as_destination(self) -> Self {
        let [a, b, c, d] = self.0;
        let d = if a | b | c | d == 0 { 1_u32.to_be() } else { d };
        let d = if a | b | (c ^ MAPPED) | d == 0 { 0x7f00_0001_u32.to_be() } else { d };
        Address([a, b, c, d])
    }

    /// The IPv4 address (network byte order) inside a transition form, which a translator or tunnel on the path
    /// would deliver to: NAT64 `64:ff9b::/96` (RFC 6052) and the last word of `64:ff9b:1::/48` (RFC 8215), 6to4
    /// `2002::/16` (RFC 3056), Teredo `2001::/32` (RFC 4380, inverted), IPv4-compatible `::/96` (RFC 4291).
    /// `::` and `::1` are not such forms.
    #[inline(always)]
    pub const fn embedded_v4(self) -> Option<u32> {
        let [a, b, c, d] = self.0;
        let nat64 = a ^ 0x0064_ff9b_u32.to_be();
        if nat64 | b | c == 0 || nat64 | ((u32::from_be(b) >> 16) ^ 1) == 0 {
            return Some(d);
        }
        if a ^ 0x2001_0000_u32.to_be() == 0 {
            return Some(!d);
        }
        if (u32::from_be(a) >> 16) ^ 0x2002 == 0 {
            return Some((u32::from_be(a) << 16 | u32::from_be(b) >> 16).to_be());
        }
        // `d` is neither 0 nor 1.
        if a | b | c == 0 && u32::from_be(d) > 1 {
            return Some(d);
        }
        None
    }
}

/// One network request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NetRequest {
    pub address: Address,
    /// Host byte order; 0 where the protocol has none.
    pub port: u16,
    pub direction: Direction,
    pub protocol: Protocol,
}

impl NetRequest {
    /// A request to send to `address`, in the form that is judged.
    #[inline(always)]
    pub const fn out(address: Address, port: u16, protocol: Protocol) -> Self {
        NetRequest { address: address.as_destination(), port, direction: Direction::Out, protocol }
    }

    /// A request to receive on the local `address` and `port`.
    #[inline(always)]
    pub const fn listen(address: Address, port: u16, protocol: Protocol) -> Self {
        NetRequest { address, port, direction: Direction::Listen, protocol }
    }

    /// Which of the image's start states applies.
    #[inline(always)]
    pub const fn start(self) -> usize {
        (self.direction as usize & 1) << 2 | self.protocol as usize & 3
    }
}

crate::wire_struct! {
    /// A [`NetRequest`] as the test-run probe reads it.
    pub struct ProbeRequest: 24 {
        /// Network order, IPv4 mapped.
        pub address: [u8; 16],
        /// Host byte order.
        pub port: u16,
        /// [`Direction`] code.
        pub direction: u8,
        /// [`Protocol`] code.
        pub protocol: u8,
        /// Not 0: the class of a name, which is judged in the place of the address.
        pub name: u32,
    }
}

impl From<NetRequest> for ProbeRequest {
    fn from(r: NetRequest) -> Self {
        ProbeRequest {
            address: r.address.bytes(),
            port: r.port,
            direction: r.direction.code(),
            protocol: r.protocol.code(),
            name: 0,
        }
    }
}

/// Requests that one test-run of the probe judges.
pub const PROBE_BATCH: usize = 4096;

/// Start states of an image: direction × protocol.
pub const STARTS: usize = 8;

wire_codes! {
    /// Kinds of sockets beyond TCP, UDP and AF_UNIX; each exists for an agent only where its profile grants it.
    /// The code is the bit in the image's mask.
    pub enum SocketKind: u8 {
        Mptcp = 0 "mptcp",
        Sctp = 1 "sctp",
        Dccp = 2 "dccp",
        Udplite = 3 "udplite",
        /// ICMP and ICMPv6 datagram sockets.
        Ping = 4 "ping",
        /// `SOCK_RAW` of AF_INET and AF_INET6.
        Raw = 5 "raw",
        L2tp = 6 "l2tp",
        /// Any other protocol of AF_INET and AF_INET6.
        InetOther = 7 "inet-other",
        Packet = 8 "packet",
        Netlink = 9 "netlink",
        Vsock = 10 "vsock",
        Alg = 11 "alg",
        Key = 12 "key",
        Rds = 13 "rds",
        Tipc = 14 "tipc",
        Smc = 15 "smc",
        Xdp = 16 "xdp",
        Kcm = 17 "kcm",
        Qipcrtr = 18 "qipcrtr",
        Can = 19 "can",
        Bluetooth = 20 "bluetooth",
        /// Any other address family.
        FamilyOther = 21 "family-other",
    }
}

/// `AF_INET`.
pub const AF_INET: u32 = 2;
/// `AF_INET6`.
pub const AF_INET6: u32 = 10;
const AF_UNIX: u32 = 1;
const SOCK_RAW: u32 = 3;

/// The kind that a `socket(family, kind, protocol)` call asks for; `None`: TCP, UDP or AF_UNIX, which need no grant.
#[inline(always)]
pub const fn socket_kind(family: u32, kind: u32, protocol: u32) -> Option<SocketKind> {
    match family {
        AF_UNIX => None,
        AF_INET | AF_INET6 => {
            if kind & 0xf == SOCK_RAW {
                return Some(SocketKind::Raw);
            }
            match protocol {
                0 | 6 | 17 => match kind & 0xf {
                    1 | 2 => None,
                    5 => Some(SocketKind::Sctp), // SOCK_SEQPACKET without a protocol is SCTP
                    6 => Some(SocketKind::Dccp),
                    _ => Some(SocketKind::InetOther),
                },
                1 | 58 => Some(SocketKind::Ping),
                33 => Some(SocketKind::Dccp),
                115 => Some(SocketKind::L2tp),
                132 => Some(SocketKind::Sctp),
                136 => Some(SocketKind::Udplite),
                256 => Some(SocketKind::Smc), // IPPROTO_SMC, 6.11+
                262 => Some(SocketKind::Mptcp),
                _ => Some(SocketKind::InetOther),
            }
        }
        15 => Some(SocketKind::Key),
        16 => Some(SocketKind::Netlink),
        17 => Some(SocketKind::Packet),
        21 => Some(SocketKind::Rds),
        29 => Some(SocketKind::Can),
        30 => Some(SocketKind::Tipc),
        31 => Some(SocketKind::Bluetooth),
        38 => Some(SocketKind::Alg),
        40 => Some(SocketKind::Vsock),
        41 => Some(SocketKind::Kcm),
        42 => Some(SocketKind::Qipcrtr),
        43 => Some(SocketKind::Smc),
        44 => Some(SocketKind::Xdp),
        _ => Some(SocketKind::FamilyOther),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn v6(s: &str) -> Address {
        Address::from_bytes(s.parse::<Ipv6Addr>().unwrap().octets())
    }
    fn be(s: &str) -> u32 {
        u32::from_ne_bytes(s.parse::<Ipv4Addr>().unwrap().octets())
    }

    #[test]
    fn unspecified_destinations_mean_loopback() {
        assert_eq!(v6("::").as_destination(), v6("::1"));
        assert_eq!(v6("::ffff:0.0.0.0").as_destination(), v6("::ffff:127.0.0.1"));
        assert_eq!(Address::v4(0).as_destination().as_v4(), Some(be("127.0.0.1")));
        assert_eq!(v6("::ffff:10.0.0.1").as_destination(), v6("::ffff:10.0.0.1"));
        assert_eq!(v6("fd00::").as_destination(), v6("fd00::"));
    }

    #[test]
    fn transition_forms_carry_their_ipv4() {
        assert_eq!(v6("64:ff9b::169.254.169.254").embedded_v4(), Some(be("169.254.169.254")));
        assert_eq!(v6("64:ff9b:1::10.0.0.5").embedded_v4(), Some(be("10.0.0.5")));
        assert_eq!(v6("2002:a00:5::1").embedded_v4(), Some(be("10.0.0.5")));
        assert_eq!(v6("::10.0.0.5").embedded_v4(), Some(be("10.0.0.5")));
        assert_eq!(v6("2001:0:1:2:3:4:f5ff:fffa").embedded_v4(), Some(be("10.0.0.5")));
        for plain in ["::", "::1", "fd00::a00:5", "2001:db8::1", "64:ff9b:2::1", "::ffff:10.0.0.5"] {
            assert_eq!(v6(plain).embedded_v4(), None, "{plain}");
        }
    }

    #[test]
    fn bytes_go_round() {
        let b = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(Address::from_bytes(b).bytes(), b);
        assert_eq!(Address::v4(be("10.1.2.3")).bytes()[12..], [10, 1, 2, 3]);
    }

    #[test]
    fn only_tcp_udp_and_unix_need_no_grant() {
        for (f, k, p) in [(2, 1, 0), (2, 1, 6), (10, 2, 17), (10, 2, 0), (1, 5, 0), (2, 1 | 0x800, 0)] {
            assert_eq!(socket_kind(f, k, p), None);
        }
        assert_eq!(socket_kind(2, 3, 0), Some(SocketKind::Raw));
        assert_eq!(socket_kind(2, 2, 1), Some(SocketKind::Ping));
        assert_eq!(socket_kind(2, 5, 0), Some(SocketKind::Sctp));
        assert_eq!(socket_kind(17, 3, 0), Some(SocketKind::Packet));
        assert_eq!(socket_kind(99, 1, 0), Some(SocketKind::FamilyOther));
    }
}
