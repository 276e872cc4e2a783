//! What an attack's attempt comes to: success, or the step that failed and its errno.

use std::fmt;
use std::io;

/// The end of an attack in its child: `Ok` when every step went through.
pub type Attempt = Result<(), Failure>;

/// The step of an attack that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The call, as an attack names it: `socket`, `connect`, `send` …
    pub step: String,
    /// Its errno; 0 where the failure is not an errno (a panic, an answer that was wrong).
    pub errno: i32,
}

const ABSENT: &str = "absent: ";

impl Failure {
    /// The failure of `step` with an errno.
    pub fn new(step: impl Into<String>, errno: i32) -> Self {
        Failure { step: step.into(), errno }
    }

    /// The failure of `step` with the calling thread's errno.
    pub fn last(step: impl Into<String>) -> Self {
        Failure::of(step, &io::Error::last_os_error())
    }

    /// The failure of `step` with an I/O error's errno.
    pub fn of(step: impl Into<String>, e: &io::Error) -> Self {
        Failure { step: step.into(), errno: e.raw_os_error().unwrap_or(0) }
    }

    /// The failure of an attack whose means this kernel was built without.
    pub fn absent(means: &str, errno: i32) -> Self {
        Failure::new(format!("{ABSENT}{means}"), errno)
    }

    /// Whether this says that the kernel does not have the protocol, the family or the option at all. With a label
    /// the same errnos mean a denial: ask the twin.
    pub fn is_absence(&self) -> bool {
        self.step.starts_with(ABSENT)
            || self.step == "socket"
                && matches!(self.errno, libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errno == 0 {
            return f.write_str(&self.step);
        }
        write!(f, "{}: {}", self.step, io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Failure {}

/// The bytes that a child sends to its parent.
pub(crate) fn encode(attempt: &Attempt) -> Vec<u8> {
    match attempt {
        Ok(()) => Vec::new(),
        Err(failure) => [&failure.errno.to_ne_bytes()[..], failure.step.as_bytes()].concat(),
    }
}

/// Reads what [`encode`] wrote; `None` when the bytes are not such a message.
pub(crate) fn decode(bytes: &[u8]) -> Option<Attempt> {
    if bytes.is_empty() {
        return Some(Ok(()));
    }
    let (errno, step) = bytes.split_first_chunk::<4>()?;
    Some(Err(Failure::new(String::from_utf8_lossy(step), i32::from_ne_bytes(*errno))))
}
