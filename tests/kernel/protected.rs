//! L2, L7, L8, L9: hands on the monitor itself, by an agent that is root and whose profile has neither `files` nor
//! `privileges`: its process, its programs and maps, its files, and the way out of its cgroup.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_monitor::policy::compile;
use agent_monitor::policy::protected::Protected;
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::cgroup::mount_point;
use agent_monitor_tests::monitor::{SLOT, resolve};
use agent_monitor_tests::{Attempt, Failure, bpf};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::catalogue::{ATTACK, TWIN};
use crate::lab::{self, Lab, PROFILE, Run};
use crate::process;

const ROOT: &str = "/tmp/agent-monitor-protected";
/// In the BPF file system of the machine.
const PINS: &str = "/sys/fs/bpf/agent-monitor-protected";

fn at(name: &str) -> String {
    format!("{ROOT}/{name}")
}

/// Makes the monitor's things anew.
fn plant() -> Result<()> {
    let _ = fs::remove_dir_all(ROOT);
    fs::create_dir_all(at("etc/profiles.d"))?;
    for file in ["etc/profiles.d/a.yaml", "program", "events.jsonl", "events.jsonl.1", "other"] {
        fs::write(at(file), "contents")?;
    }
    // Without a BPF file system there is nothing to protect in it.
    let _ = fs::remove_dir_all(PINS);
    let _ = fs::create_dir_all(format!("{PINS}/set1"));
    Ok(())
}

fn protected() -> Result<Protected> {
    let mut protected = Protected::default();
    protected.path(Path::new(&at("etc/profiles.d")));
    protected.path(Path::new(&at("program")));
    protected.begins_with(Path::new(&at("events.jsonl")));
    protected.path(Path::new(PINS));
    protected.glob(format!("{}/**/cgroup.*", mount_point()?.display()));
    Ok(protected)
}

fn ok(step: &str, result: std::io::Result<impl Sized>) -> Attempt {
    result.map(drop).map_err(|error| Failure::of(step, &error))
}

fn last(step: &str, result: libc::c_long) -> Attempt {
    if result < 0 { Err(Failure::last(step)) } else { Ok(()) }
}

/// One way to the monitor.
#[derive(Clone, Copy)]
struct Attack {
    name: &'static str,
    run: fn() -> Attempt,
    errno: i32,
    hook: Hook,
    reason: Reason,
}

fn parent() -> libc::pid_t {
    // SAFETY: no arguments. The monitor of these tests is the test process.
    unsafe { libc::getppid() }
}

/// Reads a word of the monitor, at an address that parent and child share.
fn read_memory() -> Attempt {
    static WORD: u64 = 7;
    let mut mine = 0_u64;
    let local = libc::iovec { iov_base: (&raw mut mine).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: (&raw const WORD).cast_mut().cast(), iov_len: 8 };
    // SAFETY: one word of ours is written; the other address is the parent's.
    last("process_vm_readv", unsafe {
        libc::process_vm_readv(parent(), &raw const local, 1, &raw const remote, 1, 0) as libc::c_long
    })
}

fn mount_over() -> Attempt {
    let nothing = std::ptr::null();
    let over = std::ffi::CString::new(at("etc/profiles.d")).unwrap_or_default();
    // SAFETY: terminated texts. A mount namespace of its own, so that the twin leaves nothing.
    unsafe {
        last("unshare", libc::unshare(libc::CLONE_NEWNS).into())?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        last(
            "make mounts private",
            libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()).into(),
        )?;
        last(
            "mount",
            libc::mount(c"none".as_ptr(), over.as_ptr(), c"tmpfs".as_ptr(), 0, nothing.cast()).into(),
        )
    }
}

/// The first program that the machine has.
fn program_by_id() -> Attempt {
    for id in 1..100_000 {
        match bpf::program_by_id(id) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            found => return ok("a program by its id", found),
        }
    }
    Err(Failure::new("no program", 0))
}

fn leave_cgroup() -> Attempt {
    let root = mount_point().map_err(|_| Failure::new("no cgroup v2", 0))?;
    ok("move", fs::write(root.join("cgroup.procs"), "0"))
}

fn attacks() -> Vec<Attack> {
    use Hook::{
        LsmBpf as Bpf, LsmFileOpen as Open, LsmPathChmod as Chmod, LsmPathLink as Link,
        LsmPathMkdir as Mkdir, LsmPathMknod as Mknod, LsmPathRename as Rename, LsmPathRmdir as Rmdir,
        LsmPathSymlink as Symlink, LsmPathTruncate as Truncate, LsmPathUnlink as Unlink,
        LsmPtraceAccessCheck as Ptrace, LsmSbMount as Mount, LsmTaskKill as Kill,
    };
    use Reason::{DeniedBelow, Protected, Rule};
    let path = |name, hook, reason, run| Attack { name, run, errno: libc::EACCES, hook, reason };
    let privilege = |name, hook, reason, run| Attack { name, run, errno: libc::EPERM, hook, reason };
    vec![
        path("L2_write_of_another_cgroups_processes", Open, Rule, leave_cgroup),
        path("L9_write_of_a_profile", Open, Rule, || {
            ok("write", fs::write(at("etc/profiles.d/a.yaml"), "x"))
        }),
        path("L9_another_profile", Mknod, Rule, || ok("create", fs::write(at("etc/profiles.d/b.yaml"), "x"))),
        path("L9_removal_of_a_profile", Unlink, Rule, || {
            ok("remove", fs::remove_file(at("etc/profiles.d/a.yaml")))
        }),
        path("L9_link_in_place_of_a_profile", Symlink, Rule, || {
            ok("symlink", std::os::unix::fs::symlink(at("other"), at("etc/profiles.d/c.yaml")))
        }),
        path("L9_rename_of_the_directory", Rename, Rule, || {
            ok("rename", fs::rename(at("etc/profiles.d"), at("etc/gone")))
        }),
        path("L9_rename_of_a_directory_above", Rename, DeniedBelow, || {
            ok("rename", fs::rename(at("etc"), at("gone")))
        }),
        path("L9_another_binary_in_its_place", Rename, Rule, || {
            ok("rename", fs::rename(at("other"), at("program")))
        }),
        path("L9_write_of_the_binary_by_another_name", Link, Rule, || {
            ok("link", fs::hard_link(at("program"), at("alias")))?;
            ok("write", fs::write(at("alias"), "x"))
        }),
        path("L9_mode_of_the_binary", Chmod, Rule, || {
            ok("chmod", fs::set_permissions(at("program"), fs::Permissions::from_mode(0o777)))
        }),
        path("L9_truncation_of_the_log", Truncate, Rule, || {
            let log = std::ffi::CString::new(at("events.jsonl")).unwrap_or_default();
            // SAFETY: a terminated path.
            last("truncate", unsafe { libc::truncate(log.as_ptr(), 0) }.into())
        }),
        path("L9_write_of_an_older_log", Open, Rule, || ok("write", fs::write(at("events.jsonl.1"), "x"))),
        path("L8_removal_in_the_bpf_file_system", Rmdir, Rule, || {
            ok("rmdir", fs::remove_dir(format!("{PINS}/set1")))
        }),
        path("L8_another_set_of_pins", Mkdir, Rule, || ok("mkdir", fs::create_dir(format!("{PINS}/set2")))),
        privilege("L8_program_by_its_id", Bpf, Protected, program_by_id),
        privilege("L8_mount_over_the_profiles", Mount, Reason::Mount, mount_over),
        privilege("L7_signal_to_the_monitor", Kill, Protected, || {
            // SAFETY: no pointers. It harms nobody where it arrives.
            last("kill", unsafe { libc::kill(parent(), libc::SIGCONT) }.into())
        }),
        privilege("L7_memory_of_the_monitor", Ptrace, Protected, read_memory),
    ]
}

pub fn trials() -> Vec<Trial> {
    let pairs = attacks().into_iter().flat_map(|attack| {
        [
            lab::test(format!("{}{TWIN}", attack.name), move |lab| twin(lab, attack)),
            lab::test(format!("{}{ATTACK}", attack.name), move |lab| denied(lab, attack)),
        ]
    });
    let others = [
        lab::test("what_is_not_the_monitors_is_as_free_as_before", free),
        lab::test("a_child_that_is_born_in_another_cgroup_keeps_its_label", born_elsewhere),
    ];
    pairs.chain(others).collect()
}

/// Puts the tests' profile in force with the monitor's things under it.
fn protect(lab: &mut Lab) -> Result<()> {
    let mut profile = resolve(PROFILE)?;
    profile.protect(&protected()?);
    let monitor = lab.monitor()?;
    monitor.forget();
    monitor.kernel.install(SLOT, &compile::profile(&profile)?.words)?;
    monitor.installed_as(PROFILE);
    Ok(())
}

/// Runs as an agent under it; the next test has its own profile again.
fn attempt(lab: &mut Lab, run: fn() -> Attempt) -> Result<Run> {
    plant()?;
    protect(lab)?;
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        run()
    });
    lab.monitor()?.forget();
    run
}

fn twin(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    plant()?;
    let run = lab.unenforced(|stage| {
        stage.pause()?;
        (attack.run)()
    })?;
    if attack.name.starts_with("L8") && !Path::new(PINS).exists() {
        return Ok(Completion::ignored_with("no BPF file system is mounted here"));
    }
    ensure!(run.attempt.is_ok(), "the attack fails by itself: {:?}", run.attempt);
    Ok(Completion::Completed)
}

fn denied(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    let run = attempt(lab, attack.run)?;
    let mechanism = format!("lsm/{}", attack.hook.name());
    if !lab.monitor()?.works(&mechanism) {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(&mechanism)?));
    }
    judge(attack, &run).with_context(|| run.describe())?;
    Ok(Completion::Completed)
}

fn judge(attack: Attack, run: &Run) -> Result<()> {
    let Err(failure) = &run.attempt else { bail!("it went through") };
    ensure!(failure.errno == attack.errno, "ended with {failure:?}");
    let Some(record) = run.records.last() else { bail!("no record") };
    ensure!(record.hook() == Some(attack.hook) && record.denies(), "{record:?}");
    ensure!(record.reason() == Some(attack.reason), "{:?}", record.reason());
    Ok(())
}

fn free(lab: &mut Lab) -> Result<Completion> {
    let run = attempt(lab, || {
        ok("read a profile", fs::read(at("etc/profiles.d/a.yaml")))?;
        ok("read the log", fs::read(at("events.jsonl")))?;
        ok("write", fs::write(at("other"), "x"))?;
        ok("create", fs::write(at("new"), "x"))?;
        ok("rename", fs::rename(at("new"), at("newer")))?;
        ok("make a directory", fs::create_dir(at("etc/mine")))?;
        ok("remove a directory", fs::remove_dir(at("etc/mine")))?;
        ok(
            "run",
            std::process::Command::new("/proc/self/exe")
                .arg("--list")
                .stdout(std::process::Stdio::null())
                .status(),
        )?;
        // SAFETY: no pointers.
        last("signal itself", unsafe { libc::kill(libc::getpid(), libc::SIGCONT) }.into())
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

/// Files that move processes are out of reach; being born elsewhere needs none of them, is not denied, and changes
/// nothing: the label is there, and sockets outside of the governed cgroup are judged too.
fn born_elsewhere(lab: &mut Lab) -> Result<Completion> {
    let run = attempt(lab, || {
        let root = mount_point().map_err(|_| Failure::new("no cgroup v2", 0))?;
        process::born_in(&root)
    })?;
    let mechanism = "lsm/socket_connect";
    if !lab.monitor()?.works(mechanism) {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(mechanism)?));
    }
    ensure!(run.attempt == Err(Failure::new("connect", libc::ENETUNREACH)), "{}", run.describe());
    let [record] = run.records.as_slice() else { bail!("{}", run.describe()) };
    ensure!(record.hook() == Some(Hook::LsmSocketConnect), "{record:?}");
    Ok(Completion::Completed)
}
