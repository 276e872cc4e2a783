//! The request that a recorded event is about, so that it can be asked again: of the profile as it is now, or of
//! another one.

use agent_monitor_common::path::{Right, Rights};
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{Protocol, SocketKind};

use super::{Destination, Request};
use crate::event::escape;
use crate::event::model::{Event, EventType};

/// Why an event is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotAsked {
    /// Its type has no verdict: a fork, an exit, a loss.
    NoVerdict,
    /// The object had no path, or only the beginning of it is in the event.
    NoObject,
    /// What decided is no rule: the form of a packet, a failure, what belongs to the monitor, a directory on the way to
    /// something denied, a second name of a denied object.
    NoRule,
    /// A word that this version does not know.
    Unknown,
}

impl NotAsked {
    /// For a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoVerdict => "it tells of something that is not judged",
            Self::NoObject => "the object's path is not, or not wholly, in it",
            Self::NoRule => "what decided is no rule of the profile",
            Self::Unknown => "it has a word that this version does not know",
        }
    }
}

/// The request that an event is about.
///
/// # Errors
/// Why it is about none.
pub fn of_event(event: &Event<'_>) -> Result<Request, NotAsked> {
    let Some(verdict) = &event.verdict else { return Err(NotAsked::NoVerdict) };
    let asked = match event.kind {
        EventType::Network => network(event),
        EventType::Dns => {
            event.lookup.as_ref().map(|lookup| Request::LookUp(lookup.name.clone().into_owned()))
        }
        EventType::Socket => socket(event),
        EventType::File | EventType::Unix => return path(event, &verdict.reason),
        EventType::Privilege => privilege(event),
        EventType::Syscall => event
            .syscall
            .as_ref()
            // Numbers of the 32-bit table are others.
            .filter(|call| !call.compat)
            .map(|call| Request::Syscall(call.nr)),
        _ => return Err(NotAsked::NoVerdict),
    };
    match &*verdict.reason {
        "rule" | "default-deny" | "name" | "socket-kind" | "listed" => asked.ok_or(NotAsked::Unknown),
        _ => Err(NotAsked::NoRule),
    }
}

fn network(event: &Event<'_>) -> Option<Request> {
    let network = event.network.as_ref()?;
    let protocol = *Protocol::ALL.iter().find(|protocol| protocol.name() == network.protocol)?;
    let (address, port) = (network.address?, network.port);
    if network.direction == "listen" {
        return Some(Request::Listen { address, port, protocol });
    }
    let by_name = event.verdict.as_ref().is_some_and(|verdict| verdict.reason == "name");
    let to = match &network.host {
        Some(name) if by_name => Destination::Host(name.clone()),
        _ => Destination::Address(address),
    };
    Some(Request::Connect { to, port, protocol })
}

fn socket(event: &Event<'_>) -> Option<Request> {
    let word = &event.socket.as_ref()?.kind;
    SocketKind::ALL.iter().find(|kind| kind.name() == word).map(|&kind| Request::Socket(kind))
}

fn path(event: &Event<'_>, reason: &str) -> Result<Request, NotAsked> {
    let file = event.file.as_ref().ok_or(NotAsked::NoObject)?;
    if !matches!(reason, "rule" | "default-deny") {
        return Err(NotAsked::NoRule);
    }
    if file.truncated {
        return Err(NotAsked::NoObject);
    }
    let path = file.path.as_deref().and_then(escape::bytes).ok_or(NotAsked::NoObject)?;
    let right = |word: &str| Right::ALL.into_iter().find(|right| right.name() == word);
    let rights = file.access.iter().try_fold(0, |all: Rights, word| Some(all | right(word)? as Rights));
    let rights = rights.filter(|&rights| rights != 0).ok_or(NotAsked::Unknown)?;
    Ok(Request::Path { path, rights, directory: false })
}

fn privilege(event: &Event<'_>) -> Option<Request> {
    let asked = event.privilege.as_ref()?;
    let privilege = *Privilege::ALL.iter().find(|kind| kind.name() == asked.kind)?;
    match privilege {
        Privilege::Capability => asked.number.map(Request::Capability),
        // A denial of what is aimed at the agent's own comes with `ptrace: none` only, and the event does not say it.
        _ => Some(Request::Privilege { privilege, own: false }),
    }
}
