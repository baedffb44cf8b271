//! Reads a copy back and compares checksums, for `--verify`.

use std::path::Path;

use tokio_kaio::{Advice, AlignedBuf, File};
use xxhash_rust::xxh3::xxh3_64;

use super::block_io::BlockIo;
use super::copy_data;
use super::copy_error::CopyError;
use super::extents::Extent;

/// The checksum of a chunk, as it was read from the source.
#[derive(Debug)]
pub(super) struct ChunkChecksum {
    chunk: Extent,
    sum: u64,
}

impl ChunkChecksum {
    pub(super) fn new(chunk: Extent, sum: u64) -> ChunkChecksum {
        ChunkChecksum { chunk, sum }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.chunk.end - self.chunk.start
    }
}

/// Reads all chunks from `file`, whose path is `path`, and compares their checksums. The file must have
/// been flushed.
///
/// # Errors
///
/// A chunk differs, or can't be read.
pub(super) async fn verify(
    io: &BlockIo<'_>,
    file: &File,
    alignment: u64,
    path: &Path,
    checks: &[ChunkChecksum],
) -> Result<(), CopyError> {
    if !file.is_direct() {
        let dropped = file.advise(0, 0, Advice::DontNeed).await;
        dropped.map_err(|error| CopyError::of("drop the cached pages of", path, &error))?;
    }
    let each = async |check: &ChunkChecksum, buffer: &mut AlignedBuf| {
        let chunk = &check.chunk;
        let bytes = chunk.end - chunk.start;
        let read = copy_data::read_chunk(io, file, alignment, chunk, buffer).await;
        let read = read.map_err(|error| CopyError::at("read back", path, chunk.start, &error))?;
        if read < bytes || xxh3_64(&buffer[..bytes as usize]) != check.sum {
            return Err(CopyError::new(format!(
                "verification of {} failed: the {bytes} bytes at offset {} differ from what was copied; \
                 the disk, its cable or the memory is faulty (see dmesg, smartctl)",
                path.display(),
                chunk.start
            )));
        }
        io.console.advance(bytes);
        Ok(())
    };
    io.buffers.for_each(checks.iter(), checks.len(), each).await
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use tokio_kaio::AioOpenOptionsExt;

    use super::super::session::Session;
    use super::*;
    use crate::cp::extents::chunks;

    const BLOCK: u64 = 65536;
    const LENGTH: u64 = 10 * BLOCK + 123;

    /// The result of verifying a copy of `copied` that contains `read_back`.
    async fn verified(copied: &[u8], read_back: &[u8]) -> Result<(), String> {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("copy");
        std::fs::write(&path, read_back).unwrap();
        let sum = |chunk: &Extent| xxh3_64(&copied[chunk.start as usize..chunk.end as usize]);
        let checks =
            chunks(&[0..LENGTH], BLOCK).map(|chunk| ChunkChecksum::new(chunk.clone(), sum(&chunk)));
        let checks: Vec<_> = checks.collect();
        let mut options = OpenOptions::new();
        let file = options.read(true).aio_open_or_buffered(path.clone(), false);
        let file = file.await.unwrap();
        let alignment = file.alignment().await.unwrap().offset;
        let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
        let args = crate::cp::cp_args::parse_for_test(&["--quiet", "--bs", "64k", "a", "b"]);
        let session = Session::new(&args, None, 0);
        let io = BlockIo::new(&session, handle).unwrap();
        let verified = verify(&io, &file, alignment, &path, &checks).await;
        context.close().await;
        verified.map_err(|copy_error| copy_error.to_string())
    }

    #[tokio::test]
    async fn an_identical_copy_is_verified() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
        assert_eq!(verified(&bytes, &bytes).await, Ok(()));
    }

    #[tokio::test]
    async fn a_single_wrong_bit_is_found_and_its_offset_is_reported() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
        for at in [0, BLOCK - 1, BLOCK, 5 * BLOCK + 4711, LENGTH - 1] {
            let mut other = bytes.clone();
            other[at as usize] ^= 0x10;
            let error = verified(&bytes, &other).await.unwrap_err();
            let destination = format!("at offset {}", at / BLOCK * BLOCK);
            assert!(error.contains("copy failed: the"), "{error}");
            assert!(error.contains(&destination), "{error}");
        }
    }

    #[tokio::test]
    async fn a_copy_that_is_too_short_is_found() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
        let error = verified(&bytes, &bytes[..bytes.len() - 1])
            .await
            .unwrap_err();
        assert!(error.contains("the 123 bytes at offset 655360"), "{error}");
    }
}
