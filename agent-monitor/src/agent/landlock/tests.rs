//! Plans against what the automaton says of the files that exist, and against the kernel.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_monitor_common::automaton::{TERMINAL, step};
use agent_monitor_common::decide::Decision;
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::path::{Right, Rights, decide_path, directory_answer};
use proptest::prelude::*;

use super::{Bounds, Expressed, NEEDED_ABI, Note, Plan, Unexamined, kernel_abi, plan_below, report};
use crate::policy::compile::{self, sample};
use crate::policy::{ExecPolicy, FilesPolicy, PathRule, ResolvedProfile, Source};

const READ: Rights = Right::Read as Rights;
const WRITE: Rights = Right::Write as Rights;
const EXECUTE: Rights = Right::Execute as Rights;

/// `files.read`, `files.write`, `files.deny`, `exec.allow`, `exec.deny`.
type Lists<'a> = [&'a [&'a str]; 5];

/// A profile of globs, `@` standing for the tree's root.
fn profile(root: &Path, lists: [&[String]; 5]) -> ResolvedProfile {
    let source = Source { file: Arc::from(Path::new("t.yaml")), line: 1, column: 1 };
    let rules = |globs: &[String]| -> Vec<PathRule> {
        let globs = globs.iter().enumerate();
        globs
            .map(|(i, glob)| PathRule {
                id: format!("t:{i}"),
                source: source.clone(),
                glob: glob.replace('@', root.to_str().unwrap()),
                programs: crate::policy::Condition::default(),
                access: None,
            })
            .collect()
    };
    let mut profile = sample::network_profile(1, 1);
    let [read, write, deny, allow, deny_exec] = lists.map(rules);
    profile.filesystem = Some(FilesPolicy { read, write, deny, source: source.clone() });
    profile.exec = Some(ExecPolicy { allow, deny: deny_exec, pinned: Vec::new(), pins: Vec::new(), source });
    profile.homes = Vec::new();
    profile
}

fn image(root: &Path, lists: Lists) -> Vec<u64> {
    let lists = lists.map(|globs| globs.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>());
    compile::profile(&profile(root, lists.each_ref().map(Vec::as_slice))).unwrap().words
}

/// A tree of files; names that end in `/` are directories, `a -> b` a link.
fn tree(entries: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    // The kernel's path, without links.
    let root = directory.path().canonicalize().unwrap();
    for entry in entries {
        if let Some((link, to)) = entry.split_once(" -> ") {
            symlink(to, root.join(link)).unwrap();
            continue;
        }
        let path = root.join(entry.trim_end_matches('/'));
        if entry.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }
    (directory, root)
}

fn planned(root: &Path, lists: Lists) -> Plan {
    plan_below(&image(root, lists), root, Bounds::default())
}

/// Rights that the rules give to an object or to what lies in a directory.
fn rights(plan: &Plan, path: &Path) -> Rights {
    let rules = plan.rules.iter().filter(|rule| path.starts_with(&rule.path));
    rules.fold(0, |all, rule| all | rule.rights)
}

fn lists(plan: &Plan, directory: &Path) -> bool {
    plan.rules.iter().any(|rule| rule.list && directory.starts_with(&rule.path))
}

#[test]
fn a_granted_tree_is_one_exact_rule() {
    let (_keep, root) = tree(&["src/a/b/c", "src/d", "other"]);
    let plan = planned(&root, [&["@/src/**"], &[], &[], &[], &[]]);
    assert_eq!(plan.notes, []);
    let [rule] = plan.rules.as_slice() else { panic!("{plan:?}") };
    assert_eq!((rule.path.clone(), rule.rights, rule.list), (root.join("src"), READ, true));
    assert!(rule.directory.is_some());
    // The tree itself was not looked through.
    assert_eq!(plan.entries, 2);
}

#[test]
fn what_is_lent_is_not_granted_for_good() {
    let (_keep, root) = tree(&["src/a", "lent/a"]);
    let globs = ["@/src/**".to_owned(), "@/lent/**".to_owned()];
    let mut profile = profile(&root, [&globs, &[], &[], &[], &[]]);
    profile.filesystem.as_mut().unwrap().read[1].programs.until =
        Some(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1));
    let words = compile::profile(&profile).unwrap().words;
    let plan = plan_below(&words, &root, Bounds::default());
    assert_eq!((rights(&plan, &root.join("src/a")), rights(&plan, &root.join("lent/a"))), (READ, 0));
    let told = report(&profile, &plan);
    assert_eq!(told[0].expressed, Expressed::Exactly);
    assert!(matches!(&told[1].expressed, Expressed::Not(why) if why.contains("lease")), "{told:?}");
}

#[test]
fn a_denied_object_is_left_out_and_the_rest_granted() {
    let (_keep, root) = tree(&["src/.git/hooks/pre", "src/.git/HEAD", "src/lib/x", "src/y", "src/z/.env"]);
    let plan = planned(&root, [&["@/src/**"], &["@/src/**"], &["**/.git/hooks/**", "**/.env*"], &[], &[]]);
    for denied in ["src/.git/hooks/pre", "src/z/.env"] {
        assert_eq!(rights(&plan, &root.join(denied)), 0, "{denied}: {plan:#?}");
    }
    for granted in ["src/.git/HEAD", "src/lib/x", "src/y"] {
        assert_eq!(rights(&plan, &root.join(granted)), READ | WRITE, "{granted}: {plan:#?}");
    }
    // New names: in `lib`, where nothing is denied yet; not beside what is denied.
    assert_eq!(rights(&plan, &root.join("src/lib")), READ | WRITE);
    assert_eq!(rights(&plan, &root.join("src")), 0);
    let lib = root.join("src/lib");
    assert!(plan.notes.contains(&Note::Later { directory: lib, rights: READ | WRITE }), "{plan:#?}");
    assert!(plan.notes.contains(&Note::Around { directory: root.join("src/.git"), rights: READ | WRITE }));
    // `.git/hooks` may not be listed, and can't be told from `src`, which may.
    assert!(lists(&plan, &root.join("src")) && lists(&plan, &root.join("src/.git/hooks")));
    assert!(plan.notes.contains(&Note::Names { directory: root.join("src") }), "{plan:#?}");
}

#[test]
fn names_that_no_rule_grants_are_not_granted_by_an_empty_directory() {
    let (_keep, root) = tree(&["log/", "one/a.log"]);
    let plan = planned(&root, [&[], &["@/log/*.log", "@/one/*.log"], &[], &[], &[]]);
    assert_eq!(rights(&plan, &root.join("log")), 0, "{plan:?}");
    assert_eq!(rights(&plan, &root.join("one")), 0);
    assert_eq!(rights(&plan, &root.join("one/a.log")), WRITE);
}

#[test]
fn a_link_is_no_way_to_what_it_points_to() {
    let (_keep, root) = tree(&["src/a", "secret/key", "src/door -> ../secret", "src/file -> ../secret/key"]);
    let plan = planned(&root, [&["@/src/*"], &["@/src/*"], &[], &[], &[]]);
    assert_eq!(rights(&plan, &root.join("secret/key")), 0, "{plan:?}");
    assert_eq!(plan.rules.iter().filter(|rule| rule.rights != 0).count(), 1, "{plan:?}");
}

#[test]
fn what_is_not_looked_through_is_not_granted() {
    let (_keep, root) = tree(&["src/a/1", "src/a/2", "src/b/1", "src/b/2"]);
    let words = image(&root, [&["@/src/**"], &[], &["**/.env"], &[], &[]]);
    let plan = plan_below(&words, &root, Bounds { entries: 4, notes: 100 });
    assert!(plan.rules.iter().all(|rule| rule.path != root.join("src") || rule.rights == 0), "{plan:?}");
    let unexamined = |note: &Note| matches!(note, Note::Unexamined { why: Unexamined::TooMany, .. });
    assert!(plan.notes.iter().any(unexamined), "{plan:?}");
}

#[test]
fn a_program_that_may_not_be_read_is_told_of() {
    let (_keep, root) = tree(&["bin/tool", "src/x"]);
    let plan = planned(&root, [&["@/src/**"], &[], &[], &["@/bin/tool"], &[]]);
    assert!(plan.notes.contains(&Note::Unreadable { file: root.join("bin/tool") }), "{plan:?}");
}

#[test]
fn each_rule_is_told_as_it_is() {
    let (_keep, root) = tree(&["src/.git/hooks/pre", "src/lib/x", "logs/a.log", "bin/tool", "link -> src"]);
    let lists: Lists = [
        &["@/src/**", "@/none/x", "@/link/**", "@/bin/**"],
        &["@/src/lib/**", "@/logs/*.log"],
        &["**/.git/hooks/**", "@/secret/**"],
        &["@/bin/**"],
        &["@/bin/nc*"],
    ];
    let lists = lists.map(|globs| globs.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>());
    let profile = profile(&root, lists.each_ref().map(Vec::as_slice));
    let plan = plan_below(&compile::profile(&profile).unwrap().words, &root, Bounds::default());
    let told: Vec<String> = report(&profile, &plan)
        .into_iter()
        .map(|report| match report.expressed {
            Expressed::Exactly => "exactly".to_owned(),
            Expressed::Approximately(how) => how.join("; "),
            Expressed::Not(why) => format!("not: {why}"),
        })
        .collect();
    let expected = [
        // files.read
        "beside what is denied, are not granted in @/src/.git and 1 more",
        "not: @/none/x does not exist",
        "not: @/link is a link",
        "exactly",
        // files.write
        "exactly",
        "names that come later are not granted",
        // files.deny
        "what comes to exist later is not denied below",
        "exactly",
        // exec.allow, exec.deny
        "exactly",
        "what comes to exist later is not denied below @/bin",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        let expected = expected.replace('@', root.to_str().unwrap());
        let found = if expected == "exactly" { *told == expected } else { told.contains(&expected) };
        assert!(found, "{told:?} is not {expected:?}");
    }
}

/// Names that the globs below also use.
const NAMES: [&str; 5] = ["a", "b", "ab", ".env", "k.x"];

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..5).prop_map(|names| names.join("/"))
}

fn some_glob() -> impl Strategy<Value = String> {
    let step =
        prop::sample::select(vec!["a", "b", "ab", ".env", "*", "**", "a*", "*.x", "?", "{a,b}", ".e*"]);
    (any::<bool>(), prop::collection::vec(step, 1..5)).prop_map(|(anchored, steps)| match anchored {
        true => format!("@/{}", steps.join("/")),
        false => format!("**/{}", steps.join("/")),
    })
}

fn globs(most: usize) -> impl Strategy<Value = Vec<String>> {
    // A grant of all is what makes denials bite.
    let glob = prop_oneof![1 => Just("@/**".to_owned()), 6 => some_glob()];
    prop::collection::vec(glob, 0..most)
}

fn walk(directory: &Path, found: &mut Vec<(PathBuf, bool)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let is_directory = entry.file_type().unwrap().is_dir();
        found.push((entry.path(), is_directory));
        if is_directory {
            walk(&entry.path(), found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_grants_no_existing_object_more_than_the_profile(
        files in prop::collection::vec(some_path(), 1..12),
        read in globs(4), write in globs(4), deny in globs(3), allow in globs(3), deny_exec in globs(2),
    ) {
        let (_keep, root) = tree(&[]);
        for file in &files {
            let path = root.join(file);
            // A name may be a file already where another path needs a directory.
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
                fs::write(&path, "x").unwrap();
            }
        }
        let lists_of = [&read, &write, &deny, &allow, &deny_exec].map(Vec::as_slice);
        let words = compile::profile(&profile(&root, lists_of)).unwrap().words;
        let plan = plan_below(&words, &root, Bounds::default());
        let decide = |path: &Path, right: Rights| {
            decide_path(words.as_slice(), Class::UNKNOWN, path.to_str().unwrap().as_bytes(), right)
        };
        let mut found = vec![(root.clone(), true)];
        walk(&root, &mut found);
        for (path, is_directory) in &found {
            let has = rights(&plan, path);
            if !is_directory {
                for right in [READ, WRITE, EXECUTE].into_iter().filter(|right| has & right != 0) {
                    prop_assert!(decide(path, right).allowed(), "{right} on {path:?}: {plan:#?}");
                }
                continue;
            }
            if has & WRITE != 0 {
                for (inner, _) in found.iter().filter(|(inner, _)| inner.parent() == Some(path)) {
                    prop_assert!(decide(inner, WRITE).allowed(), "removal of {inner:?}: {plan:#?}");
                }
            }
            for right in [READ, WRITE, EXECUTE].into_iter().filter(|right| has & right != 0) {
                let new = decide(&path.join("new.name"), right);
                prop_assert!(new != Decision::DenyDefault, "{right} on new names in {path:?}: {plan:#?}");
                let later = plan.notes.iter().any(|note| matches!(note, Note::Later { directory, rights }
                    if path.starts_with(directory) && rights & right != 0));
                prop_assert!(new.allowed() || later, "{path:?} is wider and nothing says so: {plan:#?}");
            }
            if lists(&plan, path) {
                let state = path.to_str().unwrap().bytes().fold(
                    Class::UNKNOWN.field(words.as_slice(), class::START_PATH) as u32,
                    |state, byte| if state & TERMINAL == 0 { step(words.as_slice(), state, byte) } else { state },
                );
                let listable = directory_answer(words.as_slice(), state) & READ != 0;
                let told = plan.notes.iter().any(|note| matches!(note, Note::Names { directory }
                    if path.starts_with(directory)));
                prop_assert!(listable || told, "{path:?} is listed and nothing says so: {plan:#?}");
            }
        }
        // And what is granted without a denial near by is granted.
        if deny.is_empty() && deny_exec.is_empty() {
            for (path, _) in found.iter().filter(|(_, is_directory)| !is_directory) {
                for right in [READ, WRITE, EXECUTE] {
                    prop_assert_eq!(rights(&plan, path) & right != 0, decide(path, right).allowed(), "{:?}", path);
                }
            }
        }
    }
}

/// The errno of `attempt` under the plan, 0 where it works. Landlock holds for a thread.
fn under<T: Send + 'static>(plan: &Plan, attempt: impl FnOnce() -> T + Send + 'static) -> T {
    let made = plan.make().unwrap();
    assert_eq!(made.left_out, Vec::<PathBuf>::new());
    let thread = std::thread::spawn(move || {
        made.enforce().unwrap();
        attempt()
    });
    thread.join().unwrap()
}

fn errno(done: std::io::Result<()>) -> i32 {
    done.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

#[test]
fn the_kernel_enforces_what_the_plan_says() {
    if kernel_abi() < NEEDED_ABI {
        eprintln!("SKIPPED: this kernel has no Landlock that would do (version {})", kernel_abi());
        return;
    }
    let (_keep, root) = tree(&["src/lib/x", "src/.env", "src/y", "out/", "key"]);
    let lists: Lists =
        [&["@/src/**", "@/out/**"], &["@/out/**", "@/src/**"], &["**/.env"], &["@/src/lib/**"], &[]];
    let plan = planned(&root, lists);
    let at = root.clone();
    let attempts = move || {
        vec![
            ("read what is granted", errno(fs::read(at.join("src/lib/x")).map(drop)), 0),
            ("read the key", errno(fs::read(at.join("key")).map(drop)), libc::EACCES),
            ("read what is denied", errno(fs::read(at.join("src/.env")).map(drop)), libc::EACCES),
            ("read beside it", errno(fs::read(at.join("src/y")).map(drop)), 0),
            ("list", errno(fs::read_dir(at.join("src")).map(drop)), 0),
            ("list the root", errno(fs::read_dir(&at).map(drop)), libc::EACCES),
            ("create", errno(fs::write(at.join("out/new"), "x")), 0),
            ("create beside what is denied", errno(fs::write(at.join("src/new"), "x")), libc::EACCES),
            ("create away from it", errno(fs::write(at.join("src/lib/new"), "x")), 0),
            ("move", errno(fs::rename(at.join("out/new"), at.join("out/moved"))), 0),
            // In `src/lib` the file could be executed, which Landlock lets no move bring about.
            (
                "move to more rights",
                errno(fs::rename(at.join("out/moved"), at.join("src/lib/m"))),
                libc::EXDEV,
            ),
            ("move from more rights", errno(fs::rename(at.join("src/lib/new"), at.join("out/m"))), 0),
            ("move what is denied", errno(fs::rename(at.join("src/.env"), at.join("out/e"))), libc::EACCES),
            ("link what is denied", errno(fs::hard_link(at.join("src/.env"), at.join("out/e"))), libc::EXDEV),
            ("remove the key", errno(fs::remove_file(at.join("key"))), libc::EACCES),
            ("remove", errno(fs::remove_file(at.join("out/m"))), 0),
        ]
    };
    for (what, seen, expected) in under(&plan, attempts) {
        assert_eq!(seen, expected, "{what}: {plan:#?}");
    }
    // The twin: the same without a plan.
    for secret in ["key", "src/.env"] {
        assert_eq!(errno(fs::read(root.join(secret)).map(drop)), 0);
    }
}
