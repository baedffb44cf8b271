//! [`LockedBufError`]: why a buffer could not be made.

use std::{fmt, io};

use thiserror::Error;

use crate::sys;

/// Why a buffer could not be made. [`io::Error::raw_os_error`] of the inner error is the errno, if
/// the kernel had a say.
#[derive(Error, Debug)]
pub enum LockedBufError {
    /// [`mmap(2)`](https://man7.org/linux/man-pages/man2/mmap.2.html) failed: `ENOMEM` where there
    /// is no such room in memory or address space. Also for a size of 0.
    #[error("can't map memory for the buffer: {0}")]
    MapAnon(#[from] io::Error),

    /// [`mlock(2)`](https://man7.org/linux/man-pages/man2/mlock.2.html) failed: `ENOMEM` or
    /// `EPERM` past `RLIMIT_MEMLOCK`, `EAGAIN` where memory is short.
    #[error(
        "can't lock the buffer into RAM: {0}; {limit}, for all locked memory of the process: \
         raise it (ulimit -l, LimitMEMLOCK= of a systemd unit, --ulimit memlock= of a container) \
         or use less",
        limit = MemlockLimit
    )]
    MemLock(#[source] io::Error),
}

impl LockedBufError {
    pub(super) fn no_size() -> LockedBufError {
        LockedBufError::MapAnon(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a size of 0 bytes, the least is 1",
        ))
    }
}

/// For functions that return [`io::Result`]: of the [kind](io::Error::kind) of the error within, and with
/// the same text. [`io::Error::downcast`] gives this one back, whose variant has the errno.
///
/// # Examples
///
/// ```
/// use std::io;
/// use tokio_kaio::{AlignedBuf, LockedBufError};
///
/// fn zeroes(size: usize) -> io::Result<AlignedBuf> {
///     Ok(AlignedBuf::new(size)?)
/// }
///
/// let error = zeroes(1 << 60).unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
/// match error.downcast::<LockedBufError>()? {
///     LockedBufError::MapAnon(within) => assert_eq!(within.raw_os_error(), Some(12)), // ENOMEM
///     other => panic!("{other}"),
/// }
/// # Ok::<(), io::Error>(())
/// ```
impl From<LockedBufError> for io::Error {
    fn from(error: LockedBufError) -> io::Error {
        let (LockedBufError::MapAnon(within) | LockedBufError::MemLock(within)) = &error;
        io::Error::new(within.kind(), error)
    }
}

/// Says what `RLIMIT_MEMLOCK` is.
struct MemlockLimit;

impl fmt::Display for MemlockLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sys::memlock_limit() {
            Ok(Some(bytes)) => write!(f, "RLIMIT_MEMLOCK is {bytes} bytes"),
            Ok(None) => write!(f, "RLIMIT_MEMLOCK is unlimited"),
            Err(error) => write!(f, "RLIMIT_MEMLOCK can't be read ({error})"),
        }
    }
}
