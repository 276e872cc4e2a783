//! The globs of `agents:`, as far as they can be judged without compiling them.
//!
//! Called by [`super::words`]. A glob that could never match a path, because it
//! is relative or holds a step that the kernel's paths never have, is a mistake
//! that would leave an agent ungoverned, so it is an error here.

use super::compile::check_glob;
use super::diagnostic::{Code, quoted};
use super::words::{Problem, problem};

/// `PATH_MAX` of Linux.
const MAX_GLOB_BYTES: usize = 4096;

/// Reads a glob of executable paths; `~` stays as it is.
pub fn exe_glob(text: &str) -> Result<String, Problem> {
    if let Some(problem) = variable(text) {
        return Err(problem);
    }
    const HINT: &str =
        "write a path such as `/usr/bin/codex`, `~/.local/bin/*` (every user's home) or `**/bin/codex`";
    let Some(path) = text.strip_prefix('~').or(Some(text)).filter(|path| path.starts_with('/')) else {
        if text.starts_with("**/") {
            return glob(text).map(|()| text.to_owned());
        }
        return problem(Code::BadGlob, format!("{} is not an absolute path", quoted(text)), HINT);
    };
    glob(path).map(|()| text.to_owned())
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
    glob(text).map(|()| text.to_owned())
}

fn variable(text: &str) -> Option<Problem> {
    text.contains("${").then(|| Problem {
        code: Code::BadGlob,
        message: format!("a variable in {}", quoted(text)),
        hint: "variables are not supported by this version: write the path out".to_owned(),
    })
}

/// Checks what is common to all globs: `*`, `**`, `?`, `[…]`, `{a,b}`, and `\`
/// before a character that stands for itself.
fn glob(text: &str) -> Result<(), Problem> {
    let bad =
        |message: &str, hint: &str| problem(Code::BadGlob, format!("{message} in {}", quoted(text)), hint);
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
    let mut braces = 0_u32;
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' if rest.next().is_none() => {
                return bad("a `\\` with nothing behind it", "write `\\\\` for a backslash");
            }
            '{' => braces += 1,
            '}' if braces == 0 => {
                return bad("a `}` without its `{`", "write `\\}` for the character itself");
            }
            '}' => braces -= 1,
            '[' => {
                let set = rest.as_str();
                // `]` first in a set stands for itself.
                let skip = set.chars().take_while(|c| matches!(c, '!' | '^')).count();
                let Some(end) = set.get(skip + 1..).and_then(|tail| tail.find(']')) else {
                    return bad("a `[` without its `]`", "write `\\[` for the character itself");
                };
                rest = set[skip + 1 + end + 1..].chars();
            }
            _ => {}
        }
    }
    if braces > 0 {
        return bad("a `{` without its `}`", "write `\\{` for the character itself");
    }
    // The compiler's own reading has the last word: what is accepted here compiles.
    check_glob(text).or_else(|error| {
        bad(
            &error.to_string(),
            "globs know `*`, `**`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, and `\\` before a character",
        )
    })
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
            "/a/[z-a]",
            "/a/[é]",
            "/a\\",
            "/a/\u{7}",
            "${workspace}/x",
            "/${tmp}/x",
            "*/x",
        ] {
            assert_eq!(code(exe_glob(bad)), Code::BadGlob, "{bad}");
        }
        assert!(cgroup_glob("/system.slice/agent-*.service").is_ok());
        assert_eq!(code(cgroup_glob("system.slice/x")), Code::BadGlob);
    }
}
