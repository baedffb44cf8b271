//! [`CommandError`]: why a command fails, and its exit code.

use std::error::Error;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use crate::stdio::eprint_line;

/// The result of a command: its exit code, or an error.
pub(crate) type CommandResult = Result<ExitCode, CommandError>;

/// Why a command fails. The text names the operation and the path, and says what to do.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The command line is invalid: exit code 2.
    Usage(String),
    /// The command failed: exit code 1.
    Failed(Box<dyn Error + Send + Sync>),
}

impl CommandError {
    /// Says that `operation` on `path` failed: `can't open /dev/sdb: …`.
    pub(crate) fn of(operation: &str, path: &Path, cause: impl Display) -> CommandError {
        CommandError::Failed(format!("can't {operation} {}: {cause}", path.display()).into())
    }

    /// Prints the error to standard error, and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            CommandError::Usage(text) => {
                eprint_line(format_args!(
                    "error: {text}\n\nFor more information, try '--help'."
                ));
                ExitCode::from(2)
            }
            CommandError::Failed(error) => {
                eprint_line(format_args!("error: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        CommandError::Failed(error.into())
    }
}
