//! [`File`]: a file open for direct I/O.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use lock_api::RawMutex;

use super::dispatch::run_on_file;
use super::file_facts::FileFacts;
use super::unaligned_state::UnalignedState;
use crate::Alignment;
use crate::op::FileRef;
use crate::op::OpenFile;
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
/// # Clones
///
/// A clone is another owner of the same open file, and cheap: the descriptor is not duplicated. All owners
/// share the [submit policy](File::set_submit_policy) and everything that was learned about the file, and
/// their appends keep their order. The file is closed when its last owner is dropped and no request uses it
/// any more.
///
/// # Threads
///
/// Calls that the kernel can't do asynchronously run on tokio's blocking pool: opening, and the methods
/// whose documentation says so. Each of them has a twin whose name ends in `_blocking`, which runs on the
/// calling thread instead: for code that runs on the blocking pool, or on a thread of its own, already. A
/// twin needs no runtime. Called from a task, it blocks the executor.
///
/// Where the pool needs a thread and the system refuses to start one
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
#[derive(Clone, Debug)]
pub struct File {
    pub(super) inner: Arc<FileInner>,
    /// Whether the file was opened with `O_APPEND`.
    pub(super) appends: bool,
    /// Whether the file has `O_DIRECT`.
    pub(super) is_direct: bool,
}

/// The part of a [`File`] that its clones share.
#[derive(Debug)]
pub(super) struct FileInner {
    /// Shared with the requests on the file.
    pub(super) open: Arc<OpenFile>,
    /// What was known when the file was opened.
    pub(super) facts: FileFacts,
    /// Set once it is known, mostly from the start.
    pub(super) alignment: OnceLock<Alignment>,
    /// Created by the first unaligned transfer.
    unaligned: OnceLock<Box<UnalignedState>>,
}

impl FileInner {
    pub(super) fn new(file: OpenFile, facts: FileFacts) -> FileInner {
        FileInner {
            open: Arc::new(file),
            alignment: facts.alignment.map(OnceLock::from).unwrap_or_default(),
            unaligned: OnceLock::new(),
            facts,
        }
    }

    pub(super) fn file(&self) -> &std::fs::File {
        self.open.file()
    }

    pub(super) fn unaligned(&self) -> &UnalignedState {
        self.unaligned.get_or_init(Box::default)
    }
}

impl AsRef<OpenFile> for FileInner {
    fn as_ref(&self) -> &OpenFile {
        &self.open
    }
}

impl AsRawFd for FileInner {
    fn as_raw_fd(&self) -> RawFd {
        self.open.as_raw_fd()
    }
}

impl File {
    /// Creates a direct file.
    pub(super) fn new(file: std::fs::File, facts: FileFacts) -> File {
        File::of_open_file(OpenFile::new(file), facts)
    }

    /// Creates a direct file of an open file.
    pub(super) fn of_open_file(file: OpenFile, facts: FileFacts) -> File {
        File {
            appends: facts.appends(),
            inner: Arc::new(FileInner::new(file, facts)),
            is_direct: true,
        }
    }

    pub(crate) fn open_file(&self) -> &Arc<OpenFile> {
        &self.inner.open
    }

    pub(crate) fn file_ref(&self) -> FileRef<'_> {
        FileRef::Open(&self.inner.open)
    }

    /// Applies [`File::write_flags`] to a write command.
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

    /// Adds `APPEND` if the kernel appends anyway, so that the context keeps appends in order.
    #[inline]
    pub(crate) fn write_flags(&self, flags: WriteFlags) -> WriteFlags {
        match self.appends && !flags.contains(WriteFlags::NOAPPEND) {
            true => flags | WriteFlags::APPEND,
            false => flags,
        }
    }

    /// Sets the policy by which later operations on this file are submitted. `None`, the default: the policy
    /// of the context ([`AioContextBuilder::submit_policy`](crate::AioContextBuilder::submit_policy)).
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

    /// Returns the submit policy of this file. `None`: the policy of the context applies.
    pub fn submit_policy(&self) -> Option<SubmitPolicy> {
        self.inner.open.history().policy()
    }

    /// Truncates or extends the file to `size` bytes, on tokio's blocking pool. See
    /// [`std::fs::File::set_len`].
    ///
    /// # Errors
    ///
    /// The errors of [`ftruncate(2)`](https://man7.org/linux/man-pages/man2/ftruncate.2.html).
    /// [`io::ErrorKind::InvalidInput`], with a text that says so: `size` exceeds `i64::MAX`.
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
        run_on_file(Arc::clone(&self.inner), move |file| set_len(file, size)).await
    }

    /// Does what [`set_len`](File::set_len) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`set_len`](File::set_len), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create_blocking(&path, false)?;
    /// file.set_len_blocking(1 << 20)?;
    /// assert_eq!(std::fs::metadata(&path)?.len(), 1 << 20);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_len_blocking(&self, size: u64) -> io::Result<()> {
        set_len(&self.inner, size)
    }

    /// Takes note of a new length.
    pub(super) fn on_len_set(&self, size: u64) {
        self.inner.open.history().ends_at(size);
    }

    /// Returns the metadata of the file:
    /// [`fstat(2)`](https://man7.org/linux/man-pages/man2/fstat.2.html), on tokio's blocking pool. See
    /// [`std::fs::File::metadata`].
    ///
    /// # Errors
    ///
    /// The errors of the system call.
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
        run_on_file(Arc::clone(&self.inner), |file| file.open.metadata()).await
    }

    /// Does what [`metadata`](File::metadata) does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`metadata`](File::metadata), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create_blocking(path, false)?;
    /// file.set_len_blocking(4096)?;
    /// assert_eq!(file.metadata_blocking()?.len(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub fn metadata_blocking(&self) -> io::Result<Metadata> {
        self.inner.open.metadata()
    }

    /// Returns the metadata that the file had when it was opened, or when its descriptor was
    /// [converted](File::from_std): length, times, inode. Makes no call: opening queries the metadata of
    /// the open file anyway. [`metadata`](File::metadata) returns the current metadata.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::MetadataExt;
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("object");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let object = File::open(path, false).await?;
    /// let metadata = object.metadata_at_open();
    /// let etag = format!("{:x}-{:x}-{:x}", metadata.ino(), metadata.mtime_nsec(), metadata.len());
    /// # assert!(etag.ends_with("-1000"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn metadata_at_open(&self) -> &Metadata {
        &self.inner.facts.metadata
    }

    /// Changes the permissions of the file, on tokio's blocking pool. See
    /// [`std::fs::File::set_permissions`].
    ///
    /// # Errors
    ///
    /// The errors of [`fchmod(2)`](https://man7.org/linux/man-pages/man2/fchmod.2.html).
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
        let set = move |file: &FileInner| file.open.set_permissions(perm);
        run_on_file(Arc::clone(&self.inner), set).await
    }

    /// Does what [`set_permissions`](File::set_permissions) does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`set_permissions`](File::set_permissions), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create_blocking(path, false)?;
    /// file.set_permissions_blocking(PermissionsExt::from_mode(0o600))?;
    /// assert_eq!(file.metadata_blocking()?.permissions().mode() & 0o777, 0o600);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_permissions_blocking(&self, perm: Permissions) -> io::Result<()> {
        self.inner.open.set_permissions(perm)
    }

    /// Waits for all requests that were submitted on this file through this context before: reads, writes
    /// and syncs, including those whose future was dropped or timed out. Does not wait for requests that are
    /// submitted later.
    ///
    /// Dropping a future only abandons its request: an abandoned write may land after a later write and
    /// overwrite its data. After the drain no abandoned write can land any more, and the same range can be
    /// written again. [Clones](File::try_clone) of the file count as this file.
    ///
    /// Some operations take several requests, one after another: operations on more than 1024 buffers or
    /// more than 2 GiB, short transfers that `read_exact_at` and `write_all_at` resume,
    /// [`read_bytes_at`](File::read_bytes_at) and [`write_bytes_at`](File::write_bytes_at). As long as its
    /// future is polled, such an operation may submit further requests after the drain. An operation that
    /// was dropped or timed out submits no more. So finish or drop your own operations before you drain.
    ///
    /// The drain ignores the deadline of the handle, and waits forever on a stuck disk. Use
    /// [`tokio::time::timeout`] to give up.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost. The drain waits for the requests that exist when it is first polled.
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
    ///     file.drain(&handle).await; // the first write has landed, or never will
    ///     file.write_at(&handle, 0, &second, 4096, WriteFlags::DSYNC).await?;
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain<M: RawMutex, A, L>(&self, aio_handle: &GenericAioContextHandle<M, A, L>) {
        aio_handle.drain(self.inner.open.id()).await;
    }

    /// Makes the data and metadata of all writes durable that have completed before. See
    /// [`RawCommand::Fsync`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `EIO`: an earlier write could not be made durable.
    ///
    /// # Cancel safety
    ///
    /// The sync may or may not take effect after its future is dropped.
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
        expect_zero(
            aio_handle
                .operation(FileRef::Open(&self.inner.open), RawCommand::Fsync)
                .await,
        )
    }

    /// Makes the data of all writes durable that have completed before, with the metadata that is needed to
    /// read it. See [`RawCommand::Fdsync`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `EIO`: an earlier write could not be made durable.
    ///
    /// # Cancel safety
    ///
    /// The sync may or may not take effect after its future is dropped.
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
        expect_zero(
            aio_handle
                .operation(FileRef::Open(&self.inner.open), RawCommand::Fdsync)
                .await,
        )
    }

    /// Does what [`sync_all`](File::sync_all) does, on the calling thread, which waits for the disk. Needs no
    /// context.
    ///
    /// # Errors
    ///
    /// The errors of [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html). `EIO`: an earlier
    /// write could not be made durable.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create_blocking(path, false)?;
    /// file.set_len_blocking(4096)?;
    /// file.sync_all_blocking()?; // the length is durable now
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "fsync")]
    pub fn sync_all_blocking(&self) -> io::Result<()> {
        self.inner.open.sync_all()
    }

    /// Does what [`sync_data`](File::sync_data) does, on the calling thread, which waits for the disk. Needs
    /// no context.
    ///
    /// # Errors
    ///
    /// The errors of [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html). `EIO`: an
    /// earlier write could not be made durable.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create_blocking(path, false)?;
    /// file.set_len_blocking(4096)?;
    /// file.sync_data_blocking()?; // the length is durable now: it is needed to read the data
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "fdatasync")]
    pub fn sync_data_blocking(&self) -> io::Result<()> {
        self.inner.open.sync_data()
    }
}

/// Converts the result of a sync, which is 0 bytes.
fn expect_zero(result: Result<u64, AioCommandError>) -> Result<(), AioCommandError> {
    match result? {
        0 => Ok(()),
        _ => Err(AioCommandError::NonZeroCode),
    }
}

fn set_len(file: &FileInner, size: u64) -> io::Result<()> {
    if i64::try_from(size).is_err() {
        return Err(length_error(file.file(), size));
    }
    file.open.set_len(size)?;
    file.open.history().ends_at(size);
    Ok(())
}

/// The error for a length that no file can have.
fn length_error(file: &std::fs::File, size: u64) -> io::Error {
    let text = format!(
        "{}: a length of {size} bytes exceeds the maximum length of a file, {} bytes",
        path_of(file).display(),
        i64::MAX
    );
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Returns the current path of `file`, for error texts.
pub(super) fn path_of(file: &fs::File) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::read_link(&link).unwrap_or_else(|_| link.into())
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
