//! `--verify`: reading back, and comparing.

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
    path: &std::path::Path,
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
