//! `agent-monitor install` and `uninstall`: this binary, its systemd unit and the shipped profiles on a host.
//!
//! The shipped profiles lie untouched in `share/agent-monitor/policies`, where bases are looked up; what a host uses
//! is in `/etc`. What must stay true: a profile that somebody edited is never overwritten, and only removed by
//! `--purge`; a second install changes nothing.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;

use super::daemon::held;
use super::print;
use crate::exit::{Exit, Failed};
use crate::kernel::{self, Detached};
use crate::policy::load::DEFAULT_DIRECTORIES;
use crate::settings::DEFAULT_PINS;

const UNIT: &str = include_str!("../../packaging/agent-monitor.service");
const UNIT_PATH: &str = "/etc/systemd/system/agent-monitor.service";

/// The shipped profiles; whether a host uses it, or it only lies where bases are looked up. Those of single agents claim
/// what `coding-agent` claims, and two profiles in use can't: whoever wants one takes it in the other's place.
const SHIPPED: &[(&str, &str, bool)] = &[
    ("base.yaml", include_str!("../../../policies/base.yaml"), false),
    ("workbench.yaml", include_str!("../../../policies/workbench.yaml"), false),
    ("coding-agent.yaml", include_str!("../../../policies/coding-agent.yaml"), true),
    ("claude-code.yaml", include_str!("../../../policies/claude-code.yaml"), false),
    ("codex.yaml", include_str!("../../../policies/codex.yaml"), false),
    ("gemini-cli.yaml", include_str!("../../../policies/gemini-cli.yaml"), false),
    ("cursor.yaml", include_str!("../../../policies/cursor.yaml"), false),
    ("aider.yaml", include_str!("../../../policies/aider.yaml"), false),
    ("openhands.yaml", include_str!("../../../policies/openhands.yaml"), false),
    ("copilot-cli.yaml", include_str!("../../../policies/copilot-cli.yaml"), false),
    ("opencode.yaml", include_str!("../../../policies/opencode.yaml"), false),
    ("goose.yaml", include_str!("../../../policies/goose.yaml"), false),
];

#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// Where the binary goes: PREFIX/bin
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: PathBuf,
    /// Install below this directory, for images and tests; systemd is not told
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct UninstallArgs {
    /// The prefix of the installation
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: PathBuf,
    /// The directory of the installation
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The directory of the pins [default: /sys/fs/bpf/agent-monitor, if the installation is this host's]
    #[arg(long, value_name = "DIR", env = "AGENT_MONITOR_PINS")]
    pub pins: Option<PathBuf>,
    /// Remove edited profiles too
    #[arg(long)]
    pub purge: bool,
}

/// Where everything goes.
struct Places {
    root: PathBuf,
    /// Path of the binary on the installed host.
    binary: PathBuf,
}

impl Places {
    fn new(root: &Path, prefix: &Path) -> Self {
        Places { root: root.to_owned(), binary: prefix.join("bin/agent-monitor") }
    }

    /// A path of the installed host, below the root.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn used(&self, name: &str) -> PathBuf {
        self.at(DEFAULT_DIRECTORIES[0]).join(name)
    }

    fn shipped(&self, name: &str) -> PathBuf {
        self.at(DEFAULT_DIRECTORIES[1]).join(name)
    }

    fn unit(&self) -> String {
        UNIT.replace("@BINARY@", &self.binary.display().to_string())
    }

    /// Whether systemd runs this host, and the installation is for it.
    fn systemd(&self) -> bool {
        self.root == Path::new("/") && sd_notify::booted().unwrap_or(false)
    }
}

/// Installs and says what was done.
///
/// # Errors
/// When a file can't be written.
pub fn run(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let places = Places::new(&args.root, &args.prefix);
    let mut text = String::new();
    install_binary(&places, &mut text)?;
    for (name, shipped, used) in SHIPPED {
        install_profile(&places, name, shipped, *used, &mut text)?;
    }
    write(&places.at(UNIT_PATH), places.unit().as_bytes(), 0o644, &mut text)?;
    if places.systemd() {
        systemctl(&["daemon-reload"])?;
        text.push_str("next: edit the profile, then `systemctl enable --now agent-monitor`\n");
    } else {
        text.push_str(&format!("next: edit the profile, then run `{} daemon`\n", places.binary.display()));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn install_binary(places: &Places, text: &mut String) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this program's own file can't be found")?;
    let bytes = fs::read(&own).with_context(|| own.display().to_string())?;
    write(&places.at(&places.binary), &bytes, 0o755, text)
}

/// The pristine copy always, the used one unless it was edited or removed.
fn install_profile(
    places: &Places,
    name: &str,
    shipped: &str,
    used: bool,
    text: &mut String,
) -> anyhow::Result<()> {
    let (pristine, target) = (places.shipped(name), places.used(name));
    if used {
        let before = read(&pristine)?;
        let have = read(&target)?;
        let edited =
            have.as_ref().filter(|have| *have != shipped.as_bytes() && before.as_ref() != Some(have));
        if have.is_none() && before.is_some() {
            // `init` takes it away where others claim its agents; two that do would not load.
            text.push_str(&format!("left out {}: it was removed\n", target.display()));
        } else if edited.is_some() {
            text.push_str(&format!("kept {}: it was edited\n", target.display()));
        } else {
            write(&target, shipped.as_bytes(), 0o644, text)?;
        }
    }
    write(&pristine, shipped.as_bytes(), 0o644, text)
}

/// Uninstalls and says what was done.
///
/// # Errors
/// When a file can't be removed.
pub fn run_uninstall(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let places = Places::new(&args.root, &args.prefix);
    let mut text = String::new();
    if places.systemd() && places.at(UNIT_PATH).exists() {
        systemctl(&["disable", "--now", "agent-monitor.service"])?;
    }
    // A stopped service leaves them in force.
    let own = (args.root == Path::new("/")).then_some(Path::new(DEFAULT_PINS));
    if let Some(pins) = args.pins.as_deref().or(own) {
        match kernel::detach(pins)? {
            Detached::Nothing => {}
            Detached::All => text.push_str(&format!("removed what was pinned in {}\n", pins.display())),
            Detached::Held(programs) => return Err(held(programs, pins)),
        }
    }
    for (name, ..) in SHIPPED {
        let (pristine, target) = (places.shipped(name), places.used(name));
        let have = read(&target)?;
        if have.is_some() && !args.purge && have != read(&pristine)? {
            text.push_str(&format!("kept {}: it was edited (--purge removes it)\n", target.display()));
        } else {
            remove(&target, &mut text)?;
        }
        remove(&pristine, &mut text)?;
    }
    remove(&places.at(UNIT_PATH), &mut text)?;
    remove(&places.at(&places.binary), &mut text)?;
    for directory in DEFAULT_DIRECTORIES.map(|directory| places.at(directory)) {
        // The directory and the one above it, where nothing of somebody else's is left in them.
        for empty in directory.ancestors().take(2) {
            let _ = fs::remove_dir(empty);
        }
    }
    if places.systemd() {
        systemctl(&["daemon-reload"])?;
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused(path, error)),
    }
}

/// Writes beside and renames, so that a running binary or a reader sees the old file or the new one.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32, text: &mut String) -> anyhow::Result<()> {
    if read(path)?.as_deref() == Some(bytes) {
        return Ok(());
    }
    let all = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let beside = path.with_file_name(name);
        fs::write(&beside, bytes)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
        fs::rename(&beside, path)
    };
    all().map_err(|error| refused(path, error))?;
    text.push_str(&format!("installed {}\n", path.display()));
    Ok(())
}

pub(super) fn remove(path: &Path, text: &mut String) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => text.push_str(&format!("removed {}\n", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(path, error)),
    }
    Ok(())
}

pub(super) fn refused(path: &Path, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failed::error(Exit::NotPermitted, format!("{}: {error}; run this as root", path.display()))
        }
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    }
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("systemctl").args(arguments).status().context("systemctl")?;
    anyhow::ensure!(status.success(), "systemctl {} failed: {status}", arguments.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places::new(root, Path::new("/usr/local"))
    }

    fn install(root: &Path) {
        run(&InstallArgs { prefix: "/usr/local".into(), root: root.to_owned() }).unwrap();
    }

    fn uninstall(root: &Path, purge: bool) {
        let pins = Some(root.join("pins"));
        run_uninstall(&UninstallArgs { prefix: "/usr/local".into(), root: root.to_owned(), pins, purge })
            .unwrap();
    }

    fn files(root: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(files(&entry.path())),
                false => found.push(entry.path()),
            }
        }
        found
    }

    #[test]
    fn what_was_installed_is_uninstalled() {
        let root = tempfile::tempdir().unwrap();
        install(root.path());
        let places = places(root.path());
        let unit = fs::read_to_string(places.at(UNIT_PATH)).unwrap();
        assert!(unit.contains("ExecStart=/usr/local/bin/agent-monitor daemon"));
        let mode = fs::metadata(places.at("/usr/local/bin/agent-monitor")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        uninstall(root.path(), false);
        assert_eq!(files(root.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn every_profile_of_the_source_is_shipped_and_one_is_in_use() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let mut there: Vec<PathBuf> = files(&source);
        there.retain(|file| file.parent() == Some(&source));
        let mut shipped: Vec<PathBuf> = SHIPPED.iter().map(|(name, ..)| source.join(name)).collect();
        shipped.sort();
        there.sort();
        assert_eq!(there, shipped);
        let root = tempfile::tempdir().unwrap();
        install(root.path());
        let used = places(root.path()).at(DEFAULT_DIRECTORIES[0]);
        assert_eq!(files(&used), [used.join("coding-agent.yaml")]);
    }

    #[test]
    fn edits_survive_until_they_are_purged() {
        let root = tempfile::tempdir().unwrap();
        install(root.path());
        let used = places(root.path()).used("coding-agent.yaml");
        fs::write(&used, "# mine\n").unwrap();
        install(root.path());
        assert_eq!(fs::read_to_string(&used).unwrap(), "# mine\n");
        uninstall(root.path(), false);
        assert_eq!(files(root.path()), std::slice::from_ref(&used));
        install(root.path());
        assert_eq!(fs::read_to_string(&used).unwrap(), "# mine\n");
        uninstall(root.path(), true);
        assert_eq!(files(root.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_profile_that_was_removed_stays_away() {
        let root = tempfile::tempdir().unwrap();
        install(root.path());
        let used = places(root.path()).used("coding-agent.yaml");
        fs::remove_file(&used).unwrap();
        install(root.path());
        assert!(!used.exists());
        uninstall(root.path(), false);
        install(root.path());
        assert!(used.exists());
    }

    #[test]
    fn an_unedited_profile_follows_the_shipped_one() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let older = "# shipped before\n";
        for path in [places.used("coding-agent.yaml"), places.shipped("coding-agent.yaml")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, older).unwrap();
        }
        install(root.path());
        let (_, shipped, _) = SHIPPED.iter().find(|(name, ..)| *name == "coding-agent.yaml").unwrap();
        assert_eq!(fs::read_to_string(places.used("coding-agent.yaml")).unwrap(), *shipped);
    }
}
