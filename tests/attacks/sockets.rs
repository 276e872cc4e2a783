//! Helpers with more rights than the agent, by their sockets (A05, A06, A20).

use crate::attack::{Attack, Harm};
use crate::guest::Who;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "A05_the_container_daemon_answers_no_agent",
        who: Who::Dev,
        before: "",
        script: r#"
curl -sm5 --unix-socket /var/run/docker.sock http://d/containers/json
curl -sm5 --unix-socket /proc/self/root/run/docker.sock http://d/containers/json
ln -s /run/docker.sock mine; curl -sm5 --unix-socket mine http://d/containers/json
cd /run && python3 - <<'P'
import socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect('docker.sock'); s.sendall(b'GET / HTTP/1.0\r\n\r\n'); print(s.recv(100).decode())
except OSError as error:
    print(error)
P"#,
        harm: Harm::Said("planted-answer", 4),
        told: &[
            &["/run/docker.sock", "\"EACCES\"", "/usr/bin/curl"],
            &["/run/docker.sock", "\"EACCES\"", "python3"],
        ],
    },
    Attack {
        name: "A05_docker_starts_no_container_with_the_hosts_root_in_it",
        who: Who::Dev,
        before: "",
        script: r#"
start() { docker "$@" run --rm --privileged -v /:/host alpine true; }
start
start -H unix:///proc/self/root/run/docker.sock
ln -s /run/docker.sock mine; start -H "unix://$PWD/mine""#,
        harm: Harm::Arrived("unix-/run/docker.sock", "\"Privileged\":true", 3),
        told: &[&["/run/docker.sock", "\"EACCES\"", "/usr/bin/docker", "unix.deny["]],
    },
    Attack {
        name: "A06_no_other_session_runs_a_command_for_the_agent",
        who: Who::Dev,
        before: "",
        script: r#"
python3 - <<'P'
import socket
for path in ['/run/user/1000/bus', '/run/user/1000/systemd/private', '/run/dbus/system_bus_socket']:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path); s.sendall(b'\0AUTH EXTERNAL\r\n'); print(s.recv(100).decode())
    except OSError as error:
        print(error)
P
timeout 5 tmux -S /run/tmux-1000/default new-session -d 'id >/tmp/pwned'
[ -e /run/arrived/unix-_run_tmux-1000_default ] && echo planted-answer"#,
        harm: Harm::Said("planted-answer", 4),
        told: &[
            &["/run/user/1000/bus", "\"EACCES\""],
            &["/run/user/1000/systemd/private", "\"EACCES\""],
            &["/run/dbus/system_bus_socket", "\"EACCES\""],
            &["/run/tmux-1000/default", "\"EACCES\"", "/usr/bin/tmux"],
        ],
    },
    Attack {
        name: "A20_the_ssh_agent_signs_nothing_for_the_agent",
        who: Who::Dev,
        before: "",
        script: "timeout 5 ssh-add -l; true",
        harm: Harm::Arrived("unix-/run/agents/ssh-XXXX/agent.1", "connected", 1),
        told: &[&["/run/agents/ssh-XXXX/agent.1", "\"EACCES\"", "/usr/bin/ssh-add"]],
    },
];
