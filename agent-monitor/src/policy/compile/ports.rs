//! What each of the 65 536 ports ends in, as canonical runs behind small ids.
//!
//! The network builder keeps one such map per address range: equal maps have equal ids, so "the same ports are
//! granted here" is one comparison, and the union of two maps is computed once.
//! A union takes per port what is said more ([`Said::with`]), so neither the order nor the
//! number of repetitions of rules matters. That is the whole semantics of "order-free, deny wins".

use std::ops::RangeInclusive;

use agent_monitor_common::decide::Decision;
use foldhash::{HashMap, HashMapExt};

/// What rules say together about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Said {
    granted: Granted,
    denied: Denied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Granted {
    No,
    /// If the client's hello says a granted name.
    Hello,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Denied {
    No,
    /// By a rule that is tried out.
    Audit,
    Yes,
}

impl Said {
    pub(super) const NOTHING: Self = Said { granted: Granted::No, denied: Denied::No };
    pub(super) const ALLOW: Self = Said { granted: Granted::Yes, denied: Denied::No };
    pub(super) const ALLOW_HELLO: Self = Said { granted: Granted::Hello, denied: Denied::No };
    pub(super) const DENY: Self = Said { granted: Granted::No, denied: Denied::Yes };
    pub(super) const AUDIT: Self = Said { granted: Granted::No, denied: Denied::Audit };

    /// What two rules say.
    fn with(self, other: Self) -> Self {
        let both = Said { granted: self.granted.max(other.granted), denied: self.denied.max(other.denied) };
        // What is denied is denied whatever is granted.
        if both.denied == Denied::Yes { Said::DENY } else { both }
    }

    /// What that comes to.
    pub(super) fn decision(self) -> Decision {
        match (self.denied, self.granted) {
            (Denied::Yes, _) => Decision::DenyRule,
            (_, Granted::No) => Decision::DenyDefault,
            (_, Granted::Hello) => Decision::AllowHello,
            (Denied::No, Granted::Yes) => Decision::Allow,
            (Denied::Audit, Granted::Yes) => Decision::Audit,
        }
    }
}

/// The id of a map in its [`PortMaps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PortMap(u32);

/// No rule speaks about any port.
pub(super) const NOTHING: PortMap = PortMap(0);

/// First port of a run, and what every port from there to the next run ends in. The first run starts at port 0;
/// neighbours differ.
pub(super) type Run = (u16, Said);

pub(super) struct PortMaps {
    maps: Vec<Box<[Run]>>,
    ids: HashMap<Box<[Run]>, PortMap>,
    unions: HashMap<(PortMap, PortMap), PortMap>,
}

impl PortMaps {
    pub(super) fn new() -> Self {
        let mut maps = PortMaps { maps: Vec::new(), ids: HashMap::new(), unions: HashMap::new() };
        let nothing = maps.intern(vec![(0, Said::NOTHING)]);
        debug_assert_eq!(nothing, NOTHING);
        maps
    }

    /// `said` on `ports`, nothing elsewhere. Ranges may overlap and come in any order; an empty range is no port.
    pub(super) fn of(&mut self, ports: &[RangeInclusive<u16>], said: Said) -> PortMap {
        let mut sorted: Vec<(u16, u16)> = ports
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| (*range.start(), *range.end()))
            .collect();
        sorted.sort_unstable();
        let mut runs = vec![(0, Said::NOTHING)];
        // One past the last port so far, in 32 bits because it may be 65 536.
        let mut end = 0_u32;
        for (first, last) in sorted {
            let first = u32::from(first).max(end);
            if first > u32::from(last) {
                continue;
            }
            if first == 0 {
                runs[0].1 = said;
            } else if first > end {
                if end > 0 {
                    runs.push((end as u16, Said::NOTHING));
                }
                runs.push((first as u16, said));
            }
            end = u32::from(last) + 1;
        }
        if (1..=0xffff).contains(&end) {
            runs.push((end as u16, Said::NOTHING));
        }
        runs.dedup_by_key(|run| run.1);
        self.intern(runs)
    }

    /// What both say, port by port.
    pub(super) fn union(&mut self, a: PortMap, b: PortMap) -> PortMap {
        if a == b || b == NOTHING {
            return a;
        }
        if a == NOTHING {
            return b;
        }
        let key = if a.0 < b.0 { (a, b) } else { (b, a) };
        if let Some(&known) = self.unions.get(&key) {
            return known;
        }
        let (x, y) = (self.runs(a), self.runs(b));
        let mut runs = Vec::with_capacity(x.len() + y.len());
        let (mut i, mut j) = (0, 0);
        loop {
            let start = x[i].0.max(y[j].0);
            let said = x[i].1.with(y[j].1);
            if runs.last().is_none_or(|&(_, last)| last != said) {
                runs.push((start, said));
            }
            match (x.get(i + 1), y.get(j + 1)) {
                (None, None) => break,
                (Some(_), None) => i += 1,
                (None, Some(_)) => j += 1,
                (Some(next_x), Some(next_y)) => {
                    let (next_x, next_y) = (next_x.0, next_y.0);
                    i += usize::from(next_x <= next_y);
                    j += usize::from(next_y <= next_x);
                }
            }
        }
        let union = self.intern(runs);
        self.unions.insert(key, union);
        union
    }

    /// What every port ends in, where that is one thing.
    pub(super) fn constant(&self, map: PortMap) -> Option<Said> {
        match *self.runs(map) {
            [(_, said)] => Some(said),
            _ => None,
        }
    }

    /// The runs of a map, first port ascending.
    pub(super) fn runs(&self, map: PortMap) -> &[Run] {
        &self.maps[map.0 as usize]
    }

    fn intern(&mut self, runs: Vec<Run>) -> PortMap {
        let runs = runs.into_boxed_slice();
        if let Some(&id) = self.ids.get(&runs) {
            return id;
        }
        let id = PortMap(self.maps.len() as u32);
        self.maps.push(runs.clone());
        self.ids.insert(runs, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_canonical_whatever_the_ranges_look_like() {
        let mut maps = PortMaps::new();
        let a = maps.of(&[80..=80, 443..=443, 81..=90], Said::ALLOW);
        assert_eq!(
            maps.runs(a),
            [
                (0, Said::NOTHING),
                (80, Said::ALLOW),
                (91, Said::NOTHING),
                (443, Said::ALLOW),
                (444, Said::NOTHING)
            ]
        );
        assert_eq!(maps.of(&[443..=443, 85..=90, 80..=86], Said::ALLOW), a);
        let all = maps.of(&[0..=65535], Said::ALLOW);
        assert_eq!(maps.constant(all), Some(Said::ALLOW));
        assert_eq!(maps.of(&[1000..=65535, 0..=999], Said::ALLOW), all);
        let ends = maps.of(&[0..=0, 65535..=65535], Said::ALLOW);
        assert_eq!(maps.runs(ends), [(0, Said::ALLOW), (1, Said::NOTHING), (65535, Said::ALLOW)]);
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what this asks about")]
        let empty = maps.of(&[9..=8], Said::ALLOW);
        assert_eq!(empty, NOTHING);
    }

    #[test]
    fn the_stronger_decision_wins_in_a_union() {
        let mut maps = PortMaps::new();
        let allow = maps.of(&[0..=1023], Said::ALLOW);
        let deny = maps.of(&[22..=22, 1000..=2000], Said::DENY);
        let both = maps.union(allow, deny);
        assert_eq!(
            maps.runs(both),
            [
                (0, Said::ALLOW),
                (22, Said::DENY),
                (23, Said::ALLOW),
                (1000, Said::DENY),
                (2001, Said::NOTHING)
            ]
        );
        assert_eq!(maps.union(deny, allow), both);
        assert_eq!(maps.union(both, allow), both);
        let all = maps.of(&[0..=65535], Said::DENY);
        assert_eq!(maps.union(both, all), all);
        let hello = maps.of(&[0..=443], Said::ALLOW_HELLO);
        let plain = maps.of(&[80..=80], Said::ALLOW);
        let union = maps.union(hello, plain);
        assert_eq!(
            maps.runs(union),
            [(0, Said::ALLOW_HELLO), (80, Said::ALLOW), (81, Said::ALLOW_HELLO), (444, Said::NOTHING)]
        );
        assert_eq!(maps.union(plain, hello), union);
        assert_eq!(maps.union(union, all), all);
    }

    #[test]
    fn a_denial_that_is_tried_out_tells_of_what_is_granted_and_changes_nothing() {
        let together = |said: &[Said]| said.iter().fold(Said::NOTHING, |all, one| all.with(*one)).decision();
        assert_eq!(together(&[Said::AUDIT, Said::ALLOW]), Decision::Audit);
        assert_eq!(together(&[Said::ALLOW, Said::AUDIT]), Decision::Audit);
        assert_eq!(together(&[Said::AUDIT]), Decision::DenyDefault);
        assert_eq!(together(&[Said::AUDIT, Said::ALLOW, Said::DENY]), Decision::DenyRule);
        assert_eq!(together(&[Said::AUDIT, Said::ALLOW_HELLO]), Decision::AllowHello);
    }
}
