//! Abandoned requests: requests whose future was dropped or has timed out.

use super::Entered;
use super::core::Core;
use crate::backend::Submitter;
use crate::config::ContextTypes;
use crate::deferred::Deferred;
use crate::metrics::ReapSource;
use crate::op::IoBuffer;
use crate::policy::SubmitPath;
use crate::slab::{SlotKey, SlotState};

impl<T: ContextTypes> Core<T> {
    /// Abandons a request. Returns its memory for the caller's buffer, or a replacement if the kernel still
    /// uses the memory.
    fn abandon(&mut self, key: SlotKey, deferred: &mut Deferred<T::Backend>) -> IoBuffer {
        let Some(slot) = self.slots.get(key) else {
            return IoBuffer::None;
        };
        deferred.drop_waker(slot.waker.take());
        let state = slot.state;
        match state {
            SlotState::Queued | SlotState::Held => {
                self.remove_waiting(key.index);
                self.take_back(key.index, deferred)
            }
            SlotState::InFlight if self.recall(key.index, deferred) => {
                self.take_back(key.index, deferred)
            }
            SlotState::InFlight => self.abandon_in_flight(key.index),
            SlotState::Completed(_) => self.slots.free(key.index),
            SlotState::Abandoned | SlotState::Free => IoBuffer::None,
        }
    }

    /// *→ Free*, for a request that was not submitted. Returns its memory.
    fn take_back(&mut self, index: u32, deferred: &mut Deferred<T::Backend>) -> IoBuffer {
        let buffer = self.slots.at(index).buffer.take();
        self.finish(index, None, deferred);
        self.request_flush(deferred); // a slot is free
        buffer
    }

    fn abandon_in_flight(&mut self, index: u32) -> IoBuffer {
        let slot = self.slots.at(index);
        let user_data = slot.user_data(index);
        if slot.op.opcode.waits() || self.capabilities.cancels_transfers {
            self.submitter.cancel(user_data); // the completion frees the slot
        }
        self.counters.abandoned += 1;
        self.slots.abandon(index)
    }

    /// Removes a waiting request from the queue or from the held appends. The caller sets the state.
    pub(super) fn remove_waiting(&mut self, index: u32) {
        let slot = self.slots.at(index);
        let (state, file_id) = (slot.state, slot.file_id);
        match state {
            SlotState::Held => self.append_order.remove(file_id, index),
            _ => self.slots.dequeue(index),
        }
    }

    /// Withdraws a request from the offload pool, unless it was submitted, or is a write: once launched,
    /// a write goes on, on every path. Returns whether it did.
    fn recall(&mut self, index: u32, deferred: &mut Deferred<T::Backend>) -> bool {
        let slot = self.slots.at(index);
        if slot.plan.path != SubmitPath::Offload {
            return false;
        }
        let user_data = slot.user_data(index);
        let Some(entry) = self.offload.recall(user_data) else {
            return false;
        };
        self.counters.completed += u64::from(entry.resubmitted); // its attempt was counted as submitted
        deferred.drop_file(Some(entry.file));
        self.slots.leave_flight(index);
        true
    }

    /// Cancels those of `requests` that [wait](crate::backend::OpCode::waits) and are abandoned, or all that wait
    /// if the context is stopping. Must be called after each submission: a request can't be cancelled before it
    /// is submitted.
    pub(super) fn cancel_unwanted_waits(&mut self, requests: impl Iterator<Item = u64>) {
        let stopping = !self.phase.is_open();
        for user_data in requests {
            let Some(index) = self.slots.find_in_flight(user_data) else {
                continue;
            };
            let slot = self.slots.at(index);
            if slot.op.opcode.waits() && (stopping || slot.state == SlotState::Abandoned) {
                self.submitter.cancel(user_data);
            }
        }
    }
}

impl<T: ContextTypes> Entered<'_, T> {
    /// Abandons a request. Returns its memory, or a replacement if the kernel still uses the memory.
    pub(crate) fn abandon(&self, key: SlotKey) -> IoBuffer {
        self.with(|core, deferred| {
            core.reap_all(ReapSource::Other, deferred); // it may have completed
            core.abandon(key, deferred)
        })
    }
}
