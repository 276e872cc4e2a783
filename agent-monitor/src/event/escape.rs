//! Bytes that an agent chose (paths, argv, `comm`) as text that is safe to print, log and parse.
//!
//! Called wherever such bytes enter an event. What must stay true: the text holds no control character, no character
//! that reorders or hides its neighbours, and no two different inputs have the same text.

use std::borrow::Cow;
use std::fmt::Write;

/// The text of `bytes`.
///
/// Printable UTF-8 stays. A backslash becomes `\\`; a byte that is not UTF-8 and an ASCII control character become
/// `\xNN`; other control, bidirectional, zero-width and line-separator characters become `\u{NNNN}`.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.iter().all(|&byte| matches!(byte, b' '..=b'~') && byte != b'\\') {
        // ASCII only, so this never takes the owned path.
        return String::from_utf8_lossy(bytes);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_char(&mut out, c);
        }
        for &byte in chunk.invalid() {
            push_byte(&mut out, byte);
        }
    }
    Cow::Owned(out)
}

fn push_char(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\0'..='\x1f' | '\x7f' => push_byte(out, c as u8),
        c if c.is_control() || hides(c) => {
            // Writing to a String can't fail.
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        }
        c => out.push(c),
    }
}

fn push_byte(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}");
}

/// Characters that a terminal or editor draws as something else than they are: bidirectional controls
/// (CVE-2021-42574), zero-width characters, line and paragraph separators, tags, the byte order mark.
const fn hides(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The bytes that [`text`] made `text` of; `None`: it did not.
#[must_use]
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        rest = if let Some(after) = escape.strip_prefix('\\') {
            out.push(b'\\');
            after
        } else if let Some(digits) = escape.strip_prefix('x') {
            out.push(u8::from_str_radix(digits.get(..2)?, 16).ok()?);
            &digits[2..]
        } else {
            let (code, after) = escape.strip_prefix("u{")?.split_once('}')?;
            let c = char::from_u32(u32::from_str_radix(code, 16).ok()?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            after
        };
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

/// A `comm` field: up to its first NUL.
#[must_use]
pub fn comm(bytes: &[u8; 16]) -> Cow<'_, str> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    text(&bytes[..end])
}

/// The arguments of a NUL-separated argv, at most `limit` of them. A final NUL ends the last argument and starts none.
#[must_use]
pub fn argv(bytes: &[u8], limit: usize) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|&byte| byte == 0).take(limit).map(|argument| text(argument).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_text_is_borrowed_and_unchanged() {
        assert!(matches!(text(b"/usr/bin/curl -s"), Cow::Borrowed("/usr/bin/curl -s")));
        assert_eq!(text("/home/zoë/é".as_bytes()), "/home/zoë/é");
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        assert_eq!(text(b"a\x1b[31m\n\xff\\"), "a\\x1b[31m\\x0a\\xff\\\\");
        assert_eq!(
            text("x\u{202e}y\u{2028}\u{85}\u{200b}".as_bytes()),
            "x\\u{202e}y\\u{2028}\\u{85}\\u{200b}"
        );
    }

    #[test]
    fn argv_splits_at_nul() {
        assert_eq!(argv(b"sh\0-c\0\0x\0", 9), ["sh", "-c", "", "x"]);
        assert_eq!(argv(b"sh\0-c\0x", 2), ["sh", "-c"]);
        assert!(argv(b"", 9).is_empty());
    }

    #[test]
    fn what_no_text_was_made_of_has_no_bytes() {
        for wrong in ["\\", "\\q", "\\x4", "\\xé", "\\u{", "\\u{d800}", "\\u{zz}"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(bytes("\\u{202e}\\\\\\xff"), Some("\u{202e}\\".bytes().chain([0xff]).collect()));
    }

    proptest! {
        #[test]
        fn text_has_no_control_and_tells_inputs_apart(a: Vec<u8>, b: Vec<u8>) {
            let (left, right) = (text(&a), text(&b));
            prop_assert!(left.chars().all(|c| !c.is_control() && !hides(c)));
            prop_assert_eq!(left == right, a == b);
            prop_assert_eq!(bytes(&left), Some(a.clone()));
        }
    }
}
