//! The learnt profile as the file that a person reads and edits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::generalise::globs;
use super::{Key, Seen, Use, What, Wishes};
use crate::policy::capabilities;
use crate::policy::diagnostic::printable;
use crate::policy::written::{glob as glob_of, quoted};

/// Programs that a rule names at most; used by more, it is for every program.
const MOST_PROGRAMS: usize = 4;
/// Comment lines about what is not granted, at most.
const MOST_HELD: usize = 500;

/// A profile that was written.
#[derive(Clone, Debug)]
pub struct Learned {
    pub text: String,
    /// Rules in it.
    pub rules: usize,
    /// Requests that it does not grant, listed as comments with the reason.
    pub held: BTreeSet<String>,
}

/// A line of a list, and what it rests on.
struct Line {
    item: String,
    seen: Seen,
    programs: BTreeSet<String>,
}

pub fn profile(wishes: &Wishes, granted: &[(&Key, &Seen)], held: &[(&Key, &Seen, String)]) -> Learned {
    let mut out = format!("version: 1\nname: {}\n", wishes.name);
    if !wishes.extends.is_empty() {
        let _ = writeln!(out, "extends: [{}]", wishes.extends.join(", "));
    }
    out.push_str(
        "mode: audit   # then `enforce`, when `agent-monitor events --verdict would-deny` stays empty\n",
    );
    if !wishes.workspace.is_empty() {
        let globs: Vec<String> = wishes.workspace.iter().map(|path| quoted(&glob_of(path))).collect();
        let _ = writeln!(out, "workspace: [{}]", globs.join(", "));
    }
    let mut rules = 0;
    let mut section = |out: &mut String, name: &str, lists: Vec<(&str, Vec<Line>)>| {
        let lists: Vec<_> = lists.into_iter().filter(|(_, lines)| !lines.is_empty()).collect();
        let empty = if lists.is_empty() { " {}" } else { "" };
        let _ = writeln!(out, "\n{name}:{empty}");
        for (list, lines) in lists {
            let _ = writeln!(out, "  {list}:");
            rules += lines.len();
            for line in lines {
                let _ = writeln!(out, "    - {}   # {}", line.item, comment(&line.seen, &line.programs));
            }
        }
    };
    section(&mut out, "network", vec![("allow", destinations(granted)), ("listen", listeners(granted))]);
    let [read, write, execute, connect] = Use::ALL.map(|used| paths(used, granted, wishes));
    // A section that is not there judges nothing; one in which nothing is granted denies everything. So where nothing
    // could be seen (a kernel without BPF LSM), there is none.
    if wishes.files_seen {
        section(&mut out, "files", vec![("read", read), ("write", write)]);
        section(&mut out, "exec", vec![("allow", execute)]);
        section(&mut out, "unix", vec![("allow", connect)]);
        out.push_str("\nprivileges: {}\n");
    } else {
        out.push_str("\n# Nothing was recorded about files, programs, Unix sockets and privileges (it takes BPF LSM), so the\n# sections `files`, `exec`, `unix` and `privileges` are left out: they are not judged.\n");
    }
    let named = list_held(&mut out, held);
    Learned { text: out, rules, held: named }
}

/// `41 times, 2026-11-30 03:00 to 03:10, by cc`.
fn comment(seen: &Seen, programs: &BTreeSet<String>) -> String {
    let minute = |time: jiff::Timestamp| time.to_string().get(..16).unwrap_or_default().replace('T', " ");
    let (first, last) = (minute(seen.first), minute(seen.last));
    let when = if first == last { first } else { format!("{first} to {last}") };
    let names: Vec<&str> = programs.iter().take(3).map(|exe| exe.rsplit('/').next().unwrap_or(exe)).collect();
    let more = programs.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let by = if names.is_empty() { String::new() } else { format!(", by {}{more}", names.join(", ")) };
    let times = if seen.times == 1 { "once".to_owned() } else { format!("{} times", seen.times) };
    printable(&format!("{times}, {when}{by}"))
}

fn paths(used: Use, granted: &[(&Key, &Seen)], wishes: &Wishes) -> Vec<Line> {
    let asked: Vec<(&str, &Key, &Seen)> = granted
        .iter()
        .filter_map(|(key, seen)| match &key.what {
            What::Path(of, path) if *of == used => Some((std::str::from_utf8(path).ok()?, *key, *seen)),
            _ => None,
        })
        .collect();
    let abstract_name = |path: &str| path.starts_with('@');
    let names: Vec<&str> = asked.iter().map(|(path, ..)| *path).filter(|path| !abstract_name(path)).collect();
    let of_path: Vec<&(&str, &Key, &Seen)> = asked.iter().filter(|(path, ..)| !abstract_name(path)).collect();
    let mut found: BTreeMap<String, Vec<(&Key, &Seen)>> = BTreeMap::new();
    for (glob, positions) in globs(&names, wishes) {
        found.entry(glob).or_default().extend(positions.into_iter().map(|at| (of_path[at].1, of_path[at].2)));
    }
    for (path, key, seen) in asked.iter().filter(|(path, ..)| abstract_name(path)) {
        found.entry(glob_of(path)).or_default().push((key, seen));
    }
    let lines = found.into_iter().map(|(glob, by)| {
        let programs = programs(&by);
        // What is the user's own, or answers a connection, belongs to the program that used it; the system and the work
        // to all: an image tells sixty programs apart.
        let own = used == Use::Connect || glob.starts_with('~');
        let item = match condition(&programs).filter(|_| own) {
            Some(exe) => format!("{{ path: {}, exe: {exe} }}", quoted(&glob)),
            None => quoted(&glob),
        };
        line(item, &by)
    });
    lines.collect()
}

/// What was seen.
type Used<'s> = Vec<(&'s Key, &'s Seen)>;
/// By place and protocol, then by port.
type ByPlace<'s> = BTreeMap<(String, &'s str), BTreeMap<u16, Used<'s>>>;

/// Where it went: one rule for each name or address and set of programs.
fn destinations(granted: &[(&Key, &Seen)]) -> Vec<Line> {
    let mut found: ByPlace<'_> = BTreeMap::new();
    for (key, seen) in granted {
        let (to, port, protocol) = match &key.what {
            What::Host { name, port, protocol } => (format!("host: {name}"), *port, *protocol),
            What::Address { address, port, protocol } => {
                (format!("address: {}", quoted(&address.to_string())), *port, *protocol)
            }
            _ => continue,
        };
        found.entry((to, protocol)).or_default().entry(port).or_default().push((key, seen));
    }
    rules(found)
}

fn listeners(granted: &[(&Key, &Seen)]) -> Vec<Line> {
    let mut found: ByPlace<'_> = BTreeMap::new();
    for (key, seen) in granted {
        if let What::Listen { address, port, protocol } = &key.what {
            let at = format!("address: {}", quoted(&address.to_string()));
            found.entry((at, *protocol)).or_default().entry(*port).or_default().push((key, seen));
        }
    }
    rules(found)
}

fn rules(found: ByPlace<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for ((to, protocol), ports) in found {
        // Ports that the same programs used are one rule.
        let mut by_programs: BTreeMap<BTreeSet<String>, (Vec<u16>, Used<'_>)> = BTreeMap::new();
        for (port, used) in ports {
            let group = by_programs.entry(programs(&used)).or_default();
            group.0.push(port);
            group.1.extend(used);
        }
        for (programs, (ports, used)) in by_programs {
            let ports: Vec<String> = ports.iter().filter(|port| **port != 0).map(u16::to_string).collect();
            let ports =
                if ports.is_empty() { String::new() } else { format!(", ports: [{}]", ports.join(", ")) };
            let protocol = match protocol {
                "tcp" => "",
                "udp" => ", protocol: udp",
                "icmp" => ", protocol: icmp",
                _ => ", protocol: any",
            };
            let exe = condition(&programs).map(|exe| format!(", exe: {exe}")).unwrap_or_default();
            lines.push(line(format!("{{ {to}{ports}{protocol}{exe} }}"), &used));
        }
    }
    lines
}

fn programs(used: &[(&Key, &Seen)]) -> BTreeSet<String> {
    used.iter().map(|(key, _)| key.exe.clone().unwrap_or_default()).collect()
}

/// What `exe` says: the programs, or nothing where one is not known or there are too many.
fn condition(programs: &BTreeSet<String>) -> Option<String> {
    if programs.is_empty() || programs.len() > MOST_PROGRAMS || programs.contains("") {
        return None;
    }
    let globs: Vec<String> = programs.iter().map(|exe| quoted(&glob_of(exe))).collect();
    Some(match globs.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    })
}

fn line(item: String, used: &[(&Key, &Seen)]) -> Line {
    let mut seen = used[0].1.clone();
    used[1..].iter().for_each(|(_, more)| seen.join(more));
    let programs = programs(used).into_iter().filter(|exe| !exe.is_empty()).collect();
    Line { item, seen, programs }
}

/// What is not granted, for a person to decide.
fn list_held(out: &mut String, held: &[(&Key, &Seen, String)]) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    // By request and reason; several programs may have asked.
    let mut lines: BTreeMap<(String, &str), (Seen, BTreeSet<String>)> = BTreeMap::new();
    for (key, seen, why) in held {
        let request = match &key.what {
            What::Capability(number) => capabilities::name(*number)
                .map_or_else(|| key.what.request().to_string(), |name| format!("capability {name}")),
            _ => key.what.request().to_string(),
        };
        named.insert(key.what.request().to_string());
        let line = lines.entry((request, why)).or_insert_with(|| ((*seen).clone(), BTreeSet::new()));
        if !line.1.is_empty() {
            line.0.join(seen);
        }
        line.1.extend(key.exe.clone());
    }
    if lines.is_empty() {
        return named;
    }
    out.push_str("\n# Seen too, and not granted. Add a rule for what you want, with `exe` for the program that needs it:\n");
    for ((request, why), (seen, programs)) in lines.iter().take(MOST_HELD) {
        let _ = writeln!(out, "#   {}: {why}; {}", printable(request), comment(seen, programs));
    }
    if lines.len() > MOST_HELD {
        let _ = writeln!(out, "#   and {} more", lines.len() - MOST_HELD);
    }
    named
}
