//! One profile file: from text to values, with every problem of that file.
//!
//! Called by the loader for each file of an `extends` chain. The checks that
//! need other files (bases, modes, rules that cover each other) are the
//! loader's.

mod network;
mod paths;

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Deserialize;

use super::diagnostic::{Code, Diagnostic};
use super::hosts_from::Manager;
use super::model::{
    AgentClaim, BaseName, DeniedWord, ExecSection, FilesSection, LeaseWord, ModeWord, Name, NetworkSection,
    OneOrMany, PrivilegesSection, ProfileFile, Program, PtraceWord, SignalsWord, Spanned, Syscall,
    SyscallSection, UnixSection,
};
use super::programs::{Condition, ProgramRef, Programs};
use super::reader::Reader;
use super::resolved::{
    Claim, ClaimKind, Denied, ExecPolicy, FilesPolicy, Mode, NetRule, Notices, PathRule, Pin, SyscallRule,
    Targets, UnixPolicy,
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
