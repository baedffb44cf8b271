//! [`RangeSetup`]: what has to be known of a file before its ranges are read.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use crate::context::{OpTimer, until};
use crate::fs::File;
use crate::fs::chunk_buffers::pooled_buffer;
use crate::fs::dispatch::run_on_file;
use crate::fs::file_len::file_len;
use crate::{AioCommandError, AlignedBuf, Alignment, SizeClassPool};

/// The alignment of a file, and its end if that matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangeSetup {
    /// Alignment of offsets and lengths, in bytes.
    block: u64,
    /// Alignment of the memory, in bytes.
    memory: usize,
    /// No range is read past this offset.
    end: u64,
}

/// The largest end of a range that is read. No file is longer, and the range can be rounded up to a block.
const LARGEST_END: u64 = i64::MAX as u64 - (1 << 30);

/// A range that is longer is cut at the end of the file before it is read. Otherwise memory for a range like
/// `5..u64::MAX` would be asked for. The end of the file is not needed for shorter ranges, whose read finds it.
const LENGTH_TO_CUT: u64 = 4 << 20;

impl RangeSetup {
    /// Returns the setup for reads of `ranges`, if it is known without asking the kernel.
    pub(super) fn known(file: &File, ranges: &[Range<u64>]) -> Option<RangeSetup> {
        let alignment = file.known_alignment()?;
        (!needs_end(ranges)).then(|| RangeSetup::new(alignment, LARGEST_END))
    }

    /// Asks the kernel for the setup, on tokio's blocking pool.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: those of [`File::alignment`] and [`file_len`].
    pub(super) async fn query(
        file: &File,
        ranges: &[Range<u64>],
    ) -> Result<RangeSetup, AioCommandError> {
        let alignment = file.alignment().await.map_err(AioCommandError::IoSubmit)?;
        let mut end = LARGEST_END;
        if needs_end(ranges) {
            let found = run_on_file(Arc::clone(&file.inner), |file| file_len(&file.open)).await;
            end = end.min(found.map_err(AioCommandError::IoSubmit)?);
        }
        Ok(RangeSetup::new(alignment, end))
    }

    /// Does what [`query`](RangeSetup::query) does, until `timer` fires, if there is one.
    ///
    /// # Errors
    ///
    /// Those of `query`. `TimedOut`.
    pub(super) async fn query_until(
        timer: Option<OpTimer>,
        file: File,
        ranges: Vec<Range<u64>>,
    ) -> Result<RangeSetup, AioCommandError> {
        let query = RangeSetup::query(&file, &ranges);
        match timer {
            None => query.await,
            Some(timer) => {
                let result = until(pin!(query), timer).await;
                result.unwrap_or(Err(AioCommandError::TimedOut))
            }
        }
    }

    fn new(alignment: Alignment, end: u64) -> RangeSetup {
        RangeSetup {
            block: alignment.read_offset.max(alignment.memory as u64),
            memory: alignment.memory.next_power_of_two(),
            end,
        }
    }

    /// Returns the blocks that contain `range`. Empty if no byte of the range can be in the file.
    pub(super) fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.min(self.end);
        if range.start >= end {
            return range.start..range.start;
        }
        range.start - range.start % self.block..end.next_multiple_of(self.block)
    }

    /// Takes a buffer of `len` bytes, a number of whole blocks.
    ///
    /// # Errors
    ///
    /// `IoSubmit`, `ENOMEM`.
    pub(super) fn buffer(
        &self,
        pool: &SizeClassPool,
        len: u64,
    ) -> Result<AlignedBuf, AioCommandError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        pooled_buffer(pool, len, self.memory)
    }
}

fn needs_end(ranges: &[Range<u64>]) -> bool {
    let is_long = |range: &Range<u64>| range.end.saturating_sub(range.start) > LENGTH_TO_CUT;
    ranges.iter().any(is_long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AlignmentSource;

    #[test]
    fn ranges_are_rounded_to_blocks_and_cut_at_the_end() {
        let setup = RangeSetup::new(Alignment::of(512, AlignmentSource::Statx), 5000);
        for (range, blocks) in [
            (0..1, 0..512),
            (511..513, 0..1024),
            (512..1024, 512..1024),
            (100..u64::MAX, 0..5120),
            (4999..5001, 4608..5120),
            (5000..9000, 5000..5000),
            (u64::MAX..u64::MAX, u64::MAX..u64::MAX),
            (7..7, 7..7),
        ] {
            assert_eq!(setup.blocks(&range), blocks, "{range:?}");
        }
        let buffered = RangeSetup::new(Alignment::of(1, AlignmentSource::Buffered), LARGEST_END);
        assert_eq!(buffered.blocks(&(3..10)), 3..10);
    }

    #[test]
    fn memory_has_the_alignment_of_the_file() {
        let pool = SizeClassPool::new(8192).unwrap();
        let setup = RangeSetup::new(Alignment::of(1 << 16, AlignmentSource::Statx), LARGEST_END);
        for _ in 0..3 {
            let buffer = setup.buffer(&pool, 1 << 16).unwrap();
            assert_eq!(
                (buffer.size(), buffer.as_ptr().addr() % (1 << 16)),
                (1 << 16, 0)
            );
        }
        setup.buffer(&pool, u64::MAX).unwrap_err();
    }
}
