//! Copies a file or device to a pipe.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::block_io::BlockIo;
use super::copy_data::{self, CopiedData};
use super::copy_error::CopyError;
use super::copy_file::add_to_counters;
use super::copy_until_eof::Reader;
use super::cp_args::PAGE;
use super::extents::{self, Extent};
use super::source_file::SourceFile;
use super::{blocking, pipes};

/// Copies the file `source` to the pipe `target`, holes as zeroes. Ends early if the reader closes the pipe.
pub(super) async fn copy_to_pipe(
    io: &BlockIo<'_>,
    source: &Path,
    target: &Path,
) -> Result<(), CopyError> {
    let source = SourceFile::open(source, false).await?;
    io.note_source(&source.path, &source.file);
    let pipe = pipes::open_target(target).map_err(|error| CopyError::of("open", target, &error))?;
    let pipe = PipeTarget {
        pipe: Arc::new(pipe),
        path: target,
    };
    // Files that are generated when they are read have no blocks, and can't be read by AIO.
    let is_stored = source.metadata.blocks() > 0 && io.args.limit.is_some();
    let (moved, is_open) = match source.file.is_direct() || is_stored {
        true => copy_blocks(io, &source, &pipe).await?,
        false => copy_buffered(io, &source, &pipe).await?,
    };
    if !is_open {
        let path = target.display();
        io.console.note(&format!(
            "the reader of {path} closed it after {} bytes",
            moved.length
        ));
    } else if source.changed().await? {
        io.warn_changed(&source.path);
    }
    add_to_counters(io, &moved);
    Ok(())
}

/// Reads blocks past the page cache, several at a time, and writes them in order. Also returns whether the
/// pipe still has a reader.
async fn copy_blocks(
    io: &BlockIo<'_>,
    source: &SourceFile,
    pipe: &PipeTarget<'_>,
) -> Result<(CopiedData, bool), CopyError> {
    let size = io.chunk_size(source.alignment.max(PAGE))?;
    let read = async |chunk: Extent| {
        let mut buffer = io.buffers.acquire().await;
        let read = copy_data::read_chunk(io, &source.file, source.alignment, &chunk, &mut buffer);
        let read = read
            .await
            .map_err(|error| CopyError::at("read", &source.path, chunk.start, &error))?;
        Ok::<_, CopyError>((chunk, read, buffer))
    };
    let whole = [0..source.length];
    let chunks = stream::iter(extents::chunks(&whole, size));
    let mut chunks = std::pin::pin!(chunks.map(read).buffered(io.args.depth.into()));
    let mut moved = CopiedData::default();
    while let Some(chunk) = chunks.next().await {
        let (chunk, read, mut buffer) = chunk?;
        if read < chunk.end - chunk.start {
            source.refuse_shorter().await?;
        }
        let block = std::mem::take(&mut *buffer);
        let (is_open, block) = pipe.write(block, read as usize).await?;
        *buffer = block;
        if !is_open {
            return Ok((moved, false));
        }
        moved.length += read;
        moved.written += read;
        io.console.advance(read);
    }
    Ok((moved, true))
}

/// Reads to the end, through the page cache and without a limit. Also returns whether the pipe still has a reader.
async fn copy_buffered(
    io: &BlockIo<'_>,
    source: &SourceFile,
    pipe: &PipeTarget<'_>,
) -> Result<(CopiedData, bool), CopyError> {
    let failed = |error| CopyError::of("read", &source.path, &error);
    let mut reader = Reader::new(source, io.chunk_size(PAGE)? as usize).map_err(failed)?;
    let mut moved = CopiedData::default();
    loop {
        let (read, back) = blocking(move || reader.fill()).await.map_err(failed)?;
        reader = back;
        let (is_open, bytes) = pipe.write(std::mem::take(&mut reader.bytes), read).await?;
        reader.bytes = bytes;
        if !is_open {
            return Ok((moved, false));
        }
        moved.length += read as u64;
        moved.written += read as u64;
        io.console.advance(read as u64);
        if read < reader.bytes.len() {
            return Ok((moved, true));
        }
    }
}

/// A pipe that is written.
struct PipeTarget<'a> {
    pipe: Arc<File>,
    path: &'a Path,
}

impl PipeTarget<'_> {
    /// Writes the first `bytes` bytes of `block`, and returns it, and whether the pipe still has a reader.
    async fn write<B: AsRef<[u8]> + Send + 'static>(
        &self,
        block: B,
        bytes: usize,
    ) -> Result<(bool, B), CopyError> {
        let pipe = Arc::clone(&self.pipe);
        let written = blocking(move || {
            let is_open = pipes::write_to_pipe(&pipe, &block.as_ref()[..bytes])?;
            Ok((is_open, block))
        });
        let written = written.await;
        written.map_err(|error| CopyError::of("write", self.path, &error))
    }
}
