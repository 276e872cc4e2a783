//! Pinned programs: the values of `exec.pinned`, and what is checked of them together.
//!
//! Called by [`super::words`], [`super::check`] and [`super::merge`]. A pin is for one path, so that one digest can be
//! right; a glob would pin whatever comes to match it to the same content.

use std::collections::HashMap;
use std::sync::Arc;

use agent_monitor_common::pin::MAX_PINS;

use super::diagnostic::{Code, Diagnostic, quoted};
use super::globs;
use super::model::Spanned;
use super::resolved::Pin;
use super::source::SourceFile;
use super::words::{Problem, problem};

/// Reads the path of a pinned program: absolute, without patterns.
pub fn literal_path(text: &str) -> Result<String, Problem> {
    if !text.starts_with('/') || text.contains(['*', '?', '[', ']', '{', '}', '\\', '~']) {
        return problem(
            Code::BadPin,
            format!("{} is not one absolute path", quoted(text)),
            "a pin is for one program: write its whole path, as `realpath` prints it, without patterns or `~`",
        );
    }
    globs::path_glob(text)
}

/// Reads a SHA-256, as `sha256sum` prints it.
pub fn sha256(text: &str) -> Result<[u8; 32], Problem> {
    const HINT: &str = "write the 64 hexadecimal digits that `sha256sum` prints for the program";
    if let Some(wrong) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
        let wrong = wrong.escape_debug();
        return problem(Code::BadPin, format!("`{wrong}` is no hexadecimal digit in {}", quoted(text)), HINT);
    }
    let mut digest = [0; 32];
    if text.len() != 64 {
        return problem(
            Code::BadPin,
            format!("a SHA-256 has 64 hexadecimal digits, this has {}", text.len()),
            HINT,
        );
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(pair).unwrap_or("0");
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    Ok(digest)
}

/// Reports pins that contradict each other, and more than an image holds. `pins`: of a whole chain, bases first.
pub fn check_together<'a>(
    pins: impl Iterator<Item = (&'a Arc<SourceFile>, &'a Spanned<Pin>)>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut known: HashMap<&str, (&Arc<SourceFile>, &Spanned<Pin>)> = HashMap::new();
    let mut count = 0;
    for (file, pin) in pins {
        count += 1;
        if count == MAX_PINS + 1 {
            diagnostics.push(
                Diagnostic::error(
                    Code::BadPin,
                    file,
                    pin.span,
                    format!("more than {MAX_PINS} programs are pinned"),
                )
                .hint("pin the programs that matter most, and deny writing to the directories of the others"),
            );
        }
        let path = pin.value.path.as_str();
        if let Some((other_file, other)) = known.insert(path, (file, pin))
            && other.value.sha256 != pin.value.sha256
        {
            diagnostics.push(
                Diagnostic::error(
                    Code::BadPin,
                    file,
                    pin.span,
                    format!("{} is pinned to two contents", quoted(path)),
                )
                .also(other_file, other.span, "pinned here first")
                .hint("keep the digest that `sha256sum` prints, and remove the other"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_one_path_and_a_whole_digest() {
        assert!(literal_path("/usr/bin/git").is_ok());
        for bad in ["git", "/usr/bin/*", "~/bin/git", "/usr/{a,b}", "/usr//bin", "/usr/bin/", "/a/../b", ""] {
            assert!(literal_path(bad).is_err(), "{bad}");
        }
        let digest = sha256(&"0fA9".repeat(16)).unwrap();
        assert_eq!(digest[..2], [0x0f, 0xa9]);
        for bad in ["", "0f", &"0f".repeat(33), &"0g".repeat(32), &format!("{} ", "0".repeat(63))] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
