//! What each of the 65 536 ports ends in, as canonical runs behind small ids.
//!
//! The network builder keeps one such map per address range: equal maps have equal ids, so "the same ports are
//! granted here" is one comparison, and the union of two maps is computed once.
//! A union takes the stronger decision per port (`Decision::stronger`), so neither the order nor the
//! number of repetitions of rules matters. That is the whole semantics of "order-free, deny wins".

use std::collections::HashMap;
use std::ops::RangeInclusive;

use agent_monitor_common::decide::Decision;

/// The id of a map in its [`PortMaps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PortMap(u32);

/// No rule speaks about any port.
pub(super) const NOTHING: PortMap = PortMap(0);

/// First port of a run, and what every port from there to the next run ends in. The first run starts at port 0;
/// neighbours differ.
pub(super) type Run = (u16, Decision);

pub(super) struct PortMaps {
    maps: Vec<Box<[Run]>>,
    ids: HashMap<Box<[Run]>, PortMap>,
    unions: HashMap<(PortMap, PortMap), PortMap>,
}

impl PortMaps {
    pub(super) fn new() -> Self {
        let mut maps = PortMaps { maps: Vec::new(), ids: HashMap::new(), unions: HashMap::new() };
        let nothing = maps.intern(vec![(0, Decision::DenyDefault)]);
        debug_assert_eq!(nothing, NOTHING);
        maps
    }

    /// `decision` on `ports`, nothing elsewhere. Ranges may overlap and come in any order; an empty range is no port.
    pub(super) fn of(&mut self, ports: &[RangeInclusive<u16>], decision: Decision) -> PortMap {
        let mut sorted: Vec<(u16, u16)> = ports
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| (*range.start(), *range.end()))
            .collect();
        sorted.sort_unstable();
        let mut runs = vec![(0, Decision::DenyDefault)];
        // One past the last port so far, in 32 bits because it may be 65 536.
        let mut end = 0_u32;
        for (first, last) in sorted {
            let first = u32::from(first).max(end);
            if first > u32::from(last) {
                continue;
            }
            if first == 0 {
                runs[0].1 = decision;
            } else if first > end {
                if end > 0 {
                    runs.push((end as u16, Decision::DenyDefault));
                }
                runs.push((first as u16, decision));
            }
            end = u32::from(last) + 1;
        }
        if (1..=0xffff).contains(&end) {
            runs.push((end as u16, Decision::DenyDefault));
        }
        runs.dedup_by_key(|run| run.1);
        self.intern(runs)
    }

    /// The stronger decision of both, port by port.
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
            let decision = x[i].1.stronger(y[j].1);
            if runs.last().is_none_or(|&(_, last)| last != decision) {
                runs.push((start, decision));
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
    pub(super) fn constant(&self, map: PortMap) -> Option<Decision> {
        match *self.runs(map) {
            [(_, decision)] => Some(decision),
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
    use Decision::{Allow, AllowHello, DenyDefault, DenyRule};

    #[test]
    fn runs_are_canonical_whatever_the_ranges_look_like() {
        let mut maps = PortMaps::new();
        let a = maps.of(&[80..=80, 443..=443, 81..=90], Allow);
        assert_eq!(
            maps.runs(a),
            [(0, DenyDefault), (80, Allow), (91, DenyDefault), (443, Allow), (444, DenyDefault)]
        );
        assert_eq!(maps.of(&[443..=443, 85..=90, 80..=86], Allow), a);
        let all = maps.of(&[0..=65535], Allow);
        assert_eq!(maps.constant(all), Some(Allow));
        assert_eq!(maps.of(&[1000..=65535, 0..=999], Allow), all);
        let ends = maps.of(&[0..=0, 65535..=65535], Allow);
        assert_eq!(maps.runs(ends), [(0, Allow), (1, DenyDefault), (65535, Allow)]);
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what this asks about")]
        let empty = maps.of(&[9..=8], Allow);
        assert_eq!(empty, NOTHING);
    }

    #[test]
    fn the_stronger_decision_wins_in_a_union() {
        let mut maps = PortMaps::new();
        let allow = maps.of(&[0..=1023], Allow);
        let deny = maps.of(&[22..=22, 1000..=2000], DenyRule);
        let both = maps.union(allow, deny);
        assert_eq!(
            maps.runs(both),
            [(0, Allow), (22, DenyRule), (23, Allow), (1000, DenyRule), (2001, DenyDefault)]
        );
        assert_eq!(maps.union(deny, allow), both);
        assert_eq!(maps.union(both, allow), both);
        let all = maps.of(&[0..=65535], DenyRule);
        assert_eq!(maps.union(both, all), all);
        let hello = maps.of(&[0..=443], AllowHello);
        let plain = maps.of(&[80..=80], Allow);
        let union = maps.union(hello, plain);
        assert_eq!(maps.runs(union), [(0, AllowHello), (80, Allow), (81, AllowHello), (444, DenyDefault)]);
        assert_eq!(maps.union(plain, hello), union);
        assert_eq!(maps.union(union, all), all);
    }
}
