//! [`StreamError`]: an error of a [`FileReader`](super::FileReader) or a [`FileWriter`](super::FileWriter).

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::File;
use super::file::path_of;
use crate::AioCommandError;

/// Why a [`FileReader`](crate::FileReader) could not read, or a [`FileWriter`](crate::FileWriter) could not
/// write: which file, which bytes, and the error of the operation.
///
/// Readers and writers return an [`io::Error`] with the kind of the operation's error. The `StreamError` is
/// within it.
///
/// # Examples
///
/// ```
/// use tokio::io::AsyncReadExt;
/// use tokio_kaio::{AioOpenOptionsExt, StreamError, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// let (context, handle) = aio_context(8, true)?;
/// let mut options = std::fs::OpenOptions::new();
/// let file = options.write(true).create(true).aio_open(path, false).await?; // not for reading
///
/// let error = file.reader(&handle).read_u8().await.unwrap_err();
/// let stream_error: &StreamError = error.get_ref().unwrap().downcast_ref().unwrap();
/// assert_eq!(stream_error.offset(), 0);
/// assert_eq!(stream_error.raw_os_error(), Some(9)); // EBADF
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StreamError(Arc<Failure>);

/// What the clones of an error share.
#[derive(Debug)]
struct Failure {
    path: PathBuf,
    /// What was done: `reading`.
    action: &'static str,
    /// To these bytes, or at this offset.
    range: Range<u64>,
    error: AioCommandError,
}

struct Place<'a>(&'a Range<u64>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.0;
        match start == end {
            true => write!(f, "at offset {start}"),
            false => write!(f, "{} bytes at offset {start}", end - start),
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            path,
            action,
            range,
            error,
        } = &*self.0;
        write!(f, "{}: {action} {}: {error}", path.display(), Place(range))
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.error)
    }
}

impl StreamError {
    pub(super) fn new(
        file: &File,
        action: &'static str,
        range: Range<u64>,
        error: AioCommandError,
    ) -> StreamError {
        StreamError(Arc::new(Failure {
            path: path_of(file.inner.file()),
            action,
            range,
            error,
        }))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the offset in the file, in bytes, of the first byte that was to be read or written.
    pub fn offset(&self) -> u64 {
        self.0.range.start
    }

    /// Returns the error of the operation.
    pub fn error(&self) -> &AioCommandError {
        &self.0.error
    }

    /// Returns the errno, if the kernel has returned one. See [`AioCommandError::raw_os_error`].
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.error.raw_os_error()
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> io::Error {
        let kind = match error.error() {
            AioCommandError::IoSubmit(within) | AioCommandError::BadResult(within) => within.kind(),
            AioCommandError::TimedOut => io::ErrorKind::TimedOut,
            // Not `WouldBlock`: that asks the caller to wait for a wake-up, which does not come.
            AioCommandError::CapacityExceeded => io::ErrorKind::ResourceBusy,
            AioCommandError::AioStopped | AioCommandError::NonZeroCode => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
