//! [`UnalignedState`]: the state of a file for unaligned transfers. [`BounceBuffer`]: the memory of
//! unaligned writes.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::range_lock::{RangeLock, RangeLockGuard};
use crate::buf::{AlignedBuf, IoBuf, LockedBufError};
use crate::op::OpenFile;

/// The state of a file for unaligned transfers. Created by the first one, so that other files don't pay
/// for it.
#[derive(Debug, Default)]
pub(super) struct UnalignedState {
    /// Orders the unaligned writes that overlap.
    pub(super) range_lock: Arc<RangeLock>,
    /// Set once it is known for sure.
    pub(super) geometry: OnceLock<BlockGeometry>,
    /// The same file without `O_DIRECT`. Set when it was first needed.
    pub(super) page_cache_file: OnceLock<Arc<OpenFile>>,
    /// Held while `page_cache_file` is opened. If two threads opened it, one would close its descriptor
    /// again, which releases the process' record locks on the file.
    pub(super) open_mutex: Mutex<()>,
    /// Whether the kernel has refused `RWF_DONTCACHE` for this file.
    dontcache_refused: AtomicBool,
    /// The end of the file when it was last seen; 0: not known. Others may have moved the end since.
    known_end: AtomicU64,
    /// Bounce buffers for reuse, each of `REUSED_BUFFER_SIZE` bytes.
    free_buffers: Mutex<Vec<AlignedBuf>>,
}

/// The unit of reads and writes for unaligned transfers, and the access mode of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockGeometry {
    /// Alignment of offset and length in bytes, and of positions within the memory. The maximum of the
    /// alignment that direct I/O requires and the unit in which the page cache fills, zeroes and writes
    /// out. A direct write to a part of such a block conflicts with the page cache if the file ends in
    /// another part of the block: the kernel zeroes the rest of the block when it extends the file.
    pub(super) block: u64,
    /// Alignment of the memory in bytes.
    pub(super) memory_alignment: usize,
    /// Whether the file is open for reading.
    pub(super) readable: bool,
    /// Whether the file is open for writing.
    pub(super) writable: bool,
}

/// The size of the bounce buffers that are reused; all small transfers use this size.
const REUSED_BUFFER_SIZE: usize = 64 << 10;

/// Maximum number of free bounce buffers that a file keeps.
const MAX_FREE_BUFFERS: usize = 4;

impl UnalignedState {
    /// Returns a buffer of at least `len` bytes, with any content, at an address that is a multiple of
    /// `alignment`.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::with_alignment`].
    pub(super) fn acquire_buffer(
        &self,
        len: usize,
        alignment: usize,
    ) -> Result<AlignedBuf, LockedBufError> {
        let alignment = alignment.next_power_of_two();
        if len > REUSED_BUFFER_SIZE {
            return AlignedBuf::with_alignment(len, alignment);
        }
        let reused = self.free_buffers().pop();
        match reused.filter(|buffer| buffer.as_ptr().addr() % alignment == 0) {
            Some(buffer) => Ok(buffer),
            None => AlignedBuf::with_alignment(REUSED_BUFFER_SIZE, alignment),
        }
    }

    /// Keeps `buffer` for reuse if it has the right size and there are not too many; drops it otherwise.
    pub(super) fn recycle_buffer(&self, buffer: AlignedBuf) {
        let mut free = self.free_buffers();
        if buffer.size() == REUSED_BUFFER_SIZE && free.len() < MAX_FREE_BUFFERS {
            free.push(buffer);
        }
    }

    fn free_buffers(&self) -> MutexGuard<'_, Vec<AlignedBuf>> {
        self.free_buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether writes through the page cache may have the flag `RWF_DONTCACHE`.
    pub(super) fn may_use_dontcache(&self) -> bool {
        !self.dontcache_refused.load(Ordering::Relaxed)
    }

    /// Records that the kernel refuses `RWF_DONTCACHE` for this file.
    pub(super) fn set_dontcache_refused(&self) {
        self.dontcache_refused.store(true, Ordering::Relaxed);
    }

    /// Records that a read came back short at `end`.
    pub(super) fn set_known_end(&self, end: u64) {
        self.known_end.store(end, Ordering::Relaxed);
    }

    /// Records that a write to the last block of the file has reached `end`.
    pub(super) fn raise_known_end(&self, end: u64) {
        self.known_end.fetch_max(end, Ordering::Relaxed);
    }

    /// Returns whether a write of `range` begins in the last block of the file, or directly behind the
    /// file, and its blocks end past the end of the file. `false` if the end is not known. If
    /// `true`, the write need not read its last block.
    pub(super) fn continues_at_end(&self, range: &Range<u64>, block: u64) -> bool {
        let end = self.known_end.load(Ordering::Relaxed);
        let last_block = end - end % block;
        end > 0
            && (last_block..=end).contains(&range.start)
            && range.end.next_multiple_of(block) > end
    }
}

/// The memory of an unaligned write together with its [`RangeLockGuard`]. The request owns both until
/// the kernel is done, even if the future is dropped.
#[derive(Debug, Default)]
pub(super) struct BounceBuffer {
    pub(super) buffer: AlignedBuf,
    /// The bytes of `buffer` that are written.
    pub(super) range: Range<usize>,
    pub(super) guard: Option<RangeLockGuard>,
}

// SAFETY: `bytes` returns a part of an `AlignedBuf`, which is an `IoBuf` itself; the slice index checks
// that the part is within the buffer.
unsafe impl IoBuf for BounceBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes().len()
    }
}

impl BounceBuffer {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_are_reused_and_large_ones_are_not() {
        let unaligned = UnalignedState::default();
        let address = |buffer: &AlignedBuf| buffer.as_ptr().addr();
        let first = unaligned.acquire_buffer(10, 512).unwrap();
        let second = unaligned.acquire_buffer(10, 512).unwrap();
        let addresses = [address(&first), address(&second)];
        unaligned.recycle_buffer(first);
        unaligned.recycle_buffer(second);
        // The buffer of a dropped read for which there was no replacement memory.
        unaligned.recycle_buffer(AlignedBuf::default());
        let reused = [(); 2].map(|()| unaligned.acquire_buffer(REUSED_BUFFER_SIZE, 512).unwrap());
        assert!(
            reused
                .iter()
                .all(|buffer| addresses.contains(&address(buffer)))
        );
        let large = unaligned
            .acquire_buffer(REUSED_BUFFER_SIZE + 1, 512)
            .unwrap();
        unaligned.recycle_buffer(large);
        assert!(unaligned.free_buffers().is_empty());
    }

    #[test]
    fn a_write_continues_at_the_known_end_of_the_file() {
        let unaligned = UnalignedState::default();
        assert!(
            !unaligned.continues_at_end(&(0..10), 4096),
            "the end is not known"
        );
        unaligned.set_known_end(4500);
        unaligned.raise_known_end(5000);
        unaligned.raise_known_end(4600); // before the known end
        for (range, continues) in [
            (5000..5001, true),
            (5000..20_000, true),
            (4096..4100, true), // the whole last block goes through the page cache
            (4095..5001, false), // begins before the last block
            (5001..5002, false), // leaves a hole
            (0..10, false),
        ] {
            assert_eq!(
                unaligned.continues_at_end(&range, 4096),
                continues,
                "{range:?}"
            );
        }
    }

    #[test]
    fn a_bounce_buffer_exposes_only_its_range() {
        let bounce = BounceBuffer {
            buffer: AlignedBuf::new(8192).unwrap(),
            range: 512..1024,
            guard: None,
        };
        assert_eq!(bounce.stable_ptr(), bounce.buffer[512..].as_ptr());
        assert_eq!(bounce.bytes_init(), 512);
        assert_eq!(BounceBuffer::default().bytes_init(), 0);
    }
}
