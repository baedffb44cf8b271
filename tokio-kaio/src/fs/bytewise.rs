//! What a write is made of that need not be aligned.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;
use tokio::time::Instant;

use super::File;
use super::bytes::until;
use super::file::off_runtime;
use super::owned::run_on;
use crate::command::order;
use crate::context::Extent;
use crate::request::{Bounce, Bytewise, Grain, Loan, OpenFile, Place};
use crate::sys::abi::IOCB_CMD_PWRITE;
use crate::sys::{self, page_size};
use crate::{
    AioCommandError, AlignedBuf, AlignmentSource, GenericAioContextHandle, IntrusiveAdapter,
    LockedBufError, ReadFlags, WriteFlags,
};

/// Bytes that go at a time: the memory that a transfer takes, however long it is.
pub(super) const PIECE: u64 = 1 << 20;

/// Blocks of a file system are no larger.
pub(super) const LARGEST: u64 = 64 << 10;

/// Up to so many bytes, both ends of a write are read with all between them. To read more takes
/// longer than to read twice.
const TOGETHER: u64 = 16 << 10;

/// A write under way.
pub(super) struct Writing<'a, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    pub(super) file: &'a File,
    /// Its operations end at `end`.
    pub(super) aio_handle: &'a GenericAioContextHandle<M, A, L>,
    pub(super) end: Option<Instant>,
    pub(super) grain: Grain,
    pub(super) flags: WriteFlags,
    /// `false`: all of it goes through the page cache.
    pub(super) directly: bool,
    /// `None`: the kernel has it, with a write that is no longer waited for.
    pub(super) place: Option<Place>,
}

impl<'a, M, A, L> Writing<'a, M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    pub(super) async fn run(mut self, offset: u64, data: &[u8]) -> Result<(), AioCommandError> {
        let end = offset + data.len() as u64;
        let piece = PIECE.next_multiple_of(self.grain.block);
        // For the first piece, which is the longest.
        let covered = end.next_multiple_of(self.grain.block) - self.floor(offset);
        let bytewise = self.bytewise();
        let memory = bytewise.memory(covered.min(piece) as usize, self.grain.memory);
        let mut buffer = memory.map_err(no_memory)?;
        let mut at = offset;
        while at < end {
            let stop = (self.floor(at) + piece).min(end);
            let bytes = &data[(at - offset) as usize..(stop - offset) as usize];
            buffer = self.write(at..stop, bytes, buffer).await?;
            at = stop;
        }
        bytewise.keep(buffer);
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
            let file = &file.inner;
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
                self.bytewise().reaches(rest.end);
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
        let block = self.grain.block;
        let (start, last) = (self.floor(range.start), self.floor(range.end));
        let covered = range.end.next_multiple_of(block);
        let (head, tail) = (range.start != start, range.end != last);
        let before_last = match range.start.next_multiple_of(block) < last {
            true => last,
            false => start,
        };
        let mut ends_in_last = tail && self.bytewise().goes_on(range, block);
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
            if read == 0 || read % self.grain.block != 0 {
                break; // only the end of a file cuts a block
            }
        }
        buffer[within(at)..within(range.end)].fill(0);
        if at < range.end {
            self.bytewise().ended_at(at);
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
        let drops = self.file.is_direct && self.bytewise().may_not_stay();
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
            self.bytewise().stays();
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
        let order = match order(IOCB_CMD_PWRITE, flags.bits(), offset, 0) {
            Ok(order) => order,
            Err(error) => return (Err(error), buffer),
        };
        let bounce = Bounce {
            buffer,
            range,
            place: self.place.take(),
        };
        let (payload, loan) = Loan::write(order, bounce);
        let (result, memory) = run_on(file, self.aio_handle, payload, Extent::Exact).await;
        let Bounce { buffer, place, .. } = loan.end(memory);
        self.place = place;
        (result.map(drop), buffer)
    }

    fn bytewise(&self) -> &'a Bytewise {
        let file: &'a File = self.file;
        file.inner.bytewise()
    }

    /// Where the memory begins of a piece that begins at `at`.
    fn floor(&self, at: u64) -> u64 {
        match self.directly {
            true => at - at % self.grain.block,
            false => at,
        }
    }
}

impl File {
    /// What such transfers go by.
    pub(super) async fn grain(&self) -> io::Result<Grain> {
        if let Some(grain) = self.inner.bytewise().grain.get() {
            return Ok(*grain);
        }
        let alignment = self.alignment().await?;
        let file = Arc::clone(&self.inner);
        off_runtime(move || {
            let access = sys::status_flags(file.as_raw_fd())? & libc::O_ACCMODE;
            // Network file systems tell more than that; it is what they like best.
            let preferred = file.file().metadata()?.blksize().min(LARGEST);
            let cached = preferred.max(page_size() as u64);
            let wanted = alignment.offset.max(alignment.memory as u64);
            let grain = Grain {
                block: cached.next_multiple_of(wanted),
                memory: alignment.memory,
                readable: access != libc::O_WRONLY,
                writable: access != libc::O_RDONLY,
            };
            // One that can't be read will not tell more later.
            if alignment.source != AlignmentSource::Assumed || !grain.readable {
                let _ = file.bytewise().grain.set(grain); // or somebody else has, to the same
            }
            Ok(grain)
        })
        .await
    }
}

pub(super) fn no_memory(error: LockedBufError) -> AioCommandError {
    let (LockedBufError::MapAnon(error) | LockedBufError::MemLock(error)) = error;
    AioCommandError::IoSubmit(error)
}
