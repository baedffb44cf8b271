//! [`Backend`]: the choice of a backend.

/// Runs the requests of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// Kernel AIO: `io_submit` and the completion ring.
    KernelAio,

    /// Threads of tokio's blocking pool, each with one request at a time:
    /// [`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html), `pwritev2`, `fsync`,
    /// `fdatasync`. Works wherever files do. Takes more CPU per operation, and has at most
    /// [`blocking_threads`](crate::AioContextBuilder::blocking_threads) requests in flight on the device.
    /// The [`SubmitPolicy`](crate::SubmitPolicy) has no effect.
    ///
    /// Dropping the runtime waits for transfers under way, as for all jobs of the blocking pool;
    /// [`shutdown_background`](tokio::runtime::Runtime::shutdown_background) does not.
    ThreadPool,
}
