//! [`File`]: a file open for direct I/O.

use std::fs::{Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use lock_api::RawMutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::AioOpenOptionsExt;
use super::open_options::name_of;
use super::unaligned_state::UnalignedState;
use crate::Alignment;
use crate::op::FileRef;
use crate::op::OpenFile;
use crate::spawn_blocking::{no_thread, spawn_blocking};
use crate::{AioCommandError, GenericAioContextHandle, RawCommand, SubmitPolicy, WriteFlags};

/// A file that is read and written at given offsets with direct I/O, which bypasses the page cache.
///
/// The file is opened with `O_DIRECT`. Offsets and lengths must be multiples of the file's
/// [alignment](File::alignment), mostly 512 or 4096 bytes; so must the address of the memory, which
/// [`LockedBuf`](crate::LockedBuf) takes care of. [`read_bytes_at`](File::read_bytes_at) and
/// [`write_bytes_at`](File::write_bytes_at) accept any offset, length and memory.
///
/// Reads and writes take a [handle](GenericAioContextHandle) of the context that runs them. A `File` has
/// no file position, so any number of operations may run at once.
///
/// # Threads
///
/// Calls that the kernel can't do asynchronously run on tokio's blocking pool: opening, and the methods
/// whose documentation says so. Where the pool needs a thread and the system refuses to start one
/// (`ulimit -u`, or `pids.max` of the container), the call fails with `EAGAIN`, of the kind
/// [`WouldBlock`](io::ErrorKind::WouldBlock), and has done nothing. tokio reports this with a panic, which
/// this crate catches. Two consequences can't be avoided: the program's
/// [panic hook](std::panic::set_hook) prints a message (`OS can't spawn worker thread`), and a program
/// that is built with `panic = "abort"` ends.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AioOpenOptionsExt, LockedBuf, ReadFlags, WriteFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// let (context, handle) = aio_context(32, true)?;
/// let mut options = std::fs::OpenOptions::new();
/// options.read(true).write(true).create(true);
/// let file = options.aio_open(path, false).await?;
///
/// let mut buffer = LockedBuf::with_size(4096)?;
/// buffer.as_mut().fill(7);
/// let written = file.write_at(&handle, 8192, &buffer, 4096, WriteFlags::DSYNC).await?;
/// assert_eq!(written, 4096);
/// let read = file.read_at(&handle, 8192, &mut buffer, 4096, ReadFlags::empty()).await?;
/// assert_eq!(read, 4096);
/// assert!(buffer.as_ref().iter().all(|&byte| byte == 7));
/// context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct File {
    pub(super) inner: Arc<FileInner>,
    /// Whether it was opened with `O_APPEND`.
    pub(super) appends: bool,
    /// Whether it has `O_DIRECT`.
    pub(super) is_direct: bool,
}

/// Shared by the clones of a file.
#[derive(Debug)]
pub(super) struct FileInner {
    /// Shared with the requests on it.
    pub(super) open: Arc<OpenFile>,
    /// Once it is known.
    pub(super) alignment: OnceLock<Alignment>,
    /// Made for the first unaligned transfer.
    unaligned: OnceLock<Box<UnalignedState>>,
}

impl FileInner {
    pub(super) fn new(file: std::fs::File) -> FileInner {
        FileInner {
            open: Arc::new(OpenFile::new(file)),
            alignment: OnceLock::new(),
            unaligned: OnceLock::new(),
        }
    }

    pub(super) fn file(&self) -> &std::fs::File {
        self.open.file()
    }

    pub(super) fn unaligned(&self) -> &UnalignedState {
        self.unaligned.get_or_init(Box::default)
    }
}

impl AsRawFd for FileInner {
    fn as_raw_fd(&self) -> RawFd {
        self.open.as_raw_fd()
    }
}

impl File {
    pub(super) fn new(file: std::fs::File, appends: bool) -> File {
        File {
            inner: Arc::new(FileInner::new(file)),
            appends,
            is_direct: true,
        }
    }

    /// Opens an existing file for reading; see [`AioOpenOptionsExt::aio_open`] for `is_sync`,
    /// errors and panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let file = File::open(path, false).await?;
    /// assert_eq!(file.metadata().await?.len(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true);
        open(options, path, is_sync).await
    }

    /// Opens a file for writing, creates it where there is none, and truncates it where there is;
    /// see [`AioOpenOptionsExt::aio_open`] for `is_sync`, errors and panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let file = File::create(path, false).await?;
    /// assert_eq!(file.metadata().await?.len(), 0); // whatever was there
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        open(options, path, is_sync).await
    }

    pub(crate) fn file_ref(&self) -> FileRef<'_> {
        FileRef::Open(&self.inner.open)
    }

    /// See [`File::write_flags`].
    pub(crate) fn as_appending<'a>(&self, command: RawCommand<'a>) -> RawCommand<'a> {
        match command {
            RawCommand::Pwrite {
                offset,
                buffer,
                flags,
                len,
            } => RawCommand::Pwrite {
                offset,
                buffer,
                flags: self.write_flags(flags),
                len,
            },
            RawCommand::Pwritev {
                offset,
                buffers,
                flags,
            } => RawCommand::Pwritev {
                offset,
                buffers,
                flags: self.write_flags(flags),
            },
            other => other,
        }
    }

    /// Adds `APPEND` where the kernel appends anyway, so that the context keeps appends in order.
    #[inline]
    pub(super) fn write_flags(&self, flags: WriteFlags) -> WriteFlags {
        match self.appends && !flags.contains(WriteFlags::NOAPPEND) {
            true => flags | WriteFlags::APPEND,
            false => flags,
        }
    }

    /// Sets how later operations on this file are submitted. `None`, the default: by the policy of the
    /// context ([`AioContextBuilder::submit_policy`](crate::AioContextBuilder::submit_policy)).
    ///
    /// A file that grows write by write may be faster with [`SubmitPolicy::Offload`], one whose blocks are
    /// allocated with [`SubmitPolicy::Inline`]. The policy has no effect on a context whose backend is the
    /// [thread pool](crate::Backend::ThreadPool).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, SubmitPolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let log = File::create(path, false).await?;
    /// assert_eq!(log.submit_policy(), None);
    /// log.set_submit_policy(Some(SubmitPolicy::Offload));
    /// assert_eq!(log.submit_policy(), Some(SubmitPolicy::Offload));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_submit_policy(&self, policy: Option<SubmitPolicy>) {
        self.inner.open.history().set_policy(policy);
    }

    /// Returns how operations on this file are submitted. `None`: by the policy of the context.
    pub fn submit_policy(&self) -> Option<SubmitPolicy> {
        self.inner.open.history().policy()
    }

    /// Truncates or extends the file to `size` bytes, on tokio's blocking pool. See
    /// [`std::fs::File::set_len`].
    ///
    /// # Errors
    ///
    /// Those of [`ftruncate(2)`](https://man7.org/linux/man-pages/man2/ftruncate.2.html).
    /// [`io::ErrorKind::InvalidInput`], with a text that says so: `size` is more than `i64::MAX`.
    ///
    /// # Cancel safety
    ///
    /// The call may still take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create(&path, false).await?;
    /// file.set_len(1 << 20).await?;
    /// assert_eq!(std::fs::metadata(&path)?.len(), 1 << 20);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_len(&self, size: u64) -> io::Result<()> {
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            if i64::try_from(size).is_err() {
                return Err(too_long(file.file(), size));
            }
            file.file().set_len(size)?;
            file.open.history().ends_at(size);
            Ok(())
        })
        .await
    }

    /// Returns the metadata of the file:
    /// [`fstat(2)`](https://man7.org/linux/man-pages/man2/fstat.2.html), on tokio's blocking pool. See
    /// [`std::fs::File::metadata`].
    ///
    /// # Errors
    ///
    /// Those of the system call.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let file = File::open(path, false).await?;
    /// let metadata = file.metadata().await?;
    /// assert!(metadata.is_file() && metadata.len() == 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn metadata(&self) -> io::Result<Metadata> {
        let file = Arc::clone(&self.inner);
        run_blocking(move || file.file().metadata()).await
    }

    /// Changes the permissions of the file, on tokio's blocking pool. See
    /// [`std::fs::File::set_permissions`].
    ///
    /// # Errors
    ///
    /// Those of [`fchmod(2)`](https://man7.org/linux/man-pages/man2/fchmod.2.html).
    ///
    /// # Cancel safety
    ///
    /// The call may still take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create(&path, false).await?;
    /// file.set_permissions(PermissionsExt::from_mode(0o600)).await?;
    /// assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_permissions(&self, perm: Permissions) -> io::Result<()> {
        let file = Arc::clone(&self.inner);
        run_blocking(move || file.file().set_permissions(perm)).await
    }

    /// Waits for all requests that were submitted on this file through this context before: reads, writes
    /// and syncs, including those whose future was dropped or timed out. It does not wait for requests that
    /// are submitted later.
    ///
    /// To drop a future only abandons its request: an abandoned write may land after a later one and
    /// overwrite it. After the drain no abandoned write can land any more, and the same range can be
    /// written again. [Clones](File::try_clone) of the file count as this file.
    ///
    /// Some operations take several requests, one after another: those with more than 1024 buffers or more
    /// than 2 GiB, those that `read_exact_at` and `write_all_at` resume,
    /// [`read_bytes_at`](File::read_bytes_at) and [`write_bytes_at`](File::write_bytes_at). While its future
    /// is polled, such an operation may submit further requests after the drain. One that was dropped or
    /// timed out submits no more. So finish or drop your own operations before you drain.
    ///
    /// The drain ignores the deadline of the handle, and waits for ever on a stuck disk. To give up, use
    /// [`tokio::time::timeout`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost. The drain covers the requests that are there when it is first polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_kaio::{AioCommandError, AlignedBuf, File, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(path, false).await?;
    /// let (first, second) = (AlignedBuf::new(4096)?, AlignedBuf::new(4096)?);
    /// let hasty = handle.with_timeout(Duration::from_millis(50));
    /// let written = file.write_at(&hasty, 0, &first, 4096, WriteFlags::DSYNC).await;
    /// if let Err(AioCommandError::TimedOut) = written {
    ///     file.drain(&handle).await; // it may have landed by now, and can't any more
    ///     file.write_at(&handle, 0, &second, 4096, WriteFlags::DSYNC).await?;
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain<M: RawMutex, A, L>(&self, aio_handle: &GenericAioContextHandle<M, A, L>) {
        aio_handle.drain(self.inner.open.id()).await;
    }

    /// Makes data and metadata durable: those of the writes that have completed before. See
    /// [`RawCommand::Fsync`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]: `EIO` where an earlier write could not be made durable.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not take effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(&path, false).await?;
    /// let buffer = AlignedBuf::new(4096)?;
    /// for block in 0..4 {
    ///     file.write_all_at(&handle, block * 4096, &buffer, 4096, WriteFlags::empty()).await?;
    /// }
    /// file.sync_all(&handle).await?; // all four are durable now
    /// assert_eq!(std::fs::metadata(&path)?.len(), 4 * 4096);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sync_all<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
    ) -> Result<(), AioCommandError> {
        nothing_moved(
            aio_handle
                .operation(FileRef::Open(&self.inner.open), RawCommand::Fsync)
                .await,
        )
    }

    /// Makes data durable, and as much metadata as it takes to find it: those of the writes that
    /// have completed before. See [`RawCommand::Fdsync`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]: `EIO` where an earlier write could not be made durable.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not take effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(&path, false).await?;
    /// let buffer = AlignedBuf::new(4096)?;
    /// for block in 0..4 {
    ///     file.write_all_at(&handle, block * 4096, &buffer, 4096, WriteFlags::empty()).await?;
    /// }
    /// file.sync_data(&handle).await?; // all four are durable now
    /// assert_eq!(std::fs::metadata(&path)?.len(), 4 * 4096);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sync_data<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
    ) -> Result<(), AioCommandError> {
        nothing_moved(
            aio_handle
                .operation(FileRef::Open(&self.inner.open), RawCommand::Fdsync)
                .await,
        )
    }
}

fn nothing_moved(result: Result<u64, AioCommandError>) -> Result<(), AioCommandError> {
    match result? {
        0 => Ok(()),
        _ => Err(AioCommandError::NonZeroCode),
    }
}

fn too_long(file: &std::fs::File, size: u64) -> io::Error {
    let text = format!(
        "{}: a length of {size} bytes is more than a file can have, {}",
        name_of(file).display(),
        i64::MAX
    );
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Opens a file with options that have no custom flags.
async fn open(mut options: OpenOptions, path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
    options.custom_flags(if is_sync { libc::O_SYNC } else { 0 });
    options.aio_open(path.as_ref().to_path_buf(), false).await
}

/// Runs a call that may block on tokio's blocking pool.
///
/// # Errors
///
/// Those of the call. [`no_thread`]: the call was not made, and will not be.
///
/// # Panics
///
/// Outside a tokio runtime.
pub(super) async fn run_blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let job = move || {
        let _ = sender.send(call()); // its future may be gone
    };
    if spawn_blocking(&Handle::current(), job, |job| job()).is_err() {
        return Err(no_thread());
    }
    receiver.await.unwrap_or_else(|_| {
        let text = "the call was not made or did not return: its tokio runtime has shut down";
        Err(io::Error::other(text))
    })
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.open.as_raw_fd()
    }
}

impl AsRawFd for &File {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.open.as_raw_fd()
    }
}
