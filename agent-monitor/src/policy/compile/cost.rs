//! Which rules an image that is too large owes its size to.
//!
//! Called only when packing failed: the network is built twice more, once to count how often each state is visited
//! and once to share each state's words evenly among the visits, and each visit's share among the rules that made it
//! necessary. The shares add up to (nearly) the whole automaton; equal rules have equal shares, whatever their order.

use std::collections::{BTreeMap, BTreeSet};

use agent_monitor_common::image::IMAGE_WORDS;

use super::programs::Holder;
use super::state::{State, Target, index, is_answer};
use super::{files, network, programs};
use crate::policy::{Membership, NameClasses, ResolvedProfile, Source};

/// A rule's share of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCost {
    pub id: String,
    pub source: Source,
    /// 64-bit words.
    pub words: usize,
}

/// The `most` dearest rules of a profile, dearest first: network rules by their shares, path rules by what each needs
/// alone (together they may need less, or, with many `**`, more); one that has very many states counts as a whole image.
pub(super) fn dearest(profile: &ResolvedProfile, most: usize) -> Vec<RuleCost> {
    let mut costs = network_costs(profile);
    costs.extend(files::alone(profile).map(|(rule, states)| RuleCost {
        id: rule.id.clone(),
        source: rule.source.clone(),
        words: states.map_or(IMAGE_WORDS, |states| states.iter().map(words).sum::<f64>() as usize),
    }));
    costs.sort_by(|a, b| b.words.cmp(&a.words).then_with(|| a.id.cmp(&b.id)));
    costs.truncate(most);
    costs
}

fn network_costs(profile: &ResolvedProfile) -> Vec<RuleCost> {
    let policy = &profile.network;
    // The classes that can't be had are too many themselves: then the rules are weighed for one.
    let classes = programs::build(profile, IMAGE_WORDS).ok().and_then(Result::ok);
    let classes = classes.map_or_else(|| vec![Membership::PLAIN], |classes| classes.memberships);
    let holders = Holder::all(&classes, false);
    let mut ledger = Ledger::default();
    let names = NameClasses::of(policy).unwrap_or_default();
    let network = network::build(policy, &names, &holders, Some(&mut ledger));
    ledger.price(&network.states);
    network::build(policy, &names, &holders, Some(&mut ledger));
    network::rules(policy)
        .zip(ledger.charged.iter().copied().chain(std::iter::repeat(0.0)))
        .map(|((rule, ..), words)| RuleCost {
            id: rule.id.clone(),
            source: rule.source.clone(),
            words: words as usize,
        })
        .collect()
}

/// What the builder tells about its states. Both runs of the builder give a state the same number.
#[derive(Default)]
pub(super) struct Ledger {
    /// State that reads an address byte → its account.
    nodes: BTreeMap<Target, Account>,
    /// State where only a port map matters → the account of all states behind it.
    tails: BTreeMap<Target, Account>,
    priced: bool,
    /// Words by rule.
    charged: Vec<f64>,
}

#[derive(Default)]
struct Account {
    visits: u32,
    words: f64,
}

impl Ledger {
    /// `target` was made for the networks of `rules`.
    pub(super) fn node(&mut self, target: Target, rules: impl ExactSizeIterator<Item = u32>) {
        if !is_answer(target) {
            let account = self.nodes.entry(target).or_default();
            visit(account, self.priced, &mut self.charged, rules);
        }
    }

    /// From `target` on, only the ports of `rules` matter.
    pub(super) fn tail(&mut self, target: Target, rules: &[u32]) {
        if !is_answer(target) {
            let account = self.tails.entry(target).or_default();
            visit(account, self.priced, &mut self.charged, rules.iter().copied());
        }
    }

    /// Between the runs: gives every account its words. A state behind several tails is shared by them.
    fn price(&mut self, states: &[State]) {
        let behind: Vec<BTreeSet<usize>> = self.tails.keys().map(|&tail| reach(states, tail)).collect();
        let mut sharers = vec![0_u32; states.len()];
        for &state in behind.iter().flatten() {
            sharers[state] += 1;
        }
        for (account, behind) in self.tails.values_mut().zip(&behind) {
            account.words = behind.iter().map(|&s| words(&states[s]) / f64::from(sharers[s])).sum();
        }
        for (&node, account) in &mut self.nodes {
            account.words = words(&states[index(node)]);
        }
        self.priced = true;
    }
}

fn visit(
    account: &mut Account,
    priced: bool,
    charged: &mut Vec<f64>,
    rules: impl ExactSizeIterator<Item = u32>,
) {
    if !priced {
        account.visits += 1;
        return;
    }
    let share = account.words / f64::from(account.visits.max(1)) / rules.len() as f64;
    for rule in rules {
        let rule = rule as usize;
        if rule >= charged.len() {
            charged.resize(rule + 1, 0.0);
        }
        charged[rule] += share;
    }
}

/// Words of a state, with a row of its own.
fn words(state: &State) -> f64 {
    let mut counts: BTreeMap<Target, u32> = BTreeMap::new();
    for (first, last, target) in state.spans() {
        *counts.entry(target).or_default() += u32::from(last - first) + 1;
    }
    f64::from(1 + 256 - counts.values().max().copied().unwrap_or(256))
}

fn reach(states: &[State], from: Target) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([index(from)]);
    let mut open = vec![index(from)];
    while let Some(state) = open.pop() {
        for &(_, target) in &states[state].runs {
            if !is_answer(target) && seen.insert(index(target)) {
                open.push(index(target));
            }
        }
    }
    seen
}
