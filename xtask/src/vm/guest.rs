//! The root file system of a guest: busybox, the programs under test with the libraries they ask for, the policies, and
//! the script that starts it all ([`INIT`]). Called by [`super::run`].
//!
//! What must stay true: the test binary in the guest is the one that runs on the host, unchanged but for its debug
//! sections; nothing else of the host gets in.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::archive;
use crate::{command, places};

const INIT: &str = include_str!("init.sh");

/// Programs of the host that the guest needs. The kernel calls modprobe by this path. busybox's own shell would run its
/// own `ip`, which can't make devices, wherever the other one lies.
const FROM_HOST: &[(&str, &str)] =
    &[("modprobe", "/sbin/modprobe"), ("ip", "/usr/local/sbin/ip"), ("dash", "/bin/sh")];

/// Who exists in a guest: root, and one without any right.
pub const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
pub const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Programs of the host that run inside.
pub struct Programs {
    pub test: PathBuf,
    /// The `agent-monitor` binary, which tests find by `AGENT_MONITOR_BIN`.
    pub product: PathBuf,
}

/// What one guest runs.
pub struct Run<'a> {
    pub programs: &'a Programs,
    pub arguments: &'a [String],
    /// The series, told to the tests as `AGENT_MONITOR_VM`.
    pub series: &'a str,
    pub limit: Duration,
}

/// Packs the root of a guest into `archive`, by way of the directory `staging`.
pub fn pack(run: &Run<'_>, staging: &Path, packed: &Path) -> Result<()> {
    let programs = run.programs;
    let mut libraries = BTreeSet::new();
    put(&program_of_host("busybox")?, &staging.join("bin/busybox"))?;
    for (name, place) in FROM_HOST {
        let program = program_of_host(name)?;
        put(&program, &staging.join(place.trim_start_matches('/')))?;
        libraries.extend(libraries_of(&program)?);
    }
    for (program, name) in [(&programs.test, "guest/program"), (&programs.product, "guest/agent-monitor")] {
        put_stripped(program, &staging.join(name))?;
        libraries.extend(libraries_of(program)?);
    }
    for library in libraries {
        put(&library, &staging.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    let policies = places::workspace().join("policies");
    if policies.is_dir() {
        put_tree(&policies, &staging.join("guest/policies"))?;
    }

    for (path, text, mode) in [
        ("init", INIT, 0o755),
        ("guest/environment", environment(run).as_str(), 0o644),
        ("guest/test", test(run).as_str(), 0o755),
        ("etc/passwd", PASSWD, 0o644),
        ("etc/group", GROUP, 0o644),
        ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n", 0o644),
    ] {
        let path = staging.join(path);
        make_parent(&path)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    archive::pack(staging, packed)
}

/// What the scripts of a guest read before the test starts.
pub fn environment(run: &Run<'_>) -> String {
    format!(
        "export HOME=/root LC_ALL=C.UTF-8 NO_COLOR=1 RUST_BACKTRACE=1\n\
         export AGENT_MONITOR_BIN=/guest/agent-monitor AGENT_MONITOR_POLICIES=/guest/policies\n\
         export AGENT_MONITOR_VM={}\n\
         GUEST_SECONDS={}\n",
        quoted(run.series),
        run.limit.as_secs()
    )
}

/// The script that becomes the test.
pub fn test(run: &Run<'_>) -> String {
    let words: String = run.arguments.iter().map(|argument| format!(" {}", quoted(argument))).collect();
    format!("exec /guest/program{words}\n")
}

pub fn program_of_host(name: &str) -> Result<PathBuf> {
    let directories = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];
    directories
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("`{name}` is not on this host: run `cargo xtask setup`"))
}

/// The libraries and the loader that `program` asks for, by the paths it will look at.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output =
        Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("`ldd` did not start")?;
    // Not successful means statically linked: nothing is needed.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

pub fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

pub fn put(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Unpacking a hundred megabytes of debug sections takes an emulated guest longer than most tests.
pub fn put_stripped(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(to).arg(from);
    if command::output(&mut strip).is_err() {
        // A script, or a format that strip doesn't know.
        put(from, to)?;
    }
    Ok(())
}

pub fn put_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            put_tree(&entry.path(), &target)?;
        } else {
            put(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// One word of a shell script, whatever it holds.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::quoted;

    #[test]
    fn a_quoted_word_reaches_the_program_as_it_is() {
        let word = "it's $HOME; `x` \"y\"\n*";
        let output =
            Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
