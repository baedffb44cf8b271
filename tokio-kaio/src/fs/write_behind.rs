//! [`WriteBehind`]: the state of a `FileWriter`. Which piece of the file is filled, which pieces are in flight,
//! and the first error.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use lock_api::RawMutex;
use tokio::task::coop;

use super::File;
use super::chunk_buffers::ChunkBuffers;
use super::edge_write::EdgeWrite;
use super::in_flight_write::{InFlight, Write};
use super::read_plan::MAX_OFFSET;
use super::read_write_op::WriteOp;
use super::stream_error::StreamError;
use super::unaligned_state::BlockGeometry;
use super::write_plan::{Piece, WritePlan};
use super::write_setup::{free_rest, set_up};
use super::write_signal::WriteSignal;
use crate::backend::OpCode;
use crate::context::{OpOwner, TransferMode};
use crate::error::beyond_max_offset;
use crate::op::IoRequest;
use crate::sys::{Process, page_size};
use crate::{AioCommandError, AlignedBuf, GenericAioContextHandle, WriteFlags};

/// Default length of a write in bytes.
const DEFAULT_CHUNK: usize = 1 << 20;

/// Default number of writes in flight. ext4 lets one write at a time extend a file, so more threads of the
/// blocking pool would only wait: 8 writes took a fifth longer than 4.
const DEFAULT_DEPTH: usize = 4;

/// Collects bytes into pieces of the file, and keeps the writes of full pieces in flight.
pub(super) struct WriteBehind<M: RawMutex + 'static, A: 'static, L: 'static> {
    pub(super) file: File,
    pub(super) owner: Arc<OpOwner<M, A, L>>,
    /// The process that made this writer. A forked child has none of its buffers.
    pub(super) process: Process,
    pub(super) chunk: u64,
    pub(super) depth: usize,
    pub(super) allocation: Allocation,
    pub(super) setup: Setup,
    /// Offset of the next byte that goes to `filling`.
    pub(super) next: u64,
    /// Bytes that were accepted, and come next.
    #[cfg(feature = "bytes")]
    pub(super) pending: bytes::Bytes,
    pub(super) filling: Option<Filling>,
    /// Oldest first.
    pub(super) in_flight: VecDeque<InFlight<M, A, L>>,
    /// Buffers for further chunks.
    pub(super) spare: ChunkBuffers,
    pub(super) signal: Arc<WriteSignal>,
    /// Wakes `signal`. The writes in flight are polled with it.
    pub(super) waker: Waker,
    pub(super) failure: Failure,
}

/// Space that is allocated ahead.
pub(super) enum Allocation {
    /// Up to this offset; nothing is left to free before the setup.
    Until(u64),
    /// Freeing what was not used.
    Freeing(Pin<Box<dyn Future<Output = io::Result<()>> + Send>>),
    None,
}

/// What is known of the file.
pub(super) enum Setup {
    Due,
    Running(Pin<Box<dyn Future<Output = Result<BlockGeometry, AioCommandError>> + Send>>),
    Done {
        plan: WritePlan,
        memory_alignment: usize,
    },
}

/// A piece of the file that the caller fills.
pub(super) enum Filling {
    Blocks {
        start: u64,
        buffer: AlignedBuf,
        len: usize,
        /// In bytes; not more than the size of the buffer.
        capacity: usize,
    },
    Edge {
        start: u64,
        data: Vec<u8>,
        capacity: usize,
    },
}

/// The first error.
pub(super) enum Failure {
    None,
    /// The caller does not know yet.
    Unreported(StreamError),
    Reported(StreamError),
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> WriteBehind<M, A, L> {
    pub(super) fn new(
        file: File,
        aio_handle: GenericAioContextHandle<M, A, L>,
    ) -> WriteBehind<M, A, L> {
        let signal = Arc::new(WriteSignal::default());
        WriteBehind {
            owner: OpOwner::new(Arc::clone(file.open_file()), aio_handle),
            file,
            process: Process::current(),
            chunk: DEFAULT_CHUNK as u64,
            depth: DEFAULT_DEPTH,
            allocation: Allocation::None,
            setup: Setup::Due,
            next: 0,
            #[cfg(feature = "bytes")]
            pending: bytes::Bytes::new(),
            filling: None,
            in_flight: VecDeque::new(),
            spare: ChunkBuffers::default(),
            waker: Waker::from(Arc::clone(&signal)),
            signal,
            failure: Failure::None,
        }
    }

    /// Returns the offset behind the last byte that was accepted.
    pub(super) fn position(&self) -> u64 {
        self.next.saturating_add(self.pending_len() as u64)
    }

    /// Starts a sync of the writes that have completed.
    pub(super) fn start_sync(&mut self) {
        let request = IoRequest::sync(OpCode::Fdatasync);
        let sync = self.owner.start(request, TransferMode::Single);
        let end = self.next;
        self.start(end..end, Write::Sync(sync));
    }

    /// Returns whether the writer would lose bytes or an error if it were dropped.
    pub(super) fn is_unfinished(&self) -> bool {
        self.filling.is_some()
            || !self.in_flight.is_empty()
            || self.pending_len() > 0
            || matches!(self.failure, Failure::Unreported(_))
    }

    /// # Errors
    ///
    /// The first error.
    pub(super) fn check(&mut self) -> io::Result<()> {
        let error = match &self.failure {
            Failure::None => return Ok(()),
            Failure::Unreported(error) | Failure::Reported(error) => error.clone(),
        };
        self.failure = Failure::Reported(error.clone());
        Err(error.into())
    }

    /// Records an error, unless there was one before.
    pub(super) fn fail(&mut self, action: &'static str, range: Range<u64>, error: AioCommandError) {
        if let Failure::None = self.failure {
            self.failure = Failure::Unreported(StreamError::new(&self.file, action, range, error));
        }
        self.discard();
    }

    /// Drops the bytes that are not in flight: nothing is written after an error.
    fn discard(&mut self) {
        self.next = self.position();
        self.filling = None;
        #[cfg(feature = "bytes")]
        self.pending.clear();
    }

    /// Prepares a call that accepts bytes: sets the writer up, and finds out whether a write has failed.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.process != Process::current() {
            return Poll::Ready(Err(AioCommandError::forked_child().into()));
        }
        if self.signal.take() {
            self.signal.register(cx.waker());
            self.poll_in_flight();
        }
        self.check()?;
        // After a `shutdown` that was given up: it would cut off what is written before it has ended.
        ready!(self.poll_freeing(cx));
        self.check()?;
        self.poll_setup(cx)
    }

    fn poll_setup(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Setup::Due = self.setup {
            // Where requests do not wait for a slot, further ones would fail.
            if let Some(slots) = self.owner.handle().slots_without_waiting() {
                self.depth = self.depth.min(slots);
            }
            if let Allocation::Until(end) = &mut self.allocation {
                *end = end.saturating_add(self.next); // it was the length
            }
            let allocation = match self.allocation {
                Allocation::Until(end) => self.next..end,
                _ => 0..0,
            };
            self.setup = Setup::Running(Box::pin(set_up(self.file.clone(), allocation)));
        }
        if let Setup::Running(setup) = &mut self.setup {
            // Not with the waker of the caller: if that panics, the setup can't be polled again.
            self.signal.register(cx.waker());
            let mut cx = Context::from_waker(&self.waker);
            let handle = self.owner.handle();
            let set_up = ready!(pin!(handle.in_runtime(setup.as_mut())).poll(&mut cx));
            match set_up {
                Ok(geometry) => {
                    self.setup = Setup::Done {
                        plan: WritePlan::new(self.chunk, geometry.block),
                        memory_alignment: geometry.memory_alignment.next_power_of_two(),
                    };
                }
                Err(error) => {
                    self.allocation = Allocation::None;
                    // Never asked again, as the error stays.
                    self.setup = Setup::Done {
                        plan: WritePlan::new(self.chunk, page_size() as u64),
                        memory_alignment: 1,
                    };
                    self.fail("preparing to write", self.next..self.next, error);
                    self.check()?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Accepts bytes until there is no room. Returns how many.
    pub(super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable(cx))?;
        ready!(self.poll_pending(cx));
        let mut accepted = 0;
        while accepted < data.len() {
            // The next call writes the edge, and waits for it. Writes to the page cache complete at once, so
            // each uses the task's budget.
            let ends_here =
                accepted > 0 && (self.has_full_edge() || self.has_failed() || !may_go_on(cx));
            if ends_here || self.poll_space(cx).is_pending() || self.has_failed() {
                break;
            }
            accepted += self.fill(&data[accepted..]);
        }
        if accepted > 0 || data.is_empty() {
            return Poll::Ready(Ok(accepted));
        }
        self.check()?;
        Poll::Pending
    }

    /// Copies bytes to the piece that is being filled. Writes blocks when they are full; `poll_edges` writes
    /// edges. Begins a piece if there is none, so there has to be space (`poll_space`). Returns how many bytes
    /// were copied. 0: the writer has failed.
    pub(super) fn fill(&mut self, data: &[u8]) -> usize {
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => match self.begin_piece() {
                Ok(filling) => filling,
                Err(error) => {
                    let end = self.next.saturating_add(data.len() as u64);
                    self.fail("writing", self.next..end, error);
                    return 0;
                }
            },
        };
        let copied = filling.push(data);
        self.next += copied as u64;
        match &filling {
            Filling::Blocks { .. } if filling.is_full() => self.write_out(filling),
            _ => self.filling = Some(filling),
        }
        copied
    }

    fn begin_piece(&mut self) -> Result<Filling, AioCommandError> {
        let Setup::Done {
            plan,
            memory_alignment,
        } = self.setup
        else {
            unreachable!("the writer is set up before it accepts bytes");
        };
        let start = self.next;
        if start >= MAX_OFFSET {
            return Err(beyond_max_offset(start, 1, MAX_OFFSET));
        }
        Ok(match plan.piece(start) {
            Piece::Edge(capacity) => Filling::Edge {
                start,
                data: Vec::with_capacity(capacity),
                capacity,
            },
            Piece::Blocks(capacity) => Filling::Blocks {
                start,
                buffer: self
                    .spare
                    .take(self.owner.handle(), capacity, memory_alignment)?,
                len: 0,
                capacity,
            },
        })
    }

    /// Writes a piece, full or not. Leaves a part of a block behind whole blocks as the next piece.
    fn write_out(&mut self, filling: Filling) {
        match filling {
            Filling::Edge { start, data, .. } => {
                let range = start..start + data.len() as u64;
                let owner = Arc::clone(&self.owner);
                let write = EdgeWrite::new(self.file.clone(), owner, start, data);
                self.start(range, Write::Edge(write));
            }
            Filling::Blocks {
                start, buffer, len, ..
            } => {
                let Setup::Done { plan, .. } = self.setup else {
                    unreachable!("the writer is set up before it accepts bytes");
                };
                let whole = plan.whole_blocks(len);
                let end = start + whole as u64;
                if whole < len {
                    let rest = &buffer[whole..len];
                    let capacity = match plan.piece(end + 1) {
                        Piece::Edge(behind) => 1 + behind,
                        Piece::Blocks(_) => 1,
                    };
                    let mut data = Vec::with_capacity(capacity);
                    data.extend_from_slice(rest);
                    self.filling = Some(Filling::Edge {
                        start: end,
                        data,
                        capacity,
                    });
                }
                if whole > 0 {
                    let (flags, mode) = (WriteFlags::empty(), TransferMode::Exact);
                    let len = whole as u64;
                    let write = WriteOp::new(&self.owner, start, buffer, len, flags, mode);
                    self.start(start..end, Write::Blocks(write));
                } else {
                    self.keep(buffer);
                }
            }
        }
    }

    /// Submits a write.
    pub(super) fn start(&mut self, range: Range<u64>, write: Write<M, A, L>) {
        let mut write = InFlight { range, write };
        let mut cx = Context::from_waker(&self.waker);
        // The first poll submits the request, so the task's budget must not prevent it.
        let polled = Pin::new(&mut coop::unconstrained(&mut write)).poll(&mut cx);
        match polled {
            Poll::Pending => self.in_flight.push_back(write),
            Poll::Ready(result) => self.complete(write, result),
        }
    }

    fn complete(&mut self, write: InFlight<M, A, L>, result: Result<AlignedBuf, AioCommandError>) {
        match result {
            Ok(buffer) => self.keep(buffer),
            Err(error) => {
                let action = match write.write {
                    Write::Sync(_) => "syncing",
                    _ => "writing",
                };
                self.fail(action, write.range, error);
            }
        }
    }

    fn keep(&mut self, buffer: AlignedBuf) {
        self.spare.keep(buffer, self.in_flight.len(), self.depth);
    }

    /// Polls the writes in flight, and removes those that are complete.
    fn poll_in_flight(&mut self) {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let mut index = 0;
        while let Some(write) = self.in_flight.get_mut(index) {
            match Pin::new(&mut *write).poll(&mut cx) {
                Poll::Pending => index += 1,
                Poll::Ready(result) => {
                    if let Some(write) = self.in_flight.remove(index) {
                        self.complete(write, result);
                    }
                }
            }
        }
    }

    /// Waits until another piece may be begun or written.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_flight.len() >= self.depth {
            self.signal.register(cx.waker());
            self.poll_in_flight();
        }
        match self.in_flight.len() < self.depth {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Waits until bytes can be copied to a piece.
    pub(super) fn poll_space(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_edges(cx));
        match self.filling.is_some() {
            true => Poll::Ready(()),
            false => self.poll_room(cx),
        }
    }

    /// Writes the edge that is full, and waits until no edge is being written.
    ///
    /// An edge is written in steps, which need polls, and other writers of the block wait for it. So a call
    /// that starts it must not return before it is written: the caller may wait for one of these writers next.
    fn poll_edges(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_full_edge() {
            ready!(self.poll_room(cx));
            if let Some(edge) = self.filling.take() {
                self.write_out(edge);
            }
        }
        let is_edge = |write: &InFlight<M, A, L>| matches!(write.write, Write::Edge(_));
        if self.in_flight.iter().any(is_edge) {
            self.signal.register(cx.waker());
            self.poll_in_flight();
        }
        match self.in_flight.iter().any(is_edge) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    fn has_full_edge(&self) -> bool {
        let is_edge = |filling: &Filling| matches!(filling, Filling::Edge { .. });
        self.filling
            .as_ref()
            .is_some_and(|filling| is_edge(filling) && filling.is_full())
    }

    pub(super) fn has_failed(&self) -> bool {
        !matches!(self.failure, Failure::None)
    }

    /// Writes all that was accepted, and waits until no write is in flight.
    pub(super) fn poll_flush_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.process != Process::current() {
            return Poll::Ready(Err(AioCommandError::forked_child().into()));
        }
        if let Failure::None = self.failure {
            ready!(self.poll_setup(cx))?;
            ready!(self.poll_pending(cx));
        }
        while self.filling.is_some() {
            ready!(self.poll_room(cx));
            if let Some(filling) = self.filling.take() {
                self.write_out(filling);
            }
        }
        self.signal.register(cx.waker());
        self.poll_in_flight();
        match self.in_flight.is_empty() {
            true => Poll::Ready(self.check()),
            false => Poll::Pending,
        }
    }

    /// Flushes, and frees the allocated space that was not used.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_all(cx))?;
        if let Allocation::Until(end) = self.allocation {
            self.allocation = match end > self.next {
                true => Allocation::Freeing(Box::pin(free_rest(self.file.clone(), self.next))),
                false => Allocation::None,
            };
        }
        ready!(self.poll_freeing(cx));
        Poll::Ready(self.check())
    }

    /// Waits until no space is being freed.
    fn poll_freeing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Allocation::Freeing(freeing) = &mut self.allocation {
            self.signal.register(cx.waker()); // see `poll_setup`
            let mut cx = Context::from_waker(&self.waker);
            let handle = self.owner.handle();
            let freed = ready!(pin!(handle.in_runtime(freeing.as_mut())).poll(&mut cx));
            self.allocation = Allocation::None;
            if let Err(error) = freed {
                let error = AioCommandError::IoSubmit(error);
                self.fail("freeing unused space", self.next..self.next, error);
            }
        }
        Poll::Ready(())
    }

    #[cfg(feature = "bytes")]
    fn pending_len(&self) -> usize {
        self.pending.len()
    }

    #[cfg(not(feature = "bytes"))]
    fn pending_len(&self) -> usize {
        0
    }

    #[cfg(not(feature = "bytes"))]
    fn poll_pending(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Uses one unit of the task's budget. Returns `false` if none is left.
fn may_go_on(cx: &mut Context<'_>) -> bool {
    match coop::poll_proceed(cx) {
        Poll::Ready(unit) => {
            unit.made_progress();
            true
        }
        Poll::Pending => false,
    }
}

impl Filling {
    /// Copies bytes, as many as there is room for. Returns how many.
    fn push(&mut self, from: &[u8]) -> usize {
        match self {
            Filling::Edge { data, capacity, .. } => {
                let copied = from.len().min(*capacity - data.len());
                data.extend_from_slice(&from[..copied]);
                copied
            }
            Filling::Blocks {
                buffer,
                len,
                capacity,
                ..
            } => {
                let copied = from.len().min(*capacity - *len);
                buffer[*len..*len + copied].copy_from_slice(&from[..copied]);
                *len += copied;
                copied
            }
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Filling::Edge { data, capacity, .. } => data.len() == *capacity,
            Filling::Blocks { len, capacity, .. } => len == capacity,
        }
    }
}
