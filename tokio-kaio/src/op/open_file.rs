//! [`OpenFile`]: an open file, shared by its owner and the requests on it.

use std::fmt;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::policy::FileHistory;
#[cfg(feature = "simulation")]
use crate::simulation::{OpenedFile, SimulatedFile};
use crate::sys;

pub(crate) struct OpenFile {
    /// Dropped before the descriptor is closed, whose number the disk knows.
    #[cfg(feature = "simulation")]
    simulated: Option<SimulatedFile>,
    file: File,
    id: FileId,
    history: FileHistory,
}

/// Identifies the file of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    /// The descriptor that the caller passed.
    fd: RawFd,
    /// Number of the open file, because descriptors are reused. 0 stands for an unknown file.
    ///
    /// Wraps after 2³² opens. A collision would also need the same descriptor, and a request that was in
    /// flight all the time.
    number: u32,
}

impl FileId {
    /// The id of a borrowed descriptor, whose file is unknown.
    #[inline]
    pub(crate) const fn borrowed(fd: RawFd) -> FileId {
        FileId { fd, number: 0 }
    }

    fn next(fd: RawFd) -> FileId {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let next = || LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let number = match next() {
            0 => next(),
            number => number,
        };
        FileId { fd, number }
    }

    pub(crate) fn fd(self) -> RawFd {
        self.fd
    }

    /// Returns whether this is the id of an [`OpenFile`], not of a borrowed descriptor.
    #[inline]
    pub(crate) fn is_known(self) -> bool {
        self.number != 0
    }

    /// Returns whether a request on this file may be a request on `file`.
    pub(crate) fn may_be(self, file: FileId) -> bool {
        self == file || self == FileId::borrowed(file.fd)
    }
}

impl OpenFile {
    pub(crate) fn new(file: File) -> OpenFile {
        OpenFile {
            id: FileId::next(file.as_raw_fd()),
            file,
            history: FileHistory::new(),
            #[cfg(feature = "simulation")]
            simulated: None,
        }
    }

    /// Creates an `OpenFile` from a second descriptor of the file `id`: a duplicate of a borrowed descriptor,
    /// for one request, or the file opened again.
    pub(crate) fn duplicate(file: File, id: FileId) -> OpenFile {
        OpenFile {
            id,
            file,
            history: FileHistory::single_use(),
            #[cfg(feature = "simulation")]
            simulated: None,
        }
    }

    /// Duplicates a borrowed descriptor, for a request that has to wait. Must be called from `poll`, while
    /// the descriptor is known to be open.
    ///
    /// # Errors
    ///
    /// `EMFILE`: no descriptor is left. `EBADF`: the descriptor is not open.
    pub(crate) fn duplicate_borrowed(fd: RawFd) -> io::Result<Arc<OpenFile>> {
        #[cfg(feature = "simulation")]
        if let Some(opened) = SimulatedFile::duplicate_borrowed(fd) {
            let duplicate = OpenFile::simulated_duplicate(opened?, FileId::borrowed(fd));
            return Ok(Arc::new(duplicate));
        }
        let file = File::from(sys::duplicate(fd)?);
        Ok(Arc::new(OpenFile::duplicate(file, FileId::borrowed(fd))))
    }

    /// Returns whether the kernel appends all writes, whatever their offset (`O_APPEND`). Makes a system
    /// call: anybody who has a descriptor of the open file can change the flag.
    pub(crate) fn has_append_flag(&self) -> bool {
        sys::status_flags(self.as_raw_fd()).is_ok_and(|flags| flags & libc::O_APPEND != 0)
    }

    #[inline(always)]
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the current metadata.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.metadata(&self.file);
        }
        self.file.metadata()
    }

    pub(crate) fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.set_permissions(&self.file, permissions);
        }
        self.file.set_permissions(permissions)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.set_len(len);
        }
        self.file.set_len(len)
    }

    /// Makes the file durable: `fsync(2)`.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.sync_all();
        }
        self.file.sync_all()
    }

    /// Makes the data of the file durable: `fdatasync(2)`.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.sync_data();
        }
        self.file.sync_data()
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    #[inline(always)]
    pub(crate) fn history(&self) -> &FileHistory {
        &self.history
    }
}

#[cfg(feature = "simulation")]
impl OpenFile {
    /// Creates the `OpenFile` of a file on a simulated disk.
    pub(crate) fn on_disk(opened: OpenedFile) -> OpenFile {
        let OpenedFile {
            simulated,
            placeholder,
        } = opened;
        OpenFile {
            simulated: Some(simulated),
            ..OpenFile::new(placeholder)
        }
    }

    /// Does what [`duplicate`](OpenFile::duplicate) does, with a file on a simulated disk.
    pub(crate) fn simulated_duplicate(opened: OpenedFile, id: FileId) -> OpenFile {
        OpenFile {
            simulated: Some(opened.simulated),
            ..OpenFile::duplicate(opened.placeholder, id)
        }
    }

    /// Returns the file on the simulated disk. `None`: this is a file of the kernel.
    #[inline]
    pub(crate) fn simulated(&self) -> Option<&SimulatedFile> {
        self.simulated.as_ref()
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("file", &self.file)
            .field("policy", &self.history.policy())
            .finish_non_exhaustive()
    }
}

impl AsRawFd for OpenFile {
    #[inline]
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
