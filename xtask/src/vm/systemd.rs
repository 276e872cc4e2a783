//! The root file system of a guest that boots with systemd: Debian 12's own packages, unpacked and cached, and on top of
//! them the programs under test with the service that runs them. Called by [`super::run`] for `--systemd`.
//!
//! What must stay true: nothing in it is the host's but the programs under test.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;

use super::guest::{self, Run};
use super::rootfs::Recipe;
use super::{archive, qemu};

/// Debian 12, the oldest systemd that the unit is for; its security updates as a host has them. 21 MB to download, 46 MB
/// in memory. What is left out nobody reads in a guest that lives for a minute.
const BASE: Recipe = Recipe {
    name: "systemd",
    releases: &["bookworm", "bookworm-security"],
    packages: &["systemd-sysv", "dbus", "dash", "coreutils"],
    left_out: &[
        "./usr/share/doc/*",
        "./usr/share/man/*",
        "./usr/share/locale/*",
        "./usr/lib/x86_64-linux-gnu/gconv/*",
    ],
    more: &[],
};

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
    let base = BASE.packed("base.cpio", archive::pack)?;
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
