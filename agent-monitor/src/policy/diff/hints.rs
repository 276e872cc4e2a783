//! Requests that a rule is surely about: where two rules open the same right, the automata have one state for both, and
//! the walk shows one example. So each rule that is in one profile only is asked about for itself.
//!
//! Nothing rests on these: what is told was asked of both profiles, and what is missed here the walk has found.

use std::collections::HashSet;
use std::net::IpAddr;

use agent_monitor_common::path::Right;
use agent_monitor_common::request::Protocol;

use super::{Found, Sides};
use crate::policy::compile::expand_home;
use crate::policy::judge::{Destination, Effect, Judge, Request};
use crate::policy::{NetRule, PathRule, Protocol as RuleProtocol, ResolvedProfile};

/// Requests that are tried for each rule.
const MOST: usize = 24;

/// Requests about every rule that is in one of the profiles only.
pub fn requests(old: &Judge, new: &Judge) -> Vec<Request> {
    let (old, new) = (old.profile(), new.profile());
    let mut requests = Vec::new();
    let keys = |profile| -> HashSet<String> { rules(profile).map(|rule| rule.key(profile)).collect() };
    for (profile, other) in [(old, keys(new)), (new, keys(old))] {
        for rule in rules(profile).filter(|rule| !other.contains(&rule.key(profile))) {
            requests.extend(rule.requests(profile).into_iter().take(MOST));
        }
    }
    requests
}

/// Asks both profiles; what they judge differently is found.
pub fn compare(sides: &Sides<'_>, requests: &[Request], found: &mut Found) {
    for request in requests {
        let allowed =
            |judge: &Judge, class| judge.ask(class, request).map(|answer| answer.effect == Effect::Allow);
        if let (Ok(before), Ok(now)) =
            (allowed(sides.old, sides.old_class), allowed(sides.new, sides.new_class))
            && before != now
        {
            found.request(sides, request.clone(), now);
        }
    }
}

enum Rule<'p> {
    Path(&'static str, &'p PathRule),
    Net(&'static str, &'p NetRule),
}

fn rules(profile: &ResolvedProfile) -> impl Iterator<Item = Rule<'_>> {
    let files = profile
        .filesystem
        .iter()
        .flat_map(|files| [("read", &files.read), ("write", &files.write), ("deny", &files.deny)]);
    let exec = profile.exec.iter().flat_map(|exec| [("execute", &exec.allow), ("no-execute", &exec.deny)]);
    let unix = profile.unix.iter().flat_map(|unix| [("unix", &unix.allow), ("no-unix", &unix.deny)]);
    let paths = files.chain(exec).chain(unix);
    let paths = paths.flat_map(|(list, rules)| rules.iter().map(move |rule| Rule::Path(list, rule)));
    let network = &profile.network;
    let nets = [("allow", &network.allow), ("net-deny", &network.deny), ("listen", &network.listen)];
    paths
        .chain(nets.into_iter().flat_map(|(list, rules)| rules.iter().map(move |rule| Rule::Net(list, rule))))
}

impl Rule<'_> {
    /// What the rule says, wherever it is written. The sets that it names are spelt out.
    fn key(&self, profile: &ResolvedProfile) -> String {
        let sets = |condition: &crate::policy::Condition| {
            let named = condition.refs().map(|set| (set.as_str(), profile.programs.get(set.as_str())));
            format!("{condition:?} {:?}", named.collect::<Vec<_>>())
        };
        match self {
            Self::Path(list, rule) => {
                format!("{list} {} {:?} {}", rule.glob, rule.access, sets(&rule.programs))
            }
            Self::Net(list, rule) => {
                let NetRule { nets, hosts, sni, ports, protocols, programs, .. } = rule;
                format!("{list} {nets:?} {hosts:?} {sni} {ports:?} {protocols:?} {}", sets(programs))
            }
        }
    }

    fn requests(&self, profile: &ResolvedProfile) -> Vec<Request> {
        match self {
            Self::Path(list, rule) => {
                let rights: &[Right] = match *list {
                    "read" => &[Right::Read],
                    "write" => &[Right::Write],
                    "execute" | "no-execute" => &[Right::Execute],
                    "unix" | "no-unix" => &[Right::Connect],
                    _ => &Right::ALL,
                };
                let homes = profile.homes.get(..1).unwrap_or_default();
                let globs = expand_home(&rule.glob, homes);
                let paths = globs.iter().flat_map(|glob| instances(glob));
                paths.flat_map(|path| rights.iter().filter_map(move |right| about(&path, *right))).collect()
            }
            Self::Net(list, rule) => {
                let ends = rule.ports.iter().flat_map(|range| [*range.start(), *range.end()]).take(6);
                let mut requests = Vec::new();
                for protocol in rule.protocols.iter().map(asked) {
                    for port in ends.clone().filter(|port| (*port == 0) == (protocol == Protocol::Icmp)) {
                        for net in rule.nets.iter().take(8) {
                            // The second address of a network: the first is often nobody's.
                            let address = net.hosts().next().unwrap_or(net.addr());
                            requests.push(of_address(list, address.to_canonical(), port, protocol));
                        }
                        for host in rule.hosts.iter().take(8) {
                            let name = host.to_string().replacen("*.", "any.", 1);
                            requests.push(Request::Connect { to: Destination::Host(name), port, protocol });
                        }
                    }
                }
                requests
            }
        }
    }
}

fn of_address(list: &str, address: IpAddr, port: u16, protocol: Protocol) -> Request {
    match list {
        "listen" => Request::Listen { address, port, protocol },
        _ => Request::Connect { to: Destination::Address(address), port, protocol },
    }
}

fn asked(protocol: RuleProtocol) -> Protocol {
    match protocol {
        RuleProtocol::Tcp => Protocol::Tcp,
        RuleProtocol::Udp => Protocol::Udp,
        RuleProtocol::Icmp => Protocol::Icmp,
        RuleProtocol::Other => Protocol::Other,
    }
}

fn about(path: &str, right: Right) -> Option<Request> {
    match right {
        Right::Connect => Request::unix(path.as_bytes()).ok(),
        _ => Request::path(path.as_bytes(), right as u32).ok(),
    }
}

/// Some of the paths that a glob matches, one for each of its alternatives.
fn instances(glob: &str) -> Vec<String> {
    let chars: Vec<char> = glob.chars().collect();
    let (paths, _) = sequence(&chars, 0, false);
    // What begins with `**/` is looked for below the root.
    paths
        .into_iter()
        .map(|path| if path.starts_with(['/', '@']) { path } else { format!("/{path}") })
        .collect()
}

/// The texts of what begins at `at` and ends with the glob, or, inside braces, at `,` or `}`; and where that is.
fn sequence(glob: &[char], mut at: usize, inside: bool) -> (Vec<String>, usize) {
    let mut texts = vec![String::new()];
    while at < glob.len() {
        match glob[at] {
            ',' | '}' if inside => break,
            '\\' => {
                append(&mut texts, &[glob.get(at + 1).copied().unwrap_or('\\').to_string()]);
                at += 2;
            }
            '*' => {
                while glob.get(at) == Some(&'*') {
                    at += 1;
                }
                append(&mut texts, &["a".to_owned()]);
            }
            '?' => {
                append(&mut texts, &["a".to_owned()]);
                at += 1;
            }
            '[' => {
                let end =
                    glob[at..].iter().skip(2).position(|&c| c == ']').map_or(glob.len(), |end| at + 2 + end);
                append(&mut texts, &[one_of(&glob[at + 1..end]).to_string()]);
                at = end + 1;
            }
            '{' => {
                let mut alternatives = Vec::new();
                loop {
                    let (texts, end) = sequence(glob, at + 1, true);
                    alternatives.extend(texts);
                    at = end;
                    if glob.get(at) != Some(&',') {
                        break;
                    }
                }
                append(&mut texts, &alternatives);
                at += 1;
            }
            c => {
                append(&mut texts, &[c.to_string()]);
                at += 1;
            }
        }
    }
    (texts, at)
}

fn append(texts: &mut Vec<String>, alternatives: &[String]) {
    let both = texts.iter().flat_map(|text| alternatives.iter().map(move |more| format!("{text}{more}")));
    *texts = both.take(MOST).collect();
}

/// A character of a set, written as between its brackets.
fn one_of(set: &[char]) -> char {
    let (outside, set) = match set {
        ['!', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    if !outside {
        return set.first().copied().unwrap_or('a');
    }
    let held = |c: char| {
        set.contains(&c) || set.windows(3).any(|range| range[1] == '-' && (range[0]..=range[2]).contains(&c))
    };
    ('a'..='z').chain('0'..='9').find(|&c| !held(c)).unwrap_or('_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::Glob;

    #[test]
    fn the_paths_of_a_glob_match_it() {
        for (glob, count) in [
            ("/usr/**", 1),
            ("**/.env*", 1),
            ("/a/{b,c/{d,e}}/*.rs", 3),
            ("/a/[!a-c]?[x-z]", 1),
            ("/a\\*b{,c}", 2),
            ("{/run,/var/run}/x", 2),
            ("@name-*", 1),
        ] {
            let paths = instances(glob);
            assert_eq!(paths.len(), count, "{paths:?}");
            let matcher = Glob::read(glob, &[]).unwrap();
            assert!(paths.iter().all(|path| matcher.matches(path.as_bytes())), "{paths:?}");
        }
    }
}
