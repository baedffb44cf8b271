//! [`LockedBufError`]: the error of allocating a buffer.

use std::{fmt, io};

use thiserror::Error;

use crate::sys;

/// The error of allocating a buffer. [`io::Error::raw_os_error`] of the inner error is the errno, if a
/// system call failed.
#[derive(Error, Debug)]
pub enum LockedBufError {
    /// [`mmap(2)`](https://man7.org/linux/man-pages/man2/mmap.2.html) failed. `ENOMEM`: there is not enough
    /// memory or address space. Also used for a size of 0.
    #[error("{failed}: {0}{hint}", failed = failed_map(.0), hint = map_hint(.0))]
    MapAnon(#[from] io::Error),

    /// [`mlock(2)`](https://man7.org/linux/man-pages/man2/mlock.2.html) failed. `ENOMEM`, `EPERM`:
    /// `RLIMIT_MEMLOCK` is exceeded. `EAGAIN`: there is not enough memory.
    #[error(
        "can't lock the buffer into RAM: {0}; {limit}, for all locked memory of the process: \
         raise the limit (ulimit -l, LimitMEMLOCK= of a systemd unit, --ulimit memlock= of a container) \
         or lock less memory",
        limit = MemlockLimit
    )]
    MemLock(#[source] io::Error),
}

impl LockedBufError {
    pub(super) fn zero_size() -> LockedBufError {
        LockedBufError::MapAnon(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the size must be at least 1 byte, not 0 bytes",
        ))
    }
}

/// Converts the error for functions that return [`io::Result`]. The result has the
/// [kind](io::Error::kind) of the inner error and the same text. [`io::Error::downcast`] returns the
/// `LockedBufError`, whose inner error has the errno.
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
///     LockedBufError::MapAnon(inner) => assert_eq!(inner.raw_os_error(), Some(12)), // ENOMEM
///     other => panic!("{other}"),
/// }
/// # Ok::<(), io::Error>(())
/// ```
impl From<LockedBufError> for io::Error {
    fn from(error: LockedBufError) -> io::Error {
        let (LockedBufError::MapAnon(inner) | LockedBufError::MemLock(inner)) = &error;
        io::Error::new(inner.kind(), error)
    }
}

/// Says what has failed if memory was not mapped.
fn failed_map(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::InvalidInput => "can't make the buffer",
        _ => "can't map memory for the buffer",
    }
}

fn map_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "; ask for less memory, or raise the limit that is reached: RLIMIT_AS (ulimit -v), the memory of the \
             container or of the machine"
        }
        _ => "",
    }
}

/// Displays the value of `RLIMIT_MEMLOCK`.
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
