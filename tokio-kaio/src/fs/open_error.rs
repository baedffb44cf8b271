//! [`with_path`]: errors of opening a file that name its path.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Returns `error` with `path` in its text, if the path is what is wrong: nothing is there, or a part of it
/// is no directory. The kind stays.
pub(super) fn with_path(error: io::Error, path: &Path) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            let path = path.to_path_buf();
            io::Error::new(error.kind(), MissingFile { path, error })
        }
        _ => error,
    }
}

#[derive(Debug, Error)]
#[error("{}: {error}", .path.display())]
struct MissingFile {
    path: PathBuf,
    #[source]
    error: io::Error,
}
