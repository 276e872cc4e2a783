//! Confinement: Landlock and seccomp for a command that `run` starts where no BPF LSM enforces its profile.
//!
//! Called by `cli::run` and, for its last step, by `agent::launch`. The daemon hands over the image that is in force;
//! the rules are made of it and of the files that exist *before* the label, because the label may take the right to
//! look at them, and put in force after it by this very process, right before it becomes the command. So between label
//! and restriction nothing of the agent's runs. What must stay true: no step that fails leaves the command to run with
//! less.

use std::io;

use agent_monitor_common::image::{Class, HAS_PRIVILEGES, HAS_UNIX, Settings, class, field, header};

use super::capabilities;
use super::landlock::{self, Bounds, LandlockError, Made, Note, Plan};
use super::seccomp::{self, Filters, SeccompError};

/// Why a command can't be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("new privileges can't be given up: {0}")]
    NewPrivileges(io::Error),
    #[error("capabilities can't be given up: {0}")]
    Capabilities(io::Error),
}

/// Made, not in force.
#[derive(Debug)]
pub struct Confinement {
    plan: Plan,
    /// `None`: the profile says nothing that Landlock could enforce.
    landlock: Option<Made>,
    filters: Filters,
    /// Capabilities to keep; `None`: the profile says nothing of them.
    capabilities: Option<u64>,
    /// The profile has rules about Unix sockets, for which nothing stands in.
    unix: bool,
}

/// Makes the rules for an image.
///
/// # Errors
/// Where this kernel can't confine anything.
pub fn prepare(image: &[u64]) -> Result<Confinement, ConfineError> {
    let plan = landlock::plan(image, Bounds::default());
    let made = if plan.says_nothing() { None } else { Some(plan.make()?) };
    let settings = Settings::from_word(field(image, header::SETTINGS));
    let capabilities =
        (settings.flags & HAS_PRIVILEGES != 0).then(|| Class::UNKNOWN.field(image, class::CAPABILITIES));
    let unix = settings.flags & HAS_UNIX != 0;
    Ok(Confinement { plan, landlock: made, filters: seccomp::filters(image)?, capabilities, unix })
}

impl Confinement {
    /// Puts everything in force for this process.
    ///
    /// # Errors
    /// When the kernel refuses; the command must not run then.
    pub fn enforce(self) -> Result<(), ConfineError> {
        rustix::thread::set_no_new_privs(true).map_err(|errno| ConfineError::NewPrivileges(errno.into()))?;
        if let Some(made) = self.landlock {
            made.enforce()?;
        }
        if let Some(granted) = self.capabilities {
            capabilities::keep_only(granted).map_err(ConfineError::Capabilities)?;
        }
        Ok(self.filters.enforce()?)
    }

    /// What the person who starts the command should know, in a few lines.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let notes = &self.plan.notes;
        let mut tell = |of: &dyn Fn(&Note) -> bool, what: &str| {
            let found: Vec<_> = notes.iter().filter(|note| of(note)).collect();
            let Some(first) = found.first() else { return };
            let more = match found.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            lines.push(format!("{what}: {}{more}", landlock::shown(first.path())));
        };
        tell(
            &|note| matches!(note, Note::Later { .. }),
            "denied names that are made later are not denied in",
        );
        tell(&|note| matches!(note, Note::Names { .. }), "denied directories can be listed (not read) below");
        tell(
            &|note| matches!(note, Note::Around { .. }),
            "nothing can be made or removed, beside what is denied, in",
        );
        tell(
            &|note| matches!(note, Note::Unexamined { .. }),
            "not granted, because it was not looked through",
        );
        tell(&|note| matches!(note, Note::Unreadable { .. }), "not executable, because it may not be read");
        if self.plan.more_notes > 0 {
            lines.push(format!("and {} more of these", self.plan.more_notes));
        }
        if self.unix {
            lines.push("Unix sockets are not judged: every one can be connected to".to_owned());
        }
        let left_out = self.landlock.as_ref().map_or(0, |made| made.left_out.len());
        if left_out > 0 {
            lines.push(format!("{left_out} objects changed meanwhile and are not granted"));
        }
        lines
    }
}
