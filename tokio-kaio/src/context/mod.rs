//! Contexts: the public types around a [driver](crate::driver).

mod batch;
mod builder;
mod close;
mod constructors;
mod drain;
mod handle;
mod handle_resources;
mod lease;
mod op_future;
mod op_options;
mod op_timer;
mod owned_batch;
mod owned_op;
mod pending_ops;
mod refused_backend;
mod shards;
#[cfg(test)]
pub(crate) mod test_operations;
mod transfer_progress;

#[cfg(all(test, not(kaio_loom)))]
pub(crate) use batch::BatchOfOps;
pub use batch::{Batch, BatchResults};
pub use builder::AioContextBuilder;
pub use close::CloseTimeoutError;
pub use constructors::{aio_context, generic_aio_context, local_aio_context};
pub use handle::{AioContextHandle, GenericAioContextHandle, LocalAioContextHandle};
#[cfg(test)]
pub(crate) use op_future::OpFuture;
pub use owned_batch::{OwnedBatch, OwnedBatchResults};
pub(crate) use owned_op::{OpOwner, OwnedOp};
pub use refused_backend::RefusedBackend;
pub(crate) use transfer_progress::TransferMode;

use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use intrusive_collections::linked_list::{self, AtomicLink};
use lock_api::RawMutex;
use tokio::time::Instant;

use crate::{Backend, LocalRequestAdapter, NoopLock, SyncRequestAdapter};
use lease::ContextLease;
pub(crate) use op_timer::{OpTimer, until};

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
/// - [opens](GenericAioContextHandle::open_with). On io_uring they are cancelled, unless the kernel has the file
///   open already or is about to: the open of a FIFO would wait for another process. The blocking pool may still
///   open the file, and closes it again;
/// - `allocate`, `set_len` and `sync_range` of a [`BoundFile`](crate::BoundFile) that the blocking pool performs;
///   they may still take effect;
/// - requests that wait for a slot;
/// - operations that have further requests to make (more than 1024 buffers, more than 2 GiB, a short
///   transfer to resume).
///
/// Then the context is torn down on a short-lived thread, or on the current one if none can be started.
pub struct GenericAioContext<M: RawMutex, A, L> {
    lease: ContextLease<M>,
    inert: PhantomData<fn() -> (A, L)>,
}

/// A context that any thread may use. Made by [`aio_context`].
pub type AioContext = GenericAioContext<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>;

/// A context that stays on its thread. Made by [`local_aio_context`].
pub type LocalAioContext = GenericAioContext<NoopLock, LocalRequestAdapter, linked_list::Link>;

impl<M: RawMutex, A, L> GenericAioContext<M, A, L> {
    fn new(lease: ContextLease<M>) -> Self {
        GenericAioContext {
            lease,
            inert: PhantomData,
        }
    }

    /// Number of free slots: requests that can be made now without waiting. A request takes a slot when
    /// it is queued or submitted, and holds it until the kernel is done, also if its future was dropped.
    ///
    /// `None` if the context was made with `use_semaphore` `false`, if its background task has ended, or
    /// in a forked child.
    pub fn available_slots(&self) -> Option<usize> {
        self.lease.shards.available_slots()
    }

    /// The backend that runs the requests.
    pub fn backend(&self) -> Backend {
        self.lease.shards.all()[0].config.backend
    }

    /// Returns a handle that keeps the context. The context ends with the last clone of that handle, as if it
    /// was [dropped](Self#dropping) then.
    ///
    /// Everything that owns such a handle keeps the context too: handles derived from it
    /// ([`with_priority`](GenericAioContextHandle::with_priority) and others), and operations, batches, readers
    /// and writers that own their handle. Handles from before the call do not. To wait for the end, use
    /// [`closed`](GenericAioContextHandle::closed).
    ///
    /// [`AioContextBuilder::build_detached`] has an example.
    pub fn detach(self) -> GenericAioContextHandle<M, A, L> {
        GenericAioContextHandle::detached(self.lease)
    }

    /// Returns the backends before the one that runs the requests in the list of
    /// [`AioContextBuilder::backends`], in its order, and why each is not available. `AioContextBuilder::backends`
    /// has an example.
    pub fn refused_backends(&self) -> &[RefusedBackend] {
        self.lease.shards.refused()
    }

    /// Takes no new requests, waits for those in flight, and releases everything: descriptors, mappings,
    /// its own thread if it has one, and the share of `fs.aio-max-nr`. All of it is released when this returns.
    ///
    /// [The same operations](Self#dropping) get [`AioStopped`](crate::AioCommandError::AioStopped) as when
    /// the context is dropped. The teardown has its own thread, because
    /// [`io_destroy(2)`](https://man7.org/linux/man-pages/man2/io_destroy.2.html) sleeps some 32 ms even
    /// for an idle context.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the context: it still ends, without waiting.
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
        let shards = self.lease.shards.clone();
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
    /// Outside a tokio runtime, and in a runtime whose timer is not enabled; never if the context has its
    /// [own thread](AioContextBuilder::own_thread).
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
        let shards = self.lease.shards.clone();
        let deadline = || Instant::now().checked_add(limit);
        let timer = OpTimer::start(deadline, shards.own_thread());
        drop(self);
        let gone = pin!(shards.clone().wait_until_gone());
        match timer {
            Some(timer) => match until(gone, timer).await {
                Some(()) => Ok(()),
                None => Err(shards.unfinished()),
            },
            None => {
                gone.await; // its own thread has ended, or `limit` is too long for a timer
                Ok(())
            }
        }
    }
}

impl<M: RawMutex, A, L> fmt::Debug for GenericAioContext<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.lease.shards.all();
        f.debug_struct("AioContext")
            .field("shards", &shards.len())
            .field("config", &shards[0].config)
            .finish()
    }
}
