//! Finds rules that another rule makes pointless.
//!
//! A rule is covered if one other rule matches every request that it matches.
//! Coverage by several rules together is not looked for: what is reported is
//! certain, what is not reported may still be pointless.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

use super::resolved::NetRule;

/// At most this many candidates are compared with one rule, so that thousands of
/// rules about the same network stay cheap.
const MAX_CANDIDATES: usize = 64;
/// Networks compared with networks in all look-ups together: a remark is worth a
/// tenth of a second, not more.
const MAX_COMPARISONS: usize = 10_000_000;

/// Rules by network, to find those that may cover another one.
pub struct Coverage<'a> {
    rules: Vec<&'a NetRule>,
    by_net: HashMap<IpNet, Vec<usize>>,
    v4_prefixes: BTreeSet<u8>,
    v6_prefixes: BTreeSet<u8>,
    /// What is left of [`MAX_COMPARISONS`].
    comparisons: Cell<usize>,
}

impl<'a> Coverage<'a> {
    pub fn new(rules: impl IntoIterator<Item = &'a NetRule>) -> Self {
        let mut coverage = Self {
            rules: rules.into_iter().collect(),
            by_net: HashMap::new(),
            v4_prefixes: BTreeSet::new(),
            v6_prefixes: BTreeSet::new(),
            comparisons: Cell::new(MAX_COMPARISONS),
        };
        for (index, rule) in coverage.rules.iter().enumerate() {
            for &net in &rule.nets {
                coverage.by_net.entry(net).or_default().push(index);
                let prefixes = match net {
                    IpNet::V4(_) => &mut coverage.v4_prefixes,
                    IpNet::V6(_) => &mut coverage.v6_prefixes,
                };
                prefixes.insert(net.prefix_len());
            }
        }
        coverage
    }

    /// The index of a rule that covers `rule`, if one is found; `rule` itself is
    /// passed over by its `own` index.
    pub fn of(&self, rule: &NetRule, own: Option<usize>) -> Option<usize> {
        let Some(&first) = rule.nets.first() else { return self.of_names(rule, own) };
        let prefixes = match first {
            IpNet::V4(_) => &self.v4_prefixes,
            IpNet::V6(_) => &self.v6_prefixes,
        };
        prefixes
            .range(..=first.prefix_len())
            .filter_map(|&prefix| IpNet::new(first.addr(), prefix).ok())
            .filter_map(|net| self.by_net.get(&net.trunc()))
            .flatten()
            .copied()
            .filter(|&index| Some(index) != own)
            .take(MAX_CANDIDATES)
            // Of two equal rules only the later one is reported.
            .find(|&index| {
                let other = self.rules[index];
                self.covers(other, rule) && !own.is_some_and(|own| index > own && self.covers(rule, other))
            })
    }

    /// The same for a rule about names only.
    fn of_names(&self, rule: &NetRule, own: Option<usize>) -> Option<usize> {
        let named = self.rules.iter().enumerate().filter(|(_, other)| !other.hosts.is_empty());
        named.map(|(index, _)| index).filter(|&index| Some(index) != own).find(|&index| {
            let other = self.rules[index];
            self.covers(other, rule) && !own.is_some_and(|own| index > own && self.covers(rule, other))
        })
    }

    /// [`covers`] within what is left of the budget; `false` without it.
    fn covers(&self, wide: &NetRule, narrow: &NetRule) -> bool {
        let pairs = wide.nets.len() * narrow.nets.len() + wide.hosts.len() * narrow.hosts.len();
        let left = self.comparisons.get().checked_sub(pairs);
        self.comparisons.set(left.unwrap_or(0));
        left.is_some() && covers(wide, narrow)
    }
}

/// Whether `wide` is about every program that `narrow` is about. Globs are not compared.
fn same_programs(wide: &NetRule, narrow: &NetRule) -> bool {
    let (wide, narrow) = (&wide.programs, &narrow.programs);
    wide.lasts(narrow)
        && wide.except.iter().all(|program| narrow.except.contains(program))
        && (wide.exe.is_empty()
            || !narrow.exe.is_empty() && narrow.exe.iter().all(|program| wide.exe.contains(program)))
}

/// Whether `wide` matches every request that `narrow` matches.
fn covers(wide: &NetRule, narrow: &NetRule) -> bool {
    same_programs(wide, narrow)
        && (narrow.sni || !wide.sni)
        && wide.protocols.covers(narrow.protocols)
        && narrow.nets.iter().all(|net| wide.nets.iter().any(|other| other.contains(net)))
        && narrow.hosts.iter().all(|host| wide.hosts.iter().any(|other| other.covers(host)))
        && narrow
            .ports
            .iter()
            .all(|ports| wide.ports.iter().any(|w| w.start() <= ports.start() && ports.end() <= w.end()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::programs::Condition;
    use super::super::resolved::{Protocol, ProtocolSet, Source};
    use super::*;

    fn rule(nets: &[&str], ports: std::ops::RangeInclusive<u16>, protocols: ProtocolSet) -> NetRule {
        NetRule {
            id: String::new(),
            source: Source { file: Path::new("p").into(), line: 1, column: 1 },
            nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
            hosts: Vec::new(),
            sni: false,
            ports: vec![ports],
            protocols,
            programs: Condition::default(),
        }
    }

    #[test]
    fn a_rule_is_covered_only_if_all_of_it_is() {
        let tcp = ProtocolSet::of(Protocol::Tcp);
        let wide = rule(&["10.0.0.0/8", "::/0"], 0..=65535, ProtocolSet::ANY);
        let coverage = Coverage::new([&wide]);
        assert_eq!(coverage.of(&rule(&["10.1.0.0/16"], 443..=443, tcp), None), Some(0));
        assert_eq!(coverage.of(&rule(&["2001:db8::/32", "10.0.0.1/32"], 443..=443, tcp), None), Some(0));
        assert_eq!(coverage.of(&rule(&["10.1.0.0/16", "11.0.0.0/16"], 443..=443, tcp), None), None);
        assert_eq!(coverage.of(&rule(&["0.0.0.0/0"], 443..=443, tcp), None), None);
        let narrow = rule(&["10.0.0.0/8"], 400..=500, tcp);
        let coverage = Coverage::new([&narrow]);
        assert_eq!(coverage.of(&rule(&["10.0.0.0/8"], 443..=443, tcp), None), Some(0));
        assert_eq!(coverage.of(&rule(&["10.0.0.0/8"], 443..=501, tcp), None), None);
        assert_eq!(coverage.of(&rule(&["10.0.0.0/8"], 443..=443, ProtocolSet::ANY), None), None);
    }

    #[test]
    fn a_rule_about_names_is_covered_by_names_only() {
        let named = |hosts: &[&str]| NetRule {
            hosts: hosts.iter().map(|text| super::super::names::host(text).unwrap()).collect(),
            ..rule(&[], 443..=443, ProtocolSet::of(Protocol::Tcp))
        };
        let (star, everything) =
            (named(&["*.example.com"]), rule(&["0.0.0.0/0"], 0..=65535, ProtocolSet::ANY));
        let coverage = Coverage::new([&star, &everything]);
        assert_eq!(coverage.of(&named(&["a.example.com"]), None), Some(0));
        assert_eq!(coverage.of(&named(&["a.example.com", "example.com"]), None), None);
        let both =
            NetRule { hosts: named(&["b.net"]).hosts, ..rule(&["10.0.0.1/32"], 443..=443, ProtocolSet::ANY) };
        assert_eq!(coverage.of(&both, None), None);
        let asking = |hosts: &[&str]| NetRule { sni: true, ..named(hosts) };
        assert_eq!(coverage.of(&asking(&["a.example.com"]), None), Some(0));
        let star = asking(&["*.example.com"]);
        assert_eq!(Coverage::new([&star]).of(&named(&["a.example.com"]), None), None);
    }

    #[test]
    fn of_two_equal_rules_the_later_one_is_covered() {
        let rule = rule(&["10.0.0.0/8"], 1..=2, ProtocolSet::ANY);
        let coverage = Coverage::new([&rule, &rule]);
        assert_eq!(coverage.of(&rule, Some(0)), None);
        assert_eq!(coverage.of(&rule, Some(1)), Some(0));
    }
}
