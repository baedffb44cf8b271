//! [`FileFacts`]: what the job that opens a file finds out about it, so that no later call has to.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;

use crate::Alignment;
use crate::sys;

/// What is known about an open file from the start.
#[derive(Clone, Debug)]
pub(super) struct FileFacts {
    /// The metadata when the file was opened.
    pub(super) metadata: Metadata,
    /// The access mode and the status flags.
    pub(super) flags: libc::c_int,
    /// The alignment that direct I/O requires. `None`: not known yet, or the file is buffered.
    pub(super) alignment: Option<Alignment>,
}

impl FileFacts {
    /// Queries metadata and flags. The alignment stays unknown.
    pub(super) fn of(file: &fs::File) -> io::Result<FileFacts> {
        Ok(FileFacts {
            metadata: file.metadata()?,
            flags: sys::status_flags(file.as_raw_fd())?,
            alignment: None,
        })
    }

    /// Whether the kernel appends all writes (`O_APPEND`).
    pub(super) fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    pub(super) fn is_readable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_WRONLY
    }

    pub(super) fn is_writable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}
