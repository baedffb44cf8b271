//! [`FileRef`]: the file of a new request.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::{FileId, OpenFile};

/// The file that a request is for, and what keeps its descriptor open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FileRef<'a> {
    /// A file that a waiting request can share.
    Open(&'a Arc<OpenFile>),
    /// A descriptor of the caller, borrowed while the future exists. Known to be open only while the
    /// future is polled: a future can be forgotten.
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
