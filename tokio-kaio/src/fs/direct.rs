//! [`make_direct`]: the definition of *direct* that every constructor of `File` uses.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use thiserror::Error;

use super::alignment_query::{reported_alignment, tested_alignment};
use super::file_facts::FileFacts;
use crate::sys;
use crate::{Alignment, AlignmentSource};

/// Makes the I/O of an open file direct: sets `O_DIRECT`. Returns what it has found out about the file.
///
/// `statx` reports whether I/O on a file with the flag is direct, and the alignment. If `statx` does not
/// report it (before Linux 6.1, and on tmpfs, btrfs, overlayfs and others), reads of at most 64 KiB test it,
/// which wait for the disk.
///
/// # Errors
///
/// The reason why the I/O can't be direct. The flags of the file are unchanged then.
pub(super) fn make_direct(file: &fs::File) -> Result<FileFacts, NotDirect> {
    make_direct_as(file, reported_alignment(file))
}

/// [`make_direct`], for a file of which `statx` has `reported` this. Where it has reported nothing, reads test
/// the file.
pub(super) fn make_direct_as(
    file: &fs::File,
    reported: Option<Option<Alignment>>,
) -> Result<FileFacts, NotDirect> {
    let metadata = file.metadata().map_err(NotDirect::Failed)?;
    // Checked first: a pipe accepts `O_DIRECT`, which changes how others read it.
    let file_type = metadata.file_type();
    if !file_type.is_file() && !file_type.is_block_device() {
        return Err(NotDirect::FileType);
    }
    if let Some(None) = reported {
        return Err(NotDirect::ThisFile);
    }
    let flags = sys::set_direct(file).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => NotDirect::FileSystem,
        _ => NotDirect::Failed(error),
    })?;
    // Some file systems accept the flag and then fail each transfer.
    let Some(alignment) = reported.unwrap_or_else(|| tested_alignment(file)) else {
        if flags & libc::O_DIRECT == 0 {
            sys::clear_direct(file).map_err(NotDirect::Failed)?;
        }
        return Err(NotDirect::ThisFile);
    };
    let is_known = alignment.source != AlignmentSource::Assumed;
    Ok(FileFacts {
        metadata,
        flags: flags | libc::O_DIRECT,
        alignment: is_known.then_some(alignment),
    })
}

/// Why the I/O of an open file can't be direct.
#[derive(Debug)]
pub(super) enum NotDirect {
    /// The file is neither a regular file nor a block device.
    FileType,
    /// The file system does not accept `O_DIRECT`.
    FileSystem,
    /// The file system accepts `O_DIRECT`, but does the I/O of this file buffered, or fails it.
    ThisFile,
    /// A system call failed.
    Failed(io::Error),
}

impl NotDirect {
    /// Returns whether the file can be used through the page cache instead.
    pub(super) fn may_be_buffered(&self) -> bool {
        matches!(self, NotDirect::FileSystem | NotDirect::ThisFile)
    }

    /// Returns the error for the file at `path`, with a text that says why.
    pub(super) fn into_error(self, path: PathBuf) -> io::Error {
        let why = match self {
            NotDirect::FileType => {
                "direct I/O (O_DIRECT) is for regular files and block devices; this file is neither"
            }
            NotDirect::FileSystem => {
                "the file system can't do direct I/O (O_DIRECT); put the file on one that can, such as \
                 ext4, XFS or btrfs, or open it with aio_open_or_buffered"
            }
            NotDirect::ThisFile => {
                "the file system can't do direct I/O (O_DIRECT) on this file, though it can on others: on \
                 ext4, the file's data is journaled, encrypted, under verity, or in its inode \
                 (inline_data); open it with aio_open_or_buffered"
            }
            NotDirect::Failed(error) => return error,
        };
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        io::Error::new(error.kind(), NotDirectError { path, why, error })
    }
}

#[derive(Debug, Error)]
#[error("{}: {error}: {why}", .path.display())]
struct NotDirectError {
    path: PathBuf,
    why: &'static str,
    #[source]
    error: io::Error,
}
