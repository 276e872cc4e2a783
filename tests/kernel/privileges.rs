//! U7, L5, S2 and what else a profile's `privileges` take away: capabilities, users, namespaces, other processes, the
//! kernel itself.
//!
//! Every attack runs as root and against a process outside of the agent that was forked from the test, so its memory is
//! laid out as the attacker's is.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::ptr;

use agent_monitor_common::counters::{Domain, Effect, Mode, Ring, decision_cell};
use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_common::privilege::Privilege;
use agent_monitor_tests::{Attempt, Body, Child, Failure, Record, Stage, uring};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::catalogue::{ATTACK, TWIN};
use crate::lab::{self, Lab, Run};

const ROOT: &str = "/tmp/agent-monitor-privileges";

/// A profile of which the section `privileges` says `grants`.
fn profile(grants: &str) -> String {
    format!(
        "version: 1\nname: plain\nmode: enforce\nprivileges: {{ {grants} }}\n\
         network: {{ listen: [{{ address: 127.0.0.1, ports: [700], protocol: udp }}] }}\n"
    )
}

/// What the victim's memory holds, at the same address in every fork of the test.
static SECRET: [u8; 16] = *b"nobody's to read";
/// What the attacker writes to.
static mut TARGET: [u8; 16] = [0; 16];

/// A process outside of every agent, which waits.
fn victim(lab: &mut Lab) -> Result<Child> {
    // Loading may take as long as a child may live.
    lab.monitor()?;
    let mut child = Child::spawn(&lab.world.outside, Stage::pause)?;
    child.paused()?;
    Ok(child)
}

fn ok(step: &str, result: std::io::Result<impl Sized>) -> Attempt {
    result.map(drop).map_err(|e| Failure::of(step, &e))
}

/// The errno of a system call that returned below 0.
fn call(step: &str, result: libc::c_long) -> Result<i64, Failure> {
    if result < 0 { Err(Failure::last(step)) } else { Ok(result) }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// `process_vm_readv` or `process_vm_writev` of 16 bytes at `remote` in `pid`.
fn copy(
    number: libc::c_long,
    pid: i32,
    local: &mut [u8; 16],
    remote: *mut libc::c_void,
) -> Result<i64, Failure> {
    let here = libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: 16 };
    let there = libc::iovec { iov_base: remote, iov_len: 16 };
    // SAFETY: one local buffer of 16 bytes; the remote address is the kernel's to check.
    call("process_vm", unsafe {
        libc::syscall(number, pid, &raw const here, 1_u64, &raw const there, 1_u64, 0_u64)
    })
}

fn read_memory(pid: i32) -> Attempt {
    let mut found = [0; 16];
    copy(libc::SYS_process_vm_readv, pid, &mut found, (&raw const SECRET).cast_mut().cast())?;
    if found == SECRET { Ok(()) } else { Err(Failure::new("read something else", 0)) }
}

/// A traced process stops with its tracer's first look, and goes on when the tracer detaches.
fn trace(pid: i32) -> Attempt {
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: no pointers; the wait takes none.
    unsafe {
        call("attach", libc::ptrace(libc::PTRACE_ATTACH, pid, none, none))?;
        libc::waitpid(pid, ptr::null_mut(), libc::__WALL);
        call("detach", libc::ptrace(libc::PTRACE_DETACH, pid, none, none)).map(drop)
    }
}

fn pidfd(pid: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: no pointers; a new descriptor of ours.
    unsafe {
        Ok(OwnedFd::from_raw_fd(call("pidfd_open", libc::syscall(libc::SYS_pidfd_open, pid, 0))? as i32))
    }
}

/// Becomes an ordinary user for good.
fn become_user() -> Attempt {
    // SAFETY: no pointers.
    unsafe {
        call("setgroups", libc::c_long::from(libc::setgroups(0, ptr::null())))?;
        call("setresgid", libc::c_long::from(libc::setresgid(1000, 1000, 1000)))?;
        call("setresuid", libc::c_long::from(libc::setresuid(1000, 1000, 1000))).map(drop)
    }
}

/// Runs a copy of the test binary to its end: no world is opened by `--help`.
fn run(path: &str) -> Attempt {
    match std::process::Command::new(path).arg("--help").stdout(std::process::Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("the program ended with {status}"), 0)),
        Err(e) => Err(Failure::of("exec", &e)),
    }
}

fn at(name: &str) -> String {
    format!("{ROOT}/{name}")
}

/// Programs that raise whoever runs them, and a directory that is another user's.
fn plant() -> Result<()> {
    let _ = fs::remove_dir_all(ROOT);
    fs::create_dir_all(at("private"))?;
    fs::set_permissions(ROOT, fs::Permissions::from_mode(0o755))?;
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("capable", 0o755)] {
        fs::copy("/proc/self/exe", at(name))?;
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode))?;
    }
    // `struct vfs_cap_data`, revision 2, effective: CAP_NET_RAW permitted.
    let data: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    // SAFETY: strings that end in NUL and a whole struct. Without the attribute the twin says so.
    unsafe {
        libc::setxattr(
            c(&at("capable")).as_ptr(),
            c"security.capability".as_ptr(),
            data.as_ptr().cast(),
            size_of_val(&data),
            0,
        );
    }
    fs::write(at("private/file"), "contents")?;
    fs::write(at("garbage"), [0x01, 0x02, 0xfe, 0xff, 0x00, 0x00, 0x00, 0x00])?;
    std::os::unix::fs::chown(at("private"), Some(4_321), Some(4_321))?;
    fs::set_permissions(at("private"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// A mount namespace of its own, whose mounts the tests' does not see.
fn own_mounts() -> Attempt {
    let none = ptr::null();
    // SAFETY: strings that end in NUL.
    unsafe {
        call("unshare", libc::c_long::from(libc::unshare(libc::CLONE_NEWNS)))
            .map_err(|f| Failure::absent("mount namespaces", f.errno))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        call("private", libc::c_long::from(libc::mount(none, c"/".as_ptr(), none, private, none.cast())))
            .map_err(|f| Failure::absent("private mounts", f.errno))?;
    }
    Ok(())
}

fn mount_tmpfs() -> Attempt {
    // SAFETY: strings that end in NUL.
    call("mount", unsafe {
        libc::c_long::from(libc::mount(
            c"none".as_ptr(),
            c(&at("private")).as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            ptr::null(),
        ))
    })
    .map(drop)
}

/// What the attack needs before its process is an agent.
type Prepare = fn() -> Attempt;

/// One way to a privilege.
#[derive(Clone, Copy)]
struct Attack {
    name: &'static str,
    /// What the profile grants.
    grants: &'static str,
    prepare: Prepare,
    /// The attack on the process outside.
    run: fn(i32) -> Attempt,
    /// What the caller sees.
    errno: i32,
    hook: Hook,
    privilege: Privilege,
    /// [`agent_monitor_common::event::PrivilegeBody::number`]; `None`: not looked at.
    number: Option<u32>,
    reason: Reason,
}

const fn attack(name: &'static str, hook: Hook, privilege: Privilege, run: fn(i32) -> Attempt) -> Attack {
    Attack {
        name,
        grants: "capabilities: any",
        prepare: || Ok(()),
        run,
        errno: libc::EPERM,
        hook,
        privilege,
        number: None,
        reason: Reason::Default,
    }
}

/// An attack on a process outside of the agent.
const fn outward(name: &'static str, hook: Hook, privilege: Privilege, run: fn(i32) -> Attempt) -> Attack {
    Attack { reason: Reason::Outside, ..attack(name, hook, privilege, run) }
}

const SIGNAL: i32 = libc::SIGTERM;

fn attacks() -> Vec<Attack> {
    use Hook::{LsmPtraceAccessCheck as Trace, LsmTaskKill as Kill};
    let mut attacks = vec![
        outward("U7_ptrace_attach", Trace, Privilege::Ptrace, trace),
        outward("U7_ptrace_seize", Trace, Privilege::Ptrace, |pid| {
            let none = ptr::null_mut::<libc::c_void>();
            // SAFETY: no pointers.
            call("seize", unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) }).map(drop)
        }),
        outward("U7_process_vm_readv", Trace, Privilege::Ptrace, read_memory),
        outward("U7_process_vm_writev", Trace, Privilege::Ptrace, |pid| {
            let mut bytes = *b"another's memory";
            copy(libc::SYS_process_vm_writev, pid, &mut bytes, (&raw mut TARGET).cast()).map(drop)
        }),
        Attack {
            errno: libc::EACCES,
            ..outward("U7_proc_mem", Trace, Privilege::Ptrace, |pid| {
                ok("open", fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")))
            })
        },
        Attack {
            errno: libc::EACCES,
            // See `perfmon_looks_into_others`.
            grants: "",
            ..outward("U7_proc_environ", Trace, Privilege::Ptrace, read_environment)
        },
        Attack {
            errno: libc::EACCES,
            ..outward("U7_proc_root", Trace, Privilege::Ptrace, |pid| {
                ok("list", fs::read_dir(format!("/proc/{pid}/root")))
            })
        },
        Attack {
            errno: libc::EACCES,
            ..outward("U7_proc_fd", Trace, Privilege::Ptrace, |pid| {
                ok("read the link", fs::read_link(format!("/proc/{pid}/fd/0")))
            })
        },
        outward("U7_pidfd_getfd", Trace, Privilege::Ptrace, |pid| {
            let pidfd = pidfd(pid)?;
            // SAFETY: no pointers.
            call("pidfd_getfd", unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 0, 0) })
                .map(drop)
        }),
        outward("U7_kill", Kill, Privilege::Signal, |pid| {
            // SAFETY: no pointers.
            call("kill", libc::c_long::from(unsafe { libc::kill(pid, SIGNAL) })).map(drop)
        }),
        outward("U7_tgkill", Kill, Privilege::Signal, |pid| {
            // SAFETY: no pointers.
            call("tgkill", unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, SIGNAL) }).map(drop)
        }),
        outward("U7_pidfd_send_signal", Kill, Privilege::Signal, |pid| {
            let pidfd = pidfd(pid)?;
            let none = ptr::null::<libc::siginfo_t>();
            // SAFETY: no information is passed along.
            call("pidfd_send_signal", unsafe {
                libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), SIGNAL, none, 0)
            })
            .map(drop)
        }),
        Attack {
            grants: "capabilities: any, ptrace: none",
            reason: Reason::Default,
            ..attack("U7_trace_own_child_where_none_may", Trace, Privilege::Ptrace, |_| with_child(trace))
        },
    ];
    for attack in attacks.iter_mut().filter(|attack| attack.hook == Kill) {
        attack.number = Some(SIGNAL.unsigned_abs());
    }
    attacks.extend(gains());
    attacks.extend(kernel());
    attacks
}

/// Ways to another user, a capability or a namespace.
fn gains() -> Vec<Attack> {
    let capability = |name, number, run| Attack {
        grants: "",
        number: Some(number),
        ..attack(name, Hook::LsmCapable, Privilege::Capability, run)
    };
    vec![
        // SAFETY: no pointers.
        attack("L5_user_namespace", Hook::LsmUsernsCreate, Privilege::UserNamespace, |_| unsafe {
            call("unshare", libc::c_long::from(libc::unshare(libc::CLONE_NEWUSER))).map(drop)
        }),
        Attack {
            prepare: become_user,
            number: Some(0),
            ..attack("L5_setuid_program", Hook::LsmBprmCredsFromFile, Privilege::Setuid, |_| {
                run(&at("setuid"))
            })
        },
        Attack {
            prepare: become_user,
            number: Some(0),
            ..attack("L5_setgid_program", Hook::LsmBprmCredsFromFile, Privilege::Setuid, |_| {
                run(&at("setgid"))
            })
        },
        Attack {
            prepare: become_user,
            number: Some(1000),
            ..attack("L5_program_with_capabilities", Hook::LsmBprmCredsFromFile, Privilege::Setuid, |_| {
                run(&at("capable"))
            })
        },
        Attack {
            number: Some(1000),
            // SAFETY: no pointers.
            ..attack("L5_setuid", Hook::LsmTaskFixSetuid, Privilege::Setuid, |_| unsafe {
                call("setresuid", libc::c_long::from(libc::setresuid(1000, 1000, 1000))).map(drop)
            })
        },
        Attack {
            number: Some(1000),
            // SAFETY: no pointers.
            ..attack("L5_setgid", Hook::LsmTaskFixSetgid, Privilege::Setuid, |_| unsafe {
                call("setresgid", libc::c_long::from(libc::setresgid(1000, 1000, 1000))).map(drop)
            })
        },
        // SAFETY: a string that ends in NUL.
        capability("capability_to_change_the_root", 18, |_| unsafe {
            call("chroot", libc::c_long::from(libc::chroot(c"/".as_ptr()))).map(drop)
        }),
        // SAFETY: no pointers.
        capability("capability_to_become_another_user", 7, |_| unsafe {
            call("setresuid", libc::c_long::from(libc::setresuid(1000, 1000, 1000))).map(drop)
        }),
        Attack {
            errno: libc::EACCES,
            ..capability("capability_to_pass_by_modes", 1, |_| ok("read", fs::read(at("private/file"))))
        },
        Attack {
            errno: libc::EACCES,
            ..capability("capability_to_bind_a_low_port", 10, |_| {
                ok("bind", std::net::UdpSocket::bind("127.0.0.1:700"))
            })
        },
        Attack {
            prepare: own_mounts,
            ..attack("mount_without_rules_about_paths", Hook::LsmSbMount, Privilege::Mount, |_| mount_tmpfs())
        },
    ]
}

/// Ways into the kernel.
fn kernel() -> Vec<Attack> {
    let module = |name, hook, run| Attack { number: Some(2), ..attack(name, hook, Privilege::Module, run) };
    /// Bytes that are no module get as far as being looked at: that the kernel looks is the attack.
    fn looked_at(step: &str, result: libc::c_long) -> Attempt {
        match call(step, result) {
            Err(failure) if failure.errno == libc::ENOEXEC => Ok(()),
            Err(failure) if failure.errno == libc::ENOSYS => Err(Failure::absent("modules", failure.errno)),
            other => other.map(drop),
        }
    }
    vec![
        module("module_from_memory", Hook::LsmKernelLoadData, |_| {
            let bytes = [0_u8; 64];
            // SAFETY: 64 bytes and a string that ends in NUL.
            looked_at("init_module", unsafe {
                libc::syscall(libc::SYS_init_module, bytes.as_ptr(), bytes.len(), c"".as_ptr())
            })
        }),
        module("module_from_a_file", Hook::LsmKernelReadFile, |_| {
            let file = fs::File::open(at("garbage")).map_err(|e| Failure::of("open", &e))?;
            // SAFETY: a string that ends in NUL.
            looked_at("finit_module", unsafe {
                libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0)
            })
        }),
        Attack {
            number: Some(0), // BPF_MAP_CREATE
            ..attack("bpf_map", Hook::LsmBpf, Privilege::Bpf, |_| {
                // BPF_MAP_TYPE_ARRAY, four bytes of key, eight of value, one element.
                let mut attributes = [0_u32; 18];
                attributes[..4].copy_from_slice(&[2, 4, 8, 1]);
                // SAFETY: the attributes outlive the call.
                call("bpf", unsafe {
                    libc::syscall(libc::SYS_bpf, 0, attributes.as_ptr(), size_of_val(&attributes))
                })
                .map(drop)
            })
        },
        attack("perf_event", Hook::LsmPerfEventOpen, Privilege::Perf, |_| {
            // `struct perf_event_attr`, first version: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK.
            let mut attributes = [0_u32; 16];
            attributes[..2].copy_from_slice(&[1, 64]);
            // SAFETY: the attributes outlive the call.
            call("perf_event_open", unsafe {
                libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0)
            })
            .map_err(|f| if f.errno == libc::ENOSYS { Failure::absent("perf", f.errno) } else { f })
            .map(drop)
        }),
        attack("S2_polled_ring", Hook::LsmUringSqpoll, Privilege::IoUring, |_| {
            uring::Ring::new(true).map(drop)
        }),
        attack("S2_ring_with_other_credentials", Hook::LsmUringOverrideCreds, Privilege::IoUring, |_| {
            let mut ring = uring::Ring::new(false)?;
            let personality = ring.register_personality()?;
            ring.run(uring::Entry { personality, ..uring::Entry::default() }).map(drop)
        }),
        attack("S2_ring_with_a_command_to_a_driver", Hook::LsmUringCmd, Privilege::IoUring, |_| {
            let null = fs::File::open("/dev/null").map_err(|e| Failure::of("open", &e))?;
            let entry =
                uring::Entry { opcode: uring::OP_COMMAND, fd: null.as_raw_fd(), ..uring::Entry::default() };
            uring::run(entry, false).map(drop)
        }),
    ]
}

/// Does something with a child of the caller, which waits for the end of a pipe.
fn with_child(act: fn(i32) -> Attempt) -> Attempt {
    let (mut wait, hold) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
    // SAFETY: the child of a test has one thread, so its child may do anything; it ends without running handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(hold);
        let _ = std::io::Read::read(&mut wait, &mut [0]);
        // SAFETY: as above.
        unsafe { libc::_exit(0) }
    }
    let attempt = act(child);
    drop(hold);
    // SAFETY: no pointers; our own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, ptr::null_mut(), 0);
    }
    attempt
}

/// Runs an attack in a child that is an agent, or free.
fn staged(attack: Attack, victim: i32) -> impl FnOnce(&mut Stage) -> Attempt {
    move |stage| {
        (attack.prepare)()?;
        stage.pause()?;
        (attack.run)(victim)
    }
}

/// Whether the test can't be made here at all: a host that refuses the attack to everybody.
fn absence(run: &Run) -> Option<String> {
    match &run.attempt {
        Err(failure) if failure.is_absence() => Some(format!("not in this kernel: {failure}")),
        _ => None,
    }
}

fn twin(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    plant()?;
    let victim = victim(lab)?;
    let run = lab.unenforced(staged(attack, victim.pid().cast_signed()))?;
    if let Some(reason) = absence(&run) {
        return Ok(Completion::ignored_with(reason));
    }
    match &run.attempt {
        Ok(()) => Ok(Completion::Completed),
        // The host of the tests may itself be a guest that is denied much.
        Err(failure) if !lab.monitor()?.works("lsm/capable") => {
            Ok(Completion::ignored_with(format!("this host refuses it to everybody: {failure}")))
        }
        Err(failure) => bail!("failed with enforcement off: {failure}"),
    }
}

fn denied(lab: &mut Lab, attack: Attack) -> Result<Completion> {
    if let Completion::Ignored { reason: Some(reason) } = twin(lab, attack)? {
        return Ok(Completion::ignored_with(reason));
    }
    plant()?;
    let mut victim = victim(lab)?;
    let run = lab.attack(&profile(attack.grants), staged(attack, victim.pid().cast_signed()))?;
    let mechanism = format!("lsm/{}", attack.hook.name());
    if !lab.monitor()?.works(&mechanism) {
        ensure!(run.attempt.is_ok(), "posture calls this attack blind, and yet: {}", run.describe());
        return Ok(Completion::ignored_with(lab.monitor()?.blind(&mechanism)?));
    }
    judge(attack, &run, victim.pid()).with_context(|| run.describe())?;
    // It is as it was: neither killed nor traced, so it goes on and ends well.
    victim.go_on()?;
    ensure!(victim.finish()?.is_ok(), "the process outside did not survive");
    Ok(Completion::Completed)
}

fn judge(attack: Attack, run: &Run, victim: u32) -> Result<()> {
    let Err(failure) = &run.attempt else { bail!("it went through") };
    ensure!(failure.errno == attack.errno, "ended with {failure:?}, not errno {}", attack.errno);
    ensure!(run.denials >= 1 && run.denials == run.records.len() as u64, "{} denials counted", run.denials);
    // Where the kernel asks for a capability in its place, that is denied as well.
    let of_hook = |record: &&Record| record.hook() == Some(attack.hook);
    let Some(record) = run.records.iter().rfind(of_hook) else { bail!("no record of {:?}", attack.hook) };
    ensure!(
        record.denies() && record.reason() == Some(attack.reason),
        "the record says {:?}",
        record.reason()
    );
    ensure!(i32::from(record.header.errno) == libc::EPERM, "the record says errno {}", record.header.errno);
    let Body::Privilege(body) = &record.body else { bail!("a record of another kind") };
    ensure!(body.privilege == attack.privilege.code(), "the record says {body:?}");
    ensure!(attack.number.is_none_or(|number| number == body.number), "the record says {body:?}");
    let target = if attack.reason == Reason::Outside { victim } else { body.target };
    ensure!(body.target == target, "the record says {body:?}, the victim is {victim}");
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    let pairs = attacks().into_iter().flat_map(|attack| {
        [
            lab::test(format!("{}{TWIN}", attack.name), move |lab| twin(lab, attack)),
            lab::test(format!("{}{ATTACK}", attack.name), move |lab| denied(lab, attack)),
        ]
    });
    let others = [
        lab::test("privileges_of_plain_work_are_not_missed", plain_work),
        lab::test("privileges_that_are_granted_are_given", granted),
        lab::test("privileges_are_not_judged_without_a_section", not_judged),
        lab::test("a_capability_that_is_asked_for_again_and_again_is_one_record", one_record),
        lab::test("what_the_kernel_does_not_audit_is_counted_and_no_event", probes),
        lab::test("a_probe_hides_no_denial_behind_it", probe_then_use),
        lab::test("a_granted_perfmon_looks_into_others_from_6_15_on", perfmon_looks_into_others),
        lab::test("a_module_that_would_be_loaded_is_denied_unless_granted", module_request),
        lab::test("a_kernel_with_bpf_lsm_has_no_gap_for_privileges", no_gap),
    ];
    pairs.chain(others).collect()
}

/// The reason for which nothing can be tested here.
fn blind(lab: &mut Lab) -> Result<Option<Completion>> {
    let monitor = lab.monitor()?;
    if monitor.works("lsm/capable") {
        return Ok(None);
    }
    Ok(Some(Completion::ignored_with(monitor.blind("lsm/capable")?)))
}

/// What an agent does without any privilege: programs, signals to its own, a debugger on its own, io_uring, its own ids.
fn work(_: i32) -> Attempt {
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: no pointers but null ones.
    unsafe {
        call("setresuid to oneself", libc::c_long::from(libc::setresuid(0, 0, 0)))?;
        call("signal oneself", libc::c_long::from(libc::raise(libc::SIGCHLD)))?;
        call("unshare files", libc::c_long::from(libc::unshare(libc::CLONE_FS | libc::CLONE_FILES)))?;
        call(
            "mmap",
            libc::mmap(none, 4096, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) as i64,
        )?;
    }
    run("/proc/self/exe")?;
    with_child(trace)?;
    with_child(read_memory)?;
    with_child(|pid| ok("environ", fs::read(format!("/proc/{pid}/environ"))))?;
    // SAFETY: no pointers.
    with_child(|pid| unsafe { call("kill", libc::c_long::from(libc::kill(pid, libc::SIGTERM))).map(drop) })?;
    uring::run(uring::Entry::default(), false).map(drop)
}

fn plain_work(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    let run = lab.attack(&profile(""), |stage| {
        stage.pause()?;
        work(0)
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0 && run.records.is_empty(), "{}", run.describe());
    Ok(Completion::Completed)
}

/// Every attack succeeds where its privilege is granted.
fn granted(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    let everything = profile(
        "capabilities: any, setuid: true, user_namespaces: true, ptrace: any, signals: any, mounts: true, \
         modules: true, bpf: true, perf: true, io_uring: true",
    );
    for attack in attacks() {
        if let Completion::Ignored { .. } = twin(lab, attack)? {
            continue;
        }
        plant()?;
        let victim = victim(lab)?;
        let run = lab.attack(&everything, staged(attack, victim.pid().cast_signed()))?;
        ensure!(run.attempt.is_ok(), "{}: {}", attack.name, run.describe());
        let denied = run.records.iter().filter(|r| matches!(r.body, Body::Privilege(_))).count();
        ensure!(denied == 0, "{}: {}", attack.name, run.describe());
    }
    Ok(Completion::Completed)
}

fn not_judged(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    let mut victim = victim(lab)?;
    let pid = victim.pid().cast_signed();
    let run = lab.attack(lab::PROFILE, move |stage| {
        stage.pause()?;
        ok("environ", fs::read(format!("/proc/{pid}/environ")))?;
        // SAFETY: no pointers.
        call("kill", libc::c_long::from(unsafe { libc::kill(pid, SIGNAL) })).map(drop)
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    ensure!(victim.killed_by()? == Some(SIGNAL), "the signal did not arrive");
    Ok(Completion::Completed)
}

fn one_record(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    plant()?;
    let cell = decision_cell(Domain::Privilege, Effect::Deny, Mode::Enforce) as usize;
    let before = lab.monitor()?.decisions()[cell];
    let run = lab.attack(&profile(""), |stage| {
        stage.pause()?;
        for _ in 0..50 {
            if fs::read(at("private/file")).is_ok() {
                return Err(Failure::new("it was read", 0));
            }
        }
        Ok(())
    })?;
    let counted = lab.monitor()?.decisions()[cell] - before;
    let mut numbers: Vec<u32> = Vec::new();
    for record in &run.records {
        let Body::Privilege(body) = &record.body else { bail!("{}", run.describe()) };
        numbers.push(body.number);
    }
    // CAP_DAC_READ_SEARCH is asked for first, then CAP_DAC_OVERRIDE.
    ensure!(run.attempt.is_ok() && numbers == [2, 1], "{}", run.describe());
    ensure!(counted >= 100, "{counted} denials were counted");
    Ok(Completion::Completed)
}

fn probes(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    let cell = decision_cell(Domain::Privilege, Effect::Deny, Mode::Enforce) as usize;
    let before = lab.monitor()?.decisions()[cell];
    let mut victim = victim(lab)?;
    let pid = victim.pid().cast_signed();
    let run = lab.attack(&profile(""), move |stage| {
        stage.pause()?;
        ok("stat", fs::read(format!("/proc/{pid}/stat")))?;
        // SAFETY: no pointers.
        call("probe", libc::c_long::from(unsafe { libc::kill(pid, 0) })).map(drop)
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0 && run.records.is_empty(), "{}", run.describe());
    ensure!(lab.monitor()?.decisions()[cell] > before, "the probe was not counted");
    victim.end();
    Ok(Completion::Completed)
}

/// The kernel only wants to know of a capability, and then it is to be used: the first is no time that was told.
fn probe_then_use(lab: &mut Lab) -> Result<Completion> {
    const SYS_PTRACE: u32 = 19;
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    // Another user's, so that it takes the capability.
    let mut victim = Child::spawn(&lab.world.outside, |stage| {
        become_user()?;
        stage.pause()
    })?;
    victim.paused()?;
    let pid = victim.pid().cast_signed();
    let run = lab.attack(&profile(""), move |stage| {
        stage.pause()?;
        ok("stat", fs::read(format!("/proc/{pid}/stat")))?;
        match trace(pid) {
            Err(failure) if failure.errno == libc::EPERM => Ok(()),
            other => Err(Failure::new(format!("the attach ended with {other:?}"), 0)),
        }
    })?;
    let told = run.records.iter().any(|record| {
        matches!(&record.body, Body::Privilege(body)
            if body.privilege == Privilege::Capability.code() && body.number == SYS_PTRACE)
    });
    ensure!(run.attempt.is_ok() && told, "{}", run.describe());
    victim.end();
    Ok(Completion::Completed)
}

fn read_environment(pid: i32) -> Attempt {
    ok("read", fs::read(format!("/proc/{pid}/environ")))
}

/// Blind, and told in the threat model: from 6.15 on `mm_access()` lets `CAP_PERFMON` or `CAP_SYS_ADMIN` read what `/proc`
/// shows of another's memory after the check for tracing said no (`may_access_mm`).
fn perfmon_looks_into_others(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    let looks = (numbers.next(), numbers.next()) >= (Some(6), Some(15));
    let victim = victim(lab)?;
    let pid = victim.pid().cast_signed();
    let run = lab.attack(&profile("capabilities: any"), move |stage| {
        stage.pause()?;
        read_environment(pid)
    })?;
    ensure!(run.attempt.is_ok() == looks, "{}", run.describe());
    ensure!(run.denials == 1, "the look itself is denied and told all the same: {}", run.describe());
    Ok(Completion::Completed)
}

/// A device that nobody drives makes the kernel ask for a module that could.
fn module_request(lab: &mut Lab) -> Result<Completion> {
    if let Some(blind) = blind(lab)? {
        return Ok(blind);
    }
    plant()?;
    // Major 60 is for local experiments (Documentation/admin-guide/devices.txt): nobody drives it.
    // SAFETY: a string that ends in NUL.
    let made = unsafe { libc::mknod(c(&at("device")).as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(60, 0)) };
    ensure!(made == 0, "no device: {}", std::io::Error::last_os_error());
    // A program of no known format makes 6.12 ask for a module, and 6.18 not; a device without a driver makes each ask.
    let attempt = |stage: &mut Stage| {
        stage.pause()?;
        match fs::File::open(at("device")) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            other => ok("open", other),
        }
    };
    let denied = lab.attack(&profile(""), attempt)?;
    let [record] = denied.records.as_slice() else { bail!("{}", denied.describe()) };
    let Body::Privilege(body) = &record.body else { bail!("{}", denied.describe()) };
    ensure!(
        record.hook() == Some(Hook::LsmKernelModuleRequest) && body.privilege == Privilege::Module.code(),
        "{}",
        denied.describe()
    );
    let granted = lab.attack(&profile("modules: true"), attempt)?;
    ensure!(granted.attempt.is_ok() && granted.records.is_empty(), "{}", granted.describe());
    lab.monitor()?.drain(Ring::Verdicts)?;
    Ok(Completion::Completed)
}

fn no_gap(lab: &mut Lab) -> Result<Completion> {
    let monitor = lab.monitor()?;
    let gaps = monitor.kernel.posture().missing_for(&agent_monitor_tests::monitor::resolve(&profile(""))?);
    if !monitor.works("lsm/capable") {
        ensure!(gaps.iter().any(|gap| gap.mechanism == "lsm/capable"), "blind, and no gap is told: {gaps:?}");
        return Ok(Completion::ignored_with(monitor.blind("lsm/capable")?));
    }
    ensure!(gaps.is_empty(), "{gaps:?}");
    Ok(Completion::Completed)
}
