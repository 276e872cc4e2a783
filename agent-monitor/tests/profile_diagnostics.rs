//! What people read when a profile is wrong, word for word.
//!
//! Every `*.yaml` in `tests/diagnostics/{cases,chain}` has a `*.txt` beside it
//! with the whole output. After a wanted change run the test once with
//! `UPDATE_GOLDEN=1` and read the difference.

#![expect(clippy::unwrap_used, reason = "what these tests prepare either works or fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agent_monitor::policy::diagnostic::{Code, DiagnosticRecord, render_all};
use agent_monitor::policy::{Checked, Diagnostic, check_profile};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics")
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn diagnostics(file: &Path) -> Vec<Diagnostic> {
    match check_profile(file, &[]) {
        Ok(Checked::Profile(loaded)) => loaded.warnings,
        Ok(Checked::Base(base)) => base.warnings,
        Err(errors) => errors.0,
    }
}

fn compare(directory: &str) {
    let mut different = Vec::new();
    for file in yaml_files(directory) {
        // The files' own directory is where this checkout happens to be.
        let prefix = format!("{}/", file.parent().unwrap().display());
        let text = render_all(&diagnostics(&file), false)
            .replace(&prefix, "")
            .replace(prefix.trim_end_matches('/'), "DIR");
        let golden = file.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if text != expected {
            different.push(format!("== {}\n-- expected:\n{expected}\n-- found:\n{text}", golden.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn mistakes_in_one_file_are_explained() {
    compare("cases");
}

#[test]
fn mistakes_across_files_are_explained() {
    compare("chain");
}

/// A code without a case here is one whose wording nobody has read.
#[test]
fn every_code_has_a_case() {
    let reported: BTreeSet<&str> = ["cases", "chain"]
        .iter()
        .flat_map(|directory| yaml_files(directory))
        .flat_map(|file| diagnostics(&file))
        .map(|diagnostic| diagnostic.code.as_str())
        .collect();
    // These need a file system or a whole directory; unit tests have them.
    let elsewhere = [
        Code::Unreadable,
        Code::TooLarge,
        Code::TooManyBases,
        Code::TooManyMistakes,
        Code::ImageTooLarge,
        // Of files with test cases: `tests/commands/test.trycmd`.
        Code::BadRequest,
        Code::CaseFailed,
        Code::Abstract,
        Code::ClaimedTwice,
        // Of the package managers of a host.
        Code::HostsFrom,
    ];
    let missing: Vec<&str> = Code::ALL
        .iter()
        .filter(|code| !elsewhere.contains(code))
        .map(|code| code.as_str())
        .filter(|code| !reported.contains(code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_diagnostic_has_a_place_and_a_hint() {
    for file in ["cases", "chain"].iter().flat_map(|directory| yaml_files(directory)) {
        for diagnostic in diagnostics(&file) {
            assert!(!diagnostic.hints.is_empty(), "{diagnostic:?}");
            let record = DiagnosticRecord::from(&diagnostic);
            assert!(record.line.is_some_and(|line| line >= 1), "{record:?}");
            assert!(record.column.is_some_and(|column| column >= 1), "{record:?}");
            assert!((record.end_line, record.end_column) >= (record.line, record.column), "{record:?}");
        }
    }
}
