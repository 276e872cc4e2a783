//! `hosts_from`: the registries of the host's package managers, as rules.
//!
//! Called by the loader when a profile's chain is merged, so that everything behind it (compiler, `explain`, `diff`,
//! daemon) sees plain rules by name, at the place of the entry; and by `init`, which shows what would come of it.
//!
//! The managers' *files* are read, and no manager is executed: the daemon is root, the files may be an agent's, and npm
//! and pip run what their configuration names; nor could node's compiler work in the daemon's sandbox. What a manager
//! asks without being told is written in its own program, and read there.
//!
//! What must stay true: a file counts only if no agent of the profile can write it. That is: it and what is above it
//! belong to root or the user whose home it is in, others can't write them ([`host`]), and the profile's own rules deny
//! to write them ([`widest`]). Every file that would count and does not is named in a warning. A profile without `files`
//! denies nothing, so only files of the system count there, and the warning says that root agents can write those.

mod formats;
mod host;
mod location;
mod managers;
mod widest;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

pub use self::host::{Host, Opened};
pub use self::location::{Location, Place, Refused};
pub use self::managers::Manager;

use self::formats::Named;
use self::managers::{BuiltIn, Find};
use self::widest::Widest;
use super::diagnostic::{Code, Diagnostic, printable};
use super::model::Spanned;
use super::programs::{Condition, ProgramRef};
use super::resolved::{NetRule, Protocol, ProtocolSet, ResolvedProfile};
use super::source::SourceFile;

/// Most hosts that one entry may grant.
const MAX_HOSTS: usize = 64;
/// Most warnings of one entry.
const MAX_WARNINGS: usize = 16;
/// The system's variables, which logins hand to everybody.
const ENVIRONMENT: &str = "/etc/environment";
/// What cargo keeps of its indexes: each directory is named by the index's host.
const CARGO_INDEXES: &str = "~/.cargo/registry/index/*/config.json";

/// One entry of `hosts_from`, of one file of the chain.
#[derive(Debug)]
pub struct Entry<'a> {
    pub source: &'a Arc<SourceFile>,
    /// `coding-agent:network.hosts_from[0]`.
    pub id: String,
    pub manager: &'a Spanned<Manager>,
}

/// What a manager's configuration comes to.
#[derive(Debug, Default)]
pub struct Findings {
    pub installed: bool,
    /// Each with the file that names it.
    pub registries: BTreeMap<Location, PathBuf>,
    /// What is odd about it, and what to do.
    pub remarks: Vec<(String, String)>,
}

/// Puts the rules of all entries into the profile, and what is odd into `diagnostics`.
pub fn expand(
    entries: &[Entry<'_>],
    host: &Host,
    profile: &mut ResolvedProfile,
    diagnostics: &mut Vec<Diagnostic>,
) {
    if entries.is_empty() {
        return;
    }
    let widest = Widest::of(profile);
    let mut done = BTreeSet::new();
    for entry in entries {
        let manager = entry.manager.value;
        // A base may name it too.
        if !done.insert(manager) {
            continue;
        }
        let findings = find(manager, host, &widest);
        let span = entry.manager.span;
        let remarks = findings.remarks.into_iter().take(MAX_WARNINGS);
        diagnostics.extend(
            remarks.map(|(what, hint)| {
                Diagnostic::warning(Code::HostsFrom, entry.source, span, what).hint(hint)
            }),
        );
        let set = manager.as_str().to_owned();
        let globs = || manager.programs().iter().map(|&glob| glob.to_owned()).collect();
        profile.programs.entry(set.clone()).or_insert_with(globs);
        let mut by_port: BTreeMap<u16, Vec<Place>> = BTreeMap::new();
        for Location { host, port } in findings.registries.into_keys().take(MAX_HOSTS) {
            by_port.entry(port).or_default().push(host);
        }
        for (port, places) in by_port {
            let mut rule = NetRule {
                id: format!("{}.{set}:{port}", entry.id),
                source: entry.source.place(span),
                nets: Vec::new(),
                hosts: Vec::new(),
                sni: false,
                ports: vec![port..=port],
                protocols: ProtocolSet::of(Protocol::Tcp),
                programs: Condition { exe: vec![ProgramRef::Name(set.clone())], ..Condition::default() },
            };
            for place in places {
                match place {
                    Place::Name(name) => rule.hosts.push(name),
                    Place::Address(address) => rule.nets.push(IpNet::from(address)),
                }
            }
            profile.network.allow.push(rule);
        }
    }
}

/// What `hosts_from` with this manager would grant in a profile.
#[must_use]
pub fn findings(manager: Manager, host: &Host, profile: &ResolvedProfile) -> Findings {
    find(manager, host, &Widest::of(profile))
}

/// Whether the manager is on the host.
#[must_use]
pub fn is_installed(manager: Manager, host: &Host) -> bool {
    manager.installed().iter().any(|pattern| !host.find(pattern).is_empty())
}

fn find(manager: Manager, host: &Host, widest: &Widest) -> Findings {
    let mut search = Search { manager, host, widest, findings: Findings::default() };
    search.findings.installed = is_installed(manager, host);
    if !search.findings.installed {
        search.remark(
            format!("{} is not installed, so it grants nothing", manager.as_str()),
            "remove it here, or install it and reload".to_owned(),
        );
        return search.findings;
    }
    if !widest.judges() {
        search.remark(
            "this profile does not judge files, so an agent that runs as root may write where registries are configured"
                .to_owned(),
            "add a `files` section, or grant the registries by `host`".to_owned(),
        );
    }
    if !search.configured() {
        search.built_in();
    }
    if manager == Manager::Cargo {
        search.downloads();
    }
    if search.findings.registries.is_empty() {
        search.remark(
            format!("no file that counts says what {} asks, so it grants nothing", manager.as_str()),
            "configure its registry in a file of the system, or grant it by `host` for its programs"
                .to_owned(),
        );
    }
    search.findings
}

struct Search<'a> {
    manager: Manager,
    host: &'a Host,
    widest: &'a Widest,
    findings: Findings,
}

impl Search<'_> {
    fn remark(&mut self, what: String, hint: String) {
        // A file with many mistakes of one kind has one.
        if !self.findings.remarks.iter().any(|(known, _)| *known == what) {
            self.findings.remarks.push((what, hint));
        }
    }

    /// Reads the configuration; whether it takes the place of what the manager asks without being told.
    fn configured(&mut self) -> bool {
        let mut instead = false;
        for configured in self.manager.configured() {
            for path in configured.places.iter().flat_map(|pattern| self.host.find(pattern)) {
                let Some((file, text, doubt)) = self.read(&path) else { continue };
                instead |= self.take(&file, (configured.read)(&text), doubt);
            }
        }
        if let Some((file, text, doubt)) = self.read(Path::new(ENVIRONMENT)) {
            let named =
                formats::variables(&text).flat_map(|(name, value)| self.manager.variable(name, value));
            let named = named.take(formats::MAX_NAMED).collect();
            instead |= self.take(&file, named, doubt);
        }
        instead
    }

    /// A text, its path, and why it does not count.
    fn read(&mut self, path: &Path) -> Option<(PathBuf, String, Option<String>)> {
        let opened = match self.host.open(path) {
            Ok(opened) => opened?,
            Err(error) => {
                self.unread(path, &error);
                return None;
            }
        };
        let (file, doubt) = (opened.path.clone(), self.doubt(&opened));
        match opened.text() {
            Ok(text) => Some((file, text, doubt)),
            Err(error) => {
                self.unread(&file, &error);
                None
            }
        }
    }

    fn unread(&mut self, path: &Path, error: &io::Error) {
        let what = format!("{} is left out: {error}", shown(path));
        self.remark(what, "see that the daemon can read it, or grant its registries by `host`".to_owned());
    }

    fn doubt(&self, opened: &Opened) -> Option<String> {
        if let Some(doubt) = opened.doubt {
            return Some(doubt.to_owned());
        }
        if !self.widest.judges() {
            return opened
                .of_user
                .then(|| "the profile does not judge files, so an agent may write it".to_owned());
        }
        let writes = self.widest.writes(&opened.path);
        writes.then(|| "an agent of this profile may write it, or a directory above it".to_owned())
    }

    /// Takes what a file names, if it counts; whether the manager asks that instead of its own.
    fn take(&mut self, file: &Path, named: Vec<Named>, doubt: Option<String>) -> bool {
        if named.is_empty() {
            return false;
        }
        if let Some(doubt) = doubt {
            let what = format!("{} is left out: {doubt}", shown(file));
            let hint = "let root or the user alone write it, and the profile deny it (`files.deny`), or grant its registries by `host`";
            self.remark(what, hint.to_owned());
            return false;
        }
        let instead = named.iter().any(|named| named.instead);
        // Empty: a word that means no registry.
        for named in named.iter().filter(|named| !named.url.is_empty()) {
            self.registry(&named.url, file);
        }
        instead
    }

    fn registry(&mut self, url: &str, file: &Path) {
        match location::location(url) {
            Ok(location) => {
                self.findings.registries.entry(location).or_insert_with(|| file.to_owned());
            }
            Err(refused) => {
                let what = format!("{} names {refused}", shown(file));
                let hint =
                    "grant what agents should reach of it by `host` or `address` for the manager's programs";
                self.remark(what, hint.to_owned());
            }
        }
    }

    /// What the manager asks without being told: the first of its programs that says so.
    fn built_in(&mut self) {
        for BuiltIn { places, find } in self.manager.built_in() {
            for path in places.iter().flat_map(|pattern| self.host.find(pattern)) {
                let Ok(Some(opened)) = self.host.open(&path) else { continue };
                let (file, doubt) = (opened.path.clone(), self.doubt(&opened));
                let found = match find {
                    Find::Text(read) => opened.text().map(|text| read(&text)),
                    Find::Program { needle, read } => {
                        opened.search(needle, read).map(|found| found.into_iter().collect())
                    }
                };
                let urls = found.unwrap_or_default();
                if urls.is_empty() {
                    continue;
                }
                if doubt.is_none() {
                    urls.iter().for_each(|url| self.registry(url, &file));
                    return;
                }
                self.take(&file, urls.iter().map(|url| Named::instead(url)).collect(), doubt);
            }
        }
    }

    /// Crates come from where the index says, which cargo keeps in the user's cache.
    fn downloads(&mut self) {
        let indexes: Vec<String> = self
            .findings
            .registries
            .keys()
            .filter_map(|location| match &location.host {
                Place::Name(name) => Some(format!("{name}-")),
                Place::Address(_) => None,
            })
            .collect();
        for path in self.host.find(CARGO_INDEXES) {
            let index =
                path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
            if !indexes.iter().any(|name| index.starts_with(name.as_str())) {
                continue;
            }
            let Some((file, text, doubt)) = self.read(&path) else { continue };
            let Some(url) = formats::cargo_downloads(&text) else { continue };
            // What stands in braces is not a part of the host.
            let url = url.split('{').next().unwrap_or_default();
            match (location::location(url), doubt) {
                (Ok(Location { host: Place::Name(name), port }), Some(doubt)) => self.remark(
                    format!("{} is left out: {doubt}; it says that crates come from `{name}`", shown(&file)),
                    format!(
                        "if that is right, grant it: `- {{ host: {name}, ports: [{port}], exe: cargo }}`"
                    ),
                ),
                (_, doubt) => {
                    self.take(&file, vec![Named::beside(url)], doubt);
                }
            }
        }
    }
}

/// A path in a remark: whole, as it is what somebody has to look at.
fn shown(path: &Path) -> String {
    format!("`{}`", printable(&path.to_string_lossy()))
}

#[cfg(test)]
mod tests;
