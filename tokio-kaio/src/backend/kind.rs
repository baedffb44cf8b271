//! [`Backend`]: names the backends.

/// What runs the requests of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// The kernel's AIO: `io_submit` and the completion ring.
    KernelAio,

    /// Threads of tokio's blocking pool, each with one request at a time:
    /// [`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html), `pwritev2`, `fsync`,
    /// `fdatasync`. Works wherever files do, for more CPU an operation, and no more in flight on the
    /// device than there are threads
    /// ([`AioContextBuilder::blocking_threads`](crate::AioContextBuilder::blocking_threads)).
    ///
    /// Dropping the runtime waits for the transfers that threads are in, as for anything in tokio's
    /// blocking pool; [`shutdown_background`](tokio::runtime::Runtime::shutdown_background) does not.
    ThreadPool,
}
