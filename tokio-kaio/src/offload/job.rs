//! [`Job`]: a closure that runs on tokio's blocking pool and submits entries of an offload pool.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{JobState, OffloadPool, Returned, SubmissionEntry, Work, lock};
use crate::backend::IoBackend;
use crate::op::{FileId, Outcome};
use crate::sys::Process;

/// Time slice after which a job yields its thread to other users of tokio's blocking pool. Much longer than
/// the time it takes to get a thread again.
const TIME_SLICE: Duration = Duration::from_millis(1);

/// Submits waiting entries of the pool until there are none.
pub(super) struct Job<B: IoBackend> {
    pool: Arc<OffloadPool<B>>,
    state: JobState,
    /// The file that the last batch has extended. Until the job looks for the next batch, no other job
    /// extends the file.
    extended: Option<FileId>,
}

impl<B: IoBackend> OffloadPool<B> {
    /// Starts jobs for the waiting entries. Must not be called under the driver's lock.
    pub(crate) fn dispatch(self: &Arc<Self>) {
        loop {
            let mut queue = self.lock();
            if queue.jobs == self.config.max_threads || queue.closed {
                return;
            }
            if !queue.can_keep_busy(queue.starting) {
                return;
            }
            queue.jobs += 1;
            queue.starting += 1;
            let runtime = queue.runtime.clone();
            drop(queue);
            let job = Job::new(Arc::clone(self));
            let Some(runtime) = runtime else {
                job.run();
                continue;
            };
            if let Err(job) = job.start(&runtime) {
                return job.fail_without_thread();
            }
        }
    }
}

impl<B: IoBackend> Job<B> {
    pub(super) fn new(pool: Arc<OffloadPool<B>>) -> Job<B> {
        Job {
            pool,
            state: JobState::Starting,
            extended: None,
        }
    }

    /// Runs the job on a blocking thread of `runtime`. Returns the job if no thread is available.
    pub(super) fn start(self, runtime: &Handle) -> Result<(), Job<B>> {
        // If tokio needs a new thread and the system refuses it, `spawn_blocking` panics and keeps the
        // closure for a thread that may never start. So the closure does not own the job.
        let offer = Arc::new(Mutex::new(Some(self)));
        let taken = Arc::clone(&offer);
        let run = move || {
            let job = lock(&taken).take();
            if let Some(job) = job {
                job.run();
            }
        };
        let spawn = AssertUnwindSafe(|| drop(runtime.spawn_blocking(run)));
        match panic::catch_unwind(spawn) {
            Ok(()) => Ok(()),
            Err(_) => lock(&offer).take().map_or(Ok(()), Err),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let mut busy = Duration::ZERO;
            while busy < TIME_SLICE {
                let Some(work) = self.next_work() else {
                    return;
                };
                busy += match work {
                    Work::Submit(batch) => self.pool.submit(batch),
                    Work::Merge(batch) => self.pool.write_adjacent(batch),
                };
            }
            if let Some(runtime) = self.requeue() {
                match self.start(&runtime) {
                    Ok(()) => return,
                    Err(job) => self = job,
                }
            }
        }
    }

    /// Returns what to do next, or `None`, which ends the job, if there is nothing to do.
    fn next_work(&mut self) -> Option<Work> {
        let mut queue = self.pool.lock();
        if self.state == JobState::Starting {
            queue.starting -= 1;
            self.state = JobState::Running;
        }
        queue.end_extending(self.extended.take());
        let Some(work) = queue.next_work(&self.pool.config) else {
            queue.jobs -= 1;
            self.state = JobState::Ended;
            return None;
        };
        self.extended = work.extends();
        queue.begin_extending(self.extended);
        queue.submitting += 1;
        Some(work)
    }

    /// Prepares to start the job again, behind everything else that waits for a blocking thread. Returns
    /// `None` if no entry waits, or if there is no runtime.
    fn requeue(&mut self) -> Option<Handle> {
        let mut queue = self.pool.lock();
        queue.end_extending(self.extended.take());
        if queue.waiting.is_empty() {
            return None;
        }
        let runtime = queue.runtime.clone()?;
        queue.starting += 1;
        self.state = JobState::Starting;
        Some(runtime)
    }

    /// Ends the job. If it is the last one, the waiting requests fail with `EAGAIN`.
    pub(super) fn fail_without_thread(mut self) {
        self.end(|waiting| Returned {
            done: waiting
                .map(|user_data| (user_data, Outcome::Refused(libc::EAGAIN)))
                .collect(),
            ..Returned::default()
        });
    }

    /// Ends the job, unless it has ended. If it is the last one, passes the `user_data` of the waiting
    /// entries to `returned`, and returns the result to the driver.
    fn end(&mut self, returned: impl FnOnce(&mut dyn Iterator<Item = u64>) -> Returned) {
        if self.state == JobState::Ended || self.pool.owner != Process::current() {
            return;
        }
        let mut queue = self.pool.lock();
        queue.end_extending(self.extended.take());
        queue.jobs -= 1;
        queue.starting -= usize::from(self.state == JobState::Starting);
        self.state = JobState::Ended;
        if queue.jobs > 0 || queue.waiting.is_empty() {
            return;
        }
        let waiting = queue.take_waiting();
        queue.submitting += 1; // keeps the context alive until `give_back` is done
        drop(queue);
        let mut user_data = waiting
            .iter()
            .map(|entry: &SubmissionEntry| entry.sqe.user_data);
        let mut returned = returned(&mut user_data);
        returned.resubmitted = waiting.iter().filter(|entry| entry.resubmitted).count() as u64;
        self.pool.give_back(returned);
        drop(waiting); // may close files
        self.pool.end_submission(self.pool.lock());
    }
}

impl<B: IoBackend> Drop for Job<B> {
    /// Stops the waiting requests if the job has not ended: its runtime shuts down and dropped the job.
    fn drop(&mut self) {
        self.end(|waiting| Returned {
            done: waiting
                .map(|user_data| (user_data, Outcome::Stopped))
                .collect(),
            ..Returned::default()
        });
    }
}
