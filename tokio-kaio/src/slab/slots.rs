//! [`Slots`]: the slots of a context, the queue, and the changes of state.

use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::slot::{NO_SLOT, Slot, SlotKey, SlotState};
use crate::backend::Sqe;
use crate::op::{FileId, IoBuffer, IoOp, OpenFile, Outcome};
use crate::policy::{SubmitPath, SubmitPlan};
use crate::sync::contain;
use crate::sys::abi::RWF_NOWAIT;

/// A slab of slots. The free list and the submission queue (FIFO) are linked through the slots by index.
/// The slab grows to the largest number of requests that existed at once, and never shrinks, so a request
/// needs no allocation.
///
/// A future identifies its slot by [`SlotKey`], the kernel by `user_data`. Both are checked when they are
/// looked up: a stale or invalid one finds no slot.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    first_free: u32,
    first_queued: u32,
    last_queued: u32,
    queued: usize,
    in_flight: usize,
    /// Number of requests in flight that are abandoned.
    abandoned: usize,
    /// Number of requests in flight whose completion is not signalled.
    unsignalled: usize,
    measure_latency: bool,
}

/// Most slots that are allocated in advance.
const MAX_PREALLOCATED: usize = 256;

impl Slots {
    pub(crate) fn new(capacity: usize, measure_latency: bool) -> Slots {
        let mut slots = Slots {
            slots: Vec::new(),
            first_free: NO_SLOT,
            first_queued: NO_SLOT,
            last_queued: NO_SLOT,
            queued: 0,
            in_flight: 0,
            abandoned: 0,
            unsignalled: 0,
            measure_latency,
        };
        slots.reserve(capacity.min(MAX_PREALLOCATED));
        slots
    }

    /// Adds `count` free slots.
    fn reserve(&mut self, count: usize) {
        self.slots.reserve(count);
        for _ in 0..count {
            let index = self.slots.len() as u32;
            self.slots.push(Slot {
                next: self.first_free,
                ..Slot::free()
            });
            self.first_free = index;
        }
    }

    // Lookups.

    /// Number of requests in the queue.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Number of requests in flight: in the kernel or in the blocking pool, including abandoned requests.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned
    }

    pub(crate) fn unsignalled(&self) -> usize {
        self.unsignalled
    }

    #[inline(always)]
    pub(crate) fn at(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// Returns the slot of a request, or `None` if the slot was freed: it has another generation then.
    #[inline(always)]
    pub(crate) fn get(&mut self, key: SlotKey) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot)
    }

    pub(crate) fn key(&self, index: u32) -> SlotKey {
        let generation = self.slots[index as usize].generation;
        SlotKey { index, generation }
    }

    /// Returns the slot whose request is in flight with this `user_data`.
    #[inline(always)]
    pub(crate) fn find_in_flight(&mut self, user_data: u64) -> Option<u32> {
        let index = user_data as u32;
        let slot = self.slots.get(index as usize)?;
        let attempt = (user_data >> 32) as u32;
        (slot.attempt == attempt && slot.is_in_flight()).then_some(index)
    }

    /// Returns whether the request of any of `entries` is in flight.
    pub(crate) fn is_any_in_flight(&mut self, entries: &[Sqe]) -> bool {
        let mut entries = entries.iter();
        self.in_flight > 0 && entries.any(|sqe| self.find_in_flight(sqe.user_data).is_some())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotKey, &Slot)> {
        let keyed = |(index, slot): (usize, &'_ Slot)| SlotKey {
            index: index as u32,
            generation: slot.generation,
        };
        let slots = self.slots.iter().enumerate();
        slots.map(move |(index, slot)| (keyed((index, slot)), slot))
    }

    /// Returns the indices of all slots, in any state.
    pub(crate) fn indices(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }

    // Changes.

    /// Allocates a slot for a new request. The slot takes `buffer`. The caller must set the state with
    /// [`enqueue`](Slots::enqueue), [`hold`](Slots::hold) or [`launch`](Slots::launch).
    #[inline(always)]
    pub(crate) fn allocate(
        &mut self,
        op: &IoOp,
        file_id: FileId,
        file: Option<Arc<OpenFile>>,
        buffer: &mut IoBuffer,
    ) -> (SlotKey, &mut Slot) {
        if self.first_free == NO_SLOT {
            self.reserve(self.slots.len().max(1));
        }
        let index = self.first_free;
        let admitted_at = self.measure_latency.then(Instant::now);
        let slot = &mut self.slots[index as usize];
        self.first_free = slot.next;
        slot.op = *op;
        slot.file_id = file_id;
        slot.admitted_at = admitted_at;
        // Both were empty, so there is nothing to drop.
        mem::forget(mem::replace(&mut slot.file, file));
        mem::forget(mem::replace(&mut slot.buffer, buffer.take()));
        let generation = slot.generation;
        (SlotKey { index, generation }, slot)
    }

    /// *→ Queued*, at the end of the queue.
    pub(crate) fn enqueue(&mut self, index: u32) {
        let last = mem::replace(&mut self.last_queued, index);
        let slot = self.at(index);
        slot.state = SlotState::Queued;
        (slot.previous, slot.next) = (last, NO_SLOT);
        match last {
            NO_SLOT => self.first_queued = index,
            last => self.at(last).next = index,
        }
        self.queued += 1;
    }

    /// *→ Queued*, at the front of the queue.
    pub(crate) fn enqueue_first(&mut self, index: u32) {
        let first = mem::replace(&mut self.first_queued, index);
        let slot = self.at(index);
        slot.state = SlotState::Queued;
        (slot.previous, slot.next) = (NO_SLOT, first);
        match first {
            NO_SLOT => self.last_queued = index,
            first => self.at(first).previous = index,
        }
        self.queued += 1;
    }

    /// *→ Held*, behind another append. The caller keeps the order of the appends.
    pub(crate) fn hold(&mut self, index: u32) {
        self.at(index).state = SlotState::Held;
    }

    /// Removes the first request from the queue. The caller must set the state.
    #[inline]
    pub(crate) fn pop_queued(&mut self) -> Option<u32> {
        let first = self.first_queued;
        (first != NO_SLOT).then(|| self.dequeue(first))?;
        Some(first)
    }

    pub(crate) fn last_queued(&self) -> Option<u32> {
        (self.last_queued != NO_SLOT).then_some(self.last_queued)
    }

    /// Removes a request from the queue. The caller must set the state.
    pub(crate) fn dequeue(&mut self, index: u32) {
        let slot = self.at(index);
        let (previous, next) = (slot.previous, slot.next);
        match previous {
            NO_SLOT => self.first_queued = next,
            previous => self.at(previous).next = next,
        }
        match next {
            NO_SLOT => self.last_queued = previous,
            next => self.at(next).previous = previous,
        }
        self.queued -= 1;
    }

    /// *→ InFlight*. Returns the entry, on descriptor `fd`, which the caller must submit.
    #[inline(always)]
    pub(crate) fn launch(&mut self, index: u32, plan: SubmitPlan, fd: i32) -> Sqe {
        self.in_flight += 1;
        let slot = self.at(index);
        slot.state = SlotState::InFlight;
        slot.plan = plan;
        slot.next_attempt(index, fd)
    }

    /// Prepares the second submission of a request in flight, after a refused attempt with `RWF_NOWAIT`.
    /// Returns the entry, which the caller must offload.
    pub(crate) fn relaunch(&mut self, index: u32, fd: i32) -> Sqe {
        let slot = self.at(index);
        slot.plan.path = SubmitPath::Offload;
        let unsignalled = mem::take(&mut slot.unsignalled);
        let sqe = slot.next_attempt(index, fd);
        self.unsignalled -= usize::from(unsignalled);
        sqe
    }

    /// Marks the requests of `entries` that are still in flight as unsignalled. Returns whether any are.
    pub(crate) fn mark_unsignalled(&mut self, entries: &[Sqe]) -> bool {
        let mut any = false;
        for sqe in entries {
            if let Some(index) = self.find_in_flight(sqe.user_data) {
                let known = mem::replace(&mut self.at(index).unsignalled, true);
                self.unsignalled += usize::from(!known);
                any = true;
            }
        }
        any
    }

    /// Ends the flight of a request. The caller must set the state. Returns whether it was abandoned.
    #[inline(always)]
    pub(crate) fn leave_flight(&mut self, index: u32) -> bool {
        let slot = self.at(index);
        debug_assert!(slot.is_in_flight());
        let abandoned = slot.state == SlotState::Abandoned;
        let unsignalled = mem::take(&mut slot.unsignalled);
        self.unsignalled -= usize::from(unsignalled);
        self.abandoned -= usize::from(abandoned);
        self.in_flight -= 1;
        abandoned
    }

    /// *InFlight → Abandoned*. Returns the replacement of the memory, for the caller's buffer.
    pub(crate) fn abandon(&mut self, index: u32) -> IoBuffer {
        self.abandoned += 1;
        let slot = self.at(index);
        slot.state = SlotState::Abandoned;
        slot.buffer.replacement()
    }

    /// *Completed → Free*. Moves the memory into `buffer`, which must be empty. Returns `None`, and changes
    /// nothing, if the request has not completed.
    #[inline(always)]
    pub(crate) fn take_completed(
        &mut self,
        key: SlotKey,
        buffer: &mut IoBuffer,
    ) -> Option<Outcome> {
        let first_free = self.first_free;
        let slot = self.get(key)?;
        let SlotState::Completed(outcome) = slot.state else {
            return None;
        };
        mem::swap(&mut slot.buffer, buffer);
        slot.set_free(first_free);
        self.first_free = key.index;
        Some(outcome)
    }

    /// Sets the waker of a request that is not done. Returns a waker for the caller to drop, if any.
    #[inline]
    pub(crate) fn set_waker(&mut self, key: SlotKey, waker: Waker) -> Option<Waker> {
        match self.get(key) {
            Some(slot) if slot.state == SlotState::InFlight || slot.is_waiting() => {
                slot.waker.replace(waker)
            }
            _ => Some(waker),
        }
    }

    /// Takes the waker of a request.
    pub(crate) fn take_waker(&mut self, key: SlotKey) -> Option<Waker> {
        self.get(key)?.waker.take()
    }

    /// *→ Free*. Returns the memory. The caller must have taken file and waker before.
    pub(crate) fn free(&mut self, index: u32) -> IoBuffer {
        let first_free = mem::replace(&mut self.first_free, index);
        let slot = self.at(index);
        slot.set_free(first_free);
        slot.buffer.take()
    }
}

impl Drop for Slots {
    /// Drops the memory of forgotten operations. A panic there affects no other memory, nor the caller.
    fn drop(&mut self) {
        for slot in &mut self.slots {
            let buffer = slot.buffer.take();
            contain(|| drop(buffer));
        }
    }
}

impl Slot {
    #[inline(always)]
    fn set_free(&mut self, next: u32) {
        debug_assert!(self.waker.is_none() && self.file.is_none() && !self.has_append_turn);
        self.state = SlotState::Free;
        self.generation = self.generation.wrapping_add(1);
        self.next = next;
    }

    /// Returns the entry of the next submission.
    #[inline(always)]
    fn next_attempt(&mut self, index: u32, fd: i32) -> Sqe {
        self.attempt = self.attempt.wrapping_add(1);
        let mut sqe = self.op.sqe(fd, &self.buffer, self.user_data(index));
        if self.plan.nowait().is_some() {
            sqe.rw_flags |= RWF_NOWAIT;
        }
        sqe
    }
}

#[cfg(all(test, not(kaio_loom)))]
impl Slots {
    /// Returns the indices in the free list, first to last.
    pub(crate) fn free_list(&self) -> Vec<u32> {
        self.linked(self.first_free)
    }

    /// Returns the indices in the queue, first to last. Asserts that the backward links match.
    pub(crate) fn queue(&self) -> Vec<u32> {
        let queue = self.linked(self.first_queued);
        let mut previous = NO_SLOT;
        for &index in &queue {
            assert_eq!(self.slots[index as usize].previous, previous);
            previous = index;
        }
        assert_eq!(self.last_queued, previous);
        queue
    }

    fn linked(&self, first: u32) -> Vec<u32> {
        let mut indices = Vec::new();
        let mut next = first;
        while next != NO_SLOT {
            assert!(indices.len() < self.slots.len(), "the list has a loop");
            indices.push(next);
            next = self.slots[next as usize].next;
        }
        indices
    }
}
