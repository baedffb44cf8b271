//! [`ReadPlan`]: which range of the file a [`FileReader`](super::FileReader) reads next.

use std::ops::Range;

use crate::AioCommandError;
use crate::error::check_range;

/// Offsets from here on count as past the end of every file. Leaves room to round up.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64 - (1 << 30);

/// The largest chunk in bytes. The kernel moves at most 2 GiB − 4 KiB with one request.
pub(super) const MAX_CHUNK: u64 = 1 << 30;

/// Length of a read at the expected end of the file, where probably nothing is left.
const PROBE: u64 = 64 << 10;

/// The ranges of the reads of a `FileReader`. Each begins where the last one ends, at a multiple of the
/// block, and ends at a multiple of the chunk size, or where the range or the file ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadPlan {
    /// In bytes, as the caller chose it.
    chunk: u64,
    /// The alignment of offset and length in bytes.
    block: u64,
    /// The range that the caller wants.
    start: u64,
    end: u64,
    /// The range ends before it starts.
    is_reversed: bool,
    /// Reads ahead stop here: the length of the file, or more if it has grown since.
    expected_end: u64,
    /// The length of the file when it was last found out.
    known_len: u64,
}

impl ReadPlan {
    pub(super) fn new(chunk: usize) -> ReadPlan {
        let mut plan = ReadPlan {
            chunk: 0,
            block: 1,
            start: 0,
            end: MAX_OFFSET,
            is_reversed: false,
            expected_end: 0,
            known_len: 0,
        };
        plan.set_chunk(chunk);
        plan
    }

    pub(super) fn set_chunk(&mut self, chunk: usize) {
        self.chunk = (chunk as u64).clamp(1, MAX_CHUNK);
    }

    pub(super) fn set_range(&mut self, range: Range<u64>) {
        self.start = range.start;
        self.end = range.end.min(MAX_OFFSET);
        self.is_reversed = range.end < range.start;
    }

    /// # Errors
    ///
    /// `IoSubmit`, `EINVAL`: the range ends before it starts.
    pub(super) fn check_range(&self) -> Result<(), AioCommandError> {
        match self.is_reversed {
            true => check_range(&(self.start..self.end)),
            false => Ok(()),
        }
    }

    /// Records what a query of the file has returned.
    pub(super) fn set_file(&mut self, block: u64, len: u64) {
        self.block = block.max(1);
        self.set_len(len);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.known_len = len;
        self.expected_end = len;
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn len(&self) -> u64 {
        self.known_len
    }

    /// The chunk size: a multiple of the block.
    pub(super) fn chunk(&self) -> u64 {
        self.chunk.next_multiple_of(self.block)
    }

    /// Returns the range of the read that finds the byte at `at`. `None`: no read is due there.
    ///
    /// `is_wanted`: the caller waits for this byte. So it is read even past the expected end, as the file may
    /// have grown.
    pub(super) fn next_read(&self, at: u64, is_wanted: bool) -> Option<Range<u64>> {
        if at >= self.end {
            return None;
        }
        let start = self.round_down(at);
        let chunk = self.chunk();
        let chunk_end = start - start % chunk + chunk;
        let last = match at < self.expected_end {
            true => self.expected_end.min(MAX_OFFSET),
            false if is_wanted => start + PROBE,
            false => return None,
        };
        let end = last.min(self.end).next_multiple_of(self.block);
        Some(start..end.min(chunk_end))
    }

    /// Records that a read of `range` has found `found` bytes. `window`: how many bytes are read ahead.
    pub(super) fn on_read(&mut self, range: &Range<u64>, found: u64, window: u64) {
        let end = range.start + found;
        if end < range.end {
            self.set_len(match found {
                0 => self.known_len.min(end),
                _ => end,
            });
        } else if end > self.expected_end {
            // The file is longer than expected. How much longer is unknown: reads ahead double.
            let grown = end - self.known_len;
            self.expected_end = end.saturating_add(grown.min(window));
        }
    }

    /// Returns whether a read that found `found` bytes, less than it asked for, shows the end of the file.
    pub(super) fn shows_end(&self, found: u64) -> bool {
        // A direct read stops within a block only at the end of the file.
        found == 0 || found % self.block != 0
    }

    pub(super) fn round_down(&self, offset: u64) -> u64 {
        offset - offset % self.block
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // arrays of one range are meant
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(chunk: u64, block: u64, len: u64) -> ReadPlan {
        let mut plan = ReadPlan::new(chunk as usize);
        plan.set_file(block, len);
        plan
    }

    /// The ranges of all reads ahead from `at` on.
    fn reads_ahead(plan: &ReadPlan, at: u64) -> Vec<Range<u64>> {
        let mut at = at;
        let next = || {
            let range = plan.next_read(at, false)?;
            at = range.end;
            Some(range)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn chunks_end_at_multiples_of_the_chunk_size() {
        let plan = plan(MIB, 4096, 3 * MIB);
        let wanted = [0..MIB, MIB..2 * MIB, 2 * MIB..3 * MIB];
        assert_eq!(reads_ahead(&plan, 0), wanted);
        let wanted = [MIB - 4096..MIB, MIB..2 * MIB, 2 * MIB..3 * MIB];
        assert_eq!(reads_ahead(&plan, MIB - 1), wanted);
    }

    #[test]
    fn the_last_read_ahead_covers_the_end_of_the_file_and_no_block_more() {
        assert_eq!(reads_ahead(&plan(MIB, 4096, 5000), 0), [0..8192]);
        assert_eq!(reads_ahead(&plan(MIB, 1, 5000), 7), [7..5000]);
        assert_eq!(reads_ahead(&plan(MIB, 4096, 0), 0), []);
        assert_eq!(reads_ahead(&plan(MIB, 4096, 8192), 8192), []);
    }

    #[test]
    fn a_range_is_read_in_whole_blocks() {
        let mut plan = plan(MIB, 512, 10 * MIB);
        plan.set_range(1000..3000);
        assert_eq!(reads_ahead(&plan, 1000), [512..3072]);
        assert_eq!(plan.next_read(3000, true), None);
    }

    #[test]
    fn a_chunk_size_is_rounded_up_to_whole_blocks() {
        assert_eq!(plan(1, 512, 1024).next_read(0, false), Some(0..512));
        assert_eq!(plan(5000, 4096, MIB).next_read(0, false), Some(0..8192));
        assert_eq!(plan(3, 1, MIB).next_read(4, false), Some(4..6));
    }

    #[test]
    fn past_the_expected_end_only_a_wanted_byte_is_read() {
        let plan = plan(MIB, 4096, 8192);
        assert_eq!(plan.next_read(8192, false), None);
        assert_eq!(plan.next_read(8192, true), Some(8192..8192 + PROBE));
        assert_eq!(plan.next_read(MIB - 1, true), Some(MIB - 4096..MIB));
        assert_eq!(plan.next_read(u64::MAX, true), None);
    }

    #[test]
    fn reads_ahead_double_while_the_file_turns_out_to_be_longer() {
        let mut plan = plan(64 << 10, 4096, 0);
        let mut ends = Vec::new();
        for _ in 0..4 {
            let at = plan.expected_end;
            let last = match reads_ahead(&plan, at).pop() {
                Some(last) => last,
                None => plan.next_read(at, true).unwrap(),
            };
            plan.on_read(&last, last.end - last.start, MIB);
            ends.push(plan.expected_end >> 10);
        }
        assert_eq!(ends, [128, 384, 896, 1920]);
    }

    #[test]
    fn a_short_read_ends_the_reads_ahead() {
        let mut plan = plan(MIB, 4096, 10 * MIB);
        plan.on_read(&(MIB..2 * MIB), 100, 8 * MIB);
        assert_eq!(
            (plan.len(), plan.next_read(2 * MIB, false)),
            (MIB + 100, None)
        );
        plan.on_read(&(4 * MIB..5 * MIB), 0, 8 * MIB);
        assert_eq!(plan.len(), MIB + 100);
    }

    #[test]
    fn a_read_that_ends_within_a_block_shows_the_end_of_the_file() {
        let direct = plan(MIB, 4096, 0);
        assert!(direct.shows_end(0) && direct.shows_end(4097));
        assert!(!direct.shows_end(4096));
        let buffered = plan(MIB, 1, 0);
        assert!(buffered.shows_end(0) && !buffered.shows_end(4097));
    }
}
