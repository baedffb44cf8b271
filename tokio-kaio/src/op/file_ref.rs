//! [`FileRef`]: the file of a new request.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::{FileId, OpenFile};
use crate::sys;

/// The file that a request is for, and what keeps its descriptor open.
#[derive(Clone, Debug)]
pub(crate) enum FileRef<'a> {
    /// A file that a waiting request can share.
    Open(&'a Arc<OpenFile>),
    /// A duplicate of a descriptor that was borrowed, made for this request.
    Duplicate(Arc<OpenFile>),
    /// A descriptor of the caller, borrowed while the future exists. Known to be open only while the
    /// future is polled: a future can be forgotten.
    Borrowed(RawFd),
}

impl FileRef<'_> {
    #[inline]
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            FileRef::Open(file) => file.as_raw_fd(),
            FileRef::Duplicate(file) => file.as_raw_fd(),
            FileRef::Borrowed(fd) => *fd,
        }
    }

    #[inline]
    pub(crate) fn id(&self) -> FileId {
        match self {
            FileRef::Open(file) => file.id(),
            FileRef::Duplicate(file) => file.id(),
            FileRef::Borrowed(fd) => FileId::borrowed(*fd),
        }
    }

    #[inline]
    pub(crate) fn open_file(&self) -> Option<&Arc<OpenFile>> {
        match self {
            FileRef::Open(file) => Some(file),
            FileRef::Duplicate(file) => Some(file),
            FileRef::Borrowed(_) => None,
        }
    }

    /// A file that keeps the descriptor open; a duplicate if necessary. To be called from `poll`, while
    /// the descriptor is known to be open.
    ///
    /// # Errors
    ///
    /// `EMFILE`: no descriptor is left. `EBADF`: the caller's is not open.
    pub(crate) fn hold(&self) -> io::Result<Arc<OpenFile>> {
        match self {
            FileRef::Open(file) => Ok(Arc::clone(file)),
            FileRef::Duplicate(file) => Ok(Arc::clone(file)),
            FileRef::Borrowed(fd) => {
                let file = File::from(sys::duplicate(*fd)?);
                Ok(Arc::new(OpenFile::duplicate(file, FileId::borrowed(*fd))))
            }
        }
    }
}
