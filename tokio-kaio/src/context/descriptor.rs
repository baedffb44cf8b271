//! [`Descriptor`]: the file of a new request.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use crate::request::{KnownAs, OpenFile, Order, Stay};
use crate::sys;

/// The file that a request is for, and what keeps it open.
#[derive(Clone, Debug)]
pub(crate) enum Descriptor<'a> {
    /// Something that a queued request can hold on to.
    File(&'a Arc<OpenFile>),
    /// The same, made for this request.
    Held(Arc<OpenFile>),
    /// The caller's, borrowed while the future exists. Open only while it is being polled, as far
    /// as one can know: a future can be forgotten.
    Borrowed(RawFd),
}

impl Descriptor<'_> {
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Descriptor::File(file) => file.as_raw_fd(),
            Descriptor::Held(file) => file.as_raw_fd(),
            Descriptor::Borrowed(fd) => *fd,
        }
    }

    pub(crate) fn file(&self) -> Option<&Arc<OpenFile>> {
        match self {
            Descriptor::File(file) => Some(file),
            Descriptor::Held(file) => Some(file),
            Descriptor::Borrowed(_) => None,
        }
    }

    /// See [`OpenFile::submitted`].
    pub(crate) fn submitted(&self, order: &Order, stay: Stay) {
        if let Some(file) = self.file() {
            file.submitted(order, stay);
        }
    }

    /// Something that keeps the file open, a duplicate if need be. To be called while the
    /// descriptor is known to be open: from `poll`.
    ///
    /// # Errors
    ///
    /// `EMFILE`: no descriptor is left. `EBADF`: the caller's is none.
    pub(crate) fn hold(&self) -> io::Result<Arc<OpenFile>> {
        match self {
            Descriptor::File(file) => Ok(Arc::clone(file)),
            Descriptor::Held(file) => Ok(Arc::clone(file)),
            Descriptor::Borrowed(fd) => {
                let file = File::from(sys::duplicate(*fd)?);
                Ok(Arc::new(OpenFile::duplicate(file, KnownAs::borrowed(*fd))))
            }
        }
    }
}
