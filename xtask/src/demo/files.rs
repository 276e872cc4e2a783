//! The files of the demo: a home of its own with a key, a project, and the profile that grants the project.
//!
//! Nothing of the real home is touched: that the attempts work without the monitor must not cost anybody a key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Names the home to the agent.
pub const HOME: &str = "AGENT_MONITOR_DEMO_HOME";

/// What the attempts are about, below the home.
pub const GRANTED: &str = "project/README";
pub const KEY: &str = ".ssh/id_ed25519";
pub const STARTUP: &str = ".bashrc";
pub const DROPPED: &str = "dropped";

/// The name of the profile.
pub const PROFILE: &str = "demo";

/// Makes home and project below `directory`; the home.
pub fn plant(directory: &Path) -> Result<PathBuf> {
    let home = directory.join("home");
    for path in [home.join(".ssh"), home.join("project")] {
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    for (name, text) in [(GRANTED, "A project.\n"), (KEY, "no real key\n"), (STARTUP, "# no real file\n")] {
        fs::write(home.join(name), text)?;
    }
    // Any program will do; that it was dropped by the agent is what matters.
    fs::copy("/bin/true", home.join(DROPPED)).context("cannot copy /bin/true")?;
    fs::set_permissions(home.join(DROPPED), fs::Permissions::from_mode(0o755))?;
    home.canonicalize().context("the home is gone")
}

/// The profile: the shipped one, where the project lies, and what the home holds: as it is no user's, `~` is not about it.
/// `agent`: the program that it governs.
pub fn profile(home: &Path, agent: &Path) -> String {
    let (home, agent) = (home.display(), agent.display());
    format!(
        "\
version: 1
name: {PROFILE}
extends: [coding-agent]
workspace: \"{home}/project\"
files:
  read:
    - \"{agent}\"
  deny:
    - \"{home}/.ssh/**\"
exec:
  allow:
    - \"{agent}\"
"
    )
}

/// Where a line of the profile is: what its rules say of an attempt that no event tells of.
pub fn line(profile: &str, begins: &str) -> Option<usize> {
    profile.lines().position(|line| line.contains(begins)).map(|index| index + 1)
}
