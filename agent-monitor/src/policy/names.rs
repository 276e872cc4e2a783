//! Names that rules grant: `host:`.
//!
//! A name stands for the addresses that answer to it, so the kernel judges addresses and the resolver judges names.
//! What both must agree on is here: which names a rule matches, and how names are numbered. A *name class* is the set
//! of names that the same rules match; its number stands in the image's automaton where an address would.
//!
//! What must stay true: classes are numbered by names only, never by the order of rules; a name that is not well formed
//! is in no class.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::diagnostic::{Code, quoted};
use super::words::{Problem, problem};
use super::{Membership, NetworkPolicy};

/// Most bytes of a name, as text without a trailing dot (RFC 1035 §2.3.4: 255 with lengths and root).
pub const MAX_NAME: usize = 253;
/// Most bytes of a label.
pub const MAX_LABEL: usize = 63;

/// A name, or every name below one: `api.example.com`, `*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    /// Lower case, A-labels, no trailing dot.
    name: String,
    /// One or more labels in front of `name`, and never `name` itself.
    below: bool,
}

impl HostPattern {
    /// Whether `name` (lower case, no trailing dot) matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if self.below {
            name.strip_suffix(self.name.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        } else {
            name == self.name
        }
    }

    /// Whether every name that `other` matches matches too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.below {
            self.below && (self.name == other.name || self.matches(&other.name))
        } else {
            self.matches(&other.name)
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.below { "*." } else { "" })?;
        out.write_str(&self.name)
    }
}

/// Reads a name of a rule.
pub fn host(text: &str) -> Result<HostPattern, Problem> {
    let bad = |message: String, hint: &str| problem(Code::BadHost, message, hint);
    let shown = quoted(text);
    if text.contains("://") || text.contains('/') {
        return bad(format!("{shown} is no name"), "write the name only: ports go under `ports`");
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return problem(
            Code::BadHost,
            format!("{shown} is an address, not a name"),
            format!("write `address: {}`", address.to_canonical()),
        );
    }
    if text.contains(':') {
        return bad(format!("{shown} is no name"), "write the name only: ports go under `ports`");
    }
    let (below, plain) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if plain.contains('*') {
        return bad(
            format!("{shown} has a `*` that is not the first label"),
            "`*.example.com` is every name below `example.com`, of one label or more; nothing else has a `*`",
        );
    }
    if plain.is_empty() || plain == "." {
        return bad(format!("{shown} is every name"), "name a domain, for example `*.example.com`");
    }
    let Ok(name) = idna::domain_to_ascii(plain) else {
        return bad(
            format!("{shown} is no name that can be asked for"),
            "write it as browsers show it, for example `bücher.example`, or in its `xn--` form",
        );
    };
    // IDNA makes one of the other full stops.
    let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
    for label in name.split('.') {
        if label.is_empty() {
            return bad(format!("{shown} has an empty label"), "remove the dot that has nothing beside it");
        }
        if label.len() > MAX_LABEL {
            return bad(
                format!("{shown} has a label of {} bytes", label.len()),
                "a label has at most 63 bytes",
            );
        }
        if let Some(wrong) = label.chars().find(|c| !is_name_char(*c)) {
            return problem(
                Code::BadHost,
                format!("{shown} has {wrong:?} in it"),
                "names have letters, digits, `-` and `_`",
            );
        }
    }
    if name.len() > MAX_NAME {
        return bad(format!("{shown} has {} bytes", name.len()), "a name has at most 253 bytes");
    }
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return bad(
            format!("{shown} would be read as an address"),
            "the last label of a name is not a number; for an address write `address:`",
        );
    }
    Ok(HostPattern { name, below })
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')
}

/// A name that was asked for, in the form that patterns have: `None` where no pattern can match it. A label may hold
/// any byte, a dot too, and must not be taken for two.
#[must_use]
pub fn asked<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut name = String::new();
    for label in labels {
        if !name.is_empty() {
            name.push('.');
        }
        for &byte in label {
            let c = char::from(byte.to_ascii_lowercase());
            if !is_name_char(c) {
                return None;
            }
            name.push(c);
        }
    }
    (!name.is_empty() && name.len() <= MAX_NAME).then_some(name)
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameClasses {
    exact: HashMap<String, u16>,
    below: HashMap<String, u16>,
    /// Of each class, from class 1: positions in `allow`, ascending.
    rules: Vec<Vec<u32>>,
    /// Of what the classes are made.
    digest: [u8; 32],
}

/// The rules match names in more ways than there are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyNames {
    pub classes: usize,
}

/// Classes that an image can tell apart.
pub const MAX_NAME_CLASSES: usize = u16::MAX as usize;

impl NameClasses {
    /// The classes of a policy's rules.
    ///
    /// # Errors
    /// [`TooManyNames`] where there are more than [`MAX_NAME_CLASSES`].
    pub fn of(policy: &NetworkPolicy) -> Result<Self, TooManyNames> {
        let mut by_pattern: HashMap<&HostPattern, Vec<u32>> = HashMap::new();
        for (position, rule) in policy.allow.iter().enumerate() {
            for host in &rule.hosts {
                by_pattern.entry(host).or_default().push(position as u32);
            }
        }
        let patterns: BTreeSet<&HostPattern> = by_pattern.keys().copied().collect();
        let mut classes = NameClasses::default();
        let mut numbers: HashMap<Vec<u32>, u16> = HashMap::new();
        let mut hash = Sha256::new();
        for pattern in patterns {
            let mut rules = by_pattern[pattern].clone();
            for parent in parents(&pattern.name) {
                let above = HostPattern { name: parent.to_owned(), below: true };
                rules.extend(by_pattern.get(&above).into_iter().flatten());
            }
            rules.sort_unstable();
            rules.dedup();
            let next = classes.rules.len() + 1;
            let number = match numbers.get(&rules) {
                Some(&known) => known,
                None => {
                    let number = u16::try_from(next).map_err(|_| TooManyNames { classes: next })?;
                    classes.rules.push(rules.clone());
                    numbers.insert(rules, number);
                    number
                }
            };
            hash.update(format!("{pattern} {number}\n"));
            let map = if pattern.below { &mut classes.below } else { &mut classes.exact };
            map.insert(pattern.name.clone(), number);
        }
        classes.digest = hash.finalize().into();
        Ok(classes)
    }

    /// Whether no rule grants a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many classes there are; they are numbered from 1.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// The class of a name (lower case, no trailing dot); `None`: no rule matches it.
    #[must_use]
    pub fn class_of(&self, name: &str) -> Option<u16> {
        let exact = self.exact.get(name).copied();
        exact.or_else(|| parents(name).find_map(|parent| self.below.get(parent).copied()))
    }

    /// The class of a name that a rule of `policy` (whose classes these are) grants to `program`, at whatever port.
    #[must_use]
    pub fn granted(&self, policy: &NetworkPolicy, program: &Membership, name: &str) -> Option<u16> {
        let holds = |&rule: &u32| policy.allow[rule as usize].programs.grants(program);
        self.class_of(name).filter(|&number| self.rules(number).iter().any(holds))
    }

    /// The rules of a class, as positions in `allow`.
    #[must_use]
    pub fn rules(&self, class: u16) -> &[u32] {
        usize::from(class).checked_sub(1).and_then(|index| self.rules.get(index)).map_or(&[], Vec::as_slice)
    }

    /// SHA-256 of the names and their numbers: the image's automaton knows the numbers only. Zeros without names.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        if self.is_empty() { [0; 32] } else { self.digest }
    }
}

/// What a name lies below, nearest first.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[dot + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        host(text).unwrap()
    }

    #[test]
    fn names_are_compared_in_one_form() {
        for (written, read) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.COM.", "api.example.com"),
            ("*.example.com", "*.example.com"),
            ("*.Example.com.", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("bücher。example", "xn--bcher-kva.example"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("host", "host"),
        ] {
            assert_eq!(pattern(written).to_string(), read, "{written}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let longest = vec!["a".repeat(63); 4].join(".");
        for wrong in [
            "",
            ".",
            "*",
            "*.",
            "a..b",
            ".a",
            "a.*.b",
            "a*.b",
            "*a.b",
            "**.b",
            "*.*.b",
            "a b",
            "a\0b",
            "10.0.0.1",
            "1.2.3",
            "::1",
            "[::1]",
            "https://a.b",
            "a.b:443",
            "a/b",
            &long,
            &longest,
            "a.b..",
            "xn--0.example",
        ] {
            let error = host(wrong).unwrap_err();
            assert_eq!(error.code, Code::BadHost, "{wrong}");
            assert!(!error.hint.is_empty());
        }
        assert!(host(&format!("{}.b", "a".repeat(63))).is_ok());
    }

    #[test]
    fn a_star_is_one_label_or_more_and_never_the_domain_itself() {
        let star = pattern("*.example.com");
        for inside in ["a.example.com", "a.b.example.com", "-.example.com"] {
            assert!(star.matches(inside), "{inside}");
        }
        for outside in ["example.com", ".example.com", "aexample.com", "a.example.com.evil.net", "com", ""] {
            assert!(!star.matches(outside), "{outside}");
        }
        assert!(star.covers(&pattern("a.example.com")) && star.covers(&pattern("*.b.example.com")));
        assert!(star.covers(&star) && !star.covers(&pattern("example.com")));
        assert!(!pattern("a.example.com").covers(&star) && !star.covers(&pattern("*.com")));
    }

    #[test]
    fn a_dot_inside_a_label_makes_no_second_label() {
        let labels = |labels: &[&'static [u8]]| asked(labels.iter().copied());
        assert_eq!(labels(&[b"API", b"example", b"com"]).as_deref(), Some("api.example.com"));
        assert_eq!(labels(&[b"api.example", b"com"]), None);
        assert_eq!(labels(&[b"a\0", b"com"]), None);
        assert_eq!(labels(&[]), None);
    }
}
