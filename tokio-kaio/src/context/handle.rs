//! [`GenericAioContextHandle`]: the way to a context.

use std::fmt;
use std::future::Future;
use std::os::fd::AsRawFd;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::{self, AtomicLink, LinkedListOps};
use lock_api::RawMutex;

use super::NoopLock;
use super::descriptor::Descriptor;
use super::operation::Operation;
use super::shards::Shards;
use crate::request::Of;
#[cfg(feature = "tracing")]
use crate::trace;
use crate::{
    AioCommandError, Backend, IntrusiveAdapter, LocalRequestAdapter, Metrics, RawCommand,
    SyncRequestAdapter,
};

/// Submits requests to a context. Cheap to clone.
pub struct GenericAioContextHandle<M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    shards: Shards<Of<M, A, L>>,
}

/// The handle of an [`AioContext`](crate::AioContext).
pub type AioContextHandle =
    GenericAioContextHandle<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>;

/// The handle of a [`LocalAioContext`](crate::LocalAioContext).
pub type LocalAioContextHandle =
    GenericAioContextHandle<NoopLock, LocalRequestAdapter, linked_list::Link>;

impl<M, A, L> GenericAioContextHandle<M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    pub(super) fn new(shards: Shards<Of<M, A, L>>) -> Self {
        GenericAioContextHandle { shards }
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
        self.shards.all()[0].limits.backend
    }

    /// What the context has done so far, and is doing now. Also after it has ended.
    ///
    /// Takes the context's lock for a moment (of each shard, one after another), allocates nothing
    /// unless [latencies are measured](crate::AioContextBuilder::measure_latency), and makes no
    /// system call.
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
        let mut ended = std::pin::pin!(self.shards.clone().given_back());
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
    /// [`LockedBuf`](crate::LockedBuf#while-an-operation-runs).
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
        let descriptor = Descriptor::Borrowed(fd.as_raw_fd());
        self.operation(descriptor, command).await
    }

    /// See [`submit_request`](Self::submit_request).
    #[inline(always)]
    pub(crate) fn operation<'a>(
        &'a self,
        descriptor: Descriptor<'a>,
        command: RawCommand<'a>,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        #[cfg(feature = "tracing")]
        let span = trace::operation(&command, descriptor.fd());
        let (shard, others) = self.shards.for_command(&command);
        let operation = Operation::new(shard, others, descriptor, command);
        #[cfg(feature = "tracing")]
        let operation = trace::Spanned::new(span, operation);
        operation
    }
}

impl<M, A, L> Clone for GenericAioContextHandle<M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    fn clone(&self) -> Self {
        GenericAioContextHandle {
            shards: self.shards.clone(),
        }
    }
}

impl<M, A, L> fmt::Debug for GenericAioContextHandle<M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContextHandle").finish_non_exhaustive()
    }
}
