//! Makes profiles that grant names out of a seed, and names to ask for.

use super::sample::{Random, network_profile};
use crate::policy::names::host;
use crate::policy::{HostPattern, Protocol, ProtocolSet, ResolvedProfile};

/// Labels of names, few enough that rules overlap.
const LABELS: [&str; 8] = ["a", "b", "api", "cdn", "x-1", "_dmarc", "xn--bcher-kva", "long-long-label"];
/// Domains above them.
const DOMAINS: [&str; 5] = ["com", "example.com", "b.example.com", "net", "example.net"];

/// A profile whose `rules` allow rules grant names and, some of them, networks too.
#[must_use]
pub fn named_profile(rules: usize, seed: u64) -> ResolvedProfile {
    let mut profile = network_profile(rules + rules / 2 + 1, seed);
    let mut random = Random::new(seed ^ 0x6e61_6d65);
    for rule in &mut profile.network.allow {
        let count = 1 + random.below(3);
        rule.hosts = (0..count).filter_map(|_| pattern(&mut random)).collect();
        if random.below(3) != 0 {
            rule.nets.clear();
            if random.below(3) == 0 {
                (rule.sni, rule.protocols) = (true, ProtocolSet::of(Protocol::Tcp));
            }
        }
    }
    profile
}

fn pattern(random: &mut Random) -> Option<HostPattern> {
    let star = if random.below(3) == 0 { "*." } else { "" };
    host(&format!("{star}{}", name(random))).ok()
}

fn name(random: &mut Random) -> String {
    let labels = random.below(3);
    let mut name = String::new();
    for _ in 0..labels {
        name.push_str(random.pick(&LABELS));
        name.push('.');
    }
    name + random.pick(&DOMAINS)
}

/// Names to ask for, those of the rules among them.
#[must_use]
pub fn names(profile: &ResolvedProfile, count: usize, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed ^ 0x0061_736b);
    let known: Vec<String> =
        profile.network.allow.iter().flat_map(|rule| &rule.hosts).map(ToString::to_string).collect();
    (0..count)
        .map(|_| match random.below(4) {
            0 if !known.is_empty() => {
                let pattern = &known[random.below(known.len())];
                match pattern.strip_prefix("*.") {
                    Some(rest) if random.below(3) != 0 => format!("{}.{rest}", random.pick(&LABELS)),
                    Some(rest) => rest.to_owned(),
                    None => pattern.clone(),
                }
            }
            _ => name(&mut random),
        })
        .collect()
}
