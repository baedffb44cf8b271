//! [`AioContextBuilder`]: contexts with more choices than the constructors offer.

use std::future::Future;
use std::io;
use std::sync::Arc;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;
use tokio::runtime::Handle;

use super::shards::Shards;
use super::{AioContext, AioContextHandle, GenericAioContext, GenericAioContextHandle};
use super::{LocalAioContext, LocalAioContextHandle};
use crate::backend::{AioBackend, AnyBackend, BlockingBackend, IoBackend, MAX_BATCH};
use crate::driver::{
    CompletionWaker, ContextConfig, ContextTypes, Driver, DriverTask, PollOrder, Types,
};
use crate::offload::OffloadConfig;
use crate::policy::PolicyConfig;
use crate::sync::EventFd;
use crate::trace;
use crate::{AioContextError, Backend, IntrusiveAdapter, SubmitPolicy};

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
    config: ContextConfig,
    shards: usize,
    blocking_threads: Option<usize>,
    /// Use the thread pool where kernel AIO is not available.
    automatic: bool,
}

/// Most threads of the blocking pool, unless told, that submit what would have to wait.
const DEFAULT_OFFLOAD_THREADS: usize = 8;

/// The same where they do all of the I/O, so that there are as many transfers in flight.
const DEFAULT_BACKEND_THREADS: usize = 32;

impl AioContextBuilder {
    /// A context with up to `nr` requests in flight, where further ones wait.
    pub fn new(nr: usize) -> AioContextBuilder {
        AioContextBuilder {
            config: ContextConfig {
                capacity: nr,
                wait_for_slot: true,
                policy: PolicyConfig {
                    policy: SubmitPolicy::default(),
                    max_batch: None,
                },
                backend: Backend::KernelAio,
                measure_latency: false,
            },
            shards: 1,
            blocking_threads: None,
            automatic: false,
        }
    }

    /// Whether a request waits for a free slot, in order (the default); otherwise it fails with
    /// [`CapacityExceeded`](crate::AioCommandError::CapacityExceeded) where none is free.
    pub fn wait_for_slot(mut self, wait: bool) -> Self {
        self.config.wait_for_slot = wait;
        self
    }

    /// Most requests that go to the kernel in one system call: 1 to 64, values outside count as
    /// the nearest. By default 16; where the kernel is done with requests before the call
    /// returns, as on tmpfs, 64.
    ///
    /// A batch costs one system call, and the block layer works on it as a whole: more per call
    /// is less CPU an operation, but the device idles while a batch is put together.
    pub fn max_batch(mut self, requests: usize) -> Self {
        self.config.policy.max_batch = Some(requests.clamp(1, MAX_BATCH));
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

    /// How requests are submitted on files that have no policy of their own
    /// ([`File::set_submit_policy`](crate::File::set_submit_policy)): by default
    /// [`SubmitPolicy::NoWaitFirst`], which keeps submissions from holding up the runtime.
    ///
    /// It is for [`File`](crate::File)s. What is submitted on a descriptor of another kind
    /// ([`submit_request`](GenericAioContextHandle::submit_request)) goes inline, because nothing
    /// can be learnt of it, unless this is [`SubmitPolicy::Offload`].
    pub fn submit_policy(mut self, policy: SubmitPolicy) -> Self {
        self.config.policy.policy = policy;
        self
    }

    /// What runs the requests: by default [`Backend::KernelAio`], or else making the context fails.
    /// Of this and [`automatic_backend`](Self::automatic_backend), the one that is called last counts.
    /// [`Backend::ThreadPool`] takes nothing off `fs.aio-max-nr`; that `nr` is 0 is an error
    /// (`IoSetup` with `EINVAL`) there too.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, Backend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
    /// let (context, handle) = AioContextBuilder::new(256)
    ///     .backend(Backend::ThreadPool)
    ///     .blocking_threads(16)
    ///     .build()?;
    /// assert_eq!(context.backend(), Backend::ThreadPool);
    /// context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn backend(mut self, backend: Backend) -> Self {
        self.config.backend = backend;
        self.automatic = false;
        self
    }

    /// The kernel's AIO where `io_setup` works, else [`Backend::ThreadPool`]:
    /// [`GenericAioContext::backend`] tells which it is. For programs that run in sandboxes of
    /// others, and next to programs that use up `fs.aio-max-nr`. An `nr` that is more than what is
    /// left of that is a reason too, even if a smaller one would have got the kernel's AIO. Why it is
    /// threads is told by the feature `tracing`, as a `WARN`, and nowhere else.
    ///
    /// What `io_setup` refuses as such (`EINVAL`: `nr` is 0, or absurd) remains an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, Backend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
    /// let (context, handle) = AioContextBuilder::new(256).automatic_backend().build()?;
    /// if context.backend() == Backend::ThreadPool {
    ///     eprintln!("kernel AIO can't be had here: disk I/O will take more CPU");
    /// }
    /// context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn automatic_backend(mut self) -> Self {
        self.config.backend = Backend::KernelAio;
        self.automatic = true;
        self
    }

    /// Most threads of tokio's blocking pool that the context uses at a time; 0 counts as 1. By
    /// default 8, and 32 where [they do all of the I/O](Backend::ThreadPool). With
    /// [`shards`](Self::shards), they are divided among these, at least one for each.
    ///
    /// They are used where a submission would have to wait: see [`SubmitPolicy`]. One that waits
    /// keeps its thread for that long, and may have some more requests of the same file with it, which
    /// wait until it is done. Where all are busy, or tokio has none to give
    /// ([`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads), 512 unless set),
    /// further such requests wait for one; everything else goes on. What else waits for a thread of
    /// tokio's has its turn after the submission that one makes, or after a millisecond of short ones.
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        self.blocking_threads = Some(threads.max(1));
        self
    }

    /// Whether to measure how long operations take: not by default. It costs two looks at the clock
    /// an operation, and 2.5 KiB a shard. What came out is in
    /// [`Metrics::latency`](crate::Metrics::latency).
    pub fn measure_latency(mut self, measure: bool) -> Self {
        self.config.measure_latency = measure;
        self
    }

    /// See [`aio_context`](crate::aio_context).
    ///
    /// # Errors, panics
    ///
    /// As there.
    pub fn build(self) -> Result<(AioContext, AioContextHandle), AioContextError> {
        let count = self.shards.clamp(1, self.config.capacity.max(1));
        let shards = self.on_backend(|config, offload| {
            let offload = OffloadConfig {
                max_threads: offload.max_threads.div_ceil(count),
                ..offload
            };
            Shards::split(config, count, |config| open(config, offload))
        })?;
        for driver in shards.all() {
            let waker = CompletionWaker::for_any_thread(driver);
            waker.arm();
            let order = PollOrder::of_runtime();
            tokio::spawn(DriverTask::new(Arc::clone(driver), waker, order));
        }
        Ok((
            GenericAioContext::new(shards.clone()),
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
        self.open_one(PollOrder::Fair) // as is everything that stays on its thread
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
        self.open_one(PollOrder::of_runtime())
    }

    #[allow(clippy::type_complexity)]
    fn open_one<M: RawMutex, A, L>(
        self,
        order: PollOrder,
    ) -> Result<
        (
            GenericAioContext<M, A, L>,
            GenericAioContextHandle<M, A, L>,
            DriverTask<Types<M>>,
        ),
        AioContextError,
    > {
        let driver = self.on_backend(open)?;
        let waker = CompletionWaker::for_this_thread(&driver);
        waker.arm();
        let shards = Shards::one(Arc::clone(&driver));
        Ok((
            GenericAioContext::new(shards.clone()),
            GenericAioContextHandle::new(shards),
            DriverTask::new(driver, waker, order),
        ))
    }

    /// Opens on the backend that was chosen, or that is available.
    fn on_backend<R>(
        &self,
        open: impl Fn(ContextConfig, OffloadConfig) -> Result<R, AioContextError>,
    ) -> Result<R, AioContextError> {
        let config = ContextConfig {
            backend: match cfg!(kaio_force_threads) {
                true => Backend::ThreadPool,
                false => self.config.backend,
            },
            ..self.config
        };
        match open(config, self.offload_config(config)) {
            Err(error) if self.automatic && is_for_want_of_aio(&error) => {
                trace::without_aio(config.capacity, &error);
                let config = ContextConfig {
                    backend: Backend::ThreadPool,
                    ..config
                };
                open(config, self.offload_config(config))
            }
            opened => opened,
        }
    }

    fn offload_config(&self, config: ContextConfig) -> OffloadConfig {
        let (max_threads, max_batch) = match config.backend {
            Backend::KernelAio => (
                DEFAULT_OFFLOAD_THREADS,
                config.policy.max_batch.unwrap_or(MAX_BATCH),
            ),
            Backend::ThreadPool => (DEFAULT_BACKEND_THREADS, 1), // a request occupies its thread
        };
        OffloadConfig {
            max_threads: self.blocking_threads.unwrap_or(max_threads),
            max_batch,
            observe: config.backend == Backend::KernelAio,
        }
    }
}

/// Whether the kernel made no context for reasons outside of the request.
fn is_for_want_of_aio(error: &AioContextError) -> bool {
    match error {
        AioContextError::IoSetup(error) => error.raw_os_error() != Some(libc::EINVAL),
        AioContextError::EventFd(_) => false,
    }
}

/// Sets the backend up last: what is made before it is cheap to drop.
fn open<T>(config: ContextConfig, offload: OffloadConfig) -> Result<Arc<Driver<T>>, AioContextError>
where
    T: ContextTypes<Backend = AnyBackend>,
{
    let eventfd = EventFd::new(0, false)?;
    let nr = u32::try_from(config.capacity).ok().filter(|nr| *nr > 0);
    let nr = nr.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let backend = match config.backend {
        Backend::KernelAio => {
            let aio = AioBackend::setup(nr)?;
            if !aio.capabilities().user_ring {
                trace::without_ring();
            }
            AnyBackend::Aio(aio)
        }
        Backend::ThreadPool => AnyBackend::Blocking(BlockingBackend::new()),
    };
    let runtime = Handle::try_current().ok();
    Ok(Driver::new(
        backend,
        Some(eventfd),
        config,
        runtime,
        offload,
    ))
}
