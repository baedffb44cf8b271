//! [`Failure`]: how a command fails.

use std::error::Error;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use crate::output::tell;

/// What a command comes to: an exit code of its own, or a failure.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// Why a command has not done what it was asked for. Its text names the path, the operation and the
/// way out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for makes no sense: exit code 2, as for options that are none.
    Usage(String),
    /// It went wrong: exit code 1.
    Failed(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// `cause` is what `operation` on `path` failed with: `can't open /dev/sdb: …`.
    pub(crate) fn of(operation: &str, path: &Path, cause: impl Display) -> Failure {
        Failure::Failed(format!("can't {operation} {}: {cause}", path.display()).into())
    }

    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Usage(text) => {
                tell(format_args!(
                    "error: {text}\n\nFor more information, try '--help'."
                ));
                ExitCode::from(2)
            }
            Failure::Failed(error) => {
                tell(format_args!("error: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.into())
    }
}
