//! F3: what a task opened something in, and what somebody moved since; on the tree and under the profile of `files`.
//!
//! A task remembers where the automaton stood behind the directories that it opened something in. What must stay true:
//! that is forgotten when one of them, or a directory or a mount above it, gets another name.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;

use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::{Attempt, Body, Failure, Stage};
use anyhow::{Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack::pair;
use crate::files::{PROFILE, at, c, call, ok, plant, read};
use crate::lab::{self, Lab};
use crate::objects::{open, own_namespace};

const FILE_OPEN: &str = "lsm/file_open";

/// A process that is no agent's, and does one thing when it is told to.
struct Accomplice {
    go: PipeWriter,
    done: PipeReader,
}

impl Accomplice {
    /// Forks it. Call it before the attacker is an agent.
    fn start(act: fn() -> Attempt) -> Result<Accomplice, Failure> {
        let pipes = || pipe().map_err(|e| Failure::of("pipe", &e));
        let ((mut told, go), (done, mut tell)) = (pipes()?, pipes()?);
        // SAFETY: this program has one thread.
        let child = call("fork", unsafe { libc::fork() }.into())?;
        if child == 0 {
            // Its own child is nobody's of the attacker, so that no label reaches it.
            // SAFETY: as above.
            if unsafe { libc::fork() } != 0 {
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(0) };
            }
            drop(go);
            let mut byte = [0];
            if told.read(&mut byte).is_ok_and(|n| n == 1) {
                let _ = tell.write_all(&[u8::from(act().is_ok())]);
            }
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: the child that was just forked.
        call("waitpid", unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) }.into())?;
        Ok(Accomplice { go, done })
    }

    /// Lets it act, and waits until it has.
    fn act(mut self) -> Attempt {
        ok("tell the accomplice", self.go.write_all(b"g"))?;
        let mut done = [0];
        ok("hear of the accomplice", self.done.read_exact(&mut done))?;
        if done == [1] { Ok(()) } else { Err(Failure::new("the accomplice failed", 0)) }
    }
}

/// Opens `name` in `directory` until the task knows the directory, lets the accomplice act, and opens it again.
fn again_after(stage: &mut Stage, act: fn() -> Attempt, directory: &str, name: &str) -> Attempt {
    let accomplice = Accomplice::start(act)?;
    stage.pause()?;
    let directory = open(directory)?;
    let name = c(name);
    let once = || {
        // SAFETY: a string that ends in NUL.
        let fd = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), libc::O_RDONLY) };
        call("openat", fd.into()).map(drop)
    };
    for _ in 0..3 {
        if let Err(failure) = once() {
            return Err(Failure::new(format!("denied before it moved: {failure}"), 0));
        }
    }
    accomplice.act()?;
    once()
}

/// A file system of its own on `open/m`, with a file in it. The path of the place is so short that a task remembers it.
fn mounted() -> Attempt {
    own_namespace()?;
    ok("mkdir", fs::create_dir(at("open/m")))?;
    // SAFETY: strings that end in NUL.
    unsafe {
        let none = std::ptr::null();
        let mounted = libc::mount(c"tmpfs".as_ptr(), c(&at("open/m")).as_ptr(), c"tmpfs".as_ptr(), 0, none);
        call("mount", mounted.into())?;
    }
    ok("mkdir", fs::create_dir(at("open/m/in")))?;
    ok("write", fs::write(at("open/m/in/file"), "contents"))
}

type Way = fn(&mut Stage) -> Attempt;

const MOVED: &[(&str, Way)] = &[
    ("F3_directory_moved_after_an_open_in_it", |stage| {
        ok("write", fs::write(at("open/dir/file"), "contents"))?;
        let act = || ok("rename", fs::rename(at("open/dir"), at("closed/moved")));
        again_after(stage, act, &at("open/dir"), "file")
    }),
    ("F3_directory_above_moved_after_an_open", |stage| {
        ok("write", fs::write(at("open/deep/a/b/file"), "contents"))?;
        let act = || ok("rename", fs::rename(at("open/deep"), at("closed/moved")));
        again_after(stage, act, &at("open/deep/a/b"), "file")
    }),
    ("F3_directories_exchanged_after_an_open", |stage| {
        ok("write", fs::write(at("open/dir/file"), "contents"))?;
        let act = || {
            let (from, to) = (c(&at("open/dir")), c(&at("closed/dir")));
            // SAFETY: strings that end in NUL.
            let exchanged = unsafe {
                let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
                libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), flags)
            };
            call("exchange", exchanged).map(drop)
        };
        again_after(stage, act, &at("open/dir"), "file")
    }),
    ("F3_file_moved_after_an_open_beside_it", |stage| {
        ok("write", fs::write(at("closed/dir/file"), "contents"))?;
        ok("write", fs::write(at("open/dir/file"), "contents"))?;
        // The name stays, and the object is another one's.
        let act = || {
            ok("rename", fs::rename(at("open/dir"), at("open/other")))?;
            ok("rename", fs::rename(at("closed/dir"), at("open/dir")))?;
            ok("rename", fs::rename(at("open/other"), at("closed/dir")))
        };
        again_after(stage, act, &at("open/dir"), "file")
    }),
    ("F3_mount_moved_after_an_open", |stage| {
        mounted()?;
        let act = || {
            let (from, to) = (c(&at("open/m")), c(&at("closed/dir")));
            // SAFETY: strings that end in NUL.
            let moved = unsafe {
                let none = std::ptr::null();
                libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_MOVE, none.cast())
            };
            call("move the mount", moved.into()).map(drop)
        };
        again_after(stage, act, &at("open/m/in"), "file")
    }),
    ("F3_mount_point_moved_after_an_open", |stage| {
        mounted()?;
        let act = || ok("rename", fs::rename(at("open"), at("closed/open")));
        again_after(stage, act, &at("open/m/in"), "file")
    }),
];

fn denied(lab: &mut Lab, way: Way) -> Result<Completion> {
    plant()?;
    let run = lab.attack(PROFILE, way)?;
    if !lab.monitor()?.works(FILE_OPEN) {
        ensure!(run.attempt.is_ok(), "posture calls this attack blind, and yet: {}", run.describe());
        return Ok(Completion::ignored_with(lab.monitor()?.blind(FILE_OPEN)?));
    }
    let Err(failure) = &run.attempt else { bail!("it went through: {}", run.describe()) };
    ensure!(failure.errno == libc::EACCES && failure.step == "openat", "{}", run.describe());
    let [record] = run.records.as_slice() else { bail!("{}", run.describe()) };
    ensure!(record.hook() == Some(Hook::LsmFileOpen), "{}", run.describe());
    ensure!(record.reason() == Some(Reason::Default), "{}", run.describe());
    let Body::File { path, .. } = &record.body else { bail!("{}", run.describe()) };
    ensure!(path.starts_with(at("closed/").as_bytes()), "{}", run.describe());
    Ok(Completion::Completed)
}

pub fn trials() -> Vec<Trial> {
    let pairs = MOVED.iter().flat_map(|&(name, way)| {
        pair(
            name,
            move |lab| denied(lab, way),
            move |lab| {
                plant()?;
                let run = lab.unenforced(way)?;
                ensure!(run.attempt.is_ok(), "{}", run.describe());
                Ok(())
            },
        )
    });
    pairs
        .chain([lab::test("what_lies_in_a_known_directory_has_a_path_and_rules_of_its_own", own_rules)])
        .collect()
}

/// One denial, with its whole path, of a file beside one that may be read; before and after.
fn own_rules(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    if !lab.monitor()?.works(FILE_OPEN) {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(FILE_OPEN)?));
    }
    let run = lab.attack(PROFILE, |stage| {
        ok("write", fs::write(at("open/dir/file"), "contents"))?;
        stage.pause()?;
        for _ in 0..3 {
            read(&at("open/dir/file"))?;
            // The directory itself, and one whose own name is the last of a mount's path.
            ok("list", fs::read_dir(at("open/dir")))?;
            ok("list", fs::read_dir("/proc"))?;
        }
        if read(&at("open/dir/.env")).is_ok() {
            return Err(Failure::new("a denied file is read", 0));
        }
        read(&at("open/dir/file"))
    })?;
    ensure!(run.attempt.is_ok(), "{}", run.describe());
    let [record] = run.records.as_slice() else { bail!("{}", run.describe()) };
    let Body::File { path, body } = &record.body else { bail!("{}", run.describe()) };
    ensure!(*path == at("open/dir/.env").as_bytes(), "{}", run.describe());
    ensure!(
        record.reason() == Some(Reason::Rule) && body.path_total as usize == path.len(),
        "{}",
        run.describe()
    );
    Ok(Completion::Completed)
}
