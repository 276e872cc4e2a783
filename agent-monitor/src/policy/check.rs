//! One profile file: from text to values, with every problem of that file.
//!
//! Called by the loader for each file of an `extends` chain. The checks that
//! need other files (bases, modes, rules that cover each other) are the
//! loader's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use agent_monitor_common::path::{ALL_RIGHTS, Right, Rights};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde::Deserialize;

use super::diagnostic::{Code, Diagnostic};
use super::globs::{self, Variable};
use super::hosts_from::Manager;
use super::model::{
    AccessWord, AgentClaim, BaseName, DeniedFile, DeniedProgram, DeniedSocket, DeniedWord, ExecSection,
    FilesSection, GrantedPath, GrantedSocket, LeaseWord, ListenProtocolWord, ListenRule, ModeWord, Name,
    NetworkSection, OneOrMany, PathGlob, PathItem, PeerRule, PinnedProgram, Ports, PrivilegesSection,
    ProfileFile, Program, ProtocolWord, PtraceWord, SignalsWord, SniWord, Spanned, Syscall, SyscallSection,
    UnixGlob, UnixSection,
};
use super::names::HostPattern;
use super::programs::{Condition, ProgramRef, Programs};
use super::reader::Reader;
use super::resolved::{
    Claim, ClaimKind, Denied, ExecPolicy, FilesPolicy, Mode, NetRule, Notices, PathRule, Pin, Protocol,
    ProtocolSet, SyscallRule, Targets, UnixPolicy,
};
use super::schema::profile_schema;
use super::sockets::SocketKinds;
use super::source::{SourceFile, Span};
use super::tree::{self, Node, SyntaxError, Value};
use super::{structure, syscalls};

/// Characters of `notices.request` that count.
const MAX_REQUEST: usize = 500;

/// What one file says by itself.
#[derive(Debug)]
pub struct FileProfile {
    pub source: Arc<SourceFile>,
    /// Missing only if that was reported.
    pub name: Option<Spanned<Name>>,
    pub description: Option<String>,
    pub is_abstract: bool,
    pub extends: Vec<Spanned<BaseName>>,
    pub mode: Option<Spanned<Mode>>,
    pub denied: Option<Spanned<Denied>>,
    pub claims: Vec<Spanned<Claim>>,
    pub allow: Vec<Spanned<NetRule>>,
    pub deny: Vec<Spanned<NetRule>>,
    pub listen: Vec<Spanned<NetRule>>,
    pub audited: Vec<Spanned<NetRule>>,
    pub audited_paths: Vec<PathRule>,
    /// The package managers whose registries are granted.
    pub hosts_from: Vec<Spanned<Manager>>,
    pub sockets: SocketKinds,
    pub syscalls: Vec<SyscallRule>,
    pub filesystem: Option<FilesPolicy>,
    pub exec: Option<ExecPolicy>,
    pub unix: Option<UnixPolicy>,
    pub privileges: Option<FilePrivileges>,
    pub notices: Option<Notices>,
    pub programs: Programs,
    /// What `${workspace}` stands for.
    pub workspace: Vec<String>,
    /// Where `${workspace}` is used.
    pub workspace_uses: Vec<Spanned<()>>,
    /// Each set that a rule names, and where.
    pub named_programs: Vec<Spanned<String>>,
    /// The pins of `exec`, and where each is written.
    pub pins: Vec<Spanned<Pin>>,
    /// The `network:` key, else the name, else the beginning.
    pub network_root: Span,
}

/// The `privileges:` section of one file: what it says, not what it grants.
#[derive(Clone, Debug)]
pub struct FilePrivileges {
    /// The section's key.
    pub key: Span,
    pub capabilities: u64,
    pub setuid: Option<Spanned<bool>>,
    pub user_namespaces: Option<Spanned<bool>>,
    pub ptrace: Option<Spanned<Targets>>,
    pub signals: Option<Spanned<Targets>>,
    pub mounts: Option<Spanned<bool>>,
    pub modules: Option<Spanned<bool>>,
    pub bpf: Option<Spanned<bool>>,
    pub perf: Option<Spanned<bool>>,
    pub io_uring: Option<Spanned<bool>>,
}

impl FilePrivileges {
    fn of(section: PrivilegesSection, key: Span) -> Self {
        fn targets<T: Into<Targets>>(word: Spanned<T>) -> Spanned<Targets> {
            Spanned { value: word.value.into(), span: word.span }
        }
        let listed = section.capabilities.0.iter().fold(0, |all, one| all | one.value.0);
        Self {
            key,
            capabilities: listed,
            setuid: section.setuid,
            user_namespaces: section.user_namespaces,
            ptrace: section.ptrace.map(targets),
            signals: section.signals.map(targets),
            mounts: section.mounts,
            modules: section.modules,
            bpf: section.bpf,
            perf: section.perf,
            io_uring: section.io_uring,
        }
    }
}

/// Checks one file. Problems are added to `diagnostics`; what comes back holds
/// what was sound, or nothing if the file is not even a mapping.
pub fn check_file(source: &Arc<SourceFile>, diagnostics: &mut Vec<Diagnostic>) -> Option<FileProfile> {
    let tree = parsed(source, diagnostics)?;
    let tree = structure::check(source, "a profile", profile_schema(), tree, diagnostics)?;
    let keys = ["network", "files", "exec", "unix", "privileges"].map(|key| key_span(&tree, key));
    let model = match ProfileFile::deserialize(Reader(&tree)) {
        Ok(model) => model,
        Err(error) => {
            // Only if schema and model disagree. Refusing is then right.
            diagnostics.push(
                Diagnostic::error(
                    Code::WrongType,
                    source,
                    tree.span,
                    format!("can't read this profile: {error}"),
                )
                .hint("this is a mistake in agent-monitor, please report it with the profile"),
            );
            return None;
        }
    };
    Some(
        FileChecker {
            source,
            diagnostics,
            named_programs: Vec::new(),
            workspace_uses: Vec::new(),
            audited_paths: Vec::new(),
            audited_network: Vec::new(),
        }
        .profile(model, keys),
    )
}

/// The tree of a file; what is no YAML is reported.
pub(super) fn parsed(source: &Arc<SourceFile>, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    match tree::parse(source) {
        Ok(tree) => Some(tree),
        Err(SyntaxError { message, hint, over_budget, span }) => {
            let code = if over_budget { Code::TooComplex } else { Code::Syntax };
            diagnostics.push(Diagnostic::error(code, source, span, message).hint(hint));
            None
        }
    }
}

fn key_span(tree: &Node, name: &str) -> Option<Span> {
    let Value::Map(entries) = &tree.value else { return None };
    entries
        .iter()
        .find(|(key, _)| matches!(&key.value, Value::Text(text) if text == name))
        .map(|(key, _)| key.span)
}

struct FileChecker<'a> {
    source: &'a Arc<SourceFile>,
    diagnostics: &'a mut Vec<Diagnostic>,
    named_programs: Vec<Spanned<String>>,
    workspace_uses: Vec<Spanned<()>>,
    audited_paths: Vec<PathRule>,
    audited_network: Vec<Spanned<NetRule>>,
}

/// What any rule about paths may say.
#[derive(Default)]
struct RuleParts {
    path: Option<String>,
    exe: OneOrMany<Spanned<Program>>,
    except: OneOrMany<Spanned<Program>>,
    access: Vec<AccessWord>,
    expires: Option<Spanned<LeaseWord>>,
    audit: bool,
}

impl From<PathGlob> for RuleParts {
    fn from(PathGlob(glob): PathGlob) -> Self {
        RuleParts { path: Some(glob), ..RuleParts::default() }
    }
}

impl From<UnixGlob> for RuleParts {
    fn from(UnixGlob(glob): UnixGlob) -> Self {
        RuleParts { path: Some(glob), ..RuleParts::default() }
    }
}

impl From<GrantedPath> for RuleParts {
    fn from(rule: GrantedPath) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, expires: rule.expires, ..RuleParts::default() }
    }
}

impl From<GrantedSocket> for RuleParts {
    fn from(rule: GrantedSocket) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, expires: rule.expires, ..RuleParts::default() }
    }
}

impl From<DeniedFile> for RuleParts {
    fn from(rule: DeniedFile) -> Self {
        let path = rule.path.map(|path| path.value.0);
        let (access, audit) = (rule.access.0, rule.audit);
        RuleParts { path, exe: rule.exe, except: rule.except, access, audit, ..RuleParts::default() }
    }
}

impl From<DeniedProgram> for RuleParts {
    fn from(rule: DeniedProgram) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, except: rule.except, audit: rule.audit, ..RuleParts::default() }
    }
}

impl From<DeniedSocket> for RuleParts {
    fn from(rule: DeniedSocket) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, except: rule.except, audit: rule.audit, ..RuleParts::default() }
    }
}

impl From<AccessWord> for Right {
    fn from(word: AccessWord) -> Self {
        match word {
            AccessWord::Read => Right::Read,
            AccessWord::Write => Right::Write,
            AccessWord::Execute => Right::Execute,
        }
    }
}

/// The part of a rule's id that all rules of a file share.
fn rule_id(profile: &str, list: &str, index: usize) -> String {
    format!("{profile}:{list}[{index}]")
}

impl FileChecker<'_> {
    fn profile(
        &mut self,
        model: ProfileFile,
        [network_key, files_key, exec_key, unix_key, privileges_key]: [Option<Span>; 5],
    ) -> FileProfile {
        // A file without a name is refused; its rules are still checked.
        let name = model.name.as_ref().map_or("", |name| name.value.0.as_str()).to_owned();
        let network_root = network_key.or(model.name.as_ref().map(|name| name.span)).unwrap_or_default();
        let programs = model
            .programs
            .into_iter()
            .map(|(name, globs)| (name, globs.0.into_iter().map(|glob| glob.value.0).collect()))
            .collect();
        let mut pins_with_places = Vec::new();
        let mut profile = FileProfile {
            source: Arc::clone(self.source),
            name: model.name,
            description: model.description,
            is_abstract: model.is_abstract,
            extends: model.extends.0,
            mode: model.mode.map(|mode| Spanned { value: mode.value.into(), span: mode.span }),
            denied: None,
            claims: self.claims(&name, model.agents),
            allow: Vec::new(),
            deny: Vec::new(),
            listen: Vec::new(),
            audited: Vec::new(),
            audited_paths: Vec::new(),
            hosts_from: Vec::new(),
            sockets: SocketKinds::NONE,
            syscalls: self.syscalls(&name, model.syscalls),
            filesystem: model.files.map(|FilesSection { read, write, deny }| FilesPolicy {
                read: self.path_rules(&name, "files.read", read),
                write: self.path_rules(&name, "files.write", write),
                deny: self.path_rules(&name, "files.deny", deny),
                source: self.source.place(files_key.unwrap_or_default()),
            }),
            exec: model.exec.map(|ExecSection { allow, deny, pinned }| {
                let (pinned, with_places) = self.pinned(&name, pinned);
                let pins = with_places.iter().map(|pin| pin.value.clone()).collect();
                pins_with_places = with_places;
                ExecPolicy {
                    allow: self.path_rules(&name, "exec.allow", allow),
                    deny: self.path_rules(&name, "exec.deny", deny),
                    pinned,
                    pins,
                    source: self.source.place(exec_key.unwrap_or_default()),
                }
            }),
            unix: model.unix.map(|UnixSection { allow, deny }| UnixPolicy {
                allow: self.path_rules(&name, "unix.allow", allow),
                deny: self.path_rules(&name, "unix.deny", deny),
                source: self.source.place(unix_key.unwrap_or_default()),
            }),
            privileges: model
                .privileges
                .map(|section| FilePrivileges::of(section, privileges_key.unwrap_or_default())),
            notices: model.notices.map(|section| Notices {
                request: section.request.map(|text| text.chars().take(MAX_REQUEST).collect()),
            }),
            programs,
            workspace: model.workspace.0.into_iter().map(|glob| glob.value.0).collect(),
            workspace_uses: Vec::new(),
            named_programs: Vec::new(),
            pins: Vec::new(),
            network_root,
        };
        profile.pins = pins_with_places;
        if let Some(NetworkSection { denied, allow, hosts_from, deny, listen, sockets }) = model.network {
            profile.denied = denied.map(|denied| Spanned { value: denied.value.into(), span: denied.span });
            profile.allow = self.peer_rules(&name, "network.allow", allow);
            profile.deny = self.peer_rules(&name, "network.deny", deny);
            profile.listen = self.listen_rules(&name, listen);
            profile.hosts_from = hosts_from.0;
            profile.sockets = sockets.into_iter().collect();
        }
        profile.audited = std::mem::take(&mut self.audited_network);
        profile.audited_paths = std::mem::take(&mut self.audited_paths);
        profile.named_programs = std::mem::take(&mut self.named_programs);
        profile.workspace_uses = std::mem::take(&mut self.workspace_uses);
        profile
    }

    fn claims(&self, profile: &str, agents: Vec<Spanned<AgentClaim>>) -> Vec<Spanned<Claim>> {
        let mut claims = Vec::new();
        for (index, agent) in agents.into_iter().enumerate() {
            let item = rule_id(profile, "agents", index);
            let exes =
                agent.value.exe.0.into_iter().map(|glob| (glob.span, "exe", ClaimKind::Exe(glob.value.0)));
            let cgroups = agent
                .value
                .cgroup
                .0
                .into_iter()
                .map(|glob| (glob.span, "cgroup", ClaimKind::Cgroup(glob.value.0)));
            for (position, (span, key, what)) in exes.chain(cgroups).enumerate() {
                let id = format!("{item}.{key}[{position}]");
                claims.push(Spanned { value: Claim { id, source: self.source.place(span), what }, span });
            }
        }
        claims
    }

    fn path_rules<M: Into<RuleParts>, G: Into<RuleParts>>(
        &mut self,
        profile: &str,
        list: &str,
        items: Vec<Spanned<PathItem<M, G>>>,
    ) -> Vec<PathRule> {
        let rules = items.into_iter().enumerate().filter_map(|(index, item)| {
            let parts = match item.value {
                PathItem::Glob(glob) => glob.into(),
                PathItem::Rule(rule) => rule.into(),
            };
            if let Some(glob) = &parts.path
                && matches!(globs::variable_of(glob), Some((Variable::Workspace, _)))
            {
                self.workspace_uses.push(Spanned { value: (), span: item.span });
            }
            let mut programs = self.condition(parts.exe, parts.except);
            programs.until = self.lease(parts.expires.as_ref()).ok()?;
            let access = (!parts.access.is_empty())
                .then(|| parts.access.iter().fold(0, |all, word| all | Right::from(*word) as Rights));
            let rule = PathRule {
                id: rule_id(profile, list, index),
                source: self.source.place(item.span),
                // Missing only if that was reported.
                glob: parts.path?,
                programs,
                access,
            };
            if parts.audit {
                let of_list = match list {
                    "exec.deny" => Right::Execute as Rights,
                    "unix.deny" => Right::Connect as Rights,
                    _ => ALL_RIGHTS,
                };
                self.audited_paths.push(PathRule { access: Some(access.unwrap_or(of_list)), ..rule });
                return None;
            }
            Some(rule)
        });
        rules.collect()
    }

    /// What a rule asks of the program. Names are looked up when the whole chain is known.
    fn condition(
        &mut self,
        exe: OneOrMany<Spanned<Program>>,
        except: OneOrMany<Spanned<Program>>,
    ) -> Condition {
        for program in exe.0.iter().chain(&except.0) {
            if let ProgramRef::Name(name) = &program.value.0 {
                self.named_programs.push(Spanned { value: name.clone(), span: program.span });
            }
        }
        let refs = |programs: OneOrMany<Spanned<Program>>| {
            programs.0.into_iter().map(|program| program.value.0).collect()
        };
        Condition { exe: refs(exe), except: refs(except), until: None }
    }

    /// When a grant ends; `Err`: it has, so there is no such rule.
    fn lease(&mut self, expires: Option<&Spanned<LeaseWord>>) -> Result<Option<Timestamp>, Lapsed> {
        let Some(Spanned { value: LeaseWord(lease), span }) = expires else { return Ok(None) };
        let now = SystemTime::now();
        let end = lease.end(self.source.written, now);
        if Timestamp::try_from(now).is_ok_and(|now| now < end) {
            return Ok(Some(end));
        }
        self.diagnostics.push(
            Diagnostic::warning(Code::Lapsed, self.source, *span, format!("this grant ended at {end:.0}"))
                .hint("remove the rule; or save the file again, or write a later moment, to grant it anew"),
        );
        Err(Lapsed)
    }

    /// The rules and the contents of pinned programs.
    fn pinned(
        &self,
        profile: &str,
        programs: Vec<Spanned<PinnedProgram>>,
    ) -> (Vec<PathRule>, Vec<Spanned<Pin>>) {
        let whole = programs.into_iter().enumerate().filter_map(|(index, Spanned { value, span })| {
            // What is missing was reported.
            let (path, sha256) = (value.path?.value.0, value.sha256?.value.0);
            let rule = PathRule {
                id: rule_id(profile, "exec.pinned", index),
                source: self.source.place(span),
                glob: path.clone(),
                programs: Condition::default(),
                access: None,
            };
            Some((rule, Spanned { value: Pin { path, sha256 }, span }))
        });
        whole.unzip()
    }

    fn peer_rules(
        &mut self,
        profile: &str,
        list: &str,
        rules: Vec<Spanned<PeerRule>>,
    ) -> Vec<Spanned<NetRule>> {
        let mut resolved = Vec::with_capacity(rules.len());
        for (index, Spanned { value: rule, span }) in rules.into_iter().enumerate() {
            for address in &rule.address.0 {
                self.warn_if_unspecified(address.value.0, address.span);
            }
            let nets = rule.cidr.0.iter().map(|cidr| cidr.0);
            let addresses = rule.address.0.iter().map(|address| IpNet::from(address.value.0));
            if rule.protocol.0.contains(&ProtocolWord::Icmp)
                && let Some(ports) = &rule.ports
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::PortsWithoutTransport,
                        self.source,
                        ports.span,
                        "`icmp` has no ports",
                    )
                    .hint(
                        "write two rules: one for `icmp` without `ports`, one for the protocols with ports",
                    ),
                );
            }
            if let Some(except) = rule.except.0.first()
                && list != "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::ExceptOnGrant,
                        self.source,
                        except.span,
                        "`except` belongs to a `deny`: a grant has no exceptions",
                    )
                    .hint("name the programs that the grant is for under `exe`, or write a `deny` with `except`"),
                );
            }
            if let Some(host) = rule.host.0.first()
                && list == "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::HostOnDeny,
                        self.source,
                        host.span,
                        "`host` belongs to an `allow`: a name that no rule allows does not exist",
                    )
                    .hint("leave the name out of `allow`; what answers to it may answer to other names too, so deny its addresses only by `cidr`"),
                );
            }
            if let Some(expires) = &rule.expires
                && list == "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::LeaseOnDeny,
                        self.source,
                        expires.span,
                        "`expires` belongs to an `allow`: a denial does not end by itself",
                    )
                    .hint("remove it, and the rule when its time has come"),
                );
            }
            if let Some(audit) = rule.audit.as_ref().filter(|audit| audit.value)
                && list != "network.deny"
            {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::AuditOnGrant,
                        self.source,
                        audit.span,
                        "`audit` belongs to a `deny`: it tries a denial out",
                    )
                    .hint("remove it; whether a grant is used says `agent-monitor unused`"),
                );
            }
            let audited = rule.audit.as_ref().is_some_and(|audit| audit.value);
            let sni = rule.sni.as_ref().is_some_and(|sni| self.sni(sni, &rule, list));
            let hosts: Vec<HostPattern> = rule.host.0.into_iter().map(|host| host.value.0).collect();
            let protocols = rule.protocol.0.iter().map(|&word| ProtocolSet::from(word));
            let mut programs = self.condition(rule.exe, rule.except);
            if list != "network.deny" {
                let Ok(until) = self.lease(rule.expires.as_ref()) else { continue };
                programs.until = until;
            }
            let rules = if audited { &mut self.audited_network } else { &mut resolved };
            rules.push(Spanned {
                value: NetRule {
                    programs,
                    id: rule_id(profile, list, index),
                    source: self.source.place(span),
                    nets: nets.chain(addresses).collect(),
                    hosts,
                    sni,
                    ports: port_ranges(rule.ports.map(|ports| ports.value)),
                    protocols: protocols_or_tcp(protocols),
                },
                span,
            });
        }
        resolved
    }

    /// Whether a rule looks at hellos; `require` is all that it can say. It is about TCP flows that a name grants, and
    /// nothing else of a rule may look as if it were about more.
    fn sni(&mut self, sni: &Spanned<SniWord>, rule: &PeerRule, list: &str) -> bool {
        let SniWord::Require = sni.value;
        let (message, hint) = if list == "network.deny" {
            ("`sni` belongs to an `allow`", "remove it: a `deny` has no names")
        } else if rule.host.0.is_empty() {
            (
                "`sni` is about names, and this rule has no `host`",
                "add the names that TLS clients may say under `host`, or remove `sni`",
            )
        } else if !rule.cidr.0.is_empty() || !rule.address.0.is_empty() {
            (
                "`sni` would not hold for the addresses of this rule: they are granted by number",
                "write two rules: one with `host` and `sni`, one with `cidr` or `address`",
            )
        } else if rule.protocol.0.iter().any(|&word| word != ProtocolWord::Tcp) {
            (
                "`sni` is about TLS over TCP: of QUIC and other protocols the name can't be read",
                "write two rules: one for `tcp` with `sni`, one for the other protocols without",
            )
        } else {
            return true;
        };
        self.diagnostics
            .push(Diagnostic::error(Code::SniMisplaced, self.source, sni.span, message).hint(hint));
        false
    }

    fn warn_if_unspecified(&mut self, address: IpAddr, span: Span) {
        if !address.is_unspecified() {
            return;
        }
        let every = if address.is_ipv4() { "0.0.0.0/0" } else { "\"::/0\"" };
        self.diagnostics.push(
            Diagnostic::warning(
                Code::UnspecifiedAddress,
                self.source,
                span,
                format!("`{address}` is one address here, not every address"),
            )
            .hint(format!(
                "for every address write `cidr: {every}`; to mean this host, write its loopback address"
            )),
        );
    }

    fn listen_rules(&mut self, profile: &str, rules: Vec<Spanned<ListenRule>>) -> Vec<Spanned<NetRule>> {
        let mut resolve = |(index, Spanned { value: rule, span }): (usize, Spanned<ListenRule>)| {
            let mut programs = self.condition(rule.exe, OneOrMany::default());
            programs.until = self.lease(rule.expires.as_ref()).ok()?;
            let protocols = rule.protocol.0.iter().map(|&word| ProtocolSet::from(word));
            let nets: Vec<IpNet> = rule.address.0.iter().flat_map(|address| listen_nets(address.0)).collect();
            Some(Spanned {
                value: NetRule {
                    programs,
                    id: rule_id(profile, "network.listen", index),
                    source: self.source.place(span),
                    nets: if nets.is_empty() { loopback() } else { nets },
                    hosts: Vec::new(),
                    sni: false,
                    ports: port_ranges(rule.ports),
                    protocols: protocols_or_tcp(protocols),
                },
                span,
            })
        };
        rules.into_iter().enumerate().filter_map(&mut resolve).collect()
    }

    fn syscalls(&self, profile: &str, section: Option<SyscallSection>) -> Vec<SyscallRule> {
        let Some(SyscallSection { watch, kill }) = section else { return Vec::new() };
        let source = self.source;
        let rules = |list: &'static str, calls: Vec<Spanned<Syscall>>| {
            calls.into_iter().enumerate().map(move |(index, call)| SyscallRule {
                id: rule_id(profile, list, index),
                source: source.place(call.span),
                name: syscalls::name(call.value.0).unwrap_or_default().to_owned(),
                nr: call.value.0,
                kill: list == "syscalls.kill",
            })
        };
        rules("syscalls.watch", watch).chain(rules("syscalls.kill", kill)).collect()
    }
}

/// The time of a grant is over.
struct Lapsed;

/// Sorted, joined where ranges overlap or touch; every port if none is given.
fn port_ranges(ports: Option<OneOrMany<Ports>>) -> Vec<RangeInclusive<u16>> {
    let Some(OneOrMany(mut ports)) = ports else { return vec![0..=u16::MAX] };
    ports.sort_by_key(|range| *range.0.start());
    let mut joined: Vec<RangeInclusive<u16>> = Vec::with_capacity(ports.len());
    for Ports(range) in ports {
        match joined.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

fn protocols_or_tcp(words: impl Iterator<Item = ProtocolSet>) -> ProtocolSet {
    let set = words.fold(ProtocolSet::EMPTY, ProtocolSet::union);
    if set.is_empty() { ProtocolSet::of(Protocol::Tcp) } else { set }
}

fn loopback() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    ]
}

/// The local addresses that a listen rule's `address` stands for.
fn listen_nets(address: IpAddr) -> Vec<IpNet> {
    let any_v4 = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let any_v6 = IpNet::from(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![any_v4],
        // A socket bound to `::` takes IPv4 connections too.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![any_v4, any_v6],
        one => vec![one.into()],
    }
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Learn => Self::Learn,
            ModeWord::Audit => Self::Audit,
            ModeWord::Enforce => Self::Enforce,
        }
    }
}

impl From<DeniedWord> for Denied {
    fn from(word: DeniedWord) -> Self {
        match word {
            DeniedWord::Unreachable => Self::Unreachable,
            DeniedWord::Refused => Self::Refused,
            DeniedWord::Denied => Self::Denied,
            DeniedWord::NotPermitted => Self::NotPermitted,
        }
    }
}

impl From<PtraceWord> for Targets {
    fn from(word: PtraceWord) -> Self {
        match word {
            PtraceWord::None => Self::None,
            PtraceWord::Own => Self::Own,
            PtraceWord::Any => Self::Any,
        }
    }
}

impl From<SignalsWord> for Targets {
    fn from(word: SignalsWord) -> Self {
        match word {
            SignalsWord::Own => Self::Own,
            SignalsWord::Any => Self::Any,
        }
    }
}

impl From<ProtocolWord> for ProtocolSet {
    fn from(word: ProtocolWord) -> Self {
        match word {
            ProtocolWord::Tcp => Self::of(Protocol::Tcp),
            ProtocolWord::Udp => Self::of(Protocol::Udp),
            ProtocolWord::Icmp => Self::of(Protocol::Icmp),
            ProtocolWord::Any => Self::ANY,
        }
    }
}

impl From<ListenProtocolWord> for ProtocolSet {
    fn from(word: ListenProtocolWord) -> Self {
        match word {
            ListenProtocolWord::Tcp => Self::of(Protocol::Tcp),
            ListenProtocolWord::Udp => Self::of(Protocol::Udp),
            ListenProtocolWord::Any => Self::ANY,
        }
    }
}
