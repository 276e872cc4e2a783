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
/// `sun_path` of Linux without the zero byte that makes a name abstract.
const MAX_ABSTRACT_BYTES: usize = 107;

/// Reads a glob of executable paths; `~` stays as it is.
pub fn exe_glob(text: &str) -> Result<String, Problem> {
    absolute(
        text,
        "write a path such as `/usr/bin/codex`, `~/.local/bin/*` (every user's home) or `**/bin/codex`",
    )
}

/// Reads a glob of file paths; `~` stays as it is.
pub fn path_glob(text: &str) -> Result<String, Problem> {
    // What stands around a variable is checked; any directory will do for it.
    let plain = match variable_of(text) {
        Some((_, rest)) => format!("/tmp{rest}"),
        None => text.to_owned(),
    };
    let hint =
        "write a path such as `/usr/**`, `~/.ssh/**` (in every user's home), `${workspace}/**` or `**/.env*`";
    absolute(&plain, hint).map_err(|problem| match plain == text {
        true => problem,
        false => Problem { message: problem.message.replace(&quoted(&plain), &quoted(text)), ..problem },
    })?;
    Ok(text.to_owned())
}

/// A directory that a glob of file paths can begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `${workspace}`: what the profile's `workspace` lists.
    Workspace,
    /// `${tmp}`: the host's directories for temporary files.
    Tmp,
}

/// What `${tmp}` stands for.
const TMP: [&str; 2] = ["/tmp", "/var/tmp"];

/// The variable that a glob begins with, and what follows it.
pub fn variable_of(glob: &str) -> Option<(Variable, &str)> {
    let (name, rest) = glob.strip_prefix("${")?.split_once('}')?;
    let variable = match name {
        "workspace" => Variable::Workspace,
        "tmp" => Variable::Tmp,
        _ => return None,
    };
    (rest.is_empty() || rest.starts_with('/')).then_some((variable, rest))
}

/// A glob with its variable replaced by what it stands for, as alternatives.
pub fn without_variable(glob: &str, workspace: &[String]) -> String {
    let Some((variable, rest)) = variable_of(glob) else { return glob.to_owned() };
    let directories: Vec<String> = match variable {
        Variable::Workspace => workspace.iter().map(|glob| one_alternative(glob)).collect(),
        Variable::Tmp => TMP.map(str::to_owned).into(),
    };
    format!("{{{}}}{rest}", directories.join(","))
}

/// A glob as one alternative of a brace: its commas outside of braces of its own stand for themselves.
fn one_alternative(glob: &str) -> String {
    let (mut depth, mut escaped) = (0_u32, false);
    let mut alternative = String::with_capacity(glob.len());
    for character in glob.chars() {
        match character {
            ',' if depth == 0 && !escaped => alternative.push('\\'),
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        alternative.push(character);
    }
    alternative
}

/// Reads a glob of Unix sockets: paths, or abstract names behind an `@`.
pub fn unix_glob(text: &str) -> Result<String, Problem> {
    let hint =
        "write a path such as `/run/systemd/journal/*`, or an abstract name such as `@/tmp/.X11-unix/*`";
    let Some(name) = text.strip_prefix('@') else {
        // A glob is about paths or about abstract names.
        let first = text.split('}').next().unwrap_or_default();
        if first.starts_with('{') && (first.contains("{@") || first.contains(",@")) {
            return problem(
                Code::BadGlob,
                format!("paths and abstract names in {}", quoted(text)),
                "write two items, one that begins with `@`",
            );
        }
        return path_glob(text);
    };
    if let Some(problem) = variable(text) {
        return Err(problem);
    }
    if name.len() > MAX_ABSTRACT_BYTES {
        return problem(
            Code::BadGlob,
            format!("too many characters in {}", quoted(text)),
            "an abstract name has at most 107 bytes; use `**` for the rest of it",
        );
    }
    if text.chars().any(char::is_control) {
        return problem(
            Code::BadGlob,
            format!("a control character in {}", quoted(text)),
            "use `?` for a character that can't be typed",
        );
    }
    match compile::check_glob(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => problem(Code::BadGlob, format!("{error}: {}", quoted(text)), hint),
    }
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
        hint: "`${workspace}` and `${tmp}` can begin a path under `files` and `exec`; write other paths out"
            .to_owned(),
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
    fn variables_begin_a_path_and_become_alternatives() {
        for good in ["${workspace}/**", "${tmp}/x", "${workspace}"] {
            assert_eq!(path_glob(good), Ok(good.to_owned()), "{good}");
        }
        for bad in [
            "${home}/x",
            "/a/${tmp}",
            "${tmp}x",
            "${workspace}//x",
            "${workspace}/[",
            "${tmp",
            "${workspace}/${tmp}",
        ] {
            let problem = path_glob(bad).unwrap_err();
            assert_eq!(problem.code, Code::BadGlob, "{bad}");
            assert!(problem.message.contains(&quoted(bad)), "{}", problem.message);
        }
        let workspace = ["~/src/*".to_owned(), "/w{a,b}".to_owned(), "/x,y".to_owned(), "/z\\,".to_owned()];
        assert_eq!(without_variable("${workspace}/**", &workspace), "{~/src/*,/w{a,b},/x\\,y,/z\\,}/**");
        assert_eq!(without_variable("${tmp}/x", &[]), "{/tmp,/var/tmp}/x");
        assert_eq!(without_variable("/tmp/x", &[]), "/tmp/x");
        let expanded =
            compile::expand_home(&without_variable("${workspace}/a", &workspace), &["/home/ann".into()]);
        assert_eq!(expanded, ["{/home/ann/src/*,/w{a,b},/x\\,y,/z\\,}/a"]);
        assert!(compile::check_glob(&expanded[0]).is_ok());
    }

    #[test]
    fn sockets_have_a_path_or_an_abstract_name() {
        for good in
            ["/run/x.sock", "~/x/*", "**/agent.*", "@", "@name", "@/tmp/.X11-unix/X[0-9]", "@{a,b}/**"]
        {
            assert_eq!(unix_glob(good), Ok(good.to_owned()), "{good}");
        }
        for bad in
            ["name", "", "@{a", "@a\u{1}", "@${tmp}", &format!("@{}", "x".repeat(108)), "*@x", "{@a,/b}"]
        {
            assert_eq!(code(unix_glob(bad)), Code::BadGlob, "{bad}");
        }
        assert_eq!(code(path_glob("@name")), Code::BadGlob);
    }

    #[test]
    fn places_are_counted_in_what_was_typed() {
        assert!(exe_glob("~/a/{b").unwrap_err().message.contains("at byte 4"));
        assert!(exe_glob("/a/[b").unwrap_err().message.contains("at byte 3"));
    }
}
