//! Reads and writes at any offset, of any length, on plain slices.

use std::future::Future;
use std::io;
use std::ops::Range;

use lock_api::RawMutex;
use tokio::time::{Instant, timeout_at};

use super::File;
use super::range_lock::RangeLockGuard;
use super::unaligned_state::BlockGeometry;
use super::unaligned_write::{LARGEST, PIECE, UnalignedWrite, no_memory};
use crate::error::past_the_largest;
use crate::{AioCommandError, GenericAioContextHandle, ReadFlags, WriteFlags};

/// Any offset, any length, any memory, also with direct I/O.
///
/// Bytes are copied through memory of the file's own, in pieces of at most 1 MiB, so that what is
/// borrowed here is never the kernel's. That copy is made also where everything happens to be aligned:
/// where it is, [`read_at`](File::read_at), [`write_at`](File::write_at) and others do without it, and
/// they cost no more for there being these.
impl File {
    /// Reads at `offset`, as many bytes as `buffer` has; returns how many were read: fewer only where
    /// the file ends. Neither has to be aligned.
    ///
    /// With direct I/O the blocks are read that have these bytes. `flags` are those of each request.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]; `IoSubmit` also for errors of [`alignment`](File::alignment). Of a read
    /// of more than one piece, those before it are in `buffer`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves `buffer` as it was, or some of it read.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, where what the file wants is not known yet.
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
        let (end, aio_handle) = match &limited {
            Some((end, limited)) => (Some(*end), limited),
            None => (None, aio_handle),
        };
        range_of(offset, buffer.len())?;
        let alignment = until(end, async {
            self.alignment().await.map_err(AioCommandError::IoSubmit)
        });
        let alignment = alignment.await?;
        let block = alignment.read_offset.max(alignment.memory as u64);
        let covered = |at: u64, len: usize| {
            let covered = (at % block + len as u64).next_multiple_of(block);
            covered.min(PIECE.next_multiple_of(block))
        };
        let unaligned = self.inner.unaligned();
        let memory = unaligned.memory(covered(offset, buffer.len()) as usize, alignment.memory);
        let mut bounce = memory.map_err(no_memory)?;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let (before, wanted) = (at % block, covered(at, buffer.len() - done));
            let read = self.read_at(aio_handle, at - before, &mut bounce, wanted, flags);
            let read = read.await?;
            let found = read.saturating_sub(before) as usize;
            let found = found.min(buffer.len() - done);
            let bytes = &bounce[before as usize..][..found];
            buffer[done..][..found].copy_from_slice(bytes);
            done += found;
            if read == 0 || read % block != 0 {
                break; // only the end of a file cuts a block
            }
        }
        unaligned.keep(bounce);
        Ok(done as u64)
    }

    /// Writes all of `data` at `offset`. Neither has to be aligned; no byte of the file beside that
    /// range changes, and the file gets no longer than to its end, not for a moment either.
    ///
    /// With direct I/O, a block that `data` covers in part is read, and written back with the change,
    /// together with the whole blocks between. Where the file ends within a block that is not filled,
    /// `data` goes through the page cache there, on tokio's blocking pool. The file is opened once more
    /// for that, without `O_DIRECT`, at the first such write, until it is closed; closing it releases
    /// the process' POSIX record locks on the file, also after [`into_std`](File::into_std). From the page
    /// cache the data is written out at once and mostly dropped (`RWF_DONTCACHE`), where that is known
    /// (Linux 6.14); elsewhere it may stay there until the kernel writes it out. On a file that is open
    /// for writing only, blocks can't be read, and all that is not aligned goes this way. So does all on
    /// a file [without direct I/O](File::is_direct).
    ///
    /// Whichever way it went, it is durable as any write is: after a [`sync_data`](File::sync_data) that was
    /// started when it had completed, or with [`DSYNC`](WriteFlags::DSYNC).
    ///
    /// # Beside other writes
    ///
    /// Writes made with this method through this file and its [clones](File::try_clone), in any context,
    /// that meet in a block take effect one after another, in the order in which they were first polled,
    /// and a later one waits also for one that was dropped in flight, until the kernel is done with it.
    /// Those that don't meet go beside one another.
    ///
    /// A block is what [`alignment`](File::alignment) says, or a page or a block of the file system where
    /// these are larger: 4096 bytes mostly. All others that write there, by [`write_at`](File::write_at),
    /// through another open file or from another process, are yours to keep apart from these: what they
    /// write to the same block meanwhile can be lost. So are those to the block in which the file ended
    /// before it got longer: the rest of that is zeroed, in the page cache. The same holds for
    /// [`set_len`](File::set_len) and [`allocate`](File::allocate).
    ///
    /// # Flags
    ///
    /// They are those of each request that it takes, with these exceptions:
    ///
    /// - [`APPEND`](WriteFlags::APPEND), or a file that was opened with
    ///   [`append`](std::fs::OpenOptions::append): all of `data` goes to the end of the file, whatever
    ///   `offset` and its alignment are, through the page cache. It is alone then: it waits for all such writes to the file
    ///   that came before it, and those after wait for it. More than 1 MiB is appended in several steps,
    ///   between which other open files can append, too.
    /// - [`NOWAIT`](WriteFlags::NOWAIT) is for what is submitted from this task; what goes through the
    ///   page cache does not, and is made without. Where one of its requests is refused, what others
    ///   have written stays.
    /// - [`ATOMIC`](WriteFlags::ATOMIC) wants `offset` and length in whole blocks, and no more than 1 MiB.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. Any of the requests can fail; what was written before that stays, which
    /// is a range from `offset` on, up to any place. A block is as it was, or has its new bytes. Besides:
    ///
    /// - `IoSubmit`: errors of [`alignment`](File::alignment), and of opening the file once more
    ///   (`ENOENT` without `/proc`, `EACCES`, `EMFILE`), with a text that says what to do. `EBADF`: the
    ///   file is not open for writing. `EINVAL`: `data` would end past what a file can have.
    /// - `BadResult`, [`InvalidInput`](io::ErrorKind::InvalidInput): `ATOMIC`, not aligned.
    /// - `TimedOut`: the deadline of the handle is that of the whole, waiting for others included.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for others or reads, nothing is written. Dropped later, the request in
    /// flight goes on, and the rest of several is not made: some of `data` may have been written, from
    /// `offset` on. Writes that came later and meet it wait for that request.
    ///
    /// Others wait for it also while nobody polls it, and, forgotten ([`std::mem::forget`]), for ever.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, where it has to ask the file what it wants, or to open it once more.
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
    /// for line in ["began\n", "went on\n", "ended\n"] {
    ///     log.write_bytes_at(&handle, end, line.as_bytes(), WriteFlags::DSYNC).await?;
    ///     end += line.len() as u64;
    /// }
    /// assert_eq!(std::fs::read_to_string(path)?, "began\nwent on\nended\n");
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
        let (end, aio_handle) = match &limited {
            Some((end, limited)) => (Some(*end), limited),
            None => (None, aio_handle),
        };
        let flags = self.write_flags(flags);
        let offset = match flags.contains(WriteFlags::APPEND) {
            true => 0, // the caller's is ignored
            false => offset,
        };
        let range = range_of(offset, data.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let started = until(end, self.start(&range, flags)).await?;
        let writing = UnalignedWrite {
            file: self,
            aio_handle,
            end,
            geometry: started.geometry,
            flags,
            directly: started.directly,
            guard: Some(started.guard),
        };
        writing.run(range.start, data).await
    }

    /// Waits until a write of `range` has its turn.
    async fn start(
        &self,
        range: &Range<u64>,
        flags: WriteFlags,
    ) -> Result<Started, AioCommandError> {
        let appends = flags.contains(WriteFlags::APPEND);
        let rounded = |block: u64| match appends {
            true => 0..u64::MAX,
            false => floor(range.start, block)..range.end.next_multiple_of(block),
        };
        let unaligned = self.inner.unaligned();
        // First of all, since this is what decides who goes first. As long as the block is not known, by
        // what is a multiple of nearly all.
        let known = unaligned
            .geometry
            .get()
            .map_or(LARGEST, |geometry| geometry.block);
        let mut guard = unaligned.range_lock.lock(rounded(known));
        let geometry = self.geometry().await.map_err(AioCommandError::IoSubmit)?;
        if known % geometry.block != 0 {
            drop(guard);
            guard = unaligned.range_lock.lock(rounded(geometry.block));
        }
        if !geometry.writable {
            let error = io::Error::from_raw_os_error(libc::EBADF);
            return Err(AioCommandError::IoSubmit(error));
        }
        let aligned =
            !appends && range.start % geometry.block == 0 && range.end % geometry.block == 0;
        let len = range.end - range.start;
        if flags.contains(WriteFlags::ATOMIC) && !(aligned && len <= PIECE) {
            return Err(not_atomic(range, geometry.block));
        }
        guard.acquire().await;
        Ok(Started {
            geometry,
            directly: self.is_direct && !appends && (geometry.readable || aligned),
            guard,
        })
    }
}

/// A write whose turn it is.
struct Started {
    geometry: BlockGeometry,
    /// See [`UnalignedWrite::directly`].
    directly: bool,
    guard: RangeLockGuard,
}

/// Ends at `end`, if there is one.
pub(super) async fn until<T>(
    end: Option<Instant>,
    what: impl Future<Output = Result<T, AioCommandError>>,
) -> Result<T, AioCommandError> {
    match end {
        None => what.await,
        Some(end) => match timeout_at(end, what).await {
            Ok(result) => result,
            Err(_) => Err(AioCommandError::TimedOut),
        },
    }
}

/// # Errors
///
/// `IoSubmit`, `EINVAL`: no file has that, with the rest of its last block.
fn range_of(offset: u64, len: usize) -> Result<Range<u64>, AioCommandError> {
    const LARGEST: u64 = i64::MAX as u64 - (1 << 30);
    match offset.checked_add(len as u64) {
        Some(end) if end <= LARGEST => Ok(offset..end),
        _ => Err(past_the_largest(offset, len as u64, LARGEST)),
    }
}

fn floor(at: u64, block: u64) -> u64 {
    at - at % block
}

fn not_atomic(range: &Range<u64>, block: u64) -> AioCommandError {
    let text = format!(
        "{} bytes at offset {} can't be written atomically: that takes offset and length in multiples \
         of {block} bytes, and no more than {PIECE} bytes; File::atomic_writes tells which of these",
        range.end - range.start,
        range.start
    );
    AioCommandError::BadResult(io::Error::new(io::ErrorKind::InvalidInput, text))
}
