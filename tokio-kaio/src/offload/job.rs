//! [`Job`]: the work of one blocking thread for an offload pool.

use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{OffloadPool, Returned, SubmissionEntry, lock};
use crate::backend::IoBackend;
use crate::sys::Process;

/// Time slice after which a job yields its thread to other users of tokio's blocking pool. Much longer
/// than it takes to get a thread again.
const TIME_SLICE: Duration = Duration::from_millis(1);

/// Submits entries of the pool while there are any.
pub(super) struct Job<B: IoBackend> {
    pool: Arc<OffloadPool<B>>,
    state: JobState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    Starting,
    Running,
    Ended,
}

impl<B: IoBackend> Job<B> {
    pub(super) fn new(pool: Arc<OffloadPool<B>>) -> Job<B> {
        Job {
            pool,
            state: JobState::Starting,
        }
    }

    /// Runs it on a thread of `runtime`. Gives it back if no thread is available.
    pub(super) fn start(self, runtime: &Handle) -> Result<(), Job<B>> {
        // tokio panics if it needs a thread and the system refuses one, and keeps the closure for a
        // thread that may never come.
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
                let Some(batch) = self.pool.next_batch(&mut self.state) else {
                    return;
                };
                busy += self.pool.submit(batch);
            }
            if let Some(runtime) = self.requeue() {
                match self.start(&runtime) {
                    Ok(()) => return,
                    Err(job) => self = job,
                }
            }
        }
    }

    /// Prepares to continue behind everything else that waits for a thread of this runtime. `None`:
    /// there is nothing left to do, or no runtime.
    fn requeue(&mut self) -> Option<Handle> {
        let mut queue = self.pool.lock();
        if queue.waiting.is_empty() {
            return None;
        }
        let runtime = queue.runtime.clone()?;
        queue.starting += 1;
        self.state = JobState::Starting;
        Some(runtime)
    }

    /// The requests that wait fail with `EAGAIN`, unless other jobs take them.
    pub(super) fn fail_for_want_of_thread(mut self) {
        self.end(|waiting| Returned {
            refused: waiting.map(|user_data| (user_data, libc::EAGAIN)).collect(),
            ..Returned::default()
        });
    }

    fn end(&mut self, returned: impl FnOnce(&mut dyn Iterator<Item = u64>) -> Returned) {
        if self.state == JobState::Ended || self.pool.owner != Process::current() {
            return;
        }
        let mut queue = self.pool.lock();
        queue.jobs -= 1;
        queue.starting -= usize::from(self.state == JobState::Starting);
        self.state = JobState::Ended;
        if queue.jobs > 0 || queue.waiting.is_empty() {
            return;
        }
        let waiting = mem::take(&mut queue.waiting);
        queue.submitting += 1; // keeps the context until they are given back
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
    /// A job that did not end by itself was dropped by its runtime, which shuts down.
    fn drop(&mut self) {
        self.end(|waiting| Returned {
            stopped: waiting.collect(),
            ..Returned::default()
        });
    }
}
