//! Where two profiles differ about names.
//!
//! A profile knows a name by the patterns that it matches, so names that match the same patterns of both profiles are
//! judged alike: one of each kind is asked, at every port.

use std::collections::BTreeSet;

use agent_monitor_common::decide::{Decision, decide_name};
use agent_monitor_common::request::Protocol;

use super::{Found, Sides};
use crate::policy::judge::{Destination, Judge, Request};
use crate::policy::{NameClasses, NetworkPolicy};

/// Finds every difference about names for programs of these classes.
pub fn compare(sides: &Sides<'_>, found: &mut Found) {
    let (old, new) = (Named::of(sides.old), Named::of(sides.new));
    for name in kinds(&[&sides.old.profile().network, &sides.new.profile().network]) {
        let ports = ports(&[&sides.old.profile().network, &sides.new.profile().network], &name);
        for protocol in Protocol::ALL {
            // A grant that asks for a hello is less than one that does not.
            let rank = |named: &Named<'_>, class, port| {
                let number = named.classes.class_of(&name)?;
                match decide_name(named.judge.image(), class, number, *protocol, port) {
                    Decision::Allow | Decision::Audit => Some(2),
                    Decision::AllowHello => Some(1),
                    Decision::DenyDefault | Decision::DenyRule => None,
                }
            };
            // The first port of each direction is enough to show it.
            let mut told = [false; 2];
            for &port in &ports {
                let before = rank(&old, sides.old_class, port);
                let now = rank(&new, sides.new_class, port);
                let wider = now > before;
                if before != now && !std::mem::replace(&mut told[usize::from(wider)], true) {
                    let to = Destination::Host(name.clone());
                    found.request(sides, Request::Connect { to, port, protocol: *protocol }, wider);
                }
            }
        }
    }
}

struct Named<'j> {
    judge: &'j Judge,
    classes: NameClasses,
}

impl<'j> Named<'j> {
    fn of(judge: &'j Judge) -> Self {
        Named { judge, classes: NameClasses::of(&judge.profile().network).unwrap_or_default() }
    }
}

/// A name of each kind that the patterns tell apart. What no pattern matches is denied by both.
fn kinds(policies: &[&NetworkPolicy]) -> BTreeSet<String> {
    let patterns = || policies.iter().flat_map(|policy| &policy.allow).flat_map(|rule| &rule.hosts);
    let written: BTreeSet<String> = patterns().map(ToString::to_string).collect();
    let mut names = BTreeSet::new();
    for pattern in &written {
        match pattern.strip_prefix("*.") {
            None => {
                names.insert(pattern.clone());
            }
            // A name below, that is no pattern's own and below no nearer one.
            Some(above) => {
                let fresh =
                    (0..).map(|n| if n == 0 { format!("any.{above}") } else { format!("any{n}.{above}") });
                let free = |name: &String| !written.contains(name) && !written.contains(&format!("*.{name}"));
                names.extend(fresh.into_iter().find(free));
            }
        }
    }
    names
}

/// A port of every range that the rules about `name` tell apart: where one begins, and where one has ended.
fn ports(policies: &[&NetworkPolicy], name: &str) -> BTreeSet<u16> {
    let rules = policies.iter().flat_map(|policy| &policy.allow);
    let about = rules.filter(|rule| rule.hosts.iter().any(|host| host.matches(name)));
    let ends = about.flat_map(|rule| &rule.ports).flat_map(|r| [Some(*r.start()), r.end().checked_add(1)]);
    ends.flatten().chain([0]).collect()
}
