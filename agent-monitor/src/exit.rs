//! Exit codes, after sysexits(3), and the error that carries one to `main`.
//!
//! What must stay true: a script can tell a bad profile, a kernel that can't enforce and a missing privilege apart.

use std::fmt;
use std::process::ExitCode;

/// Why the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failure = 1,
    /// `EX_USAGE`.
    Usage = 64,
    /// `EX_DATAERR`: a profile has errors.
    BadProfile = 65,
    /// `EX_UNAVAILABLE`: this kernel can't enforce what is asked.
    CannotEnforce = 69,
    /// `EX_NOPERM`.
    NotPermitted = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error whose exit code is not 1.
#[derive(Debug)]
pub struct Failed {
    pub exit: Exit,
    /// For the person at the terminal: what is wrong, where, and the next step.
    pub message: String,
}

impl Failed {
    /// An error for `anyhow` chains.
    pub fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Failed { exit, message: message.into() })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// The exit code of an error: that of the [`Failed`] in its chain, else 1.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(|cause| cause.downcast_ref::<Failed>()).map_or(Exit::Failure, |failed| failed.exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_code_survives_context() {
        let error =
            Err::<(), _>(Failed::error(Exit::BadProfile, "x.yaml:3: bad")).context("reload").unwrap_err();
        assert_eq!(code_of(&error), Exit::BadProfile);
        assert_eq!(code_of(&anyhow::anyhow!("other")), Exit::Failure);
    }
}
