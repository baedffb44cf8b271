//! What a write is made of that need not be aligned.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use lock_api::RawMutex;
use tokio::time::Instant;

use super::File;
use super::file::run_blocking;
use super::owned_transfer::run_on;
use super::range_lock::RangeLockGuard;
use super::unaligned::until;
use super::unaligned_state::{BlockGeometry, BounceBuffer, UnalignedState};
use crate::backend::OpCode;
use crate::command::io_op;
use crate::context::TransferMode;
use crate::op::{OpenFile, OwnedBuffer};
use crate::sys::{self, page_size};
use crate::{
    AioCommandError, AlignedBuf, AlignmentSource, GenericAioContextHandle, LockedBufError,
    ReadFlags, WriteFlags,
};

/// Bytes that go at a time: the memory that a transfer takes, however long it is.
pub(super) const PIECE: u64 = 1 << 20;

/// Blocks of a file system are no larger.
pub(super) const LARGEST: u64 = 64 << 10;

/// Up to so many bytes, both ends of a write are read with all between them. To read more takes
/// longer than to read twice.
const TOGETHER: u64 = 16 << 10;

/// A write under way.
pub(super) struct UnalignedWrite<'a, M: RawMutex, A, L> {
    pub(super) file: &'a File,
    /// Its operations end at `end`.
    pub(super) aio_handle: &'a GenericAioContextHandle<M, A, L>,
    pub(super) end: Option<Instant>,
    pub(super) geometry: BlockGeometry,
    pub(super) flags: WriteFlags,
    /// `false`: all of it goes through the page cache.
    pub(super) directly: bool,
    /// `None`: the kernel has it, with a write that is no longer waited for.
    pub(super) guard: Option<RangeLockGuard>,
}

impl<'a, M: RawMutex, A, L> UnalignedWrite<'a, M, A, L> {
    pub(super) async fn run(mut self, offset: u64, data: &[u8]) -> Result<(), AioCommandError> {
        let end = offset + data.len() as u64;
        let piece = PIECE.next_multiple_of(self.geometry.block);
        // For the first piece, which is the longest.
        let covered = end.next_multiple_of(self.geometry.block) - self.floor(offset);
        let unaligned = self.unaligned();
        let memory = unaligned.memory(covered.min(piece) as usize, self.geometry.memory);
        let mut buffer = memory.map_err(no_memory)?;
        let mut at = offset;
        while at < end {
            let stop = (self.floor(at) + piece).min(end);
            let bytes = &data[(at - offset) as usize..(stop - offset) as usize];
            buffer = self.write(at..stop, bytes, buffer).await?;
            at = stop;
        }
        unaligned.keep(buffer);
        Ok(())
    }

    /// Writes `data` to `range`, from `buffer`, which has room for its blocks.
    async fn write(
        &mut self,
        range: Range<u64>,
        data: &[u8],
        mut buffer: AlignedBuf,
    ) -> Result<AlignedBuf, AioCommandError> {
        let start = self.floor(range.start);
        let within = |at: u64| (at - start) as usize;
        let end_of_direct = match self.directly {
            true => self.read_edges(&range, &mut buffer).await?,
            false => start,
        };
        buffer[within(range.start)..within(range.end)].copy_from_slice(data);
        if end_of_direct > start {
            let direct = start..end_of_direct;
            let (file, flags): (&'a File, _) = (self.file, self.flags);
            let file = &file.inner.open;
            let bytes = 0..within(direct.end);
            let (result, returned) = self.send(file, direct.start, buffer, bytes, flags).await;
            result?;
            buffer = returned;
        }
        let rest = end_of_direct.max(range.start)..range.end;
        if !rest.is_empty() {
            let bytes = within(rest.start)..within(rest.end);
            buffer = self.send_cached(rest.start, buffer, bytes).await?;
            if self.directly {
                self.unaligned().reaches(rest.end);
            }
        }
        Ok(buffer)
    }

    /// Reads what is in the first and last block of `range` beside it. Returns up to where whole
    /// blocks may be written: behind the last one, or before it, where the file ends within that. The
    /// start of the first one: there is nothing worth it.
    async fn read_edges(
        &self,
        range: &Range<u64>,
        buffer: &mut AlignedBuf,
    ) -> Result<u64, AioCommandError> {
        let block = self.geometry.block;
        let (start, last) = (self.floor(range.start), self.floor(range.end));
        let covered = range.end.next_multiple_of(block);
        let (head, tail) = (range.start != start, range.end != last);
        let before_last = match range.start.next_multiple_of(block) < last {
            true => last,
            false => start,
        };
        let mut ends_in_last = tail && self.unaligned().goes_on(range, block);
        if ends_in_last && before_last == start {
            return Ok(start);
        }
        if tail && !ends_in_last && covered - start <= TOGETHER.max(block) {
            ends_in_last = !self.read(start, buffer, start..covered).await?;
        } else {
            if head {
                self.read(start, buffer, start..start + block).await?;
            }
            if tail && !ends_in_last {
                ends_in_last = !self.read(start, buffer, last..covered).await?;
            }
        }
        Ok(if ends_in_last { before_last } else { covered })
    }

    /// Reads the blocks of `range` to `buffer`, which is that of those from `start` on. Returns whether
    /// the file has all of it; what it has not is zeroed.
    async fn read(
        &self,
        start: u64,
        buffer: &mut AlignedBuf,
        range: Range<u64>,
    ) -> Result<bool, AioCommandError> {
        let nowait = self.flags.contains(WriteFlags::NOWAIT);
        let flags = match nowait {
            true => ReadFlags::NOWAIT,
            false => ReadFlags::empty(),
        };
        let within = |at: u64| (at - start) as usize;
        let mut at = range.start;
        while at < range.end {
            let parts = &mut [buffer.part_mut(within(at)..within(range.end))];
            let read = self
                .file
                .read_vectored_at(self.aio_handle, at, parts, flags);
            let read = read.await?;
            at += read;
            if read == 0 || read % self.geometry.block != 0 {
                break; // only the end of a file cuts a block
            }
        }
        buffer[within(at)..within(range.end)].fill(0);
        if at < range.end {
            self.unaligned().ended_at(at);
        }
        Ok(at == range.end)
    }

    /// Writes a part of `buffer` at `offset`, through the page cache.
    async fn send_cached(
        &mut self,
        offset: u64,
        mut buffer: AlignedBuf,
        part: Range<usize>,
    ) -> Result<AlignedBuf, AioCommandError> {
        let opened = until(self.end, async {
            let opened = self.file.page_cached().await;
            opened.map_err(AioCommandError::IoSubmit)
        });
        let file = &opened.await?;
        // It goes from the pool, where waiting is no matter.
        let flags = self.flags - WriteFlags::NOWAIT;
        let drops = self.file.is_direct && self.unaligned().may_not_stay();
        if drops && !flags.contains(WriteFlags::DONTCACHE) {
            let flags = flags | WriteFlags::DONTCACHE;
            let (result, returned) = self.send(file, offset, buffer, part.clone(), flags).await;
            match result {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                result => return result.map(|()| returned),
            }
            buffer = returned;
        }
        let (result, returned) = self.send(file, offset, buffer, part, flags).await;
        result?;
        if drops {
            self.unaligned().stays();
        }
        Ok(returned)
    }

    /// Writes a part of `buffer` at `offset`, all of it. Memory and place in line are the request's
    /// meanwhile, and come back, unless the kernel keeps them.
    async fn send(
        &mut self,
        file: &Arc<OpenFile>,
        offset: u64,
        buffer: AlignedBuf,
        range: Range<usize>,
        flags: WriteFlags,
    ) -> (Result<(), AioCommandError>, AlignedBuf) {
        let op = match io_op(OpCode::Write, flags.bits(), offset, 0) {
            Ok(op) => op,
            Err(error) => return (Err(error), buffer),
        };
        let bounce = BounceBuffer {
            buffer,
            range,
            guard: self.guard.take(),
        };
        let (request, owned) = OwnedBuffer::write(op, bounce);
        let (result, memory) = run_on(file, self.aio_handle, request, TransferMode::Exact).await;
        let BounceBuffer { buffer, guard, .. } = owned.finish(memory);
        self.guard = guard;
        (result.map(drop), buffer)
    }

    fn unaligned(&self) -> &'a UnalignedState {
        let file: &'a File = self.file;
        file.inner.unaligned()
    }

    /// Where the memory begins of a piece that begins at `at`.
    fn floor(&self, at: u64) -> u64 {
        match self.directly {
            true => at - at % self.geometry.block,
            false => at,
        }
    }
}

impl File {
    /// What such transfers go by.
    pub(super) async fn geometry(&self) -> io::Result<BlockGeometry> {
        if let Some(geometry) = self.inner.unaligned().geometry.get() {
            return Ok(*geometry);
        }
        let alignment = self.alignment().await?;
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            let access = sys::status_flags(file.as_raw_fd())? & libc::O_ACCMODE;
            // Network file systems tell more than that; it is what they like best.
            let preferred = file.file().metadata()?.blksize().min(LARGEST);
            let cached = preferred.max(page_size() as u64);
            let wanted = alignment.offset.max(alignment.memory as u64);
            let geometry = BlockGeometry {
                block: cached.next_multiple_of(wanted),
                memory: alignment.memory,
                readable: access != libc::O_WRONLY,
                writable: access != libc::O_RDONLY,
            };
            // One that can't be read will not tell more later.
            if alignment.source != AlignmentSource::Assumed || !geometry.readable {
                let _ = file.unaligned().geometry.set(geometry); // or somebody else has, to the same
            }
            Ok(geometry)
        })
        .await
    }
}

pub(super) fn no_memory(error: LockedBufError) -> AioCommandError {
    let (LockedBufError::MapAnon(error) | LockedBufError::MemLock(error)) = error;
    AioCommandError::IoSubmit(error)
}
