//! [`Batch`]: operations that are submitted together.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use lock_api::RawMutex;
use tokio::task::coop;
use tokio::time::Instant;

use super::GenericAioContextHandle;
use super::op_future::OpFuture;
use super::op_options::TimeLimit;
use super::op_timer::OpTimer;
use super::pending_ops::PendingOps;
use crate::config::{ContextTypes, Types};
use crate::driver::{Driver, Entered};
use crate::op::{FileRef, IoBuffer};
use crate::policy::TaskId;
use crate::slab::Admission;
use crate::sync::{OwnThread, contain, drop_contained};
use crate::trace::OpSpan;
use crate::{AioCommandError, AlignedBuf, File, RawCommand, ReadFlags, WriteFlags};

/// Collects operations of any kind on any files. Submits as many as there are slots for with one system call.
/// Created by [`batch`](GenericAioContextHandle::batch).
///
/// Nothing is submitted before the first poll of [`all`](Batch::all) or [`stream`](Batch::stream).
/// Operations are submitted in the order in which they were [pushed](Batch::push), except operations that
/// have to wait. They complete in any order. **A sync does not cover the writes of its batch**: put the sync
/// into the next batch, or write with [`DSYNC`](crate::WriteFlags::DSYNC).
///
/// As outside a batch, requests that find no slot wait for one, and requests that would block are submitted
/// from the blocking pool. With several [shards](crate::AioContextBuilder::shards), a batch goes to one
/// shard: the first shard if any operation appends, otherwise the shard of the current CPU. If the context
/// does not let requests wait, requests that find no slot there go to another shard, except appends.
///
/// # Cancel safety
///
/// Dropping the batch, or its future or stream, is like dropping the future of each unfinished operation.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AlignedBuf, File, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let (table_path, log_path) = (dir.path().join("table"), dir.path().join("log"));
/// let (context, handle) = aio_context(32, true)?;
/// let (table, log) = (File::create(table_path, false).await?, File::create(log_path, false).await?);
/// let block = AlignedBuf::new(4096)?;
/// let mut batch = handle.batch();
/// batch.write(&table, 0, &block);
/// batch.write(&log, 0, &block);
/// for written in batch.all().await {
///     assert_eq!(written?, 4096);
/// }
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a batch does nothing unless you await `all` or poll `stream`"]
pub struct Batch<'a, M: RawMutex, A, L> {
    handle: &'a GenericAioContextHandle<M, A, L>,
    members: Vec<(FileRef<'a>, RawCommand<'a>)>,
}

impl<M: RawMutex, A, L> GenericAioContextHandle<M, A, L> {
    /// Creates an empty batch, which collects operations to submit them together. See [`Batch`].
    pub fn batch(&self) -> Batch<'_, M, A, L> {
        Batch::new(self)
    }
}

impl<'a, M: RawMutex, A, L> Batch<'a, M, A, L> {
    fn new(handle: &'a GenericAioContextHandle<M, A, L>) -> Batch<'a, M, A, L> {
        Batch {
            handle,
            members: Vec::new(),
        }
    }

    /// Adds an operation on a file. Returns the index of the operation in the batch. [`read`](Batch::read)
    /// and [`write`](Batch::write) are shorter for transfers without flags.
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer.
    pub fn push(&mut self, file: &'a File, command: RawCommand<'a>) -> usize {
        let command = file.as_appending(command);
        self.add(file.file_ref(), command)
    }

    /// Adds an operation on any descriptor, as [`push`](Batch::push) does. See
    /// [`submit_request`](GenericAioContextHandle::submit_request).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer.
    pub fn push_fd(&mut self, fd: &'a impl AsRawFd, command: RawCommand<'a>) -> usize {
        self.add(FileRef::Borrowed(fd.as_raw_fd()), command)
    }

    /// Adds a read of as many bytes at `offset` as `buffer` has, without flags. Returns the index of the
    /// operation. See [`File::read_at`].
    pub fn read(&mut self, file: &'a File, offset: u64, buffer: &'a mut AlignedBuf) -> usize {
        let len = buffer.size() as u64;
        let flags = ReadFlags::empty();
        let command = RawCommand::Pread {
            offset,
            buffer,
            flags,
            len,
        };
        self.push(file, command)
    }

    /// Adds a write of all bytes of `buffer` at `offset`, without flags. Returns the index of the operation.
    /// See [`File::write_at`].
    pub fn write(&mut self, file: &'a File, offset: u64, buffer: &'a AlignedBuf) -> usize {
        let len = buffer.size() as u64;
        let flags = WriteFlags::empty();
        let command = RawCommand::Pwrite {
            offset,
            buffer,
            flags,
            len,
        };
        self.push(file, command)
    }

    fn add(&mut self, file: FileRef<'a>, command: RawCommand<'a>) -> usize {
        command.check();
        self.members.push((file, command));
        self.members.len() - 1
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Submits all operations, waits for all, and returns their results in the order in which they were
    /// pushed. Each result is the same as from
    /// [`submit_request`](GenericAioContextHandle::submit_request).
    ///
    /// # Errors
    ///
    /// None for the batch as a whole: a failed operation does not affect the others.
    pub async fn all(self) -> Vec<Result<u64, AioCommandError>> {
        let stopped = || Err(AioCommandError::AioStopped); // a placeholder: the stream yields all
        let mut results: Vec<_> = self.members.iter().map(|_| stopped()).collect();
        let mut stream = self.stream();
        while let Some((index, result)) =
            std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await
        {
            results[index] = result;
        }
        results
    }

    /// Returns a stream that submits all operations, and yields the index and the result of each operation
    /// when it is done.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures::StreamExt;
    /// use tokio_kaio::{AlignedBuf, File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 16384])?;
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut blocks: Vec<_> = (0..4).map(|_| AlignedBuf::new(4096)).collect::<Result<_, _>>()?;
    /// let mut batch = handle.batch();
    /// for (index, buffer) in blocks.iter_mut().enumerate() {
    ///     batch.read(&file, index as u64 * 4096, buffer);
    /// }
    /// let mut results = batch.stream();
    /// while let Some((index, read)) = results.next().await {
    ///     println!("block {index}: {} bytes", read?);
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> BatchResults<'a, M, A, L> {
        let Batch { handle, members } = self;
        let group = handle.group_name();
        let new_span = |(file, command): &(FileRef<'_>, RawCommand<'_>)| {
            OpSpan::new_span(command, file.fd(), group)
        };
        let spans: Vec<_> = members.iter().map(new_span).collect();
        let operations = handle
            .batch_operations(members)
            .into_iter()
            .zip(spans)
            .map(Some);
        BatchResults {
            running: Running::new(operations.collect()),
            handle,
        }
    }
}

/// A [`Stream`] of the results of a [`Batch`], in order of completion. Each item is the index of an operation
/// and its result.
#[must_use = "a batch does nothing unless its stream is polled"]
pub struct BatchResults<'a, M: RawMutex, A, L> {
    handle: &'a GenericAioContextHandle<M, A, L>,
    running: Running<'a, Types<M>>,
}

/// The index of an operation that is done, its result, and its memory, if the caller is to get it.
pub(super) type DoneOp = (usize, Result<u64, AioCommandError>, Option<IoBuffer>);

/// The state of a batch that was turned into a stream.
pub(super) struct Running<'a, T: ContextTypes> {
    /// The operations, by index. `None` if the operation is done.
    operations: Vec<Option<(OpFuture<'a, 'a, T>, OpSpan)>>,
    submitted: bool,
    pending: PendingOps<'a, T>,
    /// Operations of a group that wait for their turn, in order.
    waiting: VecDeque<usize>,
    /// Operations to poll next. This is a field so that a panic in a waker does not lose the rest.
    to_poll: VecDeque<usize>,
    done: VecDeque<DoneOp>,
    /// The task that the pending operations wake. The id is enough: the pending operations hold the waker, so
    /// no other task can have the same id. The waker itself would keep the runtime alive if the batch was
    /// forgotten.
    task: TaskId,
    /// Deadline of the operations, once they are submitted.
    deadline: Option<Instant>,
    /// Fires at the deadline. Created when operations have to wait.
    timer: Option<OpTimer>,
}

impl<'a, T: ContextTypes> Running<'a, T> {
    pub(super) fn new(operations: Vec<Option<(OpFuture<'a, 'a, T>, OpSpan)>>) -> Running<'a, T> {
        Running {
            operations,
            submitted: false,
            pending: PendingOps::new(),
            waiting: VecDeque::new(),
            to_poll: VecDeque::new(),
            done: VecDeque::new(),
            task: TaskId::default(),
            deadline: None,
            timer: None,
        }
    }

    /// Number of operations whose results were not returned yet.
    pub(super) fn left(&self) -> usize {
        self.operations.iter().flatten().count() + self.done.len()
    }

    pub(super) fn poll_next(
        &mut self,
        limit: &TimeLimit,
        cx: &mut Context<'_>,
    ) -> Poll<Option<DoneOp>> {
        if self.done.is_empty() {
            match self.submitted {
                false => self.submit(limit, cx),
                true => self.poll_completed(cx),
            }
            self.task = TaskId::of(cx.waker());
        }
        if let Some(done) = self.done.pop_front() {
            return Poll::Ready(Some(done));
        }
        if self.pending.is_empty() && self.waiting.is_empty() {
            return Poll::Ready(None);
        }
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        if self.timer.is_none() {
            self.timer = OpTimer::start(|| Some(deadline), self.own_thread());
        }
        let Some(timer) = &mut self.timer else {
            return Poll::Pending; // the context has ended, and is waking its operations
        };
        ready!(Pin::new(timer).poll(cx));
        self.pending.take_all(&mut self.to_poll);
        self.to_poll.extend(self.waiting.drain(..));
        while let Some(index) = self.to_poll.pop_front() {
            self.time_out(index);
        }
        Poll::Ready(self.done.pop_front())
    }

    /// Submits all requests. The requests that go to one context are submitted with one system call.
    fn submit(&mut self, limit: &TimeLimit, cx: &mut Context<'_>) {
        let count = self.operations.len();
        if self.has_group() {
            return self.submit_in_group(limit, cx);
        }
        // `clone` may panic, so it is called before any memory is taken.
        let mut wakers: Vec<_> = (0..count).map(|_| cx.waker().clone()).collect();
        self.submitted = true;
        self.deadline = limit.deadline_by_clock_of(self.own_thread());
        self.done.reserve(count);
        if limit.has_passed(self.own_thread()) {
            return (0..count).for_each(|index| self.time_out(index));
        }
        match self.driver().map(Driver::enter) {
            Some(Ok(driver)) => self.submit_together(&driver, &mut wakers),
            _ => self.to_poll.extend(0..count),
        }
        self.poll_completed_only(cx);
    }

    fn own_thread(&self) -> Option<&'a OwnThread> {
        self.driver()?.driver_waker.own_thread()
    }

    fn submit_together(&mut self, driver: &Entered<'a, T>, wakers: &mut Vec<Waker>) {
        let count = self.operations.len();
        let (mut batch, mut indices) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut failed = Vec::new();
        for (index, operation) in self.operations.iter_mut().enumerate() {
            let Some((operation, _)) = operation else {
                continue;
            };
            debug_assert!(
                ptr::eq(operation.driver(), driver.get()),
                "a batch has one driver"
            );
            if let Err(error) = operation.take_request() {
                failed.push((index, error));
            } else if let Some(waker) = wakers.pop() {
                batch.push((operation.new_request(waker), Admission::NeedsFile));
                indices.push(index);
            }
        }
        driver.submit_batch(&mut batch);
        let (unneeded, admissions): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|(request, admission)| (request.waker, admission))
            .unzip();
        for (index, admission) in indices.into_iter().zip(admissions) {
            self.on_admission(index, admission);
        }
        for (index, error) in failed {
            self.end(index, Err(error));
        }
        let unneeded = unneeded.into_iter().chain(wakers.drain(..).map(Some));
        unneeded.for_each(drop_contained);
    }

    /// Whether the operations belong to a handle with a group.
    fn has_group(&self) -> bool {
        let mut operations = self.operations.iter().flatten();
        operations
            .next()
            .is_some_and(|(first, _)| first.has_group())
    }

    /// Queues all operations for the turn of their group, and submits those that have it.
    #[cold]
    fn submit_in_group(&mut self, limit: &TimeLimit, cx: &mut Context<'_>) {
        let count = self.operations.len();
        self.submitted = true;
        self.deadline = limit.deadline_by_clock_of(self.own_thread());
        self.done.reserve(count);
        if limit.has_passed(self.own_thread()) {
            return (0..count).for_each(|index| self.time_out(index));
        }
        self.waiting.extend(0..count);
        self.submit_waiting(true, cx);
        self.poll_completed_only(cx);
    }

    /// Submits the operations whose turn it is with one system call. Requests of a group have their turn in
    /// order, so the check ends at the first that is still behind others, unless `all` is true.
    #[cold]
    fn submit_waiting(&mut self, all: bool, cx: &mut Context<'_>) {
        let Some(Ok(driver)) = self.driver().map(Driver::enter) else {
            return self.to_poll.extend(self.waiting.drain(..));
        };
        // `waiting` keeps all operations until none can be lost any more: cloning the waker may panic.
        let (mut indices, mut pending) = (Vec::new(), VecDeque::new());
        let mut checked = 0;
        while let Some(&index) = self.waiting.get(checked) {
            let polled = match &mut self.operations[index] {
                Some((operation, _)) if !operation.is_in_group() => {
                    self.to_poll.push_back(index); // a poll of a file, which needs no turn
                    Poll::Ready(None)
                }
                Some((operation, _)) if !all && operation.is_behind_others() => break,
                Some((operation, _)) => match operation.take_request() {
                    Ok(()) => operation.poll_permit(&driver, cx).map(Some),
                    Err(error) => Poll::Ready(Some(Err(error))),
                },
                None => Poll::Ready(None),
            };
            match polled {
                Poll::Pending => pending.push_back(index),
                Poll::Ready(Some(Ok(()))) => indices.push(index),
                Poll::Ready(Some(Err(error))) => self.fail_in_group(index, error),
                Poll::Ready(None) => {}
            }
            checked += 1;
        }
        pending.extend(self.waiting.drain(..).skip(checked));
        self.waiting = pending;
        self.submit_with_permits(&driver, &indices, TaskId::of(cx.waker()));
    }

    /// Submits operations that have their permits. `indices` are in ascending order.
    fn submit_with_permits(&mut self, driver: &Entered<'a, T>, indices: &[usize], task: TaskId) {
        let mut batch = Vec::with_capacity(indices.len());
        let mut rest = self.operations.iter_mut().enumerate();
        let (mut submitted, mut passed) = (Vec::with_capacity(indices.len()), 0);
        for &index in indices {
            let next = rest.nth(index - passed);
            passed = index + 1;
            if let Some((_, Some((operation, _)))) = next {
                if let Some(request) = operation.new_request_in_group(task) {
                    batch.push((request, Admission::NeedsFile));
                    submitted.push(index);
                }
            }
        }
        if batch.is_empty() {
            return;
        }
        driver.submit_batch(&mut batch);
        let (unneeded, admissions): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|(request, admission)| (request.waker, admission))
            .unzip();
        for (index, admission) in submitted.into_iter().zip(admissions) {
            self.on_admission_in_group(index, admission);
        }
        unneeded.into_iter().for_each(drop_contained);
    }

    fn on_admission_in_group(&mut self, index: usize, admission: Admission) {
        let Some((operation, _)) = &mut self.operations[index] else {
            return;
        };
        match admission {
            Admission::Launched(key) | Admission::Queued(key) => {
                operation.on_admitted_in_group(key);
                self.pending.push(index, operation);
            }
            Admission::NeedsFile | Admission::Full => self.to_poll.push_back(index),
            Admission::Stopped => self.fail_in_group(index, AioCommandError::AioStopped),
            Admission::CapacityExceeded => {
                self.fail_in_group(index, AioCommandError::CapacityExceeded);
            }
        }
    }

    fn fail_in_group(&mut self, index: usize, error: AioCommandError) {
        if let Some((operation, _)) = &mut self.operations[index] {
            operation.return_permit();
            operation.finish();
            self.end(index, Err(error));
        }
    }

    fn on_admission(&mut self, index: usize, admission: Admission) {
        let Some((operation, _)) = &mut self.operations[index] else {
            return;
        };
        let error = match admission {
            Admission::Launched(key) | Admission::Queued(key) => {
                operation.on_admitted(key);
                return self.pending.push(index, operation);
            }
            // The operation is polled on its own: it duplicates its descriptor, or tries another shard.
            Admission::NeedsFile | Admission::Full => return self.to_poll.push_back(index),
            Admission::Stopped => AioCommandError::AioStopped,
            Admission::CapacityExceeded => AioCommandError::CapacityExceeded,
        };
        operation.finish();
        self.end(index, Err(error));
    }

    /// Returns the driver of the first unfinished operation.
    fn driver(&self) -> Option<&'a Driver<T>> {
        let (operation, _) = self.operations.iter().flatten().next()?;
        Some(operation.driver())
    }

    /// Polls the operations that have completed, or all operations if another task polled the batch before.
    fn poll_completed(&mut self, cx: &mut Context<'_>) {
        let is_same_task = self.task == TaskId::of(cx.waker());
        if !self.waiting.is_empty() {
            self.submit_waiting(!is_same_task, cx);
        }
        if is_same_task {
            return self.poll_completed_only(cx);
        }
        self.task = TaskId::default(); // until all operations have the new waker: `clone` may panic
        self.pending.take_all(&mut self.to_poll);
        self.poll_queued_up(cx);
    }

    fn poll_completed_only(&mut self, cx: &mut Context<'_>) {
        let operations = &self.operations;
        let key = |index: usize| operations[index].as_ref()?.0.key();
        self.pending.take_completed(key, &mut self.to_poll);
        self.poll_queued_up(cx);
    }

    fn poll_queued_up(&mut self, cx: &mut Context<'_>) {
        while let Some(&index) = self.to_poll.front() {
            if let Some((operation, _)) = &mut self.operations[index] {
                let mut polled = Poll::Pending;
                if operation.key().is_none() {
                    // An operation that completes in its first poll drops its waker, and a panic of that
                    // drop would lose the result. So the task's waker is only used if the first poll is
                    // pending.
                    polled = poll_member(operation, &mut Context::from_waker(Waker::noop()));
                }
                if polled.is_pending() {
                    // `poll_op` ignores the budget: an operation that is not polled would wake the old task.
                    polled = poll_member(operation, cx);
                }
                match polled {
                    Poll::Ready(result) => self.end(index, result),
                    Poll::Pending => self.pending.push(index, operation),
                }
            }
            self.to_poll.pop_front();
        }
    }

    fn time_out(&mut self, index: usize) {
        if let Some((operation, _)) = &mut self.operations[index] {
            let error = operation.time_out();
            self.end(index, Err(error));
        }
    }

    fn end(&mut self, index: usize, result: Result<u64, AioCommandError>) {
        let ended = &mut self.operations[index];
        let mut buffer = None;
        if let Some((operation, span)) = ended {
            contain(|| span.record(&result)); // runs the code of tracing subscribers
            buffer = operation.take_buffer();
        }
        self.done.push_back((index, result, buffer));
        *ended = None;
    }
}

/// Not inlined: [`OpFuture::poll_op`] is large, and inlined where a single operation is polled.
#[inline(never)]
fn poll_member<T: ContextTypes>(
    operation: &mut OpFuture<'_, '_, T>,
    cx: &mut Context<'_>,
) -> Poll<Result<u64, AioCommandError>> {
    operation.poll_op(cx)
}

impl<M: RawMutex, A, L> Stream for BatchResults<'_, M, A, L> {
    type Item = (usize, Result<u64, AioCommandError>);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let budget = ready!(coop::poll_proceed(cx));
        let this = self.get_mut();
        let polled = this.running.poll_next(this.handle.time_limit(), cx);
        if polled.is_ready() {
            budget.made_progress();
        }
        polled.map(|done| done.map(|(index, result, _)| (index, result)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.running.left();
        (left, Some(left))
    }
}

impl<M: RawMutex, A, L> fmt::Debug for Batch<'_, M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<M: RawMutex, A, L> fmt::Debug for BatchResults<'_, M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchResults")
            .field("left", &self.size_hint().0)
            .finish_non_exhaustive()
    }
}

/// A batch without a handle, for tests of the driver.
#[cfg(all(test, not(kaio_loom)))]
pub(crate) struct BatchOfOps<'a, T: ContextTypes>(Running<'a, T>);

#[cfg(all(test, not(kaio_loom)))]
impl<'a, T: ContextTypes> BatchOfOps<'a, T> {
    pub(crate) fn new(operations: impl IntoIterator<Item = OpFuture<'a, 'a, T>>) -> Self {
        let spans = operations.into_iter().map(|op| {
            let span = OpSpan::new_span(&RawCommand::Fsync, -1, None);
            Some((op, span))
        });
        BatchOfOps(Running::new(spans.collect()))
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<u64, AioCommandError>)>> {
        let polled = self.0.poll_next(&TimeLimit::None, cx);
        polled.map(|done| done.map(|(index, result, _)| (index, result)))
    }
}
