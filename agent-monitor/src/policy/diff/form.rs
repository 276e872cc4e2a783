//! Which inputs of a path automaton are names of objects: paths as the kernel resolves them, from the root and without
//! empty, `.` and `..` steps, and abstract names of sockets. A walk follows no other, so that what it finds can be asked
//! for.

use super::product;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    Nothing,
    Root,
    /// Behind a slash, or behind `.` or `..`: no object yet.
    Slash,
    Dot,
    DotDot,
    Step,
    /// The `@` of an abstract name, and behind it.
    At,
    Abstract,
    No,
}

impl Form {
    /// Behind one more byte.
    pub fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (_, 0) => Self::No,
            (Self::Nothing, b'/') => Self::Root,
            (Self::Nothing, b'@') => Self::At,
            (Self::Nothing | Self::No, _) => Self::No,
            (Self::At | Self::Abstract, _) => Self::Abstract,
            (Self::Step, b'/') => Self::Slash,
            (Self::Step, _) => Self::Step,
            (_, b'/') => Self::No,
            (Self::Root | Self::Slash, b'.') => Self::Dot,
            (Self::Dot, b'.') => Self::DotDot,
            (Self::Root | Self::Slash | Self::Dot | Self::DotDot, _) => Self::Step,
        }
    }
}

/// Readable first, so that examples are.
pub const ORDER: [u8; 256] = product::preferring(b"/abcdefghijklmnopqrstuvwxyz0123456789-_.@");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::judge::Request;

    #[test]
    fn forms_are_what_requests_can_name() {
        let of = |text: &str| text.bytes().fold(Form::Nothing, Form::after);
        for text in [
            "/a", "/a/b", "/...", "/.a", "/a/..b", "/..a/c", "/a@", "/a/", "//a", "/./a", "/a/..", "a", "",
            "/a\0b",
        ] {
            let object =
                matches!(Request::path(text.as_bytes(), 1), Ok(Request::Path { directory: false, .. }));
            assert_eq!(of(text) == Form::Step, object && !text.contains('\0'), "{text:?}");
        }
        assert_eq!((of("/"), of("@"), of("@a/..")), (Form::Root, Form::At, Form::Abstract));
    }
}
