//! The path automaton matches what a plain backtracking matcher matches.

use agent_monitor_common::automaton::{TERMINAL, step};
use agent_monitor_common::image::{field, header};
use proptest::prelude::*;

use crate::agent::scan::claimed_by;
use crate::policy::compile::{self, Claims, CompileError, GlobError, Image, Overlap, claims_within};

/// What the start-up scan makes of an executable's path; the exec hook walks the same steps.
fn claimed(image: &Image, path: &str) -> Option<u32> {
    claimed_by(&image.words, path.as_bytes())
}

fn compile(globs: &[(u32, &str)]) -> Claims {
    let globs: Vec<_> = globs.iter().map(|&(slot, glob)| (slot, glob.to_owned())).collect();
    compile::claims(&globs).unwrap()
}

/// `*` and `**` in the independent reading, where no text that alternatives bring together can make one of the other.
const STAR: u8 = 1;
const STARS: u8 = 2;

/// The independent reading: braces are multiplied out as text, then the pattern is tried from left to right.
pub(in crate::policy::compile) fn naive(glob: &str, path: &str) -> bool {
    let mut marked: Vec<u8> = Vec::new();
    for (at, &byte) in glob.as_bytes().iter().enumerate() {
        let again = at > 0 && glob.as_bytes()[at - 1] == b'*';
        match (byte, marked.last_mut()) {
            (b'*', Some(last)) if again => *last = STARS,
            (b'*', _) => marked.push(STAR),
            _ => marked.push(byte),
        }
    }
    expand(&marked).iter().any(|glob| matches(glob, 0, path.as_bytes()))
}

fn expand(glob: &[u8]) -> Vec<Vec<u8>> {
    // The last `{` has no brace inside.
    let Some(open) = glob.iter().rposition(|&byte| byte == b'{') else { return vec![glob.to_vec()] };
    let close = open + glob[open..].iter().position(|&byte| byte == b'}').unwrap();
    let alternatives = glob[open + 1..close].split(|&byte| byte == b',');
    alternatives
        .flat_map(|alternative| expand(&[&glob[..open], alternative, &glob[close + 1..]].concat()))
        .collect()
}

/// Whether `glob[at..]` matches `path`.
fn matches(glob: &[u8], at: usize, path: &[u8]) -> bool {
    let rest = &glob[at..];
    let begins = at == 0 || glob[at - 1] == b'/';
    let through = |skip: usize, ok: &dyn Fn(u8) -> bool| {
        !path.is_empty() && ok(path[0]) && matches(glob, at + skip, &path[1..])
    };
    match rest {
        [] => path.is_empty(),
        [STARS, b'/', ..] if begins => {
            matches(glob, at + 2, path)
                || (0..path.len()).any(|i| path[i] == b'/' && matches(glob, at + 2, &path[i + 1..]))
        }
        [STARS, ..] => (0..=path.len()).any(|i| matches(glob, at + 1, &path[i..])),
        [STAR, ..] => {
            let component = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
            (0..=component).any(|i| matches(glob, at + 1, &path[i..]))
        }
        [b'?', ..] => through(1, &|byte| byte != b'/'),
        [b'[', b'!', low, b'-', high, b']', ..] => through(6, &|b| b != b'/' && !(*low..=*high).contains(&b)),
        [b'[', low, b'-', high, b']', ..] => through(5, &|b| b != b'/' && (*low..=*high).contains(&b)),
        [literal, ..] => through(1, &|byte| byte == *literal),
    }
}

/// Globs over few letters, so that they meet.
pub(in crate::policy::compile) fn glob() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "/", "/", "ab"]).prop_map(str::to_owned),
        2 => Just("*".to_owned()),
        1 => Just("**/".to_owned()),
        1 => Just("**".to_owned()),
        1 => Just("?".to_owned()),
        1 => prop::sample::select(vec!["[a-b]", "[!a-a]", "[b-c]"]).prop_map(str::to_owned),
    ];
    let flat = prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat());
    let nested = flat.prop_recursive(2, 8, 3, |inner| {
        prop::collection::vec(inner, 1..4).prop_map(|alternatives| format!("{{{}}}", alternatives.join(",")))
    });
    prop::collection::vec(nested, 1..4).prop_map(|parts| format!("/{}", parts.concat()))
}

pub(in crate::policy::compile) fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "/", "ab", "/a"]), 0..8)
        .prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn automaton_and_naive_matcher_agree(
        globs in prop::collection::vec((0..64_u32, glob()), 1..4),
        paths in prop::collection::vec(path(), 60),
    ) {
        let Claims { image, overlaps } = compile::claims(&globs).unwrap();
        for path in &paths {
            let lowest = globs.iter().filter(|(_, glob)| naive(glob, path)).map(|&(slot, _)| slot).min();
            prop_assert_eq!(claimed(&image, path), lowest, "{:?} {}", globs, path);
        }
        // An overlap's example is a path of both, and overlaps are found whenever the paths at hand show one.
        for Overlap { wins, loses, example } in &overlaps {
            for slot in [wins, loses] {
                prop_assert!(globs.iter().any(|(s, glob)| s == slot && naive(glob, example)), "{globs:?} {example}");
            }
        }
        for path in &paths {
            let mut slots: Vec<u32> = globs.iter().filter(|(_, glob)| naive(glob, path)).map(|g| g.0).collect();
            slots.sort_unstable();
            slots.dedup();
            if let [wins, loses, ..] = slots[..] {
                prop_assert!(overlaps.iter().any(|o| o.wins == wins && o.loses == loses));
            }
        }
    }

    #[test]
    fn the_order_of_claims_changes_no_byte(
        (before, after) in prop::collection::vec((0..3_u32, glob()), 1..4)
            .prop_flat_map(|globs| (Just(globs.clone()), Just(globs).prop_shuffle())),
    ) {
        prop_assert_eq!(compile::claims(&before).unwrap(), compile::claims(&after).unwrap());
    }

    #[test]
    fn any_text_is_a_glob_or_an_error(glob in "[/a*?\\[\\]{},!\\\\~-]{0,24}") {
        if let Ok(claims) = compile::claims(&[(0, glob)]) {
            prop_assert!(claims.overlaps.is_empty());
        }
    }
}

#[test]
fn globs_mean_what_people_expect() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "/usr/bin/codex",
            &["/usr/bin/codex"],
            &["/usr/bin/codex2", "/usr/bin/code", "/x/usr/bin/codex", ""],
        ),
        ("/usr/bin/*", &["/usr/bin/a", "/usr/bin/"], &["/usr/bin", "/usr/bin/a/b"]),
        ("/usr/**", &["/usr/a", "/usr/a/b"], &["/usr", "/usrx/a"]),
        ("/a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b"], &["/ab", "/a/xb", "/a/b/c"]),
        ("/a**b", &["/ab", "/a/x/b", "/axb"], &["/a/b/c"]),
        ("**/node", &["/node", "/usr/bin/node"], &["/usr/bin/nodes", "/xnode", "node", "@/node", "@x/node"]),
        ("/v?.[0-9]", &["/v1.0", "/vx.9"], &["/v/.0", "/v1.x", "/v.0"]),
        ("/[!a-c]", &["/d"], &["/a", "//", "/"]),
        ("/[]x-]", &["/]", "/x", "/-"], &["/y"]),
        ("/{a,b/{c,d},}x", &["/ax", "/b/cx", "/b/dx", "/x"], &["/bx", "/cx"]),
        ("/{**,x}/y", &["/y", "/a/y", "/a/b/y", "/x/y"], &["y", "/ay"]),
        ("/{a/,b}**/c", &["/a/c", "/a/x/c", "/b/c", "/bx/c"], &["/ac", "/bc"]),
        ("/\\*\\{a,b", &["/*{a,b"], &["/x{a,b"]),
        ("/é?", &["/éa"], &["/éé", "/é"]),
    ];
    for (glob, hits, misses) in cases {
        let Claims { image, .. } = compile(&[(5, glob)]);
        for path in *hits {
            assert_eq!(claimed(&image, path), Some(5), "{glob} {path}");
        }
        for path in *misses {
            assert_eq!(claimed(&image, path), None, "{glob} {path}");
        }
    }
}

#[test]
fn the_lower_slot_gets_a_path_that_two_claim() {
    let Claims { image, overlaps } =
        compile(&[(7, "/usr/bin/*"), (2, "/usr/**/code"), (9, "/opt/x"), (7, "/usr/bin/c*")]);
    assert_eq!(claimed(&image, "/usr/bin/code"), Some(2));
    assert_eq!(claimed(&image, "/usr/bin/codex"), Some(7));
    assert_eq!(claimed(&image, "/opt/x"), Some(9));
    assert_eq!(overlaps, [Overlap { wins: 2, loses: 7, example: "/usr/bin/code".into() }]);
}

#[test]
fn no_claims_match_nothing() {
    let Claims { image, overlaps } = compile(&[]);
    assert_eq!(claimed(&image, "/bin/sh"), None);
    assert_eq!(claimed(&image, ""), None);
    assert!(overlaps.is_empty());
}

#[test]
fn a_glob_that_makes_no_sense_says_why() {
    let cases = [
        ("usr/bin", GlobError::NotAbsolute),
        ("", GlobError::NotAbsolute),
        ("~/x", GlobError::Home),
        ("/a{b,{c}", GlobError::OpenBrace { at: 2 }),
        ("/a}", GlobError::CloseBrace { at: 2 }),
        ("/a[bc", GlobError::OpenClass { at: 2 }),
        ("/a[", GlobError::OpenClass { at: 2 }),
        ("/[c-a]", GlobError::ReversedRange { at: 2 }),
        ("/[é]", GlobError::NotAscii { at: 1 }),
        ("/a\\", GlobError::Backslash),
    ];
    for (glob, expected) in cases {
        match compile::claims(&[(1, glob.to_owned())]) {
            Err(CompileError::Glob { slot: 1, error, .. }) => assert_eq!(error, expected, "{glob}"),
            other => panic!("{glob}: {other:?}"),
        }
    }
    let deep = format!("/{}{}", "{".repeat(33), "}".repeat(33));
    assert!(matches!(compile::claims(&[(1, deep)]), Err(CompileError::Glob { error: GlobError::Depth, .. })));
    assert!(matches!(compile::claims(&[(64, "/a".to_owned())]), Err(CompileError::Slot { slot: 64 })));
}

/// A sum of stars whose subsets explode ends in an error that names it, soon.
#[test]
fn claims_that_do_not_fit_are_refused_by_name() {
    let exploding = format!("/**/*a{}", "?".repeat(40));
    let globs = [(0, "/usr/bin/codex".to_owned()), (1, exploding.clone())];
    match claims_within(&globs, 8_192) {
        Err(CompileError::ClaimsTooLarge { globs: 2, largest, .. }) => assert_eq!(largest, exploding),
        other => panic!("{other:?}"),
    }
}

/// Most of an agent's exec events end their walk early: a prefix nobody claims, or a directory claimed whole.
#[test]
fn settled_paths_end_the_walk() {
    let Claims { image, .. } = compile(&[(3, "/opt/agents/**")]);
    let walk = |path: &str| {
        path.bytes().try_fold(field(&image, header::START_EXE) as u32, |state, byte| {
            if state & TERMINAL != 0 { Err(state) } else { Ok(step(&image, state, byte)) }
        })
    };
    assert_eq!(walk("/usr/bin/env"), Err(TERMINAL));
    assert_eq!(walk("/opt/agents/x/y"), Err(TERMINAL | 4));
}
