//! [`FileWriter`]: writes a file from one end to the other, behind its caller.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use intrusive_collections::linked_list::AtomicLink;
use lock_api::RawMutex;
use thiserror::Error;
use tokio::io::AsyncWrite;
use tokio::task::coop;

use super::chunk_buffers::ChunkBuffers;
use super::edge_write::EdgeWrite;
use super::file::run_blocking;
use super::owned_op::WriteOp;
use super::read_plan::{MAX_CHUNK, MAX_OFFSET};
use super::stream_error::StreamError;
use super::unaligned_state::BlockGeometry;
use super::write_plan::{Piece, WritePlan};
use super::write_signal::WriteSignal;
use super::{Allocate, File};
use crate::backend::OpCode;
use crate::context::{OpOwner, OwnedOp, TransferMode};
use crate::error::beyond_max_offset;
use crate::op::IoRequest;
use crate::sys::{Process, page_size};
use crate::{AioCommandError, AlignedBuf, GenericAioContextHandle, SyncRequestAdapter, WriteFlags};
#[cfg(feature = "bytes")]
use crate::{command::io_op, op::OwnedBuffer};

/// Default length of a write in bytes.
const DEFAULT_CHUNK: usize = 1 << 20;

/// Default number of writes in flight. ext4 lets one write at a time extend a file, so more threads of the
/// blocking pool would only wait: 8 writes took a fifth longer than 4.
const DEFAULT_DEPTH: usize = 4;

/// The shortest `Bytes` that are written where they are. Shorter ones are collected, for longer writes.
#[cfg(feature = "bytes")]
const MIN_IN_PLACE: usize = 64 << 10;

/// Writes a file in order, in large aligned writes that proceed while the caller goes on: an [`AsyncWrite`],
/// and with the feature `bytes` a [`Sink`](https://docs.rs/futures-sink/0.3/futures_sink/trait.Sink.html)
/// of [`Bytes`](https://docs.rs/bytes/1/bytes/struct.Bytes.html).
///
/// [`File::writer`] creates it. It owns its file and its handle, so it can be moved to another task. It
/// collects the bytes in chunks. A chunk that is full is written. A write in flight proceeds whether or not
/// the writer is polled. At most [`depth`](FileWriter::with_depth) chunks are in flight or being filled;
/// then the caller waits.
///
/// Offset and length need not be aligned. All positions are offsets in the file, in bytes. The file may be
/// [buffered](File::is_direct).
///
/// # Flush, sync, finish
///
/// | call | when it returns |
/// |---|---|
/// | `write` | the bytes are in the writer's memory; nothing is known about their write |
/// | [`flush`](FileWriter::flush) | all writes have completed, and readers of the file see the bytes; they may be lost in a crash |
/// | [`sync`](FileWriter::sync) | flushed, and durable |
/// | `shutdown` | flushed, and space that was allocated and not used is freed |
/// | [`finish`](FileWriter::finish) | the same; returns the end of what was written |
///
/// A flush need not be at a block boundary, and the writer goes on after it. It then writes the rest of the
/// block when that is complete, so frequent flushes cost extra writes.
///
/// # Other writers
///
/// Other writers of the same [`File`] or its clones may write at the same time, even in the blocks that this
/// writer covers in part: [`File::write_bytes_at`], and other `FileWriter`s. Their bytes are kept. Parts of
/// an upload that meet within a block can be written at the same time, by several tasks or by one. Bytes that
/// two writers write have the content of one of them.
///
/// Writers of parts of a block wait for each other. If a writer begins within a block, the first call after
/// the rest of this block is complete writes it, and waits until it is written. If the future of that call,
/// or of a flush, is dropped, the others wait until this writer is used again, or dropped.
///
/// **Blocks that this writer covers as a whole are not protected.** If another writer changes a part of such
/// a block at the same time, the rest of the block may have its old content afterwards.
///
/// The file never becomes longer than what was written. Chunks may complete in any order, so before a flush
/// it may have a hole of zeroes.
///
/// # Errors
///
/// An error of a write is returned by the next call, whatever it is, and by all later calls. The bytes
/// that were accepted since the last flush may then be written or not. The [`io::Error`] contains a
/// [`StreamError`], which says which write has failed first:
///
/// - `ENOSPC`: the disk is full.
/// - `EFBIG`: the file would exceed `RLIMIT_FSIZE`.
/// - `EINVAL`: the file was opened with `O_APPEND`, so that the kernel ignores offsets.
/// - `EBADF`: the file is not open for writing.
/// - Those of [`File::write_all_at`] and [`File::write_bytes_at`].
///
/// # Dropping
///
/// **A writer that is dropped without a flush, `shutdown` or [`finish`](FileWriter::finish) loses the bytes
/// that it still collects, and errors of writes in flight.** Writes in flight are abandoned: they may still
/// reach the file ([`File::drain`] waits for them). [`Metrics::unfinished_writers`] counts such writers.
///
/// [`Metrics::unfinished_writers`]: crate::Metrics::unfinished_writers
///
/// # Cancel safety
///
/// A dropped future loses nothing that the writer has accepted: it is written by later calls.
///
/// - `write` has accepted nothing if its future is dropped. Neither has
///   `write_vectored`.
/// - `write_all` has accepted the bytes up to
///   [`position`](FileWriter::position).
/// - `flush`, `sync` and `shutdown` can be called again. The writes that they have started continue.
/// - [`finish`](FileWriter::finish) drops the writer. To be able to try again, call `shutdown` before.
///
/// # Panics
///
/// Outside a tokio runtime: the first write, which queries the file on tokio's blocking pool, and the end of a
/// writer with [`with_allocation`](FileWriter::with_allocation). Never if the context has its
/// [own thread](crate::AioContextBuilder::own_thread).
///
/// # Examples
///
/// ```
/// use tokio::io::AsyncWriteExt;
/// use tokio_kaio::{File, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// let (context, handle) = aio_context(32, true)?;
/// let file = File::create(&path, false).await?;
///
/// let mut writer = file.writer(&handle);
/// for number in 0..1000 {
///     writer.write_all(format!("line {number}\n").as_bytes()).await?;
/// }
/// writer.sync().await?;
/// let end = writer.finish().await?;
///
/// assert_eq!(end, 8890);
/// assert_eq!(std::fs::read_to_string(path)?.lines().last(), Some("line 999"));
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
pub struct FileWriter<M = parking_lot::RawMutex, A = SyncRequestAdapter, L = AtomicLink>
where
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    file: File,
    owner: Arc<OpOwner<M, A, L>>,
    /// The process that made this writer. A forked child has none of its buffers.
    process: Process,
    chunk: u64,
    depth: usize,
    allocation: Allocation,
    setup: Setup,
    /// Offset of the next byte that goes to `filling`.
    next: u64,
    /// Bytes that were accepted, and come next.
    #[cfg(feature = "bytes")]
    pending: bytes::Bytes,
    filling: Option<Filling>,
    /// Oldest first.
    in_flight: VecDeque<InFlight<M, A, L>>,
    /// Buffers for further chunks.
    spare: ChunkBuffers,
    signal: Arc<WriteSignal>,
    /// Wakes `signal`. The writes in flight are polled with it.
    waker: Waker,
    failure: Failure,
}

/// Space that is allocated ahead.
enum Allocation {
    /// Up to this offset; nothing is left to free before the setup.
    Until(u64),
    /// Freeing what was not used.
    Freeing(Pin<Box<dyn Future<Output = io::Result<()>> + Send>>),
    None,
}

/// What is known of the file.
enum Setup {
    Due,
    Running(Pin<Box<dyn Future<Output = Result<BlockGeometry, AioCommandError>> + Send>>),
    Done {
        plan: WritePlan,
        memory_alignment: usize,
    },
}

/// A piece of the file that the caller fills.
enum Filling {
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

/// A write in flight.
struct InFlight<M: RawMutex + 'static, A: 'static, L: 'static> {
    range: Range<u64>,
    write: Write<M, A, L>,
}

#[allow(clippy::large_enum_variant)] // the large one is the usual one
enum Write<M: RawMutex + 'static, A: 'static, L: 'static> {
    Blocks(WriteOp<M, A, L>),
    Edge(EdgeWrite<M, A, L>),
    /// The write of `Bytes` where they are.
    #[cfg(feature = "bytes")]
    InPlace(OwnedOp<M, A, L>),
    Sync(OwnedOp<M, A, L>),
}

/// The first error.
enum Failure {
    None,
    /// The caller does not know yet.
    Unreported(StreamError),
    Reported(StreamError),
}

impl File {
    /// Returns a writer that begins at the start of the file. See [`FileWriter`]. Nothing is written or
    /// truncated before the writer is polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::io::AsyncWriteExt;
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::create(&path, false).await?;
    /// let mut writer = file.writer(&handle);
    /// tokio::io::copy(&mut &b"hello"[..], &mut writer).await?;
    /// assert_eq!(writer.finish().await?, 5);
    /// assert_eq!(std::fs::read(path)?, b"hello");
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn writer<M: RawMutex + 'static, A: 'static, L: 'static>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
    ) -> FileWriter<M, A, L> {
        let signal = Arc::new(WriteSignal::default());
        FileWriter {
            file: self.clone(),
            owner: OpOwner::new(Arc::clone(self.open_file()), aio_handle.clone()),
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
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> FileWriter<M, A, L> {
    /// Begins at this offset of the file, in bytes. Call it before the first write. The bytes before and
    /// behind what is written stay as they are.
    ///
    /// # Panics
    ///
    /// If the writer has accepted bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::io::AsyncWriteExt;
    /// use tokio_kaio::{AioOpenOptionsExt, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, "hello world")?;
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = std::fs::OpenOptions::new().read(true).write(true).aio_open(path.clone(), false).await?;
    /// let mut writer = file.writer(&handle).with_offset(6);
    /// writer.write_all(b"W").await?;
    /// assert_eq!(writer.finish().await?, 7);
    /// assert_eq!(std::fs::read(path)?, b"hello World");
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the writer is moved into the result"]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.assert_unused("with_offset");
        self.next = offset;
        self
    }

    /// Sets the length of a write in bytes, 1 MiB by default. Rounded up to whole blocks, of mostly 4096
    /// bytes; at most 1 GiB.
    ///
    /// # Panics
    ///
    /// If the writer has accepted bytes.
    #[must_use = "the writer is moved into the result"]
    pub fn with_chunk_size(mut self, bytes: usize) -> Self {
        self.assert_unused("with_chunk_size");
        self.chunk = (bytes as u64).clamp(1, MAX_CHUNK);
        self
    }

    /// Sets how many chunks are in flight or being filled, 4 by default, at least 1. With 1, the caller waits
    /// for each write. The writer uses at most *depth* × *chunk size* bytes of memory, 4 MiB by default, from
    /// the pool of the handle ([`with_buffers`](GenericAioContextHandle::with_buffers)).
    #[must_use = "the writer is moved into the result"]
    pub fn with_depth(mut self, chunks: usize) -> Self {
        self.depth = chunks.max(1);
        self
    }

    /// Allocates this number of bytes ahead, from the offset of the writer on, before the first write
    /// ([`Allocate::KeepSize`]). So the blocks are contiguous, and a full disk is noticed before the first
    /// write. The length of the file does not change. It does not make the writes faster: on ext4, writes to
    /// space that was allocated so took a quarter longer.
    ///
    /// If less is written, [`finish`](FileWriter::finish) and `shutdown` free the rest, unless the file has
    /// become longer meanwhile by other writers. **Others must not extend the file while they run.** A
    /// writer that is dropped before does not free it.
    ///
    /// File systems that can't allocate ahead ignore this.
    ///
    /// # Errors
    ///
    /// The first write, flush or `finish` fails with `ENOSPC` if the space is not available.
    ///
    /// # Panics
    ///
    /// If the writer has accepted bytes.
    #[must_use = "the writer is moved into the result"]
    pub fn with_allocation(mut self, len: u64) -> Self {
        self.assert_unused("with_allocation");
        self.allocation = match len {
            0 => Allocation::None,
            len => Allocation::Until(len), // added to the offset by the setup
        };
        self
    }

    /// Returns the offset in the file of the byte that is accepted next: the offset of the writer plus the
    /// number of bytes accepted.
    pub fn position(&self) -> u64 {
        self.next.saturating_add(self.pending_len() as u64)
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all bytes that were accepted, and waits until all writes have completed: readers of the file
    /// see the bytes. The same as `AsyncWriteExt::flush` and `SinkExt::flush`, which need a trait.
    ///
    /// # Errors
    ///
    /// Those of earlier writes. See [`FileWriter`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost. The writes in flight continue.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush_all(cx)).await
    }

    /// Flushes, and makes the data durable, with the metadata that is needed to read it
    /// ([`File::sync_data`]). The file's directory entry is durable once the directory was synced.
    ///
    /// # Errors
    ///
    /// Those of earlier writes, and of the sync. `EIO`: a write could not be made durable. All later calls
    /// return the same error, because the kernel reports it only once.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost. A sync in flight continues, and its error is returned by the next call.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::io::AsyncWriteExt;
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::create(&path, false).await?;
    /// let mut log = file.writer(&handle);
    /// log.write_all(b"first\n").await?;
    /// log.sync().await?; // the first line survives a crash
    /// log.write_all(b"second\n").await?;
    /// log.finish().await?;
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sync(&mut self) -> io::Result<()> {
        self.flush().await?;
        let request = IoRequest::sync(OpCode::Fdatasync);
        let sync = self.owner.start(request, TransferMode::Single);
        let end = self.next;
        self.start(end..end, Write::Sync(sync));
        self.flush().await
    }

    /// Flushes, frees space that was allocated and not used, and returns the offset behind the last byte that
    /// was written: the length of the file, if the file has not been longer before. **Makes nothing durable**:
    /// call [`sync`](FileWriter::sync) before.
    ///
    /// # Errors
    ///
    /// Those of all writes. See [`FileWriter`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the writer is dropped: bytes may be missing from the file, and
    /// [`Metrics::unfinished_writers`](crate::Metrics::unfinished_writers) counts the writer.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::io::AsyncWriteExt;
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::create(&path, false).await?;
    /// let mut writer = file.writer(&handle).with_allocation(1 << 20);
    /// writer.write_all(&[7; 10_001]).await?;
    /// assert_eq!(writer.finish().await?, 10_001);
    /// assert_eq!(std::fs::metadata(path)?.len(), 10_001);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(mut self) -> io::Result<u64> {
        poll_fn(|cx| self.poll_end(cx)).await?;
        Ok(self.next)
    }

    fn assert_unused(&self, method: &str) {
        assert!(
            matches!(self.setup, Setup::Due),
            "`{method}` was called after the first write"
        );
    }

    /// Returns whether the writer would lose bytes or an error if it were dropped.
    fn is_unfinished(&self) -> bool {
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
    fn fail(&mut self, action: &'static str, range: Range<u64>, error: AioCommandError) {
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
    fn poll_accept(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
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
    fn fill(&mut self, data: &[u8]) -> usize {
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
    fn start(&mut self, range: Range<u64>, write: Write<M, A, L>) {
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
    fn poll_space(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

    fn has_failed(&self) -> bool {
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

    /// Flushes, and frees the space that was allocated in vain.
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

    /// Accepts `data` if nothing is pending. The caller polls [`poll_pending`](Self::poll_pending) then.
    #[cfg(feature = "bytes")]
    pub(super) fn set_pending(&mut self, data: bytes::Bytes) {
        debug_assert!(self.pending.is_empty());
        self.pending = data;
    }

    /// Moves the pending bytes to chunks, and writes those that are full. Aligned memory is written where it
    /// is.
    #[cfg(feature = "bytes")]
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.pending.is_empty() {
            ready!(coop::poll_proceed(cx)).made_progress();
            ready!(self.poll_space(cx));
            if self.has_failed() {
                break; // which has cleared the pending bytes
            }
            if self.filling.is_none() {
                let in_place = self.len_in_place();
                if in_place > 0 {
                    let data = self.pending.split_to(in_place);
                    self.write_in_place(data);
                    continue;
                }
            }
            let mut data = mem::take(&mut self.pending);
            let copied = self.fill(&data);
            bytes::Buf::advance(&mut data, copied);
            match self.failure {
                Failure::None => self.pending = data,
                // Accepted, but never written.
                _ => self.next = self.next.saturating_add(data.len() as u64),
            }
        }
        Poll::Ready(())
    }

    /// Returns whether the next byte is written as part of an edge.
    #[cfg(feature = "bytes")]
    pub(super) fn is_at_edge(&self) -> bool {
        match (&self.filling, &self.setup) {
            (Some(filling), _) => matches!(filling, Filling::Edge { .. }),
            (None, Setup::Done { plan, .. }) => matches!(plan.piece(self.next), Piece::Edge(_)),
            (None, _) => true, // not known
        }
    }

    /// Returns how many pending bytes can be written next where they are: whole blocks, aligned in the file
    /// and in memory, and not few.
    #[cfg(feature = "bytes")]
    fn len_in_place(&self) -> usize {
        let Setup::Done {
            plan,
            memory_alignment,
        } = self.setup
        else {
            return 0;
        };
        let is_aligned = self.pending.as_ptr().addr() % memory_alignment == 0;
        match plan.piece(self.next) {
            Piece::Blocks(len) if is_aligned && self.pending.len() >= MIN_IN_PLACE => {
                plan.whole_blocks(self.pending.len().min(len))
            }
            _ => 0,
        }
    }

    #[cfg(feature = "bytes")]
    fn write_in_place(&mut self, data: bytes::Bytes) {
        let range = self.next..self.next.saturating_add(data.len() as u64);
        self.next = range.end;
        match io_op(OpCode::Write, 0, range.start, 0) {
            Ok(op) => {
                let (request, _) = OwnedBuffer::write(op, data);
                let write = self.owner.start(request, TransferMode::Exact);
                self.start(range, Write::InPlace(write));
            }
            Err(error) => self.fail("writing", range, error),
        }
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

/// Prepares a file to be written, on tokio's blocking pool. `allocation`: the range to allocate ahead.
async fn set_up(file: File, allocation: Range<u64>) -> Result<BlockGeometry, AioCommandError> {
    if file.appends {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let error = io::Error::new(error.kind(), AppendsOnly { error });
        return Err(AioCommandError::BadResult(error));
    }
    let geometry = file.geometry().await.map_err(AioCommandError::IoSubmit)?;
    if !geometry.writable {
        let error = io::Error::from_raw_os_error(libc::EBADF);
        return Err(AioCommandError::IoSubmit(error));
    }
    if !allocation.is_empty() {
        let len = allocation.end - allocation.start;
        let allocated = file.allocate(Allocate::KeepSize, allocation.start, len);
        match allocated.await {
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) =>
            {
                return Err(AioCommandError::BadResult(error));
            }
            _ => {}
        }
    }
    Ok(geometry)
}

/// Frees the space behind the end of a file, unless the file is longer than `end`. In one job, as what others
/// append between its two steps is lost.
async fn free_rest(file: File, end: u64) -> io::Result<()> {
    run_blocking(move || {
        let len = file.metadata_blocking()?.len();
        match len <= end {
            true => file.set_len_blocking(len),
            false => Ok(()), // another writer has extended the file
        }
    })
    .await
}

#[derive(Debug, Error)]
#[error(
    "{error}: the file was opened with O_APPEND, so the kernel ignores the offset of every write; open it \
     without `append`, and begin at its end (`with_offset`)"
)]
struct AppendsOnly {
    #[source]
    error: io::Error,
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

/// Resolves to the buffer, for further writes; an empty one if there is none.
impl<M: RawMutex + 'static, A: 'static, L: 'static> Future for InFlight<M, A, L> {
    type Output = Result<AlignedBuf, AioCommandError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let without_buffer = |result: Result<(), AioCommandError>| {
            Poll::Ready(result.map(|()| AlignedBuf::default()))
        };
        match &mut self.write {
            Write::Blocks(write) => {
                let (result, buffer) = ready!(Pin::new(write).poll(cx));
                Poll::Ready(result.map(|_| buffer))
            }
            Write::Edge(write) => without_buffer(ready!(Pin::new(write).poll(cx))),
            #[cfg(feature = "bytes")]
            Write::InPlace(write) => {
                let (result, _memory) = ready!(Pin::new(write).poll(cx));
                without_buffer(result.map(drop))
            }
            Write::Sync(sync) => {
                let (result, _memory) = ready!(Pin::new(sync).poll(cx));
                without_buffer(match result {
                    Ok(0) => Ok(()),
                    Ok(_) => Err(AioCommandError::NonZeroCode),
                    Err(error) => Err(error),
                })
            }
        }
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> AsyncWrite for FileWriter<M, A, L> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(coop::poll_proceed(cx));
        let accepted = ready!(self.get_mut().poll_accept(cx, data));
        budget.made_progress();
        Poll::Ready(accepted)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(coop::poll_proceed(cx));
        let writer = self.get_mut();
        let mut accepted = 0;
        for slice in slices {
            match writer.poll_accept(cx, slice) {
                Poll::Ready(Ok(len)) => {
                    accepted += len;
                    if len < slice.len() {
                        break;
                    }
                }
                // An error is returned again by the next call.
                _ if accepted > 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        budget.made_progress();
        Poll::Ready(Ok(accepted))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_end(cx)
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Drop for FileWriter<M, A, L> {
    fn drop(&mut self) {
        if self.process != Process::current() {
            // An edge write would take the lock of its file, which a thread of the parent may have held.
            mem::forget(mem::take(&mut self.in_flight));
        } else if self.is_unfinished() {
            self.owner.handle().count_unfinished_writer();
        }
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> fmt::Debug for FileWriter<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWriter")
            .field("file", &self.file)
            .field("position", &self.position())
            .field("in_flight", &self.in_flight.len())
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
