//! Builds the path automaton: globs over the bytes of a resolved absolute path.
//!
//! Called by `compile::claims` and `files.rs`. Globs become one non-deterministic automaton (`glob.rs`), which is made
//! small (`reduce.rs`); subsets of its nodes become states, equal states are merged (`minimise.rs`), and a state whose
//! answer nothing can change any more becomes that answer: `/usr/**` ends the walk right behind `/usr/`.
//! Where several globs match a path, the caller says what their answers make together; the builder says which answers
//! met and on what path.
//!
//! Many globs of the form `**/name` would make very many subsets, if each kept track of globs that have nothing to say
//! any more. So a subset holds the answers that its paths have for good, and no node that could only add to them what
//! no longer matters ([`Answers::settled`]); and the same for what holds until the next `/`.

use std::collections::BTreeMap;

use agent_monitor_common::automaton::TERMINAL;
use foldhash::fast::RandomState;
use indexmap::IndexSet;
use smallvec::SmallVec;

use super::glob::{Bytes, Nfa};
use super::minimise;
use super::reduce::{Gain, Reduced, reduce};
use super::state::{State, Target};
use super::ways::Ways;

/// What the answers of several globs, as bits, make together.
pub(super) trait Answers {
    /// The bits that make no difference any more to a path that has `bits`, these included.
    fn settled(&self, bits: u64) -> u64;
    /// The automaton's answer; 0 for no bits. The same for `bits` and for what is settled with them.
    fn answer(&self, bits: u64) -> u16;
    /// Whether the builder shall find out which bits meet.
    const OVERLAPS: bool = false;
}

/// A path automaton.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) states: Vec<State>,
    pub(super) root: Target,
    /// Pairs of bits (lower first) that some path has both, with the shortest such path.
    pub(super) overlaps: BTreeMap<(u32, u32), Vec<u8>>,
}

/// There are more subsets than `limit`.
#[derive(Debug)]
pub(super) struct TooMany;

/// Determinises and minimises; gives up at `limit` subsets, because few globs can make very many.
pub(super) fn build<A: Answers>(nfa: &Nfa, limit: usize, answers: &A) -> Result<Paths, TooMany> {
    let reduced = reduce(nfa);
    let classes = Classes::of(&reduced);
    let walk = Walk::new(&reduced, &classes, answers);
    let mut subsets = Subsets::default();
    subsets.intern(&walk.begin(), None);
    let width = classes.representatives.len();
    let mut table = Ways::new(width);
    let mut accept: Vec<u64> = Vec::new();
    let mut step = Step::new(width);
    while accept.len() < subsets.sets.len() {
        if subsets.sets.len() > limit {
            return Err(TooMany);
        }
        accept.push(walk.accept(&subsets.sets[accept.len()]));
        walk.ways(&mut subsets, &mut table, &mut step);
    }

    let mut overlaps = BTreeMap::new();
    if A::OVERLAPS {
        for (state, &bits) in accept.iter().enumerate() {
            let ones = || (0..u64::BITS).filter(|bit| bits >> bit & 1 == 1);
            for lower in ones() {
                for higher in ones().filter(|&bit| bit > lower) {
                    overlaps.entry((lower, higher)).or_insert_with(|| subsets.path_to(state));
                }
            }
        }
    }
    // What comes next takes as much.
    drop(subsets);
    let accept: Vec<u16> = accept.into_iter().map(|bits| answers.answer(bits)).collect();
    let blocks = minimise::blocks(&accept, &table);
    let (states, root) = merge(&accept, &table, &blocks, &classes);
    Ok(Paths { states, root, overlaps })
}

/// What is known of a path that was read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Subset {
    gain: Gain,
    /// Ascending.
    nodes: SmallVec<[u32; 6]>,
}

/// Some byte classes.
type OfClasses = Box<[u8]>;
/// What some classes lead to.
type Edges<T> = Box<[(T, OfClasses)]>;

/// Where the classes of a subset lead.
struct Step {
    /// Where those lead that have no way of their own.
    other: Subset,
    of_class: Vec<Subset>,
    /// Whether a class has a way of its own.
    apart: Vec<bool>,
    /// Those that have one, in the end ascending.
    classes: Vec<u8>,
    /// The nodes that give them one.
    extra: Vec<u32>,
    own: Vec<(u8, u32)>,
}

impl Step {
    fn new(width: usize) -> Self {
        Step {
            other: Subset::default(),
            of_class: vec![Subset::default(); width],
            apart: vec![false; width],
            classes: Vec::new(),
            extra: Vec::new(),
            own: Vec::new(),
        }
    }

    /// The way of a class, which begins as `base`.
    fn apart(&mut self, class: u8, base: &Subset) -> &mut Subset {
        let at = usize::from(class);
        let way = &mut self.of_class[at];
        if !std::mem::replace(&mut self.apart[at], true) {
            self.classes.push(class);
            way.gain = base.gain;
            way.nodes.clone_from(&base.nodes);
        }
        way
    }

    /// Forgets the ways.
    fn clear(&mut self) {
        for class in self.classes.drain(..) {
            self.apart[usize::from(class)] = false;
        }
        self.extra.clear();
        self.own.clear();
    }
}

/// Which classes lead a node back to itself.
enum Stays {
    /// All but perhaps that of `/`.
    Others,
    These(OfClasses),
}

/// The reduced automaton with the byte classes of its edges.
struct Walk<'a, A> {
    reduced: &'a Reduced,
    answers: &'a A,
    representatives: &'a [u8],
    slash: u8,
    stays: Vec<Stays>,
    edges: Vec<Edges<u32>>,
    gains: Vec<Edges<Gain>>,
}

impl<'a, A: Answers> Walk<'a, A> {
    fn new(reduced: &'a Reduced, classes: &'a Classes, answers: &'a A) -> Self {
        let of = |bytes: &Bytes| -> OfClasses {
            let all = classes.representatives.iter().enumerate();
            all.filter(|(_, byte)| bytes.has(**byte)).map(|(class, _)| class as u8).collect()
        };
        let stays = |bytes: &Bytes| match bytes.with(b'/') {
            Bytes::ALL => Stays::Others,
            _ => Stays::These(of(bytes)),
        };
        let nodes = &reduced.nodes;
        Walk {
            reduced,
            answers,
            representatives: &classes.representatives,
            slash: classes.of_byte[usize::from(b'/')],
            stays: nodes.iter().map(|node| stays(&node.stays)).collect(),
            edges: nodes
                .iter()
                .map(|n| n.edges.iter().map(|(to, bytes)| (*to, of(bytes))).collect())
                .collect(),
            gains: nodes
                .iter()
                .map(|n| n.gains.iter().map(|(gain, bytes)| (*gain, of(bytes))).collect())
                .collect(),
        }
    }

    fn begin(&self) -> Subset {
        let mut begin = Subset { gain: self.reduced.gained, nodes: self.reduced.begin.as_slice().into() };
        self.pruned(&mut begin);
        begin
    }

    /// The answers of a path that ends here.
    fn accept(&self, subset: &Subset) -> u64 {
        let ending = subset.nodes.iter().map(|&node| self.reduced.nodes[node as usize].accept);
        ending.fold(subset.gain.component, |all, accept| all | accept)
    }

    /// Finds the ways of the first subset that has none yet.
    fn ways(&self, subsets: &mut Subsets, table: &mut Ways, step: &mut Step) {
        let from = table.len();
        let subset = &subsets.sets[from];
        // Most classes lead where those nodes stay that stay over nearly any byte, and there they stay again.
        step.clear();
        let mut other = std::mem::take(&mut step.other);
        other.gain = subset.gain;
        other.nodes.clear();
        other.nodes.extend(subset.nodes.iter().copied().filter(|&node| self.stays_over_others(node)));
        self.pruned(&mut other);
        match subsets.sets.get_index_of(&other) {
            Some(known) if known < from && table.of(known).0 == known as u32 => {
                self.ways_beside(known, subsets, table, step);
            }
            _ => self.all_ways(&other, subsets, table, step),
        }
        step.other = other;
    }

    fn stays_over_others(&self, node: u32) -> bool {
        matches!(self.stays[node as usize], Stays::Others)
    }

    /// The ways of a subset whose other classes lead to `other`, which has its ways already. Its nodes are those of that
    /// one and some more, so what those more do not read leads from both to the same.
    fn ways_beside(&self, other: usize, subsets: &mut Subsets, table: &mut Ways, step: &mut Step) {
        let from = table.len();
        let more = subsets.sets[from].nodes.iter().filter(|&&node| !self.stays_over_others(node));
        step.extra.extend(more);
        self.add(step, |class| &subsets.sets[table.to(other, class) as usize]);
        step.own.extend(table.of(other).1.iter().filter(|(class, _)| !step.apart[usize::from(*class)]));
        for &class in &step.classes {
            let way = self.pruned(&mut step.of_class[usize::from(class)]);
            step.own.push((class, subsets.intern(way, self.reached(from, class))));
        }
        step.own.sort_unstable();
        table.push(other as u32, &step.own);
    }

    /// The ways of a subset whose other classes lead to `other`.
    fn all_ways(&self, other: &Subset, subsets: &mut Subsets, table: &mut Ways, step: &mut Step) {
        let from = table.len();
        let subset = &subsets.sets[from];
        let for_good = subset.gain.for_good;
        let over_slash =
            |&&node: &&u32| self.stays_over_others(node) && self.reduced.nodes[node as usize].stays.has(b'/');
        let at_slash = Subset {
            gain: Gain { for_good, component: for_good },
            nodes: subset.nodes.iter().filter(over_slash).copied().collect(),
        };
        step.apart(self.slash, &at_slash);
        step.extra.extend(&subset.nodes);
        self.add(step, |class| if class == self.slash { &at_slash } else { other });

        // Subsets are numbered in the order of the classes that lead there.
        let gap = (0..).zip(&step.classes).position(|(place, &class)| class != place);
        let gap = gap.unwrap_or(step.classes.len());
        let mut to_other = None;
        for place in 0..=step.classes.len() {
            if place == gap && gap < table.width {
                to_other = Some(subsets.intern(other, self.reached(from, gap as u8)));
            }
            if let Some(&class) = step.classes.get(place) {
                let way = self.pruned(&mut step.of_class[usize::from(class)]);
                step.own.push((class, subsets.intern(way, self.reached(from, class))));
            }
        }
        // Where every class has a way of its own nobody asks for the others.
        table.push(to_other.unwrap_or(step.own[0].1), &step.own);
    }

    /// Adds what the `extra` nodes read to the ways of the classes, which begin as `base`; nothing is pruned.
    fn add<'s>(&self, step: &mut Step, base: impl Fn(u8) -> &'s Subset) {
        let extra = std::mem::take(&mut step.extra);
        for &node in &extra {
            let at = node as usize;
            if let Stays::These(classes) = &self.stays[at] {
                for &class in classes {
                    step.apart(class, base(class)).nodes.push(node);
                }
            }
            for (to, classes) in &self.edges[at] {
                for &class in classes {
                    step.apart(class, base(class)).nodes.push(*to);
                }
            }
            for (gain, classes) in &self.gains[at] {
                for &class in classes {
                    let all = &mut step.apart(class, base(class)).gain;
                    *all = all.or(*gain);
                }
            }
        }
        step.extra = extra;
        step.classes.sort_unstable();
    }

    fn reached(&self, from: usize, class: u8) -> Option<(u32, u8)> {
        Some((from as u32, self.representatives[usize::from(class)]))
    }

    /// Takes out the nodes that make no difference any more.
    fn pruned<'w>(&self, way: &'w mut Subset) -> &'w Subset {
        let for_good = self.answers.settled(way.gain.for_good);
        let component = self.answers.settled(for_good | way.gain.component);
        way.gain = Gain { for_good, component };
        way.nodes.retain(|node| {
            let at = *node as usize;
            self.reduced.potential[at] & !component != 0 || self.reduced.beyond[at] & !for_good != 0
        });
        way.nodes.sort_unstable();
        way.nodes.dedup();
        way
    }
}

/// One state per block; a block that only leads to itself is its answer.
fn merge(accept: &[u16], ways: &Ways, blocks: &[u32], classes: &Classes) -> (Vec<State>, Target) {
    let mut first_of_block: Vec<usize> = Vec::new();
    for (state, &block) in blocks.iter().enumerate() {
        if block as usize == first_of_block.len() {
            first_of_block.push(state);
        }
    }
    let mut targets: Vec<Target> = Vec::with_capacity(first_of_block.len());
    let mut kept = Vec::new();
    for (block, &state) in (0..).zip(&first_of_block) {
        if ways.next(state).all(|next| blocks[next as usize] == block) {
            targets.push(TERMINAL | u32::from(accept[state]));
        } else {
            targets.push(kept.len() as Target);
            kept.push(state);
        }
    }
    let target = |state: u32| targets[blocks[state as usize] as usize];
    let mut of_class: Vec<Target> = vec![0; ways.width];
    let states = kept
        .iter()
        .map(|&state| {
            let (other, own) = ways.of(state);
            of_class.fill(target(other));
            for &(class, to) in own {
                of_class[usize::from(class)] = target(to);
            }
            let runs = classes.runs.iter().map(|&(first, class)| (first, of_class[usize::from(class)]));
            State::from_runs(accept[state], runs)
        })
        .collect();
    (states, target(0))
}

/// Bytes that every edge treats alike.
struct Classes {
    of_byte: [u8; 256],
    /// First byte of a run, and the class of every byte from there to the next run.
    runs: Vec<(u8, u8)>,
    /// A byte of each class; a readable one where there is one.
    representatives: Vec<u8>,
}

impl Classes {
    fn of(reduced: &Reduced) -> Self {
        // `/` is always by itself: answers may last until then.
        let mut sets = vec![Bytes::one(b'/')];
        for node in &reduced.nodes {
            sets.push(node.stays);
            sets.extend(node.edges.iter().map(|&(_, bytes)| bytes));
            sets.extend(node.gains.iter().map(|&(_, bytes)| bytes));
        }
        sets.sort_unstable();
        sets.dedup();
        // Each set parts the classes that it holds some bytes of, but not all.
        let mut parts = vec![Bytes::ALL];
        for set in sets {
            for part in 0..parts.len() {
                let (within, without) = (parts[part].and(set), parts[part].and(set.not()));
                if within != Bytes::NONE && without != Bytes::NONE {
                    parts[part] = within;
                    parts.push(without);
                }
            }
        }
        // Numbered by their first bytes.
        let mut numbers = vec![None; parts.len()];
        let mut representatives: Vec<u8> = Vec::new();
        let mut of_byte = [0; 256];
        for byte in 0..=255_u8 {
            let Some(part) = parts.iter().position(|part| part.has(byte)) else { continue };
            let class = *numbers[part].get_or_insert_with(|| {
                representatives.push(byte);
                representatives.len() as u8 - 1
            });
            of_byte[usize::from(byte)] = class;
            let known = &mut representatives[usize::from(class)];
            if readable(byte) < readable(*known) {
                *known = byte;
            }
        }
        let mut runs: Vec<(u8, u8)> = Vec::new();
        for (byte, &class) in (0..=255).zip(&of_byte) {
            if runs.last().is_none_or(|&(_, last)| last != class) {
                runs.push((byte, class));
            }
        }
        Classes { of_byte, runs, representatives }
    }
}

/// Lower: better in a path that a person reads.
fn readable(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => 0,
        b'0'..=b'9' | b'A'..=b'Z' => 1,
        _ if byte.is_ascii_graphic() => 2,
        _ => 3,
    }
}

/// The subsets found so far, and how each was first reached.
#[derive(Default)]
struct Subsets {
    sets: IndexSet<Subset, RandomState>,
    reached: Vec<Option<(u32, u8)>>,
}

impl Subsets {
    fn intern(&mut self, set: &Subset, reached: Option<(u32, u8)>) -> u32 {
        let id = self.sets.get_index_of(set).unwrap_or_else(|| {
            self.reached.push(reached);
            self.sets.insert_full(set.clone()).0
        });
        id as u32
    }

    /// The shortest path that ends in this subset.
    fn path_to(&self, state: usize) -> Vec<u8> {
        let mut path = Vec::new();
        let mut at = state;
        while let Some((before, byte)) = self.reached[at] {
            path.push(byte);
            at = before as usize;
        }
        path.reverse();
        path
    }
}
