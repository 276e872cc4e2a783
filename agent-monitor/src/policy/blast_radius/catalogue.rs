//! What an agent that was turned would go for: the objects that are asked about, with the technique of MITRE ATT&CK
//! (attack.mitre.org, Enterprise) that each stands for.
//!
//! One object stands for its kind: `~/.aws/credentials` for the credentials of cloud tools. A `~` is the home of a user,
//! `${workspace}` a directory that the profile calls so.

/// A kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub technique: &'static str,
    /// Any of them stands for the kind.
    pub objects: &'static [&'static str],
}

const fn target(name: &'static str, technique: &'static str, objects: &'static [&'static str]) -> Target {
    Target { name, technique, objects }
}

/// To be read.
pub const SECRETS: &[Target] = &[
    target("SSH private keys", "T1552.004", &["~/.ssh/id_ed25519", "~/.ssh/id_rsa"]),
    target(
        "cloud credentials",
        "T1552.001",
        &["~/.aws/credentials", "~/.config/gcloud/credentials.db", "~/.azure/accessTokens.json"],
    ),
    target("Kubernetes credentials", "T1552.001", &["~/.kube/config"]),
    target(
        "tokens of source hosts",
        "T1552.001",
        &["~/.git-credentials", "~/.config/gh/hosts.yml", "~/.netrc"],
    ),
    target(
        "tokens of package registries",
        "T1552.001",
        &["~/.npmrc", "~/.pypirc", "~/.cargo/credentials.toml"],
    ),
    target("container registry logins", "T1552.001", &["~/.docker/config.json"]),
    target("GPG private keys", "T1552.004", &["~/.gnupg/private-keys-v1.d/key.key"]),
    target("password stores", "T1555", &["~/.password-store/x.gpg", "~/.local/share/keyrings/login.keyring"]),
    target(
        "browser cookies and logins",
        "T1539",
        &["~/.config/google-chrome/Default/Cookies", "~/.mozilla/firefox/x.default/cookies.sqlite"],
    ),
    target("shell histories", "T1552.003", &["~/.bash_history", "~/.zsh_history"]),
    target("password hashes", "T1003.008", &["/etc/shadow"]),
    target("host keys", "T1552.004", &["/etc/ssh/ssh_host_ed25519_key"]),
    target("kernel memory", "T1003", &["/proc/kcore", "/dev/mem"]),
];

/// To be written: what runs later, or tells others what to do.
pub const PERSISTENCE: &[Target] = &[
    target("shell start files", "T1546.004", &["~/.bashrc", "~/.zshrc", "~/.profile"]),
    target("SSH authorized keys", "T1098.004", &["~/.ssh/authorized_keys"]),
    target("git's own configuration", "T1546", &["~/.gitconfig", "~/.config/git/config"]),
    // git runs what it names (`core.fsmonitor`, `diff.external`, `core.hooksPath`), with whoever uses it there next.
    target("configuration of repositories", "T1546", &["${workspace}/.git/config", "~/x/.git/config"]),
    target("systemd user units", "T1543.002", &["~/.config/systemd/user/x.service"]),
    target("system units", "T1543.002", &["/etc/systemd/system/x.service"]),
    target("cron", "T1053.003", &["/etc/cron.d/x", "/var/spool/cron/crontabs/root"]),
    target("desktop autostart", "T1547.013", &["~/.config/autostart/x.desktop"]),
    target("programs on the search path", "T1574.007", &["~/.local/bin/git", "/usr/local/bin/git"]),
    target(
        "settings of agents",
        "T1546",
        &["~/.claude/settings.json", "~/.codex/config.toml", "~/.gemini/settings.json", "~/.cursor/mcp.json"],
    ),
    target("settings of editors", "T1546", &["~/.config/Code/User/settings.json", "~/.vimrc"]),
    target(
        "loader and libraries",
        "T1574.006",
        &["/etc/ld.so.preload", "/usr/lib/x86_64-linux-gnu/libc.so.6"],
    ),
    target("accounts and rights", "T1136.001", &["/etc/passwd", "/etc/sudoers.d/x"]),
    target(
        "name resolution and trust",
        "T1553.004",
        &["/etc/hosts", "/etc/resolv.conf", "/usr/local/share/ca-certificates/x.crt"],
    ),
    target("kernel settings", "T1611", &["/proc/sys/kernel/core_pattern"]),
    target("block devices", "T1561", &["/dev/sda", "/dev/vda"]),
];

/// To be connected to: as good as another user, or root.
pub const SOCKETS: &[Target] = &[
    target(
        "container engines",
        "T1611",
        &[
            "/run/docker.sock",
            "/var/run/docker.sock",
            "/run/podman/podman.sock",
            "/run/containerd/containerd.sock",
        ],
    ),
    target("systemd", "T1543.002", &["/run/systemd/private", "/run/user/1000/systemd/private"]),
    target("system bus", "T1543.002", &["/run/dbus/system_bus_socket"]),
    target("session bus", "T1559", &["/run/user/1000/bus"]),
    target("key agents", "T1563.001", &["/tmp/ssh-XXXXXXabcd/agent.1", "/run/user/1000/gnupg/S.gpg-agent"]),
    target("terminals of others", "T1563", &["/tmp/tmux-1000/default", "/run/screen/S-user/1.pts"]),
    target(
        "the display",
        "T1056.001",
        &["/tmp/.X11-unix/X0", "@/tmp/.X11-unix/X0", "/run/user/1000/wayland-0"],
    ),
];

/// Privileges and kinds of sockets, by the words of `explain`.
pub const PRIVILEGES: &[Target] = &[
    target("gain rights by a program's mode", "T1548.001", &["privilege setuid"]),
    target("user namespaces", "T1611", &["privilege user-namespace"]),
    target("change mounts", "T1611", &["privilege mount", "capability sys_admin"]),
    target("kernel modules", "T1547.006", &["privilege module", "capability sys_module"]),
    target("load BPF programs", "T1014", &["privilege bpf", "capability bpf"]),
    target("trace other processes", "T1055.008", &["privilege ptrace", "capability sys_ptrace"]),
    target("signal other processes", "T1489", &["privilege signal"]),
    target("change the network", "T1562.004", &["capability net_admin"]),
    target("raw and packet sockets", "T1040", &["socket raw", "socket packet"]),
    target("read and write past permissions", "T1222.002", &["capability dac_override"]),
];
