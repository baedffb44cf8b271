//! Opens files through a handle: io_uring opens them, and tokio's blocking pool on other backends.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use lock_api::RawMutex;
use tokio::time::Instant;

use super::alignment_query::reported_alignment;
use super::direct::{make_direct, make_direct_as};
use super::dispatch::run_blocking;
use super::open_error::with_path;
use super::open_flags::OpenFlags;
use super::{BoundFile, File};
use crate::backend::OpCode;
use crate::buf::PathToOpen;
use crate::context::TransferMode;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoOp, IoRequest, OpenFile};
use crate::{AioCommandError, GenericAioContextHandle};

impl<M: RawMutex, A, L> GenericAioContextHandle<M, A, L> {
    /// Opens an existing file for reading, and binds it to a clone of this handle. See
    /// [`open_with`](GenericAioContextHandle::open_with) for the errors, cancel safety and panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, AlignedBuf, Backend, ReadFlags};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let handle = AioContextBuilder::new(8)
    ///     .backends(&[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool])
    ///     .build_detached()?;
    /// let table = handle.open(path, false).await?;
    /// let mut page = AlignedBuf::new(4096)?;
    /// table.read_exact_at(0, &mut page, 4096, ReadFlags::empty()).await?;
    /// assert!(page.iter().all(|&byte| byte == 7));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(
        &self,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<BoundFile<M, A, L>> {
        let mut options = OpenOptions::new();
        options.read(true);
        self.open_with(&options, path, is_sync).await
    }

    /// Opens a file for writing, creates it if it does not exist, truncates it if it does, and binds it to a
    /// clone of this handle. See [`open_with`](GenericAioContextHandle::open_with) for the errors, cancel
    /// safety and panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::aio_context;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let (context, handle) = aio_context(8, true)?;
    /// let log = handle.create(path, false).await?;
    /// log.set_len(4096).await?;
    /// # drop(log);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(
        &self,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<BoundFile<M, A, L>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        self.open_with(&options, path, is_sync).await
    }

    /// Opens a file with any options, as [`File::open_with`] does, and binds it to a clone of this handle
    /// ([`File::with_handle`]).
    ///
    /// On [`Backend::IoUring`](crate::Backend::IoUring) the context opens the file
    /// ([`openat(2)`](https://man7.org/linux/man-pages/man2/openat.2.html)), which takes a slot of the context,
    /// and no thread of tokio's blocking pool. The pool has a job where the alignment of the file has to be
    /// tested by reads (tmpfs, btrfs, overlayfs), if a signal interrupts the call, and for a FIFO that has no
    /// reader. On other backends the pool opens the file. The deadline of the handle applies on every backend.
    ///
    /// # Errors
    ///
    /// Those of [`aio_open`](crate::AioOpenOptionsExt::aio_open), and an [`AioCommandError`], as the source of an
    /// error without an errno: the context has ended, the deadline has passed, the process is a forked child of
    /// the one that made the context, or, on io_uring, no slot is free and requests do not wait for one.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped, after the deadline and after the end of the context, the file may still be
    /// opened, created and truncated. Then it is closed again. On io_uring, an open by the ring is cancelled where
    /// the kernel can: before it has begun, and while it waits for another process. An open that the pool performs
    /// is not cancelled: it holds its thread, and the shutdown of the caller's runtime waits for that thread.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the pool has to do something; never on a context with its [own
    /// thread](crate::AioContextBuilder::own_thread).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::{AioContextBuilder, Backend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let handle = AioContextBuilder::new(8)
    ///     .backends(&[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool])
    ///     .build_detached()?;
    /// let mut options = OpenOptions::new();
    /// options.read(true).write(true).create_new(true);
    /// let table = handle.open_with(&options, path, false).await?;
    /// table.write_bytes_at(0, b"header", Default::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "openat")]
    pub async fn open_with(
        &self,
        options: &OpenOptions,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<BoundFile<M, A, L>> {
        let limited = self.limited();
        let (deadline, handle) = self.or_limited(&limited);
        handle.check_start(deadline)?;
        let opened = handle.open_in_context(options, path.as_ref(), is_sync, deadline);
        let file = match opened.await {
            Some(result) => result?,
            None => {
                handle.check_start(deadline)?; // it may have ended meanwhile
                let opened = File::open_with(options, path, is_sync);
                handle.in_place_of_request(deadline, opened).await?
            }
        };
        Ok(file.with_handle(self))
    }

    /// Opens a file by a request. `None`: it was not opened in this way, and the pool should open it.
    async fn open_in_context(
        &self,
        options: &OpenOptions,
        path: &Path,
        is_sync: bool,
        deadline: Option<Instant>,
    ) -> Option<io::Result<File>> {
        if !self.file_calls().open || is_simulated(path) {
            return None;
        }
        let request = OpenRequest::new(options, path, is_sync)?;
        let placeholder = placeholder()?;
        let operation = self.request_operation(
            FileRef::Open(placeholder),
            (request.request(), BufferReturn::None, TransferMode::Single),
        );
        let file = match operation.await {
            Ok(_) => std::fs::File::from(request.path.take()?),
            Err(error) => return self.failed(error, path).map(Err),
        };
        let made = make_direct_or_wait(file, path);
        Some(self.in_place_of_request(deadline, made).await)
    }

    /// The error of an open by a request. `None`: the pool should open the file.
    fn failed(&self, error: AioCommandError, path: &Path) -> Option<io::Error> {
        match error.raw_os_error() {
            // The context was closed, and so has cancelled the open.
            Some(libc::ECANCELED | libc::EINTR) if self.check_start(None).is_err() => {
                Some(AioCommandError::AioStopped.into())
            }
            // No thread of the kernel could start, the one that submitted it has ended, or a signal has come.
            Some(libc::EAGAIN | libc::ECANCELED | libc::EINTR) => None,
            // The kernel tries to open without waiting: a FIFO that has no reader yet looks like this.
            Some(libc::ENXIO) => None,
            Some(errno) => Some(with_path(io::Error::from_raw_os_error(errno), path)),
            None => Some(error.into()),
        }
    }
}

/// Whether the path is on a simulated disk, or can't be on any.
fn is_simulated(_path: &Path) -> bool {
    #[cfg(feature = "simulation")]
    return !matches!(crate::simulation::SimulatedPath::find(_path), Ok(None));
    #[cfg(not(feature = "simulation"))]
    false
}

/// A request that opens a file.
struct OpenRequest {
    op: IoOp,
    path: Arc<PathToOpen>,
}

impl OpenRequest {
    /// `None`: the options can't be read, or the standard library refuses them or the path.
    fn new(options: &OpenOptions, path: &Path, is_sync: bool) -> Option<OpenRequest> {
        let (flags, mode) = OpenFlags::of(options)?.for_open()?;
        let flags = flags | if is_sync { libc::O_SYNC } else { 0 };
        let op = IoOp {
            rw_flags: flags,
            nbytes: mode.into(),
            ..IoOp::new(OpCode::Open)
        };
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let path = PathToOpen::new(path);
        Some(OpenRequest { op, path })
    }

    fn request(&self) -> IoRequest {
        IoRequest::new(self.op, IoBuffer::Path(Arc::clone(&self.path)))
    }
}

/// Makes a file direct that was just opened: on this thread, or on the pool if it takes reads.
async fn make_direct_or_wait(file: std::fs::File, path: &Path) -> io::Result<File> {
    let reported = reported_alignment(&file);
    let (file, made) = match reported {
        Some(_) => {
            let made = make_direct_as(&file, reported);
            (file, made)
        }
        None => {
            let job = move || {
                let made = make_direct(&file);
                Ok((file, made))
            };
            run_blocking(job).await?
        }
    };
    match made {
        Ok(facts) => Ok(File::new(file, facts)),
        Err(reason) => Err(reason.into_error(path.into())),
    }
}

/// The file of requests that have none yet: a waiting request has a file. It is the root directory, which is
/// not read. `None`: it can't be opened.
fn placeholder() -> Option<&'static Arc<OpenFile>> {
    static PLACEHOLDER: OnceLock<Option<Arc<OpenFile>>> = OnceLock::new();
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH);
        let root = options.open("/").ok()?;
        Some(Arc::new(OpenFile::new(root)))
    };
    PLACEHOLDER.get_or_init(open).as_ref()
}
