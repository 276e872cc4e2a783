//! Which rule decided: found again from the event's bytes and the profile of the generation that decided.
//!
//! The kernel's automaton carries the decision only. Called by `event::enrich` for each verdict; answers are kept,
//! because an agent that hammers one destination asks one question. What must stay true: a default denial, the kind
//! that an agent can produce with ever new bytes, costs no search through the rules.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_monitor_common::counters::Effect;
use agent_monitor_common::event::Reason;
use agent_monitor_common::request::{Address, Direction, NetRequest, Protocol};

use super::generations::Generations;
use crate::policy::{ResolvedProfile, Source};

/// Answers kept.
const MAX_ANSWERS: usize = 8_192;

/// A rule and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedBy {
    pub rule: String,
    /// `file:line`.
    pub source: String,
}

impl DecidedBy {
    fn new(rule: impl Into<String>, source: &Source) -> Self {
        DecidedBy { rule: rule.into(), source: source.to_string() }
    }
}

/// What was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// A network request; a rule decided it.
    Network { address: [u8; 16], port: u16, direction: Direction, protocol: Protocol, effect: Effect },
    /// A network request that no rule grants.
    NetworkDefault { direction: Direction },
    /// A socket kind.
    Socket,
    /// A system call of the native table.
    Syscall(u32),
}

impl Question {
    /// The question about a network verdict; `None` where the packet's or the system's state decided and no rule.
    #[must_use]
    pub fn network(
        address: [u8; 16],
        port: u16,
        direction: Direction,
        protocol: Protocol,
        effect: Effect,
        reason: Reason,
    ) -> Option<Self> {
        match reason {
            Reason::Rule => Some(Self::Network { address, port, direction, protocol, effect }),
            Reason::Default => Some(Self::NetworkDefault { direction }),
            Reason::SocketKind => Some(Self::Socket),
            Reason::IpOptions | Reason::HelperFailed | Reason::LabelLost | Reason::Malformed => None,
        }
    }
}

/// The profile of a slot and generation, and the answers given so far.
#[derive(Debug)]
pub struct Attributor {
    generations: Arc<Generations>,
    /// [`Generations::changes`] that the answers rest on.
    seen: u64,
    profiles: HashMap<(u32, u32), Option<Arc<ResolvedProfile>>>,
    answers: HashMap<(u32, u32, Question), Option<Arc<DecidedBy>>>,
}

impl Attributor {
    #[must_use]
    pub fn new(generations: Arc<Generations>) -> Self {
        Attributor { generations, seen: 0, profiles: HashMap::new(), answers: HashMap::new() }
    }

    /// The profile in `slot` as `generation`.
    pub fn profile(&mut self, slot: u32, generation: u32) -> Option<&Arc<ResolvedProfile>> {
        if self.profiles.len() >= MAX_ANSWERS {
            self.profiles.clear();
        }
        self.profiles
            .entry((slot, generation))
            .or_insert_with(|| self.generations.find(slot, generation))
            .as_ref()
    }

    /// The same, where it was asked for before.
    #[must_use]
    pub fn known_profile(&self, slot: u32, generation: u32) -> Option<&ResolvedProfile> {
        self.profiles.get(&(slot, generation)).and_then(Option::as_deref)
    }

    /// The rule behind a verdict of `slot` at `generation`; `None` where no kept profile has one.
    pub fn decided_by(&mut self, slot: u32, generation: u32, question: Question) -> Option<Arc<DecidedBy>> {
        let key = (slot, generation, question);
        if let Some(known) = self.answers.get(&key) {
            return known.clone();
        }
        let answer =
            self.profile(slot, generation).and_then(|profile| answer(profile, question)).map(Arc::new);
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.clear();
        }
        self.answers.insert(key, answer.clone());
        answer
    }

    /// Forgets its answers if a profile was installed meanwhile; it may have a generation that is known already.
    pub fn refresh(&mut self) {
        let changes = self.generations.changes();
        if changes != self.seen {
            self.seen = changes;
            self.profiles.clear();
            self.answers.clear();
        }
    }
}

/// Searches the profile.
fn answer(profile: &ResolvedProfile, question: Question) -> Option<DecidedBy> {
    let default =
        |section: &str| DecidedBy::new(format!("{}:{section}", profile.name), &profile.network.source);
    match question {
        Question::NetworkDefault { direction: Direction::Out } => Some(default("network.allow")),
        Question::NetworkDefault { direction: Direction::Listen } => Some(default("network.listen")),
        Question::Socket => Some(default("network.sockets")),
        Question::Syscall(nr) => {
            let rule = profile.syscalls.iter().find(|rule| rule.nr == nr)?;
            Some(DecidedBy::new(&*rule.id, &rule.source))
        }
        Question::Network { address, port, direction, protocol, effect } => {
            let request = NetRequest { address: Address::from_bytes(address), port, direction, protocol };
            network_rule(profile, request, effect)
        }
    }
}

/// The first rule of the deciding kind that matches the request.
fn network_rule(profile: &ResolvedProfile, request: NetRequest, effect: Effect) -> Option<DecidedBy> {
    let network = &profile.network;
    let rules = match (effect, request.direction) {
        (Effect::Deny, _) => &network.deny,
        (Effect::Allow, Direction::Out) => &network.allow,
        (Effect::Allow, Direction::Listen) => &network.listen,
    };
    let mut forms = vec![address_of(request.address)];
    if effect == Effect::Deny && request.address.as_v4().is_none() {
        // A deny of the IPv4 address that a transition form carries denies the form.
        forms.extend(request.address.embedded_v4().map(|be| IpAddr::from(be.to_ne_bytes())));
    }
    let rule = rules.iter().find(|rule| {
        rule.protocols.bits() >> request.protocol.code() & 1 == 1
            && rule.ports.iter().any(|ports| ports.contains(&request.port))
            && rule.nets.iter().any(|net| forms.iter().any(|address| net.contains(address)))
    })?;
    Some(DecidedBy::new(&*rule.id, &rule.source))
}

/// An address as people write it: IPv4 where it is IPv4 in its mapped form.
#[must_use]
pub fn address_of(address: Address) -> IpAddr {
    IpAddr::from(address.bytes()).to_canonical()
}
