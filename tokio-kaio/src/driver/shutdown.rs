//! Shutdown of a context.
//!
//! ```text
//!  Open ── closed or dropped ──► Stopping ── last request done ───────────────────► Gone
//!   ├───────────────────────────────┘                                                 ▲
//!   └── driver task or runtime gone, reap failed ──► Orphaned ── nothing submitting ──┘
//! ```
//!
//! A short-lived thread releases the resources of the context, because `io_destroy(2)` sleeps
//! ([`Teardown`]).

use std::mem;
use std::sync::Arc;

use super::core::{Core, Phase};
use super::{Driver, Entered};
use crate::backend::Submitter;
use crate::config::ContextTypes;
use crate::deferred::Deferred;
use crate::metrics::ReapSource;
use crate::op::Outcome;
use crate::slab::SlotState;
use crate::teardown::Teardown;

impl<T: ContextTypes> Core<T> {
    fn stop(&mut self, deferred: &mut Deferred<T::Backend>) {
        self.phase = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) => Phase::Stopping(live),
            other => other,
        };
        if self.phase.live().is_some() {
            self.stop_waits(deferred);
        }
        // Requests that wait for a slot are stopped, the youngest first.
        while self.waiting() + self.slots.in_flight() > self.config.capacity {
            let last = self.append_order.pop_last();
            match last.or_else(|| self.slots.last_queued()) {
                Some(index) => self.stop_waiting(index, deferred),
                None => break,
            }
        }
        self.reap(ReapSource::Other, deferred);
        self.request_flush(deferred);
    }

    /// Stops or cancels all polls and opens, which might never complete.
    fn stop_waits(&mut self, deferred: &mut Deferred<T::Backend>) {
        for index in self.slots.indices() {
            let slot = self.slots.at(index);
            if !slot.op.opcode.waits() {
                continue;
            }
            if slot.state == SlotState::Queued {
                self.stop_waiting(index, deferred);
            } else if slot.is_in_flight() {
                let user_data = slot.user_data(index);
                self.submitter.cancel(user_data);
            }
        }
    }

    /// *Queued or Held → Completed*, with [`Outcome::Stopped`].
    fn stop_waiting(&mut self, index: u32, deferred: &mut Deferred<T::Backend>) {
        self.remove_waiting(index);
        self.finish(index, Some(Outcome::Stopped), deferred);
    }

    /// Ends the context at once. Requests in flight get `outcome`; waiting requests are stopped.
    pub(super) fn orphan(&mut self, outcome: Outcome, deferred: &mut Deferred<T::Backend>) {
        let live = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) | Phase::Stopping(live) => live,
            other => {
                self.phase = other;
                return;
            }
        };
        let mut memory = Vec::new();
        for index in self.slots.indices() {
            let slot = self.slots.at(index);
            slot.has_append_turn = false; // nothing is submitted any more
            if slot.is_waiting() {
                self.stop_waiting(index, deferred);
            } else if slot.is_in_flight() {
                let replacement = slot.buffer.replacement();
                memory.push(mem::replace(&mut slot.buffer, replacement));
                let abandoned = self.slots.leave_flight(index);
                self.finish(index, (!abandoned).then_some(outcome), deferred);
            }
        }
        self.drains.finish_all(|waker| deferred.wake(waker));
        self.phase = Phase::Orphaned(live, memory);
    }

    /// Starts the teardown if the context is ending and nothing needs the backend any more.
    #[inline]
    pub(super) fn end_if_due(&mut self, deferred: &mut Deferred<T::Backend>) {
        if !self.phase.is_open() {
            self.try_to_end(deferred);
        }
    }

    #[cold]
    fn try_to_end(&mut self, deferred: &mut Deferred<T::Backend>) {
        if self.submitting > 0 {
            return;
        }
        let idle = self.slots.in_flight() == 0 && self.waiting() == 0;
        let (live, memory) = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Stopping(live) if idle => (live, Vec::new()),
            Phase::Orphaned(live, memory) => (live, memory),
            phase => {
                self.phase = phase;
                return;
            }
        };
        deferred.teardown = Some(Box::new(Teardown {
            live,
            offload: Arc::clone(&self.offload),
            memory,
        }));
        deferred.wake_driver = true;
    }
}

impl<T: ContextTypes> Entered<'_, T> {
    /// Stops admitting requests. The context ends when the last request is done.
    pub(crate) fn stop(&self) {
        self.with(|core, deferred| core.stop(deferred));
    }

    /// Ends the context at once, because nothing drives it any more.
    pub(crate) fn orphan(&self) {
        self.with(|core, deferred| core.orphan(Outcome::Stopped, deferred));
    }

    /// Returns whether completions are still reaped.
    pub(crate) fn is_live(&self) -> bool {
        self.lock().phase.live().is_some()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().phase.is_open()
    }
}

impl<T: ContextTypes> Drop for Driver<T> {
    fn drop(&mut self) {
        match self.enter() {
            Ok(driver) => driver.orphan(),
            // Backend and eventfd belong to the parent. Dropping the eventfd would remove it from the
            // epoll instance that the child shares with the parent.
            Err(_) => mem::forget(mem::replace(&mut self.core.get_mut().phase, Phase::Gone)),
        }
    }
}
