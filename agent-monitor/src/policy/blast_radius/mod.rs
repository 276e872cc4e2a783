//! What a compromised agent could reach under a profile, and what keeps it from the rest.
//!
//! Called by `agent-monitor blast-radius`. Every object of a catalogue is asked of the profile, for every set of programs
//! that it tells apart; addresses are counted in the automaton. What must stay true: what is called out of reach was asked
//! for and denied; a section that a profile does not have leaves everything of its kind in reach.

mod catalogue;
mod picture;
mod space;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use agent_monitor_common::image::Class;
use agent_monitor_common::path::Right;
use agent_monitor_common::request::Protocol;
use ipnet::Ipv4Net;
use serde::Serialize;

use self::catalogue::{PERSISTENCE, PRIVILEGES, SECRETS, SOCKETS, Target};
pub use self::picture::{html, svg};
pub use self::space::Space;
use super::compile::{Reach, expand_home};
use super::globs::without_variable;
use super::judge::{Disagreement, Effect, Judge, Request};
use super::{Condition, Membership, Mode, NetRule, PathRule, ResolvedProfile};
use crate::event::escape;
use crate::policy::diff;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlastRadius {
    pub profile: String,
    pub mode: &'static str,
    /// 0: nothing of the catalogue and no address can be reached; 100: all of it. As if the mode were `enforce`.
    pub score: u32,
    pub groups: Vec<Group>,
    pub network: Network,
    /// Techniques (MITRE ATT&CK) that something in reach stands for.
    pub techniques: Vec<&'static str>,
    /// What holds: limits that can't be gone round, and those that only cost effort.
    pub limits: Vec<Limit>,
}

/// Objects of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    pub name: &'static str,
    /// Points of the score that the whole group is worth.
    pub worth: u32,
    pub in_reach: Vec<Reached>,
    pub out_of_reach: Vec<&'static str>,
}

impl Group {
    /// How much of it is in reach: 0 to 1. What one program alone may have counts half.
    #[must_use]
    pub fn share(&self) -> f64 {
        let worth = |one: &Reached| if one.programs.is_empty() { 1.0 } else { 0.5 };
        let reached = self.in_reach.iter().map(worth).fold(0.0, |all, one: f64| all + one);
        reached / (self.in_reach.len() + self.out_of_reach.len()).max(1) as f64
    }
}

/// A kind of object that can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    pub name: &'static str,
    pub technique: &'static str,
    /// The request that was granted.
    pub request: String,
    /// Sets of programs that may; none: every program.
    pub programs: Vec<String>,
}

/// Where it could connect to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Network {
    /// Points of the score that the whole network is worth.
    pub worth: u32,
    /// IPv4, by TCP and UDP, of programs that no rule names.
    pub zones: Vec<Zone>,
    /// Names that are granted, as they are written.
    pub names: Vec<String>,
    /// IPv6 networks that are granted.
    pub ipv6: Vec<String>,
}

/// A part of the IPv4 address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Zone {
    pub name: &'static str,
    pub net: String,
    pub tcp: Space,
    pub udp: Space,
}

/// Something that keeps an agent from more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub rule: String,
    pub source: String,
    /// `impossible`: no act of the agent changes it; `tedious`: there is a way round that costs effort.
    pub kind: &'static str,
    /// Of a tedious one: the way round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_round: Option<String>,
}

const ZONES: [(&str, &str); 6] = [
    ("all of IPv4", "0.0.0.0/0"),
    ("loopback", "127.0.0.0/8"),
    ("private 10/8", "10.0.0.0/8"),
    ("private 172.16/12", "172.16.0.0/12"),
    ("private 192.168/16", "192.168.0.0/16"),
    ("link-local, cloud metadata", "169.254.0.0/16"),
];

/// What the network is worth of a hundred.
const NETWORK: u32 = 20;

/// Finds what is in reach under a profile.
///
/// # Errors
/// [`Disagreement`].
pub fn blast_radius(judge: &Judge) -> Result<BlastRadius, Disagreement> {
    let home =
        judge.profile().homes.first().map_or("/root".into(), |home| home.to_string_lossy().into_owned());
    let paths = |object: &str, right: Right| -> Vec<Request> {
        let paths = match object.starts_with("${workspace}") {
            true => in_workspace(judge.profile(), object),
            false => vec![object.replacen('~', &home, 1).into_bytes()],
        };
        paths.iter().filter_map(|path| Request::path(path, right as u32).ok()).collect()
    };
    let read = |object: &str| paths(object, Right::Read);
    let write = |object: &str| paths(object, Right::Write);
    let unix = |object: &str| Request::unix(object.as_bytes()).ok();
    let groups = vec![
        group(judge, "secrets it can read", 30, SECRETS, read)?,
        group(judge, "what runs later, that it can write", 20, PERSISTENCE, write)?,
        group(judge, "sockets that are as good as another user", 15, SOCKETS, unix)?,
        group(judge, "privileges of the host", 15, PRIVILEGES, named)?,
    ];
    let network = network(judge);
    let mut techniques: Vec<&str> =
        groups.iter().flat_map(|group| &group.in_reach).map(|reached| reached.technique).collect();
    if network.zones.first().is_some_and(|all| all.tcp.addresses + all.udp.addresses > 0)
        || !network.names.is_empty()
    {
        techniques.push("T1048");
    }
    techniques.sort_unstable();
    techniques.dedup();
    let of_groups: f64 = groups.iter().map(|group| f64::from(group.worth) * group.share()).sum();
    let score = of_groups + f64::from(network.worth) * network.share();
    Ok(BlastRadius {
        profile: judge.profile().name.clone(),
        mode: judge.profile().mode.as_str(),
        score: score.round() as u32,
        groups,
        network,
        techniques,
        limits: limits(judge),
    })
}

impl BlastRadius {
    /// Whether the profile holds anything at all: in the other modes nothing is denied.
    #[must_use]
    pub fn enforced(&self) -> bool {
        self.mode == Mode::Enforce.as_str()
    }
}

impl Network {
    /// How much of it is in reach: 0 to 1, by the logarithm of the destinations, as a thousand times more is not a
    /// thousand times worse.
    #[must_use]
    pub fn share(&self) -> f64 {
        let all = self.zones.first().map_or(0, |zone| zone.tcp.destinations + zone.udp.destinations);
        // A name stands for an address or some.
        let destinations = all as f64 + self.names.len() as f64;
        (1.0 + destinations).log2() / (1.0 + 2_f64.powi(49)).log2()
    }
}

/// An object of each directory that a profile calls its workspace: the shortest path for each home.
fn in_workspace(profile: &ResolvedProfile, object: &str) -> Vec<Vec<u8>> {
    // `*` matches nothing too, and no object has an empty name.
    let named = |glob: &String| {
        let names = glob.split('/').map(|name| if matches!(name, "*" | "**") { "x" } else { name });
        names.collect::<Vec<_>>().join("/")
    };
    let objects = profile.workspace.iter().map(|glob| without_variable(object, &[named(glob)]));
    let globs = objects.flat_map(|glob| expand_home(&glob, &profile.homes));
    globs.filter_map(|glob| Some(Reach::of([glob.as_str()])?.example())).collect()
}

/// The request that a word of `explain` names.
fn named(text: &str) -> Option<Request> {
    let (kind, word) = text.split_once(' ')?;
    match kind {
        "privilege" => Request::privilege(word).ok(),
        "capability" => Request::capability(word).ok(),
        "socket" => Request::socket(word).ok(),
        _ => None,
    }
}

fn group<R: IntoIterator<Item = Request>>(
    judge: &Judge,
    name: &'static str,
    worth: u32,
    targets: &[Target],
    request: impl Fn(&str) -> R,
) -> Result<Group, Disagreement> {
    let mut group = Group { name, worth, in_reach: Vec::new(), out_of_reach: Vec::new() };
    for target in targets {
        match reached(judge, target, &request)? {
            Some(reached) => group.in_reach.push(reached),
            None => group.out_of_reach.push(target.name),
        }
    }
    Ok(group)
}

fn reached<R: IntoIterator<Item = Request>>(
    judge: &Judge,
    target: &Target,
    request: impl Fn(&str) -> R,
) -> Result<Option<Reached>, Disagreement> {
    let mut found: Option<Reached> = None;
    for request in target.objects.iter().flat_map(|object| request(object)) {
        let granted = |class| judge.ask(class, &request).map(|answer| answer.effect == Effect::Allow);
        let mut programs = BTreeSet::new();
        for (class, exe) in diff::programs(judge) {
            if granted(class)? {
                programs.insert(program(judge.sets(class), exe.as_deref()));
            }
        }
        if programs.is_empty() {
            continue;
        }
        // Whatever program an agent may run can ask: one in no set is enough.
        let any = granted(Class::PLAIN)?;
        let programs = if any { Vec::new() } else { programs.into_iter().collect() };
        let (name, technique) = (target.name, target.technique);
        let this = Reached { name, technique, request: request.to_string(), programs };
        if any {
            return Ok(Some(this));
        }
        found.get_or_insert(this);
    }
    Ok(found)
}

fn program(sets: &Membership, exe: Option<&[u8]>) -> String {
    let named: Vec<&str> = sets.names().collect();
    match (named.as_slice(), exe) {
        ([], Some(exe)) => escape::text(exe).into_owned(),
        ([], None) => "unknown".to_owned(),
        (names, _) => names.join("+"),
    }
}

fn network(judge: &Judge) -> Network {
    let zone = |(name, net): (&'static str, &str)| {
        let parsed: Ipv4Net = net.parse().unwrap_or_default();
        let count = |protocol| space::reachable(judge.image(), Class::PLAIN, protocol, parsed);
        Zone { name, net: net.to_owned(), tcp: count(Protocol::Tcp), udp: count(Protocol::Udp) }
    };
    let policy = &judge.profile().network;
    let mut names: Vec<String> =
        policy.allow.iter().flat_map(|rule| &rule.hosts).map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    let ipv6 = policy.allow.iter().flat_map(|rule| &rule.nets).filter(|net| net.addr().is_ipv6());
    let ipv6: BTreeSet<_> = ipv6.collect();
    Network {
        worth: NETWORK,
        zones: ZONES.into_iter().map(zone).collect(),
        names,
        ipv6: ipv6.into_iter().map(ToString::to_string).collect(),
    }
}

/// Every rule that limits, and how far it does.
fn limits(judge: &Judge) -> Vec<Limit> {
    let profile = judge.profile();
    let files = profile
        .filesystem
        .iter()
        .flat_map(|files| [(&files.read, false), (&files.write, false), (&files.deny, true)]);
    let exec = profile.exec.iter().flat_map(|exec| [(&exec.allow, false), (&exec.deny, true)]);
    let unix = profile.unix.iter().flat_map(|unix| [(&unix.allow, false), (&unix.deny, true)]);
    let paths = files.chain(exec).chain(unix);
    let paths = paths.flat_map(|(rules, denies)| rules.iter().filter_map(move |rule| of_path(rule, denies)));
    let network = &profile.network;
    let denied = network.deny.iter().map(|rule| of_net(rule, true));
    let granted = network.allow.iter().map(|rule| of_net(rule, false));
    paths.chain(denied.chain(granted).flatten()).collect()
}

fn limit(id: &str, source: &super::Source, way_round: Option<String>) -> Limit {
    Limit {
        rule: id.to_owned(),
        source: source.to_string(),
        kind: if way_round.is_none() { "impossible" } else { "tedious" },
        way_round,
    }
}

/// The programs that a rule lets through alone: whoever can make one of them act has what it has.
fn driven(condition: &Condition, denies: bool) -> Option<String> {
    let refs = if denies { &condition.except } else { &condition.exe };
    let named: Vec<&str> = refs.iter().map(|set| set.as_str()).collect();
    (!named.is_empty()).then(|| format!("by driving {}, where the agent may run it", named.join(", ")))
}

fn of_path(rule: &PathRule, denies: bool) -> Option<Limit> {
    let way_round = driven(&rule.programs, denies);
    // A grant to all is no limit.
    (denies || way_round.is_some()).then(|| limit(&rule.id, &rule.source, way_round))
}

fn of_net(rule: &NetRule, denies: bool) -> Option<Limit> {
    if denies {
        return Some(limit(&rule.id, &rule.source, driven(&rule.programs, true)));
    }
    let below = rule.hosts.iter().find(|host| host.to_string().starts_with("*."));
    let way_round = if let Some(host) = below {
        Some(format!("labels below {host} carry data to its owner"))
    } else if !rule.hosts.is_empty() && !rule.sni {
        Some("what shares an address with the name is reached too (`sni: require`)".to_owned())
    } else {
        driven(&rule.programs, false)
    };
    way_round.map(|way| limit(&rule.id, &rule.source, Some(way)))
}
