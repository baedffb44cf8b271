//! [`Backend`]: the choice of a backend.

use std::fmt;

/// Runs the requests of a context.
///
/// Its text is its name: "io_uring", "kernel AIO", "the thread pool", "the simulated disk".
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

    /// [io_uring](https://man7.org/linux/man-pages/man7/io_uring.7.html), with the feature `io-uring` of this
    /// crate, on Linux 6.0 and later. Container runtimes and hardened systems often forbid it: name other
    /// backends after it in [`backends`](crate::AioContextBuilder::backends).
    ///
    /// A submission never blocks on the storage: threads of the kernel perform requests that would block,
    /// such as a write that allocates. Only [`NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst) uses tokio's
    /// blocking pool, for small writes that extend a file while other requests are in flight: a thread merges
    /// those that are adjacent. With any other policy no request goes to the pool. A read whose future is
    /// dropped is cancelled where the kernel still can, for example a read of a pipe.
    ///
    /// A context has at most 65,535 requests in flight; others wait. It takes nothing from `fs.aio-max-nr`.
    IoUring,

    /// A [`SimDisk`](crate::simulation::SimDisk), with the feature `simulation` of this crate, by
    /// [`AioContextBuilder::simulated`](crate::AioContextBuilder::simulated). The context runs requests on
    /// files of this disk, and no others. It can't be named in
    /// [`backends`](crate::AioContextBuilder::backends).
    #[cfg(feature = "simulation")]
    Simulated,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::KernelAio => "kernel AIO",
            Backend::ThreadPool => "the thread pool",
            Backend::IoUring => "io_uring",
            #[cfg(feature = "simulation")]
            Backend::Simulated => "the simulated disk",
        })
    }
}
