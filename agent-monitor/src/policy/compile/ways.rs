//! Where the states of a deterministic automaton lead, by byte class, before equal states are merged.
//!
//! Made by `path.rs`, read by `minimise.rs`. Of a state most classes lead where most others do (a letter of a name goes
//! on, every other one leaves the name), so only the others are kept: time and memory are linear in those, not in
//! states × classes.

/// The ways of all states.
#[derive(Debug)]
pub(super) struct Ways {
    /// Number of byte classes.
    pub(super) width: usize,
    /// Where the classes of each state lead that have no way of their own.
    other: Vec<u32>,
    /// Where each state's own ways end in `own`.
    end: Vec<u32>,
    own: Vec<(u8, u32)>,
}

impl Ways {
    pub(super) fn new(width: usize) -> Self {
        Ways { width, other: Vec::new(), end: Vec::new(), own: Vec::new() }
    }

    /// States that have their ways.
    pub(super) fn len(&self) -> usize {
        self.other.len()
    }

    /// The next state: `own` ascends by class. Those that lead where the others do are left out.
    pub(super) fn push(&mut self, other: u32, own: &[(u8, u32)]) {
        self.own.extend(own.iter().filter(|(_, to)| *to != other));
        self.other.push(other);
        self.end.push(self.own.len() as u32);
    }

    /// Where a state's classes lead, and those that lead elsewhere, ascending.
    pub(super) fn of(&self, state: usize) -> (u32, &[(u8, u32)]) {
        let begin = if state == 0 { 0 } else { self.end[state - 1] };
        (self.other[state], &self.own[begin as usize..self.end[state] as usize])
    }

    /// Where a class of a state leads.
    pub(super) fn to(&self, state: usize, class: u8) -> u32 {
        let (other, own) = self.of(state);
        own.binary_search_by_key(&class, |&(class, _)| class).map_or(other, |place| own[place].1)
    }

    /// The states that a state leads to, some more than once.
    pub(super) fn next(&self, state: usize) -> impl Iterator<Item = u32> + '_ {
        let (other, own) = self.of(state);
        std::iter::once(other).chain(own.iter().map(|&(_, to)| to))
    }
}
