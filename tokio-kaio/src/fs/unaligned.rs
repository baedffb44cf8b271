//! Reads and writes of plain byte slices at any offset, of any length.

use std::io;
use std::ops::Range;

use lock_api::RawMutex;

use super::File;
use super::range_lock::RangeLockGuard;
use super::unaligned_state::BlockGeometry;
use super::unaligned_write::{CHUNK_SIZE, MAX_BLOCK_SIZE, UnalignedWrite, no_memory};
use crate::error::beyond_max_offset;
use crate::{AioCommandError, GenericAioContextHandle, ReadFlags, WriteFlags};

/// Transfers of any offset, any length and any memory, also with direct I/O.
///
/// The data is copied through buffers that belong to the file, in chunks of at most 1 MiB, so the kernel
/// never accesses the borrowed slice. The copy is made even if everything happens to be aligned. For
/// aligned data, [`read_at`](File::read_at), [`write_at`](File::write_at) and similar methods make no copy.
impl File {
    /// Reads `buffer.len()` bytes at `offset`. Returns the number of bytes read, which is smaller only at the
    /// end of the file. Neither offset nor length has to be aligned.
    ///
    /// With direct I/O, the blocks that contain these bytes are read. `flags` apply to each request.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `IoSubmit` also contains errors of [`alignment`](File::alignment). If a read
    /// of several chunks fails, `buffer` has the data of the chunks before.
    ///
    /// # Cancel safety
    ///
    /// A dropped read leaves `buffer` as it was, or with some of the data.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the alignment of the file is not known yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("names");
    /// std::fs::write(&path, "Ada, Grace, Barbara")?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut name = [0; 5];
    /// assert_eq!(file.read_bytes_at(&handle, 5, &mut name, ReadFlags::empty()).await?, 5);
    /// assert_eq!(&name, b"Grace");
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_bytes_at<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: &mut [u8],
        flags: ReadFlags,
    ) -> Result<u64, AioCommandError> {
        let limited = aio_handle.limited();
        let (deadline, aio_handle) = aio_handle.or_limited(&limited);
        checked_range(offset, buffer.len())?;
        let alignment = aio_handle.with_time_limit(deadline, async {
            self.alignment().await.map_err(AioCommandError::IoSubmit)
        });
        let alignment = alignment.await?;
        let block = alignment.read_offset.max(alignment.memory as u64);
        let chunk = CHUNK_SIZE.next_multiple_of(block);
        // The length of the blocks that contain `len` bytes at an offset, at most a chunk.
        let read_len =
            |at: u64, len: usize| (at % block + len as u64).next_multiple_of(block).min(chunk);
        let unaligned = self.inner.unaligned();
        let bounce_len = read_len(offset, buffer.len()) as usize;
        let bounce = unaligned.acquire_buffer(bounce_len, alignment.memory);
        let mut bounce = bounce.map_err(no_memory)?;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let before = at % block;
            let len = read_len(at, buffer.len() - done);
            let read = self.read_at(aio_handle, at - before, &mut bounce, len, flags);
            let read = read.await?;
            let found = read.saturating_sub(before) as usize;
            let found = found.min(buffer.len() - done);
            let bytes = &bounce[before as usize..][..found];
            buffer[done..][..found].copy_from_slice(bytes);
            done += found;
            if read == 0 || read % block != 0 {
                break; // a read stops within a block only at the end of the file
            }
        }
        unaligned.recycle_buffer(bounce);
        Ok(done as u64)
    }

    /// Writes all of `data` at `offset`. Neither offset nor length has to be aligned. No other byte of the
    /// file changes, and the file never becomes longer than `offset + data.len()`, not even for a moment.
    ///
    /// With direct I/O, a block that `data` covers in part is read, changed and written back, together with
    /// the whole blocks between. If the file ends within the last block of `data`, that block is written
    /// through the page cache, from tokio's blocking pool. For this, the first such write opens the file
    /// once more, without `O_DIRECT`. This second descriptor is closed with the file. Closing it releases
    /// the process' POSIX record locks on the file, also after [`into_std`](File::into_std). The kernel
    /// writes the data out of the page cache at once and mostly drops it (`RWF_DONTCACHE`) if it knows the
    /// flag (Linux 6.14); otherwise the data may stay in the page cache until the kernel writes it out. A
    /// file that is open only for writing can't read blocks, so all unaligned data goes through the page
    /// cache. On a file [without direct I/O](File::is_direct) all data does.
    ///
    /// On either way, the data is as durable as that of any other write: after a
    /// [`sync_data`](File::sync_data) that was started when the write had completed, or with
    /// [`DSYNC`](WriteFlags::DSYNC).
    ///
    /// # Concurrent writes
    ///
    /// Writes by this method through this file and its [clones](File::try_clone), in any context, are
    /// ordered if they share a block: they take effect one after another, in the order in which they were
    /// first polled. A later write also waits for a write that was dropped in flight, until the kernel is
    /// done with it. Writes that share no block run concurrently.
    ///
    /// The block size is the [`alignment`](File::alignment) of the file, or the size of a page or of a file
    /// system block if that is larger: mostly 4096 bytes.
    ///
    /// You have to keep all other writes to the same block apart from these: by [`write_at`](File::write_at),
    /// through another open file, or from another process. Their data can be lost if they write to the block
    /// at the same time. The same holds for writes to the block in which the file ended before it became
    /// longer, since the kernel zeroes the rest of that block in the page cache; and for
    /// [`set_len`](File::set_len) and [`allocate`](File::allocate).
    ///
    /// # Flags
    ///
    /// `flags` apply to each request, with these exceptions:
    ///
    /// - [`APPEND`](WriteFlags::APPEND), also by default on a file that was opened with
    ///   [`append`](std::fs::OpenOptions::append): all of `data` is written at the end of the file, through
    ///   the page cache. `offset` is ignored, and nothing has to be aligned. An append excludes all other
    ///   writes by this method: it waits for those before it, and those after wait for it. More than 1 MiB
    ///   is appended in several steps, between which other open files can append, too.
    /// - [`NOWAIT`](WriteFlags::NOWAIT) applies to requests that this task submits. Requests through the
    ///   page cache are submitted without it. If one request is refused, the data that other requests of
    ///   the same write have written stays.
    /// - [`ATOMIC`](WriteFlags::ATOMIC) requires that `offset` and length are whole blocks, and that `data`
    ///   is at most 1 MiB.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. Any of the requests can fail. The data written before stays: a range that
    /// starts at `offset` and ends anywhere. Each block has its old content or its new content. Also:
    ///
    /// - `IoSubmit`: errors of [`alignment`](File::alignment), and of opening the file once more
    ///   (`ENOENT` without `/proc`, `EACCES`, `EMFILE`), with a text that says what to do. `EBADF`: the
    ///   file is not open for writing. `EINVAL`: `data` would end past the largest offset of a file.
    /// - `BadResult` of the kind [`InvalidInput`](io::ErrorKind::InvalidInput): `ATOMIC`, but `offset` or
    ///   length is not aligned or `data` is too long.
    /// - `TimedOut`: the deadline of the handle applies to the whole write, including the wait for other
    ///   writes.
    ///
    /// # Cancel safety
    ///
    /// A write that is dropped while it waits for other writes or reads blocks of its first chunk writes
    /// nothing. If it is dropped later, the request in flight continues and no further requests are
    /// submitted: some of `data` may have been written, starting at `offset`. Later writes that share a
    /// block with the request in flight wait for it.
    ///
    /// Later writes wait for a pending write even if nobody polls it. If the write is forgotten
    /// ([`std::mem::forget`]), they wait forever.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the write has to query the alignment of the file or to open it once more.
    ///
    /// # Examples
    ///
    /// A log of lines:
    ///
    /// ```
    /// use tokio_kaio::{AioOpenOptionsExt, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let (context, handle) = aio_context(8, true)?;
    /// let mut options = std::fs::OpenOptions::new();
    /// options.read(true).write(true).create(true);
    /// let log = options.aio_open(path.clone(), false).await?;
    /// let mut end = 0;
    /// for line in ["start\n", "work\n", "stop\n"] {
    ///     log.write_bytes_at(&handle, end, line.as_bytes(), WriteFlags::DSYNC).await?;
    ///     end += line.len() as u64;
    /// }
    /// assert_eq!(std::fs::read_to_string(path)?, "start\nwork\nstop\n");
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_bytes_at<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<(), AioCommandError> {
        let limited = aio_handle.limited();
        let (deadline, aio_handle) = aio_handle.or_limited(&limited);
        let flags = self.write_flags(flags);
        let offset = match flags.contains(WriteFlags::APPEND) {
            true => 0, // an append ignores the caller's offset
            false => offset,
        };
        let range = checked_range(offset, data.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let plan = self.plan_write(&range, flags);
        let plan = aio_handle.with_time_limit(deadline, plan).await?;
        let write = UnalignedWrite {
            file: self,
            aio_handle,
            deadline,
            geometry: plan.geometry,
            flags,
            uses_direct_io: plan.uses_direct_io,
            guard: Some(plan.guard),
        };
        write.run(range.start, data).await
    }

    /// Checks a write of `range` against the geometry of the file, and waits until the write holds its
    /// blocks.
    async fn plan_write(
        &self,
        range: &Range<u64>,
        flags: WriteFlags,
    ) -> Result<WritePlan, AioCommandError> {
        let appends = flags.contains(WriteFlags::APPEND);
        let locked_range = |block: u64| match appends {
            true => 0..u64::MAX,
            false => round_down(range.start, block)..range.end.next_multiple_of(block),
        };
        let unaligned = self.inner.unaligned();
        // The lock comes before any await, since it decides the order of writes. While the block size is
        // not known, the largest one is used, which nearly every block size divides.
        let block = unaligned
            .geometry
            .get()
            .map_or(MAX_BLOCK_SIZE, |geometry| geometry.block);
        let mut guard = unaligned.range_lock.lock(locked_range(block));
        let geometry = self.geometry().await.map_err(AioCommandError::IoSubmit)?;
        if block % geometry.block != 0 {
            drop(guard);
            guard = unaligned.range_lock.lock(locked_range(geometry.block));
        }
        if !geometry.writable {
            let error = io::Error::from_raw_os_error(libc::EBADF);
            return Err(AioCommandError::IoSubmit(error));
        }
        let aligned =
            !appends && range.start % geometry.block == 0 && range.end % geometry.block == 0;
        let len = range.end - range.start;
        if flags.contains(WriteFlags::ATOMIC) && !(aligned && len <= CHUNK_SIZE) {
            return Err(not_atomic(range, geometry.block));
        }
        guard.acquire().await;
        Ok(WritePlan {
            geometry,
            uses_direct_io: self.is_direct && !appends && (geometry.readable || aligned),
            guard,
        })
    }
}

/// How a write is made, with the lock on its blocks.
struct WritePlan {
    geometry: BlockGeometry,
    /// See [`UnalignedWrite::uses_direct_io`].
    uses_direct_io: bool,
    guard: RangeLockGuard,
}

/// Returns the range of `len` bytes at `offset`.
///
/// # Errors
///
/// `IoSubmit`, `EINVAL`: the range, rounded up to whole blocks, would end past the largest file offset.
fn checked_range(offset: u64, len: usize) -> Result<Range<u64>, AioCommandError> {
    const MAX_END: u64 = i64::MAX as u64 - (1 << 30);
    match offset.checked_add(len as u64) {
        Some(end) if end <= MAX_END => Ok(offset..end),
        _ => Err(beyond_max_offset(offset, len as u64, MAX_END)),
    }
}

fn round_down(offset: u64, block: u64) -> u64 {
    offset - offset % block
}

fn not_atomic(range: &Range<u64>, block: u64) -> AioCommandError {
    let text = format!(
        "{} bytes at offset {} can't be written atomically: offset and length must be multiples of \
         {block} bytes, and the length at most {CHUNK_SIZE} bytes; File::atomic_writes returns the sizes \
         that the device supports",
        range.end - range.start,
        range.start
    );
    AioCommandError::BadResult(io::Error::new(io::ErrorKind::InvalidInput, text))
}
