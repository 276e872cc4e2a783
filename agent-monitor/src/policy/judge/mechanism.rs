//! Which mechanisms of the kernel see a request, the one that decides it first.

use std::net::IpAddr;

use agent_monitor_common::path::Right;
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{Protocol, SocketKind};

use super::{Destination, Request};

/// What answers questions about names: no program of the kernel, but the daemon.
pub const RESOLVER: &str = "resolver";

/// The mechanisms that see `request`, as posture, events and metrics name them.
#[must_use]
pub fn mechanisms(request: &Request) -> Vec<&'static str> {
    match request {
        Request::LookUp(_) => vec![RESOLVER],
        Request::Connect { to, protocol, .. } => {
            let datagram = *protocol != Protocol::Tcp;
            let v4 = datagram.then_some("cgroup/sendmsg4");
            let v6 = datagram.then_some("cgroup/sendmsg6");
            let (first, hooks): (_, &[_]) = match to {
                Destination::Host(_) => {
                    (Some(RESOLVER), &[Some("cgroup/connect4"), v4, Some("cgroup/connect6"), v6])
                }
                Destination::Address(IpAddr::V4(_)) => (None, &[Some("cgroup/connect4"), v4]),
                Destination::Address(IpAddr::V6(_)) => (None, &[Some("cgroup/connect6"), v6]),
            };
            first.into_iter().chain(hooks.iter().copied().flatten()).chain(["cgroup_skb/egress"]).collect()
        }
        Request::Listen { address: IpAddr::V4(_), .. } => vec!["cgroup/bind4", "lsm/socket_listen"],
        Request::Listen { address: IpAddr::V6(_), .. } => vec!["cgroup/bind6", "lsm/socket_listen"],
        Request::Path { rights, directory, .. } => {
            let asked = |right: Right| rights & right as u32 != 0;
            let mut hooks = Vec::new();
            if asked(Right::Execute) {
                hooks.extend(["lsm/bprm_check_security", "lsm/mmap_file"]);
            }
            if asked(Right::Read) || asked(Right::Write) {
                hooks.push("lsm/file_open");
            }
            if asked(Right::Write) {
                hooks.extend(match directory {
                    true => ["lsm/path_mkdir", "lsm/path_rmdir", "lsm/path_rename"],
                    false => ["lsm/path_mknod", "lsm/path_unlink", "lsm/path_rename"],
                });
            }
            if asked(Right::Connect) {
                hooks.extend(["lsm/unix_stream_connect", "lsm/unix_may_send"]);
            }
            hooks
        }
        Request::Socket(kind) => match kind {
            SocketKind::Mptcp
            | SocketKind::Sctp
            | SocketKind::Dccp
            | SocketKind::Udplite
            | SocketKind::Ping
            | SocketKind::Raw
            | SocketKind::L2tp
            | SocketKind::InetOther => vec!["cgroup/sock_create"],
            _ => vec!["lsm/socket_create"],
        },
        Request::Capability(_) => vec!["lsm/capable"],
        Request::Privilege { privilege, .. } => match privilege {
            Privilege::Capability => vec!["lsm/capable"],
            Privilege::Setuid => {
                vec!["lsm/bprm_creds_from_file", "lsm/task_fix_setuid", "lsm/task_fix_setgid"]
            }
            Privilege::UserNamespace => vec!["lsm/userns_create"],
            Privilege::Ptrace => vec!["lsm/ptrace_access_check", "lsm/ptrace_traceme"],
            Privilege::Signal => vec!["lsm/task_kill"],
            Privilege::Mount => vec!["lsm/sb_mount", "lsm/move_mount", "lsm/sb_umount", "lsm/sb_pivotroot"],
            Privilege::Module => {
                vec!["lsm/kernel_read_file", "lsm/kernel_load_data", "lsm/kernel_module_request"]
            }
            Privilege::Bpf => vec!["lsm/bpf"],
            Privilege::Perf => vec!["lsm/perf_event_open"],
            Privilege::IoUring => vec!["lsm/uring_sqpoll", "lsm/uring_override_creds", "lsm/uring_cmd"],
        },
        Request::Syscall(_) => vec!["raw_tp/sys_enter"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::programs::PROGRAMS;

    #[test]
    fn each_mechanism_is_one_that_posture_has() {
        let tcp = Protocol::Tcp;
        let mut requests = vec![
            Request::connect("a.example:1", tcp).unwrap(),
            Request::connect("a.example:1", Protocol::Udp).unwrap(),
            Request::connect("10.0.0.1:1", tcp).unwrap(),
            Request::connect("[fd00::1]:1", Protocol::Udp).unwrap(),
            Request::listen("1", tcp).unwrap(),
            Request::listen("[::1]:1", tcp).unwrap(),
            Request::path(b"/a", 0b111).unwrap(),
            Request::path(b"/a/", 0b11).unwrap(),
            Request::unix(b"@a").unwrap(),
            Request::Capability(1),
            Request::Syscall(1),
            Request::LookUp("a".to_owned()),
        ];
        requests.extend(SocketKind::ALL.iter().map(|kind| Request::Socket(*kind)));
        requests.extend(Privilege::ALL.iter().map(|&privilege| Request::Privilege { privilege, own: false }));
        for request in requests {
            let found = mechanisms(&request);
            assert!(!found.is_empty(), "{request}");
            for name in found {
                let known = name == RESOLVER || PROGRAMS.iter().any(|program| program.mechanism == name);
                assert!(known, "{name}");
            }
        }
        let inet =
            agent_monitor_common::request::socket_kind(agent_monitor_common::request::AF_INET, 3, 1).unwrap();
        assert_eq!(mechanisms(&Request::Socket(inet)), ["cgroup/sock_create"]);
    }
}
