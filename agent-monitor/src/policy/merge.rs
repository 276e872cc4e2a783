//! An `extends` chain made one profile.
//!
//! Called by the loader once every file of the chain was checked for itself.
//! The rules of merging are in [`super::load`]; here are also the checks that
//! need the whole chain: is there a mode, do bases agree, are names distinct
//! (which rules can never matter: `pointless`).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::check::FilePrivileges;
use super::diagnostic::{Code, Diagnostic, nearest, quoted};
use super::globs;
use super::hosts_from::{self, Entry, Host};
use super::load::{Base, Checked, LinkedFile, Loaded};
use super::model::Spanned;
use super::pins;
use super::pointless;
use super::programs::{Condition, Programs};
use super::resolved::{
    Claim, Denied, ExecPolicy, FilesPolicy, Granted, NetRule, NetworkPolicy, PathRule, PrivilegesPolicy,
    Protocol, ResolvedProfile, Source, SyscallRule, UnixPolicy,
};
use super::sockets::{SocketKind, SocketKinds};
use super::source::{SourceFile, Span};

/// The files of a chain, the profile itself first.
#[derive(Debug)]
pub struct Chain(Vec<LinkedFile>);

impl Chain {
    /// `None` without a single sound file.
    pub fn new(files: Vec<LinkedFile>) -> Option<Self> {
        (!files.is_empty()).then_some(Self(files))
    }

    /// Which rules can never matter, in a chain whose files are sound.
    pub fn remarks(&self) -> Vec<Diagnostic> {
        let mut remarks = Vec::new();
        pointless::network(&self.0, &mut remarks);
        pointless::paths(&self.0, &mut remarks);
        remarks
    }

    fn own(&self) -> &LinkedFile {
        &self.0[0]
    }

    /// Everything of one kind in all files.
    fn all<'a, T: 'a>(
        &'a self,
        of: impl Fn(&'a LinkedFile) -> &'a Vec<T>,
    ) -> impl Iterator<Item = (&'a Arc<SourceFile>, &'a T)> {
        self.0.iter().flat_map(move |file| of(file).iter().map(|item| (&file.source, item)))
    }

    /// The single value that counts in file `index`: its own, else the one that
    /// its bases agree on.
    fn nearest<T: Copy + PartialEq + std::fmt::Display>(
        &self,
        index: usize,
        key: &str,
        of: &impl Fn(&LinkedFile) -> Option<Spanned<T>>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<(T, Arc<SourceFile>, Span)> {
        let file = &self.0[index];
        if let Some(own) = of(file) {
            return Some((own.value, Arc::clone(&file.source), own.span));
        }
        let mut found: Option<(T, Arc<SourceFile>, Span)> = None;
        for &(base, span) in &file.bases {
            let Some(value) = self.nearest(base, key, of, diagnostics) else { continue };
            match &found {
                Some(first) if first.0 != value.0 => {
                    diagnostics.push(
                        Diagnostic::error(
                            Code::ConflictingBases,
                            &file.source,
                            span,
                            format!("the bases disagree about `{key}`: `{}` and `{}`", first.0, value.0),
                        )
                        .also(&first.1, first.2, "set here")
                        .also(&value.1, value.2, "and here")
                        .hint(format!("say in this file which one counts, for example `{key}: {}`", first.0)),
                    );
                    return found;
                }
                Some(_) => {}
                None => found = Some(value),
            }
        }
        found
    }

    /// The workspace of file `index`: its own, else those of its bases together.
    fn workspace(&self, index: usize) -> Vec<String> {
        let file = &self.0[index];
        match file.profile.workspace.as_slice() {
            [] => file.bases.iter().flat_map(|&(base, _)| self.workspace(base)).collect(),
            own => own.to_vec(),
        }
    }
}

/// Merges the chain. Problems are added to `diagnostics`; `None` if something
/// without which there is no profile is missing.
pub fn merge(chain: &Chain, host: &Host, diagnostics: &mut Vec<Diagnostic>) -> Option<Checked> {
    let sound = !diagnostics.iter().any(Diagnostic::is_error);
    distinct_names(chain, diagnostics);
    let mode = chain.nearest(0, "mode", &|file| file.profile.mode.clone(), diagnostics);
    let denied = chain.nearest(0, "denied", &|file| file.profile.denied.clone(), diagnostics);
    let own = &chain.own().profile;
    let file = &own.source.path;
    if mode.is_none() && !own.is_abstract && sound {
        let span = own.name.as_ref().map(|name| name.span).unwrap_or_default();
        diagnostics.push(
            Diagnostic::error(Code::MissingKey, &own.source, span, "a profile needs the key `mode`").hint(
                "add `mode: audit` to see what would be denied, `mode: enforce` to deny it, or `mode: learn` to only record",
            ),
        );
    }
    let sockets = chain.0.iter().map(|file| file.profile.sockets).fold(SocketKinds::NONE, SocketKinds::union);
    let programs = programs(chain);
    unknown_programs(chain, &programs, diagnostics);
    let workspace = workspace(chain, diagnostics);
    // What is taken out of a faulty profile could make another rule look useless.
    if sound {
        let pins = chain.0.iter().rev();
        pins::check_together(
            pins.flat_map(|file| file.profile.pins.iter().map(|pin| (&file.source, pin))),
            diagnostics,
        );
        if !own.is_abstract {
            icmp_without_socket(chain, sockets, diagnostics);
        }
    }
    let name = own.name.as_ref()?.value.0.clone();
    let files: Vec<Arc<Path>> = chain.0.iter().map(|file| Arc::clone(&file.source.path)).collect();
    let rules = |of: fn(&LinkedFile) -> &Vec<Spanned<NetRule>>| -> Vec<NetRule> {
        chain.all(of).map(|(_, rule)| rule.value.clone()).collect()
    };
    let network = NetworkPolicy {
        denied: denied.map_or(Denied::Unreachable, |(denied, ..)| denied),
        allow: rules(|file| &file.profile.allow),
        deny: rules(|file| &file.profile.deny),
        listen: rules(|file| &file.profile.listen),
        audited: rules(|file| &file.profile.audited),
        sockets,
        source: own.source.place(own.network_root),
    };
    let (mut filesystem, mut exec, mut unix) = (filesystem(chain), exec(chain), unix(chain));
    let mut audited: Vec<PathRule> =
        chain.0.iter().flat_map(|file| &file.profile.audited_paths).cloned().collect();
    replace_variables(filesystem.as_mut(), exec.as_mut(), unix.as_mut(), &mut audited, &workspace);
    let privileges = privileges(chain, diagnostics);
    if filesystem.is_some() || exec.is_some() || unix.is_some() {
        mounts_beside_paths(chain, diagnostics);
    }
    if own.is_abstract {
        if grants_names(&network) {
            deny_other_resolvers(&name, &network, unix.as_mut());
        }
        return Some(Checked::Base(Box::new(Base {
            name,
            file: Arc::clone(file),
            files,
            description: own.description.clone(),
            claims: distinct_claims(chain).len(),
            programs,
            network,
            filesystem,
            exec,
            unix,
            privileges,
            audited,
            syscalls: one_rule_per_call(chain),
            warnings: Vec::new(),
        })));
    }
    let mut profile = ResolvedProfile {
        name,
        description: own.description.clone(),
        mode: mode?.0,
        file: Arc::clone(file),
        files,
        claims: distinct_claims(chain),
        programs,
        network,
        filesystem,
        exec,
        unix,
        privileges,
        audited,
        notices: chain.0.iter().find_map(|file| file.profile.notices.clone()),
        protected: Default::default(),
        homes: host.homes().to_vec(),
        workspace,
        syscalls: one_rule_per_call(chain),
    };
    if sound {
        hosts_from::expand(&entries_of_managers(chain), host, &mut profile, diagnostics);
    }
    if grants_names(&profile.network) {
        deny_other_resolvers(&profile.name, &profile.network, profile.unix.as_mut());
        if profile.unix.is_none() && sound {
            names_beside_sockets(chain, diagnostics);
        }
    }
    Some(Checked::Profile(Box::new(Loaded { profile, warnings: Vec::new() })))
}

/// Rule ids begin with the profile's name, so a chain has each name once.
fn distinct_names(chain: &Chain, diagnostics: &mut Vec<Diagnostic>) {
    let mut names: BTreeMap<&str, (&Arc<SourceFile>, Span)> = BTreeMap::new();
    // Bases first: the nearer file is the one to change.
    for file in chain.0.iter().rev() {
        let Some(name) = &file.profile.name else { continue };
        if let Some((first, span)) = names.get(name.value.0.as_str()) {
            diagnostics.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    &file.source,
                    name.span,
                    format!("the name {} is taken by another file of this chain", quoted(&name.value.0)),
                )
                .also(first, *span, "here")
                .hint("give each file a name of its own: rule ids in events begin with it"),
            );
        } else {
            names.insert(&name.value.0, (&file.source, name.span));
        }
    }
}

fn distinct_claims(chain: &Chain) -> Vec<Claim> {
    let mut seen = HashSet::new();
    chain
        .all(|file| &file.profile.claims)
        .map(|(_, claim)| &claim.value)
        .filter(|claim| seen.insert(&claim.what))
        .cloned()
        .collect()
}

/// The sets of programs of the chain, those of one name added up.
fn programs(chain: &Chain) -> Programs {
    let mut all = Programs::new();
    for (name, globs) in chain.0.iter().flat_map(|file| &file.profile.programs) {
        let known = all.entry(name.clone()).or_default();
        known.extend(globs.iter().cloned());
        known.sort_unstable();
        known.dedup();
    }
    all
}

/// A name that `programs` does not have would be a grant to nobody, or a denial without its exception.
fn unknown_programs(chain: &Chain, programs: &Programs, diagnostics: &mut Vec<Diagnostic>) {
    for (source, name) in chain.all(|file| &file.profile.named_programs) {
        if programs.contains_key(&name.value) {
            continue;
        }
        let message = format!("`programs` has no set {}", quoted(&name.value));
        let mut diagnostic = Diagnostic::error(Code::UnknownProgram, source, name.span, message);
        if let Some(near) = nearest(&name.value, programs.keys().map(String::as_str)) {
            diagnostic = diagnostic.here(format!("did you mean `{near}`?"));
        }
        let hint = match programs.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>() {
            known if known.is_empty() => {
                "name the set under `programs`, for example `programs: { git: [/usr/bin/git] }`, or write a path here"
                    .to_owned()
            }
            known => format!("the sets here are {}; a path such as `/usr/bin/git` does as well", known.join(", ")),
        };
        diagnostics.push(diagnostic.hint(hint));
    }
}

/// What `${workspace}` stands for. Where it is used it must stand for something: a denial of nothing would be none.
fn workspace(chain: &Chain, diagnostics: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut all = chain.workspace(0);
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        for (source, used) in chain.all(|file| &file.profile.workspace_uses) {
            let message = "`${workspace}` stands for nothing: there is no `workspace`";
            diagnostics.push(
                Diagnostic::error(Code::NoWorkspace, source, used.span, message)
                    .hint("add where the agent's work lies, for example `workspace: [~/src/*]`"),
            );
        }
    }
    all
}

/// Puts what they stand for in the place of variables.
fn replace_variables(
    files: Option<&mut FilesPolicy>,
    exec: Option<&mut ExecPolicy>,
    unix: Option<&mut UnixPolicy>,
    audited: &mut [PathRule],
    workspace: &[String],
) {
    let files = files.into_iter().flat_map(|files| [&mut files.read, &mut files.write, &mut files.deny]);
    let exec = exec.into_iter().flat_map(|exec| [&mut exec.allow, &mut exec.deny]);
    let unix = unix.into_iter().flat_map(|unix| [&mut unix.allow, &mut unix.deny]);
    for rule in files.chain(exec).chain(unix).flatten().chain(audited) {
        rule.glob = globs::without_variable(&rule.glob, workspace);
    }
}

/// The `files` sections of the chain added up.
fn filesystem(chain: &Chain) -> Option<FilesPolicy> {
    let sections = chain.0.iter().filter_map(|file| file.profile.filesystem.as_ref());
    sections.cloned().reduce(|mut all, section| {
        all.read.extend(section.read);
        all.write.extend(section.write);
        all.deny.extend(section.deny);
        all
    })
}

/// The `exec` sections of the chain added up.
fn exec(chain: &Chain) -> Option<ExecPolicy> {
    let sections = chain.0.iter().filter_map(|file| file.profile.exec.as_ref());
    sections.cloned().reduce(|mut all, section| {
        all.allow.extend(section.allow);
        all.deny.extend(section.deny);
        all.pinned.extend(section.pinned);
        all.pins.extend(section.pins);
        all
    })
}

/// The `unix` sections of the chain added up.
fn unix(chain: &Chain) -> Option<UnixPolicy> {
    let sections = chain.0.iter().filter_map(|file| file.profile.unix.as_ref());
    sections.cloned().reduce(|mut all, section| {
        all.allow.extend(section.allow);
        all.deny.extend(section.deny);
        all
    })
}

/// The `privileges` sections of the chain: capabilities add up, of each other key the nearest file's value counts.
fn privileges(chain: &Chain, diagnostics: &mut Vec<Diagnostic>) -> Option<PrivilegesPolicy> {
    let (file, nearest) = chain.0.iter().find_map(|file| Some((file, file.profile.privileges.as_ref()?)))?;
    let mut policy = PrivilegesPolicy::nothing(file.source.place(nearest.key));
    let sections = chain.0.iter().filter_map(|file| file.profile.privileges.as_ref());
    policy.capabilities = sections.fold(0, |all, section| all | section.capabilities);
    let mut keys = PrivilegeKeys { chain, diagnostics };
    keys.set(&mut policy.setuid, "privileges.setuid", |section| section.setuid.clone());
    keys.set(&mut policy.user_namespaces, "privileges.user_namespaces", |section| {
        section.user_namespaces.clone()
    });
    keys.set(&mut policy.ptrace, "privileges.ptrace", |section| section.ptrace.clone());
    keys.set(&mut policy.signals, "privileges.signals", |section| section.signals.clone());
    keys.set(&mut policy.mounts, "privileges.mounts", |section| section.mounts.clone());
    keys.set(&mut policy.modules, "privileges.modules", |section| section.modules.clone());
    keys.set(&mut policy.bpf, "privileges.bpf", |section| section.bpf.clone());
    keys.set(&mut policy.perf, "privileges.perf", |section| section.perf.clone());
    keys.set(&mut policy.io_uring, "privileges.io_uring", |section| section.io_uring.clone());
    Some(policy)
}

/// Looks up the single values of the `privileges` sections.
struct PrivilegeKeys<'a> {
    chain: &'a Chain,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl PrivilegeKeys<'_> {
    /// Sets what the chain says of a key; what it does not speak of stays.
    fn set<T: Copy + PartialEq + std::fmt::Display>(
        &mut self,
        granted: &mut Granted<T>,
        key: &str,
        of: impl Fn(&FilePrivileges) -> Option<Spanned<T>>,
    ) {
        let of_file = |file: &LinkedFile| file.profile.privileges.as_ref().and_then(&of);
        if let Some((value, file, span)) = self.chain.nearest(0, key, &of_file, self.diagnostics) {
            *granted = Granted { value, source: Some(file.place(span)) };
        }
    }
}

/// The entries of `hosts_from`, the nearest file's first.
fn entries_of_managers(chain: &Chain) -> Vec<Entry<'_>> {
    chain
        .0
        .iter()
        .flat_map(|LinkedFile { profile, source, .. }| {
            let name = profile.name.as_ref().map_or("", |name| name.value.0.as_str());
            let entries = profile.hosts_from.iter().enumerate();
            entries.map(move |(index, manager)| Entry {
                source,
                id: format!("{name}:network.hosts_from[{index}]"),
                manager,
            })
        })
        .collect()
}

/// Whether names are granted.
fn grants_names(network: &NetworkPolicy) -> bool {
    network.allow.iter().any(|rule| !rule.hosts.is_empty())
}

fn deny_other_resolvers(profile: &str, network: &NetworkPolicy, unix: Option<&mut UnixPolicy>) {
    if let Some(unix) = unix {
        unix.deny.extend(other_resolvers(profile, &network.source));
    }
}

/// Where names are granted, whoever else would look one up for the agent does not exist: the C library asks by DNS
/// then.
fn other_resolvers(profile: &str, source: &Source) -> impl Iterator<Item = PathRule> {
    RESOLVERS.iter().map(move |glob| PathRule {
        id: format!("{profile}:network.names"),
        source: source.clone(),
        glob: (*glob).to_owned(),
        programs: Condition::default(),
        access: None,
    })
}

/// systemd-resolved (nss-resolve), nscd and Avahi (nss-mdns). The system bus leads to the first too, and to much else.
const RESOLVERS: &[&str] = &[
    "{/run,/var/run}/systemd/resolve/io.systemd.Resolve*",
    "{/run,/var/run}/nscd/**",
    "{/run,/var/run}/avahi-daemon/**",
];

/// Warns that names can be looked up by others.
fn names_beside_sockets(chain: &Chain, diagnostics: &mut Vec<Diagnostic>) {
    let own = chain.own();
    let naming = own.profile.allow.iter().find(|rule| !rule.value.hosts.is_empty()).map(|rule| rule.span);
    if let Some(span) = naming.or(own.profile.hosts_from.first().map(|manager| manager.span)) {
        diagnostics.push(
            Diagnostic::warning(
                Code::NamesBesideSockets,
                &own.source,
                span,
                "names that no rule grants can be looked up by Unix sockets, which this profile does not judge",
            )
            .hint("add a `unix` section: with it, systemd-resolved, nscd and Avahi do not exist for the agent, and it asks by DNS"),
        );
    }
}

/// Warns about a grant of mounts that rules about paths take back.
fn mounts_beside_paths(chain: &Chain, diagnostics: &mut Vec<Diagnostic>) {
    let own = chain.own();
    let granted = own.profile.privileges.as_ref().and_then(|section| section.mounts.as_ref());
    if let Some(granted) = granted.filter(|granted| granted.value) {
        diagnostics.push(
            Diagnostic::warning(
                Code::MountsBesidePaths,
                &own.source,
                granted.span,
                "mounts stay denied: the profile has rules about paths",
            )
            .hint("remove `mounts`: who may mount decides what lies at a path, so no rule about paths would hold"),
        );
    }
}

/// The nearest file's rule for each call; one that kills wins.
fn one_rule_per_call(chain: &Chain) -> Vec<SyscallRule> {
    let mut calls: BTreeMap<u32, &SyscallRule> = BTreeMap::new();
    for (_, rule) in chain.all(|file| &file.profile.syscalls) {
        let known = calls.entry(rule.nr).or_insert(rule);
        if rule.kill && !known.kill {
            *known = rule;
        }
    }
    calls.into_values().cloned().collect()
}

fn icmp_without_socket(chain: &Chain, sockets: SocketKinds, diagnostics: &mut Vec<Diagnostic>) {
    if sockets.contains(SocketKind::Ping) || sockets.contains(SocketKind::Raw) {
        return;
    }
    for (source, rule) in chain.all(|file| &file.profile.allow) {
        let protocols = rule.value.protocols;
        // `any` includes ICMP without anybody having asked for it.
        if protocols.contains(Protocol::Icmp) && !protocols.contains(Protocol::Other) {
            diagnostics.push(
                Diagnostic::warning(
                    Code::NoSocketForIcmp,
                    source,
                    rule.span,
                    format!("`{}` allows ICMP, but the agent has no socket to send it", rule.value.id),
                )
                .hint("add `sockets: [ping]` to `network`"),
            );
        }
    }
}
