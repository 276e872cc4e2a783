//! Names: the automaton over classes, the rules read one by one, and the attribution say the same.

use std::sync::Arc;

use agent_monitor_common::decide::{Decision, decide_name};
use agent_monitor_common::image::{Class, HAS_NAMES, PLAIN_CLASS, Settings, header};
use agent_monitor_common::request::Protocol;
use proptest::prelude::*;

use crate::policy::attribute::Attributor;
use crate::policy::compile::{self, sample_names};
use crate::policy::{Membership, NameClasses, naive};

const PORTS: [u16; 8] = [0, 22, 53, 80, 443, 8_000, 8_080, u16::MAX];

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    /// 120 profiles × 100 names × 4 protocols × 8 ports.
    #[test]
    fn classes_rules_and_attribution_agree(rules in 1..30_usize, seed: u64) {
        let profile = sample_names::named_profile(rules, seed);
        let image = compile::profile(&profile).unwrap();
        let classes = NameClasses::of(&profile.network).unwrap();
        let index = Attributor::new(Arc::new(profile.clone()));
        for name in sample_names::names(&profile, 100, seed) {
            let class = classes.class_of(&name);
            for &protocol in Protocol::ALL {
                for port in PORTS {
                    let (decision, rule) =
                        naive::decide_name(&profile.network, &Membership::PLAIN, &name, protocol, port);
                    // A name of no class never gets an address.
                    let walked = class.map_or(Decision::DenyDefault, |class| {
                        decide_name(&image, Class::PLAIN, class, protocol, port)
                    });
                    prop_assert_eq!(walked, decision, "{} {:?} {}", name, protocol, port);
                    let found = class.and_then(|class| index.name(PLAIN_CLASS, class, port, protocol));
                    prop_assert_eq!(found, rule, "{} {:?} {}", name, protocol, port);
                }
            }
        }
    }

    /// The order of rules and of their names changes neither a number nor a byte.
    #[test]
    fn order_changes_nothing(rules in 1..20_usize, seed: u64, turn in 0..20_usize) {
        let before = sample_names::named_profile(rules, seed);
        let mut after = before.clone();
        let middle = turn % after.network.allow.len().max(1);
        after.network.allow.rotate_left(middle);
        after.network.allow.iter_mut().for_each(|rule| rule.hosts.reverse());
        prop_assert_eq!(compile::profile(&before).unwrap().words, compile::profile(&after).unwrap().words);
    }
}

#[test]
fn another_name_is_another_image() {
    let with = |name: &str| {
        let mut profile = sample_names::named_profile(1, 7);
        profile.network.allow.truncate(1);
        profile.network.allow[0].hosts = vec![crate::policy::names::host(name).unwrap()];
        compile::profile(&profile).unwrap()
    };
    let (one, other) = (with("a.example"), with("b.example"));
    assert_ne!(one.words, other.words);
    let differing = one.words.iter().zip(&other.words).filter(|(a, b)| a != b).count();
    assert!(
        differing <= 4,
        "the automaton knows numbers only, so four words of a digest differ: {differing}"
    );
    assert!(Settings::from_word(one.words[header::SETTINGS]).flags & HAS_NAMES != 0);
}

#[test]
fn a_class_that_no_name_has_is_granted_nothing() {
    let profile = sample_names::named_profile(10, 3);
    let image = compile::profile(&profile).unwrap();
    let classes = NameClasses::of(&profile.network).unwrap();
    for class in [0, classes.len() as u16 + 1, u16::MAX] {
        for &protocol in Protocol::ALL {
            assert!(
                PORTS.iter().all(|&port| !decide_name(&image, Class::PLAIN, class, protocol, port).allowed())
            );
        }
    }
}
