//! Test cases of a profile: what it must allow and what it must deny, in a file beside it.
//!
//! Read and checked as profiles are (the same YAML, the same diagnostics), judged by [`Judge`], so by what the kernel
//! gets. Called by `agent-monitor test`; the shipped profiles have such files in `policies/tests`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_monitor_common::path::Right;
use agent_monitor_common::request::Protocol;
use schemars::JsonSchema;
use serde::Deserialize;

use super::check::parsed;
use super::diagnostic::{Code, Diagnostic, ProfileErrors};
use super::judge::{Answer, BadRequest, Disagreement, Effect, Judge, Request};
use super::model::{OneOrMany, Spanned};
use super::reader::Reader;
use super::schema::case_schema;
use super::source::{SourceFile, Span};
use super::structure;

/// Test cases of a profile: requests, and what it must say to them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "agent-monitor test cases")]
pub struct CaseFile {
    /// The profile: a file, from the directory of this one, or the name of a
    /// profile of this host.
    #[schemars(required)]
    pub profile: Option<Spanned<String>>,
    /// The homes that `~` stands for, in the profile and in the cases. Left out:
    /// those of this host's users, so that the outcome depends on the host.
    #[serde(default)]
    pub homes: OneOrMany<String>,
    /// The cases; each asks one or more requests that have one outcome.
    #[schemars(required)]
    #[serde(default)]
    pub cases: Vec<Spanned<Case>>,
}

/// Requests of one program, and their outcome.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case is about, for whoever reads that it failed.
    pub name: Option<String>,
    /// The outcome of every request of the case. In the modes `audit` and `learn`
    /// nothing is denied; what is meant is what `enforce` would do.
    #[schemars(required)]
    pub expect: Option<Expected>,
    /// The id of the rule that must decide, for example `base:files.deny[0]`.
    pub rule: Option<String>,
    /// The executable of the program that asks. Left out: one that no rule names.
    pub exe: Option<String>,
    /// Of `connect` and `listen`; `tcp` unless said.
    pub protocol: Option<CaseProtocol>,
    /// Paths to open for reading; one that ends in `/` is a directory to list.
    #[serde(default)]
    pub read: OneOrMany<Spanned<String>>,
    /// Paths to write, create, remove or rename.
    #[serde(default)]
    pub write: OneOrMany<Spanned<String>>,
    /// Paths of programs and libraries to execute.
    #[serde(default)]
    pub execute: OneOrMany<Spanned<String>>,
    /// Destinations: `HOST:PORT`, a name or an address.
    #[serde(default)]
    pub connect: OneOrMany<Spanned<String>>,
    /// Local ports: `PORT` on 127.0.0.1, or `ADDRESS:PORT`.
    #[serde(default)]
    pub listen: OneOrMany<Spanned<String>>,
    /// Unix sockets to connect to: a path, or `@` and an abstract name.
    #[serde(default)]
    pub unix: OneOrMany<Spanned<String>>,
    /// Kinds of sockets: `raw`, `netlink` …
    #[serde(default)]
    pub socket: OneOrMany<Spanned<String>>,
    /// Capabilities to use.
    #[serde(default)]
    pub capability: OneOrMany<Spanned<String>>,
    /// Other privileges: `ptrace`, `own-ptrace`, `mount`, `bpf` …
    #[serde(default)]
    pub privilege: OneOrMany<Spanned<String>>,
    /// System calls to make.
    #[serde(default)]
    pub syscall: OneOrMany<Spanned<String>>,
}

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    Allow,
    Deny,
    /// Of a system call: its caller is killed.
    Kill,
}

impl From<Expected> for Effect {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Allow => Effect::Allow,
            Expected::Deny => Effect::Deny,
            Expected::Kill => Effect::Kill,
        }
    }
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaseProtocol {
    Tcp,
    Udp,
    Icmp,
}

/// A file of cases, ready to be asked.
#[derive(Debug)]
pub struct Cases {
    source: Arc<SourceFile>,
    /// As it is written.
    pub profile: String,
    /// `None`: those of the host.
    pub homes: Option<Vec<PathBuf>>,
    pub asked: Vec<Asked>,
    /// How many cases they are of.
    pub count: usize,
}

/// One request of a case.
#[derive(Debug)]
pub struct Asked {
    span: Span,
    pub case: Option<String>,
    pub request: Request,
    pub exe: Option<String>,
    pub expected: Effect,
    pub rule: Option<String>,
}

/// Reads a file of cases.
///
/// # Errors
/// Every mistake in it, with its place.
pub fn load(path: &Path) -> Result<Cases, ProfileErrors> {
    let source = match SourceFile::read(path) {
        Ok(source) => Arc::new(source),
        Err(error) => {
            return Err(ProfileErrors(vec![
                Diagnostic::of_file(Code::Unreadable, path, error.to_string())
                    .hint("check that the path is right and that the file may be read"),
            ]));
        }
    };
    let mut diagnostics = Vec::new();
    let cases = read(&source, &mut diagnostics);
    match cases {
        Some(cases) if diagnostics.is_empty() => Ok(cases),
        _ => Err(ProfileErrors(diagnostics)),
    }
}

fn read(source: &Arc<SourceFile>, diagnostics: &mut Vec<Diagnostic>) -> Option<Cases> {
    let tree = parsed(source, diagnostics)?;
    let tree = structure::check(source, "a file of test cases", case_schema(), tree, diagnostics)?;
    let file = match CaseFile::deserialize(Reader(&tree)) {
        Ok(file) => file,
        Err(error) => {
            let message = format!("can't read these cases: {error}");
            diagnostics.push(
                Diagnostic::error(Code::WrongType, source, tree.span, message)
                    .hint("this is a mistake in agent-monitor, please report it with the file"),
            );
            return None;
        }
    };
    let homes: Vec<PathBuf> = file.homes.0.iter().map(PathBuf::from).collect();
    let mut cases = Cases {
        source: Arc::clone(source),
        profile: file.profile?.value,
        homes: (!homes.is_empty()).then_some(homes),
        asked: Vec::new(),
        count: file.cases.len(),
    };
    let homes = cases.homes.clone().unwrap_or_else(super::homes::of_host);
    for case in file.cases {
        let before = cases.asked.len() + diagnostics.len();
        requests(&case, &homes, &mut |span, request| match request {
            Ok(request) => cases.asked.push(Asked {
                span,
                case: case.value.name.clone(),
                request,
                exe: case.value.exe.clone(),
                expected: case.value.expect.map_or(Effect::Deny, Effect::from),
                rule: case.value.rule.clone(),
            }),
            Err(BadRequest(message)) => diagnostics.push(
                Diagnostic::error(Code::BadRequest, source, span, message)
                    .hint("a case asks about one object by its whole name, never by a pattern"),
            ),
        });
        if cases.asked.len() + diagnostics.len() == before {
            diagnostics.push(
                Diagnostic::error(Code::BadRequest, source, case.span, "this case asks nothing")
                    .hint("add `read`, `write`, `execute`, `connect`, `listen`, `unix`, `socket`, `capability`, `privilege` or `syscall`"),
            );
        }
    }
    Some(cases)
}

/// Every request of a case; of a path below `~` one for each home.
fn requests(
    case: &Spanned<Case>,
    homes: &[PathBuf],
    each: &mut impl FnMut(Span, Result<Request, BadRequest>),
) {
    let Case { read, write, execute, connect, listen, unix, socket, capability, privilege, syscall, .. } =
        &case.value;
    let protocol = match case.value.protocol {
        None | Some(CaseProtocol::Tcp) => Protocol::Tcp,
        Some(CaseProtocol::Udp) => Protocol::Udp,
        Some(CaseProtocol::Icmp) => Protocol::Icmp,
    };
    for (list, right) in [(read, Right::Read), (write, Right::Write), (execute, Right::Execute)] {
        for item in &list.0 {
            for path in at_home(&item.value, homes) {
                each(item.span, Request::path(path.as_bytes(), right as u32));
            }
        }
    }
    for item in &unix.0 {
        for path in at_home(&item.value, homes) {
            each(item.span, Request::unix(path.as_bytes()));
        }
    }
    type Read = fn(&str, Protocol) -> Result<Request, BadRequest>;
    let lists: [(_, Read); 6] = [
        (connect, Request::connect),
        (listen, Request::listen),
        (socket, |word, _| Request::socket(word)),
        (capability, |word, _| Request::capability(word)),
        (privilege, |word, _| Request::privilege(word)),
        (syscall, |word, _| Request::syscall(word)),
    ];
    for (list, read) in lists {
        for item in &list.0 {
            each(item.span, read(&item.value, protocol));
        }
    }
}

fn at_home(path: &str, homes: &[PathBuf]) -> Vec<String> {
    match path.strip_prefix("~/") {
        Some(rest) => homes.iter().map(|home| home.join(rest).to_string_lossy().into_owned()).collect(),
        None => vec![path.to_owned()],
    }
}

impl Cases {
    /// Asks every request; what came out otherwise than expected, as a person reads it.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn failures(&self, judge: &Judge) -> Result<Vec<Diagnostic>, Disagreement> {
        let mut failures = Vec::new();
        for asked in &self.asked {
            let answer =
                judge.ask(judge.class_of(asked.exe.as_deref().map(str::as_bytes)), &asked.request)?;
            failures.extend(self.failure(asked, &answer));
        }
        Ok(failures)
    }

    fn failure(&self, asked: &Asked, answer: &Answer) -> Option<Diagnostic> {
        let decided = answer.rule.as_ref();
        let by = decided.map_or_else(String::new, |(id, source)| format!(", by `{id}` ({source})"));
        let wrong = if answer.effect != asked.expected {
            format!(
                "expected {}, but the profile says {}{by}",
                asked.expected.as_str(),
                answer.effect.as_str()
            )
        } else {
            let wanted = asked.rule.as_ref().filter(|&id| decided.is_none_or(|(found, _)| found != id))?;
            format!(
                "expected `{wanted}` to decide, but the answer {} comes otherwise{by}",
                answer.effect.as_str()
            )
        };
        let by_whom = asked.exe.as_ref().map(|exe| format!(" by {exe}")).unwrap_or_default();
        let message = format!("{}{by_whom}: {wrong}", asked.request);
        let diagnostic = Diagnostic::error(Code::CaseFailed, &self.source, asked.span, message);
        let diagnostic = match &asked.case {
            Some(name) => diagnostic.here(name.clone()),
            None => diagnostic,
        };
        Some(diagnostic.hint("`agent-monitor explain` says why, and what else speaks of it"))
    }
}
