//! [`make_direct`]: the one definition of *direct*, which every way to make a `File` goes by.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use thiserror::Error;

use super::alignment_query::{is_said_direct, refuses_reads};
use crate::sys;

/// Makes the I/O of an open file direct, by setting `O_DIRECT`. Returns whether the file has
/// `O_APPEND`.
///
/// `statx` says whether a file that has the flag does direct I/O. Where it says nothing (before Linux
/// 6.1, and on tmpfs, btrfs, overlayfs and others), a read of 64 KiB is tried, which waits for the disk.
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
    let said = is_said_direct(file);
    if said == Some(false) {
        return Err(NotDirect::ThisFile);
    }
    let was_direct = sys::is_direct(file.as_raw_fd()).map_err(NotDirect::Failed)?;
    let appends = sys::set_direct(file).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => NotDirect::FileSystem,
        _ => NotDirect::Failed(error),
    })?;
    // Where `statx` says nothing, some file systems take the flag, and fail each transfer.
    if said.is_none() && refuses_reads(file) {
        if !was_direct {
            sys::clear_direct(file).map_err(NotDirect::Failed)?;
        }
        return Err(NotDirect::ThisFile);
    }
    Ok(appends)
}

/// Why the I/O of an open file can't be direct.
#[derive(Debug)]
pub(super) enum NotDirect {
    /// It is neither a regular file nor a block device.
    NoFile,
    /// The file system does not take `O_DIRECT`.
    FileSystem,
    /// The file system takes `O_DIRECT`, and does the I/O of this file buffered all the same, or fails it.
    ThisFile,
    /// A system call failed.
    Failed(io::Error),
}

impl NotDirect {
    /// Whether the file can be used through the page cache instead.
    pub(super) fn may_be_buffered(&self) -> bool {
        matches!(self, NotDirect::FileSystem | NotDirect::ThisFile)
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
            NotDirect::ThisFile => {
                "the file system can't do direct I/O (O_DIRECT) on this file, though on others: on ext4, \
                 its data are journaled, encrypted, under verity, or within its inode (inline_data); open \
                 it with aio_open_or_buffered"
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
