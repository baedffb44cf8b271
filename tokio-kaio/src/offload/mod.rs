//! [`OffloadPool`]: submits requests from tokio's blocking pool.
//!
//! A request is offloaded where its submission may block: because its file has the policy
//! [`Offload`](crate::SubmitPolicy::Offload), because the kernel refused it with `RWF_NOWAIT`, or because
//! the backend performs requests inside the submission.

mod job;

use std::collections::VecDeque;
use std::mem;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;
use tokio::runtime::Handle;

use crate::backend::{IoBackend, MAX_BATCH, Notify, OpCode, submit_all};
use crate::op::SubmissionEntry;

use crate::metrics::SubmitCounters;
use crate::policy::{SubmitTimer, TimingLevel};
use crate::sync::DriverWaker;
use crate::sys::{self, Process};
use crate::trace;

/// The offload pool of one context.
///
/// It knows only the submitter of the context, so that a context that stays on its thread can have one
/// too. What is submitted completes like any other request. What could not be submitted is returned
/// ([`Returned`]), and the context is signalled as for a completion.
///
/// A forked child has none of the threads, one of which may have held the lock at the fork. The driver
/// asks whose process it is before it comes here; what runs outside the driver asks here.
pub(crate) struct OffloadPool<B: IoBackend> {
    submitter: B::Submitter,
    eventfd: Option<RawFd>,
    driver_waker: Arc<DriverWaker>,
    config: OffloadConfig,
    owner: Process,
    queue: Mutex<Queue>,
    /// `queue.returned` is not empty.
    has_returned: AtomicBool,
    /// No submission is under way.
    idle: Condvar,
}

/// What a pool may use of tokio's blocking pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OffloadConfig {
    /// Most threads at a time.
    pub(crate) max_threads: usize,
    /// Most requests in one system call.
    pub(crate) max_batch: usize,
    /// Whether files learn from these submissions: not if the backend performs whole requests in them.
    pub(crate) observe: bool,
}

#[cfg(test)]
impl OffloadConfig {
    pub(crate) const FOR_TESTS: OffloadConfig = OffloadConfig {
        max_threads: 4,
        max_batch: 32,
        observe: true,
    };
}

#[derive(Default)]
struct Queue {
    /// Kept no longer than needed: it keeps descriptors of the runtime. `None` in tests: entries are
    /// submitted by [`OffloadPool::dispatch`].
    runtime: Option<Handle>,
    /// Entries that no thread has taken.
    waiting: VecDeque<SubmissionEntry>,
    /// Jobs that tokio has and that have not ended.
    jobs: usize,
    /// Of these, jobs that have not started.
    starting: usize,
    /// Submissions under way. The backend is not dropped meanwhile.
    submitting: usize,
    /// Nothing is submitted any more.
    closed: bool,
    returned: Returned,
    counters: SubmitCounters,
}

/// How far a [`Job`](job::Job) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobState {
    Starting,
    Running,
    Ended,
}

/// What the driver has to deal with.
#[derive(Default)]
pub(crate) struct Returned {
    /// Requests that were refused, by their user data, with the errno.
    pub(crate) refused: Vec<(u64, i32)>,
    /// Requests that the kernel has no room for, last first.
    pub(crate) unsent: Vec<u64>,
    /// Requests of a runtime that has shut down.
    pub(crate) stopped: Vec<u64>,
    /// Polls that were submitted: the driver may have given them up before they could be cancelled.
    pub(crate) polls: Vec<u64>,
    /// How many of these were counted as submitted before.
    pub(crate) resubmitted: u64,
}

impl Returned {
    fn is_empty(&self) -> bool {
        self.refused.is_empty()
            && self.unsent.is_empty()
            && self.stopped.is_empty()
            && self.polls.is_empty()
    }
}

type Batch = ArrayVec<SubmissionEntry, MAX_BATCH>;

impl Queue {
    /// The share of one of `max_threads` threads, since a submission may block it for long; at most
    /// `max_batch` entries, and of one file, so that a request that blocks for ever, as on a pipe, does
    /// not keep other files from being served by another thread.
    fn next_batch(&mut self, config: &OffloadConfig) -> Option<Batch> {
        let share = self.waiting.len().div_ceil(config.max_threads);
        let file = self.waiting.front()?.file.id();
        let of_file = self.waiting.iter().take(share.min(config.max_batch));
        let count = of_file.take_while(|entry| entry.file.id() == file).count();
        Some(self.waiting.drain(..count.min(MAX_BATCH)).collect())
    }
}

impl<B: IoBackend> OffloadPool<B> {
    pub(crate) fn new(
        submitter: B::Submitter,
        eventfd: Option<RawFd>,
        driver_waker: Arc<DriverWaker>,
        runtime: Option<Handle>,
        config: OffloadConfig,
    ) -> Arc<OffloadPool<B>> {
        Arc::new(OffloadPool {
            submitter,
            eventfd,
            driver_waker,
            config,
            owner: Process::current(),
            queue: Mutex::new(Queue {
                runtime,
                ..Queue::default()
            }),
            has_returned: AtomicBool::new(false),
            idle: Condvar::new(),
        })
    }

    /// Takes an entry; [`OffloadPool::dispatch`] has to follow.
    pub(crate) fn push(&self, entry: SubmissionEntry) {
        self.lock().waiting.push_back(entry);
    }

    /// Takes a request back, if no thread has it yet. Not a write: once offloaded, a write lands.
    pub(crate) fn recall(&self, user_data: u64) -> Option<SubmissionEntry> {
        let mut queue = self.lock();
        let is_it = |entry: &SubmissionEntry| {
            entry.sqe.user_data == user_data && !entry.sqe.opcode.is_write()
        };
        let position = queue.waiting.iter().position(is_it)?;
        queue.waiting.remove(position)
    }

    pub(crate) fn has_returned(&self) -> bool {
        self.has_returned.load(Ordering::Acquire)
    }

    pub(crate) fn take_returned(&self) -> Returned {
        let mut queue = self.lock();
        self.has_returned.store(false, Ordering::Relaxed);
        mem::take(&mut queue.returned)
    }

    /// Requests that wait for a thread, and the submissions so far.
    pub(crate) fn counters(&self) -> (usize, SubmitCounters) {
        let queue = self.lock();
        (queue.waiting.len(), queue.counters)
    }

    /// Submits nothing from now on. Blocks until no submission is under way.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let runtime = queue.runtime.take();
        let waiting = mem::take(&mut queue.waiting);
        while queue.submitting > 0 {
            queue = self
                .idle
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        drop(waiting); // closes files
        drop(runtime);
    }

    /// The next entries for a thread. `None`: there are none, and the job has ended.
    fn next_batch(&self, state: &mut JobState) -> Option<Batch> {
        let mut queue = self.lock();
        if *state == JobState::Starting {
            queue.starting -= 1;
            *state = JobState::Running;
        }
        let Some(batch) = queue.next_batch(&self.config) else {
            queue.jobs -= 1;
            *state = JobState::Ended;
            return None;
        };
        queue.submitting += 1;
        Some(batch)
    }

    /// Returns how long the submission took.
    fn submit(&self, batch: Batch) -> Duration {
        let sqes: ArrayVec<_, MAX_BATCH> = batch.iter().map(|entry| entry.sqe).collect();
        let mut returned = Returned::default();
        let timer = SubmitTimer::start(TimingLevel::ThreadUsage);
        #[allow(unsafe_code)]
        // SAFETY: each entry comes from `Slots`, which keeps the buffer in the slot until the
        // completion, and was submitted by nobody else: it leaves the queue through `next_batch` or
        // `recall`. The backend is not dropped before this returns: the call is counted in
        // `submitting`, and `Teardown`, which drops the backend, waits for 0 in `close`, after which
        // `next_batch` finds nothing. The eventfd is closed after the backend.
        let handled = unsafe {
            submit_all(
                &self.submitter,
                Notify::Signal,
                &sqes,
                &mut returned.refused,
            )
        };
        let timing = timer.map(SubmitTimer::stop);
        if let (true, Some(timing)) = (self.config.observe, &timing) {
            for SubmissionEntry { file, class, .. } in &batch {
                file.history()
                    .observe_offloaded_submit(*class, timing.observation);
            }
        }
        let unsent = &sqes[handled..];
        returned
            .unsent
            .extend(unsent.iter().rev().map(|sqe| sqe.user_data));
        let polls = sqes[..handled]
            .iter()
            .filter(|sqe| sqe.opcode == OpCode::Poll);
        returned.polls.extend(polls.map(|sqe| sqe.user_data));
        let taken = handled - returned.refused.len();
        let resubmitted = batch.iter().filter(|entry| entry.resubmitted).count();
        returned.resubmitted = resubmitted.saturating_sub(taken) as u64;
        if !returned.is_empty() {
            self.give_back(returned);
        }
        drop(batch); // may close files
        let mut queue = self.lock();
        queue
            .counters
            .record(taken, timing.map(|timing| timing.time));
        queue.counters.requests -= resubmitted.min(taken) as u64;
        self.end_submission(queue);
        let Some(timing) = timing else {
            return Duration::ZERO;
        };
        // Subscribers may wait for the context's end, which has waited for this submission.
        if timing.is_slow() {
            trace::slow_submit(taken, timing.time, true);
        }
        timing.time
    }

    fn end_submission(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.submitting -= 1;
        if queue.submitting == 0 {
            self.idle.notify_all();
        }
    }

    /// To be called while the context exists: under its lock, or counted in `submitting`. Afterwards,
    /// the number of its eventfd may be that of another file.
    fn give_back(&self, returned: Returned) {
        {
            let mut queue = self.lock();
            queue.returned.refused.extend(returned.refused);
            queue.returned.unsent.extend(returned.unsent);
            queue.returned.stopped.extend(returned.stopped);
            queue.returned.polls.extend(returned.polls);
            queue.returned.resubmitted += returned.resubmitted;
            self.has_returned.store(true, Ordering::Release);
        }
        match self.eventfd {
            Some(eventfd) => sys::signal(eventfd),
            None => self.driver_waker.wake(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Holds the lock until the result is dropped.
    #[cfg(all(test, not(kaio_loom)))]
    pub(crate) fn hold_lock(&self) -> impl Sized + '_ {
        self.lock()
    }
}

/// Nothing panics while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
