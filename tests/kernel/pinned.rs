//! F7: programs that are pinned to a content, and ways to run another content under their path.
//!
//! The pinned program is as small as one can be: it ends with a status that its content says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

use agent_monitor::kernel::IMA;
use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::monitor::resolve;
use agent_monitor_tests::{Attempt, Child, Failure, Stage};
use anyhow::{Result, bail, ensure};
use libtest_mimic::{Completion, Trial};
use sha2::{Digest, Sha256};

use crate::attack::pair;
use crate::files::{PROFILE, at, map_as_code, ok, plant};
use crate::lab::{self, Lab};

const MECHANISM: &str = "lsm.s/bprm_check_security";

/// The status with which the right program ends; another content ends with another.
const RIGHT: u8 = 0;
const WRONG: u8 = 7;

/// An x86-64 program that ends with `status`: one header, one loaded segment, three instructions.
fn program(status: u8) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const CODE_AT: u64 = 120;
    // mov edi, status; mov eax, 60 (exit); syscall
    let code = [0xbf, status, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let length = CODE_AT + code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    for word in [BASE + CODE_AT, 64, 0] {
        bytes.extend(u64::to_le_bytes(word)); // entry, program headers, section headers
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // flags, sizes, one program header
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]); // loaded, read and execute
    for word in [0, BASE, BASE, length, length, 0x1000] {
        bytes.extend(u64::to_le_bytes(word));
    }
    bytes.extend(code);
    bytes
}

fn pinned() -> String {
    at("open/bin/pinned")
}

fn put(path: &str, content: &[u8]) -> std::io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// The profile of the tests, with a pin of the right content.
fn profile() -> String {
    let digest: String = Sha256::digest(program(RIGHT)).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PROFILE}  pinned: [{{ path: {}, sha256: {digest} }}]\n", pinned())
}

/// Ends well if the program ran, whatever its content; `Ok(status)`.
fn status_of(path: &str) -> Result<i32, Failure> {
    let mut command = std::process::Command::new(path);
    command.arg0("pinned");
    match command.status() {
        Ok(status) => Ok(status.code().unwrap_or(-1)),
        Err(e) => Err(Failure::of("exec", &e)),
    }
}

fn run_wrong() -> Attempt {
    match status_of(&pinned())? {
        status if status == i32::from(WRONG) => Ok(()),
        other => Err(Failure::new(format!("another program ran: {other}"), 0)),
    }
}

#[derive(Clone, Copy)]
struct Swap {
    name: &'static str,
    /// What lies at the path when the agent begins.
    content: u8,
    hook: Hook,
    reason: Reason,
    run: fn(&mut Stage) -> Attempt,
}

const SWAPS: &[Swap] = &[
    Swap {
        name: "F7_pinned_program_with_another_content",
        content: WRONG,
        hook: Hook::LsmBprmCheck,
        reason: Reason::Digest,
        run: |stage| {
            stage.pause()?;
            run_wrong()
        },
    },
    Swap {
        name: "F7_pinned_interpreter_with_another_content",
        content: WRONG,
        hook: Hook::LsmBprmCheck,
        reason: Reason::Digest,
        run: |stage| {
            ok("write", put(&at("open/bin/script"), format!("#!{}\n", pinned()).as_bytes()))?;
            stage.pause()?;
            match status_of(&at("open/bin/script"))? {
                status if status == i32::from(WRONG) => Ok(()),
                other => Err(Failure::new(format!("another program ran: {other}"), 0)),
            }
        },
    },
    Swap {
        name: "F8_pinned_program_mapped_without_an_exec",
        content: WRONG,
        hook: Hook::LsmMmapFile,
        reason: Reason::Digest,
        run: |stage| {
            stage.pause()?;
            map_as_code(&pinned(), true)
        },
    },
    Swap {
        name: "F7_pinned_program_is_written",
        content: RIGHT,
        hook: Hook::LsmFileOpen,
        reason: Reason::Rule,
        run: |stage| {
            stage.pause()?;
            ok("write", fs::write(pinned(), program(WRONG)))?;
            run_wrong()
        },
    },
    Swap {
        name: "F7_pinned_program_is_replaced",
        content: RIGHT,
        hook: Hook::LsmPathRename,
        reason: Reason::Rule,
        run: |stage| {
            stage.pause()?;
            ok("write", put(&at("open/other"), &program(WRONG)))?;
            ok("rename", fs::rename(at("open/other"), pinned()))?;
            run_wrong()
        },
    },
];

fn prepare(content: u8) -> Result<()> {
    plant()?;
    Ok(put(&pinned(), &program(content))?)
}

/// What the daemon does when it puts the profile in force, and again and again; how many files it read.
fn tell(lab: &mut Lab) -> Result<usize> {
    let resolved = resolve(&profile())?;
    let pins = resolved.exec.map(|exec| exec.pins).unwrap_or_default();
    Ok(lab.monitor()?.kernel.check_pins(&pins)?)
}

fn blind(lab: &mut Lab) -> Result<Option<Completion>> {
    let monitor = lab.monitor()?;
    let missing = ["lsm/file_open", MECHANISM].into_iter().find(|name| !monitor.works(name));
    missing.map(|name| Ok(Completion::ignored_with(monitor.blind(name)?))).transpose()
}

fn denied(lab: &mut Lab, swap: Swap) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    prepare(swap.content)?;
    tell(lab)?;
    let run = lab.attack(&profile(), swap.run)?;
    let Err(failure) = &run.attempt else { bail!("it went through: {}", run.describe()) };
    ensure!(failure.errno == libc::EACCES, "{}", run.describe());
    let Some(record) = run.records.last() else { bail!("no record: {}", run.describe()) };
    ensure!(record.hook() == Some(swap.hook) && record.reason() == Some(swap.reason), "{}", run.describe());
    ensure!(record.denies() && run.denials == run.records.len() as u64, "{}", run.describe());
    Ok(Completion::Completed)
}

/// Runs of a program that another process exchanges for one of another content meanwhile.
const ROUNDS: u32 = 150;

/// `Ok` when the other content ran once.
fn race(stage: &mut Stage) -> Attempt {
    stage.pause()?;
    let mut refused = false;
    for _ in 0..ROUNDS {
        match status_of(&pinned()) {
            Ok(status) if status == i32::from(WRONG) => return Ok(()),
            Ok(_) => {}
            Err(failure) => refused |= failure.errno == libc::EACCES,
        }
    }
    Err(Failure::new("run the other content", if refused { libc::EACCES } else { 0 }))
}

/// Exchanges the two contents until `body` is over, from outside the agent.
fn while_swapped<R>(body: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let next = at("open/bin/next");
                let content = program(if round.is_multiple_of(2) { WRONG } else { RIGHT });
                // A round that fails is a round less.
                let _ = put(&next, &content).and_then(|()| fs::rename(&next, pinned()));
                round += 1;
            }
        });
        let result = body();
        over.store(true, Ordering::Relaxed);
        result
    })
}

fn race_is_lost(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    prepare(RIGHT)?;
    tell(lab)?;
    let by_kernel = lab.monitor()?.works(IMA);
    // Forking asks for one thread: the child is there before the other thread is.
    let run = swapped_run(lab, true)?;
    let Err(failure) = &run.attempt else { bail!("the other content ran: {}", run.describe()) };
    ensure!(failure.errno == libc::EACCES, "no round was refused: {}", run.describe());
    for record in &run.records {
        // The daemon was not told of the files that are put there.
        let expected = if by_kernel { Reason::Digest } else { Reason::DigestUnknown };
        ensure!(record.reason() == Some(expected), "{record:?}");
    }
    Ok(Completion::Completed)
}

/// One run of the race, with the exchanging thread in a process of its own.
fn swapped_run(lab: &mut Lab, enforced: bool) -> Result<lab::Run> {
    let mut swapper = Child::spawn_outside(|stage| while_swapped(|| stage.pause()))?;
    swapper.paused()?;
    let run = if enforced { lab.attack(&profile(), race) } else { lab.unenforced(race) };
    swapper.end();
    run
}

pub fn trials() -> Vec<Trial> {
    let swaps = SWAPS.iter().flat_map(|&swap| {
        pair(
            swap.name,
            move |lab| denied(lab, swap),
            move |lab| {
                prepare(swap.content)?;
                let run = lab.unenforced(swap.run)?;
                ensure!(run.attempt.is_ok(), "{}", run.describe());
                Ok(())
            },
        )
    });
    let race = pair("F7_pinned_program_that_is_swapped_meanwhile", race_is_lost, |lab| {
        prepare(RIGHT)?;
        let run = swapped_run(lab, false)?;
        ensure!(run.attempt.is_ok(), "{}", run.describe());
        Ok(())
    });
    let changed = pair("F7_pinned_program_that_changes_after_it_was_read", changed_later, |lab| {
        prepare(RIGHT)?;
        put(&pinned(), &program(WRONG))?;
        let run = lab.unenforced(|stage| {
            stage.pause()?;
            run_wrong()
        })?;
        ensure!(run.attempt.is_ok(), "{}", run.describe());
        Ok(())
    });
    let failed = pair(
        "F7_pinned_program_that_changes_after_an_exec_of_it_failed",
        |lab| mapped_after_a_failed_exec(lab, true),
        |lab| mapped_after_a_failed_exec(lab, false).map(drop),
    );
    let others = [
        lab::test("what_the_daemon_read_holds_until_the_file_changes", told_until_it_changes),
        lab::test("a_pinned_program_with_its_content_runs", right_runs),
        lab::test("a_pin_is_a_gap_where_no_program_asks_for_its_content", gap),
    ];
    swaps.chain(race).chain(changed).chain(failed).chain(others).collect()
}

fn right_runs(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    prepare(RIGHT)?;
    tell(lab)?;
    put(&at("open/bin/script"), format!("#!{}\n", pinned()).as_bytes())?;
    let run = lab.attack(&profile(), |stage| {
        stage.pause()?;
        for path in [pinned(), pinned(), at("open/bin/script")] {
            match status_of(&path)? {
                0 => {}
                other => return Err(Failure::new(format!("{path} ended with {other}"), 0)),
            }
        }
        // Others are not held to it.
        crate::files::run(&at("open/bin/tool"))?;
        map_as_code(&at("open/bin/tool"), true)
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

/// In place, from outside the agent.
fn changed_later(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    prepare(RIGHT)?;
    tell(lab)?;
    put(&pinned(), &program(WRONG))?;
    let run = lab.attack(&profile(), |stage| {
        stage.pause()?;
        run_wrong()
    })?;
    let by_kernel = lab.monitor()?.works(IMA);
    let expected = if by_kernel { Reason::Digest } else { Reason::DigestUnknown };
    let Err(failure) = &run.attempt else { bail!("it went through: {}", run.describe()) };
    ensure!(failure.errno == libc::EACCES, "{}", run.describe());
    ensure!(run.records.last().and_then(|record| record.reason()) == Some(expected), "{}", run.describe());
    Ok(Completion::Completed)
}

/// A program whose exec fails when its content was found right: the interpreter that it asks for is not there.
fn without_interpreter() -> Vec<u8> {
    const NAME: &[u8] = b"/nonexistent/interpreter\0";
    let mut bytes = program(RIGHT);
    let at = bytes.len() as u64 + 56;
    bytes[56] = 2; // program headers
    // The second one, of type PT_INTERP, takes the place behind the first; the code is never reached.
    let mut header = vec![3, 0, 0, 0, 4, 0, 0, 0];
    let length = NAME.len() as u64;
    for word in [at, at, at, length, length, 1] {
        header.extend(u64::to_le_bytes(word));
    }
    bytes.splice(120..120, header);
    bytes.extend(NAME);
    bytes
}

/// The same task fails to execute the pinned program, somebody outside changes it in place, and the task maps it.
fn mapped_after_a_failed_exec(lab: &mut Lab, enforced: bool) -> Result<Completion> {
    if enforced && let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    plant()?;
    put(&pinned(), &without_interpreter())?;
    let digest: String = Sha256::digest(without_interpreter()).iter().map(|b| format!("{b:02x}")).collect();
    let profile = format!("{PROFILE}  pinned: [{{ path: {}, sha256: {digest} }}]\n", pinned());
    let body = |stage: &mut Stage| {
        stage.pause()?;
        let path = std::ffi::CString::new(pinned()).unwrap_or_default();
        let none: [*const libc::c_char; 2] = [path.as_ptr(), std::ptr::null()];
        // SAFETY: terminated strings, and lists that end in null.
        unsafe { libc::execve(path.as_ptr(), none.as_ptr(), none[1..].as_ptr()) };
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT) => {}
            other => return Err(Failure::new("the exec did not end as it should", other.unwrap_or(0))),
        }
        stage.pause()?;
        map_as_code(&pinned(), true)
    };
    let (monitor, world) = lab.parts()?;
    let mut agent = 0;
    let mut child = Child::spawn(if enforced { &world.agents } else { &world.outside }, body)?;
    child.paused()?;
    if enforced {
        monitor.install(&profile)?;
        let pins = resolve(&profile)?.exec.map(|exec| exec.pins).unwrap_or_default();
        monitor.kernel.check_pins(&pins)?;
        agent = monitor.label(child.pid())?;
    }
    monitor.drain(Ring::Verdicts)?;
    child.go_on()?;
    child.paused()?;
    fs::write(pinned(), program(WRONG))?;
    child.go_on()?;
    let attempt = child.finish()?;
    if !enforced {
        ensure!(attempt.is_ok(), "{attempt:?}");
        return Ok(Completion::Completed);
    }
    let records = monitor.drain(Ring::Verdicts)?;
    monitor.kernel.remove_agent(agent);
    ensure!(attempt.as_ref().is_err_and(|f| f.errno == libc::EACCES), "{attempt:?} {records:?}");
    let [record] = records.as_slice() else { bail!("{records:?}") };
    ensure!(
        record.hook() == Some(Hook::LsmMmapFile) && record.reason() == Some(Reason::Digest),
        "{record:?}"
    );
    Ok(Completion::Completed)
}

/// Where the kernel can't tell: a file that was written anew with the same content waits for the daemon.
fn told_until_it_changes(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    let by_kernel = lab.monitor()?.works(IMA);
    prepare(RIGHT)?;
    let read = if by_kernel { 0 } else { 1 };
    let runs = |lab: &mut Lab| -> Result<bool> {
        let run = lab.attack(&profile(), |stage| {
            stage.pause()?;
            match status_of(&pinned())? {
                0 => Ok(()),
                other => Err(Failure::new(format!("it ended with {other}"), 0)),
            }
        })?;
        ensure!(run.attempt.as_ref().err().is_none_or(|f| f.errno == libc::EACCES), "{}", run.describe());
        Ok(run.attempt.is_ok())
    };
    ensure!(tell(lab)? == read && runs(lab)?, "a file that was read does not run");
    ensure!(tell(lab)? == 0 && tell(lab)? == 0, "a file without a change was read again");
    put(&pinned(), &program(RIGHT))?;
    ensure!(runs(lab)? == by_kernel, "the kernel hashes: {by_kernel}");
    ensure!(tell(lab)? == read && runs(lab)?, "it does not run after it was read again");
    Ok(Completion::Completed)
}

fn gap(lab: &mut Lab) -> Result<Completion> {
    let monitor = lab.monitor()?;
    let gaps = monitor.kernel.posture().missing_for(&resolve(&profile())?);
    let told = gaps.iter().any(|gap| gap.mechanism == MECHANISM);
    ensure!(told != monitor.works(MECHANISM), "{gaps:?}");
    Ok(Completion::Completed)
}
