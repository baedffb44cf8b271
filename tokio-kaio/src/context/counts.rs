//! What a context counts, behind its lock.

use std::time::Duration;

use super::effort::Effort;
use super::state::State;
use crate::Metrics;
use crate::metrics::Reaped;
use crate::request::Flavour;

/// Calls of `io_submit`, and what they took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Submissions {
    /// That the kernel took.
    pub(super) requests: u64,
    /// Calls by the requests that they took: 1 or none, 2, up to 4, 8, 16, 32, 64.
    pub(super) by_size: [u64; SIZES],
    /// Calls that were timed.
    pub(super) timed: u64,
    /// What these took.
    pub(super) time: Duration,
    pub(super) slow: u64,
}

pub(super) const SIZES: usize = 7;

impl Submissions {
    /// A call was made, and took `requests`.
    #[inline]
    pub(super) fn made(&mut self, requests: usize, effort: Option<&Effort>) {
        self.requests += requests as u64;
        let bits = usize::BITS - requests.saturating_sub(1).leading_zeros();
        self.by_size[(bits as usize).min(SIZES - 1)] += 1;
        if let Some(effort) = effort {
            self.timed += 1;
            self.time += effort.time;
            self.slow += u64::from(effort.is_slow());
        }
    }
}

/// Events that were taken out of the ring, by what made a context look there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A submission had just returned.
    Submission,
    /// The kernel had signalled.
    Signal,
    /// A future was polled.
    Poll,
    /// The background task ran.
    Driver,
    /// Anything else: a future was dropped, a slot was wanted, metrics were.
    Other,
}

pub(super) const LOOKS: usize = 5;

/// What happens to requests.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) submissions: Submissions,
    /// Events, by [`Look`].
    pub(super) reaped: [u64; LOOKS],
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) nowait_refusals: u64,
    pub(super) offloads: u64,
    pub(super) abandoned: u64,
    pub(super) found_full: u64,
}

impl<F: Flavour> State<F> {
    /// What was done so far, and what is going on.
    pub(super) fn metrics(&self) -> Metrics {
        let Counts {
            submissions,
            reaped: [after_submit, by_signal, by_poll, by_driver, otherwise],
            ..
        } = self.counts;
        let (waiting_for_thread, offloaded) = self.pool.counts();
        let mut batch_sizes = submissions.by_size;
        for (sum, calls) in batch_sizes.iter_mut().zip(offloaded.by_size) {
            *sum += calls;
        }
        Metrics {
            // A thread counts when it is back from the call, which may be after the event.
            submitted: (submissions.requests + offloaded.requests).max(self.counts.completed),
            completed: self.counts.completed,
            failed: self.counts.failed,
            queued: self.table.queued(),
            in_flight: self.table.in_flight(),
            abandoned_in_flight: self.table.abandoned(),
            waiting_for_thread,
            abandoned: self.counts.abandoned,
            found_full: self.counts.found_full,
            batches: batch_sizes.iter().sum(),
            batch_sizes,
            reaped: Reaped {
                after_submit,
                by_signal,
                by_poll,
                by_driver,
                otherwise,
            },
            ring: self.ring,
            nowait_refusals: self.counts.nowait_refusals,
            offloads: self.counts.offloads,
            slow_submits: submissions.slow,
            slow_offloads: offloaded.slow,
            submit_time: submissions.time,
            timed_submits: submissions.timed,
            latency: self.table.latency().cloned(),
        }
    }
}
