//! `--verify`: reading back, and comparing.

use std::path::Path;

use tokio_kaio::{Advice, AlignedBuf, File};
use xxhash_rust::xxh3::xxh3_64;

use super::extents::Extent;
use super::session::Session;
use super::transfer;
use super::trouble::Trouble;

/// What a piece was when it was read from the source.
#[derive(Debug)]
pub(super) struct Check {
    piece: Extent,
    sum: u64,
}

impl Check {
    pub(super) fn new(piece: Extent, sum: u64) -> Check {
        Check { piece, sum }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.piece.end - self.piece.start
    }
}

/// Reads all pieces from `file`, which is called `path`, and compares. What was written has to be on
/// the disk.
///
/// # Errors
///
/// The first piece that is another, or can't be read.
pub(super) async fn verify(
    session: &Session<'_>,
    file: &File,
    grain: u64,
    path: &Path,
    checks: &[Check],
) -> Result<(), Trouble> {
    if !file.is_direct() {
        let dropped = file.advise(0, 0, Advice::DontNeed).await;
        dropped.map_err(|error| Trouble::of("drop the cached pages of", path, &error))?;
    }
    let each = async |check: &Check, buffer: &mut AlignedBuf| {
        let piece = &check.piece;
        let bytes = piece.end - piece.start;
        session.limited(bytes).await;
        let read = transfer::fill(session, file, grain, piece, buffer).await;
        let read = read.map_err(|error| Trouble::at("read back", path, piece.start, &error))?;
        if read < bytes || xxh3_64(&buffer[..bytes as usize]) != check.sum {
            return Err(Trouble::new(format!(
                "{} is not what was copied: of the {bytes} bytes at offset {}, others were read back; \
                 the disk, its cable or the memory is at fault: don't rely on them (dmesg, smartctl)",
                path.display(),
                piece.start
            )));
        }
        session.talk.moved(bytes);
        Ok(())
    };
    session.lanes.each(checks.iter(), checks.len(), each).await
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use tokio_kaio::AioOpenOptionsExt;

    use super::*;
    use crate::cp::extents::pieces;

    const BLOCK: u64 = 65536;
    const LENGTH: u64 = 10 * BLOCK + 123;

    /// What is said of a file of these bytes, if others were copied to it.
    async fn said(copied: &[u8], read_back: &[u8]) -> Result<(), String> {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("copy");
        std::fs::write(&path, read_back).unwrap();
        let sum = |piece: &Extent| xxh3_64(&copied[piece.start as usize..piece.end as usize]);
        let checks =
            pieces(&[0..LENGTH], BLOCK).map(|piece| Check::new(piece.clone(), sum(&piece)));
        let checks: Vec<_> = checks.collect();
        let mut options = OpenOptions::new();
        let file = options.read(true).aio_open_or_buffered(path.clone(), false);
        let file = file.await.unwrap();
        let grain = file.alignment().await.unwrap().offset;
        let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
        let args = crate::cp::args::of_test(&["--quiet", "--bs", "64k", "a", "b"]);
        let session = Session::new(&args, handle, 0, 0).unwrap();
        let verified = verify(&session, &file, grain, &path, &checks).await;
        context.close().await;
        verified.map_err(|trouble| trouble.to_string())
    }

    #[tokio::test]
    async fn what_was_copied_is_found_again() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
        assert_eq!(said(&bytes, &bytes).await, Ok(()));
    }

    #[tokio::test]
    async fn a_single_bit_is_found_wherever_it_is_and_its_place_is_told() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
        for at in [0, BLOCK - 1, BLOCK, 5 * BLOCK + 4711, LENGTH - 1] {
            let mut other = bytes.clone();
            other[at as usize] ^= 0x10;
            let error = said(&bytes, &other).await.unwrap_err();
            let place = format!("at offset {}", at / BLOCK * BLOCK);
            assert!(error.contains("copy is not what was copied"), "{error}");
            assert!(error.contains(&place), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_found() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
        let error = said(&bytes, &bytes[..bytes.len() - 1]).await.unwrap_err();
        assert!(
            error.contains("of the 123 bytes at offset 655360"),
            "{error}"
        );
    }
}
