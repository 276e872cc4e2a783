//! Makes the automaton of many globs small before its subsets are built, without a change of what it matches.
//!
//! Called by `path.rs`. Three steps, over a graph that has no loops but those of a node to itself (`*`, `**`):
//! * silent ways go: an edge leads to every node that its end reaches in silence;
//! * nodes that the same texts lead to become one (globs share their beginnings, as in a trie), then nodes from which
//!   the same texts lead to the same answers (globs share their ends);
//! * an answer that no text that follows can take back (`/usr/**`), or none before the next `/` (`/tmp/*`), is no node
//!   any more but a *gain* of the edge that leads there.
//!
//! What must stay true: the answers of every path are those of the automaton that came in. The number of nodes decides
//! how many subsets there can be, so what is shared here is not multiplied there.

use foldhash::{HashMap, HashMapExt};
use smallvec::SmallVec;

use super::glob::{Bytes, Nfa};

/// Answers that a path has from here on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Gain {
    /// Whatever follows.
    pub(super) for_good: u64,
    /// Until the next `/`.
    pub(super) component: u64,
}

impl Gain {
    pub(super) fn or(self, other: Gain) -> Gain {
        Gain { for_good: self.for_good | other.for_good, component: self.component | other.component }
    }

    fn is_some(self) -> bool {
        self != Gain::default()
    }
}

/// A node. Nodes are numbered so that edges lead to lower numbers.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub(super) struct Node {
    /// Reading one of these bytes leads back here.
    pub(super) stays: Bytes,
    pub(super) edges: Edges<u32>,
    pub(super) gains: Edges<Gain>,
    /// The answers of a path that ends here.
    pub(super) accept: u64,
}

/// The reduced automaton.
#[derive(Debug)]
pub(super) struct Reduced {
    pub(super) nodes: Vec<Node>,
    /// Where every path begins, ascending.
    pub(super) begin: Vec<u32>,
    pub(super) gained: Gain,
    /// For each node: all answers that a path through it can still get from it.
    pub(super) potential: Vec<u64>,
    /// For each node: those that it can get behind the next `/`.
    pub(super) beyond: Vec<u64>,
}

pub(super) fn reduce(nfa: &Nfa) -> Reduced {
    share_ends(&share_beginnings(nfa))
}

/// Edges with what is at their other end. Most nodes are a letter of a name, with one way on.
type Edges<T> = SmallVec<[(T, Bytes); 1]>;

/// A node between the steps: edges lead to higher numbers.
struct Shared {
    begins: bool,
    stays: Bytes,
    edges: Edges<u32>,
    accept: u64,
}

/// How a node is reached: whether paths begin there, what leads back to it, and from where.
type Reached = (bool, Bytes, Edges<u32>);

/// Merges nodes that are reached alike.
fn share_beginnings(nfa: &Nfa) -> Vec<Shared> {
    let speaks = |&node: &u32| {
        let node = &nfa.nodes[node as usize];
        node.accept != 0 || !node.edges.is_empty()
    };
    let begin: Vec<u32> = nfa.closure(&[0]).into_iter().filter(speaks).collect();
    // Edges without silence, and how often each node is reached.
    let mut edges: Vec<Option<Edges<u32>>> = vec![None; nfa.nodes.len()];
    let mut reached: Vec<usize> = vec![0; nfa.nodes.len()];
    let mut open = begin.clone();
    while let Some(node) = open.pop() {
        if edges[node as usize].is_some() {
            continue;
        }
        let mut all = Edges::new();
        let mut reach = |bytes: Bytes, target: u32| {
            all.push((target, bytes));
            if target != node {
                reached[target as usize] += 1;
                open.push(target);
            }
        };
        for &(bytes, next) in &nfa.nodes[node as usize].edges {
            // Most nodes are a letter of a name, with no silent way on.
            if nfa.nodes[next as usize].silent.is_empty() {
                [next].iter().filter(|next| speaks(next)).for_each(|&next| reach(bytes, next));
            } else {
                nfa.closure(&[next]).iter().filter(|next| speaks(next)).for_each(|&next| reach(bytes, next));
            }
        }
        edges[node as usize] = Some(all);
    }
    // In topological order: a node comes when all that lead to it have come.
    let mut ready: Vec<u32> = begin.iter().copied().filter(|node| reached[*node as usize] == 0).collect();
    let mut shared: Vec<Shared> = Vec::new();
    let mut known: HashMap<Reached, u32> = HashMap::new();
    let mut arrivals: Vec<Edges<u32>> = vec![Edges::new(); nfa.nodes.len()];
    while let Some(node) = ready.pop() {
        let all = edges[node as usize].take().unwrap_or_default();
        let loops = all.iter().filter(|(target, _)| *target == node);
        let stays = loops.fold(Bytes::NONE, |stays, (_, bytes)| stays.or(*bytes));
        let begins = begin.binary_search(&node).is_ok();
        let arrived = std::mem::take(&mut arrivals[node as usize]);
        let fresh = shared.len() as u32;
        let id = *known.entry((begins, stays, arrived.clone())).or_insert(fresh);
        if id == fresh {
            shared.push(Shared { begins, stays, edges: Edges::new(), accept: 0 });
            for (from, bytes) in arrived {
                shared[from as usize].edges.push((id, bytes));
            }
        }
        shared[id as usize].accept |= nfa.nodes[node as usize].accept;
        for (target, bytes) in all.into_iter().filter(|(target, _)| *target != node) {
            union(&mut arrivals[target as usize], id, bytes);
            let left = &mut reached[target as usize];
            *left -= 1;
            if *left == 0 {
                ready.push(target);
            }
        }
    }
    shared
}

/// These bytes lead there too. `into` is kept in order.
fn union<K: Ord + Copy>(into: &mut Edges<K>, at: K, bytes: Bytes) {
    match into.binary_search_by_key(&at, |&(known, _)| known) {
        Ok(place) => into[place].1 = into[place].1.or(bytes),
        Err(place) => into.insert(place, (at, bytes)),
    }
}

/// What stands for a node of the first step: what is gained there, and a node for the rest if there is one.
#[derive(Clone, Copy, Default)]
struct Stand {
    gain: Gain,
    node: Option<u32>,
}

/// Takes gains out of nodes, and merges nodes that lead to the same.
fn share_ends(shared: &[Shared]) -> Reduced {
    let not_slash = Bytes::ALL.without(b'/');
    let mut nodes: Vec<Node> = Vec::new();
    let mut known: HashMap<Node, u32> = HashMap::new();
    let mut stands = vec![Stand::default(); shared.len()];
    // Edges lead to higher numbers, so these come first.
    for (id, node) in shared.iter().enumerate().rev() {
        let (gain, accept) = match node.stays {
            stays if stays == Bytes::ALL => (Gain { for_good: node.accept, component: 0 }, 0),
            stays if stays == not_slash => (Gain { for_good: 0, component: node.accept }, 0),
            _ => (Gain::default(), node.accept),
        };
        let (mut edges, mut gains) = (Edges::new(), Edges::new());
        for &(target, bytes) in &node.edges {
            let stand = stands[target as usize];
            if let Some(target) = stand.node {
                union(&mut edges, target, bytes);
            }
            if stand.gain.is_some() {
                union(&mut gains, stand.gain, bytes);
            }
        }
        stands[id].gain = gain;
        if accept == 0 && edges.is_empty() && gains.is_empty() {
            continue;
        }
        let node = Node { stays: node.stays, edges, gains, accept };
        let fresh = nodes.len() as u32;
        let number = *known.entry(node.clone()).or_insert(fresh);
        if number == fresh {
            nodes.push(node);
        }
        stands[id].node = Some(number);
    }
    let first = || shared.iter().zip(&stands).filter(|(node, _)| node.begins).map(|(_, stand)| stand);
    let mut begin: Vec<u32> = first().filter_map(|stand| stand.node).collect();
    begin.sort_unstable();
    begin.dedup();
    let gained = first().fold(Gain::default(), |all, stand| all.or(stand.gain));

    let (mut potential, mut beyond): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    for node in &nodes {
        let (mut all, mut later) = (node.accept, 0);
        for &(target, bytes) in &node.edges {
            let (of_target, behind) = (potential[target as usize], beyond[target as usize]);
            all |= of_target;
            later |= if bytes.has(b'/') { of_target } else { behind };
        }
        for (gain, bytes) in &node.gains {
            all |= gain.for_good | gain.component;
            later |= gain.for_good | if bytes.has(b'/') { gain.component } else { 0 };
        }
        // Whoever stays over a `/` can get there whatever it can get here.
        potential.push(all);
        beyond.push(if node.stays.has(b'/') { all } else { later });
    }
    Reduced { nodes, begin, gained, potential, beyond }
}
