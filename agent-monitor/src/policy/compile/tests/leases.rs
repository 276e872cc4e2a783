//! Leases: the records without them decide as the profile does from which they are gone.

use agent_monitor_common::decide::decide;
use agent_monitor_common::image::{Class, field, header};
use agent_monitor_common::path::{Right, decide_path};
use jiff::Timestamp;
use proptest::prelude::*;

use super::files;
use super::network::profiles;
use super::path::path;
use crate::policy::compile::{self, sample};
use crate::policy::{Membership, ResolvedProfile, naive};

const END: Timestamp = Timestamp::constant(1_900_000_000, 0);

/// Makes leases of some grants.
fn lend(profile: &mut ResolvedProfile, lent: &[bool]) {
    let network = profile.network.allow.iter_mut().chain(&mut profile.network.listen);
    let network = network.map(|rule| &mut rule.programs);
    let files = profile.filesystem.iter_mut().flat_map(|files| files.read.iter_mut().chain(&mut files.write));
    let conditions = network.chain(files.map(|rule| &mut rule.programs));
    for (condition, _) in conditions.zip(lent).filter(|(_, lent)| **lent) {
        condition.until = Some(END);
    }
}

fn without(profile: &ResolvedProfile) -> ResolvedProfile {
    let mut rest = profile.clone();
    assert!(!rest.lapse(END - jiff::SignedDuration::from_secs(1)), "nothing ends before its time");
    rest.lapse(END);
    assert_eq!(rest.first_end(), None);
    rest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn networks_are_as_without_the_lent_rules(mut profile in profiles(), lent: [bool; 24], seed: u64) {
        lend(&mut profile, &lent);
        let rest = without(&profile);
        let image = compile::profile(&profile).unwrap();
        prop_assert_eq!(field(&image, header::LEASED) != 0, profile.first_end().is_some());
        let lapsed = u32::from(profile.first_end().is_some());
        for request in sample::requests(&profile, 400, seed) {
            for (of, class) in [(&profile, Class::PLAIN), (&rest, Class::PLAIN.without_leases(lapsed))] {
                let (decision, _) = naive::decide(&of.network, &Membership::PLAIN, request);
                prop_assert_eq!(decide(&image, class, request), decision, "{:?}", request);
            }
        }
    }

    #[test]
    fn paths_are_as_without_the_lent_rules(
        rules in files::rules(),
        lent: [bool; 24],
        paths in prop::collection::vec(path(), 60),
    ) {
        let mut profile = files::profile(&rules);
        lend(&mut profile, &lent);
        let rest = without(&profile);
        let (image, of_rest) = (compile::profile(&profile).unwrap(), compile::profile(&rest).unwrap());
        let lapsed = u32::from(profile.first_end().is_some());
        for path in &paths {
            for right in Right::ALL {
                let own = decide_path(&image, Class::PLAIN.without_leases(lapsed), path.as_bytes(), right as u32);
                let expected = decide_path(&of_rest, Class::PLAIN, path.as_bytes(), right as u32);
                prop_assert_eq!(own, expected, "{:?} {:?}", path, right);
            }
        }
    }
}

#[test]
fn a_profile_without_leases_has_no_second_records() {
    let profile = crate::event::fixture::profile("plain");
    let image = compile::profile(&profile).unwrap();
    assert_eq!(field(&image, header::LEASED), 0);
    let request = agent_monitor_common::request::NetRequest::out(
        agent_monitor_common::request::Address::v4(0),
        443,
        agent_monitor_common::request::Protocol::Tcp,
    );
    let denied = agent_monitor_common::decide::Decision::DenyDefault;
    assert_eq!(decide(&image, Class::PLAIN.without_leases(1), request), denied);
}
