//! Why a task ended badly, and the one mapping from that to an exit code.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The reason that a task did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A signal asked the runner to stop; its number decides the exit code, as shells expect.
    Interrupted(i32),
    /// Something that the reader can act on, in full sentences.
    Told(String),
}

impl Failure {
    /// A failure that says what was wrong.
    pub(crate) fn told(message: impl Into<String>) -> Self {
        Self::Told(message.into())
    }

    /// A failed operation on a file, with the path that `io::Error` leaves out.
    pub(crate) fn file(verb: &str, path: &Path, error: &io::Error) -> Self {
        Self::Told(format!("cannot {verb} {}: {error}", path.display()))
    }

    /// Never success: 128 + signal for an interruption, 1 for the rest.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Interrupted(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
            Self::Told(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted(signal) => write!(formatter, "stopped by signal {signal}"),
            Self::Told(message) => formatter.write_str(message),
        }
    }
}
