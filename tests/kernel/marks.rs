//! F2, F4: second names that an object had before the agent was, on the tree and under the profile of `files`.
//!
//! The rules speak of `open/secret` and of what lies in `open/vault`; the second names lie in `open`, where everything
//! is granted. What must stay true: a mark holds for the image it was made for and no other.

use std::fs;
use std::os::unix::fs::MetadataExt;

use agent_monitor::agent::denied::{self, Limits};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::monitor::{SLOT, resolve};
use agent_monitor_tests::{Attempt, Stage};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack::pair;
use crate::files::{PROFILE, at, ok, plant, read, run};
use crate::lab::{self, Lab};
use crate::objects::{bind, open, own_namespace, set_xattr};

/// A guest without an accelerator is twenty times slower than any host.
pub const PATIENT: Limits =
    Limits { entries: 1_000_000, objects: 8_192, time: std::time::Duration::from_secs(60) };

/// An attack by a second name.
#[derive(Clone, Copy)]
struct Second {
    name: &'static str,
    hook: Hook,
    run: fn(&mut Stage) -> Attempt,
}

const SECOND: &[Second] = &[
    Second {
        name: "F2_hard_link_made_before_the_label",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            ok("link", fs::hard_link(at("open/secret"), at("open/alias")))?;
            stage.pause()?;
            read(&at("open/alias"))
        },
    },
    Second {
        name: "F2_write_by_a_hard_link_made_before",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            ok("link", fs::hard_link(at("open/secret"), at("open/alias")))?;
            stage.pause()?;
            ok("append", fs::OpenOptions::new().append(true).open(at("open/alias")))
        },
    },
    Second {
        name: "F2_truncate_by_a_hard_link_made_before",
        hook: Hook::LsmPathTruncate,
        run: |stage| {
            ok("link", fs::hard_link(at("open/secret"), at("open/alias")))?;
            stage.pause()?;
            let path = crate::files::c(&at("open/alias"));
            // SAFETY: a string that ends in NUL.
            crate::files::call("truncate", unsafe { libc::truncate(path.as_ptr(), 0) }.into()).map(drop)
        },
    },
    Second {
        name: "F2_attribute_by_a_hard_link_made_before",
        hook: Hook::LsmInodeSetxattr,
        run: |stage| {
            ok("link", fs::hard_link(at("open/secret"), at("open/alias")))?;
            stage.pause()?;
            set_xattr(&at("open/alias"), c"trusted.agent-monitor", b"x")
        },
    },
    Second {
        name: "F2_third_name_by_a_second_made_before",
        hook: Hook::LsmPathLink,
        run: |stage| {
            ok("link", fs::hard_link(at("open/secret"), at("open/alias")))?;
            stage.pause()?;
            ok("link", fs::hard_link(at("open/alias"), at("open/another")))
        },
    },
    Second {
        name: "F2_program_by_a_hard_link_made_before",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            ok("link", fs::hard_link(at("open/bin/forbidden"), at("open/bin/allowed")))?;
            stage.pause()?;
            run(&at("open/bin/allowed"))
        },
    },
    Second {
        name: "F4_file_bound_before_the_label",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            own_namespace()?;
            bind(&at("open/secret"), &at("open/plain"))?;
            stage.pause()?;
            read(&at("open/plain"))
        },
    },
    Second {
        name: "F4_directory_bound_before_the_label",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            own_namespace()?;
            bind(&at("open/vault"), &at("open/dir"))?;
            stage.pause()?;
            read(&at("open/dir/key"))
        },
    },
    Second {
        name: "F4_directory_bound_before_is_listed",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            own_namespace()?;
            bind(&at("open/vault"), &at("open/dir"))?;
            stage.pause()?;
            ok("list", fs::read_dir(at("open/dir")))
        },
    },
    Second {
        name: "F4_new_file_in_a_directory_bound_before",
        hook: Hook::LsmPathMknod,
        run: |stage| {
            own_namespace()?;
            bind(&at("open/vault"), &at("open/dir"))?;
            stage.pause()?;
            ok("create", fs::File::create_new(at("open/dir/authorized")))
        },
    },
    Second {
        name: "F4_newer_file_in_a_directory_bound_before",
        hook: Hook::LsmFileOpen,
        run: |stage| {
            own_namespace()?;
            bind(&at("open/vault"), &at("open/dir"))?;
            stage.pause()?;
            // Made by the test after the search: it carries no mark itself.
            read(&at("open/dir/newer"))
        },
    },
];

/// Puts the profile in force and marks what it denies now.
fn mark(lab: &mut Lab, profile: &str) -> Result<usize> {
    let resolved = resolve(profile)?;
    let found = denied::find(&resolved, PATIENT)?;
    let monitor = lab.monitor()?;
    monitor.install(profile)?;
    let generation = monitor.kernel.generation(SLOT).context("no generation")?;
    Ok(monitor.kernel.mark(SLOT, generation, &found.objects)?)
}

fn denied_by_mark(lab: &mut Lab, attack: Second) -> Result<Completion> {
    let mechanism = format!("lsm/{}", attack.hook.name());
    if !lab.monitor()?.works(&mechanism) {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(&mechanism)?));
    }
    plant()?;
    let marks = mark(lab, PROFILE)?;
    fs::write(at("open/vault/newer"), "contents")?;
    ensure!(marks >= 4, "only {marks} marks");
    let run = lab.attack(PROFILE, attack.run)?;
    let unmarked = lab.monitor()?.kernel.unmark(SLOT, None);
    unmarked?;
    let Err(failure) = &run.attempt else { bail!("it went through: {}", run.describe()) };
    ensure!(failure.errno == libc::EACCES, "{}", run.describe());
    let Some(record) = run.records.last() else { bail!("no record: {}", run.describe()) };
    ensure!(record.hook() == Some(attack.hook), "{}", run.describe());
    ensure!(record.denies() && record.reason() == Some(Reason::OtherName), "{}", run.describe());
    ensure!(run.denials >= 1, "{}", run.describe());
    // The same agent's profile without marks: they and nothing else denied it.
    plant()?;
    fs::write(at("open/vault/newer"), "contents")?;
    let without = lab.attack(PROFILE, attack.run)?;
    ensure!(without.attempt.is_ok(), "denied without marks: {}", without.describe());
    Ok(Completion::Completed)
}

pub fn trials() -> Vec<Trial> {
    let pairs = SECOND.iter().flat_map(|&attack| {
        pair(
            attack.name,
            move |lab| denied_by_mark(lab, attack),
            move |lab| {
                plant()?;
                fs::write(at("open/vault/newer"), "contents")?;
                let run = lab.unenforced(attack.run)?;
                ensure!(run.attempt.is_ok(), "{}", run.describe());
                Ok(())
            },
        )
    });
    let others = [
        lab::test("marked_objects_change_nothing_for_others", others_work),
        lab::test("marks_go_with_their_generation", generations),
        lab::check("a_mark_names_the_object_by_its_inode", identities),
    ];
    pairs.chain(others).collect()
}

fn others_work(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    mark(lab, PROFILE)?;
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        read(&at("open/plain"))?;
        ok("create", fs::write(at("open/new"), "x"))?;
        ok("link", fs::hard_link(at("open/plain"), at("open/twin")))?;
        ok("rename", fs::rename(at("open/new"), at("open/dir/new")))?;
        open(&at("open/twin")).map(drop)
    })?;
    lab.monitor()?.kernel.unmark(SLOT, None)?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

/// An image that does not deny the object is not bound by the marks of one that did.
fn generations(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    fs::hard_link(at("open/secret"), at("open/alias"))?;
    mark(lab, PROFILE)?;
    let wide = PROFILE.replace("'/tmp/agent-monitor-files/open/secret', ", "");
    ensure!(wide != PROFILE, "the profile has another form");
    let run = lab.attack(&wide, |stage| {
        stage.pause()?;
        read(&at("open/alias"))
    })?;
    lab.monitor()?.kernel.unmark(SLOT, None)?;
    ensure!(run.attempt.is_ok(), "{}", run.describe());
    Ok(Completion::Completed)
}

/// Also where no hook asks for marks: the kernel says what the daemon's descriptors are.
fn identities(lab: &mut Lab) -> Result<()> {
    plant()?;
    let found = denied::find(&resolve(PROFILE)?, PATIENT)?;
    let secret = at("open/secret").into_bytes();
    ensure!(found.objects.iter().any(|object| object.path == secret), "not found: {found:?}");
    ensure!(mark(lab, PROFILE)? >= found.objects.len().min(4), "{} objects", found.objects.len());
    let inodes = lab.monitor()?.kernel.marked_inodes(SLOT);
    lab.monitor()?.kernel.unmark(SLOT, None)?;
    for name in ["open/secret", "open/vault/key", "open/vault"] {
        let inode = fs::metadata(at(name))?.ino();
        ensure!(inodes.contains(&inode), "{name} is inode {inode}, marked are {inodes:?}");
    }
    ensure!(!inodes.contains(&fs::metadata(at("open/plain"))?.ino()), "what is granted is marked");
    let left = lab.monitor()?.kernel.marked_inodes(SLOT);
    ensure!(left.is_empty(), "marks stay: {left:?}");
    Ok(())
}
