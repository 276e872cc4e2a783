//! The programs: what each is, where it goes, and what is lost without it.

use aya::programs::Program;

/// How a program is loaded and attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CgroupSockAddr,
    CgroupSock,
    CgroupSkb,
    /// Of the same kind, never attached: another program calls it.
    Called,
    /// A BTF tracepoint, by its name.
    Tracepoint,
    Lsm,
    /// At the entry of a kernel function.
    FunctionEntry,
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

/// Programs that judge sockets outside the governed cgroup, and nothing else.
pub const OUTSIDE: [&str; 3] = ["network_socket_connect", "network_socket_bind", "network_socket_send"];

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
        "hello_egress",
        Kind::Called,
        "egress",
        "cgroup_skb/egress (hello)",
        true,
        "names that TLS clients say (`sni: require`)",
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
        "dns_recvmsg4",
        Kind::CgroupSockAddr,
        "recvmsg4",
        "cgroup/recvmsg4",
        true,
        "which server an answer about a name came from, over IPv4",
    ),
    entry(
        "dns_recvmsg6",
        Kind::CgroupSockAddr,
        "recvmsg6",
        "cgroup/recvmsg6",
        true,
        "which server an answer about a name came from, over IPv6",
    ),
    entry(
        "dns_getpeername4",
        Kind::CgroupSockAddr,
        "getpeername4",
        "cgroup/getpeername4",
        true,
        "which server a question about a name went to, over IPv4",
    ),
    entry(
        "dns_getpeername6",
        Kind::CgroupSockAddr,
        "getpeername6",
        "cgroup/getpeername6",
        true,
        "which server a question about a name went to, over IPv6",
    ),
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
        "sockets and files received from another process (SCM_RIGHTS, pidfd_getfd)",
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
        "network_socket_made",
        Kind::Lsm,
        "socket_post_create",
        "lsm/socket_post_create",
        false,
        "Unix sockets that agents make: their own peers are strangers; kinds of sockets outside the governed cgroup",
    ),
    entry(
        OUTSIDE[0],
        Kind::Lsm,
        "socket_connect",
        "lsm/socket_connect",
        false,
        "connections of agents outside the governed cgroup",
    ),
    entry(
        OUTSIDE[1],
        Kind::Lsm,
        "socket_bind",
        "lsm/socket_bind",
        false,
        "addresses that agents bind outside the governed cgroup",
    ),
    entry(
        OUTSIDE[2],
        Kind::Lsm,
        "socket_sendmsg",
        "lsm/socket_sendmsg (outside)",
        false,
        "what agents send outside the governed cgroup",
    ),
    entry("file_open", Kind::Lsm, "file_open", "lsm/file_open", false, "files that agents open"),
    entry(
        "file_mmap",
        Kind::Lsm,
        "mmap_file",
        "lsm/mmap_file",
        false,
        "programs and libraries that are mapped as code",
    ),
    entry(
        "file_mprotect",
        Kind::Lsm,
        "file_mprotect",
        "lsm/file_mprotect",
        false,
        "files that become code after they were mapped",
    ),
    entry("file_mknod", Kind::Lsm, "path_mknod", "lsm/path_mknod", false, "files that agents create"),
    entry("file_mkdir", Kind::Lsm, "path_mkdir", "lsm/path_mkdir", false, "directories that agents create"),
    entry("file_unlink", Kind::Lsm, "path_unlink", "lsm/path_unlink", false, "files that agents remove"),
    entry("file_rmdir", Kind::Lsm, "path_rmdir", "lsm/path_rmdir", false, "directories that agents remove"),
    entry(
        "file_symlink",
        Kind::Lsm,
        "path_symlink",
        "lsm/path_symlink",
        false,
        "symlinks that agents create",
    ),
    entry("file_link", Kind::Lsm, "path_link", "lsm/path_link", false, "hard links that agents create"),
    entry("file_rename", Kind::Lsm, "path_rename", "lsm/path_rename", false, "files that agents rename"),
    // The kernel runs the newest first: what this one denies, that one does not call allowed.
    entry(
        "file_rename_marked",
        Kind::Lsm,
        "path_rename",
        "lsm/path_rename (marks)",
        false,
        "other names of what a rule denies that agents rename",
    ),
    entry(
        "file_symlink_way",
        Kind::Lsm,
        "path_symlink",
        "lsm/path_symlink (symlinks)",
        false,
        "symlinks that agents create in the place of a directory on the way to what is denied",
    ),
    entry(
        "file_link_way",
        Kind::Lsm,
        "path_link",
        "lsm/path_link (symlinks)",
        false,
        "symlinks that agents link in the place of a directory on the way to what is denied",
    ),
    entry(
        "file_rename_way",
        Kind::Lsm,
        "path_rename",
        "lsm/path_rename (symlinks)",
        false,
        "symlinks that agents move in the place of a directory on the way to what is denied",
    ),
    entry(
        "file_path_truncate",
        Kind::Lsm,
        "path_truncate",
        "lsm/path_truncate",
        false,
        "files that agents truncate by path",
    ),
    entry(
        "file_truncate",
        Kind::Lsm,
        "file_truncate",
        "lsm/file_truncate",
        false,
        "files that agents truncate by descriptor",
    ),
    entry("file_chmod", Kind::Lsm, "path_chmod", "lsm/path_chmod", false, "modes that agents change"),
    entry("file_chown", Kind::Lsm, "path_chown", "lsm/path_chown", false, "owners that agents change"),
    entry(
        "file_bprm_check",
        Kind::Lsm,
        "bprm_check_security",
        "lsm/bprm_check_security",
        false,
        "programs that agents run by a file that was opened for something else",
    ),
    entry(
        "digest_bprm_check",
        Kind::Lsm,
        "bprm_check_security",
        "lsm.s/bprm_check_security",
        false,
        "the content of pinned programs",
    ),
    entry(
        "file_want_write",
        Kind::FunctionEntry,
        "mnt_want_write",
        "fentry/mnt_want_write",
        false,
        "the mount of a file whose attributes change by path: every such change is denied",
    ),
    entry(
        "file_want_write_file",
        Kind::FunctionEntry,
        "mnt_want_write_file",
        "fentry/mnt_want_write_file",
        false,
        "the mount of a file whose attributes change by descriptor: every such change is denied",
    ),
    entry(
        "file_setxattr",
        Kind::Lsm,
        "inode_setxattr",
        "lsm/inode_setxattr",
        false,
        "extended attributes that agents set",
    ),
    entry(
        "file_removexattr",
        Kind::Lsm,
        "inode_removexattr",
        "lsm/inode_removexattr",
        false,
        "extended attributes that agents remove",
    ),
    entry("file_set_acl", Kind::Lsm, "inode_set_acl", "lsm/inode_set_acl", false, "ACLs that agents set"),
    entry(
        "file_remove_acl",
        Kind::Lsm,
        "inode_remove_acl",
        "lsm/inode_remove_acl",
        false,
        "ACLs that agents remove",
    ),
    entry(
        "file_set_times",
        Kind::Lsm,
        "inode_setattr",
        "lsm/inode_setattr",
        false,
        "times of files that agents change",
    ),
    entry(
        "file_set_flags",
        Kind::Lsm,
        "inode_file_setattr",
        "lsm/inode_file_setattr",
        false,
        "flags of files that agents change by path",
    ),
    entry(
        "file_ioctl",
        Kind::Lsm,
        "file_ioctl",
        "lsm/file_ioctl",
        false,
        "flags of files that agents change by descriptor",
    ),
    entry("mount_mount", Kind::Lsm, "sb_mount", "lsm/sb_mount", false, "mounts that agents make"),
    entry(
        "mount_move",
        Kind::Lsm,
        "move_mount",
        "lsm/move_mount",
        false,
        "mounts that agents make by file descriptor",
    ),
    entry("mount_umount", Kind::Lsm, "sb_umount", "lsm/sb_umount", false, "mounts that agents take away"),
    entry(
        "mount_pivot_root",
        Kind::Lsm,
        "sb_pivotroot",
        "lsm/sb_pivotroot",
        false,
        "roots that agents change",
    ),
    entry(
        "unix_stream_connect",
        Kind::Lsm,
        "unix_stream_connect",
        "lsm/unix_stream_connect",
        false,
        "Unix sockets that agents connect to",
    ),
    entry(
        "unix_may_send",
        Kind::Lsm,
        "unix_may_send",
        "lsm/unix_may_send",
        false,
        "Unix sockets that agents send to",
    ),
    entry("privilege_capable", Kind::Lsm, "capable", "lsm/capable", false, "capabilities that agents use"),
    entry(
        "privilege_exec",
        Kind::Lsm,
        "bprm_creds_from_file",
        "lsm/bprm_creds_from_file",
        false,
        "users and capabilities that agents gain by a program",
    ),
    entry(
        "privilege_setuid",
        Kind::Lsm,
        "task_fix_setuid",
        "lsm/task_fix_setuid",
        false,
        "users that agents become",
    ),
    entry(
        "privilege_setgid",
        Kind::Lsm,
        "task_fix_setgid",
        "lsm/task_fix_setgid",
        false,
        "groups that agents become",
    ),
    entry(
        "privilege_userns",
        Kind::Lsm,
        "userns_create",
        "lsm/userns_create",
        false,
        "user namespaces that agents make",
    ),
    entry(
        "privilege_ptrace",
        Kind::Lsm,
        "ptrace_access_check",
        "lsm/ptrace_access_check",
        false,
        "processes that agents trace or read",
    ),
    entry(
        "privilege_traceme",
        Kind::Lsm,
        "ptrace_traceme",
        "lsm/ptrace_traceme",
        false,
        "agents that ask to be traced",
    ),
    entry("privilege_signal", Kind::Lsm, "task_kill", "lsm/task_kill", false, "signals that agents send"),
    entry(
        "privilege_module_request",
        Kind::Lsm,
        "kernel_module_request",
        "lsm/kernel_module_request",
        false,
        "kernel modules that agents have loaded",
    ),
    entry(
        "privilege_read_file",
        Kind::Lsm,
        "kernel_read_file",
        "lsm/kernel_read_file",
        false,
        "kernel modules that agents load from files",
    ),
    entry(
        "privilege_load_data",
        Kind::Lsm,
        "kernel_load_data",
        "lsm/kernel_load_data",
        false,
        "kernel modules that agents load from memory",
    ),
    entry("privilege_bpf", Kind::Lsm, "bpf", "lsm/bpf", false, "`bpf` calls of agents"),
    entry(
        "privilege_perf",
        Kind::Lsm,
        "perf_event_open",
        "lsm/perf_event_open",
        false,
        "`perf_event_open` calls of agents",
    ),
    entry(
        "privilege_uring_credentials",
        Kind::Lsm,
        "uring_override_creds",
        "lsm/uring_override_creds",
        false,
        "io_uring operations under other credentials",
    ),
    entry(
        "privilege_uring_poll",
        Kind::Lsm,
        "uring_sqpoll",
        "lsm/uring_sqpoll",
        false,
        "io_uring polling threads of agents",
    ),
    entry(
        "privilege_uring_command",
        Kind::Lsm,
        "uring_cmd",
        "lsm/uring_cmd",
        false,
        "io_uring commands of agents to drivers",
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
        "iterate_classes",
        Kind::Iterator,
        "task",
        "iter/task (classes)",
        true,
        "what living processes run, after a reload",
    ),
    entry(
        "iterate_socket_classes",
        Kind::Iterator,
        "task_file",
        "iter/task_file (classes)",
        true,
        "which program a socket belongs to, after a reload",
    ),
    entry(
        "iterate_objects",
        Kind::Iterator,
        "task_file",
        "iter/task_file (objects)",
        true,
        "other names of what a rule denies",
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
