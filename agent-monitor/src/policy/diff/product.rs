//! Two automata walked side by side: every pair of states that some input reaches, each with the shortest input that
//! does.
//!
//! This is what makes a difference of profiles exact: a request that two images judge differently ends in a pair whose
//! answers differ, and every pair is looked at.

use std::collections::HashSet;
use std::hash::Hash;

/// How one was first reached: from which, by which byte.
type Step = Option<(u32, u8)>;

/// Visits everything that is reachable from `start`, nearest first. `bytes`: what can come next, in the order in which
/// examples prefer it; nothing where the input ends. `next` tells what a byte leads to; `visit` gets each pair once, with
/// a way to ask for the input that led there.
pub fn walk<P: Copy + Eq + Hash>(
    start: P,
    bytes: impl Fn(P) -> &'static [u8],
    next: impl Fn(P, u8) -> P,
    mut visit: impl FnMut(P, &dyn Fn() -> Vec<u8>),
) {
    let mut pairs: Vec<(P, Step)> = vec![(start, None)];
    let mut known: HashSet<P> = HashSet::from([start]);
    let mut at = 0;
    while at < pairs.len() {
        let pair = pairs[at].0;
        visit(pair, &|| input(&pairs, at));
        // Most bytes lead to the same few places.
        let mut seen: Vec<P> = Vec::new();
        for &byte in bytes(pair) {
            let to = next(pair, byte);
            if seen.contains(&to) {
                continue;
            }
            seen.push(to);
            if known.insert(to) {
                pairs.push((to, Some((at as u32, byte))));
            }
        }
        at += 1;
    }
}

/// Every byte, those in `first` before the others.
pub const fn preferring(first: &[u8]) -> [u8; 256] {
    let mut order = [0; 256];
    let (mut filled, mut at) = (0, 0);
    while at < first.len() {
        order[filled] = first[at];
        filled += 1;
        at += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut known = 0;
        while known < first.len() && first[known] as usize != byte {
            known += 1;
        }
        if known == first.len() {
            order[filled] = byte as u8;
            filled += 1;
        }
        byte += 1;
    }
    order
}

fn input<P>(pairs: &[(P, Step)], mut at: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((before, byte)) = pairs[at].1 {
        bytes.push(byte);
        at = before as usize;
    }
    bytes.reverse();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_visited_once_with_its_shortest_input() {
        // Lengths modulo 3 and 4: twelve pairs, the last after eleven bytes.
        let mut visited = Vec::new();
        let next = |(a, b), _| ((a + 1) % 3, (b + 1) % 4);
        walk((0, 0), |_| b"x", next, |pair, input| visited.push((pair, input().len())));
        assert_eq!(visited.len(), 12);
        assert!(visited.iter().all(|&((a, b), length)| length % 3 == a && length % 4 == b));
        assert_eq!(visited[11].1, 11);
    }

    #[test]
    fn every_byte_comes_once() {
        const ORDER: [u8; 256] = preferring(b"za0");
        assert_eq!(&ORDER[..5], &[b'z', b'a', b'0', 0, 1]);
        let mut sorted = ORDER;
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(at, &byte)| at == usize::from(byte)));
    }
}
