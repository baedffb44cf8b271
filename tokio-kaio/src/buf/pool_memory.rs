//! [`PoolMemory`]: the memory of a [`BufferPool`](super::BufferPool), which its buffers keep alive.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use tokio::sync::Semaphore;

use crate::sys::{Mapping, Process};

/// The memory of a pool, in places of one size.
pub(super) struct PoolMemory {
    /// `count` times `stride` bytes.
    pub(super) mapping: ManuallyDrop<Mapping>,
    pub(super) owner: Process,
    pub(super) stride: usize,
    pub(super) count: usize,
    /// Never fewer than there are permits.
    pub(super) free: Mutex<FreePlaces>,
    pub(super) permits: Semaphore,
}

/// The places that no buffer has.
pub(super) struct FreePlaces {
    /// Has room for all.
    back: Vec<u32>,
    /// Those that none has had yet.
    fresh: Range<u32>,
}

/// One buffer's place in a pool, which is free again when this is dropped.
pub(super) struct Place {
    pub(super) pool: Arc<PoolMemory>,
    pub(super) index: u32,
}

impl PoolMemory {
    pub(super) fn free(&self) -> MutexGuard<'_, FreePlaces> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FreePlaces {
    /// All of `count`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn of(count: u32) -> io::Result<FreePlaces> {
        let mut back = Vec::new();
        let room = back.try_reserve_exact(count as usize);
        room.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(FreePlaces {
            back,
            fresh: 0..count,
        })
    }

    /// The one that was in use last.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.back.pop().or_else(|| self.fresh.next())
    }
}

impl Drop for PoolMemory {
    fn drop(&mut self) {
        // A forked child does not have the memory; others may be where it was.
        if self.owner == Process::current() {
            // SAFETY: dropped here only. No buffer is left, each would have a `Place`.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.free().back.push(self.index);
        self.pool.permits.add_permits(1); // wakes who waits: not under the lock
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.index).finish()
    }
}
