//! Records in the ring buffers: a fixed header, a fixed body by kind, and for exec a tail of bytes.
//!
//! Writer: `agent-monitor-ebpf/src/emit.rs`. Reader: `agent-monitor/src/event/decode.rs`. Kinds are never reused.

use crate::name::SpokenKey;
use crate::{wire_codes, wire_struct};

wire_codes! {
    /// What a record is.
    pub enum Kind: u16 {
        /// A network decision: [`NetBody`].
        Network = 1 "network",
        /// A socket creation: [`SocketBody`].
        Socket = 2 "socket",
        /// A listed system call: [`SyscallBody`].
        Syscall = 3 "syscall",
        /// A decision on a path: [`FileBody`] and its tail.
        File = 4 "file",
        /// A decision on a privilege: [`PrivilegeBody`].
        Privilege = 5 "privilege",
        /// A connection whose first bytes do not say a granted name: [`HelloBody`].
        Hello = 6 "hello",
        /// An exec: [`ExecBody`] and its tail.
        Exec = 16 "exec",
        /// A fork: [`ForkBody`].
        Fork = 17 "fork",
        /// The last thread of a process went: [`ExitBody`].
        Exit = 18 "exit",
    }
}

wire_codes! {
    /// The hook that wrote a record.
    pub enum Hook: u16 {
        Connect4 = 1 "connect4",
        Connect6 = 2 "connect6",
        Sendmsg4 = 3 "sendmsg4",
        Sendmsg6 = 4 "sendmsg6",
        Bind4 = 5 "bind4",
        Bind6 = 6 "bind6",
        SockCreate = 7 "sock_create",
        Egress = 8 "egress",
        LsmSocketCreate = 9 "socket_create",
        LsmSocketListen = 10 "socket_listen",
        LsmSocketSendmsg = 11 "socket_sendmsg",
        LsmFileReceive = 12 "file_receive",
        SysEnter = 13 "sys_enter",
        Fork = 14 "sched_process_fork",
        Exec = 15 "sched_process_exec",
        Exit = 16 "sched_process_exit",
        LsmFileOpen = 18 "file_open",
        LsmMmapFile = 19 "mmap_file",
        LsmPathMknod = 20 "path_mknod",
        LsmPathMkdir = 21 "path_mkdir",
        LsmPathUnlink = 22 "path_unlink",
        LsmPathRmdir = 23 "path_rmdir",
        LsmPathSymlink = 24 "path_symlink",
        LsmPathLink = 25 "path_link",
        LsmPathRename = 26 "path_rename",
        LsmPathTruncate = 27 "path_truncate",
        LsmPathChmod = 28 "path_chmod",
        LsmPathChown = 29 "path_chown",
        LsmFileTruncate = 30 "file_truncate",
        LsmFileMprotect = 31 "file_mprotect",
        LsmSbMount = 32 "sb_mount",
        LsmMoveMount = 33 "move_mount",
        LsmSbUmount = 34 "sb_umount",
        LsmSbPivotroot = 35 "sb_pivotroot",
        LsmCapable = 36 "capable",
        LsmBprmCredsFromFile = 37 "bprm_creds_from_file",
        LsmTaskFixSetuid = 38 "task_fix_setuid",
        LsmTaskFixSetgid = 39 "task_fix_setgid",
        LsmUsernsCreate = 40 "userns_create",
        LsmPtraceAccessCheck = 41 "ptrace_access_check",
        LsmPtraceTraceme = 42 "ptrace_traceme",
        LsmTaskKill = 43 "task_kill",
        LsmKernelModuleRequest = 44 "kernel_module_request",
        LsmKernelReadFile = 45 "kernel_read_file",
        LsmKernelLoadData = 46 "kernel_load_data",
        LsmBpf = 47 "bpf",
        LsmPerfEventOpen = 48 "perf_event_open",
        LsmUringOverrideCreds = 49 "uring_override_creds",
        LsmUringSqpoll = 50 "uring_sqpoll",
        LsmUringCmd = 51 "uring_cmd",
        LsmInodeSetxattr = 52 "inode_setxattr",
        LsmInodeRemovexattr = 53 "inode_removexattr",
        LsmInodeSetAcl = 54 "inode_set_acl",
        LsmInodeRemoveAcl = 55 "inode_remove_acl",
        LsmInodeSetattr = 56 "inode_setattr",
        LsmInodeFileSetattr = 57 "inode_file_setattr",
        LsmFileIoctl = 58 "file_ioctl",
        LsmBprmCheck = 59 "bprm_check_security",
        LsmUnixStreamConnect = 60 "unix_stream_connect",
        LsmUnixMaySend = 61 "unix_may_send",
        LsmSocketConnect = 62 "socket_connect",
        LsmSocketBind = 63 "socket_bind",
        LsmSocketPostCreate = 64 "socket_post_create",
    }
}

wire_codes! {
    /// Why a decision fell.
    pub enum Reason: u8 {
        /// No rule grants it.
        Default = 0 "default-deny",
        /// A rule grants or denies it.
        Rule = 1 "rule",
        /// IPv4 options or IPv6 extension headers (source routing and the like).
        IpOptions = 2 "ip-options",
        /// A helper failed.
        HelperFailed = 3 "helper-failed",
        /// The process' label was lost.
        LabelLost = 4 "label-lost",
        /// The kind of socket is not granted.
        SocketKind = 5 "socket-kind",
        /// The packet could not be parsed (fragment, truncated).
        Malformed = 6 "malformed",
        /// The path could not be walked: too long, or no way from the object to the root.
        NoPath = 7 "no-path",
        /// The object has no path at all (memfd and the like), so no rule can grant executing it.
        Anonymous = 8 "anonymous",
        /// The directory holds, or could hold, an object that a rule denies: it would get another name.
        DeniedBelow = 9 "denied-below",
        /// Rules about paths hold only while the agent changes no mount.
        Mount = 10 "mount",
        /// The process that it is aimed at is none of the agent's.
        Outside = 11 "outside-agent",
        /// It is the monitor's own: its process, programs, maps, files or addresses.
        Protected = 12 "protected",
        /// A rule denies the object by another of its names, or whatever lies in its directory by another name of that.
        OtherName = 13 "other-name",
        /// The program is pinned to another content, or is mapped without having been checked.
        Digest = 14 "digest",
        /// The program is pinned, and the kernel could not tell the SHA-256 of its content.
        DigestUnknown = 15 "digest-unknown",
        /// A rule grants a name that the address stands for.
        Name = 16 "name",
        /// A question about a name, and the resolver does not run.
        NoResolver = 17 "no-resolver",
        /// A rule grants the name if the TLS client says one that is granted, and it did not.
        Sni = 18 "sni",
        /// A question about a name that can't come to the resolver's loopback: its socket is in another network namespace,
        /// or bound to a device.
        OtherNetwork = 19 "other-network",
    }
}

wire_struct! {
    /// Before every record.
    pub struct Header: 48 {
        /// [`crate::ABI_VERSION`].
        pub abi: u16,
        /// [`Kind`] code.
        pub kind: u16,
        /// Bytes of the whole record.
        pub length: u32,
        /// `CLOCK_MONOTONIC` nanoseconds.
        pub time_ns: u64,
        /// Agent; 0 where its label was lost.
        pub agent: u32,
        /// Profile slot.
        pub profile: u8,
        /// Class of the program in that image; [`crate::image::UNKNOWN_CLASS`] where it could not be told.
        pub class: u8,
        /// [`Hook`] code.
        pub hook: u16,
        /// Current tgid; 0 in egress, which has no current.
        pub tgid: u32,
        /// Current thread; 0 in egress.
        pub tid: u32,
        /// cgroup v2 id of current; 0 in egress.
        pub cgroup: u64,
        /// Generation of the profile's image that decided.
        pub generation: u32,
        /// [`crate::counters::Effect`] code.
        pub effect: u8,
        /// [`crate::counters::Mode`] code.
        pub mode: u8,
        /// Errno that the caller saw; 0: none.
        pub errno: u16,
    }
}

wire_struct! {
    /// A network decision.
    pub struct NetBody: 32 {
        /// Judged address: the destination, or the local address of a listen. Network order, IPv4 mapped.
        pub address: [u8; 16],
        /// Judged port.
        pub port: u16,
        /// [`crate::request::Protocol`] code.
        pub protocol: u8,
        /// [`crate::request::Direction`] code.
        pub direction: u8,
        /// [`Reason`] code.
        pub reason: u8,
        /// Zero.
        pub pad: u8,
        /// Local port (egress), else 0.
        pub local_port: u16,
        /// IP protocol number.
        pub ip_protocol: u16,
        /// Class of the name that the address stood for, where that granted it; else 0.
        pub name: u16,
        /// Family of the socket, where it is known.
        pub family: u32,
    }
}

wire_struct! {
    /// A connection whose first bytes do not say a granted name.
    pub struct HelloBody: 312 {
        pub net: NetBody,
        /// What was said; its bytes are the agent's.
        pub said: SpokenKey,
        /// [`crate::hello::Hello`] code.
        pub hello: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire_struct! {
    /// A socket creation.
    pub struct SocketBody: 24 {
        /// `AF_*`.
        pub family: u32,
        /// `SOCK_*`.
        pub kind: u32,
        /// Protocol.
        pub protocol: u32,
        /// [`Reason`] code.
        pub reason: u32,
        /// As [`FileBody::repeats`].
        pub repeats: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire_struct! {
    /// A listed system call.
    pub struct SyscallBody: 16 {
        /// Number in the table of the calling ABI.
        pub nr: u32,
        /// 1: a signal was sent to kill the caller.
        pub killed: u32,
        /// 1: a number of the 32-bit table, or one that only x32 has (512 to 547).
        pub compat: u32,
        /// Zero.
        pub pad: u32,
    }
}

/// Most path bytes that an exec record carries. Claims are matched on the whole path; task storage, where a record is
/// built, holds 8 120 bytes on 7.3.
pub const PATH_BYTES: usize = 1024;
/// Most argv bytes that an exec record carries.
pub const ARGV_BYTES: usize = 1024;

wire_struct! {
    /// An exec. The tail is the path (`path_length` bytes), then argv (`argv_length` bytes, NUL-separated).
    pub struct ExecBody: 56 {
        /// Parent's tgid.
        pub parent: u32,
        /// 1: this exec gave the process its label.
        pub claimed: u32,
        /// Bytes of the path; 0: it could not be read.
        pub path_length: u32,
        /// Bytes that the path has; more than `path_length`: cut.
        pub path_total: u32,
        /// Bytes of argv in the tail.
        pub argv_length: u32,
        /// Bytes that argv has in the process; more than `argv_length`: cut.
        pub argv_total: u32,
        /// User id.
        pub uid: u32,
        /// Zero.
        pub pad: u32,
        /// Inode of the executable.
        pub inode: u64,
        /// `comm`, NUL-padded.
        pub comm: [u8; 16],
    }
}

wire_struct! {
    /// A decision on a path. The tail is the path (`path_length` bytes).
    pub struct FileBody: 56 {
        /// [`crate::path::Rights`] that were needed.
        pub rights: u32,
        /// [`Reason`] code.
        pub reason: u32,
        /// Bytes of the path in the tail; 0: it could not be read.
        pub path_length: u32,
        /// Bytes that the path has; more than `path_length`: cut.
        pub path_total: u32,
        /// Inode of the object; 0: it does not exist yet.
        pub inode: u64,
        /// User id.
        pub uid: u32,
        /// Written by the daemon, 0 in the kernel's records: how often the same happened again without a record.
        pub repeats: u32,
        /// Of an allowed operation: [`crate::activity::UsedKey::object`], under which repeats are counted.
        pub object: u64,
        /// `comm`, NUL-padded.
        pub comm: [u8; 16],
    }
}

wire_struct! {
    /// A decision on a privilege.
    pub struct PrivilegeBody: 48 {
        /// [`crate::privilege::Privilege`] code.
        pub privilege: u32,
        /// [`Reason`] code.
        pub reason: u32,
        /// Which one of its kind: the number of a capability, a signal or a `bpf` command, the kind of a kernel file,
        /// the new user or group; else 0.
        pub number: u32,
        /// The process that it is aimed at; 0: none.
        pub target: u32,
        /// User id.
        pub uid: u32,
        /// As [`FileBody::repeats`].
        pub repeats: u32,
        /// Zero.
        pub reserved: u64,
        /// `comm`, NUL-padded.
        pub comm: [u8; 16],
    }
}

wire_struct! {
    /// A fork of a labelled process.
    pub struct ForkBody: 8 {
        /// Child's tgid.
        pub child: u32,
        /// 1: the child's label could not be stored; it is denied everything.
        pub label_lost: u32,
    }
}

wire_struct! {
    /// The end of a labelled process.
    pub struct ExitBody: 8 {
        /// `task->exit_code`: status in bits 8–15, signal in bits 0–6.
        pub code: u32,
        /// 1: it was its agent's last process.
        pub last: u32,
    }
}
