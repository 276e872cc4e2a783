//! The root file system of a guest that boots with systemd: Debian 12's own packages, unpacked and cached, and on top of
//! them the programs under test with the service that runs them. Called by [`super::run`] for `--systemd`.
//!
//! What must stay true: nothing in it is the host's but the programs under test; no maintainer script runs, so the host
//! needs neither debootstrap nor a chroot; a cached root needs no network.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::debian::Apt;
use super::guest::{self, Run};
use super::{archive, qemu};
use crate::{command, places};

/// Debian 12, the oldest systemd that the unit is for; its security updates as a host has them.
const RELEASES: &[&str] = &["bookworm", "bookworm-security"];
/// With what they depend on: 21 MB to download, 46 MB in memory.
const PACKAGES: &[&str] = &["systemd-sysv", "dbus", "dash", "coreutils"];
/// Nobody reads these in a guest that lives for a minute.
const LEFT_OUT: &[&str] =
    &["./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/lib/x86_64-linux-gnu/gconv/*"];

/// Beside root and nobody, whom the packages' own scripts would make.
const BUS_USER: &str = "messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n";
const BUS_GROUP: &str = "messagebus:x:100:\n";

/// No logins, no first boot, and what fails is shown on the console.
pub const COMMAND_LINE: &str =
    "systemd.getty_auto=no systemd.condition-needs-update=no systemd.show_status=yes";

const INIT: &str = include_str!("systemd/init.sh");
const SERVICE: &str = include_str!("systemd/guest.service");
const RUN: &str = include_str!("systemd/run.sh");

/// Packs the root of a guest into `packed`, by way of the directory `staging`.
pub fn pack(run: &Run<'_>, staging: &Path, packed: &Path) -> Result<()> {
    let base = base()?;
    guest::put(&guest::program_of_host("busybox")?, &staging.join("guest/busybox"))?;
    guest::put_stripped(&run.programs.test, &staging.join("guest/program"))?;
    guest::put_stripped(&run.programs.product, &staging.join("guest/agent-monitor"))?;
    for (path, text, mode) in [
        ("init", INIT, 0o755),
        ("guest/run", RUN, 0o755),
        ("guest/environment", guest::environment(run).as_str(), 0o644),
        ("guest/test", guest::test(run).as_str(), 0o755),
        ("etc/systemd/system/guest.service", SERVICE, 0o644),
        ("etc/passwd", &[guest::PASSWD, BUS_USER].concat(), 0o644),
        ("etc/group", &[guest::GROUP, BUS_GROUP].concat(), 0o644),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n", 0o644),
        ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n", 0o644),
        ("etc/hostname", "guest\n", 0o644),
        ("etc/os-release", "NAME=guest\nID=debian\nVERSION_ID=12\n", 0o644),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
    ] {
        let path = staging.join(path);
        guest::make_parent(&path)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let wanted = staging.join("etc/systemd/system/multi-user.target.wants/guest.service");
    guest::make_parent(&wanted)?;
    symlink("/etc/systemd/system/guest.service", &wanted)?;
    symlink("/lib/systemd/system/multi-user.target", staging.join("etc/systemd/system/default.target"))?;
    let own = staging.with_extension("own.cpio");
    archive::pack(staging, &own)?;
    qemu::join(&[&base, &own], packed)
}

/// Debian's part, made when it is missing or the lists above have changed.
fn base() -> Result<PathBuf> {
    let _lock = places::lock_cache()?;
    let home = places::cache()?.join("systemd");
    let (packed, stamp) = (home.join("base.cpio"), home.join("base.list"));
    let list = [RELEASES, PACKAGES, LEFT_OUT].concat().join("\n");
    if packed.is_file() && fs::read_to_string(&stamp).is_ok_and(|packed| packed == list) {
        return Ok(packed);
    }
    eprintln!("systemd: fetching Debian's packages into {}", home.display());
    let apt = Apt::open("systemd/apt", RELEASES)?;
    // An apt that knows no installed package resolves the whole tree.
    let mut download = apt.program("apt-get");
    download.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(PACKAGES);
    apt.fetch(&mut download)?;

    let root = home.join("root");
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        symlink(Path::new("usr").join(directory), root.join(directory))?;
    }
    for directory in ["dev", "proc", "sys", "run", "tmp", "root", "home", "mnt", "var/log", "var/tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for directory in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o1777))?;
    }
    let archives = apt.archives();
    for entry in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            unpack(&file, &root)?;
        }
    }
    archive::pack(&root, &packed)?;
    fs::remove_dir_all(&root)?;
    command::output(apt.program("apt-get").arg("clean"))?;
    fs::write(&stamp, list)?;
    Ok(packed)
}

/// As `dpkg -x`, which would put directories where `/bin` and its like are links into `/usr`.
fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("`dpkg-deb` did not start")?;
    let from = dpkg.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--directory"]).arg(root).stdin(from);
    tar.args(LEFT_OUT.iter().map(|pattern| format!("--exclude={pattern}")));
    let status = tar.status().context("`tar` did not start")?;
    let read = dpkg.wait()?;
    ensure!(status.success() && read.success(), "{} can't be unpacked ({read}, {status})", package.display());
    Ok(())
}
