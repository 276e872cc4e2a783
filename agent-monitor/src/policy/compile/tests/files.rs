//! The path rules of a profile mean what their globs, read one by one, mean.

use std::path::Path;
use std::sync::Arc;

use agent_monitor_common::automaton::{TERMINAL, accept, step};
use agent_monitor_common::decide::Decision;
use agent_monitor_common::event::Reason;
use agent_monitor_common::image::{Class, HAS_EXEC, HAS_FILES, HAS_UNIX, Settings, class, field, header};
use agent_monitor_common::path::{
    ALL_RIGHTS, DENIED_BELOW, Right, Rights, decide_answer, decide_path, directory_answer, leads_astray,
    move_denied,
};
use proptest::prelude::*;

use super::path::{glob, naive, path};
use crate::policy::attribute;
use crate::policy::compile::{self, CompileError, Image, PathMatcher, profile_within, sample, sample_paths};
use crate::policy::{
    Condition, ExecPolicy, FilesPolicy, Membership, PathRule, ProgramRef, ResolvedProfile, Source, UnixPolicy,
};

const LISTS: [&str; 8] = [
    "files.read",
    "files.write",
    "files.deny",
    "exec.allow",
    "exec.deny",
    "unix.allow",
    "unix.deny",
    "tried out",
];

fn source(line: usize) -> Source {
    Source { file: Arc::from(Path::new("t.yaml")), line: line as u32, column: 1 }
}

/// A profile of (index in [`LISTS`], glob) pairs.
pub(super) fn profile(rules: &[(usize, String)]) -> ResolvedProfile {
    let list = |wanted: usize| -> Vec<PathRule> {
        let globs = rules.iter().filter(|(list, _)| *list == wanted).enumerate();
        globs
            .map(|(i, (list, glob))| PathRule {
                id: format!("t:{}[{i}]", LISTS[*list]),
                source: source(i + 1),
                glob: glob.clone(),
                programs: Condition::default(),
                access: None,
            })
            .collect()
    };
    let mut profile = sample::network_profile(3, 1);
    profile.name = "t".to_owned();
    profile.filesystem =
        Some(FilesPolicy { read: list(0), write: list(1), deny: list(2), source: source(1) });
    profile.exec = Some(ExecPolicy {
        allow: list(3),
        deny: list(4),
        pinned: Vec::new(),
        pins: Vec::new(),
        source: source(2),
    });
    profile.unix = Some(UnixPolicy { allow: list(5), deny: list(6), source: source(3) });
    profile.audited = list(7);
    profile.homes = vec!["/home/ann".into(), "/root".into()];
    profile
}

fn written(rules: &[(usize, &str)]) -> ResolvedProfile {
    profile(&rules.iter().map(|&(list, glob)| (list, glob.to_owned())).collect::<Vec<_>>())
}

/// The independent reading.
fn expected(rules: &[(usize, String)], path: &str, needed: Rights) -> Decision {
    let hit = |list: usize| rules.iter().any(|(of, glob)| *of == list && naive(glob, path));
    let needs = |right: Right| needed & right as Rights != 0;
    if hit(2) || needs(Right::Execute) && hit(4) || needs(Right::Connect) && hit(6) {
        return Decision::DenyRule;
    }
    let granted = Right::ALL.into_iter().zip([0, 1, 3, 5]).filter(|(right, _)| needs(*right));
    match granted.map(|(_, list)| list).all(hit) {
        true if hit(7) => Decision::Audit,
        true => Decision::Allow,
        false => Decision::DenyDefault,
    }
}

/// Where the walk over a path ends.
fn state(image: &Image, path: &str) -> u32 {
    path.bytes().fold(Class::PLAIN.field(image, class::START_PATH) as u32, |state, byte| {
        if state & TERMINAL == 0 { step(image, state, byte) } else { state }
    })
}

fn decide(image: &Image, path: &str, right: Right) -> Decision {
    decide_path(image, Class::PLAIN, path.as_bytes(), right as Rights)
}

pub(super) fn rules() -> impl Strategy<Value = Vec<(usize, String)>> {
    prop::collection::vec((0..LISTS.len(), glob()), 0..7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn automaton_naive_reading_and_matcher_agree(
        rules in rules(),
        paths in prop::collection::vec((path(), 1..=ALL_RIGHTS), 60),
    ) {
        let profile = profile(&rules);
        let image = compile::profile(&profile).unwrap();
        let matcher = PathMatcher::new(&profile);
        for (path, needed) in &paths {
            let wanted = expected(&rules, path, *needed);
            prop_assert_eq!(decide_path(&image, Class::PLAIN, path.as_bytes(), *needed), wanted, "{:?} {} {}", rules, path, needed);
            let denying = matcher.denying(&Membership::PLAIN, path.as_bytes(), *needed);
            prop_assert_eq!(denying.is_some(), wanted == Decision::DenyRule, "{:?} {}", rules, path);
            let auditing = matcher.auditing(&Membership::PLAIN, path.as_bytes(), *needed);
            prop_assert!(wanted != Decision::Audit || auditing.is_some(), "{:?} {}", rules, path);
            if wanted.passes() {
                for right in Right::ALL.into_iter().filter(|right| needed & *right as Rights != 0) {
                    prop_assert!(matcher.granting(&Membership::PLAIN, path.as_bytes(), right).is_some());
                }
            }
        }
    }

    #[test]
    fn a_directory_above_a_denied_path_is_marked_as_the_matcher_says(
        rules in rules(),
        paths in prop::collection::vec(path(), 60),
    ) {
        let profile = profile(&rules);
        let image = compile::profile(&profile).unwrap();
        let matcher = PathMatcher::new(&profile);
        for path in &paths {
            let marked = accept(&image, state(&image, path)) & DENIED_BELOW != 0;
            // What may not be written may not be moved anyway, so its mark says nothing.
            let write = Right::Write as Rights;
            let says = matcher.denying_below(&Membership::PLAIN, path.as_bytes()).is_some()
                && matcher.denying(&Membership::PLAIN, path.as_bytes(), write).is_none();
            prop_assert_eq!(marked, says, "{:?} {}", rules, path);
        }
    }

    /// Independent of how marks are made: whoever moves a directory that a denied path lies in is stopped, unless the
    /// deny finds the path under its new name too.
    #[test]
    fn no_denied_path_moves_out_of_an_anchored_deny(
        (first, rest) in (prop::sample::select(vec!["/a", "/b", "/ab"]), glob()),
        paths in prop::collection::vec(path(), 60),
        to in prop::sample::select(vec!["/c", "/a/c", "/b/a", "/c/a"]),
    ) {
        let deny = format!("{first}{rest}");
        let rules = [(1, "/**".to_owned()), (2, deny.clone())];
        let image = compile::profile(&profile(&rules)).unwrap();
        let allows = |path: &str| decide(&image, path, Right::Write) == Decision::Allow;
        for path in paths.iter().filter(|path| !path.contains("//") && naive(&deny, path)) {
            for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
                let (directory, below) = path.split_at(at);
                let moves = !move_denied(&image, state(&image, directory), state(&image, to));
                if moves && allows(directory) && allows(to) {
                    let moved = format!("{to}{below}");
                    prop_assert!(naive(&deny, &moved), "{deny}: {directory} -> {to} frees {path}");
                }
            }
        }
    }

    #[test]
    fn the_order_of_rules_changes_no_byte(
        (before, after) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
    ) {
        let image = |rules: &[(usize, String)]| compile::profile(&profile(rules)).unwrap();
        prop_assert_eq!(image(&before), image(&after));
    }
}

#[test]
fn no_symlink_takes_the_place_of_a_directory_on_the_way_to_a_denied_name() {
    let image = compile::profile(&written(&[
        (1, "/**"),
        (2, "~/.ssh/**"),
        (2, "**/.git/hooks/*"),
        (2, "/w/**/.env"),
    ]))
    .unwrap();
    let denied = |name: &str| {
        let (directory, _) = name.rsplit_once('/').unwrap();
        leads_astray(&image, state(&image, directory), state(&image, name))
    };
    for name in ["/srv/.git", "/srv/.git/hooks", "/w/.git", "/w/a/.git/hooks", "/home/ann/.ssh", "/home/ann"]
    {
        assert!(denied(name), "{name}");
    }
    for name in
        ["/srv/a", "/w/a", "/w/node_modules/.bin/tool", "/srv/.git/current", "/home/ann/a", "/w/a/hooks"]
    {
        assert!(!denied(name), "{name}");
    }
}

#[test]
fn a_denied_name_keeps_the_directories_above_it_in_place() {
    let image = compile::profile(&written(&[
        (1, "/**"),
        (2, "~/.ssh/**"),
        (2, "**/.git/hooks/*"),
        (2, "/w/**/.env"),
        (2, "/home/*/keys/x"),
    ]))
    .unwrap();
    let denied = |from: &str, to: &str| move_denied(&image, state(&image, from), state(&image, to));
    for (from, to) in [
        ("/home", "/x"),
        ("/home/ann", "/home/x"),
        ("/home/ann/.ssh", "/home/ann/x"),
        ("/root", "/x"),
        ("/srv/.git", "/srv/x"),
        ("/srv/.git", "/home/.git"),
        ("/w/.git/hooks", "/w/hooks"),
        ("/w", "/x"),
        // A `.env` may lie in it, which only `/w/**` denies.
        ("/w/a", "/x/a"),
        ("/w/a/b", "/b"),
        ("/home/ben/keys", "/home/ben/k"),
        ("/home/ben", "/ben"),
        // Nor may something get a denied name.
        ("/x", "/w/x"),
        ("/x", "/srv/.git"),
        ("/x", "/home/ann/.ssh"),
    ] {
        assert!(denied(from, to), "{from} -> {to}");
    }
    // Every rule says the same about what lies in it under the new name.
    for (from, to) in [
        ("/home/ben/src", "/home/ben/dst"),
        ("/home/ben/src", "/srv/src"),
        ("/w/a", "/w/b"),
        ("/w/a/b", "/w/b"),
        ("/w/a/.git", "/w/b/.git"),
        ("/srv/.git", "/opt/.git"),
        ("/srv/.git/hooks", "/opt/a/.git/hooks"),
        ("/srv", "/opt"),
        ("/root/x/.gitx", "/root/x/y"),
    ] {
        assert!(!denied(from, to), "{from} -> {to}");
    }
}

#[test]
fn a_grant_of_what_lies_in_a_directory_is_one_to_list_it() {
    let image =
        compile::profile(&written(&[(0, "/usr/**"), (0, "/etc/*"), (0, "/srv/a"), (2, "/usr/secret/**")]))
            .unwrap();
    let lists =
        |path: &str| decide_answer(directory_answer(&image, state(&image, path)), Right::Read as Rights);
    assert_eq!(lists("/usr"), Decision::Allow);
    assert_eq!(lists("/usr/bin"), Decision::Allow);
    assert_eq!(lists("/etc"), Decision::Allow);
    assert_eq!(lists("/usr/secret"), Decision::DenyRule);
    assert_eq!(lists("/srv"), Decision::DenyDefault);
    assert_eq!(lists("/"), Decision::DenyDefault);
    assert_eq!(decide(&image, "/usr", Right::Read), Decision::DenyDefault, "only a directory is listed");
}

/// Profiles as large as people write them, and paths that spell their globs or nearly do.
#[test]
fn sampled_profiles_mean_what_their_globs_mean() {
    let mut seen = [0; 3];
    for seed in 0..6 {
        let size = 20 + 30 * seed as usize;
        let profile = sample_paths::path_profile(size, sample_paths::Mix::of(size), seed);
        let (files, exec) = (profile.filesystem.as_ref().unwrap(), profile.exec.as_ref().unwrap());
        let lists = [&files.read, &files.write, &files.deny, &exec.allow, &exec.deny];
        let rules: Vec<(usize, String)> = lists
            .iter()
            .enumerate()
            .flat_map(|(list, rules)| rules.iter().map(move |rule| (list, &rule.glob)))
            .flat_map(|(list, glob)| {
                compile::expand_home(glob, &profile.homes).into_iter().map(move |glob| (list, glob))
            })
            .collect();
        let image = compile::profile(&profile).unwrap();
        let matcher = PathMatcher::new(&profile);
        let paths = sample_paths::paths(&profile, 200, seed + 100);
        let paths = paths.iter().filter_map(|path| std::str::from_utf8(path).ok());
        for path in paths.filter(|path| path.starts_with('/') && path.len() < 400) {
            for right in Right::ALL.into_iter().take(3) {
                let wanted = expected(&rules, path, right as Rights);
                assert_eq!(decide(&image, path, right), wanted, "seed {seed}: {path} {right:?}");
                let denying = matcher.denying(&Membership::PLAIN, path.as_bytes(), right as Rights);
                assert_eq!(denying.is_some(), wanted == Decision::DenyRule, "seed {seed}: {path} {right:?}");
                seen[wanted as usize] += 1;
            }
        }
    }
    assert!(seen.iter().all(|&count| count > 200), "{seen:?}");
}

/// What `cargo xtask bench` measures must stay possible: many names that are denied anywhere.
#[test]
fn hundreds_of_floating_names_fit() {
    let profile = sample_paths::path_profile(300, sample_paths::Mix::of(300), 7);
    let image = compile::profile(&profile).unwrap();
    assert!(image.words_used() < 1 << 17, "{} words", image.words_used());
}

#[test]
fn a_tilde_is_every_home() {
    let image = compile::profile(&written(&[(0, "~/x"), (3, "{~/bin,/opt}/*")])).unwrap();
    assert_eq!(decide(&image, "/home/ann/x", Right::Read), Decision::Allow);
    assert_eq!(decide(&image, "/root/x", Right::Read), Decision::Allow);
    assert_eq!(decide(&image, "/home/ben/x", Right::Read), Decision::DenyDefault);
    assert_eq!(decide(&image, "/root/bin/tool", Right::Execute), Decision::Allow);
    assert_eq!(decide(&image, "/opt/tool", Right::Execute), Decision::Allow);
}

#[test]
fn paths_and_abstract_names_of_sockets_are_never_taken_for_each_other() {
    let image = compile::profile(&written(&[
        (5, "/run/**"),
        (5, "**/agent.sock"),
        (5, "@/run/x"),
        (5, "@a{b,/c}*"),
        (6, "@**/secret"),
        (6, "**/docker.sock"),
    ]))
    .unwrap();
    let connects = |name: &str| decide(&image, name, Right::Connect);
    for granted in ["/run/x", "/a/agent.sock", "@/run/x", "@ab", "@a/cd"] {
        assert_eq!(connects(granted), Decision::Allow, "{granted}");
    }
    // A stranger's abstract name ends as a granted path does.
    for stranger in ["@/run/y", "@/a/agent.sock", "@x/agent.sock", "run/x", "@", "@a", "@/docker.sock"] {
        assert_eq!(connects(stranger), Decision::DenyDefault, "{stranger}");
    }
    for denied in ["@/secret", "@/a/secret", "@x/secret", "/run/docker.sock"] {
        assert_eq!(connects(denied), Decision::DenyRule, "{denied}");
    }
    assert_eq!(connects("/secret"), Decision::DenyDefault);
    assert_eq!(decide(&image, "/run/x", Right::Read), Decision::DenyDefault);
    assert_eq!(
        decide_path(&image, Class::PLAIN, b"@/run/x\0", Right::Connect as Rights),
        Decision::DenyDefault,
        "a zero byte is part of the name"
    );
}

#[test]
fn only_sections_that_are_written_are_judged() {
    let flags = |profile: &ResolvedProfile| {
        let image = compile::profile(profile).unwrap();
        Settings::from_word(field(&image, header::SETTINGS)).flags & (HAS_FILES | HAS_EXEC | HAS_UNIX)
    };
    let mut profile = written(&[]);
    assert_eq!(flags(&profile), HAS_FILES | HAS_EXEC | HAS_UNIX);
    profile.unix = None;
    assert_eq!(flags(&profile), HAS_FILES | HAS_EXEC);
    profile.exec = None;
    assert_eq!(flags(&profile), HAS_FILES);
    profile.filesystem = None;
    assert_eq!(flags(&profile), 0);
}

#[test]
fn the_rule_behind_a_verdict_is_named() {
    let profile = written(&[(0, "/a/**"), (2, "/a/b/**"), (4, "/a/x"), (6, "@b/*")]);
    let matcher = PathMatcher::new(&profile);
    let by = |path: &str, right: Right, reason| {
        attribute::path(&profile, &matcher, &Membership::PLAIN, path.as_bytes(), right as Rights, reason)
            .id
            .into_owned()
    };
    assert_eq!(by("/a/b/c", Right::Read, Reason::Rule), "t:files.deny[0]");
    assert_eq!(by("/a/b", Right::Read, Reason::Rule), "t:files.deny[0]", "a listed directory");
    assert_eq!(by("/a/b", Right::Write, Reason::DeniedBelow), "t:files.deny[0]");
    assert_eq!(by("/a/x", Right::Execute, Reason::Rule), "t:exec.deny[0]");
    assert_eq!(by("/b", Right::Read, Reason::Default), "t:files.default");
    assert_eq!(by("/b", Right::Execute, Reason::Default), "t:exec.default");
    assert_eq!(by("/b", Right::Connect, Reason::Default), "t:unix.default");
    assert_eq!(by("@b/x", Right::Connect, Reason::Rule), "t:unix.deny[0]");
    assert_eq!(by("/a/b/c", Right::Connect, Reason::Rule), "t:files.deny[0]");
}

/// The rule that is named is one that holds for the program that asked.
#[test]
fn the_rule_behind_a_verdict_about_a_socket_is_that_of_the_program() {
    let mut profile = written(&[(5, "/run/**"), (6, "/run/a"), (6, "/run/*")]);
    let git = ProgramRef::Name("git".to_owned());
    profile.programs = [("git".to_owned(), vec!["/usr/bin/git".to_owned()])].into();
    let unix = profile.unix.as_mut().unwrap();
    unix.allow[0].programs.exe = vec![git.clone()];
    unix.deny[0].programs.except = vec![git.clone()];
    unix.deny[1].programs.exe = vec![git.clone()];
    let matcher = PathMatcher::new(&profile);
    let by = |program: &Membership, path: &str, reason| {
        attribute::path(&profile, &matcher, program, path.as_bytes(), Right::Connect as Rights, reason)
            .id
            .into_owned()
    };
    let git = Membership::Of(vec![git]);
    assert_eq!(by(&git, "/run/a", Reason::Rule), "t:unix.deny[1]");
    assert_eq!(by(&Membership::PLAIN, "/run/a", Reason::Rule), "t:unix.deny[0]");
    assert_eq!(by(&Membership::PLAIN, "/run/b", Reason::Default), "t:unix.default");
    let granting = |program: &Membership| {
        matcher.granting(program, b"/run/x/y", Right::Connect).map(|rule| rule.id.clone())
    };
    assert_eq!((granting(&git), granting(&Membership::PLAIN)), (Some("t:unix.allow[0]".to_owned()), None));
    assert_eq!(granting(&Membership::Unknown), None);
}

#[test]
fn rules_that_do_not_fit_are_refused_by_name() {
    let many: Vec<(usize, String)> = (0..200).map(|i| (0, format!("/dir{i}/name{}/**", i * 7))).collect();
    let Err(CompileError::TooLarge { dearest, .. }) = profile_within(&profile(&many), 1_200) else {
        panic!("it fits")
    };
    assert!(dearest.iter().all(|cost| cost.id.starts_with("t:files.read[") && cost.words > 0), "{dearest:?}");
    assert!(profile_within(&profile(&many), 1 << 17).is_ok());
}
