//! [`FileRef`]: the file of a new request.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::{FileId, OpenFile};

/// The file of a new request: shared, or a borrowed descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FileRef<'a> {
    /// An open file. A waiting request can share it, which keeps the descriptor open.
    Open(&'a Arc<OpenFile>),
    /// A descriptor of the caller, which the future borrows. It is known to be open only while the future
    /// is polled, because a future can be forgotten.
    Borrowed(RawFd),
}

impl<'a> FileRef<'a> {
    #[inline]
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            FileRef::Open(file) => file.as_raw_fd(),
            FileRef::Borrowed(fd) => *fd,
        }
    }

    #[inline]
    pub(crate) fn id(&self) -> FileId {
        match self {
            FileRef::Open(file) => file.id(),
            FileRef::Borrowed(fd) => FileId::borrowed(*fd),
        }
    }

    #[inline]
    pub(crate) fn open_file(&self) -> Option<&'a Arc<OpenFile>> {
        match self {
            FileRef::Open(file) => Some(file),
            FileRef::Borrowed(_) => None,
        }
    }
}
