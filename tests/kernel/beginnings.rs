//! Paths that begin alike, opened one after another by one task: the automaton's run begins where the last one had come
//! to, and what it says must not differ by that.

use std::fs;
use std::path::Path;

use agent_monitor::policy::compile;
use agent_monitor_common::image::Class;
use agent_monitor_common::path::{Right, Rights, decide_path};
use agent_monitor_tests::Failure;
use agent_monitor_tests::monitor::resolve;
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::files::{c, read};
use crate::lab::{self, Lab};

const ROOT: &str = "/tmp/agent-monitor-beginnings";

/// Rules that differ within a block of eight bytes, at its ends, and behind what ends a walk early.
const PROFILE: &str = "\
version: 1
name: beginnings
mode: enforce
network: {}
files:
  read: ['/tmp/agent-monitor-beginnings/**', '/proc/**']
  deny:
    - '/tmp/agent-monitor-beginnings/a/**'
    - '/tmp/agent-monitor-beginnings/aaaa/b*/**'
    - '/tmp/agent-monitor-beginnings/aaaab/??/**'
    - '/tmp/agent-monitor-beginnings/b*b/**/bab'
    - '**/abab/**'
    - '**/ba'
    - '/tmp/agent-monitor-beginnings/ba*/**'
    - '**/bbbbbbbb*/**'
    - '**/*aabaab/*/ab'
";

/// Opens of each file.
const ROUNDS: usize = 3;

/// Names that many paths begin with; the second ones fill a block.
const FIRST: [&str; 6] = ["a", "aaaa", "aaaab", "ba", "bab", "bbb"];
const SECOND: [&str; 4] = ["abaabbab", "abaabbabbaba", "bababbaaabba", "bababbaaabbaabbab"];

/// Files whose paths are made of few letters, two or three directories deep.
fn files(random: &mut impl FnMut(usize) -> usize) -> Vec<String> {
    let mut files = Vec::new();
    for i in 0..400 {
        let (first, second) = (FIRST[random(FIRST.len())], SECOND[random(SECOND.len())]);
        let mut name = |longest: usize| -> String {
            let length = 1 + random(longest);
            (0..length).map(|_| if random(2) == 0 { 'a' } else { 'b' }).collect()
        };
        files.push(match i % 4 {
            0 => format!("{ROOT}/{first}/{second}/{}/{}", name(3), name(2)),
            // A file in the place of a directory.
            1 => format!("{ROOT}/{first}/{second}{}", name(9)),
            2 => format!("{ROOT}/{}/{}/{}/{}", name(6), name(4), name(3), name(2)),
            _ => format!("{ROOT}/{first}/{second}{}/{}", name(1), name(9)),
        });
    }
    files.sort();
    files.dedup();
    files
}

fn judged_whole(lab: &mut Lab) -> Result<Completion> {
    let _ = fs::remove_dir_all(ROOT);
    let mut state = 0x9e37_79b9_u32;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let mut planted = Vec::new();
    for file in files(&mut random) {
        fs::create_dir_all(Path::new(&file).parent().context("it lies in a directory")?)
            .ok()
            .and_then(|()| fs::write(&file, "contents").ok())
            .into_iter()
            .for_each(|()| planted.push(file.clone()));
    }
    let image = compile::profile(&resolve(PROFILE)?)?;
    let mut opens = Vec::new();
    for _ in 0..ROUNDS * planted.len() {
        let file = &planted[random(planted.len())];
        let verdict = decide_path(&image, Class::PLAIN, file.as_bytes(), Right::Read as Rights);
        opens.push((file.clone(), verdict.allowed()));
    }
    let denied = opens.iter().filter(|(_, allowed)| !allowed).count();
    ensure!(
        planted.len() > 150 && denied > opens.len() / 10 && denied < opens.len() * 2 / 3,
        "{denied} of {}",
        opens.len()
    );
    let works = lab.monitor()?.works("lsm/file_open");
    let run = lab.attack(PROFILE, move |stage| {
        stage.pause()?;
        for (at, (file, allowed)) in opens.iter().enumerate() {
            // SAFETY: a string that ends in NUL.
            let fd = unsafe { libc::open(c(file).as_ptr(), libc::O_RDONLY) };
            if (fd >= 0) != *allowed {
                let before = opens.get(at.wrapping_sub(1)).map_or("nothing", |(file, _)| file);
                let text = format!("{file} is to be allowed: {allowed}; opened before: {before}");
                return Err(Failure::new(text, 0));
            }
            if fd >= 0 {
                // SAFETY: the descriptor that was just opened.
                unsafe { libc::close(fd) };
            }
        }
        read("/proc/self/comm")
    })?;
    fs::remove_dir_all(ROOT)?;
    if !works {
        ensure!(run.denials == 0, "posture calls this blind, and yet: {}", run.describe());
        return Ok(Completion::ignored_with(lab.monitor()?.blind("lsm/file_open")?));
    }
    ensure!(run.attempt.is_ok() && run.denials == denied as u64, "{denied} expected; {}", run.describe());
    Ok(Completion::Completed)
}

pub fn trials() -> Vec<Trial> {
    vec![lab::test("paths_that_begin_alike_are_judged_whole", judged_whole)]
}
