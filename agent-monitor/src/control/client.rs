//! The commands' end of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{Code, Op, Outcome, Refusal, Reply, Request};
use crate::exit::{Exit, Failed};

/// How long the daemon may take to answer: an install waits for the kernel, a reload installs every profile.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest reply: a status with every agent there can be.
const MAX_REPLY: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("can't connect to the daemon at {}: {source}{}", socket.display(), hint(source))]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the daemon did not answer: {0}")]
    Io(#[from] io::Error),
    #[error("the daemon's answer is not of this version of the program: {0}")]
    Answer(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "\nIs it running? Start it with `agent-monitor daemon`, or `systemctl start agent-monitor`; name its socket with --socket."
        }
        io::ErrorKind::PermissionDenied => {
            "\nRun this as root, or as a member of the daemon's control group."
        }
        _ => "",
    }
}

impl ClientError {
    /// As an error with the exit code that scripts expect.
    #[must_use]
    pub fn into_exit(self) -> anyhow::Error {
        let exit = match &self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::Refused(refusal) => match refusal.code {
                Code::NotPermitted | Code::LabelledCaller => Exit::NotPermitted,
                Code::BadProfile => Exit::BadProfile,
                Code::CannotEnforce => Exit::CannotEnforce,
                _ => Exit::Failure,
            },
            _ => Exit::Failure,
        };
        Failed::error(exit, self.to_string())
    }
}

/// A connection that carried a request.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<UnixStream>,
}

/// Connects and sends a request.
///
/// # Errors
/// When the daemon can't be reached.
pub fn send(socket: &Path, op: Op) -> Result<Connection, ClientError> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    let mut line = serde_json::to_vec(&Request::new(op))?;
    line.push(b'\n');
    // A daemon that refuses the caller may close before it has read: the refusal is there to read all the same.
    if let Err(error) = stream.write_all(&line)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    Ok(Connection { reader: BufReader::new(stream) })
}

impl Connection {
    /// Reads the reply.
    ///
    /// # Errors
    /// The daemon's refusal, or no answer that can be read.
    pub fn reply<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let mut line = String::new();
        if (&mut self.reader).take(MAX_REPLY).read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_str::<Reply<T>>(&line)?.outcome {
            Outcome::Ok(answer) => Ok(answer),
            Outcome::Error(refusal) => Err(refusal.into()),
        }
    }

    /// The lines that follow the reply to `events`; ends when the daemon does.
    ///
    /// # Errors
    /// When the socket's timeout can't be taken off.
    pub fn lines(self) -> io::Result<impl Iterator<Item = io::Result<String>>> {
        self.reader.get_ref().set_read_timeout(None)?;
        Ok(self.reader.lines())
    }
}

/// Sends a request and reads its reply.
///
/// # Errors
/// See [`ClientError`].
pub fn ask<T: DeserializeOwned>(socket: &Path, op: Op) -> Result<T, ClientError> {
    send(socket, op)?.reply()
}
