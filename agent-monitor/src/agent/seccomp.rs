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

use agent_monitor_common::image::{SYSCALL_WORDS, field, has_syscall, header};
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
    #[error("new privileges can't be given up: {0}")]
    NewPrivileges(io::Error),
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
        build(unknown(), SeccompAction::Errno(libc::ENOSYS as u32))?,
        build(always()?, SeccompAction::Errno(libc::EPERM as u32))?,
    ];
    Ok(Filters { programs: programs.into_iter().flatten().collect() })
}

impl Filters {
    /// Puts the filters in force for this thread and what it executes, and takes the way to new privileges away.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn enforce(&self) -> Result<(), SeccompError> {
        rustix::thread::set_no_new_privs(true).map_err(|errno| SeccompError::NewPrivileges(errno.into()))?;
        self.programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(Into::into))
    }
}

/// Socket families that the profile does not grant. Kinds of AF_INET and AF_INET6 are judged in the kernel's cgroup
/// hooks, which tell of them.
fn families(image: &[u64]) -> Result<Calls, SeccompError> {
    let granted = |kind: SocketKind| field(image, header::SOCKETS) >> kind.code() & 1 == 1;
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
/// filter sees.
fn unknown() -> Calls {
    [(libc::SYS_io_uring_setup, Vec::new())].into()
}

/// What no agent does: typing into the terminal of whoever started it (`TIOCSTI`, and `TIOCLINUX` on a console).
fn always() -> Result<Calls, SeccompError> {
    let rules = [libc::TIOCSTI, libc::TIOCLINUX].map(|command| when(1, command, SeccompCmpOp::Eq));
    Ok([(libc::SYS_ioctl, rules.into_iter().collect::<Result<_, _>>()?)].into())
}

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
