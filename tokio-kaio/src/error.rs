//! The errors of operations and of contexts, with hints about what to do.

use std::{fmt, fs, io};

use thiserror::Error;

use crate::eventfd::EventFdError;
#[cfg(doc)]
use crate::op::IoBuffer;
use crate::op::IoOp;
use crate::sys::{self, DirectIo, Process};

/// The error of an operation. The context stays usable, and the caller has its buffer back:
///
/// - A borrowed [`AlignedBuf`](crate::AlignedBuf) always; with other memory if the kernel still uses the
///   old ([details](crate::AlignedBuf#while-an-operation-runs)).
/// - An owned buffer except after [`TimedOut`](AioCommandError::TimedOut) and
///   [`AioStopped`](AioCommandError::AioStopped) in flight
///   ([details](crate::File::read_owned_at)).
///
/// A later, breaking version may have further variants.
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
    /// The context was closed or dropped, or its runtime was shut down, before the operation was
    /// done.
    #[error("the AIO context has stopped")]
    AioStopped,

    /// The request was not submitted, or the kernel refused it
    /// ([`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html)):
    ///
    /// - `EAGAIN`: no memory for the request; or no thread of tokio's blocking pool could be started.
    /// - `EBADF`: the descriptor is closed, or was opened in the wrong mode.
    /// - `EINVAL`: the transfer would end past `i64::MAX`; the file does not have the operation; or the
    ///   context was made by the parent of a [forked](https://man7.org/linux/man-pages/man2/fork.2.html)
    ///   process.
    /// - `EMFILE`: no descriptor is left for the duplicate that a request needs while it waits for a slot.
    /// - `ENOMEM`: no memory for a copy of a buffer that an abandoned write still reads.
    /// - `EOPNOTSUPP`: the kernel or the file system does not know a flag.
    #[error("the kernel did not take the request: {0}{hint}", hint = SubmitHint(.0))]
    IoSubmit(#[source] io::Error),

    /// The request ran and failed: `EIO`, `ENOSPC`, `EAGAIN` (with `NOWAIT`), `EINVAL` (direct I/O
    /// that is not aligned as the file wants it; the message says how), …
    ///
    /// The error that explains an `EINVAL` carries the text, so its
    /// [`io::Error::raw_os_error`] is `None`; [`AioCommandError::raw_os_error`] sees through that.
    #[error("the request failed: {0}{hint}", hint = ResultHint(.0))]
    BadResult(#[source] io::Error),

    /// An operation that moves no data reported a number of bytes. No kernel is known to do this.
    #[error("a request that moves no data returned a non-zero code")]
    NonZeroCode,

    /// The operation was not done at its deadline
    /// ([`with_deadline`](crate::GenericAioContextHandle::with_deadline),
    /// [`with_timeout`](crate::GenericAioContextHandle::with_timeout)). One that still waited for a slot
    /// never reaches the kernel. One that the kernel has goes on without anybody waiting for it, as if
    /// its future had been dropped: a write may still land
    /// ([`File::drain`](crate::File::drain) waits for that). A [poll](crate::RawCommand::Poll) is
    /// cancelled.
    ///
    /// **Of a buffer that was handed over, an empty one comes back where the kernel still has it, and the
    /// next operation on that succeeds without moving a byte: to try again, keep the data or take a new
    /// buffer.** [`read_owned_at`](crate::File::read_owned_at) and those beside it tell what comes back of
    /// each type.
    #[error("the operation was not done at its deadline; a transfer that the kernel has goes on")]
    TimedOut,

    /// All slots of the context are taken, and it was made with `use_semaphore` `false`, or
    /// [`wait_for_slot(false)`](crate::AioContextBuilder::wait_for_slot).
    #[error(
        "all slots of the AIO context are in use: wait for one of the operations, make the context \
         with a larger `nr`, or have requests wait for a slot (`use_semaphore`, \
         `AioContextBuilder::wait_for_slot`)"
    )]
    CapacityExceeded,
}

impl AioCommandError {
    /// The context belongs to the parent of this process.
    #[cold]
    pub(crate) fn forked_child() -> AioCommandError {
        AioCommandError::IoSubmit(io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// The errno behind the error, if the kernel gave one.
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
}

/// The error of making a context. Nothing is left behind. With
/// [shards](crate::AioContextBuilder::shards), the first shards return their part of `fs.aio-max-nr` only
/// some 32 ms later, so a second attempt with a smaller `nr` may fail until then.
#[derive(Error, Debug)]
pub enum AioContextError {
    /// No eventfd, or no tokio runtime to wait for it.
    #[error("no eventfd for the AIO context: {0}")]
    EventFd(#[from] EventFdError),

    /// `EINVAL`: `nr` is 0, or more than the backend takes. Or
    /// [`io_setup(2)`](https://man7.org/linux/man-pages/man2/io_setup.2.html) failed. `EAGAIN`:
    /// `fs.aio-max-nr` is used up. `EPERM` or `ENOSYS`: a sandbox forbids AIO, or the kernel has none.
    /// `ENOMEM`.
    #[error("can't set up the AIO context: {0}{hint}", hint = SetupHint(.0))]
    IoSetup(#[from] io::Error),
}

/// For functions that return [`io::Result`].
///
/// The text stays, and the error itself is within: [`io::Error::downcast`] gives it back, and with it
/// [`raw_os_error`](AioCommandError::raw_os_error). That of the `io::Error` is `None`.
///
/// The [kind](io::Error::kind) of [`IoSubmit`](AioCommandError::IoSubmit) and
/// [`BadResult`](AioCommandError::BadResult) is that of the error within;
/// [`TimedOut`](AioCommandError::TimedOut) is [`TimedOut`](io::ErrorKind::TimedOut),
/// [`CapacityExceeded`](AioCommandError::CapacityExceeded) is [`WouldBlock`](io::ErrorKind::WouldBlock).
/// [`AioStopped`](AioCommandError::AioStopped) and [`NonZeroCode`](AioCommandError::NonZeroCode) are
/// [`Other`](io::ErrorKind::Other), as is what tokio says of a runtime that has stopped: nobody takes them
/// for something to try again, or for an end that was to be expected, as one of a pipe.
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
        let kind = match &error {
            AioCommandError::IoSubmit(within) | AioCommandError::BadResult(within) => within.kind(),
            AioCommandError::TimedOut => io::ErrorKind::TimedOut,
            AioCommandError::CapacityExceeded => io::ErrorKind::WouldBlock,
            AioCommandError::AioStopped | AioCommandError::NonZeroCode => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// For functions that return [`io::Result`]: of the [kind](io::Error::kind) of the error within, and with
/// the same text. [`io::Error::downcast`] gives this one back, whose variant has the errno
/// ([`io::Error::raw_os_error`]).
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

/// What to do about a failed `io_submit`.
struct SubmitHint<'a>(&'a io::Error);

impl fmt::Display for SubmitHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.0.raw_os_error() {
            Some(libc::EBADF) => {
                "the descriptor is closed, or its file was not opened for reading or writing, \
                 whichever this is"
            }
            Some(libc::EINVAL) if Process::is_forked() => {
                "this process was made by fork, and can't use a context that its parent has made: make one \
                 in the child; or flags exclude each other (APPEND, NOAPPEND), or the kernel has no AIO on \
                 this file"
            }
            Some(libc::EINVAL) => {
                "flags exclude each other (APPEND, NOAPPEND), or the kernel has no AIO on this file"
            }
            Some(libc::EOPNOTSUPP) => {
                "a flag of the request is not known to the kernel, or not possible on this file \
                 system; submit it without"
            }
            Some(libc::EAGAIN) => {
                "the kernel has no memory for the request now, or no thread could be started for it; try \
                 again later"
            }
            Some(libc::EPERM) => {
                "an I/O priority of class RealTime takes CAP_SYS_NICE or CAP_SYS_ADMIN"
            }
            Some(libc::EMFILE) => "raise RLIMIT_NOFILE (ulimit -n), or have fewer requests wait",
            _ => return Ok(()),
        };
        write!(f, ": {hint}")
    }
}

/// What to do about a request that failed.
struct ResultHint<'a>(&'a io::Error);

impl fmt::Display for ResultHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::EAGAIN) => write!(f, ": it would have to wait; submit it without NOWAIT"),
            Some(libc::EFBIG) => write!(
                f,
                ": past RLIMIT_FSIZE (ulimit -f) or the largest file of the file system"
            ),
            _ => Ok(()),
        }
    }
}

/// What to do about a failed `io_setup`. Reads the limits when it is shown.
struct SetupHint<'a>(&'a io::Error);

impl fmt::Display for SetupHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::EAGAIN) => {
                let (limit, used) = (aio_sysctl("aio-max-nr"), aio_sysctl("aio-nr"));
                write!(
                    f,
                    ": fs.aio-max-nr, the limit for all contexts of the machine together, is \
                     {limit}, and {used} of it are in use; raise it (sysctl fs.aio-max-nr=...) or \
                     make the context with a smaller `nr`"
                )
            }
            Some(libc::EINVAL) => {
                write!(
                    f,
                    ": `nr`, the most requests in flight, must be at least 1, and not more than the \
                     backend takes"
                )
            }
            Some(libc::EPERM) => write!(
                f,
                ": AIO is forbidden here, probably by a seccomp filter of the sandbox or container; \
                 allow io_setup, io_submit, io_getevents and io_destroy"
            ),
            Some(libc::ENOSYS) => write!(
                f,
                ": there is no AIO here; the kernel was built without CONFIG_AIO, or a sandbox \
                 hides it"
            ),
            _ => Ok(()),
        }
    }
}

fn aio_sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/fs/{name}"))
        .map_or_else(|_| "unknown".into(), |value| value.trim().into())
}

/// The error for `len` bytes at `offset`, where a transfer can't end past `largest`.
#[cold]
pub(crate) fn past_the_largest(offset: u64, len: u64, largest: u64) -> AioCommandError {
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
#[error(
    "{error}: {len} bytes at offset {offset} would end past {largest}, the largest offset here"
)]
struct PastTheLargest {
    #[source]
    error: io::Error,
    offset: u64,
    len: u64,
    largest: u64,
}

/// A transfer, for the text of an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// `None`: at the end of the file.
    pub(crate) offset: Option<u64>,
    pub(crate) len: u64,
}

impl Transfer {
    /// `None`: it moves no data.
    pub(crate) fn of(op: &IoOp) -> Option<Transfer> {
        op.is_transfer().then(|| Transfer {
            offset: (!op.appends()).then_some(op.offset as u64),
            len: op.nbytes,
        })
    }
}

/// An `EINVAL` of direct I/O and what the file wants.
#[derive(Debug)]
struct Misaligned {
    error: io::Error,
    transfer: Transfer,
    /// See [`IoBuffer::address_bits`].
    memory: u64,
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
            0 => write!(f, "the file can't do direct I/O (statx)"),
            multiple => write!(
                f,
                "direct I/O on this file wants offset and length in multiples of {multiple} bytes, \
                 and memory aligned to {} (statx); {}",
                self.file.memory,
                self.way_out()
            ),
        }
    }
}

impl Misaligned {
    fn offset(&self) -> u64 {
        self.transfer.offset.unwrap_or(self.file.size)
    }

    fn place_is_aligned(&self) -> bool {
        let aligned = |value: u64| value.checked_rem(self.file.offset.into()) == Some(0);
        aligned(self.offset()) && aligned(self.transfer.len)
    }

    fn memory_is_aligned(&self) -> bool {
        self.memory
            .checked_rem(self.file.memory.into())
            .unwrap_or(0)
            == 0
    }

    fn way_out(&self) -> &'static str {
        match self.place_is_aligned() {
            true => {
                "the memory is not: use an AlignedBuf, whole or in ranges that are aligned \
                 (each of several buffers, each length)"
            }
            false => "read_bytes_at and write_bytes_at of a File take any",
        }
    }
}

impl std::error::Error for Misaligned {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Adds the alignment that the file behind `fd` requires to an `EINVAL`, if `statx` says it and the
/// transfer violates it. A buffered file requires none. `memory`: see [`IoBuffer::address_bits`].
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
        memory,
        file,
    };
    match misaligned.place_is_aligned() && misaligned.memory_is_aligned() {
        true => misaligned.error,
        false => io::Error::new(io::ErrorKind::InvalidInput, misaligned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AioContextBuilder, Backend};

    #[tokio::test]
    async fn an_nr_of_0_is_not_blamed_on_io_setup_where_there_is_none() {
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
    fn only_in_a_forked_child_einval_is_said_to_be_perhaps_of_the_fork() {
        let names_it = || {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            let text = AioCommandError::IoSubmit(error).to_string();
            text.contains("made by fork") && text.contains("make one in the child")
        };
        assert!(!names_it());
        // SAFETY: the child makes a text, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: takes a number. It ends a child that waits.
            unsafe { libc::alarm(20) };
            let code = i32::from(!names_it());
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child that was just made.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child did not name the fork");
        assert!(!names_it());
    }
}
