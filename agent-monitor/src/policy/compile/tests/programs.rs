//! Rules about programs: every class decides as the rules that are about its programs do, and a path's class is what its
//! sets, read one by one, say.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_monitor_common::automaton::answer;
use agent_monitor_common::decide::{Decision, decide};
use agent_monitor_common::image::{
    Class, HAS_PROGRAMS, MAX_CLASSES, PLAIN_CLASS, Settings, UNKNOWN_CLASS, field, header,
};
use agent_monitor_common::path::{ALL_RIGHTS, Right, Rights, decide_path};
use proptest::prelude::*;

use super::files;
use super::network::{self, profiles};
use super::path::{glob, naive as matches, path};
use crate::policy::attribute::{self, Attributor};
use crate::policy::compile::{self, CompileError, Image, PathMatcher, memberships, sample};
use crate::policy::{Condition, Membership, PathRule, ProgramRef, ResolvedProfile, naive};

fn name(text: &str) -> ProgramRef {
    ProgramRef::Name(text.to_owned())
}

/// Sets that overlap, and one glob that a rule writes itself.
fn sets(profile: &mut ResolvedProfile) {
    let set = |globs: &[&str]| globs.iter().map(|&glob| glob.to_owned()).collect();
    profile.programs = [
        ("git".to_owned(), set(&["/usr/bin/git", "/usr/lib/git-core/**"])),
        ("tools".to_owned(), set(&["/usr/bin/*", "~/bin/*"])),
        ("node".to_owned(), set(&["**/node"])),
    ]
    .into();
}

fn asked() -> impl Strategy<Value = ProgramRef> {
    prop::sample::select(vec![
        name("git"),
        name("tools"),
        name("node"),
        ProgramRef::Glob("/opt/**".to_owned()),
    ])
}

/// `denies`: whether the rule may have exceptions.
fn condition(denies: bool) -> impl Strategy<Value = Condition> {
    let except = if denies { 0..2_usize } else { 0..1 };
    (prop::collection::vec(asked(), 0..3), prop::collection::vec(asked(), except))
        .prop_map(|(exe, except)| Condition { exe, except, until: None })
}

/// Profiles about networks, each rule for some programs.
fn for_programs() -> impl Strategy<Value = ResolvedProfile> {
    let conditions = |denies| prop::collection::vec(condition(denies), 12);
    (profiles(), conditions(false), conditions(true), conditions(false)).prop_map(
        |(mut profile, allow, deny, listen)| {
            sets(&mut profile);
            profile.homes = vec!["/home/ann".into()];
            let network = &mut profile.network;
            for (rules, conditions) in
                [(&mut network.allow, allow), (&mut network.deny, deny), (&mut network.listen, listen)]
            {
                rules.iter_mut().zip(conditions).for_each(|(rule, condition)| rule.programs = condition);
            }
            profile
        },
    )
}

/// The class that the image gives an executable.
fn class_of(image: &Image, path: &str) -> u32 {
    PLAIN_CLASS + answer(image, field(image, header::START_EXE) as u32, path.as_bytes())
}

/// The sets of `profile` that its rules name and that hold `path`, read one by one.
fn sets_of(profile: &ResolvedProfile, path: &str) -> Membership {
    let named: BTreeSet<&ProgramRef> =
        compile::programs::conditions(profile).flat_map(|(condition, ..)| condition.refs()).collect();
    let holds = |set: &&&ProgramRef| {
        let globs = match set {
            ProgramRef::Name(name) => profile.programs[name].clone(),
            ProgramRef::Glob(glob) => vec![glob.clone()],
        };
        globs.iter().any(|glob| matches(&glob.replace('~', "/home/ann"), path))
    };
    Membership::Of(named.iter().filter(holds).map(|&set| set.clone()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_class_decides_as_the_rules_about_it_do(profile in for_programs(), seed: u64) {
        let image = compile::profile(&profile).unwrap();
        let index = Attributor::new(Arc::new(profile.clone()));
        let classes = memberships(&profile).unwrap();
        let asks = compile::programs::conditions(&profile).any(|(condition, ..)| !condition.is_any());
        prop_assert_eq!(Settings::from_word(field(&image, header::SETTINGS)).flags & HAS_PROGRAMS != 0, asks);
        for (number, program) in classes.iter().enumerate() {
            for request in sample::requests(&profile, 300, seed) {
                let (decision, rule) = naive::decide(&profile.network, program, request);
                let class = number as u32;
                prop_assert_eq!(decide(&image, Class::new(class), request), decision, "{:?} {:?}", program, request);
                let attribution = index.network(class, request);
                prop_assert_eq!(attribution.rule, rule);
                prop_assert_eq!(attribution, attribute::network(&profile, program, request));
            }
        }
        // The kernel may show a class that no image has.
        for request in sample::requests(&profile, 20, seed) {
            prop_assert_eq!(decide(&image, Class::new(MAX_CLASSES as u32 - 1), request), Decision::DenyDefault);
        }
    }

    #[test]
    fn the_class_of_a_path_is_its_sets(profile in for_programs(), random in prop::collection::vec(path(), 20)) {
        let image = compile::profile(&profile).unwrap();
        let classes = memberships(&profile).unwrap();
        let known = [
            "/usr/bin/git", "/usr/bin/git2", "/usr/lib/git-core/a/b", "/usr/bin/node", "/opt/x/node", "/opt/node",
            "/home/ann/bin/node", "/home/ann/bin/x", "/home/ben/bin/x", "/node", "/", "",
        ];
        for path in known.into_iter().chain(random.iter().map(String::as_str)) {
            let class = class_of(&image, path) as usize;
            prop_assert_eq!(&classes[class], &sets_of(&profile, path), "{}", path);
        }
        // Every class is some path's: sets that can't meet make none.
        let most = 1 << compile::programs::conditions(&profile)
            .flat_map(|(condition, ..)| condition.refs()).collect::<BTreeSet<_>>().len();
        prop_assert!(classes.len() <= most + 1);
    }

    /// Files, programs and Unix sockets: the same for paths, by rights.
    #[test]
    fn every_class_judges_paths_as_the_rules_about_it_do(
        rules in prop::collection::vec((0..7_usize, glob(), condition(true), prop::option::of(1..=ALL_RIGHTS)), 0..7),
        paths in prop::collection::vec((path(), 1..=ALL_RIGHTS), 40),
    ) {
        let mut profile = files::profile(&rules.iter().map(|(list, glob, ..)| (*list, glob.clone())).collect::<Vec<_>>());
        sets(&mut profile);
        let mut lists: [Vec<PathRule>; 7] = Default::default();
        {
            let (files, exec) = (profile.filesystem.as_mut().unwrap(), profile.exec.as_mut().unwrap());
            let unix = profile.unix.as_mut().unwrap();
            let rooms = [
                &mut files.read, &mut files.write, &mut files.deny, &mut exec.allow, &mut exec.deny,
                &mut unix.allow, &mut unix.deny,
            ];
            let mut at = [0; 7];
            for (list, _, condition, access) in &rules {
                let rule = &mut rooms[*list][at[*list]];
                at[*list] += 1;
                let denies = matches!(list, 2 | 4 | 6);
                rule.programs = Condition {
                    exe: condition.exe.clone(),
                    except: if denies { condition.except.clone() } else { vec![] },
                    until: None,
                };
                rule.access = access.filter(|_| *list == 2);
            }
            for (list, room) in lists.iter_mut().zip(rooms) {
                *list = room.clone();
            }
        }
        let image = compile::profile(&profile).unwrap();
        let matcher = PathMatcher::new(&profile);
        for (number, program) in memberships(&profile).unwrap().iter().enumerate() {
            for (path, needed) in &paths {
                let denied = |rule: &PathRule, rights: Rights| {
                    rule.access.unwrap_or(rights) & rights & needed != 0
                        && rule.programs.denies(program)
                        && matches(&rule.glob, path)
                };
                let granted = |right: Right, list: &[PathRule]| {
                    needed & right as Rights == 0
                        || list.iter().any(|rule| rule.programs.grants(program) && matches(&rule.glob, path))
                };
                let wanted = if lists[2].iter().any(|rule| denied(rule, ALL_RIGHTS))
                    || lists[4].iter().any(|rule| denied(rule, Right::Execute as Rights))
                    || lists[6].iter().any(|rule| denied(rule, Right::Connect as Rights))
                {
                    Decision::DenyRule
                } else if granted(Right::Read, &lists[0])
                    && granted(Right::Write, &lists[1])
                    && granted(Right::Execute, &lists[3])
                    && granted(Right::Connect, &lists[5])
                {
                    Decision::Allow
                } else {
                    Decision::DenyDefault
                };
                let class = Class::new(number as u32);
                prop_assert_eq!(decide_path(&image, class, path.as_bytes(), *needed), wanted, "{:?} {:?} {}", rules, program, path);
                let denying = matcher.denying(program, path.as_bytes(), *needed);
                prop_assert_eq!(denying.is_some(), wanted == Decision::DenyRule, "{:?} {}", rules, path);
            }
        }
    }
}

#[test]
fn without_conditions_there_are_two_classes_and_both_are_alike() {
    let profile = sample::network_profile(50, 4);
    let image = compile::profile(&profile).unwrap();
    assert_eq!(memberships(&profile).unwrap(), [Membership::Unknown, Membership::PLAIN]);
    assert_eq!(class_of(&image, "/usr/bin/git"), PLAIN_CLASS);
    let word = |class: Class, index| class.field(&image, index);
    for index in 0..agent_monitor_common::image::class::WORDS {
        assert_eq!(word(Class::new(UNKNOWN_CLASS), index), word(Class::PLAIN, index));
    }
}

/// The states of classes that differ in one rule are shared.
#[test]
fn a_second_class_costs_little() {
    let one = sample::network_profile(1_000, 1);
    let mut two = one.clone();
    sets(&mut two);
    two.network.allow[0].programs.exe = vec![name("git")];
    let words = |profile: &ResolvedProfile| compile::profile(profile).unwrap().words_used();
    let (one, two) = (words(&one), words(&two));
    assert!(two < one + one / 20, "{one} and {two}");

    let globs: Vec<(usize, String)> = (0..60).map(|i| (i % 2, format!("/srv/{i}/**/*.x{i}"))).collect();
    let one = files::profile(&globs);
    let mut two = one.clone();
    sets(&mut two);
    two.filesystem.as_mut().unwrap().read[0].programs.exe = vec![name("git")];
    let (one, two) = (words(&one), words(&two));
    assert!(two < one + one / 5, "{one} and {two}");
}

#[test]
fn more_overlaps_than_classes_are_an_error_that_names_the_rules() {
    let mut profile = sample::network_profile(30, 1);
    for (index, rule) in profile.network.allow.iter_mut().enumerate().take(6) {
        // Each letter in or not: 2^6 - 1 ways to be in some set.
        let glob = format!("**/*{}*", char::from(b'a' + index as u8));
        rule.programs.exe = vec![ProgramRef::Glob(glob)];
    }
    let Err(CompileError::TooManyClasses { classes: 63, most: 62, rules, .. }) = compile::profile(&profile)
    else {
        panic!("{:?}", compile::profile(&profile).map(|image| image.words_used()));
    };
    assert_eq!(rules.len(), 6);
    profile.network.allow[5].programs.exe.clear();
    assert_eq!(memberships(&profile).unwrap().len(), 2 + 31);
}

#[test]
fn the_order_of_rules_does_not_number_the_classes() {
    let mut before = network::profile(vec![], vec![], vec![]);
    let mut rules = sample::network_profile(10, 1).network.allow;
    sets(&mut before);
    for (rule, set) in rules.iter_mut().zip(["git", "node", "tools"]) {
        rule.programs.exe = vec![name(set)];
    }
    let mut after = before.clone();
    before.network.allow = rules.clone();
    rules.reverse();
    after.network.allow = rules;
    assert_eq!(compile::profile(&before).unwrap(), compile::profile(&after).unwrap());
    assert_eq!(memberships(&before).unwrap(), memberships(&after).unwrap());
}
