//! [`EarlyFlush`]: keeps the device busy while requests are queued for a batch.
//!
//! Why: a device that has nothing to do should not wait for a batch. The kernel prepares the requests of a
//! call one after another. If there are more than two, it hands them to the device together, at the end. So a
//! batch of 16 leaves an idle device idle until 16 requests are queued and prepared. With early flushes, the
//! first batch has two requests, which the kernel hands over one by one. Each further batch has as many as are
//! in flight: the device works while the batch is collected and prepared. A busy device gets large batches.
//! Requests that complete inside their submission have no device that could be idle: they are not flushed
//! early.
//!
//! Figures, against batches of 16: reads from a disk at depths 8 and 32, 1.13 to 1.15 times the reads a second
//! for 1.03 to 1.10 of the CPU a read on one thread, 1.06 to 1.14 for 1.02 to 1.08 with two workers. At depth
//! 128, 1.03 to 1.08 for 0.96 to 0.98 on one thread. Overwrites gain less: 0.97 to 1.24 for 1.12 to 1.36.
//! docs/performance.md has the other figures, and the rules that were tried.

use crate::backend::MAX_BATCH;

/// Decides how many requests make a batch, by the number of requests in flight.
#[derive(Debug)]
pub(super) enum EarlyFlush {
    /// As many requests as are in flight.
    ByInFlight,
    /// Always this many: [`AioContextBuilder::max_batch`](crate::AioContextBuilder::max_batch).
    Never { max_batch: usize },
}

/// Fewest requests that are flushed early.
const FEWEST: usize = 2;

/// Most requests in one system call while few requests are in flight.
const FEW_IN_FLIGHT_BATCH: usize = 16;

impl EarlyFlush {
    pub(super) fn new(max_batch: Option<usize>) -> EarlyFlush {
        match max_batch {
            Some(max_batch) => EarlyFlush::Never { max_batch },
            None => EarlyFlush::ByInFlight,
        }
    }

    /// Returns whether `queued` requests should be submitted now, instead of by the driver task.
    /// `to_device` is false if the last submission left no request in flight, so that no device is idle.
    #[inline]
    pub(super) fn is_due(&self, queued: usize, in_flight: usize, to_device: bool) -> bool {
        match self {
            EarlyFlush::Never { max_batch } => queued >= *max_batch,
            EarlyFlush::ByInFlight if to_device => queued >= in_flight.clamp(FEWEST, MAX_BATCH),
            EarlyFlush::ByInFlight => queued >= MAX_BATCH,
        }
    }

    /// Returns the most requests to submit with one system call.
    #[inline]
    pub(super) fn max_batch(&self, in_flight: usize, to_device: bool) -> usize {
        match self {
            EarlyFlush::Never { max_batch } => *max_batch,
            EarlyFlush::ByInFlight if to_device => in_flight.clamp(FEW_IN_FLIGHT_BATCH, MAX_BATCH),
            EarlyFlush::ByInFlight => MAX_BATCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the batches that are submitted while `requests` requests are queued, and of the rest.
    /// `in_flight` requests are in flight before.
    fn batches(policy: &EarlyFlush, requests: usize, mut in_flight: usize) -> Vec<usize> {
        let (mut sizes, mut queued) = (vec![], 0);
        for _ in 0..requests {
            queued += 1;
            if policy.is_due(queued, in_flight, true) {
                sizes.push(queued);
                in_flight += queued;
                queued = 0;
            }
        }
        sizes.push(queued);
        sizes
    }

    #[test]
    fn an_idle_device_gets_two_requests_first_and_then_as_many_as_it_has() {
        let policy = EarlyFlush::new(None);
        assert_eq!(batches(&policy, 32, 0), [2, 2, 4, 8, 16, 0]);
        assert_eq!(batches(&policy, 9, 0), [2, 2, 4, 1]);
        assert_eq!(batches(&policy, 1, 0), [1]);
    }

    #[test]
    fn a_busy_device_does_not_split_batches() {
        let policy = EarlyFlush::new(None);
        assert_eq!(batches(&policy, 31, 32), [31]);
        assert_eq!(batches(&policy, 40, 32), [32, 8]);
        assert_eq!(batches(&policy, 130, 1000), [MAX_BATCH, MAX_BATCH, 2]);
    }

    #[test]
    fn requests_that_complete_inline_are_not_flushed_early() {
        let policy = EarlyFlush::new(None);
        for queued in 1..MAX_BATCH {
            assert!(!policy.is_due(queued, 0, false), "{queued}");
        }
        assert!(policy.is_due(MAX_BATCH, 0, false));
        assert_eq!(policy.max_batch(0, false), MAX_BATCH);
    }

    #[test]
    fn a_configured_size_takes_the_place_of_early_flushes() {
        let policy = EarlyFlush::new(Some(24));
        assert_eq!(batches(&policy, 50, 0), [24, 24, 2]);
        assert_eq!(batches(&policy, 50, 1000), [24, 24, 2]);
        for in_flight in [0, 10, 1000] {
            assert_eq!(policy.max_batch(in_flight, true), 24);
        }
    }

    #[test]
    fn the_size_limit_is_16_up_to_the_number_in_flight() {
        let policy = EarlyFlush::new(None);
        let limits = [0, 16, 17, 64, 65].map(|in_flight| policy.max_batch(in_flight, true));
        assert_eq!(limits, [16, 16, 17, 64, 64]);
    }
}
