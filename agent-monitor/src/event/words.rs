//! The fixed words of an event: its types, the outcomes of a verdict, the names of hooks and errnos.
//!
//! Used by `event::model`, whose schema they belong to, by the filters of `cli::events` and the labels of `metrics`.
//! What must stay true: a word is the same in the JSON, the filters and the metrics, and never changes within one
//! version of the schema.

use std::borrow::Cow;
use std::str::FromStr;

use agent_monitor_common::counters::{Effect, Mode};
use agent_monitor_common::event::Hook;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    /// A destination or a local port was judged: `network`, `verdict`.
    #[serde(rename = "network")]
    Network,
    /// A question about a name was denied, or addresses that answered for it: `lookup`, `verdict`. Without a verdict:
    /// the agent asks as a tunnel would.
    #[serde(rename = "dns")]
    Dns,
    /// A kind of socket was judged: `socket`, `verdict`.
    #[serde(rename = "socket")]
    Socket,
    /// A listed system call was made: `syscall`, `verdict`.
    #[serde(rename = "syscall")]
    Syscall,
    /// An object with a path was judged: `file`, `verdict`.
    #[serde(rename = "file")]
    File,
    /// A peer that is a Unix socket was judged: `file` (its path, or `@` and its abstract name), `verdict`.
    #[serde(rename = "unix")]
    Unix,
    /// A privilege of the host was judged: `privilege`, `verdict`.
    #[serde(rename = "privilege")]
    Privilege,
    /// A process of an agent runs another program: `exec`.
    #[serde(rename = "exec")]
    Exec,
    /// A process of an agent made another: `fork`.
    #[serde(rename = "fork")]
    Fork,
    /// A process of an agent ended: `exit`.
    #[serde(rename = "exit")]
    Exit,
    #[serde(rename = "agent.started")]
    AgentStarted,
    #[serde(rename = "agent.ended")]
    AgentEnded,
    /// An established flow lost its grant and was reset: `process`, `flow`.
    #[serde(rename = "flow.cut")]
    FlowCut,
    /// A profile was put in force, refused or taken away: `profile`.
    #[serde(rename = "profile")]
    Profile,
    /// Events are missing here: `loss`.
    #[serde(rename = "loss")]
    Loss,
}

impl EventType {
    /// Every type, in the order of the schema.
    pub const ALL: [Self; 15] = [
        Self::Network,
        Self::Dns,
        Self::Socket,
        Self::Syscall,
        Self::File,
        Self::Unix,
        Self::Privilege,
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::AgentStarted,
        Self::AgentEnded,
        Self::FlowCut,
        Self::Profile,
        Self::Loss,
    ];

    /// The word in the JSON, the filters and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Dns => "dns",
            Self::Socket => "socket",
            Self::Syscall => "syscall",
            Self::File => "file",
            Self::Unix => "unix",
            Self::Privilege => "privilege",
            Self::Exec => "exec",
            Self::Fork => "fork",
            Self::Exit => "exit",
            Self::AgentStarted => "agent.started",
            Self::AgentEnded => "agent.ended",
            Self::FlowCut => "flow.cut",
            Self::Profile => "profile",
            Self::Loss => "loss",
        }
    }
}

impl FromStr for EventType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            format!("{text:?} is no event type; there are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// The outcome of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictEffect {
    Allow,
    Deny,
    /// The operation went on; a profile in `enforce` mode would have denied it.
    WouldDeny,
    /// The caller of a listed system call was killed. No denial: the call has begun, and may have happened.
    Kill,
    /// The call went on; a profile in `enforce` mode would have killed its caller.
    WouldKill,
}

impl VerdictEffect {
    pub const ALL: [Self; 5] = [Self::Allow, Self::Deny, Self::WouldDeny, Self::Kill, Self::WouldKill];

    /// What the kernel's effect means in this mode.
    #[must_use]
    pub const fn of(effect: Effect, mode: Mode) -> Self {
        match (effect, mode) {
            (Effect::Allow, _) => Self::Allow,
            (Effect::Deny, Mode::Enforce) => Self::Deny,
            (Effect::Deny, Mode::Audit | Mode::Learn) => Self::WouldDeny,
            (Effect::Kill, Mode::Enforce) => Self::Kill,
            (Effect::Kill, Mode::Audit | Mode::Learn) => Self::WouldKill,
        }
    }

    /// The word in the JSON and the filters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
            Self::Kill => "kill",
            Self::WouldKill => "would-kill",
        }
    }
}

impl FromStr for VerdictEffect {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|effect| effect.as_str() == text).ok_or_else(|| {
            format!("{text:?} is no verdict; there are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// The public name of a hook: how it is attached, and where.
#[must_use]
pub const fn mechanism(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect4 => "cgroup/connect4",
        Hook::Connect6 => "cgroup/connect6",
        Hook::Sendmsg4 => "cgroup/sendmsg4",
        Hook::Sendmsg6 => "cgroup/sendmsg6",
        Hook::Bind4 => "cgroup/bind4",
        Hook::Bind6 => "cgroup/bind6",
        Hook::SockCreate => "cgroup/sock_create",
        Hook::Egress => "cgroup_skb/egress",
        Hook::LsmSocketCreate => "lsm/socket_create",
        Hook::LsmSocketListen => "lsm/socket_listen",
        Hook::LsmSocketSendmsg => "lsm/socket_sendmsg",
        Hook::LsmFileReceive => "lsm/file_receive",
        Hook::LsmFileOpen => "lsm/file_open",
        Hook::LsmMmapFile => "lsm/mmap_file",
        Hook::LsmPathMknod => "lsm/path_mknod",
        Hook::LsmPathMkdir => "lsm/path_mkdir",
        Hook::LsmPathUnlink => "lsm/path_unlink",
        Hook::LsmPathRmdir => "lsm/path_rmdir",
        Hook::LsmPathSymlink => "lsm/path_symlink",
        Hook::LsmPathLink => "lsm/path_link",
        Hook::LsmPathRename => "lsm/path_rename",
        Hook::LsmPathTruncate => "lsm/path_truncate",
        Hook::LsmPathChmod => "lsm/path_chmod",
        Hook::LsmPathChown => "lsm/path_chown",
        Hook::LsmFileTruncate => "lsm/file_truncate",
        Hook::LsmFileMprotect => "lsm/file_mprotect",
        Hook::LsmSbMount => "lsm/sb_mount",
        Hook::LsmMoveMount => "lsm/move_mount",
        Hook::LsmSbUmount => "lsm/sb_umount",
        Hook::LsmSbPivotroot => "lsm/sb_pivotroot",
        Hook::LsmCapable => "lsm/capable",
        Hook::LsmBprmCredsFromFile => "lsm/bprm_creds_from_file",
        Hook::LsmTaskFixSetuid => "lsm/task_fix_setuid",
        Hook::LsmTaskFixSetgid => "lsm/task_fix_setgid",
        Hook::LsmUsernsCreate => "lsm/userns_create",
        Hook::LsmPtraceAccessCheck => "lsm/ptrace_access_check",
        Hook::LsmPtraceTraceme => "lsm/ptrace_traceme",
        Hook::LsmTaskKill => "lsm/task_kill",
        Hook::LsmKernelModuleRequest => "lsm/kernel_module_request",
        Hook::LsmKernelReadFile => "lsm/kernel_read_file",
        Hook::LsmKernelLoadData => "lsm/kernel_load_data",
        Hook::LsmBpf => "lsm/bpf",
        Hook::LsmPerfEventOpen => "lsm/perf_event_open",
        Hook::LsmUringOverrideCreds => "lsm/uring_override_creds",
        Hook::LsmUringSqpoll => "lsm/uring_sqpoll",
        Hook::LsmUringCmd => "lsm/uring_cmd",
        Hook::LsmInodeSetxattr => "lsm/inode_setxattr",
        Hook::LsmInodeRemovexattr => "lsm/inode_removexattr",
        Hook::LsmInodeSetAcl => "lsm/inode_set_acl",
        Hook::LsmInodeRemoveAcl => "lsm/inode_remove_acl",
        Hook::LsmInodeSetattr => "lsm/inode_setattr",
        Hook::LsmInodeFileSetattr => "lsm/inode_file_setattr",
        Hook::LsmFileIoctl => "lsm/file_ioctl",
        Hook::LsmBprmCheck => "lsm/bprm_check_security",
        Hook::LsmUnixStreamConnect => "lsm/unix_stream_connect",
        Hook::LsmUnixMaySend => "lsm/unix_may_send",
        Hook::LsmSocketConnect => "lsm/socket_connect",
        Hook::LsmSocketBind => "lsm/socket_bind",
        Hook::LsmSocketPostCreate => "lsm/socket_post_create",
        Hook::SysEnter => "raw_tp/sys_enter",
        Hook::Fork => "tp_btf/sched_process_fork",
        Hook::Exec => "tp_btf/sched_process_exec",
        Hook::Exit => "tp_btf/sched_process_exit",
    }
}

/// The name of an errno that a hook can return; `None` for 0.
#[must_use]
pub fn errno_name(errno: u16) -> Option<Cow<'static, str>> {
    let name = match i32::from(errno) {
        0 => return None,
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EINVAL => "EINVAL",
        other => return Some(Cow::Owned(other.to_string())),
    };
    Some(Cow::Borrowed(name))
}

/// The name of a signal that is no real-time signal (signal(7), x86 and ARM).
#[must_use]
pub fn signal_name(number: u32) -> Option<&'static str> {
    #[rustfmt::skip]
    const NAMES: [&str; 31] = [
        "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE",
        "SIGKILL", "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT",
        "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU",
        "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
    ];
    NAMES.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_json_and_of_as_str_are_the_same() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        for effect in VerdictEffect::ALL {
            assert_eq!(serde_json::to_value(effect).unwrap(), effect.as_str());
            assert_eq!(effect.as_str().parse(), Ok(effect));
        }
        assert!("nonsense".parse::<EventType>().is_err());
    }

    #[test]
    fn signals_are_named_as_the_host_numbers_them() {
        for (number, name) in [
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGCONT, "SIGCONT"),
            (libc::SIGSYS, "SIGSYS"),
        ] {
            assert_eq!(signal_name(number.unsigned_abs()), Some(name));
        }
        assert_eq!((signal_name(0), signal_name(32)), (None, None));
    }

    #[test]
    fn a_kill_is_never_a_denial() {
        assert_eq!(VerdictEffect::of(Effect::Kill, Mode::Enforce), VerdictEffect::Kill);
        assert_eq!(VerdictEffect::of(Effect::Kill, Mode::Audit), VerdictEffect::WouldKill);
    }

    #[test]
    fn a_denial_outside_enforce_mode_is_a_would_deny() {
        assert_eq!(VerdictEffect::of(Effect::Deny, Mode::Enforce), VerdictEffect::Deny);
        assert_eq!(VerdictEffect::of(Effect::Deny, Mode::Audit), VerdictEffect::WouldDeny);
        assert_eq!(VerdictEffect::of(Effect::Allow, Mode::Audit), VerdictEffect::Allow);
    }
}
