//! Submission: admits requests, submits them, flushes the queue.
//!
//! A request is admitted under the lock and submitted without it. [`Core::finish_submit`] handles the
//! results of all submissions, except those of the offload pool.

use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Entered;
use super::core::Core;
use crate::backend::{MAX_BATCH, Notify, Sqe, submit_all};
use crate::config::ContextTypes;
use crate::deferred::Deferred;
use crate::metrics::ReapSource;
use crate::op::{IoOp, NewRequest, OpenFile, Outcome, SubmissionEntry, SubmitPermit};
use crate::policy::{
    Observation, SubmitAdvisor, SubmitPath, SubmitPlan, SubmitTimer, SubmitTiming, TimingLevel,
};
use crate::slab::{Admission, SlotKey};
use crate::trace::{self, TraceEvent};

/// The result of a submission.
struct SubmitReport {
    /// Number of entries that were taken or refused. The backend had no room for the rest.
    handled: usize,
    /// The refused entries: `user_data` and errno.
    refused: Vec<(u64, i32)>,
    timing: Option<SubmitTiming>,
}

/// Most batches that one flush submits. The rest of the queue is left to the driver task.
const MAX_BATCHES: usize = 8;

impl<T: ContextTypes> Core<T> {
    /// Admits a request. `may_wait` is false if another shard may have a free slot for it. `may_defer` is
    /// true if the request may be queued to share a system call with others.
    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        new: &mut NewRequest<'_>,
        may_wait: bool,
        may_defer: bool,
        deferred: &mut Deferred<T::Backend>,
    ) -> Admission {
        let mut full = self.free_capacity() == 0;
        if full {
            self.reap(ReapSource::Other, deferred);
            full = self.free_capacity() == 0;
        }
        if !self.phase.is_open() {
            return Admission::Stopped;
        }
        if full && !may_wait {
            return Admission::Full;
        }
        if full {
            self.counters.found_full += 1;
            let slots = self.config.capacity;
            deferred.events.push(|| TraceEvent::FoundFull { slots });
            if !self.config.wait_for_slot {
                return Admission::CapacityExceeded;
            }
        }
        let file = new.file.open_file();
        let held = new.op.appends() && self.append_order.is_taken(new.file.id());
        // Not on a borrowed descriptor: if the future is forgotten, nothing keeps the descriptor open.
        let defer = may_defer
            && !full
            && file.is_some()
            && self.advisor.defer(self.slots.in_flight(), new.task);
        if full || held || defer {
            return self.enqueue(new, full, SubmitPlan::INLINE, deferred);
        }
        let plan = self.plan(new.op, file);
        if plan.path == SubmitPath::Offload {
            return self.enqueue(new, false, plan, deferred);
        }
        // The slot needs the file if the request may be submitted again.
        let kept = file.filter(|_| plan.nowait().is_some()).cloned();
        let key = self.allocate(new, kept);
        new.sqe = Some(self.launch(key.index, plan, new.file.fd(), file));
        new.class = plan.class;
        Admission::Launched(key)
    }

    /// Returns how a request is to be submitted now.
    #[inline(always)]
    fn plan(&self, op: &IoOp, file: Option<&Arc<OpenFile>>) -> SubmitPlan {
        if self.capabilities.blocking_submit {
            return SubmitPlan::OFFLOAD;
        }
        let (history, in_flight) = (file.map(|file| file.history()), self.slots.in_flight());
        self.advisor
            .plan(&op.info(), history, self.submit_seq, in_flight)
    }

    /// Allocates a slot. An append gets the turn of its file, unless another append has the turn.
    #[inline(always)]
    fn allocate(&mut self, new: &mut NewRequest<'_>, file: Option<Arc<OpenFile>>) -> SlotKey {
        let id = new.file.id();
        let (key, slot) = self.slots.allocate(new.op, id, file, new.buffer);
        if new.op.appends() && id.is_known() {
            slot.has_append_turn = self.append_order.take_turn(id);
        }
        key
    }

    /// Admits a request that has to wait: for a slot, for a batch, for another append, or, if `plan` is to
    /// offload, for a blocking thread (in the queue if that is not empty).
    #[inline(never)]
    fn enqueue(
        &mut self,
        new: &mut NewRequest<'_>,
        full: bool,
        plan: SubmitPlan,
        deferred: &mut Deferred<T::Backend>,
    ) -> Admission {
        let Some(file) = new.file.open_file().cloned() else {
            return Admission::NeedsFile;
        };
        let task = new.task;
        let key = self.allocate(new, Some(file));
        let (index, id) = (key.index, new.file.id());
        let slot = self.slots.at(index);
        mem::forget(mem::replace(&mut slot.waker, new.waker.take())); // it was empty
        if new.op.appends() && id.is_known() && !slot.has_append_turn {
            self.append_order.hold(id, index);
            self.slots.hold(index);
            return Admission::Queued(key);
        }
        if plan.path == SubmitPath::Offload && self.slots.queued() == 0 {
            self.launch_offloaded(index, plan, deferred);
            return Admission::Queued(key);
        }
        self.slots.enqueue(index);
        self.advisor.observe(Observation::Queued { task });
        let (queued, in_flight) = (self.slots.queued(), self.slots.in_flight());
        if !full && self.advisor.is_flush_due(queued, in_flight) {
            deferred.flush = true;
        } else {
            self.request_flush(deferred);
        }
        Admission::Queued(key)
    }

    /// *→ InFlight*. Returns the entry, which belongs to the next submission.
    #[inline(always)]
    fn launch(
        &mut self,
        index: u32,
        plan: SubmitPlan,
        fd: i32,
        file: Option<&Arc<OpenFile>>,
    ) -> Sqe {
        let history = file.map(|file| file.history());
        let timing = self.advisor.timing(history, self.submit_seq);
        self.next_timing = self.next_timing.max(timing);
        let sqe = self.slots.launch(index, plan, fd);
        self.next_has_waits |= sqe.opcode.waits();
        sqe
    }

    /// *→ InFlight*. Gives the entry to the offload pool.
    #[cold]
    fn launch_offloaded(
        &mut self,
        index: u32,
        plan: SubmitPlan,
        deferred: &mut Deferred<T::Backend>,
    ) {
        let Some(file) = self.slots.at(index).file.clone() else {
            return debug_assert!(false, "an offloaded request has its file");
        };
        let sqe = self.slots.launch(index, plan, file.as_raw_fd());
        let (fd, op) = (sqe.fd, self.slots.at(index).op);
        let event = || TraceEvent::Offloaded { fd, op };
        deferred.events.push(event);
        self.offload(SubmissionEntry::new(sqe, file, plan.class), deferred);
    }

    /// Gives the entry of a request in flight to the offload pool.
    pub(super) fn offload(&mut self, entry: SubmissionEntry, deferred: &mut Deferred<T::Backend>) {
        self.counters.offloads += 1;
        self.offload.push(entry);
        deferred.dispatch = true;
    }

    /// *Queued → InFlight*, up to `capacity` requests in flight and the size limit of a batch. Offloaded
    /// requests go to the offload pool, the others into `batch`.
    fn launch_queued(
        &mut self,
        batch: &mut ArrayVec<Sqe, MAX_BATCH>,
        deferred: &mut Deferred<T::Backend>,
    ) {
        self.flush_requested = false;
        let queued = self.slots.queued();
        if queued == 0 || self.phase.live().is_none() {
            return;
        }
        self.advisor.observe(Observation::Flushed { queued });
        let (submit_seq, before) = (self.submit_seq, self.slots.in_flight());
        let limit = MAX_BATCH.min(self.advisor.max_batch(before));
        while self.slots.in_flight() < self.config.capacity && batch.len() < limit {
            let Some(index) = self.slots.pop_queued() else {
                break;
            };
            let slot = self.slots.at(index);
            let Some(file) = &slot.file else {
                debug_assert!(false, "a queued request has its file");
                continue;
            };
            let (fd, history, op) = (file.as_raw_fd(), file.history(), slot.op.info());
            let in_flight = before + batch.len();
            let plan = match self.capabilities.blocking_submit {
                true => SubmitPlan::OFFLOAD,
                false => self.advisor.plan(&op, Some(history), submit_seq, in_flight),
            };
            if plan.path == SubmitPath::Offload {
                self.launch_offloaded(index, plan, deferred);
                continue;
            }
            let timing = self.advisor.timing(Some(history), submit_seq);
            self.next_timing = self.next_timing.max(timing);
            self.next_has_waits |= slot.op.opcode.waits();
            batch.push(self.slots.launch(index, plan, fd));
        }
    }

    /// Gives permission to submit the requests that were just launched.
    #[inline(always)]
    fn permit(&mut self) -> SubmitPermit {
        self.submitting += 1;
        self.submit_seq = self.submit_seq.wrapping_add(1);
        let has_waits = mem::take(&mut self.next_has_waits);
        SubmitPermit {
            notify: match has_waits {
                true => Notify::Signal, // it may complete at any time
                false => self.advisor.notify(),
            },
            timing: mem::replace(&mut self.next_timing, TimingLevel::Off),
            has_waits,
            reap_seq: self.reap_seq,
        }
    }

    /// Handles the result of a submission. Returns whether completions were reaped since the permit was
    /// given, here or by another thread.
    #[inline(always)]
    fn finish_submit(
        &mut self,
        permit: &SubmitPermit,
        entries: &[Sqe],
        report: &SubmitReport,
        deferred: &mut Deferred<T::Backend>,
    ) -> bool {
        self.submitting -= 1;
        let taken = report.taken();
        let timing = report.timing.as_ref();
        let time = timing.map(|timing| timing.time);
        self.counters.submissions.record(taken, time);
        for &(user_data, errno) in &report.refused {
            self.refuse(user_data, errno, deferred);
        }
        self.reap(ReapSource::Submission, deferred);
        let reaped = self.reap_seq != permit.reap_seq;
        let (handled, unsent) = entries.split_at(report.handled);
        if !unsent.is_empty() {
            let unsent = unsent.iter().rev().map(|sqe| sqe.user_data);
            self.put_back(unsent.collect(), reaped, deferred);
        }
        if deferred.more_completions && self.slots.is_any_in_flight(handled) {
            self.reap_all(ReapSource::Submission, deferred); // the reap was full
        }
        if taken > 0 {
            let suppressed = permit.notify == Notify::Suppress;
            let any_left = self.slots.in_flight() > 0
                && match suppressed {
                    true => self.slots.mark_unsignalled(handled),
                    false => self.slots.is_any_in_flight(handled),
                };
            deferred.wake_driver |= suppressed && any_left;
            self.advisor.observe(Observation::Submitted {
                requests: handled.len(),
                notify: permit.notify,
                all_completed: !any_left,
            });
        }
        if permit.has_waits {
            self.cancel_unwanted_waits(handled.iter().map(|sqe| sqe.user_data));
        }
        reaped
    }

    /// Records the timing of a flush in the histories of its files.
    #[cold]
    fn observe_flush(&mut self, entries: &[Sqe], timing: &SubmitTiming) {
        for sqe in entries {
            if let Some(index) = self.slots.find_in_flight(sqe.user_data) {
                let slot = self.slots.at(index);
                let history = slot.file.iter().map(|file| file.history());
                history.for_each(|file| file.observe_submit(slot.plan.class, timing.observation));
            }
        }
    }

    /// Stores the file of a request that the kernel had no room for in its slot.
    #[cold]
    fn keep_file(&mut self, new: &NewRequest<'_>) {
        let user_data = new.sqe.map_or(u64::MAX, |sqe| sqe.user_data);
        if let (Some(index), Some(file)) =
            (self.slots.find_in_flight(user_data), new.file.open_file())
        {
            self.slots.at(index).file = Some(Arc::clone(file));
        }
    }

    /// *InFlight → Queued*, for `requests` (last first) that the kernel had no room for. `reaped` is true if
    /// completions have just made room. If not, the requests are retried after a completion or after 10 ms
    /// (memory may be short, and a poll may never complete), or fail if nothing else is in flight.
    #[cold]
    pub(super) fn put_back(
        &mut self,
        requests: Vec<u64>,
        reaped: bool,
        deferred: &mut Deferred<T::Backend>,
    ) {
        let room_to_come = reaped || self.slots.in_flight() > requests.len();
        for user_data in requests {
            let Some(index) = self.slots.find_in_flight(user_data) else {
                continue;
            };
            let slot = self.slots.at(index);
            if room_to_come && slot.file.is_none() {
                // The descriptor is borrowed, and open: the future is being polled.
                slot.file = OpenFile::duplicate_borrowed(slot.file_id.fd()).ok();
            }
            if !room_to_come || slot.file.is_none() {
                self.refuse(user_data, libc::EAGAIN, deferred);
                continue;
            }
            deferred.retry_later |= !reaped;
            if self.slots.leave_flight(index) {
                self.finish(index, None, deferred); // it was abandoned during the submission
            } else {
                self.slots.enqueue_first(index);
            }
        }
        if reaped {
            self.request_flush(deferred);
        }
    }

    /// Fails a request in flight that the kernel refused.
    pub(super) fn refuse(
        &mut self,
        user_data: u64,
        errno: i32,
        deferred: &mut Deferred<T::Backend>,
    ) {
        self.complete(user_data, Outcome::Refused(errno), deferred);
        self.request_flush(deferred);
    }
}

impl<T: ContextTypes> Entered<'_, T> {
    /// Admits a request. `may_wait` is false if another shard may have a free slot for it.
    #[inline(always)]
    pub(crate) fn admit(&self, new: &mut NewRequest<'_>, may_wait: bool) -> Admission {
        let mut deferred = Deferred::new();
        let mut core = self.lock();
        let admission = core.admit(new, may_wait, true, &mut deferred);
        if let Admission::Launched(_) = admission {
            new.permit = core.permit();
        }
        core.end_if_due(&mut deferred);
        drop(core);
        self.conclude(&mut deferred);
        admission
    }

    /// Submits a request that was launched. If it has completed, returns its outcome, and `new.buffer` has
    /// the memory again.
    #[inline(always)]
    pub(crate) fn submit_one(&self, key: SlotKey, new: &mut NewRequest<'_>) -> Option<Outcome> {
        let (entries, permit) = (new.sqe.as_slice(), new.permit);
        let report = self.submit(&permit, entries);
        if let Some(timing) = report.sample(&permit) {
            new.observe(timing);
        }
        let mut deferred = Deferred::new();
        let mut core = self.lock();
        if report.handled == 0 {
            core.keep_file(new);
        }
        core.finish_submit(&permit, entries, &report, &mut deferred);
        let completed = core.slots.take_completed(key, new.buffer);
        if completed.is_none() {
            // Set only now: if the request has completed, the current task need not be woken.
            let waker = new.waker.take();
            new.waker = waker.and_then(|waker| core.slots.set_waker(key, waker));
        }
        core.end_if_due(&mut deferred);
        drop(core);
        self.conclude(&mut deferred);
        trace::slow_inline_submit(report.timing.as_ref(), report.taken());
        completed
    }

    /// Admits requests, and submits those that need not wait with one system call. Stores the admission
    /// of each.
    pub(crate) fn submit_batch(&self, batch: &mut [(NewRequest<'_>, Admission)]) {
        let mut entries = Vec::with_capacity(batch.len());
        let permit = self.with(|core, deferred| {
            let may_wait = core.config.wait_for_slot; // if false, another shard may have a slot
            for (new, admission) in batch.iter_mut() {
                *admission = core.admit(new, may_wait, false, deferred);
                entries.extend(new.sqe);
            }
            (!entries.is_empty()).then(|| core.permit())
        });
        let Some(permit) = permit else { return };
        let report = self.submit(&permit, &entries);
        if let Some(timing) = report.sample(&permit) {
            let launched = batch.iter().filter(|(new, _)| new.sqe.is_some());
            launched.for_each(|(new, _)| new.observe(timing));
        }
        self.with(|core, deferred| {
            let launched = batch.iter().filter(|(new, _)| new.sqe.is_some());
            let unsent = launched.skip(report.handled);
            unsent.for_each(|(new, _)| core.keep_file(new));
            core.finish_submit(&permit, &entries, &report, deferred);
            for (new, admission) in batch.iter_mut() {
                if let Admission::Launched(key) = *admission {
                    let waker = new.waker.take();
                    new.waker = waker.and_then(|waker| core.slots.set_waker(key, waker));
                }
            }
        });
        trace::slow_inline_submit(report.timing.as_ref(), report.taken());
    }

    /// Submits queued requests while there is room. Leaves the rest to the driver task after
    /// [`MAX_BATCHES`], so as not to hold up the current task if other threads keep queueing.
    pub(super) fn flush(&self) {
        let mut deferred = Deferred::new();
        loop {
            for _ in 0..MAX_BATCHES {
                let mut batch = ArrayVec::new();
                let permit = self.locked(&mut deferred, |core, deferred| {
                    core.launch_queued(&mut batch, deferred);
                    (!batch.is_empty()).then(|| core.permit())
                });
                self.follow_up(&mut deferred);
                let Some(permit) = permit else { return };
                let report = self.submit(&permit, &batch);
                let more = self.locked(&mut deferred, |core, deferred| {
                    if let Some(timing) = report.sample(&permit) {
                        core.observe_flush(&batch, timing);
                    }
                    let reaped = core.finish_submit(&permit, &batch, &report, deferred);
                    // If the kernel has no room, a completion or `retry_later` causes the next flush.
                    let stalled = report.handled < batch.len() && !reaped;
                    !stalled && core.slots.queued() > 0
                });
                trace::slow_inline_submit(report.timing.as_ref(), report.taken());
                if !self.follow_up(&mut deferred) && !more {
                    return;
                }
            }
            self.locked(&mut deferred, |core, deferred| core.request_flush(deferred));
            if !self.follow_up(&mut deferred) {
                return;
            }
        }
    }

    /// Submits `entries` to the backend, without the lock.
    #[inline(always)]
    fn submit(&self, permit: &SubmitPermit, entries: &[Sqe]) -> SubmitReport {
        let timer = SubmitTimer::start(permit.timing);
        let mut refused = Vec::new();
        #[allow(unsafe_code)]
        // SAFETY: `Slots::launch` made the entries, and each is submitted once. The slot keeps the buffer,
        // out of reach of safe code, until the completion. The backend outlives the call: the permit is
        // counted in `Core::submitting`, and only `Core::end_if_due` moves the backend out, when the
        // count is 0. The eventfd is closed after the backend.
        let handled = unsafe { submit_all(&self.submitter, permit.notify, entries, &mut refused) };
        SubmitReport {
            handled,
            refused,
            timing: timer.map(SubmitTimer::stop),
        }
    }
}

impl SubmitReport {
    fn taken(&self) -> usize {
        self.handled - self.refused.len()
    }

    /// Returns the timing, if there is something to learn from it.
    #[inline(always)]
    fn sample(&self, permit: &SubmitPermit) -> Option<&SubmitTiming> {
        let timing = self.timing.as_ref();
        timing.filter(|timing| timing.is_informative(permit.timing))
    }
}
