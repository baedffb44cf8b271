//! [`FileWriter`]: writes a file from one end to the other, behind its caller.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use intrusive_collections::linked_list::AtomicLink;
use lock_api::RawMutex;
use tokio::io::AsyncWrite;
use tokio::task::coop;

use super::File;
use super::read_plan::MAX_CHUNK;
use super::write_behind::{Allocation, Setup, WriteBehind};
use crate::sys::Process;
use crate::{GenericAioContextHandle, SyncRequestAdapter};

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
/// [`StreamError`](crate::StreamError), which says which write has failed first:
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
    pub(super) state: WriteBehind<M, A, L>,
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
        FileWriter {
            state: WriteBehind::new(self.clone(), aio_handle.clone()),
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
        self.state.next = offset;
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
        self.state.chunk = (bytes as u64).clamp(1, MAX_CHUNK);
        self
    }

    /// Sets how many chunks are in flight or being filled, 4 by default, at least 1. With 1, the caller waits
    /// for each write. The writer uses at most *depth* × *chunk size* bytes of memory, 4 MiB by default, from
    /// the pool of the handle ([`with_buffers`](GenericAioContextHandle::with_buffers)).
    ///
    /// On a context whose requests do not wait for slots
    /// ([`wait_for_slot`](crate::AioContextBuilder::wait_for_slot)), the depth is at most the number of slots.
    /// If others take slots there too, a write can fail with [`ResourceBusy`](io::ErrorKind::ResourceBusy).
    #[must_use = "the writer is moved into the result"]
    pub fn with_depth(mut self, chunks: usize) -> Self {
        self.state.depth = chunks.max(1);
        self
    }

    /// Allocates this number of bytes ahead, from the offset of the writer on, before the first write
    /// ([`Allocate::KeepSize`](crate::Allocate::KeepSize)). So the blocks are contiguous, and a full disk is noticed before the first
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
        self.state.allocation = match len {
            0 => Allocation::None,
            len => Allocation::Until(len), // added to the offset by the setup
        };
        self
    }

    /// Returns the offset in the file of the byte that is accepted next: the offset of the writer plus the
    /// number of bytes accepted.
    pub fn position(&self) -> u64 {
        self.state.position()
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.state.file
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
        poll_fn(|cx| self.state.poll_flush_all(cx)).await
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
        self.state.start_sync();
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
        poll_fn(|cx| self.state.poll_end(cx)).await?;
        Ok(self.state.next)
    }

    fn assert_unused(&self, method: &str) {
        assert!(
            matches!(self.state.setup, Setup::Due),
            "`{method}` was called after the first write"
        );
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> AsyncWrite for FileWriter<M, A, L> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(coop::poll_proceed(cx));
        let accepted = ready!(self.get_mut().state.poll_accept(cx, data));
        budget.made_progress();
        Poll::Ready(accepted)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(coop::poll_proceed(cx));
        let state = &mut self.get_mut().state;
        let mut accepted = 0;
        for slice in slices {
            match state.poll_accept(cx, slice) {
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
        self.get_mut().state.poll_flush_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().state.poll_end(cx)
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Drop for FileWriter<M, A, L> {
    fn drop(&mut self) {
        if self.state.process != Process::current() {
            // An edge write would take the lock of its file, which a thread of the parent may have held.
            mem::forget(mem::take(&mut self.state.in_flight));
        } else if self.state.is_unfinished() {
            self.state.owner.handle().count_unfinished_writer();
        }
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> fmt::Debug for FileWriter<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWriter")
            .field("file", &self.state.file)
            .field("position", &self.position())
            .field("in_flight", &self.state.in_flight.len())
            .field("depth", &self.state.depth)
            .finish_non_exhaustive()
    }
}
