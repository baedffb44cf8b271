//! [`UnalignedState`]: what a file has for transfers that need not be aligned; and [`BounceBuffer`], the memory
//! of their writes.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::range_lock::{RangeLock, RangeLockGuard};
use crate::buf::{AlignedBuf, IoBuf, LockedBufError};
use crate::op::OpenFile;

/// Made for the first such write of a file; others never meet it.
#[derive(Debug, Default)]
pub(super) struct UnalignedState {
    /// The writes that are out, or wait for others.
    pub(super) range_lock: Arc<RangeLock>,
    /// What they go by, once it is known for sure.
    pub(super) geometry: OnceLock<BlockGeometry>,
    /// The same file without `O_DIRECT`, once it was needed.
    pub(super) cached: OnceLock<Arc<OpenFile>>,
    /// One thread at a time opens it: to close another one would take record locks from the process.
    pub(super) opening: Mutex<()>,
    /// The kernel does not know `RWF_DONTCACHE` for it.
    stays_cached: AtomicBool,
    /// Where the file ended when that was last seen. Others may have moved its end since.
    known_end: AtomicU64,
    /// Memory that is used again.
    spare: Mutex<Vec<AlignedBuf>>,
}

/// What is written and read of a file at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockGeometry {
    /// Of offset, length and, within memory, place: what direct I/O wants, and what the page cache fills,
    /// zeroes and writes out at a time, if that is more. A direct write to a part of such a block would
    /// meet the page cache where the file ends in another part: to make it longer zeroes the rest.
    pub(super) block: u64,
    /// Of memory.
    pub(super) memory: usize,
    /// It is open for reading.
    pub(super) readable: bool,
    /// It is open for writing.
    pub(super) writable: bool,
}

/// The size of memory that is kept, which small transfers share.
const SPARE: usize = 64 << 10;

/// Most pieces of it that a file keeps.
const MOST_SPARE: usize = 4;

impl UnalignedState {
    /// Memory of `len` bytes at least, with anything in it, at a multiple of `alignment`.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::with_alignment`].
    pub(super) fn memory(
        &self,
        len: usize,
        alignment: usize,
    ) -> Result<AlignedBuf, LockedBufError> {
        let alignment = alignment.next_power_of_two();
        if len > SPARE {
            return AlignedBuf::with_alignment(len, alignment);
        }
        let kept = self.spares().pop();
        match kept.filter(|buffer| buffer.as_ptr().addr() % alignment == 0) {
            Some(buffer) => Ok(buffer),
            None => AlignedBuf::with_alignment(SPARE, alignment),
        }
    }

    /// Memory that nobody uses any more.
    pub(super) fn keep(&self, buffer: AlignedBuf) {
        let mut spares = self.spares();
        if buffer.size() == SPARE && spares.len() < MOST_SPARE {
            spares.push(buffer);
        }
    }

    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<AlignedBuf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is written to the page cache may be told not to stay there.
    pub(super) fn may_not_stay(&self) -> bool {
        !self.stays_cached.load(Ordering::Relaxed)
    }

    /// It may not.
    pub(super) fn stays(&self) {
        self.stays_cached.store(true, Ordering::Relaxed);
    }

    /// A read was cut short there.
    pub(super) fn ended_at(&self, end: u64) {
        self.known_end.store(end, Ordering::Relaxed);
    }

    /// A write up to `end` went to the block where it ended.
    pub(super) fn reaches(&self, end: u64) {
        self.known_end.fetch_max(end, Ordering::Relaxed);
    }

    /// Whether a write of `range` begins in the last block of the file, or right behind it, and goes
    /// on past its end, as far as is known.
    pub(super) fn goes_on(&self, range: &Range<u64>, block: u64) -> bool {
        let end = self.known_end.load(Ordering::Relaxed);
        let last = end - end % block;
        end > 0 && (last..=end).contains(&range.start) && range.end.next_multiple_of(block) > end
    }
}

/// Memory that a write is made from, with the write's place in line: a request has both until the
/// kernel is done, whatever becomes of the future.
#[derive(Debug, Default)]
pub(super) struct BounceBuffer {
    pub(super) buffer: AlignedBuf,
    /// What is written of it.
    pub(super) range: Range<usize>,
    pub(super) guard: Option<RangeLockGuard>,
}

// SAFETY: a part of an `AlignedBuf`, for which it holds; `within` has checked that it is one before
// anybody is told of any byte.
unsafe impl IoBuf for BounceBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.within().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.within().len()
    }
}

impl BounceBuffer {
    fn within(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_used_again() {
        let unaligned = UnalignedState::default();
        let address = |buffer: &AlignedBuf| buffer.as_ptr().addr();
        let first = unaligned.memory(10, 512).unwrap();
        let second = unaligned.memory(10, 512).unwrap();
        let addresses = [address(&first), address(&second)];
        unaligned.keep(first);
        unaligned.keep(second);
        unaligned.keep(AlignedBuf::default()); // of a read that was dropped, with no memory left
        let again = [(); 2].map(|()| unaligned.memory(SPARE, 512).unwrap());
        assert!(
            again
                .iter()
                .all(|buffer| addresses.contains(&address(buffer)))
        );
        let large = unaligned.memory(SPARE + 1, 512).unwrap();
        unaligned.keep(large);
        assert!(unaligned.spares().is_empty());
    }

    #[test]
    fn a_write_goes_on_where_the_file_is_known_to_end() {
        let unaligned = UnalignedState::default();
        assert!(!unaligned.goes_on(&(0..10), 4096), "nothing is known");
        unaligned.ended_at(4500);
        unaligned.reaches(5000);
        unaligned.reaches(4600); // within what there is
        for (range, goes_on) in [
            (5000..5001, true),
            (5000..20_000, true),
            (4096..4100, true), // all of that block has to be left to the page cache
            (4095..5001, false), // begins before it
            (5001..5002, false), // leaves a hole
            (0..10, false),
        ] {
            assert_eq!(unaligned.goes_on(&range, 4096), goes_on, "{range:?}");
        }
    }

    #[test]
    fn what_is_written_is_a_part_of_the_memory() {
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
