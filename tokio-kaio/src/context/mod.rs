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

use crate::driver::Types;
use crate::{
    AioContextError, Backend, IntrusiveAdapter, LocalRequestAdapter, NoopLock, SyncRequestAdapter,
};
use shards::Shards;

/// A kernel AIO context: it takes requests, through its
/// [handles](GenericAioContextHandle), until it is closed or dropped.
///
/// `M` is the lock over its requests, `A` and `L` how it lists them. Use [`AioContext`] or
/// [`LocalAioContext`] unless you bring your own.
///
/// # Dropping
///
/// A dropped context takes no new requests. Those that are running finish, and their futures with
/// them; then everything is given back to the system, on a thread of its own. Requests that still
/// wait for a slot get [`AioStopped`](crate::AioCommandError::AioStopped). So does an operation of
/// several requests that has further ones to make: more than 1024 pieces, more than 2 GiB, or what is
/// resumed because it came back short.
pub struct GenericAioContext<M: RawMutex, A, L> {
    shards: Shards<Types<M>>,
    inert: PhantomData<fn() -> (A, L)>,
}

/// A context that any thread may use. Made by [`aio_context`].
pub type AioContext = GenericAioContext<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>;

/// A context that stays on its thread. Made by [`local_aio_context`].
pub type LocalAioContext = GenericAioContext<NoopLock, LocalRequestAdapter, linked_list::Link>;

/// A context that any thread may use, with up to `nr` requests in flight. Spawns its background
/// task on the current runtime.
///
/// With `use_semaphore`, a request waits for a free slot, in order; without, it fails with
/// [`CapacityExceeded`](crate::AioCommandError::CapacityExceeded) where none is free. More can be
/// chosen with [`AioContextBuilder`].
///
/// Requests run on [kernel AIO](crate::Backend::KernelAio), or making the context fails; what would
/// have to wait in its submission goes from the blocking pool
/// ([`SubmitPolicy::NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst)).
///
/// `nr` is taken off `fs.aio-max-nr`, a limit for the whole machine (65536 by default), until the
/// context has ended.
///
/// # Errors
///
/// [`AioContextError::EventFd`] outside a tokio runtime, or where no descriptor is left (`EMFILE`,
/// `ENFILE`). [`AioContextError::IoSetup`] where the kernel makes no context: `EINVAL` (`nr` is 0
/// or absurd), `EAGAIN` (past `fs.aio-max-nr`), `EPERM` or `ENOSYS` (a sandbox forbids AIO). See
/// [`io_setup(2)`](https://man7.org/linux/man-pages/man2/io_setup.2.html).
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

/// A context that stays on the current thread, with up to `nr` requests in flight. Its future is
/// the caller's to spawn, with [`tokio::task::spawn_local`].
///
/// Cheaper than [`aio_context`] by what a lock costs. For `use_semaphore`, see there.
///
/// # The future
///
/// It submits requests that were queued, and resolves when the context has ended and has given
/// everything back. Before it is polled for the first time, each request goes to the kernel on its
/// own, and on a multi-threaded runtime nothing that the kernel signals is seen. It has to be polled
/// when it is woken, and on this thread. Dropping it earlier ends the
/// context: operations that are not done get
/// [`AioStopped`](crate::AioCommandError::AioStopped).
///
/// # Errors, panics
///
/// As [`aio_context`].
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

/// A context over a lock, an adapter and a link of one's own, with up to `nr` requests in flight.
/// Its future is the caller's to spawn: see [`local_aio_context`].
///
/// An example is at [`IntrusiveAdapter`].
///
/// # Errors, panics
///
/// As [`aio_context`].
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

    /// Number of requests that can be made now without waiting. A slot is taken from the moment
    /// its request is queued or submitted until the kernel is done with it, also if its future was
    /// dropped.
    ///
    /// `None`: the context was made with `use_semaphore` `false`, or its background task has
    /// ended.
    pub fn available_slots(&self) -> Option<usize> {
        self.shards.available_slots()
    }

    /// What runs its requests.
    pub fn backend(&self) -> Backend {
        self.shards.all()[0].config.backend
    }

    /// Takes no more requests, waits for those that are running, then gives everything back to the
    /// system: descriptors, mappings, and its share of `fs.aio-max-nr`. All of it is back when
    /// this returns.
    ///
    /// Requests that still wait for a slot get
    /// [`AioStopped`](crate::AioCommandError::AioStopped), and so does an operation that has
    /// [further ones](Self#dropping) to make.
    /// [`io_destroy(2)`](https://man7.org/linux/man-pages/man2/io_destroy.2.html), which takes some
    /// 32 ms even for an idle context, runs on a thread of its own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is dropping the context: it ends all the same, nobody waits for it.
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

    /// The same, for at most `limit`: a disk may be stuck, and an operation on it never end.
    ///
    /// # Errors
    ///
    /// [`CloseTimeoutError`] says what is still out then. The context goes on to end by itself, and keeps what
    /// the kernel may use until it is done with that: memory, files, its share of `fs.aio-max-nr`.
    ///
    /// # Cancel safety
    ///
    /// As [`close`](Self::close).
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
