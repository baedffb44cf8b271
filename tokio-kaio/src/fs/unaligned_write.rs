//! [`UnalignedWrite`]: a write of any offset and length, made of aligned reads and writes.

use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use lock_api::RawMutex;
use tokio::time::Instant;

use super::File;
use super::owned_transfer::run_request;
use super::range_lock::RangeLockGuard;
use super::unaligned_state::{BlockGeometry, BounceBuffer, UnalignedState};
use crate::backend::OpCode;
use crate::command::io_op;
use crate::context::TransferMode;
use crate::op::{OpenFile, OwnedBuffer};
use crate::sys::page_size;
use crate::{
    AioCommandError, AlignedBuf, AlignmentSource, GenericAioContextHandle, LockedBufError,
    ReadFlags, WriteFlags,
};

/// Bytes that are transferred in one step. Limits the memory of a transfer of any length.
pub(super) const CHUNK_SIZE: u64 = 1 << 20;

/// The largest block size of a file system in bytes.
pub(super) const MAX_BLOCK_SIZE: u64 = 64 << 10;

/// The longest write, in bytes, for which the first and the last block are read with one request, together
/// with the blocks between. Above this, two short reads are faster.
const MAX_SINGLE_READ: u64 = 16 << 10;

/// An unaligned write in progress.
pub(super) struct UnalignedWrite<'a, M: RawMutex, A, L> {
    pub(super) file: &'a File,
    /// A handle whose operations have this deadline.
    pub(super) aio_handle: &'a GenericAioContextHandle<M, A, L>,
    pub(super) deadline: Option<Instant>,
    pub(super) geometry: BlockGeometry,
    pub(super) flags: WriteFlags,
    /// `false`: all data goes through the page cache.
    pub(super) uses_direct_io: bool,
    /// `None` while a request has the guard. Stays `None` if the kernel keeps the request past the deadline.
    pub(super) guard: Option<RangeLockGuard>,
}

impl<'a, M: RawMutex, A, L> UnalignedWrite<'a, M, A, L> {
    pub(super) async fn run(mut self, offset: u64, data: &[u8]) -> Result<(), AioCommandError> {
        let end = offset + data.len() as u64;
        let chunk = CHUNK_SIZE.next_multiple_of(self.geometry.block);
        // The first chunk needs the most memory.
        let blocks_len = end.next_multiple_of(self.geometry.block) - self.buffer_start(offset);
        let unaligned = self.unaligned();
        let buffer_len = blocks_len.min(chunk) as usize;
        let buffer = unaligned.acquire_buffer(buffer_len, self.geometry.memory_alignment);
        let mut buffer = buffer.map_err(no_memory)?;
        let mut at = offset;
        while at < end {
            let chunk_end = (self.buffer_start(at) + chunk).min(end);
            let bytes = &data[(at - offset) as usize..(chunk_end - offset) as usize];
            buffer = self.write_chunk(at..chunk_end, bytes, buffer).await?;
            at = chunk_end;
        }
        unaligned.recycle_buffer(buffer);
        Ok(())
    }

    /// Writes `data` to `range` of the file. `buffer` has room for the blocks of the range.
    async fn write_chunk(
        &mut self,
        range: Range<u64>,
        data: &[u8],
        mut buffer: AlignedBuf,
    ) -> Result<AlignedBuf, AioCommandError> {
        let start = self.buffer_start(range.start);
        let index = |offset: u64| (offset - start) as usize;
        let end_of_direct = match self.uses_direct_io {
            true => self.read_edges(&range, &mut buffer).await?,
            false => start,
        };
        buffer[index(range.start)..index(range.end)].copy_from_slice(data);
        if end_of_direct > start {
            let (file, flags): (&'a File, _) = (self.file, self.flags);
            let file = &file.inner.open;
            let bytes = 0..index(end_of_direct);
            let (result, returned) = self.write_bytes(file, start, buffer, bytes, flags).await;
            result?;
            buffer = returned;
        }
        let rest = end_of_direct.max(range.start)..range.end;
        if !rest.is_empty() {
            let bytes = index(rest.start)..index(rest.end);
            buffer = self.write_page_cached(rest.start, buffer, bytes).await?;
            if self.uses_direct_io {
                self.unaligned().raise_known_end(rest.end);
            }
        }
        Ok(buffer)
    }

    /// Reads the first and the last block of `range`, if `range` covers them in part. Returns the end of
    /// the direct write: the end of the last block, or its start if the file ends within it. The rest goes
    /// through the page cache. Returns the start of the first block if all of `range` goes that way.
    async fn read_edges(
        &self,
        range: &Range<u64>,
        buffer: &mut AlignedBuf,
    ) -> Result<u64, AioCommandError> {
        let block = self.geometry.block;
        let (start, last_block) = (self.buffer_start(range.start), self.buffer_start(range.end));
        let blocks_end = range.end.next_multiple_of(block);
        let (has_head, has_tail) = (range.start != start, range.end != last_block);
        // If no whole block lies before the last one, a direct write is not worth it.
        let end_without_tail = match range.start.next_multiple_of(block) < last_block {
            true => last_block,
            false => start,
        };
        let mut ends_in_tail = has_tail && self.unaligned().continues_at_end(range, block);
        if ends_in_tail && end_without_tail == start {
            return Ok(start);
        }
        let blocks_len = blocks_end - start;
        if has_tail && !ends_in_tail && blocks_len <= MAX_SINGLE_READ.max(block) {
            ends_in_tail = !self.read_blocks(start, buffer, start..blocks_end).await?;
        } else {
            if has_head {
                self.read_blocks(start, buffer, start..start + block)
                    .await?;
            }
            if has_tail && !ends_in_tail {
                let tail = last_block..blocks_end;
                ends_in_tail = !self.read_blocks(start, buffer, tail).await?;
            }
        }
        Ok(match ends_in_tail {
            true => end_without_tail,
            false => blocks_end,
        })
    }

    /// Reads the blocks of `range` to `buffer`, which starts at the file offset `start`. Zeroes the bytes
    /// past the end of the file. Returns whether the file has all bytes of the range.
    async fn read_blocks(
        &self,
        start: u64,
        buffer: &mut AlignedBuf,
        range: Range<u64>,
    ) -> Result<bool, AioCommandError> {
        let flags = match self.flags.contains(WriteFlags::NOWAIT) {
            true => ReadFlags::NOWAIT,
            false => ReadFlags::empty(),
        };
        let index = |offset: u64| (offset - start) as usize;
        let mut at = range.start;
        while at < range.end {
            let parts = &mut [buffer.part_mut(index(at)..index(range.end))];
            let read = self
                .file
                .read_vectored_at(self.aio_handle, at, parts, flags);
            let read = read.await?;
            at += read;
            if read == 0 || read % self.geometry.block != 0 {
                break; // a read stops within a block only at the end of the file
            }
        }
        buffer[index(at)..index(range.end)].fill(0);
        if at < range.end {
            self.unaligned().set_known_end(at);
        }
        Ok(at == range.end)
    }

    /// Writes `bytes` of `buffer` at `offset` through the page cache.
    async fn write_page_cached(
        &mut self,
        offset: u64,
        mut buffer: AlignedBuf,
        bytes: Range<usize>,
    ) -> Result<AlignedBuf, AioCommandError> {
        let opened = self.aio_handle.with_time_limit(self.deadline, async {
            let opened = self.file.page_cache_file().await;
            opened.map_err(AioCommandError::IoSubmit)
        });
        let file = &opened.await?;
        // The blocking pool submits the request, and may wait.
        let flags = self.flags - WriteFlags::NOWAIT;
        let tries_dontcache = self.file.is_direct
            && self.unaligned().may_use_dontcache()
            && !flags.contains(WriteFlags::DONTCACHE);
        if tries_dontcache {
            let flags = flags | WriteFlags::DONTCACHE;
            let (result, returned) = self
                .write_bytes(file, offset, buffer, bytes.clone(), flags)
                .await;
            match result {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                result => return result.map(|()| returned),
            }
            buffer = returned;
        }
        let (result, returned) = self.write_bytes(file, offset, buffer, bytes, flags).await;
        result?;
        // The same write succeeds without the flag, so the flag was the reason of the refusal.
        if tries_dontcache {
            self.unaligned().set_dontcache_refused();
        }
        Ok(returned)
    }

    /// Writes all `bytes` of `buffer` at `offset`. The request owns the buffer and the lock guard. Both
    /// come back, except when the kernel keeps the request: then the buffer that comes back is empty.
    async fn write_bytes(
        &mut self,
        file: &Arc<OpenFile>,
        offset: u64,
        buffer: AlignedBuf,
        bytes: Range<usize>,
        flags: WriteFlags,
    ) -> (Result<(), AioCommandError>, AlignedBuf) {
        let op = match io_op(OpCode::Write, flags.bits(), offset, 0) {
            Ok(op) => op,
            Err(error) => return (Err(error), buffer),
        };
        let bounce = BounceBuffer {
            buffer,
            range: bytes,
            guard: self.guard.take(),
        };
        let (request, owned) = OwnedBuffer::write(op, bounce);
        let (result, memory) =
            run_request(file, self.aio_handle, request, TransferMode::Exact).await;
        let BounceBuffer { buffer, guard, .. } = owned.finish(memory);
        self.guard = guard;
        (result.map(drop), buffer)
    }

    fn unaligned(&self) -> &'a UnalignedState {
        let file: &'a File = self.file;
        file.inner.unaligned()
    }

    /// The file offset of the first byte in the buffer for a chunk at `offset`: the start of its block if
    /// blocks are written, else `offset` itself.
    fn buffer_start(&self, offset: u64) -> u64 {
        match self.uses_direct_io {
            true => offset - offset % self.geometry.block,
            false => offset,
        }
    }
}

impl File {
    /// Returns the geometry for unaligned writes to this file.
    pub(super) async fn geometry(&self) -> io::Result<BlockGeometry> {
        if let Some(geometry) = self.inner.unaligned().geometry.get() {
            return Ok(*geometry);
        }
        let alignment = self.alignment().await?;
        let facts = &self.inner.facts;
        // Network file systems report their preferred transfer size here, which may be larger.
        let preferred = facts.metadata.blksize().min(MAX_BLOCK_SIZE);
        let page_cache_unit = preferred.max(page_size() as u64);
        let required = alignment.offset.max(alignment.memory as u64);
        let geometry = BlockGeometry {
            block: page_cache_unit.next_multiple_of(required),
            memory_alignment: alignment.memory,
            readable: facts.is_readable(),
            writable: facts.is_writable(),
        };
        // An assumed alignment may be replaced by a probed one later. A file that is not readable can't be
        // probed later either.
        if alignment.source != AlignmentSource::Assumed || !geometry.readable {
            let _ = self.inner.unaligned().geometry.set(geometry); // others set the same value
        }
        Ok(geometry)
    }
}

/// The error for a bounce buffer that can't be allocated.
pub(super) fn no_memory(error: LockedBufError) -> AioCommandError {
    let (LockedBufError::MapAnon(error) | LockedBufError::MemLock(error)) = error;
    AioCommandError::IoSubmit(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_callers_dontcache_flag_that_works_is_not_recorded_as_refused() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let file = match File::from_std(tempfile::tempfile_in(&dir).unwrap()) {
            Ok(file) => file,
            Err(error) => return eprintln!("skipped: no direct I/O here: {error}"),
        };
        let (context, handle) = crate::aio_context(2, true).unwrap();
        // Fills no block, so it goes through the page cache.
        let flags = WriteFlags::DONTCACHE;
        match file.write_bytes_at(&handle, 0, b"hello", flags).await {
            Ok(()) => assert!(file.inner.unaligned().may_use_dontcache()),
            Err(error) => eprintln!("skipped: no RWF_DONTCACHE here: {error}"),
        }
        context.close().await;
    }
}
