//! What a policy's network rules mean, written as plainly as can be: every rule is asked, one after the other.
//!
//! The reference that the automaton and the attribution index are tested against; `explain` may call it for single
//! requests. It shares nothing with the automaton, not even the code that finds an IPv4 address inside an IPv6 one.
//! Time is linear in the networks of all rules.
//!
//! The meaning: a rule matches when one of its networks holds the address, one of its ranges the port, its set the
//! protocol, and it is about the program that asks. A destination that a deny rule matches is denied; else one that an
//! allow rule matches is granted, and told where a deny rule that is tried out matches it;
//! else it is denied by default. A listen asks the listen rules only. IPv4 and its mapped form are one thing, and no
//! IPv6 network (`::/0`) speaks about it. A destination of an IPv6 form that carries an IPv4 address must be granted
//! in both forms.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_monitor_common::decide::Decision;
use agent_monitor_common::request::{self, Direction, NetRequest};
use ipnet::IpNet;

use super::{Membership, NetRule, NetworkPolicy, Protocol};

/// The decision, and the rule that made it (`None`: the default).
///
/// Of several rules that decide alike, the one that is named is the most specific: the longest prefix, then the
/// fewest ports, then the lowest id. So the order of rules does not show here either.
#[must_use]
pub fn decide<'p>(
    policy: &'p NetworkPolicy,
    program: &Membership,
    request: NetRequest,
) -> (Decision, Option<&'p NetRule>) {
    let address = Ipv6Addr::from(request.address.bytes());
    if let Some(v4) = address.to_ipv4_mapped() {
        return judge(policy, program, request, IpAddr::V4(v4));
    }
    let (decision, rule) = judge(policy, program, request, IpAddr::V6(address));
    match carried(address) {
        Some(v4) if decision.passes() && request.direction == Direction::Out => {
            let inner = judge(policy, program, request, IpAddr::V4(v4));
            if inner.0.allowed() { (decision, rule) } else { inner }
        }
        _ => (decision, rule),
    }
}

/// What the rules say of a request to an address that stands for `name` (lower case, no trailing dot). Whether a rule
/// denies the address itself was asked before.
#[must_use]
pub fn decide_name<'p>(
    policy: &'p NetworkPolicy,
    program: &Membership,
    name: &str,
    protocol: request::Protocol,
    port: u16,
) -> (Decision, Option<&'p NetRule>) {
    // A rule that asks for no hello grants more, so the name of one that does is told only where there is no such rule.
    let granting = policy
        .allow
        .iter()
        .filter(|rule| rule.programs.grants(program))
        .filter(|rule| rule.hosts.iter().any(|host| host.matches(name)))
        .filter(|rule| rule.ports.iter().any(|range| range.contains(&port)))
        .filter(|rule| rule.protocols.contains(self::protocol(protocol)))
        .min_by_key(|rule| (rule.sni, port_count(rule), &rule.id));
    match granting {
        Some(rule) if rule.sni => (Decision::AllowHello, Some(rule)),
        Some(rule) => (Decision::Allow, Some(rule)),
        None => (Decision::DenyDefault, None),
    }
}

/// Every rule that speaks of the request, whatever program asks, and whether it denies.
pub fn speaking(policy: &NetworkPolicy, request: NetRequest) -> impl Iterator<Item = (&NetRule, bool)> {
    let address = Ipv6Addr::from(request.address.bytes());
    let plain = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
    let out = request.direction == Direction::Out;
    let inner = carried(address).filter(|_| out && plain.is_ipv6()).map(IpAddr::V4);
    let (deny, allow): (&[NetRule], &[NetRule]) =
        if out { (&policy.deny, &policy.allow) } else { (&[], &policy.listen) };
    let audited: &[NetRule] = if out { &policy.audited } else { &[] };
    let denying = deny.iter().chain(audited).map(|rule| (rule, true));
    let rules = denying.chain(allow.iter().map(|rule| (rule, false)));
    rules.filter(move |(rule, _)| {
        let held = |address| prefix_length(rule, address).is_some();
        (held(plain) || inner.is_some_and(held))
            && rule.ports.iter().any(|range| range.contains(&request.port))
            && rule.protocols.contains(protocol(request.protocol))
    })
}

/// Judges one form of the request's address.
fn judge<'p>(
    policy: &'p NetworkPolicy,
    program: &Membership,
    request: NetRequest,
    address: IpAddr,
) -> (Decision, Option<&'p NetRule>) {
    let (deny, allow, audited): (&[NetRule], &[NetRule], &[NetRule]) = match request.direction {
        Direction::Out => (&policy.deny, &policy.allow, &policy.audited),
        Direction::Listen => (&[], &policy.listen, &[]),
    };
    let denies = |rule: &NetRule| rule.programs.denies(program);
    if let Some(rule) = most_specific(deny, request, address, denies) {
        return (Decision::DenyRule, Some(rule));
    }
    match most_specific(allow, request, address, |rule| rule.programs.grants(program)) {
        Some(rule) => match most_specific(audited, request, address, denies) {
            Some(audited) => (Decision::Audit, Some(audited)),
            None => (Decision::Allow, Some(rule)),
        },
        None => (Decision::DenyDefault, None),
    }
}

fn most_specific(
    rules: &[NetRule],
    request: NetRequest,
    address: IpAddr,
    holds: impl Fn(&NetRule) -> bool,
) -> Option<&NetRule> {
    rules
        .iter()
        .filter(|rule| holds(rule))
        .filter(|rule| rule.ports.iter().any(|range| range.contains(&request.port)))
        .filter(|rule| rule.protocols.contains(protocol(request.protocol)))
        .filter_map(|rule| Some((rule, prefix_length(rule, address)?)))
        .min_by_key(|&(rule, length)| (Reverse(length), port_count(rule), &rule.id))
        .map(|(rule, _)| rule)
}

/// The length of the rule's longest network that holds `address`.
fn prefix_length(rule: &NetRule, address: IpAddr) -> Option<u8> {
    rule.nets
        .iter()
        .filter_map(|net| plain(*net))
        .filter(|net| net.contains(&address))
        .map(|n| n.prefix_len())
        .max()
}

/// A network inside `::ffff:0:0/96` as the IPv4 network that it is. Loaded profiles have none left; profiles that were
/// made by hand may.
fn plain(net: IpNet) -> Option<IpNet> {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::new(IpAddr::V4(v4), v6.prefix_len() - 96).ok(),
            None => Some(net),
        },
        _ => Some(net),
    }
}

/// Ports that a rule speaks about, for its rank.
pub(super) fn port_count(rule: &NetRule) -> usize {
    rule.ports.iter().map(ExactSizeIterator::len).sum()
}

/// The IPv4 address that a destination of this form is delivered to: NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056),
/// Teredo (RFC 4380), IPv4-compatible (RFC 4291; not `::` and `::1`).
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        _ => None,
    }
}

pub(super) fn protocol(of_request: request::Protocol) -> Protocol {
    match of_request {
        request::Protocol::Tcp => Protocol::Tcp,
        request::Protocol::Udp => Protocol::Udp,
        request::Protocol::Icmp => Protocol::Icmp,
        request::Protocol::Other => Protocol::Other,
    }
}
