//! Copies the data of one file.

use std::cell::{Cell, RefCell};

use tokio_kaio::{
    Advice, AioCommandError, AioContextHandle, AlignedBuf, Allocate, File, ReadFlags, SyncRange,
    WriteFlags,
};
use xxhash_rust::xxh3::xxh3_64;

use super::block_io::BlockIo;
use super::copy_error::CopyError;
use super::copy_until_eof;
use super::cp_args::{PAGE, Sparse};
use super::extents::{self, Extent};
use super::source_file::SourceFile;
use super::target_file::TargetFile;
use super::verify::ChunkChecksum;
use super::{blocking, zero_blocks};

/// What was copied of a file.
#[derive(Debug, Default)]
pub(super) struct CopiedData {
    /// The length of the copy.
    pub(super) length: u64,
    /// Bytes that were written; the rest are holes, or shared with the source.
    pub(super) written: u64,
    /// Bytes that are shared with the source.
    pub(super) shared: u64,
    /// The checksums for `--verify`.
    pub(super) checks: Vec<ChunkChecksum>,
}

/// Why copying in chunks stopped.
#[derive(Debug)]
enum StopReason {
    CopyError(CopyError),
    /// A read reached the end of the file before its length.
    EndOfFile,
    /// The kernel has no AIO for the source, such as some files of procfs.
    NoAio,
}

impl From<CopyError> for StopReason {
    fn from(copy_error: CopyError) -> StopReason {
        StopReason::CopyError(copy_error)
    }
}

/// Copies all data, and sets the length of the target.
pub(super) async fn copy_data(
    io: &BlockIo<'_>,
    source: &SourceFile,
    target: &TargetFile,
    sparse: Sparse,
) -> Result<CopiedData, CopyError> {
    // Files that are generated when they are read report length 0.
    let stop = match source.length {
        0 => StopReason::EndOfFile,
        _ => match copy_in_chunks(io, source, target, sparse).await {
            Ok(moved) => return Ok(moved),
            Err(stop) => stop,
        },
    };
    if let StopReason::CopyError(copy_error) = stop {
        return Err(copy_error);
    }
    if source.length > 0 {
        source.refuse_shorter().await?;
    }
    copy_until_eof::copy_until_eof(io, source, target).await
}

async fn copy_in_chunks(
    io: &BlockIo<'_>,
    source: &SourceFile,
    target: &TargetFile,
    sparse: Sparse,
) -> Result<CopiedData, StopReason> {
    let length = source.length;
    let data = match sparse {
        Sparse::Never => vec![0..length],
        Sparse::Auto | Sparse::Always => data_extents(source).await?,
    };
    let alignment = source.alignment.max(target.alignment).max(PAGE);
    let size = io.chunk_size(alignment)?;
    let data = extents::aligned_outwards(&data, alignment);
    // A file of one chunk is extended by its only write.
    if !target.is_device() && length > size {
        preallocate(target, length, &data, sparse).await?;
    }
    let copy = FileCopy {
        io,
        source,
        target,
        sparse,
        written: Cell::new(0),
        checks: RefCell::new(Vec::new()),
    };
    let count = data
        .iter()
        .map(|extent| (extent.end - extent.start).div_ceil(size) + 1);
    let count = usize::try_from(count.sum::<u64>()).unwrap_or(usize::MAX);
    let chunks = extents::chunks(&data, size).map(|chunk| chunk.start..chunk.end.min(length));
    let each = async |chunk: Extent, buffer: &mut AlignedBuf| copy.chunk(chunk, buffer).await;
    io.buffers.for_each(chunks, count, each).await?;
    set_final_length(target, length).await?;
    Ok(CopiedData {
        length,
        written: copy.written.get(),
        shared: 0,
        checks: copy.checks.into_inner(),
    })
}

async fn data_extents(source: &SourceFile) -> Result<Vec<Extent>, CopyError> {
    let failed = |error| CopyError::of("find the holes of", &source.path, &error);
    if !source.metadata.is_file() {
        return Ok(vec![0..source.length]);
    }
    let file = source.file.try_clone().map_err(failed)?;
    let length = source.length;
    let data = blocking(move || extents::data(&file, length)).await;
    data.map_err(failed)
}

/// Extends the target to its full length and allocates its blocks: writes that neither extend a file nor
/// allocate blocks are asynchronous.
async fn preallocate(
    target: &TargetFile,
    length: u64,
    data: &[Extent],
    sparse: Sparse,
) -> Result<(), CopyError> {
    let failed = |error| CopyError::of("allocate space for", &target.path, &error);
    let padded = length.next_multiple_of(target.alignment);
    target.file.set_len(padded).await.map_err(failed)?;
    if sparse == Sparse::Always {
        return Ok(()); // the holes are not known yet
    }
    for extent in data {
        let bytes = extent.end.min(padded) - extent.start;
        let allocated = target.file.allocate(Allocate::Extend, extent.start, bytes);
        match allocated.await {
            Ok(()) => {}
            Err(error) if is_out_of_space(&error) => return Err(failed(error)),
            Err(_) => break, // preallocation is optional
        }
    }
    Ok(())
}

fn is_out_of_space(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Truncates the target to `length`: the last block was written in full.
pub(super) async fn set_final_length(target: &TargetFile, length: u64) -> Result<(), CopyError> {
    if target.is_device() {
        return Ok(());
    }
    let failed = |error| CopyError::of("set the length of", &target.path, &error);
    let now = target.file.metadata().await.map_err(failed)?.len();
    match now == length {
        true => Ok(()),
        false => target.file.set_len(length).await.map_err(failed),
    }
}

/// A file that is being copied.
#[derive(Debug)]
struct FileCopy<'a> {
    io: &'a BlockIo<'a>,
    source: &'a SourceFile,
    target: &'a TargetFile,
    sparse: Sparse,
    written: Cell<u64>,
    checks: RefCell<Vec<ChunkChecksum>>,
}

impl FileCopy<'_> {
    async fn chunk(&self, chunk: Extent, buffer: &mut AlignedBuf) -> Result<(), StopReason> {
        let (io, source, target) = (self.io, self.source, self.target);
        let bytes = chunk.end - chunk.start;
        let read = read_chunk(io, &source.file, source.alignment, &chunk, buffer).await;
        let read = read.map_err(|error| match error {
            AioCommandError::IoSubmit(_) if !source.file.is_direct() => StopReason::NoAio,
            error => CopyError::at("read", &source.path, chunk.start, &error).into(),
        })?;
        if read < bytes {
            return Err(StopReason::EndOfFile);
        }
        if !source.file.is_direct() {
            // Drops clean pages only. An error is harmless.
            let _ = source
                .file
                .advise(chunk.start, bytes, Advice::DontNeed)
                .await;
        }
        let data = &buffer[..bytes as usize];
        if io.args.verify {
            let check = ChunkChecksum::new(chunk.clone(), xxh3_64(data));
            self.checks.borrow_mut().push(check);
        }
        let (handle, sparse) = (&io.handle, self.sparse);
        let written = write_data(handle, target, sparse, chunk.start, buffer, bytes).await?;
        self.written.set(self.written.get() + written);
        io.console.advance(bytes);
        Ok(())
    }
}

/// Reads the bytes of `chunk` to the front of the buffer, and returns their number, which is less than
/// the length of `chunk` only at the end of the file. `chunk` starts at a multiple of `alignment`.
///
/// # Errors
///
/// Those of [`File::read_at`].
pub(super) async fn read_chunk(
    io: &BlockIo<'_>,
    file: &File,
    alignment: u64,
    chunk: &Extent,
    buffer: &mut AlignedBuf,
) -> Result<u64, AioCommandError> {
    let (offset, bytes) = (chunk.start, chunk.end - chunk.start);
    let (handle, flags) = (&io.limited, ReadFlags::empty());
    let whole = bytes.next_multiple_of(alignment);
    let mut read = file.read_at(handle, offset, buffer, whole, flags).await?;
    while read < bytes {
        // A short read, or the end of the file: the next read shows which.
        let from = read / alignment * alignment;
        let rest = &mut [buffer.part_mut(from as usize..whole as usize)];
        let more = file
            .read_vectored_at(handle, offset + from, rest, flags)
            .await?;
        if from + more <= read {
            break;
        }
        read = from + more;
    }
    Ok(read.min(bytes))
}

/// Writes the first `bytes` bytes of a buffer at `offset`, with [`Sparse::Always`] without the blocks of
/// zeroes, and returns how many bytes were written.
pub(super) async fn write_data(
    handle: &AioContextHandle,
    target: &TargetFile,
    sparse: Sparse,
    offset: u64,
    buffer: &mut AlignedBuf,
    bytes: u64,
) -> Result<u64, CopyError> {
    let data = &buffer[..bytes as usize];
    let runs = match sparse {
        Sparse::Always => zero_blocks::nonzero_ranges(data, target.alignment.max(PAGE) as usize),
        Sparse::Auto | Sparse::Never => vec![0..bytes as usize],
    };
    let mut written = 0;
    for run in runs {
        written += run.len() as u64;
        write(handle, target, offset, buffer, run).await?;
    }
    Ok(written)
}

/// Writes the range `run` of a buffer whose start belongs at `offset`. A partial last block is padded with
/// zeroes, except on a device, which keeps its bytes there.
pub(super) async fn write(
    handle: &AioContextHandle,
    target: &TargetFile,
    offset: u64,
    buffer: &mut AlignedBuf,
    run: std::ops::Range<usize>,
) -> Result<(), CopyError> {
    let at = offset + run.start as u64;
    let failed = |error| CopyError::at("write", &target.path, at, &error);
    let alignment = target.alignment as usize;
    let end = match target.is_device() {
        true => run.end / alignment * alignment,
        false => {
            let padded = run.end.next_multiple_of(alignment);
            buffer[run.end..padded].fill(0);
            padded
        }
    };
    write_blocks(handle, &target.file, offset, buffer, run.start..end)
        .await
        .map_err(failed)?;
    if end < run.end {
        let (at, rest) = (offset + end as u64, &buffer[end..run.end]);
        let rest = target
            .file
            .write_bytes_at(handle, at, rest, WriteFlags::empty());
        rest.await.map_err(failed)?;
    }
    if !target.file.is_direct() {
        // Written back and dropped at once, so that the copy occupies no page cache.
        let bytes = run.len() as u64;
        let synced = target.file.sync_range(at, bytes, SyncRange::all()).await;
        synced.map_err(|error| CopyError::of("flush", &target.path, &error))?;
        let _ = target.file.advise(at, bytes, Advice::DontNeed).await;
    }
    Ok(())
}

/// Writes a range of whole blocks in full.
async fn write_blocks(
    handle: &AioContextHandle,
    file: &File,
    offset: u64,
    buffer: &AlignedBuf,
    range: std::ops::Range<usize>,
) -> Result<(), AioCommandError> {
    let flags = WriteFlags::empty();
    if range.start == 0 {
        return file
            .write_all_at(handle, offset, buffer, range.end as u64, flags)
            .await;
    }
    let mut from = range.start;
    while from < range.end {
        let parts = &[buffer.part(from..range.end)];
        let written = file
            .write_vectored_at(handle, offset + from as u64, parts, flags)
            .await?;
        if written == 0 {
            let error = std::io::ErrorKind::WriteZero.into();
            return Err(AioCommandError::BadResult(error));
        }
        from += written as usize;
    }
    Ok(())
}
