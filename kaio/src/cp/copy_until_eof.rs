//! Copies files whose reported length is wrong, such as those of procfs and sysfs: reads them from the
//! start to the end.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;

use xxhash_rust::xxh3::xxh3_64;

use super::block_io::BlockIo;
use super::blocking;
use super::copy_data::{self, CopiedData};
use super::copy_error::CopyError;
use super::cp_args::PAGE;
use super::source_file::SourceFile;
use super::target_file::TargetFile;
use super::verify::ChunkChecksum;

/// Copies all that can be read, and sets the length of the target.
pub(super) async fn copy_until_eof(
    io: &BlockIo<'_>,
    source: &SourceFile,
    target: &TargetFile,
) -> Result<CopiedData, CopyError> {
    let size = io.chunk_size(source.alignment.max(target.alignment).max(PAGE))?;
    let mut moved = CopiedData::default();
    let mut buffer = io.buffers.acquire().await;
    let reader = Reader::new(source, size as usize);
    let mut reader = reader.map_err(|error| CopyError::of("open", &source.path, &error))?;
    loop {
        let at = moved.length;
        let read = if source.file.is_direct() {
            let chunk = at..at + size;
            let read =
                copy_data::read_chunk(io, &source.file, source.alignment, &chunk, &mut buffer);
            let read = read.await;
            read.map_err(|error| CopyError::at("read", &source.path, at, &error))?
        } else {
            let filled = blocking(move || reader.fill()).await;
            let (read, back) =
                filled.map_err(|error| CopyError::of("read", &source.path, &error))?;
            reader = back;
            buffer[..read].copy_from_slice(&reader.bytes[..read]);
            read as u64
        };
        if read > 0 {
            let chunk = at..at + read;
            if io.args.verify {
                let sum = xxh3_64(&buffer[..read as usize]);
                moved.checks.push(ChunkChecksum::new(chunk, sum));
            }
            // A read that is not made by the context obeys no limit, so the write does.
            let handle = match source.file.is_direct() {
                true => &io.handle,
                false => &io.limited,
            };
            copy_data::write(handle, target, at, &mut buffer, 0..read as usize).await?;
            io.console.advance(read);
        }
        moved.length += read;
        moved.written += read;
        if read < size {
            break;
        }
    }
    copy_data::set_final_length(target, moved.length).await?;
    Ok(moved)
}

/// Reads a file with `read(2)`, for files without direct I/O.
#[derive(Debug)]
pub(super) struct Reader {
    file: fs::File,
    pub(super) bytes: Vec<u8>,
}

impl Reader {
    /// Reads blocks of `size` bytes, from the start of the file.
    pub(super) fn new(source: &SourceFile, size: usize) -> io::Result<Reader> {
        let mut file = fs::File::from(source.file.as_fd().try_clone_to_owned()?);
        // The search for holes has moved the file position. Some files can't seek.
        let _ = file.rewind();
        Ok(Reader {
            file,
            bytes: vec![0; size],
        })
    }

    /// Reads until the buffer is full or the file ends.
    pub(super) fn fill(mut self) -> io::Result<(usize, Reader)> {
        let mut filled = 0;
        while filled < self.bytes.len() {
            match self.file.read(&mut self.bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((filled, self))
    }
}
