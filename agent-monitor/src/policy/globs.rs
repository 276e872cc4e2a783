//! The globs of `agents:`, `files:` and `exec:`.
//!
//! Called by [`super::words`]. A glob that could never match a path, because it
//! is relative or holds a step that the kernel's paths never have, is a mistake
//! that would leave an agent ungoverned or a secret readable, so it is an error here.

use super::compile::{self, GlobError};
use super::diagnostic::{Code, quoted};
use super::words::{Problem, problem};

/// `PATH_MAX` of Linux.
const MAX_GLOB_BYTES: usize = 4096;

/// Reads a glob of executable paths; `~` stays as it is.
pub fn exe_glob(text: &str) -> Result<String, Problem> {
    absolute(
        text,
        "write a path such as `/usr/bin/codex`, `~/.local/bin/*` (every user's home) or `**/bin/codex`",
    )
}

/// Reads a glob of file paths; `~` stays as it is.
pub fn path_glob(text: &str) -> Result<String, Problem> {
    absolute(text, "write a path such as `/usr/**`, `~/.ssh/**` (in every user's home) or `**/.env*`")
}

fn absolute(text: &str, hint: &str) -> Result<String, Problem> {
    if let Some(problem) = variable(text) {
        return Err(problem);
    }
    if !["/", "~/", "**/", "{"].iter().any(|beginning| text.starts_with(beginning)) {
        return problem(Code::BadGlob, format!("{} is not an absolute path", quoted(text)), hint);
    }
    // Any home will do: what is checked is what stands around it.
    compile::expand_home(text, &["/home/user".into()]).iter().try_for_each(|glob| glob_of(text, glob))?;
    Ok(text.to_owned())
}

/// Reads a glob of cgroup paths.
pub fn cgroup_glob(text: &str) -> Result<String, Problem> {
    if !text.starts_with('/') {
        return problem(
            Code::BadGlob,
            format!("{} is not a cgroup path", quoted(text)),
            "write the path as in `/proc/<pid>/cgroup`, for example `/system.slice/agent-*.service`",
        );
    }
    glob_of(text, text).map(|()| text.to_owned())
}

fn variable(text: &str) -> Option<Problem> {
    text.contains("${").then(|| Problem {
        code: Code::BadGlob,
        message: format!("a variable in {}", quoted(text)),
        hint: "variables are not supported by this version: write the path out".to_owned(),
    })
}

/// Checks what is common to all globs. What the patterns are is the compiler's
/// to say.
fn glob_of(typed: &str, text: &str) -> Result<(), Problem> {
    let bad =
        |message: &str, hint: &str| problem(Code::BadGlob, format!("{message} in {}", quoted(typed)), hint);
    if text.len() > MAX_GLOB_BYTES {
        return bad("too many characters", "a path has at most 4096 bytes");
    }
    if text.chars().any(char::is_control) {
        return bad("a control character", "use `?` for a character that can't be typed");
    }
    if let Some(problem) = variable(text) {
        return Err(problem);
    }
    if text.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return bad(
            "an empty, `.` or `..` step",
            "paths are compared as the kernel knows them: without `//`, `.`, `..` and a slash at the end",
        );
    }
    // `**/x` is absolute; the compiler reads what stands behind a `~`.
    match compile::check_glob(text) {
        Ok(()) => Ok(()),
        Err(error) => problem(
            Code::BadGlob,
            format!("{}: {}", before_home(error, text.len().saturating_sub(typed.len())), quoted(typed)),
            "`*`, `**`, `?`, `[a-z]` and `{a,b}` are patterns; put `\\` before a character that stands for itself",
        ),
    }
}

/// The error with its place counted in what was typed, where the home directory
/// was `longer` bytes shorter.
fn before_home(error: GlobError, longer: usize) -> GlobError {
    match error {
        GlobError::OpenBrace { at } => GlobError::OpenBrace { at: at.saturating_sub(longer) },
        GlobError::CloseBrace { at } => GlobError::CloseBrace { at: at.saturating_sub(longer) },
        GlobError::OpenClass { at } => GlobError::OpenClass { at: at.saturating_sub(longer) },
        GlobError::ReversedRange { at } => GlobError::ReversedRange { at: at.saturating_sub(longer) },
        GlobError::NotAscii { at } => GlobError::NotAscii { at: at.saturating_sub(longer) },
        GlobError::NotAbsolute | GlobError::Home | GlobError::Backslash | GlobError::Depth => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> Code {
        result.unwrap_err().code
    }

    #[test]
    fn globs_that_could_never_match_are_refused() {
        for good in [
            "/usr/bin/codex",
            "~/.local/share/claude/versions/*",
            "**/bin/x",
            "/a/[]x]/{b,c}",
            "/a/[!a-z]\\[",
            "/a/{b,{c,d}}/**",
            "{/usr/bin,~/.local/bin}/codex",
        ] {
            assert_eq!(exe_glob(good), Ok(good.to_owned()), "{good}");
        }
        for bad in [
            "codex",
            "",
            "~",
            "~root/x",
            "/a//b",
            "/a/../b",
            "/a/",
            "/a/[b",
            "/a/{b",
            "/a/b}",
            "/a\\",
            "/a/\u{7}",
            "${workspace}/x",
            "/${tmp}/x",
            "*/x",
            "{a,b}/c",
            "/a/~/b{",
        ] {
            assert_eq!(code(exe_glob(bad)), Code::BadGlob, "{bad}");
        }
        assert!(cgroup_glob("/system.slice/agent-*.service").is_ok());
        assert_eq!(code(cgroup_glob("system.slice/x")), Code::BadGlob);
    }

    #[test]
    fn places_are_counted_in_what_was_typed() {
        assert!(exe_glob("~/a/{b").unwrap_err().message.contains("at byte 4"));
        assert!(exe_glob("/a/[b").unwrap_err().message.contains("at byte 3"));
    }
}
