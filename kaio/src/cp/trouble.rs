//! [`Trouble`]: what keeps one entry from being copied.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;
use tokio_kaio::AioCommandError;

/// Why an entry is not copied. Its text names the path, the operation and, where there is one, the
/// way out.
#[derive(Debug)]
pub(super) struct Trouble {
    text: String,
    /// The other entries would fail of it too: the disk is full, for one.
    pub(super) for_all: bool,
}

impl Trouble {
    /// Something that the kernel has no number for.
    pub(super) fn new(text: impl Into<String>) -> Trouble {
        Trouble {
            text: text.into(),
            for_all: false,
        }
    }

    /// What `operation` on `path` failed with.
    pub(super) fn of(operation: &str, path: &Path, error: &io::Error) -> Trouble {
        let text = format!("can't {operation} {}: {error}", path.display());
        Trouble::told(text, error.kind(), error.raw_os_error())
    }

    /// The same, of a transfer at `offset`.
    pub(super) fn at(
        operation: &str,
        path: &Path,
        offset: u64,
        error: &AioCommandError,
    ) -> Trouble {
        let path = path.display();
        let text = format!("can't {operation} {path} at offset {offset}: {error}");
        Trouble::told(text, kind_of(error), error.raw_os_error())
    }

    /// `text` and the way out of such an error.
    fn told(mut text: String, kind: ErrorKind, errno: Option<i32>) -> Trouble {
        /// For which the standard library has no kind.
        const TOO_MANY_OPEN: i32 = Errno::MFILE.raw_os_error();
        let hint = match errno {
            Some(TOO_MANY_OPEN) => Some("raise the limit (ulimit -n)"),
            _ => way_out(kind),
        };
        if let Some(hint) = hint {
            text += "; ";
            text += hint;
        }
        Trouble {
            text,
            for_all: concerns_all(kind),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Trouble {}

/// What the kernel said, as the standard library sorts it.
fn kind_of(error: &AioCommandError) -> ErrorKind {
    let number = error.raw_os_error();
    number.map_or(ErrorKind::Other, |number| {
        io::Error::from_raw_os_error(number).kind()
    })
}

fn concerns_all(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
    )
}

fn way_out(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::StorageFull => "free some space there, or copy to elsewhere",
        ErrorKind::QuotaExceeded => "free some of your quota there, or copy to elsewhere",
        ErrorKind::ReadOnlyFilesystem => {
            "remount it writable (mount -o remount,rw), or copy elsewhere"
        }
        ErrorKind::PermissionDenied => "change the permissions, or run it as who may",
        ErrorKind::FileTooLarge => "raise the limit (ulimit -f), or copy to another file system",
        _ => return None,
    })
}
