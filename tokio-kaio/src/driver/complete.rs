//! Completion: reaps completions, finds their slots, and wakes the futures.

use std::mem;
use std::os::fd::AsRawFd;
use std::task::{Poll, Waker};

use super::Entered;
use super::core::Core;
use crate::backend::{Completion, Completions, IoBackend};
use crate::config::ContextTypes;
use crate::deferred::Deferred;
use crate::metrics::ReapSource;
use crate::op::{IoBuffer, Outcome, SubmissionEntry};
use crate::policy::{NowaitResult, Refusal, SubmitAdvisor};
use crate::slab::{SlotKey, SlotState};
use crate::sync::drop_contained;
use crate::trace::TraceEvent;

impl<T: ContextTypes> Core<T> {
    /// Reaps one batch of completions from the backend. Returns whether there were any.
    #[inline(never)]
    pub(super) fn reap(&mut self, source: ReapSource, deferred: &mut Deferred<T::Backend>) -> bool {
        if self.offload.has_returned() {
            self.take_returned(source, deferred);
        }
        let Some(live) = self.phase.live() else {
            return false;
        };
        let mut completions = Completions::new();
        if let Err(error) = live.backend.reap(&mut completions) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.orphan(Outcome::Lost(errno), deferred);
            return false;
        }
        deferred.after_reap(live.backend.after_reap());
        if completions.is_empty() {
            return false;
        }
        self.counters.reaped[source as usize] += completions.len() as u64;
        for &Completion { user_data, result } in &completions {
            // It may be a duplicate, or invalid: the kernel is not trusted.
            let matched = self.complete(user_data, Outcome::Completed(result), deferred);
            self.counters.unmatched_completions += u64::from(!matched);
        }
        self.reap_seq = self.reap_seq.wrapping_add(1);
        deferred.more_completions |= completions.is_full();
        self.request_flush(deferred);
        true
    }

    /// Reaps all completions from the backend.
    pub(super) fn reap_all(&mut self, source: ReapSource, deferred: &mut Deferred<T::Backend>) {
        while self.reap(source, deferred) && mem::take(&mut deferred.more_completions) {}
    }

    /// Completes a request in flight, or offloads it if `outcome` is the refusal of an attempt with
    /// `RWF_NOWAIT`. Returns `false` if no request is in flight with this `user_data`.
    #[inline(always)]
    pub(super) fn complete(
        &mut self,
        user_data: u64,
        outcome: Outcome,
        deferred: &mut Deferred<T::Backend>,
    ) -> bool {
        let Some(index) = self.slots.find_in_flight(user_data) else {
            return false;
        };
        let slot = self.slots.at(index);
        if slot.plan.nowait().is_some() && self.resubmit_if_refused(index, outcome, deferred) {
            return true;
        }
        match outcome {
            Outcome::Completed(result) => {
                self.counters.record_completion(result);
                let admitted_at = self.slots.at(index).admitted_at;
                if let (Some(latency), Some(admitted_at)) = (&mut self.latency, admitted_at) {
                    latency.record(admitted_at.elapsed());
                }
            }
            Outcome::Refused(_) => self.counters.failed += 1,
            Outcome::Stopped | Outcome::Lost(_) => {}
        }
        let abandoned = self.slots.leave_flight(index);
        self.finish(index, (!abandoned).then_some(outcome), deferred);
        true
    }

    /// Ends a request that is no longer queued, held or in flight. With an outcome: *→ Completed*, and its
    /// future is woken. Without: *→ Free*.
    #[inline(always)]
    pub(super) fn finish(
        &mut self,
        index: u32,
        outcome: Option<Outcome>,
        deferred: &mut Deferred<T::Backend>,
    ) {
        let slot = self.slots.at(index);
        deferred.drop_file(slot.file.take());
        deferred.wake(slot.waker.take());
        if let (Some(outcome), false) = (outcome, slot.has_append_turn) {
            slot.state = SlotState::Completed(outcome);
            if self.drains.is_empty() {
                return;
            }
        }
        self.finish_rare(index, outcome, deferred);
    }

    /// The rest of [`finish`](Core::finish), for appends, drains and abandoned requests.
    #[inline(never)]
    fn finish_rare(
        &mut self,
        index: u32,
        outcome: Option<Outcome>,
        deferred: &mut Deferred<T::Backend>,
    ) {
        self.pass_append_turn(index, deferred);
        let key = self.slots.key(index);
        self.drains
            .on_request_done(key, |waker| deferred.wake(waker));
        match outcome {
            Some(outcome) => self.slots.at(index).state = SlotState::Completed(outcome),
            None => {
                let buffer = self.slots.free(index);
                deferred.drop_buffer(buffer);
            }
        }
    }

    /// Offloads a request, which stays in flight, if `outcome` is the refusal of an attempt with
    /// `RWF_NOWAIT`. Returns whether it did. An abandoned write is submitted again, an abandoned read is not.
    #[inline(never)]
    fn resubmit_if_refused(
        &mut self,
        index: u32,
        outcome: Outcome,
        deferred: &mut Deferred<T::Backend>,
    ) -> bool {
        let slot = self.slots.at(index);
        let (op, state) = (slot.op, slot.state);
        let (Some(attempt), Some(file)) = (slot.plan.nowait(), slot.file.clone()) else {
            return false;
        };
        let result = match outcome {
            Outcome::Completed(result) => NowaitResult::Completed(result),
            Outcome::Refused(errno) => NowaitResult::Rejected(errno),
            Outcome::Stopped | Outcome::Lost(_) => return false,
        };
        if state == SlotState::Abandoned && !op.is_write() {
            return false;
        }
        let (info, advisor) = (op.info(), &mut self.advisor);
        let Some(refusal) = advisor.on_nowait_result(&info, file.history(), attempt, result) else {
            return false;
        };
        if refusal == Refusal::Short && op.is_write() && file.has_append_flag() {
            return false; // the kernel has appended a part, and a second write would append it again
        }
        self.counters.nowait_refusals += 1;
        let fd = file.as_raw_fd();
        deferred.events.push(|| TraceEvent::NowaitRefused {
            fd,
            op,
            unsupported: refusal.is_unsupported_flag(),
        });
        let sqe = self.slots.relaunch(index, fd);
        let mut entry = SubmissionEntry::new(sqe, file, Some(attempt.class));
        entry.resubmitted = matches!(outcome, Outcome::Completed(_));
        self.offload(entry, deferred);
        true
    }

    /// Handles the requests that the offload pool returned.
    #[cold]
    fn take_returned(&mut self, source: ReapSource, deferred: &mut Deferred<T::Backend>) {
        let returned = self.offload.take_returned();
        self.counters.completed += returned.resubmitted; // their attempts were counted as submitted
        for (user_data, outcome) in returned.done {
            let reaped = matches!(outcome, Outcome::Completed(_));
            self.counters.reaped[source as usize] += u64::from(reaped);
            self.complete(user_data, outcome, deferred);
            self.request_flush(deferred);
        }
        self.cancel_unwanted_waits(returned.waits.into_iter());
        if !returned.unsent.is_empty() {
            // Completions reaped during the submission have made room. If they were reaped before it,
            // this costs one more submission.
            let reaped = mem::replace(&mut self.no_room_at, self.reap_seq) != self.reap_seq;
            self.put_back(returned.unsent, reaped, deferred);
        }
    }

    /// *Held → Queued*, for the next append to the file, if the request in slot `index` had the turn.
    #[cold]
    pub(super) fn pass_append_turn(&mut self, index: u32, deferred: &mut Deferred<T::Backend>) {
        let slot = self.slots.at(index);
        if !mem::take(&mut slot.has_append_turn) {
            return;
        }
        let file = slot.file_id;
        if let Some(next) = self.append_order.pass_turn(file) {
            self.slots.at(next).has_append_turn = true;
            self.slots.enqueue_first(next);
            self.request_flush(deferred);
        }
    }
}

impl<T: ContextTypes> Entered<'_, T> {
    /// If a request is known to have completed, returns its outcome, and moves its memory into `buffer`,
    /// which must be empty. Does not reap.
    #[inline(always)]
    pub(crate) fn take_completed(&self, key: SlotKey, buffer: &mut IoBuffer) -> Option<Outcome> {
        self.lock().slots.take_completed(key, buffer)
    }

    /// Reaps. If the request has completed, returns its outcome, and moves its memory into `buffer`, which
    /// must be empty. Otherwise `waker` is woken when it completes.
    #[inline(never)]
    pub(crate) fn poll(&self, key: SlotKey, waker: &Waker, buffer: &mut IoBuffer) -> Poll<Outcome> {
        let mut unneeded = None;
        let (completed, is_set) = self.with(|core, deferred| {
            let known = core.slots.take_waker(key); // the reap need not wake the current task
            core.reap(ReapSource::Poll, deferred);
            let completed = core.slots.take_completed(key, buffer);
            match known {
                Some(known) if completed.is_none() && known.will_wake(waker) => {
                    unneeded = core.slots.set_waker(key, known);
                    (None, true)
                }
                known => {
                    unneeded = known;
                    (completed, false)
                }
            }
        });
        drop_contained(unneeded);
        if let Some(outcome) = completed {
            return Poll::Ready(outcome);
        }
        if is_set {
            return Poll::Pending;
        }
        let waker = waker.clone(); // callers' code: not under the lock
        let (completed, unneeded) = self.with(|core, _| {
            let unneeded = core.slots.set_waker(key, waker);
            (core.slots.take_completed(key, buffer), unneeded)
        });
        drop_contained(unneeded);
        completed.map_or(Poll::Pending, Poll::Ready)
    }
}
