//! [`StoreFault`]: why an operation fails, for every version of `object_store`.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an operation on a file of the store fails.
#[derive(Debug, Error)]
pub(crate) enum StoreFault {
    #[error("{}: {source}", path.display())]
    NotFound { path: PathBuf, source: io::Error },

    #[error("{}: {source}", path.display())]
    AlreadyExists { path: PathBuf, source: io::Error },

    #[error("{}: {source}", path.display())]
    PermissionDenied { path: PathBuf, source: io::Error },

    #[error("can't {doing} {}: {source}{}", path.display(), way_out(source))]
    Failed {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error(
        "{}: bytes {} to {} were requested, but the object has {size} bytes",
        path.display(), range.start, range.end
    )]
    OutOfRange {
        path: PathBuf,
        range: Range<u64>,
        size: u64,
    },

    #[error("the range from {} to {} ends before it begins", .0.start, .0.end)]
    InvertedRange(Range<u64>),

    #[error(
        "{}: the file became shorter while it was read: it ends before byte {end}; read the object again",
        path.display()
    )]
    Shrunk { path: PathBuf, end: u64 },

    #[error(
        "{}: the upload can't be completed, because {missing} of its {total} bytes were not written: a part \
         has failed, or its future was dropped; upload the object again",
        path.display()
    )]
    Incomplete {
        path: PathBuf,
        missing: u64,
        total: u64,
    },

    #[error("{}: the upload was completed or aborted before", path.display())]
    UploadEnded { path: PathBuf },

    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

impl StoreFault {
    /// Converts an error of a system call that makes an entry at `path`. As [`of`](Self::of), except that a
    /// part of the path that is a file is in the way: nothing is missing.
    pub(crate) fn of_new(doing: &'static str, path: &Path, source: io::Error) -> StoreFault {
        match source.kind() {
            io::ErrorKind::NotADirectory => StoreFault::Failed {
                doing,
                path: path.to_owned(),
                source,
            },
            _ => StoreFault::of(doing, path, source),
        }
    }

    /// Converts an error of a system call. `doing` completes the sentence "can't ... path".
    pub(crate) fn of(doing: &'static str, path: &Path, source: io::Error) -> StoreFault {
        let path = path.to_owned();
        match source.kind() {
            // `NotADirectory`: a part of the path is a file, so there is nothing at the path.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                StoreFault::NotFound { path, source }
            }
            io::ErrorKind::PermissionDenied => StoreFault::PermissionDenied { path, source },
            _ => StoreFault::Failed {
                doing,
                path,
                source,
            },
        }
    }

    /// An object can't be read at this path, because it is a directory.
    pub(crate) fn directory(path: &Path) -> StoreFault {
        let source = io::Error::new(io::ErrorKind::NotFound, "is a directory");
        StoreFault::NotFound {
            path: path.to_owned(),
            source,
        }
    }
}

/// Says what to do about an error, where that is not evident.
fn way_out(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE) => {
            "; raise the limit of open files of the process (ulimit -n, LimitNOFILE= of systemd)"
        }
        Some(libc::ENFILE) => "; raise the limit of open files of the system (sysctl fs.file-max)",
        Some(libc::ENOSPC) => "; free space or inodes on the file system",
        Some(libc::EDQUOT) => "; free space, or raise the disk quota of the user",
        Some(libc::EFBIG) => "; raise the limit of the size of files (ulimit -f)",
        Some(libc::EIO) => "; the device reports an error: see the log of the kernel (dmesg)",
        Some(libc::EXDEV) => "; source and target have to be on the same file system",
        _ => "",
    }
}
