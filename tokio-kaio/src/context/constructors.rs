//! The constructors of `linux-aio-tokio`: [`aio_context`], [`local_aio_context`] and
//! [`generic_aio_context`].

use std::future::Future;
use std::io;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;

use super::{
    AioContext, AioContextBuilder, AioContextHandle, GenericAioContext, GenericAioContextHandle,
    LocalAioContext, LocalAioContextHandle,
};
use crate::{AioContextError, IntrusiveAdapter};

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
