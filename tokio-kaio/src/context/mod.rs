//! Contexts: the public types around a [driver](crate::driver).

mod batch;
mod builder;
mod close;
mod drain;
mod handle;
mod op_future;
mod op_options;
mod pending_ops;
mod shards;
#[cfg(test)]
pub(crate) mod test_operations;
mod transfer_progress;

#[cfg(test)]
pub(crate) use batch::BatchOfOps;
pub use batch::{Batch, BatchResults};
pub use builder::AioContextBuilder;
pub use close::CloseTimeoutError;
pub use handle::{AioContextHandle, GenericAioContextHandle, LocalAioContextHandle};
#[cfg(test)]
pub(crate) use op_future::OpFuture;
pub(crate) use transfer_progress::TransferMode;

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::{self, AtomicLink, LinkedListOps};
use lock_api::RawMutex;

use crate::config::Types;
use crate::{
    AioContextError, Backend, IntrusiveAdapter, LocalRequestAdapter, NoopLock, SyncRequestAdapter,
};
use shards::Shards;

/// A kernel AIO context. Runs the requests of its [handles](GenericAioContextHandle) until it is closed
/// or dropped.
///
/// `M` is the lock over the requests. `A` and `L` are type parameters only, for compatibility with
/// `linux-aio-tokio`: requests are kept in a slab. Use [`AioContext`] or [`LocalAioContext`] unless you
/// bring your own lock.
///
/// # Dropping
///
/// A dropped context takes no new requests. Requests in flight complete, and their futures with them.
/// The following get [`AioStopped`](crate::AioCommandError::AioStopped):
///
/// - polls, which are cancelled;
/// - requests that wait for a slot;
/// - operations that have further requests to make (more than 1024 buffers, more than 2 GiB, a short
///   transfer to resume).
///
/// Then the context is torn down on a short-lived thread, or on the current one if none can be started.
pub struct GenericAioContext<M: RawMutex, A, L> {
    shards: Shards<Types<M>>,
    inert: PhantomData<fn() -> (A, L)>,
}

/// A context that any thread may use. Made by [`aio_context`].
pub type AioContext = GenericAioContext<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>;

/// A context that stays on its thread. Made by [`local_aio_context`].
pub type LocalAioContext = GenericAioContext<NoopLock, LocalRequestAdapter, linked_list::Link>;

/// Makes a context that any thread may use, with up to `nr` requests in flight. Spawns its background
/// task on the current runtime.
///
/// With `use_semaphore`, a request waits for a free slot, first in, first out. Without it, a request
/// that finds no free slot fails with
/// [`CapacityExceeded`](crate::AioCommandError::CapacityExceeded). [`AioContextBuilder`] has more
/// settings.
///
/// Requests run on [kernel AIO](crate::Backend::KernelAio). Requests whose submission would block are
/// submitted from the blocking pool ([`SubmitPolicy::NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst)).
///
/// The context takes `nr` from `fs.aio-max-nr`, a limit for the whole machine (65536 by default), until
/// it has ended.
///
/// # Errors
///
/// - [`AioContextError::EventFd`] outside a tokio runtime, or if no descriptor is left (`EMFILE`,
///   `ENFILE`).
/// - [`AioContextError::IoSetup`] if the kernel makes no context: `EINVAL` (`nr` is 0 or too large),
///   `EAGAIN` (past `fs.aio-max-nr`), `EPERM` or `ENOSYS` (a sandbox forbids AIO). See
///   [`io_setup(2)`](https://man7.org/linux/man-pages/man2/io_setup.2.html).
///
/// # Panics
///
/// In a tokio runtime whose I/O driver is not enabled.
///
/// # Examples
///
/// ```no_run
/// use tokio_kaio::{File, LockedBuf, ReadFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (context, handle) = aio_context(128, true)?;
/// let file = File::open("data", false).await?;
/// let mut buffer = LockedBuf::with_size(4096)?;
/// let read = file.read_at(&handle, 0, &mut buffer, 4096, ReadFlags::empty()).await?;
/// println!("{:?}", &buffer.as_ref()[..read as usize]);
/// context.close().await;
/// # Ok(())
/// # }
/// ```
pub fn aio_context(
    nr: usize,
    use_semaphore: bool,
) -> Result<(AioContext, AioContextHandle), AioContextError> {
    AioContextBuilder::new(nr)
        .wait_for_slot(use_semaphore)
        .build()
}

/// Makes a context that stays on the current thread, with up to `nr` requests in flight. The caller
/// spawns its future, with [`tokio::task::spawn_local`].
///
/// It has no atomic lock, which makes it a little cheaper than [`aio_context`]. `use_semaphore` is the
/// same as there.
///
/// # The future
///
/// The future submits queued requests. It resolves when the context has ended and has released
/// everything. Poll it on this thread, whenever it is woken. Before its first poll each request is
/// submitted on its own, and on a multi-threaded runtime the context misses the kernel's signals. If the
/// future is dropped earlier, the context ends: operations that are not done get
/// [`AioStopped`](crate::AioCommandError::AioStopped).
///
/// # Errors and panics
///
/// The same as [`aio_context`].
///
/// # Examples
///
/// ```
/// use tokio::task::{LocalSet, spawn_local};
/// use tokio_kaio::local_aio_context;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
/// let (context, handle, background) = local_aio_context(8, true)?;
/// LocalSet::new()
///     .run_until(async move {
///         spawn_local(background);
///         assert_eq!(handle.available_slots(), Some(8));
///         context.close().await;
///     })
///     .await;
/// # Ok(())
/// # }
/// ```
#[allow(clippy::type_complexity)]
pub fn local_aio_context(
    nr: usize,
    use_semaphore: bool,
) -> Result<
    (
        LocalAioContext,
        LocalAioContextHandle,
        impl Future<Output = io::Result<()>>,
    ),
    AioContextError,
> {
    AioContextBuilder::new(nr)
        .wait_for_slot(use_semaphore)
        .build_local()
}

/// Makes a context with your own lock, adapter and link, and with up to `nr` requests in flight. The
/// caller spawns its future: see [`local_aio_context`].
///
/// [`IntrusiveAdapter`] has an example.
///
/// # Errors and panics
///
/// The same as [`aio_context`].
#[allow(clippy::type_complexity)]
pub fn generic_aio_context<M, A, L>(
    nr: usize,
    use_semaphore: bool,
) -> Result<
    (
        GenericAioContext<M, A, L>,
        GenericAioContextHandle<M, A, L>,
        impl Future<Output = io::Result<()>>,
    ),
    AioContextError,
>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    AioContextBuilder::new(nr)
        .wait_for_slot(use_semaphore)
        .build_generic()
}

impl<M: RawMutex, A, L> GenericAioContext<M, A, L> {
    fn new(shards: Shards<Types<M>>) -> Self {
        GenericAioContext {
            shards,
            inert: PhantomData,
        }
    }

    /// Number of free slots: requests that can be made now without waiting. A request takes a slot when
    /// it is queued or submitted, and holds it until the kernel is done, also if its future was dropped.
    ///
    /// `None` if the context was made with `use_semaphore` `false`, if its background task has ended, or
    /// in a forked child.
    pub fn available_slots(&self) -> Option<usize> {
        self.shards.available_slots()
    }

    /// The backend that runs the requests.
    pub fn backend(&self) -> Backend {
        self.shards.all()[0].config.backend
    }

    /// Takes no new requests, waits for those in flight, and releases everything: descriptors, mappings,
    /// and the share of `fs.aio-max-nr`. All of it is released when this returns.
    ///
    /// [The same operations](Self#dropping) get [`AioStopped`](crate::AioCommandError::AioStopped) as when
    /// the context is dropped. The teardown has its own thread, because
    /// [`io_destroy(2)`](https://man7.org/linux/man-pages/man2/io_destroy.2.html) sleeps some 32 ms even
    /// for an idle context.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the context: it ends all the same, and nobody waits for that.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioCommandError, File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(path, false).await?;
    /// context.close().await;
    /// let late = file.sync_all(&handle).await;
    /// assert!(matches!(late, Err(AioCommandError::AioStopped)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(self) {
        let shards = self.shards.clone();
        drop(self);
        shards.wait_until_gone().await;
    }

    /// Closes the context as [`close`](Self::close) does, but waits for at most `limit`: on a stuck disk
    /// an operation may never end.
    ///
    /// Under tokio's paused clock, `limit` can expire [at once](GenericAioContextHandle#paused-clock).
    ///
    /// # Errors
    ///
    /// [`CloseTimeoutError`] if the context has not ended by then. It ends by itself later, and keeps the
    /// memory and files that the kernel uses, and its share of `fs.aio-max-nr`, until then.
    ///
    /// # Cancel safety
    ///
    /// The same as [`close`](Self::close).
    ///
    /// # Panics
    ///
    /// In a runtime whose timer is not enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_kaio::aio_context;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, _handle) = aio_context(8, true)?;
    /// if let Err(error) = context.close_timeout(Duration::from_secs(10)).await {
    ///     eprintln!("{error}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close_timeout(self, limit: Duration) -> Result<(), CloseTimeoutError> {
        let shards = self.shards.clone();
        drop(self);
        match tokio::time::timeout(limit, shards.clone().wait_until_gone()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(shards.unfinished()),
        }
    }
}

impl<M: RawMutex, A, L> Drop for GenericAioContext<M, A, L> {
    fn drop(&mut self) {
        self.shards.stop();
    }
}

impl<M: RawMutex, A, L> fmt::Debug for GenericAioContext<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.shards.all();
        f.debug_struct("AioContext")
            .field("shards", &shards.len())
            .field("config", &shards[0].config)
            .finish()
    }
}
