//! Which rule decided: found again from the event's bytes and the profile of the generation that decided.
//!
//! The kernel's automaton carries the decision only. Called by `event::enrich` for each verdict; answers are kept,
//! because an agent that hammers one destination asks one question. What must stay true: a default denial, the kind
//! that an agent can produce with ever new bytes, costs no search through the rules.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_monitor_common::event::Reason;
use agent_monitor_common::path::Rights;
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{Address, Direction, NetRequest, Protocol};

use super::generations::Generations;
use crate::policy::{ResolvedProfile, Source, attribute};

/// Generations of profiles kept with their indices.
const MAX_PROFILES: usize = 128;
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// A network request; a rule decided it.
    Network { address: [u8; 16], port: u16, direction: Direction, protocol: Protocol },
    /// A network request to an address that stood for a name of this class.
    Name { name: u16, port: u16, protocol: Protocol },
    /// A network request that no rule grants.
    NetworkDefault,
    /// A socket kind.
    Socket,
    /// A system call of the native table.
    Syscall(u32),
    /// A path that a rule denies, or denies something below.
    Path { path: Box<[u8]>, rights: Rights, reason: Reason },
    /// A privilege that is not granted.
    Privilege(Privilege),
    /// A path that no rule grants.
    PathDefault(Rights),
}

impl Question {
    /// The question about a network verdict; `None` where the packet's or the system's state decided and no rule.
    #[must_use]
    pub fn network(
        address: [u8; 16],
        port: u16,
        direction: Direction,
        protocol: Protocol,
        reason: Reason,
        name: u16,
    ) -> Option<Self> {
        match reason {
            Reason::Rule => Some(Self::Network { address, port, direction, protocol }),
            Reason::Name | Reason::Sni => Some(Self::Name { name, port, protocol }),
            Reason::Default => Some(Self::NetworkDefault),
            Reason::SocketKind => Some(Self::Socket),
            Reason::IpOptions
            | Reason::HelperFailed
            | Reason::LabelLost
            | Reason::Malformed
            | Reason::NoPath
            | Reason::Anonymous
            | Reason::DeniedBelow
            | Reason::Mount
            | Reason::Outside
            | Reason::Protected
            | Reason::OtherName
            | Reason::Digest
            | Reason::DigestUnknown
            | Reason::NoResolver
            | Reason::OtherNetwork => None,
        }
    }

    /// The question about a verdict on a path; `None` where no rule can say anything about the object.
    #[must_use]
    pub fn path(path: &[u8], rights: Rights, reason: Reason) -> Option<Self> {
        match reason {
            Reason::Rule | Reason::DeniedBelow => Some(Self::Path { path: path.into(), rights, reason }),
            Reason::Default | Reason::Anonymous => Some(Self::PathDefault(rights)),
            _ => None,
        }
    }
}

/// The profile of a slot and generation, and the answers given so far.
#[derive(Debug)]
pub struct Attributor {
    generations: Arc<Generations>,
    /// [`Generations::changes`] that the answers rest on.
    seen: u64,
    profiles: HashMap<(u32, u32), Option<attribute::Attributor>>,
    answers: HashMap<(u32, u32, u32, Question), Option<Arc<DecidedBy>>>,
}

impl Attributor {
    #[must_use]
    pub fn new(generations: Arc<Generations>) -> Self {
        Attributor { generations, seen: 0, profiles: HashMap::new(), answers: HashMap::new() }
    }

    /// The profile in `slot` as `generation`.
    pub fn profile(&mut self, slot: u32, generation: u32) -> Option<&ResolvedProfile> {
        self.rules(slot, generation).map(|rules| &**rules.profile())
    }

    fn rules(&mut self, slot: u32, generation: u32) -> Option<&attribute::Attributor> {
        if self.profiles.len() >= MAX_PROFILES {
            self.profiles.clear();
        }
        self.profiles
            .entry((slot, generation))
            .or_insert_with(|| self.generations.find(slot, generation).map(attribute::Attributor::new))
            .as_ref()
    }

    /// The same, where it was asked for before.
    #[must_use]
    pub fn known_profile(&self, slot: u32, generation: u32) -> Option<&ResolvedProfile> {
        self.profiles.get(&(slot, generation))?.as_ref().map(|rules| &**rules.profile())
    }

    /// The names of the sets that a program of this class is in, where the profile was asked for before.
    #[must_use]
    pub fn known_program(&self, slot: u32, generation: u32, class: u32) -> &[String] {
        let rules = self.profiles.get(&(slot, generation)).and_then(Option::as_ref);
        rules.map_or(&[], |rules| rules.program_names(class))
    }

    /// The rule behind a verdict of `slot` at `generation` about a program of `class`; `None` where no kept profile has
    /// one.
    pub fn decided_by(
        &mut self,
        slot: u32,
        generation: u32,
        class: u32,
        question: Question,
    ) -> Option<Arc<DecidedBy>> {
        let key = (slot, generation, class, question);
        if let Some(known) = self.answers.get(&key) {
            return known.clone();
        }
        let answer =
            self.rules(slot, generation).and_then(|rules| answer(rules, class, &key.3)).map(Arc::new);
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

/// Asks the profile's rules.
fn answer(rules: &attribute::Attributor, class: u32, question: &Question) -> Option<DecidedBy> {
    let profile = rules.profile();
    match question {
        Question::NetworkDefault => {
            Some(DecidedBy::new(format!("{}:network.default", profile.name), &profile.network.source))
        }
        Question::Socket => {
            Some(DecidedBy::new(format!("{}:network.sockets", profile.name), &profile.network.source))
        }
        Question::Syscall(nr) => {
            let rule = attribute::syscall(profile, *nr)?;
            Some(DecidedBy::new(&*rule.id, &rule.source))
        }
        Question::Privilege(privilege) => {
            let (id, source) = attribute::privilege(profile, *privilege)?;
            Some(DecidedBy::new(id, source))
        }
        Question::Path { path, rights, reason } => {
            let found = rules.path(class, path, *rights, *reason);
            Some(DecidedBy::new(&*found.id, found.source))
        }
        Question::PathDefault(rights) => {
            let found = rules.path(class, b"", *rights, Reason::Default);
            Some(DecidedBy::new(&*found.id, found.source))
        }
        &Question::Network { address, port, direction, protocol } => {
            let request = NetRequest { address: Address::from_bytes(address), port, direction, protocol };
            let found = rules.network(class, request);
            Some(DecidedBy::new(&*found.id, found.source))
        }
        &Question::Name { name, port, protocol } => {
            let rule = rules.name(class, name, port, protocol)?;
            Some(DecidedBy::new(&*rule.id, &rule.source))
        }
    }
}

/// An address as people write it: IPv4 where it is IPv4 in its mapped form.
#[must_use]
pub fn address_of(address: Address) -> IpAddr {
    IpAddr::from(address.bytes()).to_canonical()
}
