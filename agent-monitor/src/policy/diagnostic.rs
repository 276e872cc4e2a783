//! What is wrong with a profile, for the person who wrote it.
//!
//! Every check of the profile language reports [`Diagnostic`]s; the commands
//! print them as text with snippets or as JSON, the daemon logs them. What must
//! stay true: nothing that comes from a file or a file name reaches a terminal
//! as a control character, and every diagnostic has a hint that says what to do.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::resolved::Source;
use super::source::{SourceFile, Span};

/// After this many the checks of a profile stop: the rest would not be read, and
/// a file made of mistakes must not cost the daemon its memory.
pub const MAX_REPORTED: usize = 1000;
/// A longer line is named by line and column but not printed.
const MAX_LINE_BYTES: usize = 4096;
/// Labels further apart than this are printed as two snippets.
const MAX_SNIPPET_LINES: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The profile can't be used.
    Error,
    /// The profile says something it hardly means.
    Warning,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// The kind of a problem; the text is stable, for scripts and searches.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)+ }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => concat!("profile::", $text),)+ }
            }
        }
    };
}

codes! {
    /// A test case names no request that could be made.
    BadRequest = "bad-request",
    /// A test case expects something else than the profile says.
    CaseFailed = "case-failed",
    /// The file can't be opened or read.
    Unreadable = "unreadable",
    TooLarge = "too-large",
    NotUtf8 = "not-utf8",
    /// Not YAML.
    Syntax = "syntax",
    /// YAML that goes beyond the parser's budgets.
    TooComplex = "too-complex",
    /// The rest of the mistakes is not listed.
    TooManyMistakes = "too-many-mistakes",
    UnknownKey = "unknown-key",
    DuplicateKey = "duplicate-key",
    MissingKey = "missing-key",
    WrongType = "wrong-type",
    /// A word that is not one of the words allowed there.
    UnknownValue = "unknown-value",
    EmptyList = "empty-list",
    UnsupportedVersion = "unsupported-version",
    BadName = "bad-name",
    BadGlob = "bad-glob",
    BadAddress = "bad-address",
    BadHost = "bad-host",
    /// A name where only addresses can stand.
    HostOnDeny = "host-on-deny",
    /// What an entry of `hosts_from` does not grant, and why.
    HostsFrom = "hosts-from",
    /// `sni` at a rule that does not grant names to TCP.
    SniMisplaced = "sni-misplaced",
    BadCidr = "bad-cidr",
    /// A network with bits set behind its prefix length.
    HostBits = "host-bits",
    BadPort = "bad-port",
    /// A range that ends before it begins.
    EmptyRange = "empty-range",
    /// Ports together with a protocol that has none.
    PortsWithoutTransport = "ports-without-transport",
    UnknownSyscall = "unknown-syscall",
    UnknownCapability = "unknown-capability",
    /// `exe` or `except` names a set that `programs` does not have.
    UnknownProgram = "unknown-program",
    /// `except` at a rule that grants.
    ExceptOnGrant = "except-on-grant",
    /// A path begins with `${workspace}`, and there is no `workspace`.
    NoWorkspace = "no-workspace",
    /// A pinned program without one path and one SHA-256.
    BadPin = "bad-pin",
    UnknownBase = "unknown-base",
    Cycle = "cycle",
    /// The `extends` chain is too long.
    TooManyBases = "too-many-bases",
    /// Two bases set the same single value differently.
    ConflictingBases = "conflicting-bases",
    /// A profile that only exists to be extended was used for itself.
    Abstract = "abstract",
    DuplicateName = "duplicate-name",
    /// The rules need more room than the kernel's image has.
    ImageTooLarge = "image-too-large",
    /// Two profiles claim the same agents.
    ClaimedTwice = "claimed-twice",
    /// A rule that a deny covers.
    UselessRule = "useless-rule",
    /// A rule that another rule of the same list covers.
    RedundantRule = "redundant-rule",
    /// Mounts are granted beside rules about paths, which hold only while mounts are denied.
    MountsBesidePaths = "mounts-beside-paths",
    /// Names are granted, and Unix sockets by which others would be looked up are not judged.
    NamesBesideSockets = "names-beside-sockets",
    /// A value of `expires` that is neither a duration nor a moment.
    BadLease = "bad-lease",
    /// `expires` at a rule that denies.
    LeaseOnDeny = "lease-on-deny",
    /// `audit` at a rule that grants.
    AuditOnGrant = "audit-on-grant",
    /// A grant whose time is over.
    Lapsed = "lapsed",
    /// `icmp` is allowed but no socket kind that can send it is.
    NoSocketForIcmp = "no-socket-for-icmp",
    /// `0.0.0.0` or `::` where it stands for itself only.
    UnspecifiedAddress = "unspecified-address",
}

/// A place and what is to be said about it; empty text only marks the place.
#[derive(Clone, Debug)]
pub struct Label {
    pub file: Arc<SourceFile>,
    pub span: Span,
    pub text: String,
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    pub message: String,
    /// The file that has the problem.
    pub file: Arc<Path>,
    /// The first one is where the problem is; none if there is no text to
    /// point at, as for a file that can't be read.
    pub labels: Vec<Label>,
    pub hints: Vec<String>,
    /// Its text, if it was made ahead, and whether with colours.
    pub(super) ahead: OnceLock<(bool, String)>,
}

impl Diagnostic {
    #[must_use]
    pub fn error(code: Code, file: &Arc<SourceFile>, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            file: Arc::clone(&file.path),
            labels: vec![Label { file: Arc::clone(file), span, text: String::new() }],
            hints: Vec::new(),
            ahead: OnceLock::new(),
        }
    }

    #[must_use]
    pub fn warning(code: Code, file: &Arc<SourceFile>, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, file, span, message) }
    }

    /// A problem with a file as a whole.
    #[must_use]
    pub fn of_file(code: Code, file: &Path, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            file: file.into(),
            labels: Vec::new(),
            hints: Vec::new(),
            ahead: OnceLock::new(),
        }
    }

    /// A problem at a place of which only line and column are known: the rest of
    /// that line. Without the snippet if the file can't be read again.
    #[must_use]
    pub fn at_source(code: Code, source: &Source, message: impl Into<String>) -> Self {
        match SourceFile::read(&source.file) {
            Ok(file) => {
                let start = file.offset(source.line.into(), source.column.into());
                let end = file.text[start..].find('\n').map_or(file.text.len(), |length| start + length);
                let span = file.span(start, end);
                Self::error(code, &Arc::new(file), span, message)
            }
            Err(_) => Self::of_file(code, &source.file, message),
        }
    }

    /// Says something at the place of the problem.
    #[must_use]
    pub fn here(mut self, text: impl Into<String>) -> Self {
        if let Some(primary) = self.labels.first_mut() {
            primary.text = text.into();
        }
        self
    }

    /// Points at a second place.
    #[must_use]
    pub fn also(mut self, file: &Arc<SourceFile>, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { file: Arc::clone(file), span, text: text.into() });
        self
    }

    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(text.into());
        self
    }

    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Where the problem is, if it has a place.
    #[must_use]
    pub fn place(&self) -> Option<Source> {
        self.labels.first().map(|label| label.file.place(label.span))
    }

    /// The text form, with colours if `colour`; ends in a newline.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        match self.ahead.get() {
            Some((coloured, text)) if *coloured == colour => text.clone(),
            _ => self.make(colour),
        }
    }

    /// Makes the text form that [`Self::render`] will be asked for, of a diagnostic that is finished.
    pub fn render_ahead(&self, colour: bool) {
        self.ahead.get_or_init(|| (colour, self.make(colour)));
    }

    fn make(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group: Group<'_> =
            Group::with_title(level.primary_title(printable(&self.message)).id(self.code.as_str()));
        if self.labels.is_empty() {
            group = group.element(Origin::path(printable(&self.file.to_string_lossy())));
        }
        for (snippet, primary) in self.snippets() {
            group = add_snippet(group, &snippet, primary);
        }
        for hint in &self.hints {
            group = group.element(Level::HELP.message(printable(hint)));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group]) + "\n"
    }

    /// The labels grouped by what can be printed as one piece of one file, each
    /// with whether it begins with the primary label.
    fn snippets(&self) -> Vec<(Vec<&Label>, bool)> {
        let mut snippets: Vec<(Vec<&Label>, bool)> = Vec::new();
        for (index, label) in self.labels.iter().enumerate() {
            let line = label.file.line_index(label.span.start);
            let near = snippets.iter_mut().find(|(labels, _)| {
                labels.iter().all(|other| {
                    Arc::ptr_eq(&other.file, &label.file)
                        && other.file.line_index(other.span.start).abs_diff(line) <= MAX_SNIPPET_LINES
                })
            });
            match near {
                Some((labels, _)) => labels.push(label),
                None => snippets.push((vec![label], index == 0)),
            }
        }
        snippets
    }
}

fn add_snippet<'a>(group: Group<'a>, labels: &[&Label], primary: bool) -> Group<'a> {
    let file = &labels[0].file;
    let path = printable(&file.path.to_string_lossy());
    let lines = labels.iter().flat_map(|label| {
        [file.line_index(label.span.start), file.line_index(label.span.end.saturating_sub(1))]
    });
    let (first, last) = lines.fold((usize::MAX, 0), |(first, last), line| (first.min(line), last.max(line)));
    // A span over very many lines (an unclosed quote) shows its beginning.
    let last = last.min(first + MAX_SNIPPET_LINES);
    let (start, end) = (file.line_start(first), file.line_start(last + 1));
    let text = &file.text[start..end];
    if text.lines().any(|line| line.len() > MAX_LINE_BYTES) {
        let (line, column) = file.line_column(labels[0].span.start);
        return group
            .element(Origin::path(path).line(line as usize).char_column(column as usize))
            .element(Level::NOTE.message("the line is too long to be shown"));
    }
    let mut snippet = Snippet::source(same_width_printable(text)).line_start(first + 1).path(path);
    for (index, label) in labels.iter().enumerate() {
        let kind = if primary && index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let from = label.span.start.clamp(start, end) - start;
        let to = label.span.end.clamp(start, end) - start;
        let annotation = kind.span(from..to.max(from));
        snippet = snippet.annotation(if label.text.is_empty() {
            annotation
        } else {
            annotation.label(printable(&label.text))
        });
    }
    group.element(snippet)
}

/// Errors and warnings of one load, all of them.
#[derive(Clone, Debug)]
pub struct ProfileErrors(pub Vec<Diagnostic>);

impl ProfileErrors {
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        render_all(&self.0, colour)
    }
}

impl fmt::Display for ProfileErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for ProfileErrors {}

/// All of `diagnostics` in text form, an empty line between them.
#[must_use]
pub fn render_all(diagnostics: &[Diagnostic], colour: bool) -> String {
    diagnostics.iter().map(|diagnostic| diagnostic.render(colour)).collect::<Vec<_>>().join("\n")
}

/// One diagnostic as `check --format json` prints it.
#[derive(Debug, Serialize)]
pub struct DiagnosticRecord {
    pub severity: Severity,
    pub code: &'static str,
    pub message: String,
    pub file: String,
    /// From 1; absent if the problem is the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The place just behind the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_column: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Other places that have to do with the problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<RelatedRecord>,
}

#[derive(Debug, Serialize)]
pub struct RelatedRecord {
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
}

impl From<&Diagnostic> for DiagnosticRecord {
    fn from(diagnostic: &Diagnostic) -> Self {
        let primary = diagnostic.labels.first();
        let start = primary.map(|label| label.file.line_column(label.span.start));
        let end = primary.map(|label| label.file.line_column(label.span.end));
        Self {
            severity: diagnostic.severity,
            code: diagnostic.code.as_str(),
            message: diagnostic.message.clone(),
            file: diagnostic.file.to_string_lossy().into_owned(),
            line: start.map(|(line, _)| line),
            column: start.map(|(_, column)| column),
            end_line: end.map(|(line, _)| line),
            end_column: end.map(|(_, column)| column),
            hints: diagnostic.hints.clone(),
            related: diagnostic.labels.iter().skip(1).map(RelatedRecord::from).collect(),
        }
    }
}

impl From<&Label> for RelatedRecord {
    fn from(label: &Label) -> Self {
        let (line, column) = label.file.line_column(label.span.start);
        Self {
            file: label.file.path.to_string_lossy().into_owned(),
            line,
            column,
            message: label.text.clone(),
        }
    }
}

/// A piece of a file inside a message: short, in back quotes, one line.
#[must_use]
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{}`", printable(&short))
}

/// `a`, `a or b`, `a, b or c`, each in back quotes.
#[must_use]
pub fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// The word of `known` that `typed` was probably meant to be.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long text is no misspelt word, and the comparison is quadratic.
    if typed.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&typed.to_lowercase(), word), word))
        // One slip in a short word, two in a longer one, three in a long one.
        .filter(|&(slips, word)| slips <= (word.len().min(typed.len()) / 4).clamp(1, 3))
        .min_by_key(|&(slips, _)| slips)
        .map(|(_, word)| word)
}

/// Whether a terminal would act on this character, or show nothing for it.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Escapes what a terminal would act on.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) {
            escaped.extend(character.escape_unicode());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Replaces what a terminal would act on by something of the same length in
/// bytes, so that spans stay right. One-byte characters stay as they are: the
/// snippet renderer shows those as pictures.
fn same_width_printable(text: &str) -> String {
    text.chars()
        .map(|character| match (is_unprintable(character), character.len_utf8()) {
            (false, _) | (true, 1) => character,
            (true, 2) => '¿',
            (true, 3) => char::REPLACEMENT_CHARACTER,
            (true, _) => '\u{1f6ab}',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Arc<SourceFile> {
        Arc::new(SourceFile::new(Path::new("p\u{1b}[31m.yaml").into(), text.to_owned()))
    }

    #[test]
    fn nothing_from_a_file_reaches_the_terminal_as_control() {
        let nasty = "a: \u{1b}[2J\u{9b}31m\u{202e}\u{200b}\u{7}\u{85}\u{e0041} x\n";
        let file = file(nasty);
        let diagnostic =
            Diagnostic::error(Code::UnknownKey, &file, file.span(3, nasty.len() - 1), quoted(nasty))
                .here(nasty)
                .hint(nasty);
        let text = diagnostic.render(false);
        assert!(!text.chars().any(|c| c != '\n' && is_unprintable(c)), "{text:?}");
        assert_eq!(same_width_printable(nasty).len(), nasty.len());
    }

    #[test]
    fn suggestions_are_near_words_only() {
        let known = ["allow", "deny", "listen", "ptrace"];
        assert_eq!(nearest("alow", known), Some("allow"));
        assert_eq!(nearest("Deny", known), Some("deny"));
        assert_eq!(nearest("ptrcae", known), Some("ptrace"));
        assert_eq!(nearest("files", known), None);
        assert_eq!(nearest("x", known), None);
    }

    #[test]
    fn codes_are_distinct() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
    }

    #[test]
    fn a_very_long_line_is_named_but_not_printed() {
        let text = format!("a: {}\n", "x".repeat(100_000));
        let file = file(&text);
        let rendered = Diagnostic::error(Code::Syntax, &file, file.span(50_000, 50_001), "m").render(false);
        assert!(rendered.len() < 500, "{}", rendered.len());
        assert!(rendered.contains(":1:50001"), "{rendered}");
    }

    #[test]
    fn a_text_made_ahead_is_the_text_that_is_asked_for() {
        let file = file("a: 1\n");
        for ahead in [false, true] {
            let plain = Diagnostic::error(Code::Syntax, &file, file.span(0, 1), "m").hint("h");
            let made = plain.clone();
            made.render_ahead(ahead);
            assert!(made.ahead.get().is_some());
            for asked in [false, true] {
                assert_eq!(made.render(asked), plain.render(asked), "{ahead} {asked}");
            }
        }
    }
}
