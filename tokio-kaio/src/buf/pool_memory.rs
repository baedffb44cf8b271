//! [`PoolMemory`]: the memory of a [`BufferPool`](super::BufferPool), which its buffers keep alive.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use tokio::sync::Semaphore;

use crate::sys::{Mapping, Process};

/// The memory of a pool, divided into entries of one size.
pub(super) struct PoolMemory {
    /// `count` times `stride` bytes.
    pub(super) mapping: ManuallyDrop<Mapping>,
    pub(super) owner: Process,
    pub(super) stride: usize,
    pub(super) count: usize,
    /// Has at least as many entries as there are permits.
    pub(super) free: Mutex<FreeList>,
    pub(super) permits: Semaphore,
}

/// The indexes of the free entries.
pub(super) struct FreeList {
    /// Entries that were in use before. Has capacity for all entries.
    returned: Vec<u32>,
    /// Entries that were never in use.
    unused: Range<u32>,
}

/// The memory of one buffer. Dropping it makes the entry free again.
pub(super) struct PoolEntry {
    pub(super) pool: Arc<PoolMemory>,
    pub(super) index: u32,
}

impl PoolMemory {
    pub(super) fn free(&self) -> MutexGuard<'_, FreeList> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FreeList {
    /// A list of `count` entries, all of them free.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(count: u32) -> io::Result<FreeList> {
        let mut returned = Vec::new();
        let reserved = returned.try_reserve_exact(count as usize);
        reserved.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(FreeList {
            returned,
            unused: 0..count,
        })
    }

    /// Takes the entry that was in use last, whose memory is most likely cached.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.returned.pop().or_else(|| self.unused.next())
    }
}

impl Drop for PoolMemory {
    fn drop(&mut self) {
        // A forked child did not inherit the mapping; its addresses may belong to something else.
        if self.owner == Process::current() {
            // SAFETY: dropped only here. No buffer is left, since each has a `PoolEntry`, which owns the
            // pool.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

impl Drop for PoolEntry {
    fn drop(&mut self) {
        self.pool.free().returned.push(self.index);
        // Wakes a waiting `get`, so it comes after the lock is released.
        self.pool.permits.add_permits(1);
    }
}

impl fmt::Debug for PoolEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolEntry").field(&self.index).finish()
    }
}
