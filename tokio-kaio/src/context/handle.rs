//! [`GenericAioContextHandle`]: the way to a context.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;

use intrusive_collections::linked_list::{self, AtomicLink};
use lock_api::RawMutex;

use super::batch::Batch;
use super::drain::drain;
use super::op_future::OpFuture;
use super::op_options::{OpOptions, TimeLimit};
use super::shards::Shards;
use super::transfer_progress::TransferMode;
use crate::driver::Types;
use crate::op::{BufferReturn, FileId, FileRef, IoRequest};
#[cfg(feature = "tracing")]
use crate::trace;
use crate::{
    AioCommandError, Backend, IoPriority, LocalRequestAdapter, Metrics, NoopLock, PollEvents,
    RawCommand, SyncRequestAdapter,
};

/// Submits requests to a context. Cheap to clone.
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
    /// The type parameters are those of `linux-aio-tokio`; requests are in no intrusive list here.
    inert: PhantomData<fn() -> (A, L)>,
}

/// The handle of an [`AioContext`](crate::AioContext).
pub type AioContextHandle =
    GenericAioContextHandle<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>;

/// The handle of a [`LocalAioContext`](crate::LocalAioContext).
pub type LocalAioContextHandle =
    GenericAioContextHandle<NoopLock, LocalRequestAdapter, linked_list::Link>;

/// An operation, in its span if there are spans.
#[cfg(feature = "tracing")]
pub(crate) type Operation<'h, 'a, T> = trace::Traced<OpFuture<'h, 'a, T>>;
/// An operation.
#[cfg(not(feature = "tracing"))]
pub(crate) type Operation<'h, 'a, T> = OpFuture<'h, 'a, T>;

impl<M: RawMutex, A, L> GenericAioContextHandle<M, A, L> {
    pub(super) fn new(shards: Shards<Types<M>>) -> Self {
        GenericAioContextHandle {
            shards,
            options: *OpOptions::NONE,
            inert: PhantomData,
        }
    }

    /// A handle on the same context whose operations have this I/O priority, as far as the block
    /// device's scheduler heeds it. With a handle as it comes, they have that of the thread that
    /// submits them.
    ///
    /// # Errors
    ///
    /// None here; operations fail with `IoSubmit` and `EPERM` where the process may not use the class:
    /// [`RealTime`](crate::IoClass::RealTime) wants `CAP_SYS_NICE` or `CAP_SYS_ADMIN`.
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
    /// let in_the_background = handle.with_priority(IoPriority::idle());
    /// let file = File::open(path, false).await?;
    /// let mut buffer = AlignedBuf::new(4096)?;
    /// let flags = ReadFlags::empty();
    /// file.read_at(&in_the_background, 0, &mut buffer, 4096, flags).await?;
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle stays as it is; the one that is returned has the priority"]
    pub fn with_priority(&self, priority: IoPriority) -> Self {
        let mut handle = self.clone();
        handle.options.priority = priority.to_kernel();
        handle
    }

    /// A handle on the same context whose operations end at `deadline` at the latest: those that are
    /// not done then fail with [`TimedOut`](AioCommandError::TimedOut), also when the disk is stuck.
    ///
    /// What the kernel has by then goes on, holds its slot, and keeps its memory until the kernel is
    /// done, as if its future had been dropped
    /// ([`AlignedBuf`](crate::AlignedBuf#while-an-operation-runs) tells what becomes of the buffer).
    /// One whose deadline has passed before it starts is not submitted. One that takes several requests
    /// has the deadline as a whole, and fails also where some of them are done: how much was moved by
    /// then is not told.
    ///
    /// tokio's timer ticks once a millisecond, so that an operation can have one more than it was given.
    /// [`File::drain`](crate::File::drain), which can't fail, has no deadline.
    ///
    /// A submission that blocks its thread ([`SubmitPolicy::Inline`](crate::SubmitPolicy::Inline))
    /// holds up the timer with it.
    ///
    /// # Panics
    ///
    /// Operations that have to wait do outside a tokio runtime, and in one whose timer is not enabled.
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
    ///     Err(AioCommandError::TimedOut) => println!("somebody else may have it"),
    ///     read => assert_eq!(read?, 4096),
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle stays as it is; the one that is returned has the deadline"]
    pub fn with_deadline(&self, deadline: tokio::time::Instant) -> Self {
        let mut handle = self.clone();
        handle.options.time_limit = TimeLimit::Deadline(deadline);
        handle
    }

    /// The same, with a time that each operation has from when it is first polled. Of this and
    /// [`with_deadline`](Self::with_deadline), the one that is called last counts.
    ///
    /// With a time of 0, an operation is made all the same. What is done at its first poll, as reads from
    /// tmpfs are, or before tokio's timer ticks, at most a millisecond later, succeeds; all else times out,
    /// and what the kernel has of it goes on: a write may land. Only
    /// [`read_bytes_at`](crate::File::read_bytes_at) and
    /// [`write_bytes_at`](crate::File::write_bytes_at), whose requests have one deadline together, end
    /// before the first of them. To have nothing submitted, use a deadline that has passed.
    ///
    /// # Panics
    ///
    /// As [`with_deadline`](Self::with_deadline).
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
    /// let (reader, _writer) = UnixStream::pair()?; // which writes nothing
    /// let hasty = handle.with_timeout(Duration::from_millis(5));
    /// let ready = hasty.poll(&reader, PollEvents::IN).await;
    /// assert!(matches!(ready, Err(AioCommandError::TimedOut)));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "this handle stays as it is; the one that is returned has the timeout"]
    pub fn with_timeout(&self, timeout: std::time::Duration) -> Self {
        let mut handle = self.clone();
        handle.options.time_limit = TimeLimit::Timeout(timeout);
        handle
    }

    /// For an operation of several requests, which starts now: when it has to end, and a handle whose
    /// operations do so, too. `None`: it has all the time.
    pub(crate) fn limited(&self) -> Option<(tokio::time::Instant, Self)> {
        let end = self.options.time_limit.deadline()?;
        Some((end, self.with_deadline(end)))
    }

    /// Number of requests that can be made now without waiting. A slot is taken from the moment
    /// its request is queued or submitted until the kernel is done with it, also if its future was
    /// dropped.
    ///
    /// `None`: the context was closed or dropped, its background task has ended, or it was made
    /// with `use_semaphore` `false`.
    pub fn available_slots(&self) -> Option<usize> {
        self.shards.available_slots()
    }

    /// What runs the requests of the context.
    pub fn backend(&self) -> Backend {
        self.shards.all()[0].config.backend
    }

    /// What the context has done so far, and is doing now. Also after it has ended.
    ///
    /// Takes the context's lock for a moment (of each shard, one after another), allocates nothing
    /// unless [latencies are measured](crate::AioContextBuilder::measure_latency), and makes no
    /// system call. An example is at [`Metrics`].
    pub fn metrics(&self) -> Metrics {
        self.shards.metrics()
    }

    /// [Publishes](Metrics::publish) the context's metrics every `interval`, a millisecond at least, and
    /// a last time when the context has ended; then it resolves. Latencies, if measured, are those of
    /// the interval. With the feature `metrics`. To be spawned:
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
    /// Dropped, it publishes no more.
    ///
    /// # Panics
    ///
    /// In a runtime whose timer is not enabled.
    #[cfg(feature = "metrics")]
    pub async fn report_metrics(
        self,
        context: impl Into<::metrics::SharedString>,
        interval: std::time::Duration,
    ) {
        crate::metrics::describe();
        let context = context.into();
        let interval = interval.max(std::time::Duration::from_millis(1));
        let mut ended = std::pin::pin!(self.shards.clone().wait_until_gone());
        let mut last = None;
        loop {
            let now = self.metrics();
            now.publish_since(last.as_ref(), context.clone());
            last = Some(now);
            if tokio::time::timeout(interval, ended.as_mut()).await.is_ok() {
                return self.metrics().publish_since(last.as_ref(), context);
            }
        }
    }

    /// Runs one operation on the file behind `fd`; returns the number of bytes that were moved, 0
    /// for the operations that move none.
    ///
    /// Any descriptor will do whose file the kernel can do AIO on. Only with direct I/O
    /// (`O_DIRECT`) does it run asynchronously: on other files the kernel does all of it inside
    /// the submission. A read of an empty pipe or socket blocks the thread there until there is
    /// something to read, and can't be cancelled.
    ///
    /// [`File`](crate::File) opens files so, and its requests go to the kernel in batches. Those
    /// made here go before `poll` returns, one at a time, because nothing else would be sure to
    /// keep `fd` open. Where no slot is free, or the request goes from the blocking pool
    /// ([`SubmitPolicy::Offload`](crate::SubmitPolicy::Offload),
    /// [`Backend::ThreadPool`](crate::Backend::ThreadPool)), it does so on a duplicate of it; closing
    /// that releases the process' POSIX record locks on the file, see
    /// [`F_SETLK(2const)`](https://man7.org/linux/man-pages/man2/F_SETLK.2const.html).
    ///
    /// A bare number ([`RawFd`](std::os::fd::RawFd)) is a descriptor too, and it is the caller's
    /// to know that it is open, and whose.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. Other requests and the context are not affected.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is done abandons the operation. One that waits for a slot
    /// never reaches the kernel. One that the kernel has can't be recalled: it takes effect, or
    /// not, later, and holds its slot until then. What becomes of the buffer says
    /// [`AlignedBuf`](crate::AlignedBuf#while-an-operation-runs).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer; nothing has been submitted then, and the buffer is as
    /// it was.
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

    /// Waits until one of `events` is there on the file behind `fd`; returns those that are. See
    /// [`RawCommand::Poll`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]: `EBADF`; `EINVAL` where the kernel is older than 4.18.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it is cancelled, and its slot free soon.
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

    /// Operations that are to be made together; there are none in it yet. See [`Batch`].
    pub fn batch(&self) -> Batch<'_, M, A, L> {
        Batch::new(self)
    }

    pub(super) fn time_limit(&self) -> &TimeLimit {
        &self.options.time_limit
    }

    /// See [`submit_request`](Self::submit_request); in no span.
    #[inline(always)]
    pub(super) fn untraced_operation<'h, 'a>(
        &'h self,
        file: FileRef<'h>,
        command: RawCommand<'a>,
    ) -> OpFuture<'h, 'a, Types<M>> {
        let (driver, others) = self.shards.for_one(|| command.appends());
        OpFuture::new(driver, others, &self.options, file, command)
    }

    /// See [`submit_request`](Self::submit_request).
    #[inline(always)]
    pub(crate) fn operation<'h, 'a>(
        &'h self,
        file: FileRef<'h>,
        command: RawCommand<'a>,
    ) -> Operation<'h, 'a, Types<M>> {
        #[cfg(feature = "tracing")]
        let span = trace::command_span(&command, file.fd());
        let operation = self.untraced_operation(file, command);
        #[cfg(feature = "tracing")]
        let operation = trace::Traced::new(span, operation);
        operation
    }

    /// See [`File::drain`](crate::File::drain).
    pub(crate) async fn drain(&self, file: FileId) {
        drain(&self.shards, file).await;
    }

    /// Runs `command` until all bytes are moved.
    pub(crate) async fn exact_operation(
        &self,
        file: FileRef<'_>,
        command: RawCommand<'_>,
    ) -> Result<(), AioCommandError> {
        command.check();
        let (request, buffer_return) = command.into_request()?;
        let request = (request, buffer_return, TransferMode::Exact);
        self.request_operation(file, request).await.map(drop)
    }

    /// An operation that is no command.
    pub(crate) fn request_operation<'h, 'a>(
        &'h self,
        file: FileRef<'h>,
        request: (IoRequest, BufferReturn<'a>, TransferMode),
    ) -> Operation<'h, 'a, Types<M>> {
        #[cfg(feature = "tracing")]
        let span = trace::request_span(&request.0.op, file.fd());
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
            options: self.options,
            inert: PhantomData,
        }
    }
}

impl<M: RawMutex, A, L> fmt::Debug for GenericAioContextHandle<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContextHandle").finish_non_exhaustive()
    }
}
