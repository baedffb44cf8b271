//! [`AioContextBuilder`]: makes contexts with any settings.

use std::future::Future;
use std::io;
#[cfg(feature = "io-uring")]
use std::os::fd::AsRawFd;
use std::sync::Arc;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;
use thiserror::Error;
use tokio::runtime::Handle;

use super::handle_resources::HandleResources;
use super::lease::ContextLease;
use super::refused_backend::RefusedBackend;
use super::shards::Shards;
use super::{AioContext, AioContextHandle, GenericAioContext, GenericAioContextHandle};
use super::{LocalAioContext, LocalAioContextHandle};
#[cfg(feature = "simulation")]
use crate::backend::SimulatedBackend;
#[cfg(feature = "io-uring")]
use crate::backend::UringBackend;
use crate::backend::{AioBackend, AnyBackend, BlockingBackend, FileCalls, IoBackend, MAX_BATCH};
use crate::config::{ContextConfig, ContextTypes, Types};
use crate::driver::Driver;
use crate::eventfd::descriptor_hint;
use crate::offload::OffloadConfig;
use crate::policy::{PolicyConfig, PollOrder};
use crate::runtime::{CompletionWaker, DriverTask, poll_order};
#[cfg(feature = "simulation")]
use crate::simulation::SimDisk;
use crate::sync::{EventFd, OwnThread, UnstartedThread};
use crate::trace;
use crate::{
    AioContextError, Backend, IntrusiveAdapter, RegisteredPool, SizeClassPool, SubmitPolicy,
};

/// Makes contexts, with more settings than [`aio_context`](crate::aio_context).
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
    group_depth: Option<usize>,
    blocking_threads: Option<usize>,
    /// Backends to use where `config.backend` is not available, in this order.
    alternatives: Vec<Backend>,
    /// `None`: the context has a pool of its own.
    buffers: Option<SizeClassPool>,
    /// Serve completions on a thread of the context's own.
    own_thread: bool,
    /// Memory to register with the kernel.
    registered: Vec<RegisteredPool>,
    /// The disk to run on. `None`: a backend of the kernel.
    #[cfg(feature = "simulation")]
    simulated: Option<SimDisk>,
}

/// Default limit of threads of the blocking pool that submit requests.
const DEFAULT_OFFLOAD_THREADS: usize = 8;

/// Default limit with the thread-pool backend, where each thread has one transfer in flight.
const DEFAULT_BACKEND_THREADS: usize = 32;

impl AioContextBuilder {
    /// Starts with the defaults: up to `nr` requests in flight; further requests wait.
    pub fn new(nr: usize) -> AioContextBuilder {
        AioContextBuilder {
            config: ContextConfig {
                capacity: nr,
                wait_for_slot: true,
                policy: PolicyConfig {
                    policy: SubmitPolicy::default(),
                    nonblocking_submit: false,
                    #[cfg(feature = "simulation")]
                    simulated: false,
                    max_batch: None,
                },
                backend: Backend::KernelAio,
                measure_latency: false,
                registered_bytes: 0,
                file_calls: FileCalls::default(),
            },
            shards: 1,
            group_depth: None,
            blocking_threads: None,
            alternatives: Vec::new(),
            buffers: None,
            own_thread: false,
            registered: Vec::new(),
            #[cfg(feature = "simulation")]
            simulated: None,
        }
    }

    /// Sets whether a request waits for a free slot, first in, first out (the default). Otherwise a
    /// request that finds none fails with
    /// [`CapacityExceeded`](crate::AioCommandError::CapacityExceeded).
    pub fn wait_for_slot(mut self, wait: bool) -> Self {
        self.config.wait_for_slot = wait;
        self
    }

    /// Sets the most requests that are submitted in one system call: 1 to 64; other values are clamped.
    /// Requests of one turn of the runtime are then collected until there are this many.
    ///
    /// By default, batches depend on the number of requests in flight: an idle device gets two requests
    /// first, and each further batch has as many as are in flight, up to 64. Where requests complete inside
    /// their submission, as on tmpfs, the default is 64.
    ///
    /// Set this to use less CPU with few requests in flight: there are fewer system calls, but the device
    /// idles while a batch is collected. With `max_batch(16)` and 8 or 32 reads in flight on a disk, a read
    /// took 0.91 to 0.97 of the CPU of the default, and there were 0.87 to 0.88 of the reads a second. With
    /// 128 in flight, the default took less CPU.
    pub fn max_batch(mut self, requests: usize) -> Self {
        self.config.policy.max_batch = Some(requests.clamp(1, MAX_BATCH));
        self
    }

    /// Sets the number of kernel contexts (shards) behind the handle: 1 by default, at most one per slot.
    /// The shards divide the `nr` slots among them, and take `nr` from `fs.aio-max-nr` together.
    ///
    /// A request goes to the shard of its CPU, and to another one if that has no free slot. So workers on
    /// different CPUs share neither a lock nor a completion ring, and the data that a task reads stays in
    /// its CPU's cache. This can pay where many workers do much fast I/O, with up to one shard per worker:
    /// measure it. (With two workers it gained a few per cent on tmpfs and nothing on a disk.) It costs
    /// where requests are few, because batches become smaller.
    ///
    /// If no shard has a free slot, a request waits for a slot of its own shard, in the order of that
    /// shard, or fails ([`wait_for_slot`](Self::wait_for_slot)). Appends all go to the first shard. Each
    /// shard has an eventfd and a background task.
    ///
    /// Only [`build`](Self::build) uses this: a context that stays on its thread has one shard.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Sets the most requests of [groups](crate::IoGroup) that are in flight or wait for a slot at a time: at
    /// least 1, by default as many as there are slots. Requests beyond that wait for the turn of their group.
    /// Requests without a group do not count.
    ///
    /// The device works on all requests that it has, in an order of its own. So the depth decides between
    /// latency and throughput: with a small one, an urgent request finds few others before it, and with a large
    /// one the device is busier. The repository's `docs/groups.md` has measurements.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, IoGroup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
    /// let (context, handle) = AioContextBuilder::new(256).group_depth(8).build()?;
    /// let compaction = handle.with_group(&IoGroup::new("compaction").with_weight(20));
    /// # drop(compaction);
    /// context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn group_depth(mut self, requests: usize) -> Self {
        self.group_depth = Some(requests.max(1));
        self
    }

    /// Sets the policy of files that have none
    /// ([`File::set_submit_policy`](crate::File::set_submit_policy)). The default is
    /// [`SubmitPolicy::NoWaitFirst`], which keeps submissions from blocking the runtime.
    ///
    /// Requests on other descriptors
    /// ([`submit_request`](GenericAioContextHandle::submit_request)) are submitted inline, because
    /// nothing can be learned about them, except with [`SubmitPolicy::Offload`].
    pub fn submit_policy(mut self, policy: SubmitPolicy) -> Self {
        self.config.policy.policy = policy;
        self
    }

    /// Sets the backend that runs the requests. The default is [`Backend::KernelAio`]; where that is not
    /// available, making the context fails. If [`automatic_backend`](Self::automatic_backend) is called
    /// too, the last call counts.
    ///
    /// [`Backend::ThreadPool`] and [`Backend::IoUring`] take nothing from `fs.aio-max-nr`. An `nr` of 0 is an
    /// error there too (`IoSetup` with `EINVAL`).
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
        self.alternatives.clear();
        self
    }

    /// Uses kernel AIO where `io_setup` works, and [`Backend::ThreadPool`] otherwise.
    /// [`GenericAioContext::backend`] says which backend runs. Use this in programs that run in unknown
    /// sandboxes, or beside programs that use up `fs.aio-max-nr`.
    ///
    /// An `nr` larger than the rest of `fs.aio-max-nr` leads to threads too, even if a smaller one would
    /// have fit. Only the feature `tracing` reports the reason, as a `WARN`. `EINVAL` (`nr` is 0 or too
    /// large) remains an error.
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
    ///     eprintln!("kernel AIO is not available here: disk I/O will take more CPU");
    /// }
    /// context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn automatic_backend(self) -> Self {
        self.backends(&[Backend::KernelAio, Backend::ThreadPool])
    }

    /// Sets the backends to choose from. The context runs on the first one that is available: it is set up,
    /// not looked up by version. [`GenericAioContext::backend`] says which one runs,
    /// [`GenericAioContext::refused_backends`] which earlier ones do not, and why. The feature `tracing`
    /// reports them too: a `WARN` if the context runs on the thread pool, otherwise an `INFO`.
    ///
    /// Of [`backend`](Self::backend), [`automatic_backend`](Self::automatic_backend) and this method, the last
    /// call counts.
    ///
    /// # Errors
    ///
    /// None here. The build methods return:
    ///
    /// - [`IoSetup`](AioContextError::IoSetup) if no backend of the list is available. The text has the reason
    ///   for each, [`raw_os_error`](AioContextError::raw_os_error) is the errno of the last one.
    /// - `IoSetup` with `EINVAL` if `nr` is 0, or more than the backend supports. The next backend is not tried.
    /// - [`EventFd`](AioContextError::EventFd) if the eventfd can't be created. No other backend is tried.
    ///
    /// # Panics
    ///
    /// If `backends` is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, Backend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
    /// let (context, handle) = AioContextBuilder::new(256)
    ///     .backends(&[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool])
    ///     .build()?;
    /// for refused in context.refused_backends() {
    ///     eprintln!("{refused}");
    /// }
    /// println!("disk I/O runs on {}", context.backend());
    /// context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn backends(mut self, backends: &[Backend]) -> Self {
        let [first, alternatives @ ..] = backends else {
            panic!("a context needs a backend: the list of backends is empty");
        };
        self.config.backend = *first;
        self.alternatives = alternatives.to_vec();
        self
    }

    /// Sets the most threads of tokio's blocking pool that the context uses at a time: at least 1. The
    /// default is 8, and 32 where [threads do all I/O](Backend::ThreadPool). [Shards](Self::shards) divide
    /// the threads among them, at least one each.
    ///
    /// The threads make submissions that would block: see [`SubmitPolicy`]. A submission that blocks
    /// keeps its thread, and delays the requests that are submitted with it, which are of the same file.
    /// When all threads are busy, or tokio's pool is exhausted
    /// ([`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads), 512 by default), further
    /// such requests wait; the rest proceed. A thread yields to other users of tokio's pool after a long
    /// submission, or after a millisecond of short ones.
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        self.blocking_threads = Some(threads.max(1));
        self
    }

    /// Sets whether to measure [`Metrics::latency`](crate::Metrics::latency). Off by default. Reads the
    /// clock twice per request, and takes 2.5 KiB per shard.
    pub fn measure_latency(mut self, measure: bool) -> Self {
        self.config.measure_latency = measure;
        self
    }

    /// Sets the pool of the context's handles:
    /// [`GenericAioContextHandle::buffers`]. By default each context has one of its own, of 64 MiB. Contexts
    /// may share a pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, SizeClassPoolBuilder};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = SizeClassPoolBuilder::new(256 << 20).huge_pages(true).build()?;
    /// let (context, handle) = AioContextBuilder::new(64).buffers(&pool).build()?;
    /// assert_eq!(handle.buffers().limit(), 256 << 20);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn buffers(mut self, pool: &SizeClassPool) -> Self {
        self.buffers = Some(pool.clone());
        self
    }

    /// Registers the memory of `pool` with the kernel, on [`Backend::IoUring`]: a read or write of a buffer of
    /// the pool takes less CPU, because the kernel does not pin its pages for each request. The repository's
    /// `docs/backends.md` has figures. May be called for several pools. Vectored requests do not gain. On other
    /// backends it has no effect.
    ///
    /// **All memory of the pool is allocated at once, and stays pinned as long as the context exists.** It
    /// counts as locked memory (`RLIMIT_MEMLOCK`), once for each [shard](Self::shards). If the kernel does not
    /// permit it, the context works without:
    /// [`registered_bytes`](GenericAioContextHandle::registered_bytes) is 0, and the feature `tracing` reports
    /// a `WARN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, Backend, BufferPool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = BufferPool::new(64, 4096)?;
    /// let (context, handle) = AioContextBuilder::new(64)
    ///     .backends(&[Backend::IoUring, Backend::KernelAio])
    ///     .register_buffers(&pool)
    ///     .build()?;
    /// let buffer = pool.get().await; // for reads and writes with `handle`
    /// # drop((buffer, handle));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn register_buffers(mut self, pool: impl Into<RegisteredPool>) -> Self {
        self.registered.push(pool.into());
        self
    }

    /// Serves completions on a thread of the context's own, named `kaio-driver`, instead of on the current
    /// runtime. The context needs no runtime where it is made, and outlives the one that it is made in. Its
    /// handles work from any executor: other tokio runtimes, `futures::executor::block_on`, several
    /// `#[tokio::test]`s that share a `static`.
    ///
    /// The thread runs a tokio runtime with I/O and timers. [Offloaded](SubmitPolicy) requests go to the
    /// blocking pool of that runtime. So do the calls through a handle, such as
    /// [`read_bytes_at`](crate::File::read_bytes_at), [`BoundFile::set_len`](crate::BoundFile::set_len) and
    /// [`open`](GenericAioContextHandle::open), outside a tokio runtime. Calls without a handle, such as
    /// [`File::open`](crate::File::open), still need a current runtime; their blocking twins, such as
    /// [`File::open_blocking`](crate::File::open_blocking), need none.
    /// [Deadlines](GenericAioContextHandle::with_deadline) use the timer of that runtime, so a paused clock
    /// does not move them. The thread ends with the context.
    ///
    /// **A completion has to wake another thread, so an operation takes longer and costs more CPU.** The
    /// repository's `docs/cost.md` has figures. Use it where the context has to outlive a runtime, or where
    /// there is none.
    ///
    /// Only [`build`](Self::build) and [`build_detached`](Self::build_detached) use this: the other contexts
    /// belong to their callers' threads.
    ///
    /// # Errors
    ///
    /// None here. The build methods return `IoSetup` if no descriptor is left for the runtime (`EMFILE`,
    /// `ENFILE`), or if the thread can't be started (`EAGAIN`).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::LazyLock;
    /// use tokio_kaio::{AioContextBuilder, AioContextHandle, AlignedBuf, File, ReadFlags};
    ///
    /// static HANDLE: LazyLock<AioContextHandle> = LazyLock::new(|| {
    ///     let builder = AioContextBuilder::new(128).own_thread();
    ///     builder.build_detached().expect("kernel AIO should be available")
    /// });
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let file = File::open_blocking(path, false)?;
    /// let mut buffer = AlignedBuf::new(4096)?;
    /// let read = file.read_at(&HANDLE, 0, &mut buffer, 4096, ReadFlags::empty());
    /// assert_eq!(futures::executor::block_on(read)?, 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub fn own_thread(mut self) -> Self {
        self.own_thread = true;
        self
    }

    /// Runs the requests on a simulated disk, with the feature `simulation` of this crate. The context is
    /// [`Backend::Simulated`], whatever backends are set.
    ///
    /// The context runs requests on files of this disk. On other descriptors they fail with `EBADF`, and so do
    /// requests of other contexts on files of the disk. It needs a runtime with timers, and none with I/O. It
    /// has one [shard](Self::shards). [Offloading](SubmitPolicy) has no effect: there is nothing that blocks.
    ///
    /// With [`own_thread`](Self::own_thread) the context has another clock than a current runtime that is
    /// paused, and its requests complete on another thread: the run is not deterministic.
    ///
    /// # Errors
    ///
    /// None here. The build methods return `IoSetup` outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// None here. The build methods panic in a runtime whose timers are not enabled.
    ///
    /// # Examples
    ///
    /// See [`SimDisk`].
    #[cfg(feature = "simulation")]
    pub fn simulated(mut self, disk: &SimDisk) -> Self {
        self.simulated = Some(disk.clone());
        self
    }

    /// Makes a context as [`aio_context`](crate::aio_context) does, with the same errors and panics. With
    /// [`own_thread`](Self::own_thread) it needs no runtime and never panics.
    pub fn build(self) -> Result<(AioContext, AioContextHandle), AioContextError> {
        let thread = self.own_thread.then(OwnThread::prepare).transpose();
        let thread = thread.map_err(no_own_thread)?;
        let entered = thread.as_ref().map(UnstartedThread::enter);
        let count = self.shards.clamp(1, self.config.capacity.max(1));
        #[cfg(feature = "simulation")]
        let count = match self.simulated {
            Some(_) => 1, // the CPU, which chooses the shard, is not the same in every run
            None => count,
        };
        let depth = self.group_depth;
        let (shards, refused) = self.on_backend(|config, offload| {
            let offload = OffloadConfig {
                max_threads: offload.max_threads.div_ceil(count),
                ..offload
            };
            Shards::split(config, count, depth, |config| open(config, offload, &self))
        })?;
        let shards = shards.with_refused(refused);
        let order = match &thread {
            Some(_) => PollOrder::Early, // the tasks with requests are on other threads
            None => poll_order(),
        };
        let drivers = shards.all().iter();
        let tasks = drivers.map(|driver| {
            let waker = CompletionWaker::for_any_thread(driver);
            if let Some(thread) = &thread {
                driver.driver_waker.set_own_thread(thread.thread().clone());
            }
            waker.arm();
            DriverTask::new(Arc::clone(driver), waker, order)
        });
        let tasks: Vec<_> = tasks.collect();
        drop(entered);
        match thread {
            Some(thread) => thread.start(tasks).map_err(no_own_thread)?,
            None => tasks.into_iter().for_each(|task| drop(tokio::spawn(task))),
        }
        let lease = ContextLease {
            shards,
            resources: Arc::new(HandleResources::new(self.buffers)),
        };
        let handle = GenericAioContextHandle::new(&lease);
        Ok((GenericAioContext::new(lease), handle))
    }

    /// Makes a context that ends with the last clone of its handle, as if it was dropped then. See
    /// [`GenericAioContext::detach`]. Errors and panics are those of [`build`](Self::build).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, AioContextHandle};
    ///
    /// struct Store {
    ///     handle: AioContextHandle, // all that has to be kept
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
    /// let store = Store { handle: AioContextBuilder::new(256).build_detached()? };
    /// assert_eq!(store.handle.available_slots(), Some(256));
    /// store.handle.closed().await; // waits until the context has ended
    /// # Ok(())
    /// # }
    /// ```
    pub fn build_detached(self) -> Result<AioContextHandle, AioContextError> {
        let (context, _handle) = self.build()?;
        Ok(context.detach())
    }

    /// Makes a context as [`local_aio_context`](crate::local_aio_context) does, with the same errors and
    /// panics.
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
        self.open_one(PollOrder::Fair) // the queue of one thread is first in, first out
    }

    /// Makes a context as [`generic_aio_context`](crate::generic_aio_context) does, with the same errors
    /// and panics.
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
        self.open_one(poll_order())
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
        let depth = self.group_depth;
        let (driver, refused) = self.on_backend(|config, offload| open(config, offload, &self))?;
        let waker = CompletionWaker::for_this_thread(&driver);
        waker.arm();
        let lease = ContextLease {
            shards: Shards::one(Arc::clone(&driver), depth).with_refused(refused),
            resources: Arc::new(HandleResources::new(self.buffers)),
        };
        let handle = GenericAioContextHandle::new(&lease);
        Ok((
            GenericAioContext::new(lease),
            handle,
            DriverTask::new(driver, waker, order),
        ))
    }

    /// Calls `open` with one backend after the other, until one is available. Returns those that are not, too.
    fn on_backend<R>(
        &self,
        open: impl Fn(ContextConfig, OffloadConfig) -> Result<R, AioContextError>,
    ) -> Result<(R, Vec<RefusedBackend>), AioContextError> {
        #[cfg(feature = "simulation")]
        if self.simulated.is_some() {
            let config = ContextConfig {
                backend: Backend::Simulated,
                ..self.config
            };
            return Ok((open(config, self.offload_config(config))?, Vec::new()));
        }
        let (first, mut alternatives) = match FORCED_BACKEND {
            Some(forced) => (forced, [].iter()),
            None => (self.config.backend, self.alternatives.iter()),
        };
        let mut backend = first;
        let mut refused = Vec::new();
        loop {
            let config = ContextConfig {
                backend,
                ..self.config
            };
            let error = match open(config, self.offload_config(config)) {
                Ok(opened) => {
                    report_refused(&refused, config);
                    return Ok((opened, refused));
                }
                Err(error) => error,
            };
            match alternatives.next() {
                _ if !is_for_want_of_backend(&error) => return Err(error),
                Some(next) => {
                    refused.push(RefusedBackend::new(backend, error));
                    backend = *next;
                }
                None if refused.is_empty() => return Err(error),
                None => {
                    refused.push(RefusedBackend::new(backend, error));
                    let errors = refused.into_iter().map(RefusedBackend::into_parts);
                    return Err(AioContextError::of_backends(errors.collect()));
                }
            }
        }
    }

    fn offload_config(&self, config: ContextConfig) -> OffloadConfig {
        let (max_threads, max_batch) = match config.backend {
            Backend::KernelAio | Backend::IoUring => (
                DEFAULT_OFFLOAD_THREADS,
                config.policy.max_batch.unwrap_or(MAX_BATCH),
            ),
            Backend::ThreadPool => (DEFAULT_BACKEND_THREADS, 1), // a request occupies its thread
            #[cfg(feature = "simulation")]
            Backend::Simulated => (0, MAX_BATCH), // nothing is offloaded
        };
        OffloadConfig {
            max_threads: self.blocking_threads.unwrap_or(max_threads),
            max_batch,
            observe: config.backend == Backend::KernelAio,
            merge: config.backend != Backend::ThreadPool,
        }
    }
}

/// The backend of every context, in builds for tests.
const FORCED_BACKEND: Option<Backend> = if cfg!(kaio_force_threads) {
    Some(Backend::ThreadPool)
} else if cfg!(kaio_force_uring) {
    Some(Backend::IoUring)
} else {
    None
};

/// Whether `error` means that the backend is not available, and not that `nr` is invalid.
fn is_for_want_of_backend(error: &AioContextError) -> bool {
    match error {
        AioContextError::IoSetup(error) => error.raw_os_error() != Some(libc::EINVAL),
        AioContextError::EventFd(_) => false,
    }
}

fn report_refused(refused: &[RefusedBackend], config: ContextConfig) {
    for refused in refused {
        let (backend, error) = (refused.backend(), refused.error());
        trace::backend_refused(config.capacity, backend, error, config.backend);
    }
}

/// Returns the error of a context whose own thread, or the runtime of it, can't be created.
fn no_own_thread(error: io::Error) -> AioContextError {
    AioContextError::IoSetup(io::Error::new(error.kind(), NoOwnThread { error }))
}

#[derive(Debug, Error)]
#[error("its own thread can't be started: {error}: {}", no_own_thread_hint(.error))]
struct NoOwnThread {
    #[source]
    error: io::Error,
}

fn no_own_thread_hint(error: &io::Error) -> &'static str {
    match descriptor_hint(error) {
        Some(hint) => hint,
        None => {
            "the user or the container has reached its limit of threads (ulimit -u, pids.max of the \
             cgroup), or there is not enough memory for a thread"
        }
    }
}

/// Makes one shard. Sets up the backend last: the eventfd is cheap to drop if that fails.
fn open<T>(
    config: ContextConfig,
    offload: OffloadConfig,
    builder: &AioContextBuilder,
) -> Result<Arc<Driver<T>>, AioContextError>
where
    T: ContextTypes<Backend = AnyBackend>,
{
    #[cfg(feature = "simulation")]
    if let Some(disk) = &builder.simulated {
        return open_simulated(config, offload, disk);
    }
    let eventfd = EventFd::new(0, false)?;
    let nr = checked_capacity(&config)?;
    let mut config = config;
    let backend = match config.backend {
        Backend::KernelAio => {
            let aio = AioBackend::setup(nr)?;
            if !aio.capabilities().user_ring {
                trace::without_ring();
            }
            AnyBackend::Aio(aio)
        }
        Backend::ThreadPool => AnyBackend::Blocking(BlockingBackend::new()),
        Backend::IoUring => {
            let opened = open_uring(nr, &eventfd, &builder.registered, &mut config);
            opened.map_err(AioContextError::of_uring)?
        }
        #[cfg(feature = "simulation")]
        Backend::Simulated => return Err(AioContextError::IoSetup(without_disk())),
    };
    if backend.capabilities().nonblocking_submit {
        config.policy.nonblocking_submit = true;
    }
    let runtime = Handle::try_current().ok();
    Ok(Driver::new(
        backend,
        Some(eventfd),
        config,
        runtime,
        offload,
    ))
}

/// Returns the capacity of a context.
///
/// # Errors
///
/// `EINVAL`: it is 0 or too large.
fn checked_capacity(config: &ContextConfig) -> io::Result<u32> {
    let nr = u32::try_from(config.capacity).ok().filter(|nr| *nr > 0);
    nr.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Makes the shard of a context on a simulated disk, and spawns its timer.
///
/// # Panics
///
/// In a runtime whose timers are not enabled.
#[cfg(feature = "simulation")]
fn open_simulated<T>(
    config: ContextConfig,
    offload: OffloadConfig,
    disk: &SimDisk,
) -> Result<Arc<Driver<T>>, AioContextError>
where
    T: ContextTypes<Backend = AnyBackend>,
{
    checked_capacity(&config)?;
    let runtime = Handle::try_current().map_err(|_| {
        io::Error::other(
            "there is no tokio runtime on this thread: make the context in one, with timers, or give it a \
             thread of its own (AioContextBuilder::own_thread)",
        )
    })?;
    let (backend, timer) = SimulatedBackend::new(Arc::clone(disk.disk()));
    let config = ContextConfig {
        policy: PolicyConfig {
            policy: SubmitPolicy::Inline,
            nonblocking_submit: true,
            simulated: true,
            ..config.policy
        },
        ..config
    };
    let backend = AnyBackend::Simulated(backend);
    let driver = Driver::new(backend, None, config, Some(runtime.clone()), offload);
    runtime.spawn(timer.timer(Arc::clone(&driver.driver_waker)));
    Ok(driver)
}

/// The error of a context that names [`Backend::Simulated`] among its backends.
#[cfg(feature = "simulation")]
fn without_disk() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a context on the simulated disk needs the disk: pass it to AioContextBuilder::simulated",
    )
}

#[cfg(feature = "io-uring")]
fn open_uring(
    nr: u32,
    eventfd: &EventFd,
    registered: &[RegisteredPool],
    config: &mut ContextConfig,
) -> io::Result<AnyBackend> {
    let uring = UringBackend::setup(nr, Some(eventfd.as_raw_fd()), registered)?;
    if let Some(error) = uring.registration_error() {
        trace::without_registered_buffers(error);
    }
    config.registered_bytes = uring.registered_bytes();
    config.file_calls = uring.file_calls();
    Ok(AnyBackend::Uring(uring))
}

#[cfg(not(feature = "io-uring"))]
fn open_uring(
    _nr: u32,
    _eventfd: &EventFd,
    _registered: &[RegisteredPool],
    _config: &mut ContextConfig,
) -> io::Result<AnyBackend> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this program was built without the feature `io-uring` of tokio-kaio; enable it in Cargo.toml",
    ))
}
