//! [`OffloadPool`]: submits requests from tokio's blocking pool.
//!
//! A request is offloaded if its submission may block: because its policy is
//! [`Offload`](crate::SubmitPolicy::Offload), because the kernel refused this request or earlier ones with
//! `RWF_NOWAIT`, or because the backend performs requests inside the submission.

mod adjacent_writes;
mod job;

use std::collections::VecDeque;
use std::mem;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;
use tokio::runtime::Handle;

use crate::backend::{IoBackend, MAX_BATCH, Notify, submit_all};
use crate::op::{FileId, Outcome, SubmissionEntry};

use crate::metrics::SubmitCounters;
use crate::policy::{SubmitTimer, SubmitTiming, TimingLevel};
use crate::sync::DriverWaker;
use crate::sys::{self, Process};
use crate::trace;

/// The offload pool of one context.
///
/// The pool uses the submitter of the context, but not its driver, so a context that is not `Send` can have a
/// pool too. A submitted request completes like any other request. A request that could not be submitted is
/// returned to the driver ([`Returned`]), which is signalled as for a completion.
///
/// In a forked child, none of the threads exist, and one of them may have held the lock at the fork. The
/// driver checks the process before it calls the pool. A dropped job checks it itself (`owner`).
pub(crate) struct OffloadPool<B: IoBackend> {
    submitter: B::Submitter,
    eventfd: Option<RawFd>,
    driver_waker: Arc<DriverWaker>,
    config: OffloadConfig,
    owner: Process,
    queue: Mutex<Queue>,
    /// Whether `queue.returned` is not empty. Read without the lock.
    has_returned: AtomicBool,
    /// Notified when no submission is in progress.
    idle: Condvar,
}

/// Configuration of an offload pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OffloadConfig {
    /// Most threads of tokio's blocking pool at a time.
    pub(crate) max_threads: usize,
    /// Most requests in one system call.
    pub(crate) max_batch: usize,
    /// Whether file histories learn from these submissions. `false` if the backend performs the requests
    /// inside the submission, or if submissions never block.
    pub(crate) observe: bool,
    /// Whether adjacent writes that extend a file are merged, if extending the file blocks.
    pub(crate) merge: bool,
}

#[cfg(test)]
impl OffloadConfig {
    pub(crate) const FOR_TESTS: OffloadConfig = OffloadConfig {
        max_threads: 4,
        max_batch: 32,
        observe: true,
        merge: false, // the tests' files are not real
    };
}

#[derive(Default)]
struct Queue {
    /// Dropped when the pool is closed, because it keeps descriptors of the runtime open. `None` in tests:
    /// then [`OffloadPool::dispatch`] submits the entries itself.
    runtime: Option<Handle>,
    /// Entries that no job has taken.
    waiting: VecDeque<SubmissionEntry>,
    /// Number of waiting entries that may be merged.
    mergeable: usize,
    /// Files that a job extends now: their mergeable entries wait for the job.
    extending: Vec<FileId>,
    /// Number of waiting entries that wait for such a job.
    held: usize,
    /// Number of jobs that were passed to tokio and have not ended.
    jobs: usize,
    /// Number of those jobs that have not started.
    starting: usize,
    /// Number of submissions in progress. While it is not 0, the backend is not dropped.
    submitting: usize,
    /// The pool is closed: it starts no more jobs.
    closed: bool,
    returned: Returned,
    counters: SubmitCounters,
}

/// The state of a [`Job`](job::Job).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobState {
    Starting,
    Running,
    Ended,
}

/// Requests that the pool returns to the driver.
#[derive(Default)]
pub(crate) struct Returned {
    /// Requests that are done: refused, performed by the pool, or stopped because the runtime shuts down.
    pub(crate) done: Vec<(u64, Outcome)>,
    /// Requests that the kernel had no room for, last first.
    pub(crate) unsent: Vec<u64>,
    /// Submitted requests that [wait](crate::backend::OpCode::waits). If one was abandoned before its
    /// submission, the driver can cancel it only now.
    pub(crate) waits: Vec<u64>,
    /// Number of refused, unsent and stopped requests whose first attempt was counted as submitted.
    pub(crate) resubmitted: u64,
}

impl Returned {
    fn is_empty(&self) -> bool {
        self.done.is_empty() && self.unsent.is_empty() && self.waits.is_empty()
    }
}

type Batch = ArrayVec<SubmissionEntry, MAX_BATCH>;

/// The next work of a job.
enum Work {
    /// Submits the entries to the backend.
    Submit(Batch),
    /// Performs the writes, which are adjacent.
    Merge(Batch),
}

impl Work {
    /// Returns the file that this extends, if no other job should extend it meanwhile.
    fn extends(&self) -> Option<FileId> {
        let (Work::Submit(batch) | Work::Merge(batch)) = self;
        let first = batch.first()?;
        first.merges.then(|| first.file.id())
    }
}

impl Queue {
    /// Takes the next batch, which has entries of one file only. So a request that blocks for ever, as on a
    /// pipe, does not delay requests on other files.
    fn next_work(&mut self, config: &OffloadConfig) -> Option<Work> {
        if self.mergeable == 0 {
            return self.next_batch(0, config).map(Work::Submit);
        }
        if self.held == self.waiting.len() {
            return None;
        }
        let first = self.waiting.iter().position(|entry| !self.holds(entry))?;
        if !self.waiting[first].merges {
            return self.next_batch(first, config).map(Work::Submit);
        }
        let batch = adjacent_writes::take(&mut self.waiting, first);
        self.mergeable -= batch.len();
        Some(match batch.len() {
            1 if config.observe => Work::Submit(batch), // shows whether extending the file still blocks
            _ => Work::Merge(batch),
        })
    }

    /// Takes entries from `first` on: at most `1 / max_threads` of the waiting ones, because the batch may
    /// block its thread for long, and at most `max_batch`.
    fn next_batch(&mut self, first: usize, config: &OffloadConfig) -> Option<Batch> {
        let share = self.waiting.len().div_ceil(config.max_threads);
        let file = self.waiting.get(first)?.file.id();
        let limit = share.min(config.max_batch).min(MAX_BATCH);
        let of_file = self.waiting.iter().skip(first).take(limit);
        let count = of_file
            .take_while(|entry| entry.file.id() == file && !entry.merges)
            .count();
        Some(self.waiting.drain(first..first + count).collect())
    }

    /// Returns whether the waiting entries can keep more than `jobs` jobs busy. Called for each entry, so it
    /// does not look at the entries that wait for a job.
    fn can_keep_busy(&self, jobs: usize) -> bool {
        let mut batches = self.waiting.len() - self.mergeable;
        if batches > jobs || self.mergeable == self.held {
            return batches > jobs;
        }
        let mut files: ArrayVec<FileId, MAX_BATCH> = ArrayVec::new();
        for entry in &self.waiting {
            let file = entry.file.id();
            if entry.merges && !self.holds(entry) && !files.contains(&file) {
                batches += usize::from(files.try_push(file).is_ok());
            }
            if batches > jobs {
                return true;
            }
        }
        false
    }

    /// Returns whether `entry` has to wait for a job that extends its file.
    fn holds(&self, entry: &SubmissionEntry) -> bool {
        entry.merges && self.extending.contains(&entry.file.id())
    }

    /// Adds a waiting entry.
    fn push(&mut self, entry: SubmissionEntry) {
        self.mergeable += usize::from(entry.merges);
        self.held += usize::from(self.holds(&entry));
        self.waiting.push_back(entry);
    }

    /// Removes all waiting entries.
    fn take_waiting(&mut self) -> VecDeque<SubmissionEntry> {
        (self.mergeable, self.held) = (0, 0);
        mem::take(&mut self.waiting)
    }

    /// Begins the work of a job that extends `file`.
    fn begin_extending(&mut self, file: Option<FileId>) {
        if file.is_some() {
            self.extending.extend(file);
            self.count_held();
        }
    }

    /// Ends the work of a job that has extended `file`.
    fn end_extending(&mut self, file: Option<FileId>) {
        let position = file.and_then(|file| self.extending.iter().position(|busy| *busy == file));
        if let Some(position) = position {
            self.extending.swap_remove(position);
            self.count_held();
        }
    }

    fn count_held(&mut self) {
        self.held = match self.mergeable > 0 && !self.extending.is_empty() {
            true => self
                .waiting
                .iter()
                .filter(|entry| self.holds(entry))
                .count(),
            false => 0,
        };
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

    /// Adds an entry. The caller must call [`OffloadPool::dispatch`] afterwards.
    pub(crate) fn push(&self, mut entry: SubmissionEntry) {
        // If submissions never block, only writes that would block come here.
        let blocks = || !self.config.observe || entry.file.history().extending_blocks();
        entry.merges = self.config.merge && entry.is_mergeable() && blocks();
        self.lock().push(entry);
    }

    /// Removes and returns an entry that no job has taken. Returns `None` for writes: an abandoned write is
    /// still submitted once it was offloaded.
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

    /// Returns the number of requests that wait for a thread, and the counters of submissions.
    pub(crate) fn counters(&self) -> (usize, SubmitCounters) {
        let queue = self.lock();
        (queue.waiting.len(), queue.counters)
    }

    /// Returns the runtime of the context, or `None` if the pool is closed. Must not be called in a forked
    /// child.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.lock().runtime.clone()
    }

    /// Closes the pool: drops the waiting entries, and blocks until no submission is in progress.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let runtime = queue.runtime.take();
        let waiting = queue.take_waiting();
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

    /// Submits a batch. Returns how long the submission took.
    fn submit(&self, batch: Batch) -> Duration {
        let sqes: ArrayVec<_, MAX_BATCH> = batch.iter().map(|entry| entry.sqe).collect();
        let (mut returned, mut refused) = (Returned::default(), Vec::new());
        let timer = SubmitTimer::start(TimingLevel::ThreadUsage);
        #[allow(unsafe_code)]
        // SAFETY: `Slots` made each entry, and its slot keeps the buffer until the completion. Nobody else
        // submits the entry: it left the queue once, through `next_work`. The backend outlives the call:
        // the call is counted in `submitting`, and `Teardown` calls `close`, which waits for 0, before it
        // drops the backend. `close` empties the queue, and a driver that has ended pushes no entries. The
        // eventfd is closed after the backend.
        let handled = unsafe { submit_all(&self.submitter, Notify::Signal, &sqes, &mut refused) };
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
        let waits = sqes[..handled].iter().filter(|sqe| sqe.opcode.waits());
        returned.waits.extend(waits.map(|sqe| sqe.user_data));
        let taken = handled - refused.len();
        let refused = refused.into_iter();
        returned
            .done
            .extend(refused.map(|(user_data, errno)| (user_data, Outcome::Refused(errno))));
        self.conclude(batch, returned, taken, timing)
    }

    /// Performs adjacent writes with one call. Returns how long that took.
    fn write_adjacent(&self, batch: Batch) -> Duration {
        let timer = SubmitTimer::start(TimingLevel::Clock);
        #[allow(unsafe_code)]
        // SAFETY: as in `submit`, the slot of each entry keeps its buffer until the driver takes the outcome.
        let done = unsafe { adjacent_writes::perform(&batch) };
        let Some(done) = done else {
            return self.submit(batch);
        };
        let timing = timer.map(SubmitTimer::stop);
        let taken = batch.len();
        let returned = Returned {
            done,
            ..Returned::default()
        };
        self.conclude(batch, returned, taken, timing)
    }

    /// Returns requests to the driver, counts the `taken` requests, and ends the submission. Returns how long
    /// it took.
    fn conclude(
        &self,
        batch: Batch,
        mut returned: Returned,
        taken: usize,
        timing: Option<SubmitTiming>,
    ) -> Duration {
        let resubmitted = batch.iter().filter(|entry| entry.resubmitted).count();
        returned.resubmitted = resubmitted.saturating_sub(taken) as u64;
        let count = |queue: &mut Queue| {
            let time = timing.map(|timing| timing.time);
            queue.counters.record(taken, time);
            queue.counters.requests -= resubmitted.min(taken) as u64;
        };
        if returned.is_empty() {
            drop(batch); // may close files
            let mut queue = self.lock();
            count(&mut queue);
            self.end_submission(queue);
        } else {
            count(&mut self.lock()); // first: a request that is done has been submitted
            self.give_back(returned);
            drop(batch); // may close files
            self.end_submission(self.lock());
        }
        let Some(timing) = timing else {
            return Duration::ZERO;
        };
        // Only now: the subscriber may wait for the end of the context, which waits for this submission.
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

    /// Returns requests to the driver, and signals it. Must be called while the submission is counted in
    /// `submitting`, which keeps the eventfd open: later, its number may belong to another file.
    fn give_back(&self, returned: Returned) {
        {
            let mut queue = self.lock();
            queue.returned.done.extend(returned.done);
            queue.returned.unsent.extend(returned.unsent);
            queue.returned.waits.extend(returned.waits);
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

/// Locks `mutex`. It is never poisoned in practice: no code panics while holding one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(kaio_loom)))]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU64;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::backend::fake::FakeBackend;
    use crate::backend::{OpCode, Sqe};
    use crate::op::OpenFile;
    use crate::policy::OpClass;

    fn entry(file: &Arc<OpenFile>, merges: bool) -> SubmissionEntry {
        let sqe = Sqe {
            opcode: OpCode::Write,
            priority: 0,
            fd: std::os::fd::AsRawFd::as_raw_fd(&**file),
            rw_flags: 0,
            addr: 0,
            len: 4096,
            offset: 0,
            user_data: 0,
        };
        let mut entry = SubmissionEntry::new(sqe, Arc::clone(file), None);
        entry.merges = merges;
        entry
    }

    /// Takes note of the submitted requests when it is woken.
    #[derive(Default)]
    struct CountAtWake {
        pool: OnceLock<Arc<OffloadPool<FakeBackend>>>,
        submitted: AtomicU64,
    }

    impl Wake for CountAtWake {
        fn wake(self: Arc<Self>) {
            let (_, counters) = self.pool.get().unwrap().counters();
            self.submitted.store(counters.requests, Ordering::Relaxed);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn a_merged_write_is_counted_as_submitted_before_the_driver_learns_its_result() {
        let backend = FakeBackend::new();
        let driver_waker = Arc::new(DriverWaker::new());
        let config = OffloadConfig {
            merge: true,
            observe: false,
            ..OffloadConfig::FOR_TESTS
        };
        let waker = Arc::clone(&driver_waker);
        let pool = OffloadPool::new(backend.submitter(None), None, waker, None, config);
        let count = Arc::new(CountAtWake::default());
        assert!(count.pool.set(Arc::clone(&pool)).is_ok());
        driver_waker.register(&Waker::from(Arc::clone(&count)));
        let file = Arc::new(OpenFile::new(tempfile::tempfile().unwrap()));
        let data = [1; 8192];
        for block in 0..2 {
            let mut write = entry(&file, false);
            write.class = Some(OpClass::Extend);
            write.sqe.addr = data[block * 4096..].as_ptr().expose_provenance() as u64;
            write.sqe.offset = block as i64 * 4096;
            pool.push(write);
        }
        pool.dispatch();
        assert_eq!(pool.take_returned().done.len(), 2);
        assert_eq!(count.submitted.load(Ordering::Relaxed), 2);
        driver_waker.unregister();
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn writes_that_wait_for_a_job_that_extends_their_file_keep_no_other_job_busy() {
        let files = [(); 2].map(|()| Arc::new(OpenFile::new(tempfile::tempfile().unwrap())));
        let [file, other] = &files;
        let mut queue = Queue::default();
        let busy = |queue: &Queue| (0..9).take_while(|jobs| queue.can_keep_busy(*jobs)).count();
        assert_eq!(busy(&queue), 0);
        (0..100).for_each(|_| queue.push(entry(file, true)));
        assert_eq!((busy(&queue), queue.held), (1, 0));
        queue.begin_extending(Some(file.id()));
        assert_eq!((busy(&queue), queue.held), (0, 100));
        assert!(queue.next_work(&OffloadConfig::FOR_TESTS).is_none());
        queue.push(entry(file, true));
        assert_eq!((busy(&queue), queue.held), (0, 101));
        queue.push(entry(other, true));
        queue.push(entry(other, true));
        assert_eq!(busy(&queue), 1);
        queue.push(entry(file, false));
        assert_eq!(busy(&queue), 2);
        queue.end_extending(Some(file.id()));
        assert_eq!((busy(&queue), queue.held), (3, 0));
        queue.begin_extending(Some(other.id()));
        assert_eq!((busy(&queue), queue.held), (2, 2));
        assert_eq!(queue.take_waiting().len(), 104);
        assert_eq!((busy(&queue), queue.held, queue.mergeable), (0, 0, 0));
    }
}
