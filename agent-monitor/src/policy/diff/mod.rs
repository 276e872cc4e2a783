//! The difference between two profiles in what they allow, not in how they are written.
//!
//! Called by `agent-monitor diff`, a gate for changes of profiles. The two images are walked side by side, so every
//! request that they judge differently is found; each kind of difference is told with one request as an example, the
//! rules that decide it, and the programs it is about. What must stay true: a request that the old profile denies and
//! the new one allows is never missed, and every example is one (it is asked of both before it is told).

mod addresses;
mod form;
mod hints;
mod names;
mod paths;
mod product;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use agent_monitor_common::automaton::{TERMINAL, accept, step};
use agent_monitor_common::image::{Class, PLAIN_CLASS, UNKNOWN_CLASS, field, header};
use agent_monitor_common::path::{Right, Rights};
use jiff::Timestamp;
use serde::Serialize;

use self::form::{Form, ORDER};
use super::Membership;
use super::judge::{Answer, Disagreement, Judge, Reason, Request};
use crate::event::escape;

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What the new profile allows and the old one denies.
    pub wider: Vec<Example>,
    /// What the old profile allows and the new one denies.
    pub narrower: Vec<Example>,
    /// What differs for the profiles as a whole.
    pub whole: Vec<Change>,
    /// Further differences of each kind, beside the examples: wider, narrower.
    pub more: (usize, usize),
}

impl Difference {
    /// Whether the new profile allows something that the old one denies.
    #[must_use]
    pub fn grants_more(&self) -> bool {
        !self.wider.is_empty() || self.more.0 > 0 || self.whole.iter().any(|change| change.wider)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }
}

/// What differs now, and what differs when every lease of both profiles has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OverTime {
    #[serde(flatten)]
    pub now: Difference,
    /// Without what differs now. A lease that became a grant for good is here, and a new grant is not.
    #[serde(skip_serializing_if = "Difference::is_empty")]
    pub after_leases: Difference,
}

impl OverTime {
    /// Whether the new profile allows something, now or then, that the old one denies.
    #[must_use]
    pub fn grants_more(&self) -> bool {
        self.now.grants_more() || self.after_leases.grants_more()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.after_leases.is_empty()
    }
}

/// [`diff`], for as long as both profiles last.
///
/// # Errors
/// As [`diff`], and where a profile without its leases has no image.
pub fn diff_over_time(old: &Judge, new: &Judge) -> anyhow::Result<OverTime> {
    let now = diff(old, new)?;
    if old.profile().first_end().or(new.profile().first_end()).is_none() {
        return Ok(OverTime { now, after_leases: Difference::default() });
    }
    let mut after_leases = diff(&without_leases(old)?, &without_leases(new)?)?;
    let told = |known: &[Example], example: &Example| known.iter().any(|one| one.request == example.request);
    after_leases.wider.retain(|example| !told(&now.wider, example));
    after_leases.narrower.retain(|example| !told(&now.narrower, example));
    after_leases.whole.retain(|change| !now.whole.contains(change));
    let more = after_leases.more;
    after_leases.more = (more.0.saturating_sub(now.more.0), more.1.saturating_sub(now.more.1));
    Ok(OverTime { now, after_leases })
}

fn without_leases(judge: &Judge) -> anyhow::Result<Judge> {
    let mut profile = judge.profile().clone();
    profile.lapse(Timestamp::MAX);
    Ok(Judge::new(profile)?)
}

/// A difference of the profiles as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// It makes the profile wider.
    pub wider: bool,
    pub what: String,
}

/// A request that the profiles judge differently, for all that the same rules decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// `read`, `write`, `tcp`, `privilege` …
    pub kind: &'static str,
    pub request: String,
    /// The programs: each by its sets of the old profile and of the new one, and an executable that is in them.
    pub programs: Vec<String>,
    /// They are all that the profiles tell apart.
    pub every_program: bool,
    /// The rule that decides it in the old profile, and its place.
    pub old: String,
    pub new: String,
    /// Requests of the walk that the same rules decide, this one included.
    pub alike: usize,
}

/// Programs of one class in either profile.
struct Sides<'j> {
    old: &'j Judge,
    new: &'j Judge,
    old_class: Class,
    new_class: Class,
    program: String,
}

/// What the walks found.
#[derive(Default)]
struct Found {
    requests: Vec<(Asked, Request, bool)>,
    moved: Vec<(usize, Vec<u8>, bool)>,
    /// By the start states of a walk: where its programs are listed. Programs of several classes often share them.
    walks: HashMap<Vec<u32>, usize>,
    /// The programs that a walk was about.
    programs: Vec<Vec<String>>,
    /// The walk that goes on.
    walk: usize,
    beyond: (usize, usize),
}

/// For whom a request was found to differ.
#[derive(Clone, Copy)]
struct Asked {
    old_class: Class,
    new_class: Class,
    walk: usize,
}

impl Found {
    /// Begins a walk from these start states; false: it was done, and these programs are judged as those were.
    fn begin(&mut self, sides: &Sides<'_>, starts: Vec<u32>) -> bool {
        let next = self.programs.len();
        let walk = *self.walks.entry(starts).or_insert(next);
        self.walk = walk;
        if walk == next {
            self.programs.push(Vec::new());
        }
        self.programs[walk].push(sides.program.clone());
        walk == next
    }

    /// Begins one for these programs alone.
    fn begin_alone(&mut self, sides: &Sides<'_>) {
        self.walk = self.programs.len();
        self.programs.push(vec![sides.program.clone()]);
    }

    fn request(&mut self, sides: &Sides<'_>, request: Request, wider: bool) {
        let asked = Asked { old_class: sides.old_class, new_class: sides.new_class, walk: self.walk };
        self.requests.push((asked, request, wider));
    }

    /// A directory that one of the profiles keeps in its place.
    fn moves(&mut self, path: Vec<u8>, wider: bool) {
        self.moved.push((self.walk, path, wider));
    }

    /// One more of a kind of which enough examples are kept.
    fn beyond(&mut self, wider: bool) {
        *if wider { &mut self.beyond.0 } else { &mut self.beyond.1 } += 1;
    }
}

/// How many examples of each kind a walk has kept, narrower and wider: the nearest ones are enough.
struct Kept {
    most: usize,
    counts: Vec<[usize; 2]>,
}

impl Kept {
    fn new(kinds: usize, most: usize) -> Self {
        Kept { most, counts: vec![[0; 2]; kinds] }
    }

    /// Whether to keep an example of a request that is `allowed` before and now, if it differs.
    fn keep(&mut self, found: &mut Found, kind: usize, allowed: (bool, bool)) -> bool {
        if allowed.0 == allowed.1 {
            return false;
        }
        let count = &mut self.counts[kind][usize::from(allowed.1)];
        *count += 1;
        if *count > self.most {
            found.beyond(allowed.1);
        }
        *count <= self.most
    }
}

/// Compares two profiles.
///
/// # Errors
/// [`Disagreement`].
pub fn diff(old: &Judge, new: &Judge) -> Result<Difference, Disagreement> {
    let mut found = Found::default();
    let hints = hints::requests(old, new);
    let classes = classes(old, new);
    let programs = classes.len();
    for (old_class, new_class, exe) in classes {
        let program = program(old.sets(old_class), new.sets(new_class), exe.as_deref());
        let sides = Sides { old, new, old_class, new_class, program };
        paths::compare(&sides, &mut found);
        addresses::compare(&sides, &mut found);
        found.begin_alone(&sides);
        names::compare(&sides, &mut found);
        rest::compare(&sides, &mut found);
        hints::compare(&sides, &hints, &mut found);
    }
    let mut difference = Difference { whole: rest::whole(old, new), ..Difference::default() };
    difference.more = found.beyond;
    let mut groups: BTreeMap<(bool, &'static str, String, String), Example> = BTreeMap::new();
    for (asked, request, wider) in found.requests {
        let (before, now) = (old.ask(asked.old_class, &request)?, new.ask(asked.new_class, &request)?);
        let (before, now) = (by(&before), by(&now));
        let kind = kind(&request);
        let group = groups.entry((wider, kind, before.clone(), now.clone()));
        let example = group.or_insert_with(|| Example {
            kind,
            request: request.to_string(),
            programs: Vec::new(),
            every_program: false,
            old: before,
            new: now,
            alike: 0,
        });
        example.alike += 1;
        example.about(&found.programs[asked.walk]);
    }
    // Who may not read a directory may not list it either: that is told once.
    let reads = |wider: bool, example: &Example| (wider, "read", example.old.clone(), example.new.clone());
    let told: Vec<bool> = groups
        .iter()
        .map(|((wider, kind, ..), example)| *kind != "list" || !groups.contains_key(&reads(*wider, example)))
        .collect();
    let mut told = told.into_iter();
    groups.retain(|_, _| told.next().unwrap_or(true));
    for ((wider, ..), mut example) in groups {
        example.every_program = example.programs.len() == programs;
        if wider { difference.wider.push(example) } else { difference.narrower.push(example) }
    }
    for (walk, path, wider) in found.moved {
        let (kept, free) = ("denied below it".to_owned(), "nothing denied below it".to_owned());
        let (old, new) = if wider { (kept, free) } else { (free, kept) };
        let request = format!("move the directory {}", escape::text(&path));
        let about = found.programs[walk].clone();
        let every_program = about.len() == programs;
        let example = Example { kind: "move", request, programs: about, every_program, old, new, alike: 1 };
        if wider { difference.wider.push(example) } else { difference.narrower.push(example) }
    }
    Ok(difference)
}

impl Example {
    fn about(&mut self, programs: &[String]) {
        for program in programs {
            if !self.programs.contains(program) {
                self.programs.push(program.clone());
            }
        }
    }
}

fn by(answer: &Answer) -> String {
    let hello = if answer.hello { ", with its name in the TLS hello," } else { "" };
    match &answer.rule {
        Some((id, source)) if answer.reason == Reason::Audited => {
            format!("allow, would-deny by {id} ({source})")
        }
        Some((id, source)) => format!("{}{hello} by {id} ({source})", answer.effect.as_str()),
        None => format!("{}, not judged", answer.effect.as_str()),
    }
}

/// What keeps examples apart that the same rules decide.
fn kind(request: &Request) -> &'static str {
    match request {
        Request::Connect { protocol, .. } => protocol.name(),
        Request::Listen { .. } => "listen",
        Request::Path { directory: true, .. } => "list",
        Request::Path { rights, .. } => {
            Right::ALL.into_iter().find(|&right| right as Rights == *rights).map_or("path", Right::name)
        }
        Request::Capability(_) | Request::Privilege { .. } => "privilege",
        Request::LookUp(_) | Request::Socket(_) | Request::Syscall(_) => "other",
    }
}

/// The classes of a profile that some program is of, each with the shortest path of an executable.
#[must_use]
pub fn programs(judge: &Judge) -> Vec<(Class, Option<Vec<u8>>)> {
    classes(judge, judge).into_iter().map(|(class, _, exe)| (class, exe)).collect()
}

/// Every pair of classes that some program is of, each with the shortest path of an executable.
fn classes(old: &Judge, new: &Judge) -> Vec<(Class, Class, Option<Vec<u8>>)> {
    let (before, now) = (&old.image().words[..], &new.image().words[..]);
    let over = |state: u32| state & TERMINAL != 0;
    let mut pairs: BTreeMap<(u32, u32), Option<Vec<u8>>> = BTreeMap::new();
    // A program that could not be told, and one without a set in either.
    pairs.insert((UNKNOWN_CLASS, UNKNOWN_CLASS), None);
    pairs.insert((PLAIN_CLASS, PLAIN_CLASS), None);
    product::walk(
        (field(before, header::START_EXE) as u32, field(now, header::START_EXE) as u32, Form::Nothing),
        |(.., form)| if form == Form::No { &[] } else { &ORDER },
        |(a, b, form), byte| match form.after(byte) {
            Form::No | Form::At => (TERMINAL, TERMINAL, Form::No),
            form => {
                let go = |table, state| if over(state) { state } else { step(table, state, byte) };
                (go(before, a), go(now, b), form)
            }
        },
        |(a, b, form), input| {
            if form == Form::Step {
                let pair = (PLAIN_CLASS + accept(before, a), PLAIN_CLASS + accept(now, b));
                pairs.entry(pair).or_insert_with(|| Some(input()));
            }
        },
    );
    // The unknown ones last: they are the rarest.
    let (unknown, known): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|((a, _), _)| *a == UNKNOWN_CLASS);
    known.into_iter().chain(unknown).map(|((a, b), exe)| (Class::new(a), Class::new(b), exe)).collect()
}

fn program(old: &Membership, new: &Membership, exe: Option<&[u8]>) -> String {
    let sets = |program: &Membership| match program {
        Membership::Unknown => "unknown".to_owned(),
        Membership::Of(sets) if sets.is_empty() => "any other".to_owned(),
        Membership::Of(sets) => sets.iter().map(|set| set.as_str()).collect::<Vec<_>>().join("+"),
    };
    let (before, now) = (sets(old), sets(new));
    let named = if before == now { before } else { format!("{before} -> {now}") };
    match exe {
        Some(exe) => format!("{named} ({})", escape::text(exe)),
        None => named,
    }
}
