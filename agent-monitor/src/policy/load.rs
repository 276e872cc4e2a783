//! Profiles from files: bases found, everything merged, every problem of the
//! whole chain reported at once.
//!
//! The daemon, `run`, `check` and tests load profiles here. Nothing is cached
//! between calls: a reload reads every file anew.
//!
//! How a chain is merged: rules, claims, socket kinds and system calls add up;
//! of a single value (`mode`, `network.denied`) the nearest file's counts, and
//! two bases that disagree about one are an error, so that the order under
//! `extends` never matters. A `workspace` takes the place of those of the bases,
//! which add up. A base reached by two ways counts once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::at_once;
use super::check::{FileProfile, check_file};
use super::diagnostic::{Code, Diagnostic, MAX_REPORTED, ProfileErrors, Severity, nearest, quoted};
use super::hosts_from::Host;
use super::merge::{self, Chain};
use super::programs::Programs;
use super::resolved::{
    ExecPolicy, FilesPolicy, NetworkPolicy, PathRule, PrivilegesPolicy, ResolvedProfile, SyscallRule,
    UnixPolicy,
};
use super::source::{ReadError, SourceFile, Span};

/// Most files in one chain; also bounds the recursion over it.
const MAX_FILES: usize = 32;
/// File name extensions of profiles, in the order they are tried.
pub const EXTENSIONS: [&str; 2] = ["yaml", "yml"];

/// Where bases are looked up on an installed host, in order: the host's own
/// profiles, then the shipped ones.
pub const DEFAULT_DIRECTORIES: [&str; 2] =
    ["/etc/agent-monitor/profiles.d", "/usr/share/agent-monitor/policies"];

/// A profile that can be used, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub profile: ResolvedProfile,
    pub warnings: Vec<Diagnostic>,
}

/// A base that was checked for itself (`abstract: true`).
#[derive(Clone, Debug)]
pub struct Base {
    pub name: String,
    pub file: Arc<Path>,
    /// Every file that took part, `file` first.
    pub files: Vec<Arc<Path>>,
    pub description: Option<String>,
    /// How many claims, with those of its own bases; so are the rules.
    pub claims: usize,
    pub programs: Programs,
    pub network: NetworkPolicy,
    pub filesystem: Option<FilesPolicy>,
    pub exec: Option<ExecPolicy>,
    pub unix: Option<UnixPolicy>,
    pub privileges: Option<PrivilegesPolicy>,
    /// Denials of paths that are tried out.
    pub audited: Vec<PathRule>,
    pub syscalls: Vec<SyscallRule>,
    pub warnings: Vec<Diagnostic>,
}

/// What a sound profile file turned out to be.
#[derive(Clone, Debug)]
pub enum Checked {
    Profile(Box<Loaded>),
    Base(Box<Base>),
}

/// Loads the profile in `path`. Bases are looked up beside the file that names
/// them, then in the directories of `search`, in order.
///
/// # Errors
/// Every problem of every file of the chain; a base (`abstract: true`) is not a
/// profile to use.
pub fn load_profile(path: &Path, search: &[PathBuf]) -> Result<Loaded, ProfileErrors> {
    match check_profile(path, search)? {
        Checked::Profile(loaded) => Ok(*loaded),
        Checked::Base(base) => {
            let message = format!("{} is only a base (`abstract: true`)", quoted(&base.name));
            Err(ProfileErrors(vec![
                Diagnostic::of_file(Code::Abstract, path, message)
                    .hint("write a profile that names it under `extends`, and use that one"),
            ]))
        }
    }
}

/// Checks the profile or base in `path`, like [`load_profile`].
///
/// # Errors
/// Every problem of every file of the chain.
pub fn check_profile(path: &Path, search: &[PathBuf]) -> Result<Checked, ProfileErrors> {
    check_profile_on(&Host::this(), path, search)
}

/// Checks the profile or base in `path` for another host: its homes and its package managers.
///
/// # Errors
/// Every problem of every file of the chain.
pub fn check_profile_on(host: &Host, path: &Path, search: &[PathBuf]) -> Result<Checked, ProfileErrors> {
    check(host, path, search, |chain, _| (chain.map_or_else(Vec::new, Chain::remarks), ())).map(|of| of.0)
}

/// Checks the profile or base in `path` like [`check_profile`], and meanwhile does something with the profile: which
/// rules can never matter is looked for on another thread, which also hands each of those to `remarked`. `None`: it is
/// a base.
///
/// # Errors
/// Every problem of every file of the chain.
pub fn check_profile_while<R>(
    path: &Path,
    search: &[PathBuf],
    meanwhile: impl FnOnce(&ResolvedProfile) -> R,
    remarked: impl Fn(&Diagnostic) + Sync,
) -> Result<(Checked, Option<R>), ProfileErrors> {
    check(&Host::this(), path, search, |chain, profile| {
        let done = || profile.map(meanwhile);
        let Some(chain) = chain else { return (Vec::new(), done()) };
        let (done, remarks) = at_once::both(done, || {
            let remarks = chain.remarks();
            remarks.iter().for_each(&remarked);
            remarks
        });
        (remarks, done)
    })
}

/// `remark` gets the chain where it is sound, and the profile where there is one without mistakes; it returns what is odd
/// about the chain's rules.
fn check<R>(
    host: &Host,
    path: &Path,
    search: &[PathBuf],
    remark: impl FnOnce(Option<&Chain>, Option<&ResolvedProfile>) -> (Vec<Diagnostic>, R),
) -> Result<(Checked, R), ProfileErrors> {
    let mut loader = Loader { search, files: Vec::new(), seen: HashMap::new(), diagnostics: Vec::new() };
    loader.file(path, None, &mut Vec::new());
    let Loader { files, mut diagnostics, .. } = loader;
    let order: HashMap<Arc<Path>, usize> =
        files.iter().enumerate().map(|(index, file)| (Arc::clone(&file.source.path), index)).collect();
    let faulty = |diagnostics: &[Diagnostic]| diagnostics.iter().any(Diagnostic::is_error);
    let sound = !faulty(&diagnostics);
    let chain = Chain::new(files);
    let merged = chain.as_ref().and_then(|chain| merge::merge(chain, host, &mut diagnostics));
    let failed = faulty(&diagnostics);
    let profile = match &merged {
        Some(Checked::Profile(loaded)) if !failed => Some(&loaded.profile),
        _ => None,
    };
    // What is taken out of a faulty profile could make another rule look useless.
    let (remarks, done) = remark(chain.as_ref().filter(|_| sound), profile);
    diagnostics.extend(remarks);
    tidy(&mut diagnostics, &order);
    shorten(&mut diagnostics, path);
    match merged {
        Some(mut checked) if !failed => {
            match &mut checked {
                Checked::Profile(loaded) => loaded.warnings = diagnostics,
                Checked::Base(base) => base.warnings = diagnostics,
            }
            Ok((checked, done))
        }
        _ => Err(ProfileErrors(diagnostics)),
    }
}

/// Keeps at most [`MAX_REPORTED`] problems, errors before warnings, and says so.
fn shorten(diagnostics: &mut Vec<Diagnostic>, path: &Path) {
    // At exactly this many the structure check stopped.
    if diagnostics.len() < MAX_REPORTED {
        return;
    }
    let severity =
        if diagnostics.iter().any(Diagnostic::is_error) { Severity::Error } else { Severity::Warning };
    diagnostics.retain(|diagnostic| diagnostic.severity == severity);
    if diagnostics.len() >= MAX_REPORTED {
        diagnostics.truncate(MAX_REPORTED);
        let message = format!("only the first {MAX_REPORTED} problems are listed");
        let rest = Diagnostic::of_file(Code::TooManyMistakes, path, message);
        diagnostics.push(Diagnostic { severity, ..rest }.hint("correct these and check again"));
    }
}

/// Sorts by file and place, and drops repeats: a value behind a YAML alias is
/// checked wherever it is used.
fn tidy(diagnostics: &mut Vec<Diagnostic>, order: &HashMap<Arc<Path>, usize>) {
    let place = |diagnostic: &Diagnostic| {
        let file = order.get(&diagnostic.file).copied().unwrap_or(usize::MAX);
        (file, diagnostic.labels.first().map_or(0, |label| label.span.start))
    };
    diagnostics.sort_by_key(place);
    diagnostics.dedup_by(|a, b| place(a) == place(b) && a.code == b.code && a.message == b.message);
}

struct Loader<'a> {
    search: &'a [PathBuf],
    /// In the order they were first reached; the profile itself first.
    files: Vec<LinkedFile>,
    /// By canonical path: the index in `files`, or `None` for a file that is not
    /// even a mapping (which was reported).
    seen: HashMap<PathBuf, Option<usize>>,
    diagnostics: Vec<Diagnostic>,
}

/// A file with the bases it names, as indices into the list of files.
#[derive(Debug)]
pub struct LinkedFile {
    pub profile: FileProfile,
    pub source: Arc<SourceFile>,
    pub bases: Vec<(usize, Span)>,
}

/// A file on the way to the one being loaded.
struct Visit {
    canonical: PathBuf,
    shown: PathBuf,
}

impl Loader<'_> {
    /// Loads `path` and its bases. `from` is the `extends` item that names it.
    fn file(
        &mut self,
        path: &Path,
        from: Option<(&Arc<SourceFile>, Span)>,
        way: &mut Vec<Visit>,
    ) -> Option<usize> {
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(start) = way.iter().position(|visit| visit.canonical == canonical) {
            if let Some((source, span)) = from {
                let circle = way[start..].iter().map(|visit| visit.shown.as_path()).chain([path]);
                let circle: Vec<String> = circle.map(|path| path.display().to_string()).collect();
                self.diagnostics.push(
                    Diagnostic::error(Code::Cycle, source, span, "this base extends itself")
                        .here(format!("leads back to {}", path.display()))
                        .hint(format!("the way round is {}: take one step out", circle.join(" → "))),
                );
            }
            return None;
        }
        if let Some(&known) = self.seen.get(&canonical) {
            return known;
        }
        self.seen.insert(canonical.clone(), None);
        let source = Arc::new(self.read(path, from)?);
        let profile = check_file(&source, &mut self.diagnostics)?;
        let index = self.files.len();
        let extends: Vec<(String, Span)> =
            profile.extends.iter().map(|base| (base.value.0.clone(), base.span)).collect();
        self.files.push(LinkedFile { profile, source: Arc::clone(&source), bases: Vec::new() });
        self.seen.insert(canonical.clone(), Some(index));
        way.push(Visit { canonical, shown: path.to_path_buf() });
        let mut bases = Vec::new();
        for (name, span) in extends {
            // Only errors end this early: a base must never be left out silently.
            if self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count() >= MAX_REPORTED {
                break;
            }
            if self.seen.len() >= MAX_FILES {
                self.diagnostics.push(
                    Diagnostic::error(Code::TooManyBases, &source, span, "this profile has too many bases")
                        .hint(format!(
                            "a chain may have {MAX_FILES} files: put rules together in fewer bases"
                        )),
                );
                break;
            }
            let Some(base) = self.find(&name, path) else {
                self.unknown_base(&name, span, path, &source);
                continue;
            };
            if let Some(base) = self.file(&base, Some((&source, span)), way) {
                bases.push((base, span));
            }
        }
        way.pop();
        self.files[index].bases = bases;
        Some(index)
    }

    fn read(&mut self, path: &Path, from: Option<(&Arc<SourceFile>, Span)>) -> Option<SourceFile> {
        let error = match SourceFile::read(path) {
            Ok(source) => return Some(source),
            Err(error) => error,
        };
        let message = error.to_string();
        let mut diagnostic = match error {
            ReadError::Io(_) => Diagnostic::of_file(Code::Unreadable, path, message)
                .hint("check that the path is right and that the file may be read"),
            ReadError::TooLarge => Diagnostic::of_file(Code::TooLarge, path, message)
                .hint("split it: put rules that belong together in a base and name it under `extends`"),
            ReadError::NotUtf8 { valid } => {
                let end = valid.len();
                let source = Arc::new(SourceFile::new(path.into(), valid));
                Diagnostic::error(Code::NotUtf8, &source, Span { start: end, end }, message)
                    .here("the first byte that is not text")
                    .hint("save the file as UTF-8")
            }
        };
        if let Some((source, span)) = from {
            diagnostic = diagnostic.also(source, span, "named here");
        }
        self.diagnostics.push(diagnostic);
        None
    }

    fn directories<'d>(&'d self, path: &'d Path) -> impl Iterator<Item = &'d Path> {
        path.parent().into_iter().chain(self.search.iter().map(PathBuf::as_path))
    }

    fn find(&self, base: &str, path: &Path) -> Option<PathBuf> {
        self.directories(path)
            .flat_map(|directory| EXTENSIONS.map(|extension| directory.join(format!("{base}.{extension}"))))
            .find(|candidate| candidate.is_file())
    }

    fn unknown_base(&mut self, name: &str, span: Span, path: &Path, source: &Arc<SourceFile>) {
        let mut present: Vec<String> = self
            .directories(path)
            .filter_map(|directory| profile_files(directory).ok())
            .flatten()
            .filter(|file| file != path)
            .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
            .collect();
        present.sort_unstable();
        present.dedup();
        let mut looked_in: Vec<String> = Vec::new();
        for directory in self.directories(path) {
            let shown = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let shown = quoted(&shown.to_string_lossy());
            if !looked_in.contains(&shown) {
                looked_in.push(shown);
            }
        }
        let mut diagnostic =
            Diagnostic::error(Code::UnknownBase, source, span, format!("there is no base {}", quoted(name)));
        if let Some(meant) = nearest(name, present.iter().map(String::as_str)) {
            diagnostic = diagnostic.here(format!("did you mean `{meant}`?"));
        }
        self.diagnostics.push(
            diagnostic.hint(format!("a file `{name}.yaml` was looked for in {}", looked_in.join(", "))),
        );
    }
}

/// The profile files of a directory, sorted; hidden files, which editors leave
/// behind, are not profiles.
pub(super) fn profile_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !hidden && extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}
