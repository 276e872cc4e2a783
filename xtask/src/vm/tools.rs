//! The guest in which agents run real tools: Debian 12 on a disk of its own, with what a developer's machine has. Called
//! by [`super::run`] for `--attacks`.
//!
//! The disk is made once and is never written to: what a run writes goes to a file that QEMU forgets. The kernel's first
//! root only mounts the disk, puts the programs under test beside it, and steps aside.
//!
//! What must stay true: nothing on the disk is the host's; agents find the tools where Debian puts them, on a file system
//! as real hosts have it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::guest::{self, Run};
use super::rootfs::Recipe;
use super::{archive, qemu};
use crate::command;

/// 250 MB to download, 1.7 GB on the disk. The languages' documentation, translations and tests are most of the rest.
const DISK: Recipe = Recipe {
    name: "tools",
    releases: &["bookworm", "bookworm-security"],
    packages: &[
        // What any Debian has.
        "bash",
        "coreutils",
        "dash",
        "debianutils",
        "diffutils",
        "findutils",
        "gawk",
        "grep",
        "gzip",
        "hostname",
        "kmod",
        "libc-bin",
        "login",
        "mount",
        "procps",
        "psmisc",
        "sed",
        "tar",
        "util-linux",
        // What agents run.
        "bubblewrap",
        "curl",
        "docker.io",
        "file",
        "git",
        "less",
        "make",
        "openssh-client",
        "openssl",
        "ripgrep",
        "wget",
        "xxd",
        // Languages.
        "cargo",
        "gcc",
        "golang-go",
        "libc6-dev",
        "nodejs",
        "npm",
        "python3",
        "python3-pip",
        "python3-pytest",
        "python3-venv",
        // What attackers reach for, beside all that.
        "acl",
        "attr",
        "busybox",
        "cron",
        "gdb",
        "iproute2",
        "iputils-ping",
        "libcap2-bin",
        "nftables",
        "socat",
        "strace",
        "sudo",
        "tmux",
    ],
    left_out: &[
        "./usr/share/doc/*",
        "./usr/share/man/*",
        "./usr/share/locale/*",
        "./usr/share/icons/*",
        "./usr/share/fonts/*",
        // Of Docker the client alone: a listener stands for the daemon.
        "./usr/bin/containerd*",
        "./usr/bin/ctr",
        "./usr/sbin/docker*",
        "./usr/sbin/runc",
    ],
    more: &[PASSWD, GROUP, SIZE, PYTHON],
};

/// Of the file; what is not written takes no room.
const SIZE: &str = "3G";

/// Beside root and nobody: the developer whose agent it is, and somebody else.
const PASSWD: &str =
    "dev:x:1000:1000:dev:/home/dev:/bin/bash\nother:x:1001:1001:other:/home/other:/bin/bash\n";
const GROUP: &str = "dev:x:1000:\nother:x:1001:\ncrontab:x:101:\ndocker:x:102:dev\n";
const CRONTAB: u32 = 101;

/// Compiles what Debian ships of Python as its packages' scripts do: else each start compiles, and tries to keep it.
const PYTHON: &str = "python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.11 /usr/share/gdb";

/// What packages' scripts choose by `update-alternatives`.
const ALTERNATIVES: &[(&str, &str)] =
    &[("awk", "gawk"), ("cc", "gcc"), ("pager", "less"), ("which", "which.debianutils")];

const FIRST: &str = include_str!("tools/first.sh");
const SECOND: &str = include_str!("tools/second.sh");

/// Makes the disk where it is missing.
pub fn disk() -> Result<PathBuf> {
    DISK.packed("disk.ext4", |root, disk| {
        finish(root)?;
        let mut make = Command::new("mkfs.ext4");
        // Nothing on it is worth a journal.
        make.args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d"]);
        command::output(make.arg(root).arg(disk).arg(SIZE))
            .context("the disk can't be made (mkfs.ext4 is in e2fsprogs)")?;
        Ok(())
    })
}

/// What the packages' own scripts would do.
fn finish(root: &Path) -> Result<()> {
    for (name, program) in ALTERNATIVES {
        let link = root.join("usr/bin").join(name);
        let _ = fs::remove_file(&link);
        symlink(program, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    for (path, text) in [
        ("etc/passwd", [guest::PASSWD, PASSWD].concat()),
        ("etc/group", [guest::GROUP, GROUP].concat()),
        ("etc/shadow", "root:*:19000:0:99999:7:::\ndev:*:19000:0:99999:7:::\n".to_owned()),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n".to_owned()),
        ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n".to_owned()),
        ("etc/hostname", "guest\n".to_owned()),
        ("etc/resolv.conf", "nameserver 127.0.0.53\n".to_owned()),
    ] {
        fs::write(root.join(path), text)?;
    }
    fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o640))?;
    let (crontab, spool) = (root.join("usr/bin/crontab"), root.join("var/spool/cron/crontabs"));
    fs::create_dir_all(&spool)?;
    for (path, mode) in [(&crontab, 0o2755), (&spool, 0o1730)] {
        chown(path, Some(0), Some(CRONTAB))
            .with_context(|| format!("cannot give {} to its group (this needs root)", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    for directory in ["guest", "home/dev", "home/other", "usr/local/bin", "usr/local/share"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for (home, owner) in [("home/dev", 1000), ("home/other", 1001)] {
        chown(root.join(home), Some(owner), Some(owner))?;
    }
    command::output(Command::new("ldconfig").arg("-r").arg(root))?;
    // Some packages hold templates and old syntax that no Python reads: those stay as they are.
    let compiled = Command::new("chroot").arg(root).args(["sh", "-c", PYTHON]).output().context("chroot")?;
    let kept = root.join("usr/lib/python3.11/__pycache__/os.cpython-311.pyc");
    ensure!(kept.is_file(), "Python is not compiled: {}", String::from_utf8_lossy(&compiled.stderr));
    Ok(())
}

/// Packs the first root into `packed`, by way of the directory `staging`.
pub fn pack(run: &Run<'_>, modules: &Path, staging: &Path, packed: &Path) -> Result<()> {
    guest::put(&guest::program_of_host("busybox")?, &staging.join("bin/busybox"))?;
    guest::put(&guest::program_of_host("busybox")?, &staging.join("guest/busybox"))?;
    guest::put_stripped(&run.programs.test, &staging.join("guest/program"))?;
    guest::put_stripped(&run.programs.product, &staging.join("guest/agent-monitor"))?;
    for profiles in ["policies", "tests/attacks/profiles"] {
        guest::put_tree(&crate::places::workspace().join(profiles), &staging.join("guest/policies"))?;
    }
    for (path, text) in [
        ("init", FIRST),
        ("guest/second", SECOND),
        ("guest/environment", guest::environment(run).as_str()),
        ("guest/test", guest::test(run).as_str()),
    ] {
        let path = staging.join(path);
        guest::make_parent(&path)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let own = staging.with_extension("own.cpio");
    archive::pack(staging, &own)?;
    qemu::join(&[modules, &own], packed)
}
