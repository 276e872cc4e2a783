//! How a command that asks what a profile says finds that profile.

use std::path::{Path, PathBuf};

use crate::control::client;
use crate::control::protocol::{Op, Status};
use crate::exit::{Exit, Failed};
use crate::policy::judge::Judge;
use crate::policy::load::{DEFAULT_DIRECTORIES, EXTENSIONS};
use crate::policy::protected::Protected;
use crate::policy::{Loaded, load_profile};

use super::colours;

/// Where bases, and profiles that are given by name, are looked up.
#[derive(Clone, Debug, clap::Args)]
pub struct BasesArgs {
    /// Where bases and profiles given by name are looked up; may be given several times
    #[arg(long = "bases", value_name = "DIR", default_values = DEFAULT_DIRECTORIES)]
    pub bases: Vec<PathBuf>,
}

impl BasesArgs {
    /// The file of a profile that was given by its file or its name.
    ///
    /// # Errors
    /// Where there is none, with where it was looked for.
    pub fn find(&self, profile: &str) -> anyhow::Result<PathBuf> {
        let given = Path::new(profile);
        if given.is_file() || profile.contains('/') {
            return Ok(given.to_owned());
        }
        let candidates = self.bases.iter().flat_map(|directory| {
            EXTENSIONS.map(|extension| directory.join(format!("{profile}.{extension}")))
        });
        candidates.into_iter().find(|file| file.is_file()).ok_or_else(|| {
            let places: Vec<String> = self.bases.iter().map(|place| place.display().to_string()).collect();
            let message = format!(
                "there is no profile `{profile}`: no such file, and no `{profile}.yaml` in {}",
                places.join(", ")
            );
            Failed::error(Exit::Usage, message)
        })
    }

    /// The profile, with what is odd about it.
    ///
    /// # Errors
    /// As [`BasesArgs::find`]; a profile with mistakes, which are all told.
    pub fn load(&self, profile: &str) -> anyhow::Result<Loaded> {
        let file = self.find(profile)?;
        load_profile(&file, &self.bases).map_err(|errors| {
            let told = errors.render(colours(&std::io::stderr()));
            Failed::error(Exit::BadProfile, format!("{} can't be used\n{told}", file.display()))
        })
    }

    /// The profile, ready to be asked. What a running daemon protects of itself is laid under it, as the daemon does.
    ///
    /// # Errors
    /// As [`BasesArgs::load`].
    pub fn judge(&self, profile: &str, daemon: Option<&Status>) -> anyhow::Result<Judge> {
        let mut profile = self.load(profile)?.profile;
        if let Some(status) = daemon {
            profile.protect(&Protected::described(status.protected.iter().map(String::as_str)));
        }
        Judge::new(profile).map_err(|error| Failed::error(Exit::BadProfile, error.to_string()))
    }
}

/// The running daemon, where one answers this caller.
#[must_use]
pub fn daemon(socket: &Path) -> Option<Status> {
    client::ask::<Status>(socket, Op::Status).ok()
}
