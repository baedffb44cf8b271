//! [`make_direct`]: the one definition of *direct*, which every way to make a `File` goes by.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use thiserror::Error;

use crate::sys;

/// Makes the I/O of an open file direct, by setting `O_DIRECT`. Returns whether the file has
/// `O_APPEND`.
///
/// It may wait for the disk.
///
/// # Errors
///
/// The reason why the I/O can't be direct. The flags of the file are as they were then.
pub(super) fn make_direct(file: &fs::File) -> Result<bool, NotDirect> {
    // First of all: `O_DIRECT` on a pipe is no error, and changes how others read it.
    let kind = file.metadata().map_err(NotDirect::Failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(NotDirect::NoFile);
    }
    sys::set_direct(file).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => NotDirect::FileSystem,
        _ => NotDirect::Failed(error),
    })
}

/// Why the I/O of an open file can't be direct.
#[derive(Debug)]
pub(super) enum NotDirect {
    /// It is neither a regular file nor a block device.
    NoFile,
    /// The file system does not take `O_DIRECT`.
    FileSystem,
    /// A system call failed.
    Failed(io::Error),
}

impl NotDirect {
    /// Whether the file can be used through the page cache instead.
    pub(super) fn may_be_buffered(&self) -> bool {
        matches!(self, NotDirect::FileSystem)
    }

    /// The error for the user, about the file at `path`.
    pub(super) fn into_error(self, path: PathBuf) -> io::Error {
        let why = match self {
            NotDirect::NoFile => {
                "direct I/O (O_DIRECT) is for regular files and block devices, and this is neither"
            }
            NotDirect::FileSystem => {
                "the file system can't do direct I/O (O_DIRECT); put the file on one that can, such as \
                 ext4, XFS or btrfs, or open it with aio_open_or_buffered"
            }
            NotDirect::Failed(error) => return error,
        };
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        io::Error::new(error.kind(), Explained { path, why, error })
    }
}

#[derive(Debug, Error)]
#[error("{}: {error}: {why}", .path.display())]
struct Explained {
    path: PathBuf,
    why: &'static str,
    #[source]
    error: io::Error,
}
