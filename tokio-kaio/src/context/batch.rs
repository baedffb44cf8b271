//! [`Batch`]: operations that are made together.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::GenericAioContextHandle;
use super::descriptor::Descriptor;
use super::lanes::Lanes;
use super::operation::Operation;
use super::options::Limit;
use super::shared::Shared;
use super::together::{Fate, Member};
use crate::request::{Flavour, Of};
use crate::trace::Told;
use crate::{AioCommandError, File, IntrusiveAdapter, RawCommand};

/// Operations of any kind on any files, which go to the kernel together: in one system call, as far as
/// there are slots for them. Made by [`batch`](GenericAioContextHandle::batch).
///
/// Nothing is submitted before the first poll of [`all`](Batch::all) or [`stream`](Batch::stream). The
/// kernel takes them in the order in which they were [pushed](Batch::push), but for those that have to
/// wait; they are done in any: a sync does not cover the writes of its own batch, but comes in another
/// one, when these are done, or they have [`DSYNC`](crate::WriteFlags::DSYNC). Those for which there is
/// no slot wait for one, and those that would have to wait in their submission go from the blocking
/// pool, like any others. With several [shards](crate::AioContextBuilder::shards),
/// they go to one of them; those that may not wait for a slot there, to any that has one.
///
/// # Cancel safety
///
/// Dropped, it is as if the future of each had been dropped that is not done.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AlignedBuf, File, RawCommand, WriteFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let (table_path, log_path) = (dir.path().join("table"), dir.path().join("log"));
/// let (context, handle) = aio_context(32, true)?;
/// let (table, log) = (File::create(table_path, false).await?, File::create(log_path, false).await?);
/// let block = AlignedBuf::new(4096)?;
/// let mut batch = handle.batch();
/// for file in [&table, &log] {
///     let command = RawCommand::Pwrite {
///         offset: 0,
///         buffer: &block,
///         flags: WriteFlags::DSYNC,
///         len: 4096,
///     };
///     batch.push(file, command);
/// }
/// for written in batch.all().await {
///     assert_eq!(written?, 4096);
/// }
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is submitted before it is waited for"]
pub struct Batch<'a, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    handle: &'a GenericAioContextHandle<M, A, L>,
    members: Vec<(Descriptor<'a>, RawCommand<'a>)>,
}

impl<'a, M, A, L> Batch<'a, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    pub(super) fn new(handle: &'a GenericAioContextHandle<M, A, L>) -> Batch<'a, M, A, L> {
        Batch {
            handle,
            members: Vec::new(),
        }
    }

    /// Adds an operation on a file; returns its index, which is the number of those before it.
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer.
    pub fn push(&mut self, file: &'a File, command: RawCommand<'a>) -> usize {
        let command = file.as_appending(command);
        self.add(file.descriptor(), command)
    }

    /// The same on any descriptor; see
    /// [`submit_request`](GenericAioContextHandle::submit_request).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer.
    pub fn push_fd(&mut self, fd: &'a impl AsRawFd, command: RawCommand<'a>) -> usize {
        self.add(Descriptor::Borrowed(fd.as_raw_fd()), command)
    }

    fn add(&mut self, descriptor: Descriptor<'a>, command: RawCommand<'a>) -> usize {
        command.check();
        self.members.push((descriptor, command));
        self.members.len() - 1
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Submits all, waits for all; gives their results in the order in which they were pushed. What an
    /// operation comes to says [`submit_request`](GenericAioContextHandle::submit_request).
    ///
    /// # Errors
    ///
    /// None of its own: one that fails leaves the others alone.
    pub async fn all(self) -> Vec<Result<u64, AioCommandError>> {
        let stopped = || Err(AioCommandError::AioStopped); // until the stream has given each
        let mut results: Vec<_> = self.members.iter().map(|_| stopped()).collect();
        let mut stream = self.stream();
        while let Some((index, result)) =
            std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await
        {
            results[index] = result;
        }
        results
    }

    /// Submits all; gives the result of each when it is done, with its index.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures::StreamExt;
    /// use tokio_kaio::{AlignedBuf, File, RawCommand, ReadFlags, aio_context};
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
    ///     let (offset, flags, len) = (index as u64 * 4096, ReadFlags::empty(), 4096);
    ///     batch.push(&file, RawCommand::Pread { offset, buffer, flags, len });
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
        let operations = members.into_iter().map(|(descriptor, command)| {
            let told = Told::of(&command, descriptor.fd());
            Some((handle.bare_operation(descriptor, command), told))
        });
        let operations = operations.collect();
        BatchResults {
            running: Running {
                operations,
                submitted: false,
                waiting: Lanes::new(),
                done: VecDeque::new(),
                waker: None,
                end: None,
                timer: None,
            },
            handle,
        }
    }
}

/// The results of a [`Batch`] as they come, each with the index of its operation: a [`Stream`].
#[must_use = "nothing is submitted before it is polled"]
pub struct BatchResults<'a, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    handle: &'a GenericAioContextHandle<M, A, L>,
    running: Running<'a, Of<M, A, L>>,
}

/// A batch once it is waited for.
struct Running<'a, F: Flavour> {
    /// Those that are not done.
    operations: Vec<Option<(Operation<'a, 'a, F>, Told)>>,
    submitted: bool,
    /// Those that wait, by their index.
    waiting: Lanes<'a, F>,
    done: VecDeque<(usize, Result<u64, AioCommandError>)>,
    /// What those that wait wake.
    waker: Option<Waker>,
    /// When those that are not done time out; of one that was submitted.
    end: Option<Instant>,
    /// Ready then. Once there are any to wait for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a, F: Flavour> Running<'a, F> {
    fn poll_next(
        &mut self,
        limit: &Limit,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<u64, AioCommandError>)>> {
        if self.done.is_empty() {
            if !mem::replace(&mut self.submitted, true) {
                self.submit(limit, cx);
            } else {
                self.look(cx);
            }
            self.waker = Some(cx.waker().clone());
        }
        if let Some(done) = self.done.pop_front() {
            return Poll::Ready(Some(done));
        }
        if self.waiting.is_empty() {
            return Poll::Ready(None);
        }
        let Some(end) = self.end else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(timer.as_mut().poll(cx));
        let late = self.waiting.take_all();
        self.time_out(late);
        Poll::Ready(self.done.pop_front())
    }

    fn submit(&mut self, limit: &Limit, cx: &mut Context<'_>) {
        self.end = limit.end();
        if limit.has_passed() {
            return self.time_out(0..self.operations.len());
        }
        let Some(shard) = self.shard() else {
            return;
        };
        let count = self.operations.len();
        self.done.reserve(count);
        let mut members = Vec::with_capacity(count);
        let (mut alone, mut failed) = (Vec::new(), Vec::new());
        for (index, operation) in self.operations.iter_mut().enumerate() {
            match operation {
                Some((operation, _)) if ptr::eq(operation.shard(), shard) => {
                    match operation.request(cx.waker().clone()) {
                        Ok(arrival) => members.push(Member {
                            index,
                            arrival,
                            descriptor: operation.descriptor().clone(),
                            fate: Fate::Alone,
                        }),
                        Err(error) => failed.push((index, error)),
                    }
                }
                _ => alone.push(index), // an append, which has its place
            }
        }
        shard.send_together(&mut members);
        for member in members {
            let Member {
                index,
                arrival,
                fate,
                ..
            } = member;
            let Some((operation, _)) = &mut self.operations[index] else {
                continue;
            };
            match operation.met(arrival, fate, cx) {
                Some(polled) => self.polled(index, polled),
                None => alone.push(index),
            }
        }
        for (index, error) in failed {
            self.end(index, Err(error));
        }
        for index in alone {
            self.poll(index, cx);
        }
    }

    /// The context of the first one that is left, which mostly is that of all.
    fn shard(&self) -> Option<&'a Shared<F>> {
        let (operation, _) = self.operations.iter().flatten().next()?;
        Some(operation.shard())
    }

    /// Looks which are done.
    fn look(&mut self, cx: &mut Context<'_>) {
        let waker = self.waker.as_ref();
        let is_same = waker.is_some_and(|waker| waker.will_wake(cx.waker()));
        let done = match is_same {
            true => self.waiting.take_done(|index| {
                let (operation, _) = self.operations[index].as_ref()?;
                operation.ticket()
            }),
            false => self.waiting.take_all(), // each is to have the new one
        };
        for index in done {
            self.poll(index, cx);
        }
    }

    fn poll(&mut self, index: usize, cx: &mut Context<'_>) {
        if let Some((operation, _)) = &mut self.operations[index] {
            // One that is left out, for want of budget, would go on waking the task before.
            let polled = operation.look(cx);
            self.polled(index, polled);
        }
    }

    fn polled(&mut self, index: usize, polled: Poll<Result<u64, AioCommandError>>) {
        match (polled, &self.operations[index]) {
            (Poll::Ready(result), _) => self.end(index, result),
            (Poll::Pending, Some((operation, _))) => self.waiting.push(index, operation),
            (Poll::Pending, None) => {}
        }
    }

    fn time_out(&mut self, late: impl IntoIterator<Item = usize>) {
        for index in late {
            if let Some((operation, _)) = &mut self.operations[index] {
                let error = operation.time_out();
                self.end(index, Err(error));
            }
        }
    }

    fn end(&mut self, index: usize, result: Result<u64, AioCommandError>) {
        if let Some((_, mut told)) = self.operations[index].take() {
            told.ended(&result);
        }
        self.done.push_back((index, result));
    }
}

impl<M, A, L> Stream for BatchResults<'_, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    type Item = (usize, Result<u64, AioCommandError>);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let budget = ready!(coop::poll_proceed(cx));
        let this = self.get_mut();
        let polled = this.running.poll_next(this.handle.limit(), cx);
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let running = &self.running;
        let left = running.operations.iter().flatten().count() + running.done.len();
        (left, Some(left))
    }
}

impl<M, A, L> fmt::Debug for Batch<'_, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<M, A, L> fmt::Debug for BatchResults<'_, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchResults")
            .field("left", &self.size_hint().0)
            .finish_non_exhaustive()
    }
}
