//! Which addresses may answer for a name: none that lies behind the host's own doors, unless a rule grants it by number.
//!
//! Whoever owns a granted name says what its address is. Without this he could say 127.0.0.1, 169.254.169.254 or an
//! address of the local network (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use agent_monitor_common::request::Address;

use crate::policy::{Membership, NetRule, NetworkPolicy};

/// How long the host's own addresses are believed.
const OWN_FOR: Duration = Duration::from_secs(5);

/// An address that may answer for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// It stands for the name.
    ByName,
    /// It may be told. What of it is reached is for the rules about addresses alone, one of which names it: else who owns
    /// the name would open the name's ports on it.
    ByNumber,
}

/// Why an address may not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is of a range that only this host or its network has.
    Local,
    /// It is the host's own.
    Own,
    /// It carries an IPv4 address that a rule denies.
    Denied,
}

/// The addresses of the host.
#[derive(Debug)]
pub struct Own {
    addresses: Vec<IpAddr>,
    read: Option<Instant>,
}

impl Own {
    #[must_use]
    pub const fn new() -> Self {
        Own { addresses: Vec::new(), read: None }
    }

    /// Whether the host has this address.
    pub fn has(&mut self, address: IpAddr) -> bool {
        if self.read.is_none_or(|read| read.elapsed() > OWN_FOR) {
            self.addresses = interfaces();
            self.read = Some(Instant::now());
        }
        self.addresses.contains(&address)
    }
}

impl Default for Own {
    fn default() -> Self {
        Self::new()
    }
}

/// The addresses of this network namespace's interfaces.
fn interfaces() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is written on success and freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::error!(%error, "the host's own addresses can't be read: they may answer for names");
        return Vec::new();
    }
    let mut addresses = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an element of the list; an address of the family that it says.
        unsafe {
            let address = (*next).ifa_addr;
            if !address.is_null() {
                match i32::from((*address).sa_family) {
                    libc::AF_INET => {
                        let v4 = (*address.cast::<libc::sockaddr_in>()).sin_addr.s_addr;
                        addresses.push(IpAddr::V4(Ipv4Addr::from(v4.to_ne_bytes())));
                    }
                    libc::AF_INET6 => {
                        let v6 = (*address.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr;
                        addresses.push(IpAddr::V6(Ipv6Addr::from(v6)));
                    }
                    _ => {}
                }
            }
            next = (*next).ifa_next;
        }
    }
    // SAFETY: the list that the call above made.
    unsafe { libc::freeifaddrs(list) };
    addresses
}

/// Whether `address` may answer for a name that a program of `program` asked for; why not.
pub fn judge(
    policy: &NetworkPolicy,
    program: &Membership,
    own: &mut Own,
    address: IpAddr,
) -> Result<Answers, Refused> {
    let mut answers = Answers::ByName;
    let address = address.to_canonical();
    let forms = [Some(address), embedded(address)];
    // In every form that it has, as `decide` asks.
    for form in forms.into_iter().flatten() {
        let refused = if is_local(form) {
            Refused::Local
        } else if own.has(form) {
            Refused::Own
        } else {
            continue;
        };
        let grants = |rule: &NetRule| rule.programs.grants(program) && holds(rule, form);
        if !policy.allow.iter().any(grants) {
            return Err(refused);
        }
        answers = Answers::ByNumber;
    }
    if denied_inside(policy, program, address) {
        return Err(Refused::Denied);
    }
    Ok(answers)
}

/// Whether a rule denies the IPv4 address inside an IPv6 one. The kernel asks for the outer one where a name grants it.
pub fn denied_inside(policy: &NetworkPolicy, program: &Membership, address: IpAddr) -> bool {
    let denies = |v4| policy.deny.iter().any(|rule| rule.programs.denies(program) && holds(rule, v4));
    embedded(address).is_some_and(denies)
}

fn holds(rule: &NetRule, address: IpAddr) -> bool {
    rule.nets.iter().any(|net| net.contains(&address))
}

/// The IPv4 address that a translator or a tunnel would deliver to.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let v4 = Address::from_bytes(v6.octets()).embedded_v4()?;
    Some(IpAddr::V4(Ipv4Addr::from(v4.to_ne_bytes())))
}

/// Addresses that mean another thing on every host or network (IANA's special-purpose registries), and the clouds'
/// metadata services that lie outside them.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && b & 0xc0 == 64)
                || (a == 198 && b & 0xfe == 18)
                || (a, b, c) == (192, 0, 0)
                || v4 == Ipv4Addr::new(168, 63, 129, 16)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || first & 0xfe00 == 0xfc00
                || first & 0xff80 == 0xfe80
                || (first, second) == (0x0064, 0xff9b) && v6.segments()[2] != 0
                || first == 0x0100 && v6.segments()[1..4] == [0, 0, 0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixture;

    #[test]
    fn nothing_behind_the_hosts_own_doors_answers_for_a_name() {
        let profile = fixture::profile("p");
        let mut own = Own::new();
        let mut judged =
            |text: &str| judge(&profile.network, &Membership::PLAIN, &mut own, text.parse().unwrap());
        for local in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "192.168.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:192.168.0.1",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::1.2.3.4",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(judged(local).is_err(), "{local}");
        }
        for other in
            ["198.51.100.7", "1.1.1.1", "2001:db8::1", "100.128.0.1", "172.32.0.1", "64:ff9b::8.8.8.8"]
        {
            assert_eq!(judged(other), Ok(Answers::ByName), "{other}");
        }
    }

    #[test]
    fn an_address_that_a_rule_grants_by_number_is_told_and_stands_for_nothing() {
        let mut profile = (*fixture::profile("p")).clone();
        // Of the fixture: 10.1.0.0/16 is granted, and denied with 10.0.0.0/8, which the kernel judges.
        profile.network.deny.clear();
        let mut own = Own::new();
        let mut judged =
            |text: &str| judge(&profile.network, &Membership::PLAIN, &mut own, text.parse().unwrap());
        assert_eq!(judged("10.1.2.3"), Ok(Answers::ByNumber));
        assert_eq!(judged("10.2.2.3"), Err(Refused::Local));
        assert_eq!(judged("64:ff9b::a01:203"), Ok(Answers::ByNumber));
    }

    #[test]
    fn the_hosts_own_addresses_are_known() {
        let mut own = Own::new();
        assert!(own.has(Ipv4Addr::LOCALHOST.into()) && !own.has(Ipv4Addr::new(198, 51, 100, 7).into()));
    }
}
