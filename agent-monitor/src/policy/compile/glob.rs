//! Reads path globs into a non-deterministic automaton over path bytes.
//!
//! Called by `path.rs`. The language, complete and without limits on the number of wildcards:
//!
//! | written | matches |
//! |---|---|
//! | `*` | any bytes but `/`, also none |
//! | `**` | any bytes, also none |
//! | `**/` where a path component begins | any directories, also none |
//! | `?` | one byte, not `/` |
//! | `[a-f_]`, `[!a-f]` | one byte of the set, or outside of it; never `/`; ASCII only |
//! | `{a,b/*}` | any of the alternatives, which nest |
//! | `\x` | `x` itself |
//!
//! A glob matches a whole path, or, where it begins with `@`, the whole abstract name of a socket. Paths are bytes to the kernel, so `?` is a byte: a letter outside ASCII takes two to
//! four. What must stay true: an alternative costs states, not copies of what follows it.

use foldhash::{HashMap, HashMapExt};
use smallvec::SmallVec;

/// What is wrong with a glob. Positions count bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    #[error("it matches no absolute path: begin it with `/` or `**/`")]
    NotAbsolute,
    #[error("`~` stands for a home directory only at the beginning and before `/`")]
    Home,
    #[error("the `{{` at byte {at} has no `}}`")]
    OpenBrace { at: usize },
    #[error("the `}}` at byte {at} has no `{{`; write `\\}}` for the character")]
    CloseBrace { at: usize },
    #[error("the `[` at byte {at} has no `]`; write `\\[` for the character")]
    OpenClass { at: usize },
    #[error("the range at byte {at} ends before it begins")]
    ReversedRange { at: usize },
    #[error("the set at byte {at} holds a character outside ASCII; use `{{a,b}}` instead")]
    NotAscii { at: usize },
    #[error("nothing follows the `\\` at the end")]
    Backslash,
    #[error("braces nest deeper than {MAX_DEPTH}")]
    Depth,
}

/// Braces nest no deeper, so that reading them can't exhaust the stack.
const MAX_DEPTH: usize = 32;

/// Whether [`super::claims`] can read a glob, whose `~` was expanded.
///
/// # Errors
/// What is wrong with it, and at which byte.
pub fn check_glob(glob: &str) -> Result<(), GlobError> {
    Nfa::new().add(glob, 1)
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) const NONE: Bytes = Bytes([0; 4]);
    pub(super) const ALL: Bytes = Bytes([u64::MAX; 4]);

    pub(super) fn one(byte: u8) -> Self {
        Self::NONE.with(byte)
    }

    pub(super) fn with(mut self, byte: u8) -> Self {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        self
    }

    pub(super) fn without(mut self, byte: u8) -> Self {
        self.0[usize::from(byte >> 6)] &= !(1 << (byte & 63));
        self
    }

    pub(super) fn not(self) -> Self {
        Bytes(self.0.map(|word| !word))
    }

    pub(super) fn and(self, other: Bytes) -> Self {
        Bytes(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    pub(super) fn or(self, other: Bytes) -> Self {
        Bytes(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The lowest; 0 of none.
    fn first(&self) -> u8 {
        let word = (0_u8..).zip(self.0).find(|&(_, word)| word != 0);
        word.map_or(0, |(at, word)| at << 6 | word.trailing_zeros() as u8)
    }

    pub(super) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }
}

/// One node of the automaton. Most are a letter of a name, with one way on.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Reading a byte of the set leads there.
    pub(super) edges: SmallVec<[(Bytes, u32); 1]>,
    /// Nothing is read on the way there.
    pub(super) silent: Vec<u32>,
    /// The answers for a path that ends here, as bits; 0: none.
    pub(super) accept: u64,
}

/// All globs, from one root: node 0.
#[derive(Debug)]
pub(super) struct Nfa {
    pub(super) nodes: Vec<Node>,
    /// Where a byte leads from a node that one text alone leads to, as that of another glob's beginning did: globs share
    /// the nodes of the text that they begin with.
    letters: HashMap<(u32, u8), u32>,
}

impl Nfa {
    pub(super) fn new() -> Self {
        Nfa { nodes: vec![Node::default()], letters: HashMap::new() }
    }

    /// Adds a glob whose paths have the answers `accept` (bits, not 0).
    pub(super) fn add(&mut self, glob: &str, accept: u64) -> Result<(), GlobError> {
        self.add_marking(glob, accept, 0)
    }

    /// As [`Self::add`]; and every directory that a path of the glob may lie in has the answers `above` too. A glob that
    /// floats (`**/x/y`) says so of the directories that it names (`x`) only: every directory would be one.
    pub(super) fn add_marking(&mut self, glob: &str, accept: u64, above: u64) -> Result<(), GlobError> {
        debug_assert!(accept != 0);
        if glob.starts_with('~') {
            return Err(GlobError::Home);
        }
        // Paths begin with `/`, abstract names of sockets with `@`.
        let literal = glob.starts_with(['/', '@']);
        let begin = if literal { 0 } else { self.node() };
        let mut reader = Reader {
            nfa: self,
            glob: glob.as_bytes(),
            at: 0,
            literal,
            above,
            named: false,
            floats: false,
            anywhere: Vec::new(),
        };
        let ends = reader.sequence(Ends { slash: Some(begin), ..Ends::NONE }, &mut Vec::new())?;
        for end in ends.both() {
            self.nodes[end as usize].accept |= accept;
        }
        if literal {
            return Ok(());
        }
        // A `**` in front stands for a path.
        let edges = self.closure(&[begin]).into_iter().flat_map(|n| &self.nodes[n as usize].edges);
        let firsts: Vec<u32> = edges.filter(|(bytes, _)| bytes.has(b'/')).map(|&(_, next)| next).collect();
        if firsts.is_empty() {
            return Err(GlobError::NotAbsolute);
        }
        self.nodes[0].edges.extend(firsts.into_iter().map(|next| (Bytes::one(b'/'), next)));
        Ok(())
    }

    /// The answers for a whole path, or'd, by trying all ways at once: what the automaton is a faster form of.
    pub(super) fn answers(&self, path: &[u8]) -> u64 {
        self.after(path).iter().fold(0, |answers, &node| answers | self.nodes[node as usize].accept)
    }

    /// The nodes that reading `path` leads to; none: nothing that begins with it matches.
    pub(super) fn after(&self, path: &[u8]) -> Vec<u32> {
        let mut nodes = self.closure(&[0]);
        for &byte in path {
            if nodes.is_empty() {
                return nodes; // most globs and most paths part soon
            }
            let next: Vec<u32> = nodes
                .iter()
                .flat_map(|&node| &self.nodes[node as usize].edges)
                .filter(|(bytes, _)| bytes.has(byte))
                .map(|&(_, next)| next)
                .collect();
            nodes = self.closure(&next);
        }
        nodes
    }

    /// The nodes that `from` reach without reading, ascending.
    pub(super) fn closure(&self, from: &[u32]) -> Vec<u32> {
        let mut reached = from.to_vec();
        reached.sort_unstable();
        reached.dedup();
        let mut open = reached.clone();
        while let Some(node) = open.pop() {
            for &next in &self.nodes[node as usize].silent {
                if let Err(place) = reached.binary_search(&next) {
                    reached.insert(place, next);
                    open.push(next);
                }
            }
        }
        reached
    }

    fn node(&mut self) -> u32 {
        self.nodes.push(Node::default());
        (self.nodes.len() - 1) as u32
    }

    /// The node that reading a byte leads to from one that one text alone leads to.
    fn letter(&mut self, from: u32, byte: u8) -> u32 {
        if let Some(&known) = self.letters.get(&(from, byte)) {
            return known;
        }
        let next = self.node();
        self.nodes[from as usize].edges.push((Bytes::one(byte), next));
        self.letters.insert((from, byte), next);
        next
    }
}

/// Where what was read so far ends, apart by what `**/` needs to know: it may stand for no directory where a path
/// component begins.
#[derive(Clone, Copy)]
struct Ends {
    /// After a `/` (or nothing).
    slash: Option<u32>,
    /// After anything else.
    other: Option<u32>,
    /// Before a `**` that began a component and was the last thing read: a `/` that follows may be left out with it.
    before_stars: Option<u32>,
}

impl Ends {
    const NONE: Ends = Ends { slash: None, other: None, before_stars: None };

    fn both(self) -> impl Iterator<Item = u32> {
        self.slash.into_iter().chain(self.other)
    }
}

struct Reader<'a> {
    nfa: &'a mut Nfa,
    glob: &'a [u8],
    at: usize,
    /// Whether what was read so far is one text.
    literal: bool,
    /// The answers for directories that a path of the glob may lie in.
    above: u64,
    /// Whether a part of a name was read, or `*` at a fixed depth.
    named: bool,
    /// Whether a `**` came before any name.
    floats: bool,
    /// Nodes of such a `**`.
    anywhere: Vec<u32>,
}

impl Reader<'_> {
    /// Reads to the end of the glob, or of the alternative if `open` braces (their positions) there are.
    fn sequence(&mut self, mut ends: Ends, open: &mut Vec<usize>) -> Result<Ends, GlobError> {
        while let Some(&byte) = self.glob.get(self.at) {
            self.literal &= !b"*?[{".contains(&byte);
            ends = match byte {
                b',' if !open.is_empty() => break,
                b'}' if !open.is_empty() => break,
                b'}' => return Err(GlobError::CloseBrace { at: self.at }),
                b'{' => self.alternatives(ends, open)?,
                b'*' => self.stars(ends),
                b'?' => {
                    self.at += 1;
                    self.byte(ends, Bytes::ALL.without(b'/'))
                }
                b'[' => {
                    let bytes = self.class()?;
                    self.byte(ends, bytes)
                }
                b'\\' => {
                    let &literal = self.glob.get(self.at + 1).ok_or(GlobError::Backslash)?;
                    self.at += 2;
                    self.byte(ends, Bytes::one(literal))
                }
                literal => {
                    self.at += 1;
                    self.byte(ends, Bytes::one(literal))
                }
            };
        }
        Ok(ends)
    }

    /// One byte of `bytes`.
    fn byte(&mut self, ends: Ends, bytes: Bytes) -> Ends {
        let next = match ends.both().next() {
            Some(end) if self.literal => self.nfa.letter(end, bytes.first()),
            _ => {
                let next = self.nfa.node();
                for end in ends.both() {
                    self.nfa.nodes[end as usize].edges.push((bytes, next));
                }
                next
            }
        };
        if bytes != Bytes::one(b'/') {
            self.named = true;
            return Ends { other: Some(next), ..Ends::NONE };
        }
        if self.named {
            for end in ends.both().filter(|end| !self.anywhere.contains(end)) {
                self.nfa.nodes[end as usize].accept |= self.above;
            }
        }
        if let Some(before) = ends.before_stars {
            self.nfa.nodes[before as usize].silent.push(next);
        }
        Ends { slash: Some(next), ..Ends::NONE }
    }

    /// `*` or `**`.
    fn stars(&mut self, ends: Ends) -> Ends {
        let stars = self.glob[self.at..].iter().take_while(|&&byte| byte == b'*').count();
        self.at += stars;
        let looped = if stars == 1 { Bytes::ALL.without(b'/') } else { Bytes::ALL };
        let any = self.nfa.node();
        self.nfa.nodes[any as usize].edges.push((looped, any));
        for end in ends.both() {
            self.nfa.nodes[end as usize].silent.push(any);
        }
        if stars == 1 {
            self.named |= !self.floats;
        } else if self.named {
            // Directories are among what it stands for, and what it stands for may end anywhere.
            self.nfa.nodes[any as usize].accept |= self.above;
        } else {
            self.floats = true;
            self.anywhere.push(any);
        }
        let before_stars = if stars == 1 { None } else { ends.slash };
        Ends { other: Some(any), before_stars, ..Ends::NONE }
    }

    /// `{a,b}`.
    fn alternatives(&mut self, ends: Ends, open: &mut Vec<usize>) -> Result<Ends, GlobError> {
        if open.len() == MAX_DEPTH {
            return Err(GlobError::Depth);
        }
        open.push(self.at);
        let mut joined = Ends::NONE;
        loop {
            self.at += 1; // `{` or `,`
            let end = self.sequence(ends, open)?;
            joined = Ends {
                slash: self.join(joined.slash, end.slash),
                other: self.join(joined.other, end.other),
                before_stars: self.join(joined.before_stars, end.before_stars),
            };
            match self.glob.get(self.at) {
                Some(b'}') => break,
                Some(_) => {}
                None => return Err(GlobError::OpenBrace { at: open.last().copied().unwrap_or(0) }),
            }
        }
        self.at += 1;
        open.pop();
        Ok(joined)
    }

    /// A node that both reach; a new one, because edges added to `b` would be seen from elsewhere too.
    fn join(&mut self, a: Option<u32>, b: Option<u32>) -> Option<u32> {
        let Some(b) = b else { return a };
        let joined = a.unwrap_or_else(|| self.nfa.node());
        self.nfa.nodes[b as usize].silent.push(joined);
        Some(joined)
    }

    /// `[…]`.
    fn class(&mut self) -> Result<Bytes, GlobError> {
        let open = self.at;
        let mut at = open + 1;
        let negated = matches!(self.glob.get(at), Some(b'!' | b'^'));
        at += usize::from(negated);
        let first = at;
        let mut bytes = Bytes::NONE;
        loop {
            let Some(&byte) = self.glob.get(at) else { return Err(GlobError::OpenClass { at: open }) };
            if byte == b']' && at > first {
                break;
            }
            let begin = at;
            let low = self.class_byte(&mut at, open)?;
            let is_range =
                self.glob.get(at) == Some(&b'-') && !matches!(self.glob.get(at + 1), None | Some(b']'));
            let high = if is_range {
                at += 1;
                self.class_byte(&mut at, open)?
            } else {
                low
            };
            if high < low {
                return Err(GlobError::ReversedRange { at: begin });
            }
            bytes = (low..=high).fold(bytes, Bytes::with);
        }
        self.at = at + 1;
        Ok(if negated { bytes.not() } else { bytes }.without(b'/'))
    }

    /// One character of a set.
    fn class_byte(&self, at: &mut usize, open: usize) -> Result<u8, GlobError> {
        if self.glob.get(*at) == Some(&b'\\') {
            *at += 1;
        }
        let &byte = self.glob.get(*at).ok_or(GlobError::OpenClass { at: open })?;
        if !byte.is_ascii() {
            return Err(GlobError::NotAscii { at: open });
        }
        *at += 1;
        Ok(byte)
    }
}
