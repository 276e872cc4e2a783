//! The programs: what each is, where it goes, and what is lost without it.

use aya::programs::Program;

/// How a program is loaded and attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CgroupSockAddr,
    CgroupSock,
    CgroupSkb,
    /// A BTF tracepoint, by its name.
    Tracepoint,
    Lsm,
    /// A raw tracepoint, attached only while a profile needs it.
    RawTracepoint,
    /// Run by the daemon, never attached.
    Iterator,
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Function name in the object.
    pub name: &'static str,
    pub kind: Kind,
    /// The kernel's name of the hook.
    pub hook: &'static str,
    /// As events and metrics name the mechanism.
    pub mechanism: &'static str,
    /// Without it the monitor does not start.
    pub required: bool,
    /// What goes unseen without it; for people.
    pub blind: &'static str,
}

const fn entry(
    name: &'static str,
    kind: Kind,
    hook: &'static str,
    mechanism: &'static str,
    required: bool,
    blind: &'static str,
) -> Entry {
    Entry { name, kind, hook, mechanism, required, blind }
}

/// All attached programs. Process hooks come first: a label must be inherited before anything is judged by it.
pub const PROGRAMS: &[Entry] = &[
    entry(
        "process_exit",
        Kind::Tracepoint,
        "sched_process_exit",
        "tp_btf/sched_process_exit",
        true,
        "ends of processes",
    ),
    entry(
        "process_fork",
        Kind::Tracepoint,
        "sched_process_fork",
        "tp_btf/sched_process_fork",
        true,
        "children of agents",
    ),
    entry(
        "process_exec",
        Kind::Tracepoint,
        "sched_process_exec",
        "tp_btf/sched_process_exec",
        true,
        "programs that agents start",
    ),
    entry(
        "network_egress",
        Kind::CgroupSkb,
        "egress",
        "cgroup_skb/egress",
        true,
        "packets of sockets older than the label, source routing",
    ),
    entry(
        "network_sock_create",
        Kind::CgroupSock,
        "sock_create",
        "cgroup/sock_create",
        true,
        "SCTP, MPTCP, raw and other internet sockets",
    ),
    entry("network_connect4", Kind::CgroupSockAddr, "connect4", "cgroup/connect4", true, "IPv4 connections"),
    entry("network_connect6", Kind::CgroupSockAddr, "connect6", "cgroup/connect6", true, "IPv6 connections"),
    entry("network_sendmsg4", Kind::CgroupSockAddr, "sendmsg4", "cgroup/sendmsg4", true, "IPv4 datagrams"),
    entry("network_sendmsg6", Kind::CgroupSockAddr, "sendmsg6", "cgroup/sendmsg6", true, "IPv6 datagrams"),
    entry("network_bind4", Kind::CgroupSockAddr, "bind4", "cgroup/bind4", true, "IPv4 listeners"),
    entry("network_bind6", Kind::CgroupSockAddr, "bind6", "cgroup/bind6", true, "IPv6 listeners"),
    entry(
        "network_socket_create",
        Kind::Lsm,
        "socket_create",
        "lsm/socket_create",
        false,
        "socket families other than AF_INET and AF_INET6 (AF_PACKET, AF_VSOCK, AF_ALG, AF_NETLINK …)",
    ),
    entry(
        "network_socket_listen",
        Kind::Lsm,
        "socket_listen",
        "lsm/socket_listen",
        false,
        "listen() without bind() is not refused; its SYN-ACKs are dropped in egress",
    ),
    entry(
        "network_file_receive",
        Kind::Lsm,
        "file_receive",
        "lsm/file_receive",
        false,
        "sockets received from another process (SCM_RIGHTS, pidfd_getfd)",
    ),
    entry(
        "network_socket_sendmsg",
        Kind::Lsm,
        "socket_sendmsg",
        "lsm/socket_sendmsg",
        false,
        "sends on sockets that no other hook labelled",
    ),
    entry(
        "syscall_enter",
        Kind::RawTracepoint,
        "sys_enter",
        "raw_tp/sys_enter",
        false,
        "listed system calls",
    ),
    entry("iterate_tasks", Kind::Iterator, "task", "iter/task", true, "living process trees"),
    entry(
        "iterate_sockets",
        Kind::Iterator,
        "task_file",
        "iter/task_file",
        true,
        "sockets that a process held before its label",
    ),
    entry(
        "iterate_stale",
        Kind::Iterator,
        "task_file",
        "iter/task_file (stale)",
        true,
        "established flows that lost their grant",
    ),
];

/// The errno in a load or attach error, for posture.
pub fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && let Some(errno) = io.raw_os_error()
        {
            return Some(errno);
        }
        next = e.source();
    }
    None
}

/// The program's kernel statistics.
pub fn info_of(program: &Program) -> Option<aya::programs::ProgramInfo> {
    program.info().ok()
}
