//! [`RangeStream`]: byte ranges of a file, in the order in which their reads complete.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use intrusive_collections::linked_list::AtomicLink;
use lock_api::RawMutex;

use super::coalesce::Coalesce;
use super::range_plan::{PlannedRead, RangePlan};
use super::range_setup::RangeSetup;
use crate::context::OwnedBatchResults;
use crate::error::{check_range, failed_read};
use crate::fs::File;
use crate::{AioCommandError, AlignedBuf, GenericAioContextHandle, SyncRequestAdapter};

/// A [`Stream`] of byte ranges of a file. Created by [`File::stream_ranges`].
///
/// Each item is the index of a range in the caller's list, and its bytes, which are short only at the end of
/// the file. The stream ends after an error.
#[must_use = "no range is read unless the stream is polled"]
pub struct RangeStream<
    M: RawMutex + 'static = parking_lot::RawMutex,
    A: 'static = SyncRequestAdapter,
    L: 'static = AtomicLink,
> {
    file: File,
    handle: GenericAioContextHandle<M, A, L>,
    coalesce: Coalesce,
    ranges: Vec<Range<u64>>,
    /// Known since the first poll, or the query that was started then has completed.
    setup: Setup,
    plan: RangePlan,
    /// Reads that were submitted together, and are not all complete.
    waves: Vec<Wave<M, A, L>>,
    /// Bytes of the reads in `waves`, and of the read whose results are in `ready`.
    in_flight: u64,
    /// Number of reads in `waves`.
    reads_in_flight: usize,
    /// The most reads that may be in flight; less where the context has no slots left.
    max_reads: usize,
    /// Results to return, and the bytes of the read that they are from.
    ready: VecDeque<(usize, Bytes)>,
    ready_len: u64,
    /// Number of results that were not returned yet. 0 after an error.
    left: usize,
}

enum Setup {
    New,
    Asked(SetupQuery),
    Known(RangeSetup),
}

/// A query that owns its file.
type SetupQuery = Pin<Box<dyn Future<Output = Result<RangeSetup, AioCommandError>> + Send>>;

/// Reads that were submitted together.
struct Wave<M: RawMutex + 'static, A: 'static, L: 'static> {
    results: OwnedBatchResults<AlignedBuf, M, A, L>,
    /// By their index in the batch.
    reads: Vec<PlannedRead>,
    /// Number of these reads, and of those that were in flight before, without those that found no slot.
    admitted: usize,
}

/// A read that is complete.
struct CompletedRead {
    read: PlannedRead,
    result: Result<u64, AioCommandError>,
    buffer: AlignedBuf,
    /// That of the wave.
    admitted: usize,
}

/// Limits the slots that one call takes from others, and the size of a batch.
const MAX_READS_IN_FLIGHT: usize = 128;

impl<M: RawMutex + 'static, A: 'static, L: 'static> RangeStream<M, A, L> {
    pub(super) fn new(
        file: &File,
        handle: &GenericAioContextHandle<M, A, L>,
        ranges: &[Range<u64>],
        coalesce: Coalesce,
    ) -> RangeStream<M, A, L> {
        RangeStream {
            file: file.clone(),
            handle: handle.clone(),
            coalesce,
            ranges: ranges.to_vec(),
            setup: Setup::New,
            plan: RangePlan::default(),
            waves: Vec::new(),
            in_flight: 0,
            reads_in_flight: 0,
            max_reads: MAX_READS_IN_FLIGHT,
            ready: VecDeque::new(),
            ready_len: 0,
            left: ranges.len(),
        }
    }

    /// Plans the reads. The first call starts the deadline of a handle with a timeout.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: a range ends before it starts; the errors of [`RangeSetup::query`]. `TimedOut`.
    fn poll_setup(&mut self, cx: &mut Context<'_>) -> Poll<Result<RangeSetup, AioCommandError>> {
        if let Setup::Known(setup) = self.setup {
            return Poll::Ready(Ok(setup));
        }
        if let Setup::New = self.setup {
            self.ranges.iter().try_for_each(check_range)?;
            let limited = self.handle.limited();
            let deadline = limited.as_ref().map(|(deadline, _)| *deadline);
            if let Some((_, handle)) = limited {
                self.handle = handle;
            }
            self.setup = match RangeSetup::known(&self.file, &self.ranges) {
                Some(setup) => Setup::Known(setup),
                None => {
                    let (file, ranges) = (self.file.clone(), self.ranges.clone());
                    let timer = self.handle.timer(deadline);
                    Setup::Asked(Box::pin(RangeSetup::query_until(timer, file, ranges)))
                }
            };
        }
        let setup = match &mut self.setup {
            // A wrapper without a state, which is made for each poll: the query can't own the handle, since it
            // is `Send`.
            Setup::Asked(query) => ready!(pin!(self.handle.in_runtime(query)).poll(cx))?,
            Setup::Known(setup) => *setup,
            Setup::New => unreachable!("replaced above"),
        };
        self.setup = Setup::Known(setup);
        let blocks: Vec<_> = self
            .ranges
            .iter()
            .map(|range| setup.blocks(range))
            .collect();
        let empty = (0..blocks.len()).filter(|&index| blocks[index].is_empty());
        self.ready.extend(empty.map(|index| (index, Bytes::new())));
        self.plan = RangePlan::new(&blocks, &self.coalesce);
        Poll::Ready(Ok(setup))
    }

    /// Submits further reads together, if less than half of what may be in flight is.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: there is no memory for any read.
    fn start_wave(&mut self, setup: RangeSetup) -> Result<(), AioCommandError> {
        let is_full = |stream: &Self| {
            stream.in_flight > stream.coalesce.max_in_flight / 2
                || stream.reads_in_flight > stream.max_reads / 2
        };
        if self.plan.reads.is_empty() || self.reads_in_flight > 0 && is_full(self) {
            return Ok(());
        }
        let mut batch = self.handle.owned_batch();
        let mut reads = Vec::new();
        while let Some(read) = self.plan.reads.front() {
            let is_first = self.reads_in_flight == 0;
            let has_room = self.in_flight + read.len() <= self.coalesce.max_in_flight
                && self.reads_in_flight < self.max_reads;
            if !is_first && !has_room {
                break;
            }
            let buffer = match setup.buffer(self.handle.buffers(), read.len()) {
                Ok(buffer) => buffer,
                Err(_) if !is_first => break, // others will return theirs
                Err(error) => return Err(error),
            };
            batch.read_full(&self.file, read.blocks.start, buffer);
            self.in_flight += read.len();
            self.reads_in_flight += 1;
            reads.extend(self.plan.reads.pop_front());
        }
        if !reads.is_empty() {
            let results = batch.stream();
            self.waves.push(Wave {
                results,
                reads,
                admitted: self.reads_in_flight,
            });
        }
        Ok(())
    }

    /// Returns the result of a read, when one is complete. `None`: no read is in flight.
    fn poll_waves(&mut self, cx: &mut Context<'_>) -> Poll<Option<CompletedRead>> {
        let mut wave = 0;
        while let Some(Wave {
            results,
            reads,
            admitted,
        }) = self.waves.get_mut(wave)
        {
            match Pin::new(results).poll_next(cx) {
                Poll::Ready(Some((index, result, buffer))) => {
                    if let Err(AioCommandError::CapacityExceeded) = result {
                        *admitted -= 1;
                    }
                    return Poll::Ready(Some(CompletedRead {
                        read: reads[index].clone(),
                        result,
                        buffer,
                        admitted: *admitted,
                    }));
                }
                Poll::Ready(None) => drop(self.waves.swap_remove(wave)),
                Poll::Pending => wave += 1,
            }
        }
        match self.waves.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }

    /// Makes the results of a read that is complete.
    ///
    /// # Errors
    ///
    /// That of the read, unless it found no slot while others of this stream had one.
    fn finish_read(&mut self, completed: CompletedRead) -> Result<(), AioCommandError> {
        let CompletedRead {
            read,
            result,
            buffer,
            admitted,
        } = completed;
        self.reads_in_flight -= 1;
        let found = match result {
            Ok(found) => found,
            // The context does not wait for slots: read again when less of ours is in flight. This ends, since
            // at least one read of each wave makes progress.
            Err(AioCommandError::CapacityExceeded) if admitted > 0 => {
                self.in_flight -= read.len();
                self.max_reads = admitted;
                self.plan.reads.push_front(read);
                return Ok(());
            }
            Err(error) => return Err(failed_read(error, &read.blocks)),
        };
        self.ready_len = read.len();
        let end = read.blocks.start + found;
        // The part of the buffer that has the bytes of a range. No overflow: a buffer has a length of `usize`.
        let part = |index: usize| {
            let range = &self.ranges[index];
            let at = |offset: u64| (offset.min(end) - read.blocks.start) as usize;
            (at(range.start), at(range.end))
        };
        let members = self.plan.members(&read);
        if let &[index] = members {
            let (start, end) = part(index);
            let bytes = self.coalesce.bytes_of(buffer, start, end);
            self.ready.push_back((index, bytes));
            return Ok(());
        }
        let size = buffer.size();
        let buffer = Bytes::from(buffer);
        for &index in members {
            let (start, end) = part(index);
            let bytes = match self.coalesce.copies(end - start, size) {
                true => Bytes::copy_from_slice(&buffer[start..end]),
                false => buffer.slice(start..end),
            };
            self.ready.push_back((index, bytes));
        }
        Ok(())
    }

    fn poll_result(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(usize, Bytes)>, AioCommandError>> {
        loop {
            if self.left == 0 {
                return Poll::Ready(Ok(None));
            }
            let setup = ready!(self.poll_setup(cx))?;
            if let Some(result) = self.ready.pop_front() {
                self.left -= 1;
                return Poll::Ready(Ok(Some(result)));
            }
            self.in_flight -= std::mem::take(&mut self.ready_len);
            self.start_wave(setup)?;
            match ready!(self.poll_waves(cx)) {
                Some(completed) => self.finish_read(completed)?,
                None if self.plan.reads.is_empty() => return Poll::Ready(Ok(None)),
                None => {} // all that was in flight found no slot
            }
        }
    }

    /// Drops everything but the error: operations in flight are abandoned.
    fn end(&mut self) {
        self.left = 0;
        self.waves.clear();
        self.ready.clear();
        self.plan = RangePlan::default();
    }
}

/// Nothing in the stream is pinned in place.
impl<M: RawMutex + 'static, A: 'static, L: 'static> Unpin for RangeStream<M, A, L> {}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Stream for RangeStream<M, A, L> {
    type Item = Result<(usize, Bytes), AioCommandError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        let result = ready!(stream.poll_result(cx));
        if result.is_err() {
            stream.end();
        }
        Poll::Ready(result.transpose())
    }

    /// At most the number of ranges that were not returned yet: an error ends the stream earlier.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.min(1), Some(self.left))
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> fmt::Debug for RangeStream<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeStream")
            .field("left", &self.left)
            .field("reads_in_flight", &self.reads_in_flight)
            .finish_non_exhaustive()
    }
}
