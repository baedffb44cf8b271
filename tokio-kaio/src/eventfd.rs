//! [`EventFd`]: an eventfd registered with tokio.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::coop::unconstrained;

use crate::sys::{self, Process};

/// The error of an operation on an [`EventFd`].
#[derive(Error, Debug)]
pub enum EventFdError {
    /// [`eventfd(2)`](https://man7.org/linux/man-pages/man2/eventfd.2.html) failed: `EMFILE` or
    /// `ENFILE` if no descriptor is left, `EINVAL` for an initial value larger than `u32::MAX`.
    #[error("can't create an eventfd: {0}{hint}", hint = DescriptorHint(.0))]
    CreateError(#[source] io::Error),

    /// tokio can't wait for the eventfd: there is no runtime, or the runtime shuts down.
    #[error("can't wait for an eventfd: {0}{hint}", hint = DescriptorHint(.0))]
    PollError(#[source] io::Error),

    /// Reading or writing the eventfd failed: `EINVAL` for a value of `u64::MAX`.
    #[error("can't transfer an eventfd's value: {0}")]
    ReadError(#[source] io::Error),
}

impl EventFdError {
    pub(crate) fn kind(&self) -> io::ErrorKind {
        let (Self::CreateError(within) | Self::PollError(within) | Self::ReadError(within)) = self;
        within.kind()
    }
}

const NO_RUNTIME: &str = "there is no tokio runtime on this thread: call it in one, or give the context a \
    thread of its own (AioContextBuilder::own_thread)";

/// A hint for an error that there is no descriptor left.
struct DescriptorHint<'a>(&'a io::Error);

impl fmt::Display for DescriptorHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match descriptor_hint(self.0) {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

/// Says what to do about an error that there is no descriptor left.
pub(crate) fn descriptor_hint(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EMFILE) => Some(
            "this process has reached its limit of open descriptors (RLIMIT_NOFILE): raise it (ulimit -n, \
             or LimitNOFILE= of the systemd unit), or close files",
        ),
        Some(libc::ENFILE) => Some(
            "the machine has reached its limit of open files: raise fs.file-max (sysctl), or close files",
        ),
        _ => None,
    }
}

/// Converts the error for functions that return [`io::Result`]. The result has the same text, and the
/// [kind](io::Error::kind) of the inner error. [`io::Error::downcast`] returns the `EventFdError`, whose
/// inner error has the errno ([`io::Error::raw_os_error`]).
///
/// # Examples
///
/// ```
/// use std::io;
/// use tokio_kaio::EventFd;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// let mut counter = EventFd::new(0, false)?;
/// counter.send_value(3).await?;
/// let refused: io::Error = counter.send_value(u64::MAX).await.unwrap_err().into();
/// assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
/// # Ok(())
/// # }
/// ```
impl From<EventFdError> for io::Error {
    fn from(error: EventFdError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

/// A counter in the kernel that tasks and other processes add to and wait for:
/// [`eventfd(2)`](https://man7.org/linux/man-pages/man2/eventfd.2.html).
///
/// As a [`Stream`] it yields the results of [`recv`](EventFd::recv). The stream ends after the first
/// error.
///
/// # Examples
///
/// ```
/// use tokio_kaio::EventFd;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut counter = EventFd::new(2, false)?;
/// counter.send_value(3).await?;
/// assert_eq!(counter.recv().await?, 5);
/// # Ok(())
/// # }
/// ```
pub struct EventFd {
    inner: ManuallyDrop<AsyncFd<File>>,
    owner: Process,
    /// The stream has returned an error.
    ended: bool,
}

impl EventFd {
    /// Creates a counter that starts at `init`. With `semaphore`, [`recv`](EventFd::recv) takes 1 from
    /// the counter; without it, the whole value.
    ///
    /// # Errors
    ///
    /// [`EventFdError::CreateError`]; [`EventFdError::PollError`] outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// In a tokio runtime whose I/O driver is not enabled.
    pub fn new(init: usize, semaphore: bool) -> Result<EventFd, EventFdError> {
        Handle::try_current().map_err(|_| EventFdError::PollError(io::Error::other(NO_RUNTIME)))?;
        let init = u32::try_from(init)
            .map_err(|_| EventFdError::CreateError(io::Error::from_raw_os_error(libc::EINVAL)))?;
        let fd = sys::create_eventfd(init, semaphore).map_err(EventFdError::CreateError)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[allow(unsafe_code)]
        // SAFETY: the file owns the descriptor, and is never replaced by another.
        let registered = unsafe { AsyncFd::register_with_interest(File::from(fd), interest) };
        let inner = registered.map_err(|error| EventFdError::PollError(error.into()))?;
        Ok(EventFd {
            inner: ManuallyDrop::new(inner),
            owner: Process::current(),
            ended: false,
        })
    }

    /// Waits until the counter is not 0, and takes its value; with `semaphore`, 1.
    ///
    /// # Errors
    ///
    /// [`EventFdError::PollError`] when the runtime shuts down.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, nothing is taken.
    pub async fn recv(&mut self) -> Result<u64, EventFdError> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Adds `value` to the counter. Waits while the counter would overflow.
    ///
    /// # Errors
    ///
    /// [`EventFdError::ReadError`]: with `EINVAL` for `u64::MAX`, which the kernel does not accept; or when
    /// the runtime shuts down.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, nothing is added.
    pub async fn send_value(&mut self, value: u64) -> Result<(), EventFdError> {
        self.inner
            .async_io_mut(Interest::WRITABLE, |file| {
                file.write_all(&value.to_ne_bytes())
            })
            .await
            .map_err(EventFdError::ReadError)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, EventFdError>> {
        loop {
            let mut guard =
                ready!(self.inner.poll_read_ready(cx)).map_err(EventFdError::PollError)?;
            let mut value = [0; 8];
            match guard.try_io(|inner| inner.get_ref().read_exact(&mut value)) {
                Ok(Ok(())) => return Poll::Ready(Ok(u64::from_ne_bytes(value))),
                Ok(Err(error)) => return Poll::Ready(Err(EventFdError::ReadError(error))),
                Err(_would_block) => {}
            }
        }
    }

    /// Makes the next signal wake `cx`, without reading the counter: under edge-triggered epoll each signal
    /// is a new edge. Does not wake `cx` itself. Returns `false` if the runtime is shutting down, so that no
    /// more signals come.
    pub(crate) fn arm(&self, cx: &mut Context<'_>) -> bool {
        // Unconstrained: with an exhausted budget, `Pending` would not mean "armed".
        let mut armed = pin!(unconstrained(std::future::poll_fn(|cx| {
            loop {
                match self.inner.poll_read_ready(cx) {
                    Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })));
        armed.as_mut().poll(cx).is_pending()
    }
}

impl Stream for EventFd {
    type Item = Result<u64, EventFdError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Errors are permanent: a runtime that has shut down does not come back.
        if this.ended {
            return Poll::Ready(None);
        }
        let received = ready!(this.poll_recv(cx));
        this.ended = received.is_err();
        Poll::Ready(Some(received))
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // A forked child shares the epoll instance of the runtime with its parent. If the child
        // deregistered the eventfd there, the parent would miss its signals.
        if self.owner == Process::current() {
            #[allow(unsafe_code)]
            // SAFETY: dropped only here, and not used afterwards.
            unsafe {
                ManuallyDrop::drop(&mut self.inner);
            }
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFd")
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    #[cfg(not(any(kaio_loom, miri)))]
    fn a_stream_ends_after_the_error_of_a_runtime_that_has_shut_down() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_io().build().unwrap();
        let entered = runtime.enter();
        let mut counter = EventFd::new(3, false).unwrap();
        drop(entered);
        drop(runtime);
        let cx = &mut Context::from_waker(Waker::noop());
        let last = Pin::new(&mut counter).poll_next(cx);
        let is_end = matches!(last, Poll::Ready(Some(Err(EventFdError::PollError(_)))));
        assert!(is_end, "{last:?}");
        for _ in 0..2 {
            let none = Pin::new(&mut counter).poll_next(cx);
            assert!(matches!(none, Poll::Ready(None)), "{none:?}");
        }
        let received = pin!(counter.recv()).poll(cx);
        assert!(matches!(received, Poll::Ready(Err(_))), "{received:?}");
    }
}
