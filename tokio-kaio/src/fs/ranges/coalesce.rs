//! [`Coalesce`]: how the ranges of one call share reads.

use bytes::{Buf, Bytes};

use crate::AlignedBuf;

/// How [`read_ranges_with`](crate::File::read_ranges_with) and
/// [`stream_ranges`](crate::File::stream_ranges) merge ranges to reads, and bound their memory.
///
/// # Examples
///
/// ```
/// use tokio_kaio::Coalesce;
///
/// // One read for each range, except where ranges overlap or touch.
/// let apart = Coalesce::new().max_gap(0);
/// // Small reads, and results that never share a buffer.
/// let small = Coalesce::new().max_read(256 << 10).max_overhead(0);
/// assert_ne!(apart, small);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "options do nothing until they are passed to a call"]
pub struct Coalesce {
    pub(super) max_gap: u64,
    pub(super) max_read: u64,
    pub(super) max_overhead: usize,
    pub(super) max_in_flight: u64,
}

impl Coalesce {
    /// The defaults.
    pub const fn new() -> Coalesce {
        Coalesce {
            max_gap: 64 << 10,
            max_read: 4 << 20,
            max_overhead: 4,
            max_in_flight: 32 << 20,
        }
    }

    /// Sets how many bytes may lie between two ranges that share a read: 64 KiB by default. The bytes between
    /// are read, and not returned. Ranges in the same block, or in neighbouring blocks, always count as if
    /// nothing lay between them.
    pub const fn max_gap(mut self, bytes: u64) -> Coalesce {
        self.max_gap = bytes;
        self
    }

    /// Sets how long a read may become by merging: 4 MiB by default. A range that is longer is read alone, by
    /// one operation into one buffer: the block layer divides it into requests of the device's size, which
    /// are in flight together.
    pub const fn max_read(mut self, bytes: u64) -> Coalesce {
        self.max_read = bytes;
        self
    }

    /// Sets how much memory a result may keep, as a multiple of its length: 4 by default. A result whose buffer
    /// is larger, because it was read together with other ranges or the file ends early, is copied to memory of
    /// its own. So no result of 100 bytes keeps 4 MiB. With 0 all results are copied, with [`usize::MAX`]
    /// none.
    pub const fn max_overhead(mut self, factor: usize) -> Coalesce {
        self.max_overhead = factor;
        self
    }

    /// Sets how many bytes are read ahead of the consumer: 32 MiB by default, in no more than 128 reads. Further
    /// reads start as results are taken. One read is always made, however long it is.
    pub const fn max_in_flight(mut self, bytes: u64) -> Coalesce {
        self.max_in_flight = bytes;
        self
    }

    /// Returns whether a result of `len` bytes is copied out of a buffer of `size` bytes.
    pub(super) fn copies(&self, len: usize, size: usize) -> bool {
        len.saturating_mul(self.max_overhead) < size
    }

    /// Returns a range of `buffer`, which is within the buffer.
    pub(super) fn bytes_of(&self, buffer: AlignedBuf, start: usize, end: usize) -> Bytes {
        if self.copies(end - start, buffer.size()) {
            return Bytes::copy_from_slice(&buffer[start..end]);
        }
        // In place, which counts no further reference.
        let mut bytes = Bytes::from(buffer);
        bytes.truncate(end);
        bytes.advance(start);
        bytes
    }
}

/// The defaults: [`Coalesce::new`].
impl Default for Coalesce {
    fn default() -> Coalesce {
        Coalesce::new()
    }
}
