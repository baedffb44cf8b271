//! [`GenericAioContextHandle`]: submits requests to a context.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use intrusive_collections::linked_list::{self, AtomicLink};
use lock_api::RawMutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::drain::drain;
use super::handle_resources::HandleResources;
use super::lease::ContextLease;
use super::op_future::OpFuture;
use super::op_options::{OpOptions, TimeLimit};
use super::op_timer::OpTimer;
use super::refused_backend::RefusedBackend;
use super::shards::Shards;
use super::transfer_progress::TransferMode;
use crate::backend::FileCalls;
use crate::config::Types;
use crate::driver::ForkedChild;
use crate::op::{BufferReturn, FileId, FileRef, IoBuffer, IoOp, IoRequest};
#[cfg(feature = "tracing")]
use crate::trace;
use crate::{
    AioCommandError, Backend, IoGroup, IoPriority, LocalRequestAdapter, Metrics, NoopLock,
    PollEvents, RawCommand, SizeClassPool, SyncRequestAdapter,
};

/// Submits requests to a context. Cheap to clone.
///
/// # Paused clock
///
/// **Under `tokio::time::pause`, a timeout of any length can fire while the kernel works on the
/// request.** A paused clock jumps to the next timer as soon as no task is ready, and tokio does not
/// count a request in the kernel as work. In tests, don't pause the clock, or use
/// [`Backend::ThreadPool`], whose threads count. To test the handling of
/// [`TimedOut`](AioCommandError::TimedOut), use a deadline that has passed. A context with its
/// [own thread](crate::AioContextBuilder::own_thread) uses the clock of that thread, which is never
/// paused. See the repository's `docs/cancellation.md`.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use tokio_kaio::{AlignedBuf, File, ReadFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 16384])?;
/// let (context, handle) = aio_context(8, true)?;
/// let file = Arc::new(File::open(path, false).await?);
/// let mut tasks = tokio::task::JoinSet::new();
/// for block in 0..4 {
///     let (handle, file) = (handle.clone(), Arc::clone(&file));
///     tasks.spawn(async move {
///         let buffer = AlignedBuf::new(4096).unwrap();
///         let (read, _) = file.read_owned_at(&handle, block * 4096, buffer, ReadFlags::empty()).await;
///         read.unwrap()
///     });
/// }
/// assert_eq!(tasks.join_all().await, [4096; 4]);
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
pub struct GenericAioContextHandle<M: RawMutex, A, L> {
    shards: Shards<Types<M>>,
    options: OpOptions,
    resources: Arc<HandleResources>,
    /// Keeps a [detached](crate::GenericAioContext::detach) context until the last handle is dropped.
    lease: Option<Arc<ContextLease<M>>>,
    /// Type parameters only, for compatibility with `linux-aio-tokio`: requests are kept in a slab.
    inert: PhantomData<fn() -> (A, L)>,
}

/// The handle of an [`AioContext`](crate::AioContext).
pub type AioContextHandle =
    GenericAioContextHandle<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>;

/// The handle of a [`LocalAioContext`](crate::LocalAioContext).
pub type LocalAioContextHandle =
    GenericAioContextHandle<NoopLock, LocalRequestAdapter, linked_list::Link>;

/// An operation, in its span.
#[cfg(feature = "tracing")]
pub(crate) type Operation<'h, 'a, T> = trace::Traced<OpFuture<'h, 'a, T>>;
/// An operation.
#[cfg(not(feature = "tracing"))]
pub(crate) type Operation<'h, 'a, T> = OpFuture<'h, 'a, T>;

impl<M: RawMutex, A, L> GenericAioContextHandle<M, A, L> {
    /// Creates a handle that does not keep the context of `lease` open.
    pub(super) fn new(lease: &ContextLease<M>) -> Self {
        GenericAioContextHandle {
            shards: lease.shards.clone(),
            options: OpOptions::NONE.clone(),
            resources: Arc::clone(&lease.resources),
            lease: None,
            inert: PhantomData,
        }
    }

    /// Creates a handle that keeps the context of `lease` open.
    pub(super) fn detached(lease: ContextLease<M>) -> Self {
        let mut handle = GenericAioContextHandle::new(&lease);
        handle.lease = Some(Arc::new(lease));
        handle
    }

    /// Returns a handle on the same context whose operations have this I/O priority. It takes effect
    /// where the block device's scheduler uses priorities. Operations of other handles have the priority
    /// of the thread that submits them.
    ///
    /// # Errors
    ///
    /// None here. Operations fail with `IoSubmit` and `EPERM` if the process may not use the class:
    /// [`RealTime`](crate::IoClass::RealTime) needs `CAP_SYS_NICE` or `CAP_SYS_ADMIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, IoPriority, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let background = handle.with_priority(IoPriority::idle());
    /// let file = File::open(path, false).await?;
    /// let mut buffer = AlignedBuf::new(4096)?;
    /// let flags = ReadFlags::empty();
    /// file.read_at(&background, 0, &mut buffer, 4096, flags).await?;
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle is not changed; the returned one has the priority"]
    pub fn with_priority(&self, priority: IoPriority) -> Self {
        let mut handle = self.clone();
        handle.options.priority = priority.to_kernel();
        handle
    }

    /// Returns a handle on the same context whose operations end at `deadline` at the latest. Operations
    /// that are not done then fail with [`TimedOut`](AioCommandError::TimedOut), even when the disk is
    /// stuck.
    ///
    /// - A request in flight is treated as if its future had been dropped: it goes on, and holds its slot
    ///   and its memory until the kernel is done. [`AlignedBuf`](crate::AlignedBuf#while-an-operation-runs)
    ///   says what happens to the buffer.
    /// - An operation that starts after its deadline is not submitted.
    /// - The deadline covers all requests of an operation together. `TimedOut` does not say how much was
    ///   moved.
    /// - tokio's timer has a resolution of one millisecond. A submission that blocks its thread
    ///   ([`SubmitPolicy::Inline`](crate::SubmitPolicy::Inline)) delays the timer. With a
    ///   [paused clock](Self#paused-clock), deadlines fire early.
    /// - [`File::drain`](crate::File::drain) can't fail, so it has no deadline.
    ///
    /// # Panics
    ///
    /// Operations that have to wait panic outside a tokio runtime, and in a runtime whose timer is not
    /// enabled; never on a context with its [own thread](crate::AioContextBuilder::own_thread).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio::time::Instant;
    /// use tokio_kaio::{AioCommandError, AlignedBuf, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut buffer = AlignedBuf::new(4096)?;
    /// let request = handle.with_deadline(Instant::now() + Duration::from_secs(5));
    /// match file.read_at(&request, 0, &mut buffer, 4096, ReadFlags::empty()).await {
    ///     Err(AioCommandError::TimedOut) => println!("the disk takes too long: read a replica"),
    ///     read => assert_eq!(read?, 4096),
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle is not changed; the returned one has the deadline"]
    pub fn with_deadline(&self, deadline: tokio::time::Instant) -> Self {
        let mut handle = self.clone();
        handle.options.set_time_limit(TimeLimit::Deadline(deadline));
        handle
    }

    /// Returns a handle on the same context whose operations may take this long, each from its first
    /// poll. The rest is as with [`with_deadline`](Self::with_deadline), also under a
    /// [paused clock](Self#paused-clock). If both are called, the last call counts.
    ///
    /// An operation with a timeout of 0 is submitted all the same. It succeeds if it completes at its first
    /// poll, as reads from tmpfs do, or before tokio's timer fires, at most a millisecond later. Otherwise
    /// it times out, and its request goes on: a write may land. These submit nothing:
    /// [`read_bytes_at`](crate::File::read_bytes_at) and
    /// [`write_bytes_at`](crate::File::write_bytes_at), `read_range`, `read_ranges` and `stream_ranges`,
    /// [opens](Self::open_with), and [`allocate`](crate::BoundFile::allocate), `set_len` and `sync_range` of a
    /// `BoundFile`. To submit nothing in any case, use a deadline that has passed.
    ///
    /// # Panics
    ///
    /// The same as [`with_deadline`](Self::with_deadline).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    /// use tokio_kaio::{AioCommandError, PollEvents, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(8, true)?;
    /// let (reader, _writer) = UnixStream::pair()?; // nobody writes
    /// let limited = handle.with_timeout(Duration::from_millis(5));
    /// let ready = limited.poll(&reader, PollEvents::IN).await;
    /// assert!(matches!(ready, Err(AioCommandError::TimedOut)));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle is not changed; the returned one has the timeout"]
    pub fn with_timeout(&self, timeout: std::time::Duration) -> Self {
        let mut handle = self.clone();
        handle.options.set_time_limit(TimeLimit::Timeout(timeout));
        handle
    }

    /// Returns a handle on the same context whose operations belong to `group`: they have a share of the
    /// context, and the limits of the group. If called on a handle that has a group, the new one counts.
    ///
    /// - Each request of an operation waits for the turn of its group before it takes a slot. The wait counts
    ///   against a deadline. An operation that is dropped or times out meanwhile is not submitted.
    /// - Appends of a group to a file keep their order, unless the future of one is not polled for a second when
    ///   it is its turn. A [batch](Self::batch) is submitted as far as its operations have their turn.
    /// - [Priorities](Self::with_priority) are passed to the device, and do not change the order here.
    /// - Requests wait for their turn also if the context was made with `use_semaphore` `false`. If it is their
    ///   turn and no slot is free, they fail with `CapacityExceeded`.
    /// - [Polls](Self::poll) do not wait. [`File::drain`](crate::File::drain) does not wait for requests that
    ///   have not had their turn.
    ///
    /// # Panics
    ///
    /// Not here. Operations that wait for a [limit](IoGroup#limits) panic if neither the context was made
    /// inside a tokio runtime, nor they are polled in one, and in a runtime whose timer is not enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_kaio::{AlignedBuf, File, IoGroup, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let (context, handle) = aio_context(64, true)?;
    /// let tenant = IoGroup::new("tenant 7").with_weight(200).with_max_iops(5000);
    /// let handle = handle.with_group(&tenant).with_timeout(Duration::from_secs(60));
    /// let file = File::open(path, false).await?;
    /// let mut buffer = AlignedBuf::new(4096)?;
    /// file.read_at(&handle, 0, &mut buffer, 4096, ReadFlags::empty()).await?;
    /// assert_eq!(tenant.metrics().bytes, 4096);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle is not changed; the returned one has the group"]
    pub fn with_group(&self, group: &IoGroup) -> Self {
        let mut handle = self.clone();
        // `None` in a forked child, where operations fail in any case.
        handle.options.set_group(self.shards.join_group(group));
        handle
    }

    /// Returns a handle on the same context whose operations take their memory from `pool`, where they have
    /// to provide memory themselves, as [`File::read_range`](crate::File) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{SizeClassPoolBuilder, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(8, true)?;
    /// let pool = SizeClassPoolBuilder::new(16 << 20).huge_pages(true).build()?;
    /// let handle = handle.with_buffers(&pool);
    /// assert_eq!(handle.buffers().limit(), 16 << 20);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle is not changed; the returned one has the pool"]
    pub fn with_buffers(&self, pool: &SizeClassPool) -> Self {
        let mut handle = self.clone();
        Arc::make_mut(&mut handle.resources).buffers = pool.clone();
        handle
    }

    /// Returns the pool from which operations of this handle take memory, where they have to provide it
    /// themselves.
    ///
    /// It is that of [`with_buffers`](Self::with_buffers), or of
    /// [`AioContextBuilder::buffers`](crate::AioContextBuilder::buffers). Otherwise the context has one with a
    /// limit of 64 MiB, which it maps when it is first used, and whose pages take memory as they are first
    /// used. Operations use [`get_or_map`](SizeClassPool::get_or_map), so the limit makes none of them wait:
    /// past it, buffers are mapped and unmapped again.
    /// [`mapped_afresh`](crate::SizeClassPoolStats::mapped_afresh) shows whether it should be larger.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut buffer = handle.buffers().get(4096).await?;
    /// file.read_at(&handle, 0, &mut buffer, 4096, ReadFlags::empty()).await?;
    /// assert_eq!(handle.buffers().stats().in_use, 4096);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn buffers(&self) -> &SizeClassPool {
        &self.resources.buffers
    }

    /// The deadline of an operation of several requests that starts now, and a handle whose operations
    /// have this deadline. `None`: no time limit.
    pub(crate) fn limited(&self) -> Option<(tokio::time::Instant, Self)> {
        let limit = self.options.time_limit();
        let end = limit.deadline_by_clock_of(self.shards.own_thread())?;
        Some((end, self.with_deadline(end)))
    }

    /// The deadline and the handle of `limited`, which [`limited`](Self::limited) has returned. Without a time
    /// limit, this handle.
    #[inline]
    pub(crate) fn or_limited<'h>(
        &'h self,
        limited: &'h Option<(tokio::time::Instant, Self)>,
    ) -> (Option<tokio::time::Instant>, &'h Self) {
        match limited {
            Some((deadline, limited)) => (Some(*deadline), limited),
            None => (None, self),
        }
    }

    /// Number of free slots: requests that can be made now without waiting. A request takes a slot when
    /// it is queued or submitted, and holds it until the kernel is done, also if its future was dropped.
    ///
    /// `None` if the context was closed or dropped, if its background task has ended, if it was made with
    /// `use_semaphore` `false`, or in a forked child.
    pub fn available_slots(&self) -> Option<usize> {
        self.shards.available_slots()
    }

    /// Drops this handle, and waits until the context has ended and has released everything, as
    /// [`close`](crate::GenericAioContext::close) does. It does not end the context, except if this is the last handle
    /// of a [detached](crate::GenericAioContext::detach) one.
    ///
    /// # Cancel safety
    ///
    /// The handle is dropped in any case.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::aio_context;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(8, true)?;
    /// let watcher = tokio::spawn(handle.closed());
    /// drop(context);
    /// watcher.await?; // its share of fs.aio-max-nr is free again
    /// # Ok(())
    /// # }
    /// ```
    pub async fn closed(self) {
        let shards = self.shards.clone();
        drop(self);
        shards.wait_until_gone().await;
    }

    /// The backend that runs the requests of the context.
    pub fn backend(&self) -> Backend {
        self.shards.all()[0].config.backend
    }

    /// Returns how many bytes of memory are registered with the kernel, by each shard
    /// ([`AioContextBuilder::register_buffers`](crate::AioContextBuilder::register_buffers)). 0 on backends
    /// other than [`Backend::IoUring`], and if the kernel did not permit it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, Backend, BufferPool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = BufferPool::new(16, 4096)?;
    /// let (context, handle) = AioContextBuilder::new(16)
    ///     .backends(&[Backend::IoUring, Backend::KernelAio])
    ///     .register_buffers(&pool)
    ///     .build()?;
    /// if handle.registered_bytes() == 0 {
    ///     eprintln!("no memory is registered on {}: is `ulimit -l` too small?", handle.backend());
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn registered_bytes(&self) -> usize {
        let shards = self.shards.all().iter();
        shards
            .map(|shard| shard.config.registered_bytes)
            .min()
            .unwrap_or(0)
    }

    /// The calls that the context performs, and not tokio's blocking pool.
    pub(crate) fn file_calls(&self) -> FileCalls {
        self.shards.all()[0].config.file_calls
    }

    /// Returns the error of a request that can't start: the context has ended or belongs to the parent of this
    /// process, or `deadline` has passed.
    pub(crate) fn check_start(&self, deadline: Option<Instant>) -> Result<(), AioCommandError> {
        for driver in self.shards.all() {
            match driver.enter() {
                Ok(driver) if driver.is_open() => {}
                Ok(_) => return Err(AioCommandError::AioStopped),
                Err(ForkedChild) => return Err(AioCommandError::forked_child()),
            }
        }
        let limit = deadline.map_or(TimeLimit::None, TimeLimit::Deadline);
        match limit.has_passed(self.shards.own_thread()) {
            true => Err(AioCommandError::TimedOut),
            false => Ok(()),
        }
    }

    /// A call of [`file_calls`](Self::file_calls).
    pub(crate) fn file_call<'h>(
        &'h self,
        file: FileRef<'h>,
        op: IoOp,
    ) -> Operation<'h, 'static, Types<M>> {
        let request = IoRequest::new(op, IoBuffer::None);
        self.request_operation(file, (request, BufferReturn::None, TransferMode::Single))
    }

    /// The number of slots, if requests do not wait for one: as many requests can be in flight without an
    /// error, as far as nobody else makes any.
    pub(crate) fn slots_without_waiting(&self) -> Option<usize> {
        let shards = self.shards.all().iter();
        let slots =
            shards.map(|shard| (!shard.config.wait_for_slot).then_some(shard.config.capacity));
        slots.sum()
    }

    /// Returns the backends before the one that runs the requests in the list of
    /// [`AioContextBuilder::backends`](crate::AioContextBuilder::backends), in its order, and why each is not
    /// available. `AioContextBuilder::backends` has an example.
    pub fn refused_backends(&self) -> &[RefusedBackend] {
        self.shards.refused()
    }

    /// Returns a snapshot of the context's counters, also after the context has ended.
    ///
    /// Takes the context's lock for a moment (with shards, one lock after another), allocates nothing
    /// unless [latencies are measured](crate::AioContextBuilder::measure_latency), and makes no
    /// system call. [`Metrics`] has an example. In a forked child all counters are 0.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.shards.metrics();
        if self.shards.all()[0].enter().is_ok() {
            metrics.unfinished_writers = self.resources.unfinished_writers.load(Ordering::Relaxed);
        }
        metrics
    }

    /// Counts a `FileWriter` that was dropped unfinished.
    pub(crate) fn count_unfinished_writer(&self) {
        let count = &self.resources.unfinished_writers;
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// [Publishes](Metrics::publish) the context's metrics, and those of its
    /// [groups](crate::GroupMetrics::publish), every `interval`, which is at least a
    /// millisecond. Publishes a last time when the context has ended, and resolves. Does not keep a
    /// [detached](crate::GenericAioContext::detach) context. Latencies, if
    /// measured, are those of the interval. Needs the feature `metrics`. Spawn it:
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_kaio::aio_context;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(8, true)?;
    /// let report = handle.clone().report_metrics("wal", Duration::from_secs(10));
    /// let report = tokio::spawn(report);
    /// // …
    /// context.close().await;
    /// report.await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the reports.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, and in a runtime whose timer is not enabled; never if the context has its
    /// [own thread](crate::AioContextBuilder::own_thread).
    #[cfg(feature = "metrics")]
    pub async fn report_metrics(
        mut self,
        context: impl Into<::metrics::SharedString>,
        interval: std::time::Duration,
    ) {
        crate::metrics::describe();
        self.lease = None;
        crate::group::describe();
        let context = context.into();
        let interval = interval.max(std::time::Duration::from_millis(1));
        let mut ended = std::pin::pin!(self.shards.clone().wait_until_gone());
        let mut last = None;
        loop {
            let now = self.metrics();
            now.publish_since(last.as_ref(), context.clone());
            last = Some(now);
            self.shards.publish_groups();
            let next = || Instant::now().checked_add(interval);
            let has_ended = match OpTimer::start(next, self.shards.own_thread()) {
                Some(timer) => super::until(ended.as_mut(), timer).await.is_some(),
                None => {
                    ended.as_mut().await; // it has no thread any more, or `interval` is endless
                    true
                }
            };
            if has_ended {
                self.shards.publish_groups();
                return self.metrics().publish_since(last.as_ref(), context);
            }
        }
    }

    /// Runs one operation on the file behind `fd`. Returns the number of bytes that were moved; 0 for a
    /// sync; the [events](PollEvents::bits) of a poll.
    ///
    /// `fd` is any descriptor whose file supports AIO. The operation is asynchronous only with direct I/O
    /// (`O_DIRECT`): on other files the kernel does all of it inside the submission. A read of an empty
    /// pipe or socket blocks the thread until there is something to read, and can't be cancelled.
    ///
    /// [`File`](crate::File) opens files for direct I/O, and its requests share system calls. A request
    /// made here is submitted on its own, before the first `poll` returns, because nothing else ensures
    /// that `fd` stays open. If it has to wait for a slot, or is submitted from the blocking pool
    /// ([`SubmitPolicy::Offload`](crate::SubmitPolicy::Offload), [`Backend::ThreadPool`]), it uses a
    /// duplicate of `fd`, which is closed when the request completes. Closing it releases the process's
    /// POSIX record locks on the file: see
    /// [`F_SETLK(2const)`](https://man7.org/linux/man-pages/man2/F_SETLK.2const.html).
    ///
    /// A bare number ([`RawFd`](std::os::fd::RawFd)) is accepted too. The caller ensures that it is open.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The context and other requests are not affected.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the operation. A request that waits for a slot never reaches the
    /// kernel. A request in flight goes on and holds its slot; a write may still land, also if it waits
    /// for a thread of the blocking pool. A poll is cancelled.
    /// [`AlignedBuf`](crate::AlignedBuf#while-an-operation-runs) says what happens to the buffer.
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer. Nothing is submitted then, and the buffer is unchanged.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::fs::File;
    /// use tokio_kaio::{RawCommand, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::options().write(true).open("log")?;
    /// handle.submit_request(&file, RawCommand::Fsync).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn submit_request(
        &self,
        fd: &impl AsRawFd,
        command: RawCommand<'_>,
    ) -> Result<u64, AioCommandError> {
        let file = FileRef::Borrowed(fd.as_raw_fd());
        self.operation(file, command).await
    }

    /// Waits until the file behind `fd` has one of `events`, and returns the events that it has. See
    /// [`RawCommand::Poll`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]: `EBADF`; `EINVAL` before Linux 4.18.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the poll in the kernel; its slot is free soon after.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    /// use tokio_kaio::{PollEvents, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(8, true)?;
    /// let (reader, mut writer) = std::os::unix::net::UnixStream::pair()?;
    /// writer.write_all(b"hello")?;
    /// assert_eq!(handle.poll(&reader, PollEvents::IN).await?, PollEvents::IN);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn poll(
        &self,
        fd: &impl AsRawFd,
        events: PollEvents,
    ) -> Result<PollEvents, AioCommandError> {
        let ready = self.submit_request(fd, RawCommand::Poll { events }).await?;
        Ok(PollEvents::from_bits_retain(ready as u16))
    }

    /// Polls `future` in the runtime of the context's own thread, if the context has one and the caller is
    /// outside a tokio runtime, so that `future` can use a blocking pool.
    pub(crate) async fn in_runtime<T, E: From<AioCommandError>>(
        &self,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(thread) = self.shards.own_thread() else {
            return future.await;
        };
        let mut future = pin!(future);
        poll_fn(|cx| {
            if Handle::try_current().is_ok() {
                return future.as_mut().poll(cx);
            }
            match thread.runtime() {
                Some(runtime) if runtime.is_ours() => {
                    let _entered = runtime.enter();
                    future.as_mut().poll(cx)
                }
                Some(_) => Poll::Ready(Err(AioCommandError::forked_child().into())),
                None => Poll::Ready(Err(AioCommandError::AioStopped.into())),
            }
        })
        .await
    }

    /// Polls `future` until `deadline`, if there is one, [in a runtime](Self::in_runtime). Starts no timer unless
    /// `future` has to wait.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline; the future is dropped.
    pub(crate) async fn with_time_limit<T, E: From<AioCommandError>>(
        &self,
        deadline: Option<Instant>,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut future = pin!(self.in_runtime(future));
        let mut timer = None;
        poll_fn(|cx| {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if timer.is_none() {
                timer = self.timer(deadline);
            }
            match &mut timer {
                Some(timer) => Pin::new(timer)
                    .poll(cx)
                    .map(|()| Err(AioCommandError::TimedOut.into())),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// A timer that fires at `deadline`. See [`OpTimer::start`].
    pub(crate) fn timer(&self, deadline: Option<Instant>) -> Option<OpTimer> {
        OpTimer::start(|| deadline, self.shards.own_thread())
    }

    /// Polls `call`, which tokio's blocking pool performs in place of a request, [until
    /// `deadline`](Self::with_time_limit) and until the context has ended.
    ///
    /// # Errors
    ///
    /// Also `AioStopped` and `TimedOut`; the future is dropped.
    pub(crate) async fn in_place_of_request<T>(
        &self,
        deadline: Option<Instant>,
        call: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let mut call = pin!(call);
        let mut gone = pin!(self.shards.clone().wait_until_gone());
        let until_gone = poll_fn(|cx| {
            if self.shards.all()[0].enter().is_err() {
                return Poll::Ready(Err(AioCommandError::forked_child().into()));
            }
            if let Poll::Ready(result) = call.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            let gone = gone.as_mut().poll(cx);
            gone.map(|()| Err(AioCommandError::AioStopped.into()))
        });
        self.with_time_limit(deadline, until_gone).await
    }

    pub(super) fn time_limit(&self) -> &TimeLimit {
        self.options.time_limit()
    }

    /// The name of the group, for traces.
    pub(super) fn group_name(&self) -> Option<&str> {
        Some(self.options.group()?.group().name())
    }

    /// See [`submit_request`](Self::submit_request). Without a span.
    #[inline(always)]
    pub(super) fn untraced_operation<'h, 'a>(
        &'h self,
        file: FileRef<'h>,
        command: RawCommand<'a>,
    ) -> OpFuture<'h, 'a, Types<M>> {
        let (driver, others) = self.shards.for_one(|| command.appends());
        OpFuture::new(driver, others, &self.options, file, command)
    }

    /// The operations of a batch, without spans.
    pub(super) fn batch_operations<'h, 'a>(
        &'h self,
        members: Vec<(FileRef<'h>, RawCommand<'a>)>,
    ) -> Vec<OpFuture<'h, 'a, Types<M>>> {
        let appends = || members.iter().any(|(_, command)| command.appends());
        let (driver, others) = self.shards.for_batch(appends);
        let operations = members.into_iter().map(|(file, command)| {
            let others = others.filter(|_| !command.appends());
            OpFuture::new(driver, others, &self.options, file, command)
        });
        operations.collect()
    }

    /// The operations of a batch of requests that own their buffers, without spans.
    pub(super) fn batch_requests<'h>(
        &'h self,
        members: Vec<(FileRef<'h>, IoRequest, TransferMode)>,
    ) -> Vec<OpFuture<'h, 'static, Types<M>>> {
        let appends = || members.iter().any(|(_, request, _)| request.op.appends());
        let (driver, others) = self.shards.for_batch(appends);
        let operations = members.into_iter().map(|(file, request, mode)| {
            let others = others.filter(|_| !request.op.appends());
            let request = (request, BufferReturn::Caller, mode);
            OpFuture::with_request(driver, others, &self.options, file, request)
        });
        operations.collect()
    }

    /// See [`submit_request`](Self::submit_request).
    #[inline(always)]
    pub(crate) fn operation<'h, 'a>(
        &'h self,
        file: FileRef<'h>,
        command: RawCommand<'a>,
    ) -> Operation<'h, 'a, Types<M>> {
        #[cfg(feature = "tracing")]
        let span = trace::command_span(&command, file.fd(), self.group_name());
        let operation = self.untraced_operation(file, command);
        #[cfg(feature = "tracing")]
        let operation = trace::Traced::new(span, operation);
        operation
    }

    /// See [`File::drain`](crate::File::drain).
    pub(crate) async fn drain(&self, file: FileId) {
        drain(&self.shards, file).await;
    }

    /// Runs `command` in `mode`, in which short transfers are resumed. Returns the number of bytes moved.
    pub(crate) async fn resumed_operation(
        &self,
        file: FileRef<'_>,
        command: RawCommand<'_>,
        mode: TransferMode,
    ) -> Result<u64, AioCommandError> {
        command.check();
        let (request, buffer_return) = command.into_request()?;
        self.request_operation(file, (request, buffer_return, mode))
            .await
    }

    /// An operation that is not a [`RawCommand`].
    pub(crate) fn request_operation<'h, 'a>(
        &'h self,
        file: FileRef<'h>,
        request: (IoRequest, BufferReturn<'a>, TransferMode),
    ) -> Operation<'h, 'a, Types<M>> {
        #[cfg(feature = "tracing")]
        let span = trace::request_span(&request.0.op, file.fd(), self.group_name());
        let (driver, others) = self.shards.for_one(|| request.0.op.appends());
        let operation = OpFuture::with_request(driver, others, &self.options, file, request);
        #[cfg(feature = "tracing")]
        let operation = trace::Traced::new(span, operation);
        operation
    }
}

impl<M: RawMutex, A, L> Clone for GenericAioContextHandle<M, A, L> {
    fn clone(&self) -> Self {
        GenericAioContextHandle {
            shards: self.shards.clone(),
            options: self.options.clone(),
            resources: Arc::clone(&self.resources),
            lease: self.lease.clone(),
            inert: PhantomData,
        }
    }
}

impl<M: RawMutex, A, L> fmt::Debug for GenericAioContextHandle<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContextHandle").finish_non_exhaustive()
    }
}
