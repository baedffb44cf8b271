//! [`FileReader`]: reads a file from one end to the other, ahead of its caller.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::ops::{Bound, Range, RangeBounds};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use intrusive_collections::linked_list::AtomicLink;
use lock_api::RawMutex;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncSeek, ReadBuf};
use tokio::task::coop;

use super::File;
use super::chunk_buffers::ChunkBuffers;
use super::dispatch::run_on_file;
use super::file_len::file_len;
use super::read_plan::ReadPlan;
use super::read_write_op::ReadOp;
use super::stream_error::StreamError;
use crate::context::{OpOwner, TransferMode};
use crate::sys::Process;
use crate::{AioCommandError, AlignedBuf, GenericAioContextHandle, ReadFlags, SyncRequestAdapter};

/// Default length of a read in bytes.
const DEFAULT_CHUNK: usize = 1 << 20;

/// Default number of reads in flight.
const DEFAULT_DEPTH: usize = 8;

/// Reads a file in order, and reads ahead: an [`AsyncRead`], [`AsyncBufRead`] and [`AsyncSeek`].
///
/// [`File::reader`] creates it. It owns its file and its handle, so it can be moved to another task. It
/// keeps [`depth`](FileReader::with_depth) chunks in flight or ready. A read in flight proceeds whether or
/// not the reader is polled. The reader starts new reads only when it is polled.
///
/// The range need not be aligned. All positions are offsets in the file, in bytes. The file may be
/// [buffered](File::is_direct).
///
/// # Memory
///
/// At most *depth* × *chunk size* bytes, 8 MiB by default, from the pool of the handle
/// ([`with_buffers`](GenericAioContextHandle::with_buffers)). A chunk that was read to its end gives its
/// buffer to the next read. Reads that a seek has abandoned keep their memory until the kernel is done with
/// them.
///
/// # The end of the file
///
/// The reader asks for the length of the file once, before the first read, and reads ahead up to that
/// length. When its caller arrives there, it reads on, so a file that has grown meanwhile is read to its new
/// end. A direct read that stops within a block shows the end of the file. Otherwise one more request looks
/// for it. A file that has become shorter ends where it ends now. After the end was returned, the next read
/// looks for new data, as with [`std::fs::File`].
///
/// Data is as old as the read that brought it: a chunk that is in flight or ready does not show later writes.
///
/// # Errors
///
/// An error of a read is returned when its caller arrives at the chunk: after all data before it, once. The
/// next read tries the chunk again, so a caller can retry. The [`io::Error`] contains a [`StreamError`],
/// which says where.
///
/// # Cancel safety
///
/// No byte is lost or returned twice if a future of `AsyncReadExt` is dropped, as far as that method is
/// cancel safe itself: `read` and
/// `fill_buf` are. The reads in flight continue. If a *seek* from the
/// end of the file is dropped, it may take effect, but before the next read.
///
/// Dropping the reader abandons the reads in flight, as dropping any read does
/// ([`File::read_at`]).
///
/// # Panics
///
/// Outside a tokio runtime: the first read, and a seek from the end of the file, which query the file on tokio's
/// blocking pool. Never if the context has its [own thread](crate::AioContextBuilder::own_thread).
///
/// # Examples
///
/// ```
/// use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt};
/// use tokio_kaio::{File, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// # std::fs::write(&path, "first\nsecond\nthird\n")?;
/// let (context, handle) = aio_context(32, true)?;
/// let file = File::open(path, false).await?;
///
/// let mut reader = file.reader(&handle);
/// let mut line = String::new();
/// reader.read_line(&mut line).await?;
/// assert_eq!(line, "first\n");
///
/// reader.seek(std::io::SeekFrom::End(-6)).await?;
/// let mut rest = String::new();
/// reader.read_to_string(&mut rest).await?;
/// assert_eq!(rest, "third\n");
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
pub struct FileReader<M = parking_lot::RawMutex, A = SyncRequestAdapter, L = AtomicLink>
where
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    file: File,
    owner: Arc<OpOwner<M, A, L>>,
    /// The process that made this reader. A forked child has none of its buffers.
    process: Process,
    plan: ReadPlan,
    memory_alignment: usize,
    depth: usize,
    query: Query,
    /// A seek to this distance from the end, which waits for the length of the file.
    seek_from_end: Option<i64>,
    /// Offset of the byte that the caller gets next.
    position: u64,
    /// Without gaps. The position is in the first chunk, or behind what it has found.
    chunks: VecDeque<Chunk<M, A, L>>,
    /// Buffers for further chunks.
    spare: ChunkBuffers,
    /// The caller knows that the file has ended at this position.
    has_ended: bool,
}

/// What is known of the file.
enum Query {
    /// Nothing, or not any more.
    Due,
    Running(Pin<Box<dyn Future<Output = io::Result<QueryResult>> + Send>>),
    Done,
}

struct QueryResult {
    /// The alignment of offset and length in bytes.
    block: u64,
    memory_alignment: usize,
    /// Length of the file in bytes.
    len: u64,
}

struct Chunk<M: RawMutex + 'static, A: 'static, L: 'static> {
    /// The range of the read.
    range: Range<u64>,
    /// The position from which a short read was repeated.
    repeated_at: Option<u64>,
    state: ChunkState<M, A, L>,
}

#[allow(clippy::large_enum_variant)] // the large one is the usual one
enum ChunkState<M: RawMutex + 'static, A: 'static, L: 'static> {
    /// To be read, or to be read again.
    Due,
    Reading(ReadOp<M, A, L>),
    /// The first `found` bytes of the buffer are those of the file.
    Ready {
        buffer: AlignedBuf,
        found: u64,
    },
    Failed(AioCommandError),
}

/// What is at the position of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Data,
    End,
    Failed,
}

impl File {
    /// Returns a reader of the file, from its start to its end. See [`FileReader`]. Nothing is read before
    /// the reader is polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 5000])?;
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut bytes = Vec::new();
    /// tokio::io::copy(&mut file.reader(&handle), &mut bytes).await?;
    /// assert_eq!(bytes, [7; 5000]);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reader<M: RawMutex + 'static, A: 'static, L: 'static>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
    ) -> FileReader<M, A, L> {
        FileReader {
            file: self.clone(),
            owner: OpOwner::new(Arc::clone(self.open_file()), aio_handle.clone()),
            process: Process::current(),
            plan: ReadPlan::new(DEFAULT_CHUNK),
            memory_alignment: 1,
            depth: DEFAULT_DEPTH,
            query: Query::Due,
            seek_from_end: None,
            position: 0,
            chunks: VecDeque::new(),
            spare: ChunkBuffers::default(),
            has_ended: false,
        }
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> FileReader<M, A, L> {
    /// Reads only this range of the file, in bytes. The reader ends at the end of the range, or at that of
    /// the file if it comes first. The position moves to the start of the range.
    ///
    /// # Errors
    ///
    /// None here. Reads fail with `EINVAL` if the range ends before it starts.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::io::AsyncReadExt;
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, (0..=255).collect::<Vec<u8>>())?;
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut bytes = Vec::new();
    /// file.reader(&handle).with_range(7..10).read_to_end(&mut bytes).await?;
    /// assert_eq!(bytes, [7, 8, 9]);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the reader is moved into the result"]
    pub fn with_range(mut self, range: impl RangeBounds<u64>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        self.plan.set_range(start..end);
        self.chunks.clear();
        self.seek_from_end = None;
        self.move_to(start);
        self
    }

    /// Sets the length of a read in bytes, 1 MiB by default. Chunks end at multiples of it. Rounded up to a
    /// multiple of the file's [alignment](File::alignment); at most 1 GiB. Holds for reads that are not
    /// started yet.
    #[must_use = "the reader is moved into the result"]
    pub fn with_chunk_size(mut self, bytes: usize) -> Self {
        self.plan.set_chunk(bytes);
        self
    }

    /// Sets how many chunks are in flight or ready, 8 by default, at least 1. With 1, the reader reads only
    /// when its caller waits for data.
    ///
    /// Where the context has fewer slots, further reads wait for a slot.
    #[must_use = "the reader is moved into the result"]
    pub fn with_depth(mut self, chunks: usize) -> Self {
        self.depth = chunks.max(1);
        self
    }

    /// Returns the offset in the file of the byte that is read next. While a seek from the end of the file
    /// has not completed, the position before that seek.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Moves the position. Keeps the chunks from there on if one of them contains the position, else drops
    /// all, and abandons those in flight.
    fn move_to(&mut self, position: u64) {
        self.has_ended = false;
        self.position = position;
        while let Some(front) = self.chunks.front() {
            match front.range.end <= position {
                true => self.pop_front(),
                false => break,
            }
        }
        let front = self.chunks.front();
        if front.is_some_and(|front| position < front.range.start) {
            self.chunks.clear();
        }
    }

    /// Removes the first chunk, and keeps its buffer.
    fn pop_front(&mut self) {
        if let Some(Chunk {
            state: ChunkState::Ready { buffer, .. },
            ..
        }) = self.chunks.pop_front()
        {
            self.keep(buffer);
        }
    }

    fn keep(&mut self, buffer: AlignedBuf) {
        self.spare.keep(buffer, self.chunks.len(), self.depth);
    }

    /// Takes the error of the first chunk, which is read again next time.
    fn take_error(&mut self) -> io::Error {
        let Some(front) = self.chunks.front_mut() else {
            unreachable!("a chunk has failed");
        };
        let state = std::mem::replace(&mut front.state, ChunkState::Due);
        let ChunkState::Failed(error) = state else {
            unreachable!("this chunk has failed");
        };
        StreamError::new(&self.file, "reading", front.range.clone(), error).into()
    }

    /// The bytes at the position, if the first chunk has any.
    fn data(&self) -> &[u8] {
        let Some(front) = self.chunks.front() else {
            return &[];
        };
        let ChunkState::Ready { buffer, found } = &front.state else {
            return &[];
        };
        let end = (front.range.start + found).min(self.plan.end());
        match self.position < end {
            true => {
                let index = |offset: u64| (offset - front.range.start) as usize;
                &buffer[index(self.position)..index(end)]
            }
            false => &[],
        }
    }

    /// Returns the data at the position as `Bytes`, in the buffer that it was read to.
    #[cfg(feature = "bytes")]
    pub(super) fn poll_next_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<bytes::Bytes>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let front = ready!(self.poll_front(cx));
        budget.made_progress();
        Poll::Ready(match front {
            Ok(Front::Data) => Some(Ok(self.take_bytes())),
            Ok(Front::End) => None,
            Ok(Front::Failed) => Some(Err(self.take_error())),
            Err(error) => Some(Err(error)),
        })
    }

    /// Takes the data at the position out of the first chunk, with its buffer.
    #[cfg(feature = "bytes")]
    fn take_bytes(&mut self) -> bytes::Bytes {
        let len = self.data().len();
        let Some(Chunk {
            range,
            state: ChunkState::Ready { buffer, .. },
            ..
        }) = self.chunks.front_mut()
        else {
            unreachable!("the first chunk has data");
        };
        let bytes = bytes::Bytes::from(std::mem::take(buffer));
        let start = (self.position - range.start) as usize;
        self.position += len as u64;
        bytes.slice(start..start + len)
    }

    /// Finds out what is at the position. Starts the reads that are due.
    ///
    /// # Errors
    ///
    /// The file could not be queried. The next call tries again.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Front>> {
        self.check_process()?;
        ready!(self.poll_seek_from_end(cx))?;
        ready!(self.poll_query(cx))?;
        if self.has_ended {
            self.has_ended = false;
            self.look_again();
        }
        loop {
            self.start_reads(cx);
            if self.position >= self.plan.end() {
                return Poll::Ready(self.check_range().map(|()| Front::End));
            }
            ready!(self.poll_reads(cx));
            let Some(front) = self.chunks.front() else {
                return Poll::Ready(Ok(Front::End)); // the position is past every file
            };
            let was_repeated = front.repeated_at == Some(self.position);
            let (range, found) = match &front.state {
                ChunkState::Ready { found, .. } => (front.range.clone(), *found),
                ChunkState::Failed(_) => return Poll::Ready(Ok(Front::Failed)),
                ChunkState::Due | ChunkState::Reading(_) => continue,
            };
            let end = range.start + found;
            if self.position < end {
                return Poll::Ready(Ok(Front::Data));
            } else if end == range.end {
                self.pop_front();
            } else if self.plan.shows_end(found) && (was_repeated || !self.is_known_to_go_on()) {
                return Poll::Ready(Ok(Front::End));
            } else {
                self.read_rest();
            }
        }
    }

    /// # Errors
    ///
    /// This is a forked child of the process that made the reader.
    fn check_process(&self) -> io::Result<()> {
        match self.process == Process::current() {
            true => Ok(()),
            false => Err(AioCommandError::forked_child().into()),
        }
    }

    /// # Errors
    ///
    /// The range ends before it starts.
    fn check_range(&self) -> io::Result<()> {
        let start = self.plan.start();
        let failed = |error| StreamError::new(&self.file, "reading", start..start, error);
        self.plan
            .check_range()
            .map_err(|error| failed(error).into())
    }

    /// Polls the reads, unless the first one is complete.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let window = self.plan.chunk().saturating_mul(self.depth as u64);
        let is_reading = |chunk: &Chunk<M, A, L>| matches!(chunk.state, ChunkState::Reading(_));
        if !self.chunks.front().is_some_and(is_reading) {
            return Poll::Ready(());
        }
        // The others too: in a group, a read waits for its turn, which is lost if the read is not polled.
        for chunk in self.chunks.iter_mut().skip(1) {
            let _ = chunk.poll_read(cx, &mut self.plan, window);
        }
        match self.chunks.front_mut() {
            Some(front) => front.poll_read(cx, &mut self.plan, window),
            None => Poll::Ready(()),
        }
    }

    /// Starts reads until `depth` chunks are in flight or ready.
    fn start_reads(&mut self, cx: &mut Context<'_>) {
        if let Some(Chunk {
            state: ChunkState::Due,
            range,
            ..
        }) = self.chunks.front()
        {
            let range = range.clone();
            let state = self.start_read(&range, cx);
            self.chunks[0].state = state;
        }
        while self.chunks.len() < self.depth {
            let next = match self.chunks.back() {
                Some(last) => self.plan.next_read(last.range.end, false),
                None => self.plan.next_read(self.position, true),
            };
            let Some(range) = next else {
                return;
            };
            let state = self.start_read(&range, cx);
            if let (ChunkState::Failed(AioCommandError::CapacityExceeded), false) =
                (&state, self.chunks.is_empty())
            {
                return; // nobody waits for this chunk yet
            }
            self.chunks.push_back(Chunk {
                range,
                repeated_at: None,
                state,
            });
        }
    }

    fn start_read(&mut self, range: &Range<u64>, cx: &mut Context<'_>) -> ChunkState<M, A, L> {
        let len = range.end - range.start;
        let handle = self.owner.handle();
        let buffer = match self.spare.take(handle, len as usize, self.memory_alignment) {
            Ok(buffer) => buffer,
            Err(error) => return ChunkState::Failed(error),
        };
        let (flags, mode) = (ReadFlags::empty(), TransferMode::Single);
        let mut read = ReadOp::new(&self.owner, range.start, buffer, len, flags, mode);
        // The first poll submits the request, so the task's budget must not prevent it: no one polls
        // this chunk again before the position is in it.
        let polled = Pin::new(&mut coop::unconstrained(&mut read)).poll(cx);
        let mut chunk = Chunk {
            range: range.clone(),
            repeated_at: None,
            state: ChunkState::Reading(read),
        };
        if let Poll::Ready(result) = polled {
            let window = self.plan.chunk().saturating_mul(self.depth as u64);
            chunk.complete(result, &mut self.plan, window);
        }
        chunk.state
    }

    /// Returns whether the file has been found to be longer than the first chunk shows: by a seek from its
    /// end, or because a chunk behind has data.
    fn is_known_to_go_on(&self) -> bool {
        let has_data = |chunk: &Chunk<M, A, L>| match chunk.state {
            ChunkState::Ready { found, .. } => found > 0,
            ChunkState::Failed(_) => true, // there may be data
            ChunkState::Due | ChunkState::Reading(_) => false,
        };
        self.position < self.plan.len() || self.chunks.iter().skip(1).any(has_data)
    }

    /// Reads the part of the first chunk again that a short read has not found.
    fn read_rest(&mut self) {
        let Some(front) = self.chunks.front_mut() else {
            return;
        };
        let ChunkState::Ready { buffer, .. } = std::mem::replace(&mut front.state, ChunkState::Due)
        else {
            unreachable!("the read is complete");
        };
        front.range.start = self.plan.round_down(self.position).max(front.range.start);
        front.repeated_at = Some(self.position);
        self.keep(buffer);
    }

    /// Forgets what was found at and behind the position, where the file has ended.
    fn look_again(&mut self) {
        if self.data().is_empty() {
            while self.chunks.len() > 1 {
                self.chunks.pop_back();
            }
            self.pop_front();
        }
    }

    fn poll_query(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Query::Done = self.query {
            return Poll::Ready(Ok(()));
        }
        // It stays due if it fails, or if the waker panics.
        let mut query = match std::mem::replace(&mut self.query, Query::Due) {
            Query::Running(query) => query,
            _ => Box::pin(query(self.file.clone())),
        };
        let handle = self.owner.handle();
        let Poll::Ready(found) = pin!(handle.in_runtime(query.as_mut())).poll(cx) else {
            self.query = Query::Running(query);
            return Poll::Pending;
        };
        let facts = found?;
        self.plan.set_file(facts.block, facts.len);
        self.memory_alignment = facts.memory_alignment;
        self.query = Query::Done;
        Poll::Ready(Ok(()))
    }

    /// Completes a seek from the end of the file.
    fn poll_seek_from_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(distance) = self.seek_from_end {
            let queried = ready!(self.poll_query(cx));
            self.seek_from_end = None; // a seek that has failed has no effect later
            queried?;
            let end = self.plan.len().min(self.plan.end());
            let position = end.checked_add_signed(distance);
            self.move_to(self.checked_position(position)?);
        }
        Poll::Ready(Ok(()))
    }

    /// # Errors
    ///
    /// The position is not in the range of the reader.
    fn checked_position(&self, position: Option<u64>) -> io::Result<u64> {
        let start = self.plan.start();
        position.filter(|&at| at >= start).ok_or_else(|| {
            let text = format!(
                "a seek to before offset {start}, where the range of the reader starts (`with_range`)"
            );
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Chunk<M, A, L> {
    fn poll_read(&mut self, cx: &mut Context<'_>, plan: &mut ReadPlan, window: u64) -> Poll<()> {
        if let ChunkState::Reading(read) = &mut self.state {
            let result = ready!(Pin::new(read).poll(cx));
            self.complete(result, plan, window);
        }
        Poll::Ready(())
    }

    fn complete(
        &mut self,
        (result, buffer): (Result<u64, AioCommandError>, AlignedBuf),
        plan: &mut ReadPlan,
        window: u64,
    ) {
        self.state = match result {
            Ok(found) => {
                plan.on_read(&self.range, found, window);
                ChunkState::Ready { buffer, found }
            }
            Err(error) => ChunkState::Failed(error),
        };
    }
}

/// Queries the file, on tokio's blocking pool.
async fn query(file: File) -> io::Result<QueryResult> {
    let alignment = file.alignment().await?;
    let len = run_on_file(Arc::clone(&file.inner), |file| file_len(&file.open)).await?;
    Ok(QueryResult {
        block: alignment.read_offset.max(alignment.memory as u64),
        memory_alignment: alignment.memory.next_power_of_two(),
        len,
    })
}

impl<M, A, L> AsyncRead for FileReader<M, A, L>
where
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    /// Fills `buf` with as much as is ready.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let budget = ready!(coop::poll_proceed(cx));
        let reader = self.get_mut();
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            // Reads of cached data complete at once, so there may be no end of them.
            if buf.filled().len() > before {
                match coop::poll_proceed(cx) {
                    Poll::Ready(chunk) => chunk.made_progress(),
                    Poll::Pending => break,
                }
            }
            let front = reader.poll_front(cx);
            if buf.filled().len() > before && !matches!(front, Poll::Ready(Ok(Front::Data))) {
                break; // the rest comes with the next read
            }
            match ready!(front)? {
                Front::Data => {
                    let data = reader.data();
                    let len = data.len().min(buf.remaining());
                    buf.put_slice(&data[..len]);
                    reader.position += len as u64;
                }
                Front::End => {
                    reader.has_ended = true;
                    break;
                }
                Front::Failed => return Poll::Ready(Err(reader.take_error())),
            }
        }
        budget.made_progress();
        Poll::Ready(Ok(()))
    }
}

impl<M, A, L> AsyncBufRead for FileReader<M, A, L>
where
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let budget = ready!(coop::poll_proceed(cx));
        let reader = self.get_mut();
        match ready!(reader.poll_front(cx))? {
            Front::Data => {}
            Front::End => reader.has_ended = true,
            Front::Failed => return Poll::Ready(Err(reader.take_error())),
        }
        budget.made_progress();
        Poll::Ready(Ok(reader.data()))
    }

    /// # Panics
    ///
    /// If `amt` is larger than the buffer that [`poll_fill_buf`](AsyncBufRead::poll_fill_buf) has returned.
    fn consume(self: Pin<&mut Self>, amt: usize) {
        let reader = self.get_mut();
        assert!(
            amt <= reader.data().len(),
            "more was consumed than is buffered"
        );
        reader.position += amt as u64;
    }
}

impl<M, A, L> AsyncSeek for FileReader<M, A, L>
where
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    /// Moves the position. A seek to a chunk that is ready or in flight costs no read. A seek to elsewhere
    /// abandons the reads in flight. Positions are offsets in the file; [`SeekFrom::End`] counts from the end
    /// of the range, or from the end of the file if it comes first.
    ///
    /// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) if the position would be before the start of
    /// the range. A position past the end is allowed; a read there returns the end.
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let reader = self.get_mut();
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(distance) => reader.position.checked_add_signed(distance),
            SeekFrom::End(distance) => {
                // The file may have another length now.
                reader.query = Query::Due;
                reader.seek_from_end = Some(distance);
                return Ok(());
            }
        };
        let position = reader.checked_position(position)?;
        reader.seek_from_end = None;
        reader.move_to(position);
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let reader = self.get_mut();
        reader.check_process()?;
        ready!(reader.poll_seek_from_end(cx))?;
        Poll::Ready(Ok(reader.position))
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> fmt::Debug for FileReader<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("file", &self.file)
            .field("position", &self.position)
            .field("end", &self.plan.end())
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
