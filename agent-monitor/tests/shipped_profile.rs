//! What the shipped profile of a coding agent says of paths, and what it costs.

#![expect(clippy::unwrap_used, reason = "what these tests prepare either works or fails the test")]

use std::path::{Path, PathBuf};

use agent_monitor::policy::{ResolvedProfile, compile, load_profile};
use agent_monitor_common::automaton::answer;
use agent_monitor_common::image::{Class, PLAIN_CLASS, header};
use agent_monitor_common::path::{Right, decide_path};

fn profile() -> ResolvedProfile {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut profile = load_profile(&policies.join("coding-agent.yaml"), &[]).unwrap().profile;
    profile.homes = ["/root", "/home/dev", "/var/www"].map(PathBuf::from).to_vec();
    profile
}

#[test]
fn paths_are_judged_as_agents_and_their_users_need() {
    let profile = profile();
    let image = compile::profile(&profile).unwrap();
    // `None`: a program in no set.
    let class = |set: Option<&str>| {
        let program = match set {
            None => "/usr/bin/python3.11",
            Some("npm") => "/usr/bin/node",
            Some("cargo") => "/home/dev/.rustup/toolchains/stable/bin/cargo",
            Some(_) => "/usr/bin/docker",
        };
        let start = u32::try_from(image.words[header::START_EXE]).unwrap();
        Class::new(PLAIN_CLASS + answer(&image, start, program.as_bytes()))
    };
    let allowed = |set: Option<&str>, right: Right, path: &str| {
        decide_path(&image, class(set), path.as_bytes(), right as u32).allowed()
    };

    for path in [
        "/home/dev/src/project/main.rs",
        "/home/dev/src/project",
        "/home/dev/src/project/.git/config",
        "/home/dev/src/project/.git/hooks/pre-commit.sample",
        "/home/dev/.claude",
        "/home/dev/.claude.json",
        "/home/dev/.cache/pip/http/x",
        "/home/dev/.cargo",
        "/home/dev/.cargo/registry/index/x",
        "/home/dev/go",
        "/home/dev/go/pkg/mod/cache",
        "/proc/4711/task/4712/mem",
        "/tmp/x",
    ] {
        assert!(allowed(None, Right::Write, path), "{path} can't be written");
    }
    for path in [
        "/home/dev/src/project/.git/hooks/pre-commit",
        "/home/dev/src/project/.claude/settings.json",
        "/home/dev/src/project/.claude/commands",
        "/home/dev/src/project/.vscode/tasks.json",
        "/home/dev/.claude/settings.local.json",
        "/home/dev/.codex/config.toml",
        "/home/dev/.bashrc",
        "/home/dev/.cargo/bin/cargo",
        "/home/dev/.local/bin/ls",
        "/home/dev/.config/git/config",
        "/home/dev/.gitconfig",
        "/home/dev/Documents/thesis.txt",
        "/root/.ssh/authorized_keys",
        "/etc/hosts",
        "/usr/bin/ls",
        "/proc/sys/kernel/core_pattern",
        "/sys/fs/cgroup/x/cgroup.procs",
    ] {
        assert!(!allowed(None, Right::Write, path), "{path} can be written");
    }
    for path in
        ["/etc/passwd", "/usr/lib/x.so", "/home/dev/.ssh/config", "/home/dev/.gitconfig", "/proc/1/stat"]
    {
        assert!(allowed(None, Right::Read, path), "{path} can't be read");
    }
    for path in [
        "/etc/shadow",
        "/proc/kcore",
        "/home/dev/.ssh/id_ed25519",
        "/home/dev/.aws/credentials",
        "/home/dev/.config/gh/hosts.yml",
        "/home/dev/.bash_history",
        "/var/www/.netrc",
        "/home/dev/Documents/thesis.txt",
        "/dev/vda",
    ] {
        assert!(!allowed(None, Right::Read, path), "{path} can be read");
    }
    // Each by its own program and by no other.
    for (set, path) in [
        ("npm", "/home/dev/.npmrc"),
        ("cargo", "/home/dev/.cargo/credentials.toml"),
        ("docker", "/home/dev/.docker/config.json"),
    ] {
        for other in [None, Some("npm"), Some("cargo"), Some("docker")] {
            assert_eq!(allowed(other, Right::Read, path), other == Some(set), "{path} by {other:?}");
        }
    }
    for path in ["/usr/bin/git", "/home/dev/src/project/target/debug/x", "/tmp/go-build1/x.test"] {
        assert!(allowed(None, Right::Execute, path), "{path} can't be executed");
    }
    for path in ["/usr/bin/sudo", "/bin/su", "/usr/bin/nsenter", "/usr/bin/crontab", "/tmp/x", "/dev/shm/x"] {
        assert!(!allowed(None, Right::Execute, path), "{path} can be executed");
    }
    for path in ["/run/systemd/journal/dev-log", "/run/systemd/userdb/io.systemd.Multiplexer"] {
        assert!(allowed(None, Right::Connect, path), "{path} can't be connected to");
    }
    for path in [
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/nscd/socket",
        "/run/avahi-daemon/socket",
        "/run/docker.sock",
        "/run/user/1000/bus",
        "/run/dbus/system_bus_socket",
        "/tmp/ssh-XXXX/agent.1",
        "/tmp/tmux-1000/default",
        "@/tmp/.X11-unix/X0",
    ] {
        assert!(!allowed(None, Right::Connect, path), "{path} can be connected to");
    }
}

#[test]
fn it_is_small_in_the_kernel() {
    let image = compile::profile(&profile()).unwrap();
    let kibibytes = size_of_val(image.words.as_slice()) / 1024;
    assert!(kibibytes < 512, "{kibibytes} KiB");
}
