//! [`Counters`]: what a context counts behind its lock; [`SubmitCounters`]: of its submissions.

use std::time::Duration;

use super::{Metrics, Reaped};

/// Submissions, and the time they took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SubmitCounters {
    /// Requests that the kernel took.
    pub(crate) requests: u64,
    /// Submissions by the number of requests taken: up to 1, 2, 4, 8, 16, 32, 64.
    by_size: [u64; BATCH_SIZES],
    timed: u64,
    /// Time of the timed ones.
    time: Duration,
    slow: u64,
}

const BATCH_SIZES: usize = 7;

/// A submission that takes longer is slow: no task should occupy a worker for as long.
pub(crate) const SLOW_SUBMIT: Duration = Duration::from_millis(1);

impl SubmitCounters {
    /// The kernel took `requests`, in this time if it was measured.
    #[inline]
    pub(crate) fn record(&mut self, requests: usize, time: Option<Duration>) {
        self.requests += requests as u64;
        let bits = usize::BITS - requests.saturating_sub(1).leading_zeros();
        self.by_size[(bits as usize).min(BATCH_SIZES - 1)] += 1;
        if let Some(time) = time {
            self.timed += 1;
            self.time += time;
            self.slow += u64::from(time >= SLOW_SUBMIT);
        }
    }
}

/// What caused a reap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReapSource {
    /// A submission had just returned.
    Submission,
    /// The eventfd was signalled.
    Signal,
    /// A future was polled.
    Poll,
    /// The driver task ran.
    DriverTask,
    /// Anything else: a future was dropped, a slot or metrics were wanted.
    Other,
}

const REAP_SOURCES: usize = 5;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) submissions: SubmitCounters,
    /// Completions, by [`ReapSource`].
    pub(crate) reaped: [u64; REAP_SOURCES],
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) unmatched_completions: u64,
    pub(crate) nowait_refusals: u64,
    pub(crate) offloads: u64,
    pub(crate) abandoned: u64,
    pub(crate) found_full: u64,
    /// Reaping makes no system call.
    pub(crate) user_ring: bool,
}

impl Counters {
    /// A request completed with `result`.
    #[inline]
    pub(crate) fn record_completion(&mut self, result: i64) {
        self.completed += 1;
        self.failed += u64::from(result < 0);
    }

    /// With the submissions of the offload pool.
    pub(crate) fn metrics(&self, offloaded: &SubmitCounters) -> Metrics {
        let Counters {
            submissions,
            reaped: [after_submit, by_signal, by_poll, by_driver, otherwise],
            ..
        } = *self;
        let mut batch_sizes = submissions.by_size;
        for (sum, calls) in batch_sizes.iter_mut().zip(offloaded.by_size) {
            *sum += calls;
        }
        Metrics {
            // A blocking thread counts after the submission, which may be after the completion.
            submitted: (submissions.requests + offloaded.requests).max(self.completed),
            completed: self.completed,
            failed: self.failed,
            unmatched_completions: self.unmatched_completions,
            abandoned: self.abandoned,
            found_full: self.found_full,
            batches: batch_sizes.iter().sum(),
            batch_sizes,
            reaped: Reaped {
                after_submit,
                by_signal,
                by_poll,
                by_driver,
                otherwise,
            },
            ring: self.user_ring,
            nowait_refusals: self.nowait_refusals,
            offloads: self.offloads,
            slow_submits: submissions.slow,
            slow_offloads: offloaded.slow,
            submit_time: submissions.time,
            timed_submits: submissions.timed,
            ..Metrics::default()
        }
    }
}
