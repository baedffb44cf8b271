//! Errors of operations and contexts. Their texts say what to do.

use std::ops::Range;
use std::sync::Arc;
use std::{fmt, fs, io};

use thiserror::Error;

use crate::backend::Backend;
use crate::eventfd::EventFdError;
#[cfg(doc)]
use crate::op::IoBuffer;
use crate::op::IoOp;
use crate::sys::{self, DirectIo, Process};

/// The error of an operation. It does not affect other operations of the context. The caller gets its
/// buffer back:
///
/// - A borrowed [`AlignedBuf`](crate::AlignedBuf) always, but with new memory if the kernel still uses the
///   old memory ([details](crate::AlignedBuf#while-an-operation-runs)).
/// - An owned buffer, unless the error is [`TimedOut`](AioCommandError::TimedOut) or
///   [`AioStopped`](AioCommandError::AioStopped) and the request was in flight
///   ([details](crate::File::read_owned_at)).
///
/// A future breaking release may add variants.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AioCommandError, AlignedBuf, File, ReadFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// let (context, handle) = aio_context(8, true)?;
/// let write_only = File::create(path, false).await?;
/// let mut buffer = AlignedBuf::new(4096)?;
/// match write_only.read_at(&handle, 0, &mut buffer, 4096, ReadFlags::empty()).await {
///     Err(error @ AioCommandError::IoSubmit(_)) => assert_eq!(error.raw_os_error(), Some(9)), // EBADF
///     read => panic!("{read:?}"),
/// }
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Error, Debug)]
pub enum AioCommandError {
    /// The context was closed or dropped, or its runtime was shut down, before the operation completed.
    #[error(
        "the AIO context has ended: it was closed or dropped, or its runtime was shut down; \
         keep the context for as long as its handles are used"
    )]
    AioStopped,

    /// The request was not submitted, or the kernel refused it
    /// ([`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html)):
    ///
    /// - `EAGAIN`: the kernel has no memory for the request, tokio could not start a blocking thread, or
    ///   io_uring could start no thread (`RLIMIT_NPROC`, or `pids.max` of the cgroup).
    /// - `EBADF`: the descriptor is closed, or was opened in the wrong mode.
    /// - `EINVAL`: the transfer would end past `i64::MAX`; the file does not support the operation; or the
    ///   context was created by the parent of this
    ///   [forked](https://man7.org/linux/man-pages/man2/fork.2.html) process.
    /// - `EMFILE`: no descriptor is left for the duplicate that a request needs while it waits for a slot.
    /// - `ENOMEM`: an abandoned write still reads the buffer of a new read, and there is no memory for a
    ///   copy of the buffer.
    /// - `EOPNOTSUPP`: the kernel or the file system does not support a flag.
    #[error("the kernel did not take the request: {0}{hint}", hint = SubmitHint(.0))]
    IoSubmit(#[source] io::Error),

    /// The request ran and failed: `EIO`, `ENOSPC`, `EAGAIN` (with `NOWAIT`), `EINVAL` (direct I/O
    /// without the alignment that the file requires; the message reports the alignment), …
    ///
    /// An `EINVAL` with an explanation is wrapped in another [`io::Error`], whose
    /// [`io::Error::raw_os_error`] is `None`. [`AioCommandError::raw_os_error`] returns the errno in both
    /// cases.
    #[error("the request failed: {0}{hint}", hint = ResultHint(.0))]
    BadResult(#[source] io::Error),

    /// A sync returned a number of bytes. No kernel is known to do this.
    #[error("a request that moves no data returned a non-zero code")]
    NonZeroCode,

    /// The operation did not complete before its deadline
    /// ([`with_deadline`](crate::GenericAioContextHandle::with_deadline),
    /// [`with_timeout`](crate::GenericAioContextHandle::with_timeout)). A request that still waited for a
    /// slot is never submitted. A request in flight is abandoned, as if its future had been dropped: a write
    /// may still reach the file ([`File::drain`](crate::File::drain) waits for it). A
    /// [poll](crate::RawCommand::Poll) is cancelled. A call that the blocking pool performs goes on too, and
    /// `drain` does not wait for it.
    ///
    /// **If the kernel still uses an owned buffer, an empty buffer is returned instead. The next operation on
    /// the empty buffer succeeds without moving a byte. To retry, keep a copy of the data or use a new
    /// buffer.** The docs of [`read_owned_at`](crate::File::read_owned_at) list what is returned for each
    /// type of buffer.
    #[error(
        "the operation did not complete before its deadline; a transfer in flight continues, and a write \
         may still reach the file (`File::drain` waits for it)"
    )]
    TimedOut,

    /// All slots of the context are in use, and the context was created with `use_semaphore` `false` or
    /// [`wait_for_slot(false)`](crate::AioContextBuilder::wait_for_slot).
    #[error(
        "all slots of the AIO context are in use: wait until an operation completes, create the context \
         with a larger `nr`, or let requests wait for a slot (`use_semaphore`, \
         `AioContextBuilder::wait_for_slot`)"
    )]
    CapacityExceeded,
}

impl AioCommandError {
    /// The error of an operation on a context that the parent of this process created.
    #[cold]
    pub(crate) fn forked_child() -> AioCommandError {
        AioCommandError::IoSubmit(io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Returns the errno of the error, if it has one.
    ///
    /// ```
    /// use std::io;
    /// use tokio_kaio::AioCommandError;
    ///
    /// let error = AioCommandError::BadResult(io::Error::from_raw_os_error(28));
    /// assert_eq!(error.raw_os_error(), Some(28)); // ENOSPC
    /// assert_eq!(AioCommandError::AioStopped.raw_os_error(), None);
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        let (Self::IoSubmit(error) | Self::BadResult(error)) = self else {
            return None;
        };
        error.raw_os_error().or_else(|| {
            let explained = error.get_ref()?.source()?;
            explained.downcast_ref::<io::Error>()?.raw_os_error()
        })
    }

    /// Returns the kind of the error. It is the kind of the [`io::Error`] that this error converts to:
    ///
    /// - [`IoSubmit`](AioCommandError::IoSubmit) and [`BadResult`](AioCommandError::BadResult): the kind of
    ///   the inner error.
    /// - [`TimedOut`](AioCommandError::TimedOut): [`TimedOut`](io::ErrorKind::TimedOut).
    /// - [`CapacityExceeded`](AioCommandError::CapacityExceeded):
    ///   [`WouldBlock`](io::ErrorKind::WouldBlock).
    /// - [`AioStopped`](AioCommandError::AioStopped) and [`NonZeroCode`](AioCommandError::NonZeroCode):
    ///   [`Other`](io::ErrorKind::Other), as tokio does for a runtime that has stopped. No caller retries
    ///   this kind, or takes it for an expected end such as a closed pipe.
    ///
    /// ```
    /// use std::io::{self, ErrorKind};
    /// use tokio_kaio::AioCommandError;
    ///
    /// let error = AioCommandError::BadResult(io::Error::from_raw_os_error(28)); // ENOSPC
    /// assert_eq!(error.kind(), ErrorKind::StorageFull);
    /// assert_eq!(AioCommandError::TimedOut.kind(), ErrorKind::TimedOut);
    /// ```
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            AioCommandError::IoSubmit(within) | AioCommandError::BadResult(within) => within.kind(),
            AioCommandError::TimedOut => io::ErrorKind::TimedOut,
            AioCommandError::CapacityExceeded => io::ErrorKind::WouldBlock,
            AioCommandError::AioStopped | AioCommandError::NonZeroCode => io::ErrorKind::Other,
        }
    }

    /// Whether the file ended before all bytes were read, as
    /// [`read_exact_at`](crate::File::read_exact_at) reports it.
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut buffer = AlignedBuf::new(8192)?;
    /// match file.read_exact_at(&handle, 0, &mut buffer, 8192, ReadFlags::empty()).await {
    ///     Err(error) if error.is_unexpected_eof() => println!("the table was truncated: {error}"),
    ///     read => panic!("{read:?}"),
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_unexpected_eof(&self) -> bool {
        self.kind() == io::ErrorKind::UnexpectedEof
    }
}

/// The error of creating a context. All resources are released. With
/// [shards](crate::AioContextBuilder::shards), the shards that were created release their share of
/// `fs.aio-max-nr` about 32 ms later. A second attempt with a smaller `nr` may fail until then.
#[derive(Error, Debug)]
pub enum AioContextError {
    /// There is no tokio runtime, or the eventfd can't be created or registered.
    #[error("no eventfd for the AIO context: {0}")]
    EventFd(#[from] EventFdError),

    /// The backend can't be set up. Kernel AIO returns the errors of
    /// [`io_setup(2)`](https://man7.org/linux/man-pages/man2/io_setup.2.html):
    ///
    /// - `EINVAL` (any backend): `nr` is 0, or more than the backend supports.
    /// - `EAGAIN`: `fs.aio-max-nr` is exhausted.
    /// - `EPERM` or `ENOSYS`: a sandbox forbids AIO, or the kernel was built without it.
    /// - `ENOMEM`: there is not enough memory.
    ///
    /// The errors of [io_uring](crate::Backend::IoUring), of
    /// [`io_uring_setup(2)`](https://man7.org/linux/man-pages/man2/io_uring_setup.2.html) and
    /// [`io_uring_register(2)`](https://man7.org/linux/man-pages/man2/io_uring_register.2.html), are wrapped
    /// in another [`io::Error`], which says what to do. [`AioContextError::raw_os_error`] returns their
    /// errno:
    ///
    /// - `EPERM` or `ENOSYS`: the sysctl `kernel.io_uring_disabled` or a sandbox forbids io_uring, or the
    ///   kernel was built without it.
    /// - `ENOMEM`: there is not enough memory. Before Linux 5.12, and again since about 6.14, a ring counts as
    ///   locked memory (`RLIMIT_MEMLOCK`). One that was closed counts until the kernel has released it, in
    ///   the background.
    /// - `EMFILE` or `ENFILE`: no descriptor is left.
    /// - None, with the kind [`Unsupported`](io::ErrorKind::Unsupported): the kernel is too old, or this
    ///   program was built without the feature `io-uring`. The text says which.
    ///
    /// If no backend of a [list](crate::AioContextBuilder::backends) is available, the text has the reason for
    /// each, and the kind and the errno are those of the last one.
    #[error("can't set up the AIO context: {0}{hint}", hint = SetupHint(.0))]
    IoSetup(#[from] io::Error),
}

impl AioContextError {
    /// The error of a context on io_uring that can't be set up.
    #[cold]
    pub(crate) fn of_uring(error: io::Error) -> AioContextError {
        AioContextError::IoSetup(io::Error::new(error.kind(), UringSetup { error }))
    }

    /// Returns the errno of the error, if it has one. If no backend of a
    /// [list](crate::AioContextBuilder::backends) is available, that is the errno of the last one.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::aio_context;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = aio_context(0, true).unwrap_err();
    /// assert_eq!(error.raw_os_error(), Some(22)); // EINVAL
    /// # }
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        let error = match self {
            AioContextError::IoSetup(error)
            | AioContextError::EventFd(
                EventFdError::CreateError(error)
                | EventFdError::PollError(error)
                | EventFdError::ReadError(error),
            ) => error,
        };
        if let Some(errno) = error.raw_os_error() {
            return Some(errno);
        }
        let explained = error.get_ref()?;
        if let Some(NoBackend { errors }) = explained.downcast_ref() {
            return errors.last()?.1.raw_os_error();
        }
        explained.downcast_ref::<UringSetup>()?.error.raw_os_error()
    }

    /// The error of a context for which no backend is available, of the errors of all, in the order in which
    /// they were tried.
    #[cold]
    pub(crate) fn of_backends(errors: Vec<(Backend, Arc<AioContextError>)>) -> AioContextError {
        let kind = errors.last().and_then(|(_, last)| match &**last {
            AioContextError::IoSetup(error) => Some(error.kind()),
            AioContextError::EventFd(_) => None,
        });
        let kind = kind.unwrap_or(io::ErrorKind::Other);
        AioContextError::IoSetup(io::Error::new(kind, NoBackend { errors }))
    }

    /// The error and the hint, for a text that names the backend.
    pub(crate) fn reason(&self) -> impl fmt::Display + '_ {
        SetupReason(self)
    }
}

struct SetupReason<'a>(&'a AioContextError);

impl fmt::Display for SetupReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AioContextError::IoSetup(error) = self.0 else {
            return self.0.fmt(f);
        };
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(UringSetup { error }) => write!(f, "{error}{}", UringSetupHint(error)),
            None => write!(f, "{error}{}", SetupHint(error)),
        }
    }
}

/// The errors of all backends of a list.
#[derive(Debug)]
struct NoBackend {
    errors: Vec<(Backend, Arc<AioContextError>)>,
}

impl fmt::Display for NoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no backend is available")?;
        let mut separator = ": ";
        for (backend, error) in &self.errors {
            write!(f, "{separator}{backend}: {}", error.reason())?;
            separator = "; ";
        }
        Ok(())
    }
}

impl std::error::Error for NoBackend {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let (_, last) = self.errors.last()?;
        Some(&**last)
    }
}

/// An error of the setup of io_uring.
#[derive(Debug, Error)]
#[error("io_uring: {error}{hint}{advice}", hint = UringSetupHint(.error), advice = OtherBackendAdvice(.error))]
struct UringSetup {
    #[source]
    error: io::Error,
}

/// Converts the error for functions that return [`io::Result`].
///
/// The result has the same text. [`io::Error::downcast`] returns the `AioCommandError`, whose
/// [`raw_os_error`](AioCommandError::raw_os_error) has the errno. [`io::Error::raw_os_error`] of the result
/// is `None`.
///
/// The [kind](io::Error::kind) of the result is [`AioCommandError::kind`].
///
/// # Examples
///
/// ```
/// use std::io;
/// use tokio_kaio::{AioCommandError, AlignedBuf, File, WriteFlags, aio_context};
///
/// async fn save(file: &File) -> io::Result<()> {
///     let (context, handle) = aio_context(8, true)?;
///     let buffer = AlignedBuf::new(4096)?;
///     file.write_all_at(&handle, 0, &buffer, 4096, WriteFlags::DSYNC).await?;
///     context.close().await;
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// let file = File::create(&path, false).await?;
/// save(&file).await?;
///
/// let read_only = File::open(&path, false).await?;
/// let error = save(&read_only).await.unwrap_err();
/// let within = error.downcast::<AioCommandError>()?;
/// assert_eq!(within.raw_os_error(), Some(9)); // EBADF
/// # Ok(())
/// # }
/// ```
impl From<AioCommandError> for io::Error {
    fn from(error: AioCommandError) -> io::Error {
        let kind = error.kind();
        io::Error::new(kind, error)
    }
}

/// Converts the error for functions that return [`io::Result`]. The result has the same text, and the
/// [kind](io::Error::kind) of the inner error. [`io::Error::downcast`] returns the `AioContextError`, whose
/// inner error has the errno ([`io::Error::raw_os_error`]).
///
/// # Examples
///
/// ```
/// use std::io;
/// use tokio_kaio::{AioContext, AioContextError, AioContextHandle, aio_context};
///
/// fn start(nr: usize) -> io::Result<(AioContext, AioContextHandle)> {
///     Ok(aio_context(nr, true)?)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// let error = start(0).unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
/// match error.downcast::<AioContextError>()? {
///     AioContextError::IoSetup(within) => assert_eq!(within.raw_os_error(), Some(22)), // EINVAL
///     other => panic!("{other}"),
/// }
/// # Ok(())
/// # }
/// ```
impl From<AioContextError> for io::Error {
    fn from(error: AioContextError) -> io::Error {
        let kind = match &error {
            AioContextError::EventFd(within) => within.kind(),
            AioContextError::IoSetup(within) => within.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// A hint for a failed submission.
struct SubmitHint<'a>(&'a io::Error);

impl fmt::Display for SubmitHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.0.raw_os_error() {
            Some(libc::EBADF) => {
                "the descriptor is closed, or the file was opened without the access (read or write) \
                 that the request needs"
            }
            Some(libc::EINVAL) if Process::is_forked() => {
                "this process was made by fork and can't use its parent's contexts: make one in the child; \
                 or flags exclude each other (APPEND, NOAPPEND); or the file does not support the operation"
            }
            Some(libc::EINVAL) => {
                "flags exclude each other (APPEND, NOAPPEND), or the file does not support the operation, as \
                 files of procfs do not support kernel AIO (`Backend::ThreadPool` reads them)"
            }
            Some(libc::EOPNOTSUPP) => {
                "the kernel or the file system does not support a flag of the request; submit the \
                 request without that flag"
            }
            Some(libc::EAGAIN) => {
                "the kernel has no memory for the request, or no thread can be started for it (ulimit -u, \
                 pids.max of the cgroup); try again later"
            }
            Some(libc::EPERM) => {
                "an I/O priority of class RealTime requires CAP_SYS_NICE or CAP_SYS_ADMIN"
            }
            Some(libc::EMFILE) => {
                "raise RLIMIT_NOFILE (ulimit -n), or let fewer requests wait for a slot"
            }
            _ => return Ok(()),
        };
        write!(f, ": {hint}")?;
        match self.0.raw_os_error() {
            Some(libc::EBADF) if cfg!(feature = "simulation") => f.write_str(
                "; or the file is on a simulated disk and the context is not of that disk, or the reverse \
                 (`AioContextBuilder::simulated`)",
            ),
            _ => Ok(()),
        }
    }
}

/// A hint for a request that failed.
struct ResultHint<'a>(&'a io::Error);

impl fmt::Display for ResultHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::EAGAIN) => {
                write!(f, ": the request would block; submit it without `NOWAIT`")
            }
            Some(libc::EFBIG) => write!(
                f,
                ": the file would exceed RLIMIT_FSIZE (ulimit -f) or the limit of the file system"
            ),
            _ => Ok(()),
        }
    }
}

/// A hint for a failed setup. Reads the limits when it is formatted.
struct SetupHint<'a>(&'a io::Error);

impl fmt::Display for SetupHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::EAGAIN) => {
                let (limit, used) = (aio_sysctl("aio-max-nr"), aio_sysctl("aio-nr"));
                write!(
                    f,
                    ": fs.aio-max-nr, the limit for all contexts on this machine, is {limit}, and \
                     {used} of it are in use; raise it (sysctl fs.aio-max-nr=...) or create the \
                     context with a smaller `nr`"
                )
            }
            Some(libc::EINVAL) => {
                let limit = aio_sysctl("aio-max-nr");
                write!(
                    f,
                    ": `nr`, the largest number of requests in flight, must be at least 1 and not \
                     more than the backend supports; with kernel AIO, also not more than fs.aio-max-nr, \
                     which is {limit}"
                )
            }
            Some(libc::EPERM) => write!(
                f,
                ": AIO is forbidden, probably by a seccomp filter of a sandbox or container; \
                 allow io_setup, io_submit, io_getevents and io_destroy"
            ),
            Some(libc::ENOSYS) => write!(
                f,
                ": no AIO is available; the kernel was built without CONFIG_AIO, or a sandbox \
                 hides it"
            ),
            _ => Ok(()),
        }
    }
}

/// A hint for a failed setup of io_uring. Reads the sysctl when it is formatted.
struct UringSetupHint<'a>(&'a io::Error);

impl fmt::Display for UringSetupHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
                match sysctl.as_deref().map(str::trim) {
                    Ok(value @ ("1" | "2")) => write!(
                        f,
                        ": kernel.io_uring_disabled is {value}; set it to 0 (sysctl \
                         kernel.io_uring_disabled=0)"
                    ),
                    _ => write!(
                        f,
                        ": io_uring is forbidden, probably by a seccomp filter of a sandbox or \
                         container; allow io_uring_setup, io_uring_enter and io_uring_register"
                    ),
                }
            }
            Some(libc::ENOSYS) => write!(
                f,
                ": the kernel was built without CONFIG_IO_URING, or a sandbox hides it"
            ),
            Some(libc::ENOMEM) => write!(
                f,
                ": there is not enough memory; most kernels count a ring as locked memory: raise \
                 RLIMIT_MEMLOCK (ulimit -l), or create the context with a smaller `nr`"
            ),
            Some(libc::EMFILE | libc::ENFILE) => {
                write!(f, ": raise RLIMIT_NOFILE (ulimit -n), or close files")
            }
            _ => Ok(()),
        }
    }
}

/// The way out if io_uring is the only backend that was tried, and is not available.
struct OtherBackendAdvice<'a>(&'a io::Error);

impl fmt::Display for OtherBackendAdvice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => f.write_str(
                "; or name another backend after `Backend::IoUring` (`AioContextBuilder::backends`)",
            ),
            _ => Ok(()),
        }
    }
}

fn aio_sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/fs/{name}"))
        .map_or_else(|_| "unknown".into(), |value| value.trim().into())
}

/// Returns the error of a transfer of `len` bytes at `offset`, which would end past `largest`.
#[cold]
pub(crate) fn beyond_max_offset(offset: u64, len: u64, largest: u64) -> AioCommandError {
    let error = io::Error::from_raw_os_error(libc::EINVAL);
    let past = PastTheLargest {
        error,
        offset,
        len,
        largest,
    };
    AioCommandError::IoSubmit(io::Error::new(io::ErrorKind::InvalidInput, past))
}

#[derive(Debug, Error)]
#[error("{error}: {len} bytes at offset {offset} would end past {largest}, the largest offset")]
struct PastTheLargest {
    #[source]
    error: io::Error,
    offset: u64,
    len: u64,
    largest: u64,
}

/// Checks that `range` does not end before it starts.
///
/// # Errors
///
/// `IoSubmit`, `EINVAL`, with a text that says so.
pub(crate) fn check_range(range: &Range<u64>) -> Result<(), AioCommandError> {
    if range.start <= range.end {
        return Ok(());
    }
    let reversed = ReversedRange {
        error: io::Error::from_raw_os_error(libc::EINVAL),
        range: range.clone(),
    };
    let error = io::Error::new(io::ErrorKind::InvalidInput, reversed);
    Err(AioCommandError::IoSubmit(error))
}

#[derive(Debug, Error)]
#[error("{error}: the range {range:?} ends before it starts")]
struct ReversedRange {
    #[source]
    error: io::Error,
    range: Range<u64>,
}

/// Adds the place to the error of one of several reads.
#[cfg(feature = "bytes")]
pub(crate) fn failed_read(error: AioCommandError, place: &Range<u64>) -> AioCommandError {
    match error {
        AioCommandError::BadResult(error) if error.raw_os_error().is_some() => {
            let kind = error.kind();
            let place = place.clone();
            AioCommandError::BadResult(io::Error::new(kind, FailedRead { error, place }))
        }
        others => others,
    }
}

#[cfg(feature = "bytes")]
#[derive(Debug, Error)]
#[error("{error}: a read of {} bytes at offset {}", .place.end - .place.start, .place.start)]
struct FailedRead {
    #[source]
    error: io::Error,
    place: Range<u64>,
}

/// A transfer, as error texts report it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// `None` if the transfer appends.
    pub(crate) offset: Option<u64>,
    pub(crate) len: u64,
}

impl Transfer {
    /// Returns `None` if the operation moves no data.
    pub(crate) fn of(op: &IoOp) -> Option<Transfer> {
        op.is_transfer().then(|| Transfer {
            offset: (!op.appends()).then_some(op.offset as u64),
            len: op.nbytes,
        })
    }
}

/// An `EINVAL` of direct I/O, with the alignment that the file requires.
#[derive(Debug)]
struct Misaligned {
    error: io::Error,
    transfer: Transfer,
    memory_is_aligned: bool,
    file: DirectIo,
}

impl fmt::Display for Misaligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes at ", self.error, self.transfer.len)?;
        match self.transfer.offset {
            Some(offset) => write!(f, "offset {offset}: ")?,
            None => write!(f, "the end of the file, offset {}: ", self.file.size)?,
        }
        match self.file.offset {
            0 => write!(f, "the file can't do direct I/O (according to statx)"),
            multiple => write!(
                f,
                "direct I/O on this file requires offset and length in multiples of {multiple} bytes, \
                 and memory aligned to {} (according to statx); {}",
                self.file.memory,
                self.hint()
            ),
        }
    }
}

impl Misaligned {
    fn offset(&self) -> u64 {
        self.transfer.offset.unwrap_or(self.file.size)
    }

    fn range_is_aligned(&self) -> bool {
        let aligned = |value: u64| value.checked_rem(self.file.offset.into()) == Some(0);
        aligned(self.offset()) && aligned(self.transfer.len)
    }

    fn hint(&self) -> &'static str {
        match self.range_is_aligned() {
            true => {
                "the memory is not aligned: use an AlignedBuf, whole or in aligned ranges (in a \
                 vectored transfer, each buffer and each length must be aligned)"
            }
            false => "read_bytes_at and write_bytes_at of File accept any offset and length",
        }
    }
}

impl std::error::Error for Misaligned {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// If `error` is an `EINVAL`, adds the alignment that the file of `fd` requires, provided that `statx`
/// reports it and the transfer violates it. Files without `O_DIRECT` require no alignment. For `memory`, see
/// [`IoBuffer::address_bits`].
pub(crate) fn explain(error: io::Error, fd: i32, transfer: Transfer, memory: u64) -> io::Error {
    if error.raw_os_error() != Some(libc::EINVAL) || !sys::is_direct(fd).unwrap_or(true) {
        return error;
    }
    let Ok(Some(file)) = sys::direct_io(fd) else {
        return error;
    };
    let misaligned = Misaligned {
        error,
        transfer,
        // Not kept: the address of a buffer has no place in the text of an error.
        memory_is_aligned: memory.checked_rem(file.memory.into()).unwrap_or(0) == 0,
        file,
    };
    match misaligned.range_is_aligned() && misaligned.memory_is_aligned {
        true => misaligned.error,
        false => io::Error::new(io::ErrorKind::InvalidInput, misaligned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AioContextBuilder, Backend};

    #[tokio::test]
    async fn the_error_of_nr_0_does_not_mention_io_setup_without_kernel_aio() {
        let builder = AioContextBuilder::new(0).backend(Backend::ThreadPool);
        let text = builder.build().unwrap_err().to_string();
        assert!(
            text.contains("`nr`") && text.contains("at least 1"),
            "{text}"
        );
        assert!(!text.contains("io_setup"), "{text}");
    }
    #[test]
    #[cfg(not(any(kaio_loom, miri)))]
    #[allow(unsafe_code)]
    fn einval_mentions_the_fork_only_in_a_forked_child() {
        let names_it = || {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            let text = AioCommandError::IoSubmit(error).to_string();
            text.contains("made by fork") && text.contains("make one in the child")
        };
        assert!(!names_it());
        // SAFETY: the child only formats an error and exits, so it needs no lock of another thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: no memory is passed. The alarm ends a child that hangs.
            unsafe { libc::alarm(20) };
            let code = i32::from(!names_it());
            // SAFETY: exits the child without running handlers or destructors.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `status` is valid for writes. The child was just created.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child did not name the fork");
        assert!(!names_it());
    }
}
