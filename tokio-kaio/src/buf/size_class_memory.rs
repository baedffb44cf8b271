//! [`SizeClassMemory`]: the memory of a [`SizeClassPool`](super::SizeClassPool), which its buffers keep alive.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::LockedBufError;
use super::buddy_allocator::BuddyAllocator;
use crate::sys::{Mapping, Process};

/// The memory of a pool, in units of the smallest buffer.
pub(super) struct SizeClassMemory {
    /// Bytes of a unit.
    pub(super) unit: usize,
    /// Number of units.
    pub(super) units: u32,
    pub(super) owner: Process,
    state: Mutex<PoolState>,
    /// Held by the first call of those that wait. The others wait for this lock, which is fair.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Wakes the call that has the turn.
    pub(super) returned: Notify,
    mapped_afresh: AtomicU64,
}

struct PoolState {
    /// `None`: not mapped yet.
    heap: Option<Heap>,
    /// Number of calls that wait, including the one that has the turn.
    waiting: usize,
    /// Units in use.
    in_use: u32,
    /// Number of buffers in use.
    buffers: usize,
    /// Number of buffers taken so far.
    taken: u64,
}

struct Heap {
    /// `units` times `unit` bytes.
    mapping: ManuallyDrop<Mapping>,
    allocator: BuddyAllocator,
}

/// The numbers of a pool at one moment.
#[derive(Default)]
pub(super) struct PoolUse {
    pub(super) in_use: u32,
    pub(super) buffers: usize,
    pub(super) taken: u64,
    pub(super) waiting: usize,
}

/// The memory of one buffer, which returns to the pool when dropped.
pub(super) struct SizeClassBlock {
    pool: Arc<SizeClassMemory>,
    start: u32,
    units: u32,
}

impl SizeClassMemory {
    /// The memory of `units` units of `unit` bytes. It is mapped by `map` when it is first used.
    pub(super) fn new(unit: usize, units: u32) -> SizeClassMemory {
        SizeClassMemory {
            unit,
            units,
            owner: Process::current(),
            state: Mutex::new(PoolState {
                heap: None,
                waiting: 0,
                in_use: 0,
                buffers: 0,
                taken: 0,
            }),
            turn: tokio::sync::Mutex::new(()),
            returned: Notify::new(),
            mapped_afresh: AtomicU64::new(0),
        }
    }

    /// Whether this process has made the pool. A forked child has not: it did not inherit the memory, and
    /// another thread of its parent may have held the locks.
    pub(super) fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }

    /// Maps the memory, unless it is mapped.
    pub(super) fn ensure_mapped(
        &self,
        map: impl FnOnce() -> Result<Mapping, LockedBufError>,
    ) -> Result<(), LockedBufError> {
        self.state().heap(self.units, map).map(drop)
    }

    /// The address of the memory, which is mapped if it is not yet.
    pub(super) fn start(
        &self,
        map: impl FnOnce() -> Result<Mapping, LockedBufError>,
    ) -> Result<NonNull<u8>, LockedBufError> {
        Ok(self.state().heap(self.units, map)?.mapping.start())
    }

    /// Takes `units` units, unless other calls wait for memory. The caller has the turn, or does not wait.
    ///
    /// # Errors
    ///
    /// Those of `map`, which is called if the memory is not mapped yet.
    pub(super) fn take(
        self: &Arc<Self>,
        units: u32,
        has_turn: bool,
        map: impl FnOnce() -> Result<Mapping, LockedBufError>,
    ) -> Result<Option<(NonNull<u8>, SizeClassBlock)>, LockedBufError> {
        let mut state = self.state();
        if state.waiting > 0 && !has_turn {
            return Ok(None);
        }
        let heap = state.heap(self.units, map)?;
        let Some(start) = heap.allocator.take(units) else {
            return Ok(None);
        };
        let address = heap.mapping.start();
        state.in_use += units;
        state.buffers += 1;
        state.taken += 1;
        drop(state);
        let block = SizeClassBlock {
            pool: Arc::clone(self),
            start,
            units,
        };
        // SAFETY: the allocator returns units below `self.units`, so the result is within the mapping.
        let address = unsafe { address.add(start as usize * self.unit) };
        Ok(Some((address, block)))
    }

    /// Counts a call that waits until the guard is dropped. Meanwhile no other call takes memory.
    pub(super) fn wait(&self) -> WaitGuard<'_> {
        self.state().waiting += 1;
        WaitGuard(self)
    }

    pub(super) fn count_mapped_afresh(&self) {
        self.mapped_afresh.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mapped_afresh(&self) -> u64 {
        self.mapped_afresh.load(Ordering::Relaxed)
    }

    /// All 0 in a forked child.
    pub(super) fn current_use(&self) -> PoolUse {
        if !self.is_ours() {
            return PoolUse::default();
        }
        let state = self.state();
        PoolUse {
            in_use: state.in_use,
            buffers: state.buffers,
            taken: state.taken,
            waiting: state.waiting,
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    fn heap(
        &mut self,
        units: u32,
        map: impl FnOnce() -> Result<Mapping, LockedBufError>,
    ) -> Result<&mut Heap, LockedBufError> {
        if self.heap.is_none() {
            let allocator = BuddyAllocator::new(units)?;
            let mapping = ManuallyDrop::new(map()?);
            self.heap = Some(Heap { mapping, allocator });
        }
        match &mut self.heap {
            Some(heap) => Ok(heap),
            None => unreachable!("set above"),
        }
    }
}

impl Drop for SizeClassMemory {
    fn drop(&mut self) {
        let is_ours = self.is_ours();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A forked child did not inherit the mapping; its addresses may belong to something else.
        if let (Some(heap), true) = (&mut state.heap, is_ours) {
            // SAFETY: dropped only here. No buffer is left, since each has a `SizeClassBlock`, which owns the
            // pool.
            unsafe { ManuallyDrop::drop(&mut heap.mapping) };
        }
    }
}

impl Drop for SizeClassBlock {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if let Some(heap) = &mut state.heap {
            heap.allocator.release(self.start, self.units);
        }
        state.in_use -= self.units;
        state.buffers -= 1;
        let someone_waits = state.waiting > 0;
        drop(state);
        if someone_waits {
            self.pool.returned.notify_one();
        }
    }
}

impl fmt::Debug for SizeClassBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SizeClassBlock")
            .field("start", &self.start)
            .field("units", &self.units)
            .finish()
    }
}

/// A call that waits for memory.
pub(super) struct WaitGuard<'m>(&'m SizeClassMemory);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        if self.0.is_ours() {
            self.0.state().waiting -= 1;
        }
    }
}
