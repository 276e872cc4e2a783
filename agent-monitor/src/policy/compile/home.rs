//! `~` in a claim's glob: the home directory of every user.
//!
//! Called by whoever makes the list for `compile::claims`, with the homes of the host's users.

use std::path::PathBuf;

/// The globs that `glob` stands for: one per home when it begins with `~` (also in an alternative, `{~/a,/b}`), else
/// itself. What a home's path holds of the glob language is escaped. A home that is not UTF-8 is left out, since no
/// glob can name it.
#[must_use]
pub fn expand_home(glob: &str, homes: &[PathBuf]) -> Vec<String> {
    let tildes = leading_tildes(glob);
    if tildes.is_empty() {
        return vec![glob.to_owned()];
    }
    escaped(homes).map(|home| replaced(glob, &tildes, &home)).collect()
}

/// One glob for the same paths as those of [`expand_home`] together, in which what follows a `~` is written once however
/// many homes there are; `None`: there are none.
pub(super) fn group_homes(glob: &str, homes: &[PathBuf]) -> Option<String> {
    let tildes = leading_tildes(glob);
    if tildes.is_empty() {
        return Some(glob.to_owned());
    }
    let homes: Vec<String> = escaped(homes).collect();
    (!homes.is_empty()).then(|| replaced(glob, &tildes, &format!("{{{}}}", homes.join(","))))
}

fn escaped(homes: &[PathBuf]) -> impl Iterator<Item = String> {
    homes.iter().filter_map(|home| home.to_str()).map(|home| escape(home.trim_end_matches('/')))
}

/// `glob` with `home` in the places of its tildes.
fn replaced(glob: &str, tildes: &[usize], home: &str) -> String {
    let mut expanded = String::with_capacity(glob.len() + tildes.len() * home.len());
    let mut copied = 0;
    for &tilde in tildes {
        expanded.push_str(&glob[copied..tilde]);
        expanded.push_str(home);
        copied = tilde + 1;
    }
    expanded.push_str(&glob[copied..]);
    expanded
}

/// Byte positions of each `~` that a path could begin with.
fn leading_tildes(glob: &str) -> Vec<usize> {
    let bytes = glob.as_bytes();
    let mut found = Vec::new();
    // For every open brace: whether its alternatives begin the path.
    let mut open: Vec<bool> = Vec::new();
    let mut begins = true;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' => open.push(begins),
            b',' if !open.is_empty() => begins = open.last().copied().unwrap_or(false),
            b'}' => {
                open.pop();
                begins = false;
            }
            b'~' if begins && matches!(bytes.get(at + 1), None | Some(b'/' | b',' | b'}')) => {
                found.push(at);
                begins = false;
            }
            b'\\' => {
                at += 1;
                begins = false;
            }
            _ => begins = false,
        }
        at += 1;
    }
    found
}

/// `path` as a glob that matches nothing else.
/// A path as a glob that matches it and nothing else.
#[must_use]
pub fn escape(path: &str) -> String {
    if path == "/" {
        // A glob has an empty step as an alternative only.
        return "/{,}".to_owned();
    }
    let mut escaped = String::with_capacity(path.len());
    for character in path.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(glob: &str) -> Vec<String> {
        expand_home(glob, &["/root".into(), "/home/a{b/".into()])
    }

    #[test]
    fn a_leading_tilde_becomes_every_home() {
        assert_eq!(expand("~/bin/*"), ["/root/bin/*", "/home/a\\{b/bin/*"]);
        assert_eq!(expand("{~/a,/b/~/c}"), ["{/root/a,/b/~/c}", "{/home/a\\{b/a,/b/~/c}"]);
        assert_eq!(expand("{{~/a,x},/b}/~"), ["{{/root/a,x},/b}/~", "{{/home/a\\{b/a,x},/b}/~"]);
        assert_eq!(expand("~"), ["/root", "/home/a\\{b"]);
    }

    #[test]
    fn other_tildes_stay() {
        for glob in ["/a~", "/~/b", "\\~/b", "~bob/c", "/x{~/a,b}", "{a,b}~/c"] {
            assert_eq!(expand(glob), [glob]);
        }
    }

    #[test]
    fn homes_are_alternatives_of_one_glob() {
        let group = |glob| group_homes(glob, &["/root".into(), "/home/a{b/".into()]);
        assert_eq!(group("{~/a,/b}").unwrap(), "{{/root,/home/a\\{b}/a,/b}");
        assert_eq!(group("/x~").unwrap(), "/x~");
    }

    #[test]
    fn without_homes_nothing_is_claimed() {
        assert_eq!(expand_home("~/a", &[]), Vec::<String>::new());
        assert_eq!(group_homes("~/a", &[]), None);
    }
}
