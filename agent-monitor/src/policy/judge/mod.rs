//! What a profile says about one request: the verdict, the rule behind it, every other rule that speaks of it, and the
//! smallest grant that would change it.
//!
//! Asked by `explain`, `test`, `simulate` and `blast-radius`. The verdict is the image's, by the same `decide()` that the
//! kernel calls; the rules are found by matching the request against each as it is written. What must stay true: where
//! the two disagree nobody is told a verdict, but that they do.

#[cfg(test)]
pub mod fixture;
mod from_event;
mod grant;
mod judged;
mod mechanism;
mod request;
#[cfg(test)]
mod tests;

use agent_monitor_common::automaton;
use agent_monitor_common::decide::{Decision, decide, decide_name, decide_socket};
use agent_monitor_common::image::{Class, PLAIN_CLASS, class, field, has_syscall, header};
use agent_monitor_common::path::{Right, Rights, directory_answer, walk};
use agent_monitor_common::privilege::{self, Privilege};
use agent_monitor_common::request::{Address, NetRequest, Protocol};

pub use self::from_event::{NotAsked, of_event};
pub use self::grant::{Change, smallest};
pub use self::judged::Judged;
pub use self::mechanism::{RESOLVER, mechanisms};
pub use self::request::{BadRequest, Destination, Request};
use crate::event::escape;
use crate::event::model::Event;

use super::compile::{CompileError, Image, PathMatcher};
use super::{Membership, Mode, NameClasses, ResolvedProfile, Source, attribute, compile, naive};

/// A profile that can be asked.
#[derive(Debug)]
pub struct Judge {
    profile: ResolvedProfile,
    image: Image,
    paths: PathMatcher,
    names: NameClasses,
    /// By class number.
    memberships: Vec<Membership>,
}

/// The outcome of a request under a profile that enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    Allow,
    Deny,
    /// A listed system call: its caller is killed.
    Kill,
}

impl Effect {
    /// The word in reports and test files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}

/// Why it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule grants it, and no rule denies it.
    Granted,
    /// A rule denies it; no grant changes that.
    DeniedByRule,
    /// No rule grants it.
    NotGranted,
    /// The profile has no section that speaks of such requests.
    NotJudged,
    /// It is granted, and a rule that is tried out would deny it: it is told.
    Audited,
}

impl Answer {
    /// It is denied, or told as what would be.
    #[must_use]
    pub fn denies_or_tells(&self) -> bool {
        self.effect != Effect::Allow || self.reason == Reason::Audited
    }
}

impl Reason {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::DeniedByRule => "denied-by-rule",
            Self::NotGranted => "not-granted",
            Self::NotJudged => "not-judged",
            Self::Audited => "audited",
        }
    }
}

/// A rule that speaks of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub id: String,
    pub source: Source,
    /// What it says where it holds.
    pub effect: Effect,
    /// It is about the program that asks.
    pub holds: bool,
}

/// What a profile says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub effect: Effect,
    pub reason: Reason,
    /// The rule that decided, or the section that grants nothing of the kind; `None` where nothing is judged.
    pub rule: Option<(String, Source)>,
    /// The other rules that speak of the request, denials first.
    pub others: Vec<Spoken>,
    /// The connection must begin with a TLS hello that says the name (`sni: require`).
    pub hello: bool,
}

/// Image and rules say different things: a fault of this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the image of `{profile}` says {image} to `{request}`, its rules say {rules}: this is a fault of agent-monitor; please report it with the profile"
)]
pub struct Disagreement {
    pub profile: String,
    pub request: String,
    pub image: &'static str,
    pub rules: &'static str,
}

impl Judge {
    /// # Errors
    /// As [`compile::profile`].
    pub fn new(profile: ResolvedProfile) -> Result<Self, CompileError> {
        let image = compile::profile(&profile)?;
        Ok(Judge {
            memberships: compile::memberships(&profile)?,
            names: NameClasses::of(&profile.network).unwrap_or_default(),
            paths: PathMatcher::new(&profile),
            image,
            profile,
        })
    }

    #[must_use]
    pub fn profile(&self) -> &ResolvedProfile {
        &self.profile
    }

    /// The image that decides.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Whether a rule grants a name: only then are names asked of the monitor.
    #[must_use]
    pub fn grants_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The class of a program by the path of its executable; without one, of a program in none of the profile's sets.
    #[must_use]
    pub fn class_of(&self, exe: Option<&[u8]>) -> Class {
        let Some(exe) = exe else { return Class::PLAIN };
        let behind = automaton::answer(&self.image, field(&self.image, header::START_EXE) as u32, exe);
        Class::new(PLAIN_CLASS + behind)
    }

    /// The class of the program that an event names: by its executable, else by the sets that it was in when the kernel
    /// judged it.
    #[must_use]
    pub fn class_of_event(&self, event: &Event<'_>) -> Class {
        let exe = event.process.as_ref().and_then(|process| process.exe.as_deref());
        if let Some(exe) = exe.and_then(escape::bytes) {
            return self.class_of(Some(&exe));
        }
        let in_sets = |class: &Membership| class.names().eq(event.program.iter().map(String::as_str));
        let found = self.memberships.iter().skip(PLAIN_CLASS as usize).position(in_sets);
        Class::new(PLAIN_CLASS + found.unwrap_or(0) as u32)
    }

    /// The sets of programs that a class stands for.
    #[must_use]
    pub fn sets(&self, class: Class) -> &Membership {
        self.memberships.get(class.number() as usize).unwrap_or(&Membership::Unknown)
    }

    /// What the profile says about `request` of a program of `class`.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn ask(&self, class: Class, request: &Request) -> Result<Answer, Disagreement> {
        match request {
            Request::Connect { to: Destination::Address(address), port, protocol } => {
                let address = Address::from_bytes(to_v6(*address));
                self.network(class, request, NetRequest::out(address, *port, *protocol))
            }
            Request::Listen { address, port, protocol } => {
                let address = Address::from_bytes(to_v6(*address));
                self.network(class, request, NetRequest::listen(address, *port, *protocol))
            }
            Request::Connect { to: Destination::Host(name), port, protocol } => {
                self.host(class, request, name, *port, *protocol)
            }
            Request::LookUp(name) => Ok(self.look_up(class, name)),
            Request::Path { path, rights, directory } => self.path(class, request, path, *rights, *directory),
            Request::Socket(kind) => {
                let found = attribute::socket(&self.profile, *kind);
                let decision = decide_socket(&self.image, class, *kind);
                self.agree(request, decision, found.decision)?;
                Ok(answer(decision, Some((found.id.into_owned(), found.source.clone())), Vec::new()))
            }
            Request::Capability(number) => Ok(self.privilege(
                Privilege::Capability,
                privilege::capability_granted(&self.image, class, *number, false),
            )),
            Request::Privilege { privilege, own } => Ok(self.privilege(
                *privilege,
                match privilege {
                    Privilege::Ptrace | Privilege::Signal => {
                        privilege::target_granted(&self.image, class, *privilege, *own)
                    }
                    _ => privilege::granted(&self.image, class, *privilege),
                },
            )),
            Request::Syscall(nr) => {
                let rule =
                    attribute::syscall(&self.profile, *nr).map(|rule| (rule.id.clone(), rule.source.clone()));
                let killed = has_syscall(&self.image, header::SYSCALL_KILL, *nr);
                Ok(Answer {
                    effect: if killed { Effect::Kill } else { Effect::Allow },
                    reason: if killed { Reason::DeniedByRule } else { Reason::NotJudged },
                    rule,
                    others: Vec::new(),
                    hello: false,
                })
            }
        }
    }

    fn network(&self, class: Class, request: &Request, asked: NetRequest) -> Result<Answer, Disagreement> {
        let program = self.sets(class);
        let decision = decide(&self.image, class, asked);
        let found = attribute::network(&self.profile, program, asked);
        self.agree(request, decision, found.decision)?;
        let rule = (found.id.clone().into_owned(), found.source.clone());
        let speaking = naive::speaking(&self.profile.network, asked);
        let others = speaking
            .filter(|(rule, _)| found.rule.is_none_or(|decided| !std::ptr::eq(*rule, decided)))
            .map(|(rule, denies)| Spoken {
                id: rule.id.clone(),
                source: rule.source.clone(),
                effect: if denies { Effect::Deny } else { Effect::Allow },
                holds: if denies { rule.programs.denies(program) } else { rule.programs.grants(program) },
            });
        Ok(answer(decision, Some(rule), others.collect()))
    }

    fn host(
        &self,
        class: Class,
        request: &Request,
        name: &str,
        port: u16,
        protocol: Protocol,
    ) -> Result<Answer, Disagreement> {
        let program = self.sets(class);
        let decision = match self.names.class_of(name) {
            Some(number) => decide_name(&self.image, class, number, protocol, port),
            None => Decision::DenyDefault,
        };
        let (says, decided) = naive::decide_name(&self.profile.network, program, name, protocol, port);
        self.agree(request, decision, says)?;
        let rule = match decided {
            Some(rule) => (rule.id.clone(), rule.source.clone()),
            None => (format!("{}:network.default", self.profile.name), self.profile.network.source.clone()),
        };
        let naming =
            self.profile.network.allow.iter().filter(|rule| rule.hosts.iter().any(|host| host.matches(name)));
        let others =
            naming.filter(|rule| decided.is_none_or(|decided| !std::ptr::eq(*rule, decided))).map(|rule| {
                let asked = rule.ports.iter().any(|range| range.contains(&port))
                    && rule.protocols.contains(naive::protocol(protocol));
                Spoken {
                    id: rule.id.clone(),
                    source: rule.source.clone(),
                    effect: Effect::Allow,
                    holds: asked && rule.programs.grants(program),
                }
            });
        Ok(answer(decision, Some(rule), others.collect()))
    }

    /// The resolver asks the same of the same rules: no image decides it.
    fn look_up(&self, class: Class, name: &str) -> Answer {
        let policy = &self.profile.network;
        let program = self.sets(class);
        let granted = self.names.granted(policy, program, name);
        let naming = self.names.class_of(name).map_or(&[][..], |number| self.names.rules(number));
        let naming = naming.iter().map(|&rule| &policy.allow[rule as usize]);
        let mut others: Vec<Spoken> = naming
            .map(|rule| Spoken {
                id: rule.id.clone(),
                source: rule.source.clone(),
                effect: Effect::Allow,
                holds: rule.programs.grants(program),
            })
            .collect();
        let deciding = others.iter().position(|rule| rule.holds).map(|first| others.remove(first));
        let default = || (format!("{}:network.default", self.profile.name), policy.source.clone());
        match granted {
            // Without a rule about names, questions go where the host's configuration sends them.
            _ if self.names.is_empty() => {
                Answer { effect: Effect::Allow, reason: Reason::NotJudged, rule: None, others, hello: false }
            }
            Some(_) => answer(Decision::Allow, deciding.map(|rule| (rule.id, rule.source)), others),
            None => answer(Decision::DenyDefault, Some(default()), others),
        }
    }

    fn path(
        &self,
        class: Class,
        request: &Request,
        path: &[u8],
        rights: Rights,
        directory: bool,
    ) -> Result<Answer, Disagreement> {
        // A directory is opened to be listed; whatever else is done to it is judged by its own path.
        let directory = directory && rights == Right::Read as Rights;
        let judged = Judged::of(&self.profile);
        let needed = rights & judged.rights;
        let program = self.sets(class);
        // As the hooks: of a section that the profile does not have, nothing is judged.
        if needed == 0 {
            return Ok(Answer {
                effect: Effect::Allow,
                reason: Reason::NotJudged,
                rule: None,
                others: Vec::new(),
                hello: false,
            });
        }
        let start = class.field(&self.image, class::START_PATH) as u32;
        let state = walk(&self.image, start, path);
        let found = match directory {
            true => directory_answer(&self.image, state),
            false => automaton::accept(&self.image, state),
        };
        let decision = judged.decide_answer(found, needed);
        let spoken = self.paths.speaking(path, directory, needed);
        let holds = |s: &compile::Speaking<'_>| {
            if s.granted == 0 { s.rule.programs.denies(program) } else { s.rule.programs.grants(program) }
        };
        let says = spoken.iter().filter(|s| holds(s));
        let (granted, denied, audited) =
            says.fold((0, 0, 0), |(g, d, a), s| (g | s.granted, d | s.denied, a | s.audited));
        self.agree(request, decision, judged.decide(granted, denied, audited, needed))?;
        let deciding = match decision {
            Decision::DenyRule => {
                spoken.iter().filter(|s| s.denied & needed != 0 && holds(s)).min_by_key(|s| &s.rule.id)
            }
            Decision::Allow => {
                spoken.iter().filter(|s| s.granted & needed != 0 && holds(s)).min_by_key(|s| &s.rule.id)
            }
            Decision::Audit => {
                spoken.iter().filter(|s| s.audited & needed != 0 && holds(s)).min_by_key(|s| &s.rule.id)
            }
            // No path ends in a hello.
            Decision::DenyDefault | Decision::AllowHello => None,
        };
        let rule = match deciding {
            Some(s) => Some((s.rule.id.clone(), s.rule.source.clone())),
            None if matches!(decision, Decision::Allow) => None,
            None => {
                let reason = agent_monitor_common::event::Reason::Default;
                let found = attribute::path(&self.profile, &self.paths, program, path, needed, reason);
                Some((found.id.into_owned(), found.source.clone()))
            }
        };
        let others =
            spoken.iter().filter(|s| deciding.is_none_or(|d| !std::ptr::eq(d.rule, s.rule))).map(|s| {
                Spoken {
                    id: s.rule.id.clone(),
                    source: s.rule.source.clone(),
                    effect: if (s.denied | s.audited) & needed != 0 { Effect::Deny } else { Effect::Allow },
                    holds: holds(s),
                }
            });
        let mut answer = answer(decision, rule, others.collect());
        if answer.effect == Effect::Allow && answer.rule.is_none() {
            answer.reason = Reason::NotJudged;
        }
        Ok(answer)
    }

    fn privilege(&self, kind: Privilege, granted: bool) -> Answer {
        let rule = attribute::privilege(&self.profile, kind).map(|(id, source)| (id, source.clone()));
        let (effect, reason) = match (&rule, granted) {
            (None, _) => (Effect::Allow, Reason::NotJudged),
            (Some(_), true) => (Effect::Allow, Reason::Granted),
            (Some(_), false) => (Effect::Deny, Reason::NotGranted),
        };
        Answer { effect, reason, rule, others: Vec::new(), hello: false }
    }

    fn agree(&self, request: &Request, image: Decision, rules: Decision) -> Result<(), Disagreement> {
        if image == rules {
            return Ok(());
        }
        Err(Disagreement {
            profile: self.profile.name.clone(),
            request: request.to_string(),
            image: image.name(),
            rules: rules.name(),
        })
    }

    /// What becomes of an answer in the profile's mode: in `audit` and `learn` nothing is denied.
    #[must_use]
    pub fn reported_only(&self, effect: Effect) -> bool {
        effect != Effect::Allow && self.profile.mode != Mode::Enforce
    }
}

fn answer(decision: Decision, rule: Option<(String, Source)>, mut others: Vec<Spoken>) -> Answer {
    others.sort_by(|a, b| {
        let rank = |s: &Spoken| (!s.holds, s.effect == Effect::Allow);
        rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
    });
    let (effect, reason) = match decision {
        // What the client then says, egress asks.
        Decision::Allow | Decision::AllowHello => (Effect::Allow, Reason::Granted),
        Decision::Audit => (Effect::Allow, Reason::Audited),
        Decision::DenyRule => (Effect::Deny, Reason::DeniedByRule),
        Decision::DenyDefault => (Effect::Deny, Reason::NotGranted),
    };
    Answer { effect, reason, rule, others, hello: matches!(decision, Decision::AllowHello) }
}

/// The 16 bytes of an address, IPv4 in its mapped form.
fn to_v6(address: std::net::IpAddr) -> [u8; 16] {
    match address {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}
