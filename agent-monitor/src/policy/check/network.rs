//! The rules about peers and local addresses of one file: `network`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{FileChecker, rule_id};
use crate::policy::diagnostic::{Code, Diagnostic};
use crate::policy::model::{
    ListenProtocolWord, ListenRule, OneOrMany, PeerRule, Ports, ProtocolWord, SniWord, Spanned,
};
use crate::policy::names::HostPattern;
use crate::policy::resolved::{NetRule, Protocol, ProtocolSet};
use crate::policy::source::Span;

impl FileChecker<'_> {
    pub(super) fn peer_rules(
        &mut self,
        profile: &str,
        list: &str,
        rules: Vec<Spanned<PeerRule>>,
    ) -> Vec<Spanned<NetRule>> {
        let mut resolved = Vec::with_capacity(rules.len());
        for (index, Spanned { value: rule, span }) in rules.into_iter().enumerate() {
            for address in &rule.address.0 {
                self.warn_if_unspecified(address.value.0, address.span);
            }
            let nets = rule.cidr.0.iter().map(|cidr| cidr.0);
            let addresses = rule.address.0.iter().map(|address| IpNet::from(address.value.0));
            if rule.protocol.0.contains(&ProtocolWord::Icmp)
                && let Some(ports) = &rule.ports
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::PortsWithoutTransport,
                        self.source,
                        ports.span,
                        "`icmp` has no ports",
                    )
                    .hint(
                        "write two rules: one for `icmp` without `ports`, one for the protocols with ports",
                    ),
                );
            }
            if let Some(except) = rule.except.0.first()
                && list != "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::ExceptOnGrant,
                        self.source,
                        except.span,
                        "`except` belongs to a `deny`: a grant has no exceptions",
                    )
                    .hint("name the programs that the grant is for under `exe`, or write a `deny` with `except`"),
                );
            }
            if let Some(host) = rule.host.0.first()
                && list == "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::HostOnDeny,
                        self.source,
                        host.span,
                        "`host` belongs to an `allow`: a name that no rule allows does not exist",
                    )
                    .hint("leave the name out of `allow`; what answers to it may answer to other names too, so deny its addresses only by `cidr`"),
                );
            }
            if let Some(expires) = &rule.expires
                && list == "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::LeaseOnDeny,
                        self.source,
                        expires.span,
                        "`expires` belongs to an `allow`: a denial does not end by itself",
                    )
                    .hint("remove it, and the rule when its time has come"),
                );
            }
            if let Some(audit) = rule.audit.as_ref().filter(|audit| audit.value)
                && list != "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::AuditOnGrant,
                        self.source,
                        audit.span,
                        "`audit` belongs to a `deny`: it tries a denial out",
                    )
                    .hint("remove it; whether a grant is used says `agent-monitor unused`"),
                );
            }
            let audited = rule.audit.as_ref().is_some_and(|audit| audit.value);
            let sni = rule.sni.as_ref().is_some_and(|sni| self.sni(sni, &rule, list));
            let hosts: Vec<HostPattern> = rule.host.0.into_iter().map(|host| host.value.0).collect();
            let protocols = rule.protocol.0.iter().map(|&word| ProtocolSet::from(word));
            let mut programs = self.condition(rule.exe, rule.except);
            if list != "network.deny" {
                let Ok(until) = self.lease(rule.expires.as_ref()) else { continue };
                programs.until = until;
            }
            let rules = if audited { &mut self.audited_network } else { &mut resolved };
            rules.push(Spanned {
                value: NetRule {
                    programs,
                    id: rule_id(profile, list, index),
                    source: self.source.place(span),
                    nets: nets.chain(addresses).collect(),
                    hosts,
                    sni,
                    ports: port_ranges(rule.ports.map(|ports| ports.value)),
                    protocols: protocols_or_tcp(protocols),
                },
                span,
            });
        }
        resolved
    }

    /// Whether a rule looks at hellos; `require` is all that it can say. It is about TCP flows that a name grants, and
    /// nothing else of a rule may look as if it were about more.
    fn sni(&mut self, sni: &Spanned<SniWord>, rule: &PeerRule, list: &str) -> bool {
        let SniWord::Require = sni.value;
        let (message, hint) = if list == "network.deny" {
            ("`sni` belongs to an `allow`", "remove it: a `deny` has no names")
        } else if rule.host.0.is_empty() {
            (
                "`sni` is about names, and this rule has no `host`",
                "add the names that TLS clients may say under `host`, or remove `sni`",
            )
        } else if !rule.cidr.0.is_empty() || !rule.address.0.is_empty() {
            (
                "`sni` would not hold for the addresses of this rule: they are granted by number",
                "write two rules: one with `host` and `sni`, one with `cidr` or `address`",
            )
        } else if rule.protocol.0.iter().any(|&word| word != ProtocolWord::Tcp) {
            (
                "`sni` is about TLS over TCP: of QUIC and other protocols the name can't be read",
                "write two rules: one for `tcp` with `sni`, one for the other protocols without",
            )
        } else {
            return true;
        };
        self.diagnostics
            .push(Diagnostic::error(Code::SniMisplaced, self.source, sni.span, message).hint(hint));
        false
    }

    fn warn_if_unspecified(&mut self, address: IpAddr, span: Span) {
        if !address.is_unspecified() {
            return;
        }
        let every = if address.is_ipv4() { "0.0.0.0/0" } else { "\"::/0\"" };
        self.diagnostics.push(
            Diagnostic::warning(
                Code::UnspecifiedAddress,
                self.source,
                span,
                format!("`{address}` is one address here, not every address"),
            )
            .hint(format!(
                "for every address write `cidr: {every}`; to mean this host, write its loopback address"
            )),
        );
    }

    pub(super) fn listen_rules(
        &mut self,
        profile: &str,
        rules: Vec<Spanned<ListenRule>>,
    ) -> Vec<Spanned<NetRule>> {
        let mut resolve = |(index, Spanned { value: rule, span }): (usize, Spanned<ListenRule>)| {
            let mut programs = self.condition(rule.exe, OneOrMany::default());
            programs.until = self.lease(rule.expires.as_ref()).ok()?;
            let protocols = rule.protocol.0.iter().map(|&word| ProtocolSet::from(word));
            let nets: Vec<IpNet> = rule.address.0.iter().flat_map(|address| listen_nets(address.0)).collect();
            Some(Spanned {
                value: NetRule {
                    programs,
                    id: rule_id(profile, "network.listen", index),
                    source: self.source.place(span),
                    nets: if nets.is_empty() { loopback() } else { nets },
                    hosts: Vec::new(),
                    sni: false,
                    ports: port_ranges(rule.ports),
                    protocols: protocols_or_tcp(protocols),
                },
                span,
            })
        };
        rules.into_iter().enumerate().filter_map(&mut resolve).collect()
    }
}

/// Sorted, joined where ranges overlap or touch; every port if none is given.
fn port_ranges(ports: Option<OneOrMany<Ports>>) -> Vec<RangeInclusive<u16>> {
    let Some(OneOrMany(mut ports)) = ports else { return vec![0..=u16::MAX] };
    ports.sort_by_key(|range| *range.0.start());
    let mut joined: Vec<RangeInclusive<u16>> = Vec::with_capacity(ports.len());
    for Ports(range) in ports {
        match joined.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

fn protocols_or_tcp(words: impl Iterator<Item = ProtocolSet>) -> ProtocolSet {
    let set = words.fold(ProtocolSet::EMPTY, ProtocolSet::union);
    if set.is_empty() { ProtocolSet::of(Protocol::Tcp) } else { set }
}

fn loopback() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    ]
}

/// The local addresses that a listen rule's `address` stands for.
fn listen_nets(address: IpAddr) -> Vec<IpNet> {
    let any_v4 = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let any_v6 = IpNet::from(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![any_v4],
        // A socket bound to `::` takes IPv4 connections too.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![any_v4, any_v6],
        one => vec![one.into()],
    }
}

impl From<ProtocolWord> for ProtocolSet {
    fn from(word: ProtocolWord) -> Self {
        match word {
            ProtocolWord::Tcp => Self::of(Protocol::Tcp),
            ProtocolWord::Udp => Self::of(Protocol::Udp),
            ProtocolWord::Icmp => Self::of(Protocol::Icmp),
            ProtocolWord::Any => Self::ANY,
        }
    }
}

impl From<ListenProtocolWord> for ProtocolSet {
    fn from(word: ListenProtocolWord) -> Self {
        match word {
            ListenProtocolWord::Tcp => Self::of(Protocol::Tcp),
            ListenProtocolWord::Udp => Self::of(Protocol::Udp),
            ListenProtocolWord::Any => Self::ANY,
        }
    }
}
