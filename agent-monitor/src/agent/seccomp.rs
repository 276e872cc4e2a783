//! Seccomp filters: what a profile says of sockets and system calls, where no BPF LSM enforces it.
//!
//! Used by `agent::confine` for `run`. A filter sees numbers, not what pointers lead to, and holds for the process that
//! took it and its descendants, for good. What must stay true: whatever a filter can't read (another architecture's
//! calls, a call whose arguments lie in memory) is refused, not let through.
//!
//! The filters of a process are all asked, and the sternest answer holds (seccomp(2)); so there is one filter for each
//! answer. No event tells of what they refuse; a process that is killed ends by `SIGSYS`.

use std::collections::BTreeMap;
use std::io;

use agent_monitor_common::image::{
    Class, HAS_PRIVILEGES, SYSCALL_WORDS, Settings, class, field, has_syscall, header,
};
use agent_monitor_common::privilege::{PTRACE_OWN, Privilege, granted};
use agent_monitor_common::request::{AF_INET, AF_INET6, SocketKind, socket_kind};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Families that `socket(2)` knows (`AF_MAX`, linux/socket.h); the kernel refuses those above itself.
const FAMILIES: u32 = 46;
const AF_UNIX: u32 = 1;

/// Why there are no filters.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("no seccomp filters are known for this architecture")]
    Architecture,
    #[error("a seccomp filter can't be built: {0}")]
    Build(#[from] seccompiler::BackendError),
    #[error("the kernel refused a seccomp filter: {0}")]
    Refused(#[from] seccompiler::Error),
}

/// What is put in force together.
#[derive(Debug)]
pub struct Filters {
    programs: Vec<BpfProgram>,
}

/// Whether this kernel takes filters.
#[must_use]
pub fn in_kernel() -> bool {
    // With no program behind the pointer a kernel that has filters says EFAULT, one without EINVAL (seccomp(2)).
    // SAFETY: nothing is read behind a null pointer, and nothing is put in force.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, 0, 0, 0) };
    done != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Calls with their conditions; a call without one is refused whatever its arguments are.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters of an image.
///
/// # Errors
/// On an architecture that the builder does not know.
pub fn filters(image: &[u64]) -> Result<Filters, SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SeccompError::Architecture)?;
    let killed: Calls = (0..(SYSCALL_WORDS * 64) as u32)
        .filter(|&nr| has_syscall(image, header::SYSCALL_KILL, nr))
        .map(|nr| (i64::from(nr), Vec::new()))
        .collect();
    let build = |calls: Calls, action: SeccompAction| -> Result<Option<BpfProgram>, SeccompError> {
        if calls.is_empty() {
            return Ok(None);
        }
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, action, arch)?;
        Ok(Some(with_x32(filter.try_into()?, arch)))
    };
    let programs = [
        build(killed, SeccompAction::KillProcess)?,
        build(families(image)?, SeccompAction::Errno(libc::EAFNOSUPPORT as u32))?,
        build(unknown(image), SeccompAction::Errno(libc::ENOSYS as u32))?,
        build(refused(image)?, SeccompAction::Errno(libc::EPERM as u32))?,
    ];
    Ok(Filters { programs: programs.into_iter().flatten().collect() })
}

impl Filters {
    /// Puts the filters in force for this thread and what it executes. Who has no CAP_SYS_ADMIN must have set
    /// `no_new_privs` before.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn enforce(&self) -> Result<(), SeccompError> {
        self.programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(Into::into))
    }
}

/// Socket families that the profile does not grant. Kinds of AF_INET and AF_INET6 are judged in the kernel's cgroup
/// hooks, which tell of them.
fn families(image: &[u64]) -> Result<Calls, SeccompError> {
    let granted = |kind: SocketKind| Class::UNKNOWN.field(image, class::SOCKETS) >> kind.code() & 1 == 1;
    let mut rules = Vec::new();
    for family in 0..FAMILIES {
        let exists = match (family, socket_kind(family, 0, 0)) {
            (AF_UNIX | AF_INET | AF_INET6, _) => true,
            (_, Some(kind)) => granted(kind),
            (_, None) => false,
        };
        if !exists {
            rules.push(when(0, u64::from(family), SeccompCmpOp::Eq)?);
        }
    }
    let pairs = rules.clone();
    Ok([(libc::SYS_socket, rules), (libc::SYS_socketpair, pairs)].into())
}

/// Calls that the kernel shall not seem to have, so that programs do without them: io_uring makes sockets that no
/// filter sees, and the flags of `clone3` lie in memory (libraries then call `clone`).
fn unknown(image: &[u64]) -> Calls {
    let mut calls = Calls::from([(libc::SYS_io_uring_setup, Vec::new())]);
    if denies(image, Privilege::UserNamespace) {
        calls.insert(libc::SYS_clone3, Vec::new());
    }
    calls
}

/// Whether the profile has a section of privileges that does not grant this one.
fn denies(image: &[u64], privilege: Privilege) -> bool {
    Settings::from_word(field(image, header::SETTINGS)).flags & HAS_PRIVILEGES != 0
        && !granted(image, Class::UNKNOWN, privilege)
}

/// Calls that are refused: what no agent does, typing into the terminal of whoever started it (`TIOCSTI`, and
/// `TIOCLINUX` on a console), and those of privileges that the profile denies.
fn refused(image: &[u64]) -> Result<Calls, SeccompError> {
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|command| when(1, command, SeccompCmpOp::Eq));
    let mut calls = Calls::from([(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?)]);
    let whole: [(Privilege, &[i64]); 4] = [
        (Privilege::Mount, MOUNTS),
        (Privilege::Module, MODULES),
        (Privilege::Bpf, &[libc::SYS_bpf]),
        (Privilege::Perf, &[libc::SYS_perf_event_open]),
    ];
    for (_, numbers) in whole.into_iter().filter(|(privilege, _)| denies(image, *privilege)) {
        calls.extend(numbers.iter().map(|&number| (number, Vec::new())));
    }
    // Processes of the same agent are told from others by Landlock, if they may be traced.
    if denies(image, Privilege::Ptrace) && Class::UNKNOWN.field(image, class::PRIVILEGES) & PTRACE_OWN == 0 {
        calls.extend(TRACING.iter().map(|&number| (number, Vec::new())));
    }
    if denies(image, Privilege::UserNamespace) {
        let new = libc::CLONE_NEWUSER as u64;
        for number in [libc::SYS_unshare, libc::SYS_clone] {
            calls.insert(number, vec![when(0, new, SeccompCmpOp::MaskedEq(new))?]);
        }
        // 0: whatever kind of namespace the descriptor is of.
        let any = when(1, 0, SeccompCmpOp::Eq)?;
        calls.insert(libc::SYS_setns, vec![when(1, new, SeccompCmpOp::MaskedEq(new))?, any]);
    }
    Ok(calls)
}

const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_mount_setattr,
];
const MODULES: &[i64] = &[
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
];
const TRACING: &[i64] =
    &[libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd];

/// A condition on the low half of an argument: the kernel's own type of all that is asked here is an `int`.
fn when(argument: u8, value: u64, is: SeccompCmpOp) -> Result<SeccompRule, SeccompError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Bit of a number of x86-64's second system call table (x32), whose calls have the architecture of the first and
/// which the builder does not know.
const X32: u32 = 0x4000_0000;

/// `program`, before which calls of x32 are refused as where the kernel has none of them.
fn with_x32(program: BpfProgram, arch: TargetArch) -> BpfProgram {
    if arch != TargetArch::x86_64 {
        return program;
    }
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // `seccomp_data.nr` is its first word.
    let load = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let below =
        sock_filter { code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, jt: 0, jf: 1, k: X32 };
    let refuse = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    [load, below, refuse].into_iter().chain(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::{self, sample};
    use crate::policy::{SocketKind as Granted, SocketKinds, Source, SyscallRule};

    /// `AUDIT_ARCH_X86_64`.
    const X86_64: u32 = 0xc000_003e;
    /// `AUDIT_ARCH_I386`.
    const I386: u32 = 0x4000_0003;

    /// What the kernel's interpreter answers to a call (`net/core/filter.c`, as far as these filters go).
    fn answer(program: &[sock_filter], nr: u32, arch: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(nr.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match u32::from(step.code) {
                0x20 => {
                    let from = step.k as usize;
                    a = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                }
                0x54 => a &= step.k,
                0x05 => at += step.k as usize,
                0x15 => at += jump(a == step.k),
                0x25 => at += jump(a > step.k),
                0x35 => at += jump(a >= step.k),
                0x06 => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// The sternest answer of all filters, as seccomp(2) orders them.
    fn asked(filters: &Filters, nr: i64, arch: u32, arguments: [u64; 6]) -> u32 {
        let answers = filters.programs.iter().map(|program| answer(program, nr as u32, arch, arguments));
        answers.min_by_key(|answer| (answer & libc::SECCOMP_RET_ACTION_FULL) as i32).unwrap()
    }

    fn made() -> Filters {
        let mut profile = sample::network_profile(1, 1);
        profile.network.sockets = [Granted::Netlink].into_iter().collect::<SocketKinds>();
        let source = Source { file: profile.file.clone(), line: 1, column: 1 };
        let (id, name) = ("t:syscalls.kill[0]".to_owned(), "kexec_load".to_owned());
        profile.syscalls =
            vec![SyscallRule { id, source, name, nr: libc::SYS_kexec_load as u32, kill: true }];
        filters(&compile::profile(&profile).unwrap().words).unwrap()
    }

    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number as u32
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn each_call_has_its_answer() {
        let filters = made();
        let socket = |family: i32| asked(&filters, libc::SYS_socket, X86_64, [family as u64, 3, 0, 0, 0, 0]);
        for granted in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
            assert_eq!(socket(granted), libc::SECCOMP_RET_ALLOW, "{granted}");
        }
        for (family, name) in [(libc::AF_PACKET, "packet"), (libc::AF_VSOCK, "vsock"), (libc::AF_ALG, "alg")]
        {
            assert_eq!(socket(family), errno(libc::EAFNOSUPPORT), "{name}");
        }
        // The kernel reads an `int`: what stands above it is no way around.
        let dressed = [1 << 32 | libc::AF_PACKET as u64, 3, 0, 0, 0, 0];
        assert_eq!(asked(&filters, libc::SYS_socket, X86_64, dressed), errno(libc::EAFNOSUPPORT));
        let call = |nr, arguments| asked(&filters, nr, X86_64, arguments);
        assert_eq!(call(libc::SYS_kexec_load, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(call(libc::SYS_io_uring_setup, [0; 6]), errno(libc::ENOSYS));
        assert_eq!(call(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, [0, 7 << 32 | libc::TIOCSTI, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, [0, libc::TCGETS, 0, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_openat, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn privileges_that_are_not_granted_are_refused() {
        let mut profile = sample::network_profile(1, 1);
        let words = |profile: &crate::policy::ResolvedProfile| compile::profile(profile).unwrap().words;
        let silent = filters(&words(&profile)).unwrap();
        let source = Source { file: profile.file.clone(), line: 1, column: 1 };
        let mut policy = crate::policy::PrivilegesPolicy::nothing(source);
        profile.privileges = Some(policy.clone());
        let nothing = filters(&words(&profile)).unwrap();
        policy.user_namespaces.value = true;
        policy.mounts.value = true;
        profile.privileges = Some(policy);
        let some = filters(&words(&profile)).unwrap();
        let new_user = libc::CLONE_NEWUSER as u64;
        let refused = errno(libc::EPERM);
        for (nr, arguments, denied, with_some) in [
            (libc::SYS_mount, [0; 6], refused, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_bpf, [0; 6], refused, refused),
            (libc::SYS_finit_module, [0; 6], refused, refused),
            (libc::SYS_unshare, [new_user | 0x2_0000, 0, 0, 0, 0, 0], refused, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_clone, [new_user | 17, 0, 0, 0, 0, 0], refused, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_setns, [3, 0, 0, 0, 0, 0], refused, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_clone3, [0; 6], errno(libc::ENOSYS), libc::SECCOMP_RET_ALLOW),
            (libc::SYS_clone, [17, 0, 0, 0, 0, 0], libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ALLOW),
            // Left out, `ptrace` is `own`, which Landlock tells.
            (libc::SYS_ptrace, [0; 6], libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ALLOW),
        ] {
            assert_eq!(
                asked(&silent, nr, X86_64, arguments),
                libc::SECCOMP_RET_ALLOW,
                "{nr} without a section"
            );
            assert_eq!(asked(&nothing, nr, X86_64, arguments), denied, "{nr} {arguments:x?}");
            assert_eq!(asked(&some, nr, X86_64, arguments), with_some, "{nr} granted");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn other_tables_of_calls_are_closed() {
        let filters = made();
        // 41 is `socket` of x86-64 and something else in the 32-bit table.
        assert_eq!(asked(&filters, 41, I386, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        let x32 = i64::from(X32) | libc::SYS_socket;
        assert_eq!(
            asked(&filters, x32, X86_64, [libc::AF_PACKET as u64, 0, 0, 0, 0, 0]),
            errno(libc::ENOSYS)
        );
        assert_eq!(asked(&filters, i64::from(X32) | libc::SYS_getpid, X86_64, [0; 6]), errno(libc::ENOSYS));
    }
}
