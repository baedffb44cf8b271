//! [`CopyError`]: why an entry was not copied.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;
use tokio_kaio::AioCommandError;

use crate::thread_limit::THREAD_LIMIT_HINT;

/// Why an entry was not copied. The text names the operation and the path, and says what to do, if there
/// is something to do.
#[derive(Debug)]
pub(super) struct CopyError {
    text: String,
    /// The error affects all entries, as a full disk does.
    pub(super) affects_all: bool,
}

impl CopyError {
    /// An error that has no errno.
    pub(super) fn new(text: impl Into<String>) -> CopyError {
        CopyError {
            text: text.into(),
            affects_all: false,
        }
    }

    /// The error of `operation` on `path`.
    pub(super) fn of(operation: &str, path: &Path, error: &io::Error) -> CopyError {
        let text = format!("can't {operation} {}: {error}", path.display());
        CopyError::with_hint(text, error.kind(), error.raw_os_error())
    }

    /// An error whose text names the operation and the path.
    pub(super) fn from_library(error: &io::Error) -> CopyError {
        CopyError::with_hint(error.to_string(), error.kind(), error.raw_os_error())
    }

    /// The error of `operation` on `path` at `offset`.
    pub(super) fn at(
        operation: &str,
        path: &Path,
        offset: u64,
        error: &AioCommandError,
    ) -> CopyError {
        let path = path.display();
        let text = format!("can't {operation} {path} at offset {offset}: {error}");
        CopyError::with_hint(text, kind_of(error), error.raw_os_error())
    }

    /// Adds the hint for such an error to `text`.
    fn with_hint(mut text: String, kind: ErrorKind, errno: Option<i32>) -> CopyError {
        /// The standard library has no kind for this errno.
        const TOO_MANY_OPEN: i32 = Errno::MFILE.raw_os_error();
        let hint = match errno {
            Some(TOO_MANY_OPEN) => Some("raise the limit (ulimit -n)"),
            _ => hint_for(kind),
        };
        if let Some(hint) = hint {
            text += "; ";
            text += hint;
        }
        CopyError {
            text,
            affects_all: affects_all_entries(kind),
        }
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for CopyError {}

/// The kind of the errno.
fn kind_of(error: &AioCommandError) -> ErrorKind {
    let number = error.raw_os_error();
    number.map_or(ErrorKind::Other, |number| {
        io::Error::from_raw_os_error(number).kind()
    })
}

fn affects_all_entries(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
    )
}

fn hint_for(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::StorageFull => "free some space, or copy to another file system",
        ErrorKind::QuotaExceeded => "free some of your quota, or copy to another file system",
        ErrorKind::ReadOnlyFilesystem => {
            "remount it writable (mount -o remount,rw), or copy to another file system"
        }
        ErrorKind::PermissionDenied => "change the permissions, or run kaio as a user who has them",
        ErrorKind::WouldBlock => THREAD_LIMIT_HINT,
        ErrorKind::FileTooLarge => "raise the limit (ulimit -f), or copy to another file system",
        _ => return None,
    })
}
