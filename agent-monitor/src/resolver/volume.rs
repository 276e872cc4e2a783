//! How much an agent asks, and whether its names look like data: what a tunnel over names needs (T1071.004, T1048.003).
//!
//! A name that no rule grants goes nowhere. Below `*.example.com` every label does, and whoever has that domain reads
//! it: this is where it shows.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// What is counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Different names of one agent in a window that are told of.
pub const MANY_NAMES: usize = 500;
/// Different labels of one agent in a window that look like data, which are told of.
pub const MANY_ODD: usize = 10;
/// Agents that are watched at one time.
const MAX_AGENTS: usize = 4_096;
/// Bytes from which a label can look like data.
const LONG: usize = 20;
/// Bytes from which it does whatever is in it.
const VERY_LONG: usize = 40;
/// Bits a byte from which a long label does: base 32 and 64 have up to 5 and 6, English words in a row about 3. Text
/// in hexadecimal digits has less, and shows by its share of decimal ones.
const DENSE: f64 = 3.3;

/// What an agent asked in the present window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub questions: u32,
    /// Different names, at most [`MANY_NAMES`].
    pub names: u32,
    /// Different labels that look like data, at most [`MANY_ODD`].
    pub odd: u32,
}

struct Window {
    since: Instant,
    questions: u32,
    names: HashSet<u64>,
    odd: HashSet<u64>,
    told: bool,
}

/// What is to be made of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// A label of it looks like data.
    pub odd: bool,
    /// It makes of the agent's questions what a tunnel would; told once in a window.
    pub tunnel: Option<Tally>,
}

/// See the module.
#[derive(Default)]
pub struct Volume {
    agents: HashMap<u32, Window>,
}

impl Volume {
    /// Counts a question.
    pub fn note(&mut self, agent: u32, name: &str, now: Instant) -> Noted {
        if self.agents.len() >= MAX_AGENTS && !self.agents.contains_key(&agent) {
            self.agents.retain(|_, window| now.duration_since(window.since) < WINDOW);
            if self.agents.len() >= MAX_AGENTS {
                self.agents.clear();
            }
        }
        let new =
            || Window { since: now, questions: 0, names: HashSet::new(), odd: HashSet::new(), told: false };
        let window = self.agents.entry(agent).or_insert_with(new);
        if now.duration_since(window.since) >= WINDOW {
            *window = new();
        }
        window.questions = window.questions.saturating_add(1);
        let longest = name.split('.').max_by_key(|label| label.len()).unwrap_or_default();
        let odd = looks_like_data(longest);
        if window.names.len() < MANY_NAMES {
            window.names.insert(hash(name));
        }
        if odd && window.odd.len() < MANY_ODD {
            window.odd.insert(hash(longest));
        }
        let tunnel = !window.told && (window.names.len() >= MANY_NAMES || window.odd.len() >= MANY_ODD);
        window.told |= tunnel;
        let tally = Tally {
            questions: window.questions,
            names: window.names.len() as u32,
            odd: window.odd.len() as u32,
        };
        Noted { odd, tunnel: tunnel.then_some(tally) }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Whether a label is so long, and its bytes so evenly spread, that it is hardly a name.
fn looks_like_data(label: &str) -> bool {
    let digits = label.bytes().filter(u8::is_ascii_digit).count();
    label.len() >= VERY_LONG || label.len() >= LONG && (entropy(label) >= DENSE || digits * 4 >= label.len())
}

/// Shannon entropy in bits a byte.
fn entropy(label: &str) -> f64 {
    let mut counts = [0_u32; 256];
    label.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = label.len() as f64;
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / length);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_give_are_not_data() {
        for name in [
            "api",
            "registry",
            "objects-origin",
            "ec2-198-51-100-7",
            "xn--bcher-kva",
            "aaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(!looks_like_data(name), "{name}");
        }
        for data in [
            "4d5a90000300000004000000ffff0000b8000000",
            "mfrggzdfmztwq2lknnwg23tpob",
            "6869206d6f6d2c2073656e64",
        ] {
            assert!(looks_like_data(data), "{data}");
        }
    }

    #[test]
    fn a_tunnel_is_told_once_in_a_window() {
        let mut volume = Volume::default();
        let now = Instant::now();
        let mut told = 0;
        for n in 0..3 * MANY_ODD as u32 {
            let noted = volume.note(1, &format!("4d5a9000030000000400{n:08x}.x.example.test"), now);
            assert!(noted.odd);
            if let Some(tally) = noted.tunnel {
                assert_eq!((tally.odd, tally.questions), (MANY_ODD as u32, MANY_ODD as u32));
                told += 1;
            }
        }
        assert_eq!(told, 1);
        // The same name again and again is none.
        assert!((0..2_000).all(|_| volume.note(2, "api.example.test", now).tunnel.is_none()));
        let later = now + WINDOW;
        let names =
            (0..MANY_NAMES).filter_map(|n| volume.note(1, &format!("n{n}.example.test"), later).tunnel);
        assert_eq!(names.count(), 1);
    }
}
