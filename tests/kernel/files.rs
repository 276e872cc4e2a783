//! F1 to F16, L14: ways to an object that a profile does not grant, and ways to run or replace one.
//!
//! The tree of the tests lies on the temporary directory and is made anew for every attack. What the profile grants
//! lies in `open`; `closed` is not granted, `open/secret` and `open/vault` are denied.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use agent_monitor_common::activity::UsedKey;
use agent_monitor_common::counters::Ring;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::{Attempt, Body, Failure, Stage, uring};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::catalogue::{ATTACK, TWIN};
use crate::lab::{self, Lab, Run};

const ROOT: &str = "/tmp/agent-monitor-files";

pub const PROFILE: &str = "\
version: 1
name: filed
mode: enforce
network: {}
files:
  read: ['/tmp/agent-monitor-files/open/**', '/usr/**', '/lib*/**', '/etc/**', '/proc/**', '/dev/**']
  write: ['/tmp/agent-monitor-files/open/**', '/dev/null']
  deny: ['/tmp/agent-monitor-files/open/secret', '/tmp/agent-monitor-files/open/vault/**', '**/.env', '**/.git/hooks/**', '**/.bashrc', '**/.mcp.json', '**/.claude/**', '**/.vscode/tasks.json', '/tmp/agent-monitor-files/open/deep/**/key']
exec:
  allow: ['/tmp/agent-monitor-files/open/bin/*', '/usr/**', '/lib*/**']
  deny: ['**/forbidden']
";

/// A path in the tests' tree.
pub fn at(name: &str) -> String {
    format!("{ROOT}/{name}")
}

/// Makes the tree anew.
pub fn plant() -> Result<()> {
    let _ = fs::remove_dir_all(ROOT);
    for directory in [
        "open/bin",
        "open/vault",
        "open/dir",
        "open/.git/hooks",
        "open/.claude",
        "open/.vscode",
        "open/deep/a/b",
        "closed/dir",
        "closed/etc",
    ] {
        fs::create_dir_all(at(directory))?;
    }
    for file in [
        "open/plain",
        "open/secret",
        "open/vault/key",
        "open/dir/.env",
        "open/.git/hooks/pre-commit",
        "open/.bashrc",
        "open/deep/a/b/key",
        "closed/file",
        "closed/etc/shadow",
    ] {
        fs::write(at(file), "contents")?;
    }
    for program in ["open/bin/tool", "open/bin/forbidden", "open/tool", "closed/tool"] {
        fs::copy("/proc/self/exe", at(program))?;
        fs::set_permissions(at(program), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

pub fn ok(step: &str, result: std::io::Result<impl Sized>) -> Attempt {
    result.map(drop).map_err(|e| Failure::of(step, &e))
}

pub fn c(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

/// The errno of a system call that returned below 0.
pub fn call(step: &str, result: libc::c_long) -> Result<i64, Failure> {
    if result < 0 { Err(Failure::last(step)) } else { Ok(result) }
}

pub fn read(path: &str) -> Attempt {
    ok("read", fs::read(path))
}

/// Runs a program to its end.
pub fn run(path: &str) -> Attempt {
    // `--help` of the test binary: no world is opened.
    match std::process::Command::new(path).arg("--help").stdout(std::process::Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("the program ended with {status}"), 0)),
        Err(e) => Err(Failure::of("exec", &e)),
    }
}

/// Maps a file's beginning as code: at once, or after the fact.
pub fn map_as_code(path: &str, at_once: bool) -> Attempt {
    let file = fs::File::open(path).map_err(|e| Failure::of("open", &e))?;
    let first = if at_once { libc::PROT_READ | libc::PROT_EXEC } else { libc::PROT_READ };
    // SAFETY: a new mapping of a page, unmapped by the end of the process.
    unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let map = libc::mmap(std::ptr::null_mut(), 4096, first, libc::MAP_PRIVATE, fd, 0);
        if map == libc::MAP_FAILED {
            return Err(Failure::last("mmap"));
        }
        if !at_once && libc::mprotect(map, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return Err(Failure::last("mprotect"));
        }
    }
    Ok(())
}

/// Opens a file for reading by io_uring's `openat2`.
fn open_by_ring(path: &str, polled: bool) -> Attempt {
    let path = c(path);
    let how = [0_u64; 3];
    let entry = uring::Entry {
        opcode: uring::OP_OPENAT2,
        fd: libc::AT_FDCWD,
        address: path.as_ptr() as u64,
        length: size_of_val(&how) as u32,
        offset: how.as_ptr() as u64,
        ..uring::Entry::default()
    };
    uring::run(entry, polled).map(drop)
}

/// One way to an object.
#[derive(Clone, Copy)]
pub struct Attack {
    /// Catalogue id and what it does.
    name: &'static str,
    run: Way,
    /// What the attacker sees; 0: nothing but that it got nothing.
    errno: i32,
    hook: Hook,
    reason: Reason,
}

/// When an attack begins.
#[derive(Clone, Copy)]
enum Way {
    /// As an agent.
    Labelled(fn() -> Attempt),
    /// What it does before its first pause happens before the process is an agent.
    Older(fn(&mut Stage) -> Attempt),
}

pub const fn attack(name: &'static str, hook: Hook, reason: Reason, run: fn() -> Attempt) -> Attack {
    Attack { name, run: Way::Labelled(run), errno: libc::EACCES, hook, reason }
}

/// An attack with a preparation.
pub const fn prepared(
    name: &'static str,
    hook: Hook,
    reason: Reason,
    run: fn(&mut Stage) -> Attempt,
) -> Attack {
    Attack { name, run: Way::Older(run), errno: libc::EACCES, hook, reason }
}

impl Attack {
    /// The same, where the attacker sees another errno.
    pub const fn seen_as(self, errno: i32) -> Self {
        Attack { errno, ..self }
    }
}

fn attacks() -> Vec<Attack> {
    use Hook::{
        LsmFileMprotect as Mprotect, LsmFileOpen as Open, LsmMmapFile as Mmap, LsmPathChmod as Chmod,
        LsmPathChown as Chown, LsmPathLink as Link, LsmPathMkdir as Mkdir, LsmPathMknod as Mknod,
        LsmPathRename as Rename, LsmPathRmdir as Rmdir, LsmPathSymlink as Symlink,
        LsmPathTruncate as Truncate, LsmPathUnlink as Unlink,
    };
    use Reason::{Anonymous, Default, DeniedBelow, NoPath, Rule};
    vec![
        attack("F1_plain_read", Open, Default, || read(&at("closed/file"))),
        attack("F1_read_of_a_denied_file", Open, Rule, || read(&at("open/secret"))),
        attack("F1_symlink", Open, Default, || {
            ok("symlink", symlink(at("closed/file"), at("open/link")))?;
            read(&at("open/link"))
        }),
        attack("F1_chain_of_symlinks", Open, Rule, || {
            ok("symlink", symlink("dir2/next", at("open/link")))?;
            ok("mkdir", fs::create_dir(at("open/dir2")))?;
            ok("symlink", symlink("../secret", at("open/dir2/next")))?;
            read(&at("open/link"))
        }),
        attack("F1_symlinked_parent", Open, Default, || {
            ok("symlink", symlink(at("closed"), at("open/parent")))?;
            read(&at("open/parent/file"))
        }),
        attack("F2_hard_link_of_a_denied_file", Link, Rule, || {
            ok("link", fs::hard_link(at("open/secret"), at("open/alias")))?;
            read(&at("open/alias"))
        }),
        attack("F2_hard_link_of_an_ungranted_file", Link, Default, || {
            ok("link", fs::hard_link(at("closed/file"), at("open/alias")))?;
            read(&at("open/alias"))
        }),
        attack("F3_rename_of_a_denied_file", Rename, Rule, || {
            ok("rename", fs::rename(at("open/secret"), at("open/moved")))?;
            read(&at("open/moved"))
        }),
        attack("F3_rename_of_its_parent", Rename, DeniedBelow, || {
            ok("rename", fs::rename(at("open/vault"), at("open/moved")))?;
            read(&at("open/moved/key"))
        }),
        attack("F3_rename_of_a_named_directory_anywhere", Rename, DeniedBelow, || {
            ok("rename", fs::rename(at("open/.git"), at("open/moved")))?;
            read(&at("open/moved/hooks/pre-commit"))
        }),
        attack("F3_rename_out_of_the_place_of_a_floating_deny", Rename, DeniedBelow, || {
            ok("rename", fs::rename(at("open/deep/a"), at("open/moved")))?;
            read(&at("open/moved/b/key"))
        }),
        attack("F3_rename_of_a_directory_to_a_denied_name", Rename, DeniedBelow, || {
            ok("mkdir", fs::create_dir_all(at("open/planted/hooks")))?;
            ok("write", fs::write(at("open/planted/hooks/pre-commit"), "x"))?;
            ok("rename", fs::rename(at("open/planted"), at("open/dir/.git")))?;
            read(&at("open/dir/.git/hooks/pre-commit"))
        }),
        attack("F3_exchange", Rename, DeniedBelow, || {
            // SAFETY: two strings that end in NUL.
            call("renameat2", unsafe {
                libc::syscall(
                    libc::SYS_renameat2,
                    libc::AT_FDCWD,
                    c(&at("open/dir")).as_ptr(),
                    libc::AT_FDCWD,
                    c(&at("open/vault")).as_ptr(),
                    libc::RENAME_EXCHANGE,
                )
            })?;
            read(&at("open/dir/key"))
        }),
        attack("F6_proc_self_root", Open, Default, || read(&format!("/proc/self/root{}", at("closed/file")))),
        attack("F6_proc_self_cwd", Open, Default, || {
            ok("chdir", std::env::set_current_dir(at("closed")))?;
            read("/proc/self/cwd/file")
        }),
        attack("F6_dot_dot", Open, Default, || read(&at("open/dir/../../closed/file"))),
        attack("F6_descriptor_of_a_path", Open, Default, || {
            // SAFETY: a string that ends in NUL. O_PATH opens nothing yet.
            let fd = call("open O_PATH", unsafe {
                libc::c_long::from(libc::open(c(&at("closed/file")).as_ptr(), libc::O_PATH))
            })?;
            read(&format!("/proc/self/fd/{fd}"))
        }),
        attack("F7_copy_of_a_program", Open, Default, || {
            ok("copy", fs::copy(at("open/bin/tool"), at("open/copied")))?;
            run(&at("open/copied"))
        }),
        attack("F7_rename_into_a_denied_name", Open, Rule, || {
            ok("rename", fs::rename(at("open/bin/tool"), at("open/bin/forbidden")))?;
            run(&at("open/bin/forbidden"))
        }),
        attack("F7_plain_exec", Open, Default, || run(&at("open/tool"))),
        attack("F8_mapped_as_code", Mmap, Default, || map_as_code(&at("open/tool"), true)),
        attack("F8_made_code_after_the_map", Mprotect, Default, || map_as_code(&at("open/tool"), false)),
        attack("F9_memfd", Open, Anonymous, || {
            // SAFETY: a string that ends in NUL.
            let fd =
                call("memfd_create", unsafe { libc::syscall(libc::SYS_memfd_create, c("x").as_ptr(), 0) })?;
            let path = format!("/proc/self/fd/{fd}");
            ok("copy", fs::copy(at("open/bin/tool"), &path))?;
            run(&path)
        }),
        attack("F10_script", Open, Default, || {
            ok("write", fs::write(at("open/script"), format!("#!{} --help\n", at("open/bin/tool"))))?;
            ok("chmod", fs::set_permissions(at("open/script"), fs::Permissions::from_mode(0o755)))?;
            run(&at("open/script"))
        }),
        attack("F11_another_comm", Open, Default, || {
            // SAFETY: a string that ends in NUL.
            unsafe { libc::prctl(libc::PR_SET_NAME, c("claude").as_ptr()) };
            read(&at("closed/file"))
        }),
        attack("F12_write", Open, Default, || {
            ok("open", fs::OpenOptions::new().write(true).open(at("closed/file")))
        }),
        attack("F12_write_without_reading", Open, Rule, || {
            ok("open", fs::OpenOptions::new().append(true).open(at("open/secret")))
        }),
        attack("F12_create", Mknod, Default, || ok("create", fs::File::create_new(at("closed/new")))),
        attack("F12_create_a_denied_name", Mknod, Rule, || {
            ok("create", fs::File::create_new(at("open/.env")))
        }),
        attack("F12_truncate", Truncate, Default, || {
            // SAFETY: a string that ends in NUL.
            call("truncate", unsafe { libc::c_long::from(libc::truncate(c(&at("closed/file")).as_ptr(), 0)) })
                .map(drop)
        }),
        attack("F12_unlink", Unlink, Default, || ok("unlink", fs::remove_file(at("closed/file")))),
        attack("F12_rename_away", Rename, Default, || {
            ok("rename", fs::rename(at("closed/file"), at("open/stolen")))
        }),
        attack("F12_rename_over", Rename, Default, || {
            ok("rename", fs::rename(at("open/plain"), at("closed/file")))
        }),
        attack("F12_link_into", Link, Default, || {
            ok("link", fs::hard_link(at("open/plain"), at("closed/new")))
        }),
        attack("F12_symlink_into", Symlink, Default, || {
            ok("symlink", symlink(at("open/plain"), at("closed/new")))
        }),
        attack("F12_mkdir", Mkdir, Default, || ok("mkdir", fs::create_dir(at("closed/new")))),
        attack("F12_rmdir", Rmdir, Default, || ok("rmdir", fs::remove_dir(at("closed/dir")))),
        attack("F12_chmod", Chmod, Default, || {
            ok("chmod", fs::set_permissions(at("closed/file"), fs::Permissions::from_mode(0o777)))
        }),
        attack("F12_chown", Chown, Default, || {
            ok("chown", std::os::unix::fs::chown(at("closed/file"), Some(1), None))
        }),
        attack("F12_mknod", Mknod, Default, || {
            // SAFETY: a string that ends in NUL.
            call("mknod", unsafe {
                libc::c_long::from(libc::mknod(c(&at("closed/fifo")).as_ptr(), libc::S_IFIFO | 0o600, 0))
            })
            .map(drop)
        }),
        attack("F12_list_a_directory", Open, Default, || ok("readdir", fs::read_dir(at("closed")))),
        attack("F14_path_that_is_too_long", Mkdir, NoPath, || {
            ok("chdir", std::env::set_current_dir(at("open")))?;
            let name = "d".repeat(200);
            for _ in 0..25 {
                ok("mkdir", fs::create_dir(&name))?;
                ok("chdir", std::env::set_current_dir(&name))?;
            }
            // What is too deep to be judged can't be made: reaching this is the attack.
            ok("create", fs::File::create_new("x"))?;
            read("x")
        }),
        attack("S7_openat2", Open, Default, || {
            let how = [0_u64; 3];
            // SAFETY: a string that ends in NUL and a whole `struct open_how`.
            call("openat2", unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    libc::AT_FDCWD,
                    c(&at("closed/file")).as_ptr(),
                    how.as_ptr(),
                    size_of_val(&how),
                )
            })
            .map(drop)
        }),
        attack("S7_open_by_handle", Open, Default, || {
            #[repr(C)]
            struct Handle {
                bytes: u32,
                kind: i32,
                data: [u8; 128],
            }
            let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
            let mut mount = 0;
            // SAFETY: a string that ends in NUL, and a handle with room for what it says.
            unsafe {
                call(
                    "name_to_handle_at",
                    libc::syscall(
                        libc::SYS_name_to_handle_at,
                        libc::AT_FDCWD,
                        c(&at("closed/file")).as_ptr(),
                        &raw mut handle,
                        &raw mut mount,
                        0,
                    ),
                )
                .map_err(|f| Failure::absent("name_to_handle_at", f.errno))?;
                let root = fs::File::open(at("open")).map_err(|e| Failure::of("open the mount", &e))?;
                let fd = std::os::fd::AsRawFd::as_raw_fd(&root);
                call(
                    "open_by_handle_at",
                    libc::syscall(libc::SYS_open_by_handle_at, fd, &raw mut handle, 0),
                )?;
            }
            Ok(())
        }),
        attack("S1_io_uring_open", Open, Default, || open_by_ring(&at("closed/file"), false)),
        attack("S2_polled_ring_open", Open, Default, || open_by_ring(&at("closed/file"), true)),
        attack("S1_io_uring_unlink", Unlink, Default, || {
            let path = c(&at("closed/file"));
            let entry = uring::Entry {
                opcode: uring::OP_UNLINKAT,
                fd: libc::AT_FDCWD,
                address: path.as_ptr() as u64,
                ..uring::Entry::default()
            };
            uring::run(entry, false).map(drop)
        }),
        Attack {
            errno: libc::EPERM,
            ..attack("F4_bind_mount", Hook::LsmSbMount, Reason::Mount, || {
                // SAFETY: strings that end in NUL; a mount namespace of its own. Without private propagation the bind
                // would reach the tests' own.
                unsafe {
                    call("unshare", libc::c_long::from(libc::unshare(libc::CLONE_NEWNS)))?;
                    let none = std::ptr::null();
                    let private = libc::MS_REC | libc::MS_PRIVATE;
                    call(
                        "private",
                        libc::c_long::from(libc::mount(none, c"/".as_ptr(), none, private, none.cast())),
                    )?;
                    call(
                        "mount",
                        libc::c_long::from(libc::mount(
                            c(&at("closed")).as_ptr(),
                            c(&at("open/dir")).as_ptr(),
                            none,
                            libc::MS_BIND,
                            none.cast(),
                        )),
                    )?;
                }
                read(&at("open/dir/file"))
            })
        },
    ]
}

/// Runs an attack in a child that is an agent, or free.
fn staged(attack: Attack) -> impl FnOnce(&mut Stage) -> Attempt {
    move |stage| match attack.run {
        Way::Labelled(run) => {
            stage.pause()?;
            run()
        }
        Way::Older(run) => run(stage),
    }
}

fn twin(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    plant()?;
    let run = lab.unenforced(staged(attack))?;
    match &run.attempt {
        Ok(()) => Ok(Completion::Completed),
        Err(failure) if failure.is_absence() => {
            Ok(Completion::ignored_with(format!("not in this kernel: {failure}")))
        }
        Err(failure) => bail!("failed with enforcement off: {failure}"),
    }
}

/// The mechanism of a hook, as posture names it.
fn mechanism(hook: Hook) -> String {
    format!("lsm/{}", hook.name())
}

fn denied(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    if let Completion::Ignored { reason: Some(reason) } = twin(lab, attack)? {
        return Ok(Completion::ignored_with(reason));
    }
    plant()?;
    let attack = Attack { hook: here(lab, attack.hook)?, ..attack };
    let run = lab.attack(PROFILE, staged(attack))?;
    let mechanism = mechanism(attack.hook);
    if !lab.monitor()?.works(&mechanism) {
        ensure!(run.attempt.is_ok(), "posture calls this attack blind, and yet: {}", run.describe());
        return Ok(Completion::ignored_with(lab.monitor()?.blind(&mechanism)?));
    }
    judge(attack, &run).with_context(|| run.describe())?;
    Ok(Completion::Completed)
}

/// The hook that has the calls of `hook` on this kernel.
fn here(lab: &mut Lab, hook: Hook) -> Result<Hook> {
    let monitor = lab.monitor()?;
    let works = |hook: Hook| monitor.works(&mechanism(hook));
    Ok(match hook {
        Hook::LsmInodeSetAcl if !works(hook) => Hook::LsmInodeSetxattr,
        Hook::LsmInodeRemoveAcl if !works(hook) => Hook::LsmInodeRemovexattr,
        Hook::LsmFileTruncate if !works(hook) => Hook::LsmPathTruncate,
        _ => hook,
    })
}

fn judge(attack: Attack, run: &Run) -> Result<()> {
    let Err(failure) = &run.attempt else { bail!("it went through") };
    ensure!(failure.errno == attack.errno, "ended with {failure:?}, not errno {}", attack.errno);
    ensure!(run.denials >= 1 && run.denials == run.records.len() as u64, "{} denials counted", run.denials);
    let Some(record) = run.records.last() else { bail!("no record") };
    ensure!(record.hook() == Some(attack.hook), "the record is of {:?}", record.hook());
    ensure!(
        record.denies() && record.reason() == Some(attack.reason),
        "the record says {:?}",
        record.reason()
    );
    let told = if attack.errno == 0 { libc::EACCES } else { attack.errno };
    ensure!(i32::from(record.header.errno) == told, "the record says errno {}", record.header.errno);
    Ok(())
}

/// The tests of an attack on the profile.
pub fn pairs(attacks: Vec<Attack>) -> impl Iterator<Item = Trial> {
    attacks.into_iter().flat_map(|attack| {
        [
            lab::test(format!("{}{TWIN}", attack.name), move |lab| twin(lab, attack)),
            lab::test(format!("{}{ATTACK}", attack.name), move |lab| denied(lab, attack)),
        ]
    })
}

pub fn trials() -> Vec<Trial> {
    let others = [
        lab::test("files_that_are_granted_work", granted_work),
        lab::test("a_denied_file_is_one_event_with_its_path", one_event),
        lab::test("files_are_not_judged_without_a_section", not_judged),
        lab::test("what_is_allowed_again_is_counted_and_not_told", counted_repeats),
        lab::test("a_kernel_with_bpf_lsm_has_no_gap_for_files", no_gap),
    ];
    pairs(attacks()).chain(others).collect()
}

/// Everything that the profile grants, and what has no path.
fn work() -> Attempt {
    read(&at("open/plain"))?;
    ok("list", fs::read_dir(at("open")))?;
    ok("create", fs::write(at("open/new"), "x"))?;
    ok("append", fs::OpenOptions::new().append(true).open(at("open/new")))?;
    ok("rename", fs::rename(at("open/new"), at("open/dir/newer")))?;
    ok("link", fs::hard_link(at("open/plain"), at("open/twin")))?;
    ok("symlink", symlink("plain", at("open/soft")))?;
    read(&at("open/soft"))?;
    ok("chmod", fs::set_permissions(at("open/plain"), fs::Permissions::from_mode(0o600)))?;
    ok("mkdir", fs::create_dir(at("open/made")))?;
    ok("rename a directory", fs::rename(at("open/made"), at("open/remade")))?;
    ok("rmdir", fs::remove_dir(at("open/remade")))?;
    // A denied object may lie in it; every rule says the same about it under the new name.
    ok("rename within the place of a deny", fs::rename(at("open/deep/a"), at("open/deep/c")))?;
    ok("move a directory whose name is denied", fs::rename(at("open/.git"), at("open/dir/.git")))?;
    ok("unlink", fs::remove_file(at("open/twin")))?;
    ok("read what has no path", fs::read("/proc/self/fd/0").or(Ok::<_, std::io::Error>(Vec::new())))?;
    run(&at("open/bin/tool"))?;
    map_as_code(&at("open/bin/tool"), true)?;
    map_as_code(&at("open/bin/tool"), false)?;
    let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, unmapped by the end of the process.
    if unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, private, -1, 0) } == libc::MAP_FAILED {
        return Err(Failure::last("mmap memory for code"));
    }
    Ok(())
}

fn granted_work(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        work()
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

/// Also where a hook came later than the kernel: another one has its calls.
fn no_gap(lab: &mut Lab) -> Result<Completion> {
    let monitor = lab.monitor()?;
    let gaps = monitor.kernel.posture().missing_for(&agent_monitor_tests::monitor::resolve(PROFILE)?);
    if !monitor.works("lsm/file_open") {
        ensure!(
            gaps.iter().any(|gap| gap.mechanism == "lsm/file_open"),
            "blind, and no gap is told: {gaps:?}"
        );
        return Ok(Completion::ignored_with(monitor.blind("lsm/file_open")?));
    }
    ensure!(gaps.is_empty(), "{gaps:?}");
    Ok(Completion::Completed)
}

fn one_event(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    if !lab.monitor()?.works("lsm/file_open") {
        return Ok(Completion::ignored_with(lab.monitor()?.blind("lsm/file_open")?));
    }
    let inode = fs::metadata(at("closed/file"))?.ino();
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        read("/proc/self/root/tmp/../tmp/agent-monitor-files/closed/file")
    })?;
    let [record] = run.records.as_slice() else { bail!("{}", run.describe()) };
    let Body::File { body, path } = &record.body else { bail!("{}", run.describe()) };
    ensure!(Path::new(std::str::from_utf8(path)?) == Path::new(&at("closed/file")), "{}", run.describe());
    ensure!(body.inode == inode && body.rights == 1 && body.path_total as usize == path.len(), "{body:?}");
    let comm = fs::read("/proc/self/comm")?;
    ensure!(body.comm.starts_with(comm.trim_ascii_end()), "{body:?}");
    Ok(Completion::Completed)
}

/// One record of a hundred opens of one file and of three files made in one directory, and their counts.
fn counted_repeats(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    if !lab.monitor()?.works("lsm/file_open") {
        return Ok(Completion::ignored_with(lab.monitor()?.blind("lsm/file_open")?));
    }
    lab.monitor()?.drain(Ring::Activity)?;
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        for _ in 0..100 {
            read(&at("open/plain"))?;
        }
        for name in ["open/dir/a", "open/dir/b", "open/dir/c"] {
            // SAFETY: a path that lives through the call.
            let made = unsafe { libc::mknod(c(&at(name)).as_ptr(), libc::S_IFREG | 0o600, 0) };
            call("mknod", libc::c_long::from(made))?;
        }
        Ok(())
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    let monitor = lab.monitor()?;
    let mut told = Vec::new();
    for record in monitor.drain(Ring::Activity)? {
        if let Body::File { body, path } = &record.body {
            told.push((
                record.header.agent,
                String::from_utf8_lossy(path).into_owned(),
                body.rights,
                body.object,
            ));
        }
    }
    let of =
        |name: &str| -> Vec<_> { told.iter().filter(|(_, path, ..)| path.starts_with(&at(name))).collect() };
    let [(agent, _, rights, object)] = of("open/plain")[..] else { bail!("{told:?}") };
    let [(_, made, _, directory)] = of("open/dir/")[..] else { bail!("{told:?}") };
    ensure!(made == &at("open/dir/a"), "{told:?}");
    let used = monitor.used();
    let count = |object: &u64| {
        used.iter().find(|(key, _)| {
            *key == UsedKey::new(*agent, if object == directory { 2 } else { *rights }, *object)
        })
    };
    ensure!(count(object).map(|(_, count)| *count) == Some(100), "{used:?}");
    ensure!(count(directory).map(|(_, count)| *count) == Some(3), "{used:?}");
    Ok(Completion::Completed)
}

fn not_judged(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    let run = lab.attack(lab::PROFILE, |stage| {
        stage.pause()?;
        read(&at("closed/file"))?;
        run(&at("closed/tool"))
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}
