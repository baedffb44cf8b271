//! [`AioContextBuilder`]: contexts with more choices than the constructors offer.

use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;

use super::driver::{Driver, Turn};
use super::reaper::Reaper;
use super::shards::Shards;
use super::shared::Shared;
use super::state::Limits;
use super::{AioContext, AioContextHandle, GenericAioContext, GenericAioContextHandle};
use super::{LocalAioContext, LocalAioContextHandle};
use crate::request::{Flavour, Of};
use crate::sync::EventFd;
use crate::sys::{Aio, MAX_BATCH};
use crate::{AioContextError, IntrusiveAdapter};

/// Makes contexts.
///
/// # Examples
///
/// ```
/// use tokio_kaio::AioContextBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
/// let (context, handle) = AioContextBuilder::new(256).max_batch(8).build()?;
/// assert_eq!(handle.available_slots(), Some(256));
/// context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until one of its build methods is called"]
pub struct AioContextBuilder {
    limits: Limits,
    shards: usize,
}

impl AioContextBuilder {
    /// A context with up to `nr` requests in flight, where further ones wait.
    pub fn new(nr: usize) -> AioContextBuilder {
        AioContextBuilder {
            limits: Limits {
                slots: nr,
                waits: true,
                max_batch: None,
            },
            shards: 1,
        }
    }

    /// Whether a request waits for a free slot, in order (the default); otherwise it fails with
    /// [`CapacityExceeded`](crate::AioCommandError::CapacityExceeded) where none is free.
    pub fn wait_for_slot(mut self, wait: bool) -> Self {
        self.limits.waits = wait;
        self
    }

    /// Most requests that go to the kernel in one system call: 1 to 64, values outside count as
    /// the nearest. By default 16; where the kernel is done with requests before the call
    /// returns, as on tmpfs, 64.
    ///
    /// A batch costs one system call, and the block layer works on it as a whole: more per call
    /// is less CPU an operation, but the device idles while a batch is put together.
    pub fn max_batch(mut self, requests: usize) -> Self {
        self.limits.max_batch = Some(requests.clamp(1, MAX_BATCH));
        self
    }

    /// How many kernel contexts there are behind the handle: 1 by default. 0 counts as 1, and more
    /// than there are slots as one a slot. They have equal parts of the slots, so that together they
    /// take `nr` in flight, and `nr` off `fs.aio-max-nr`, as one would.
    ///
    /// A request goes to the one of the CPU on which it is made, and only where that has no free
    /// slot to another one. So workers on different CPUs share neither a lock nor the kernel's
    /// completion ring, and what a task reads stays in its CPU's cache. That can pay where many
    /// workers do much I/O that is fast, up to one shard a worker: measure it. (With two workers it
    /// was a few per cent on tmpfs, nothing on a disk.) It costs where requests are few, since
    /// batches become smaller. Requests that wait for a slot wait in the order of their own
    /// shard, for a slot of that shard; those that don't
    /// ([`wait_for_slot`](Self::wait_for_slot)) fail when no shard has one. Each shard takes an
    /// eventfd and a background task.
    ///
    /// Counts for [`build`](Self::build) only: a context that stays on its thread has one.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// See [`aio_context`](crate::aio_context).
    ///
    /// # Errors, panics
    ///
    /// As there.
    pub fn build(self) -> Result<(AioContext, AioContextHandle), AioContextError> {
        let shards = Shards::split(self.limits, self.shards, |limits| {
            open(limits, Reaper::anywhere)
        })?;
        for shard in shards.all() {
            tokio::spawn(Driver::new(Arc::clone(shard), Turn::of_runtime()));
        }
        Ok((
            GenericAioContext {
                shards: shards.clone(),
            },
            GenericAioContextHandle::new(shards),
        ))
    }

    /// See [`local_aio_context`](crate::local_aio_context).
    ///
    /// # Errors, panics
    ///
    /// As there.
    #[allow(clippy::type_complexity)]
    pub fn build_local(
        self,
    ) -> Result<
        (
            LocalAioContext,
            LocalAioContextHandle,
            impl Future<Output = io::Result<()>>,
        ),
        AioContextError,
    > {
        self.open_one(Turn::Fair) // as is all that stays on its thread
    }

    /// See [`generic_aio_context`](crate::generic_aio_context).
    ///
    /// # Errors, panics
    ///
    /// As there.
    #[allow(clippy::type_complexity)]
    pub fn build_generic<M, A, L>(
        self,
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
        self.open_one(Turn::of_runtime())
    }

    #[allow(clippy::type_complexity)]
    fn open_one<M, A, L>(
        self,
        turn: Turn,
    ) -> Result<
        (
            GenericAioContext<M, A, L>,
            GenericAioContextHandle<M, A, L>,
            Driver<Of<M, A, L>>,
        ),
        AioContextError,
    >
    where
        M: RawMutex,
        A: IntrusiveAdapter<M, L>,
        A::LinkOps: LinkedListOps + Default,
        L: DefaultLinkOps<Ops = A::LinkOps> + Default,
    {
        let shared = open(self.limits, Reaper::at_home)?;
        let shards = Shards::one(Arc::clone(&shared));
        Ok((
            GenericAioContext {
                shards: shards.clone(),
            },
            GenericAioContextHandle::new(shards),
            Driver::new(shared, turn),
        ))
    }
}

/// Sets up the kernel's side, last of all: what is made before it is cheap to drop.
fn open<F>(
    limits: Limits,
    reaper: impl FnOnce(Weak<Shared<F>>) -> Reaper<F>,
) -> Result<Arc<Shared<F>>, AioContextError>
where
    F: Flavour<Kernel = Aio>,
{
    let signal = EventFd::new(0, false)?;
    let nr = u32::try_from(limits.slots)
        .map_err(|_| AioContextError::IoSetup(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let kernel = Aio::setup(nr).map_err(AioContextError::IoSetup)?;
    let shared = Shared::new(kernel, Some(signal), limits, reaper);
    shared.signalled(&shared.reaper.waker());
    Ok(shared)
}
