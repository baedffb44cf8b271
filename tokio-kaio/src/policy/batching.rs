//! [`Batching`]: decides whether a request is submitted at once, or deferred to share a system call.
//!
//! Why: a request that is submitted alone costs a system call. Requests that are queued until the driver
//! task runs share one system call, but cost a switch to that task. That pays only if more requests follow.
//! Figures: 0.06 to 0.09 system calls per read at depth 32, instead of 1 (docs/performance.md).

use std::mem;
use std::ptr;
use std::task::Waker;

/// Predicts whether more requests follow in the same turn of the runtime, from the last turns.
///
/// - *Not batching*: requests are submitted at once. The second request of a turn starts batching if a
///   request is in flight. If requests complete inline, none is in flight then, so occasionally a *probe* is
///   deferred, to find out whether more requests follow. Failed probes make the next probes rarer.
/// - *Batching*: requests are deferred until the flush. A flush of a single request ends batching. After
///   flushes of several requests, it takes several single-request flushes in a row.
///
/// With `per_task`, only requests of the same task are batched (see [`Adaptive`](super::Adaptive)).
#[derive(Debug, Default)]
pub(super) struct Batching {
    batching: bool,
    /// Number of requests submitted at once in this turn.
    this_turn: u32,
    /// Number of requests submitted at once since the last probe.
    since_probe: u32,
    /// Number of probes so far. Wraps.
    probes: u32,
    /// Number of consecutive probes that no other request followed.
    failed_probes: u32,
    /// Number of requests in the last flush.
    last_flush: usize,
    /// Number of flushes since the last deferred flush.
    since_deferred_flush: u32,
    /// Task of the last deferred request.
    last_task: TaskId,
    /// Two consecutive deferred requests since the last flush are from the same task.
    same_task: bool,
    /// Number of further single-request flushes that do not end batching.
    tolerated_singles: u32,
}

/// Identifies a task by the data and the vtable of its waker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskId(usize, usize);

impl TaskId {
    pub(crate) fn of(waker: &Waker) -> TaskId {
        TaskId(waker.data().addr(), ptr::from_ref(waker.vtable()).addr())
    }
}

/// One request in about this many is a probe. The interval varies. With a fixed interval, and waves of a
/// length that divides it, every probe could be the last request of its wave.
const PROBE_INTERVAL: u32 = 61;
const PROBE_JITTER: u32 = 8;

/// A failed probe doubles the interval, at most this many times.
const MAX_DOUBLINGS: u32 = 2;

/// One in this many flushes that seem complete is deferred, to check whether more requests come.
const DEFERRED_FLUSH_INTERVAL: u32 = 16;

/// Number of consecutive single-request flushes that do not end batching: with several workers, the driver
/// task may run before the tasks of another worker.
const TOLERATED_SINGLES: u32 = 3;

impl Batching {
    /// Returns whether to defer a new request of `task`, while `in_flight` requests are in flight.
    pub(super) fn should_defer(&mut self, in_flight: usize, task: TaskId, per_task: bool) -> bool {
        if self.batching && (!per_task || task == self.last_task) {
            return true;
        }
        self.since_probe += 1;
        let follows = self.this_turn > 0 && in_flight > 0 && !per_task;
        let interval = PROBE_INTERVAL << self.failed_probes.min(MAX_DOUBLINGS);
        let probe = self.since_probe >= interval + self.probes % PROBE_JITTER;
        if follows || probe {
            self.probes = self.probes.wrapping_add(u32::from(probe));
            self.failed_probes = self.failed_probes.saturating_add(u32::from(probe));
            self.since_probe = 0;
            self.batching = true;
            return true;
        }
        self.this_turn += 1;
        false
    }

    /// Returns whether to defer a flush of `queued` requests because ready tasks may not have run yet. This
    /// is assumed if there is only one request, or fewer than half as many as in the last flush. One flush
    /// in [`DEFERRED_FLUSH_INTERVAL`] is always deferred.
    pub(super) fn should_defer_flush(&mut self, queued: usize, per_task: bool) -> bool {
        if per_task {
            return false;
        }
        self.since_deferred_flush += 1;
        let complete = queued > 1 && queued * 2 >= self.last_flush;
        let defer = !complete || self.since_deferred_flush >= DEFERRED_FLUSH_INTERVAL;
        if defer {
            self.since_deferred_flush = 0;
        }
        defer
    }

    /// Records that a request of `task` was queued.
    pub(super) fn on_deferred(&mut self, task: TaskId) {
        self.same_task |= mem::replace(&mut self.last_task, task) == task;
    }

    /// Records a flush of `requests` requests.
    pub(super) fn on_flush(&mut self, requests: usize, per_task: bool) {
        let same_task = mem::take(&mut self.same_task);
        let batch = requests > 1 && (same_task || !per_task);
        if batch {
            self.failed_probes = 0;
        }
        self.batching = batch || self.tolerated_singles > 0;
        self.tolerated_singles = match batch {
            true => TOLERATED_SINGLES,
            false => self.tolerated_singles.saturating_sub(1),
        };
        self.last_flush = requests;
    }

    /// Records that the ready tasks have run.
    pub(super) fn on_runtime_turn(&mut self) {
        self.this_turn = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_requests_are_submitted_at_once_except_probes() {
        let mut batching = Batching::default();
        let mut deferred = vec![];
        for request in 0..100_000 {
            if batching.should_defer(0, task(0), false) {
                deferred.push(request);
                batching.on_flush(1, false);
            }
            batching.on_runtime_turn();
        }
        assert!(deferred[0] < PROBE_INTERVAL);
        assert!(deferred[1] - deferred[0] >= 2 * PROBE_INTERVAL);
        let at_last = PROBE_INTERVAL << MAX_DOUBLINGS;
        let gap = deferred[deferred.len() - 1] - deferred[deferred.len() - 2];
        assert!((at_last..=at_last + PROBE_JITTER).contains(&gap), "{gap}");
    }

    #[test]
    fn from_the_second_request_of_a_turn_on_requests_are_deferred() {
        let mut batching = Batching::default();
        assert!(!batching.should_defer(0, task(0), false));
        for in_flight in 1..32 {
            assert!(batching.should_defer(in_flight, task(0), false));
        }
        batching.on_flush(31, false);
        batching.on_runtime_turn();
        assert!(
            batching.should_defer(0, task(0), false),
            "the next wave is batched"
        );
    }

    #[test]
    fn a_flush_of_one_ends_batching() {
        let mut batching = Batching::default();
        assert!(!batching.should_defer(0, task(0), false));
        assert!(batching.should_defer(1, task(0), false));
        batching.on_flush(1, false);
        batching.on_runtime_turn();
        assert!(!batching.should_defer(1, task(0), false));
    }

    #[test]
    fn a_probe_finds_batches_where_requests_complete_inline() {
        let mut batching = Batching::default();
        let first = (0..)
            .position(|_| batching.should_defer(0, task(0), false))
            .unwrap();
        assert!(first < PROBE_INTERVAL as usize);
        batching.on_flush(20, false);
        assert!(batching.should_defer(0, task(0), false));
    }

    #[test]
    fn waves_of_any_length_are_found_soon() {
        for wave in 2..200_usize {
            let mut batching = Batching::default();
            let found = (0..40_usize).any(|_| {
                let deferred = (0..wave)
                    .filter(|_| batching.should_defer(0, task(0), false))
                    .count();
                if deferred > 0 {
                    batching.on_flush(deferred, false);
                }
                batching.on_runtime_turn();
                deferred == wave
            });
            assert!(found || wave < 7, "waves of {wave}");
        }
    }

    fn task(number: usize) -> TaskId {
        TaskId(number, 0)
    }

    #[test]
    fn batching_outlasts_a_few_flushes_of_one() {
        let mut batching = Batching::default();
        assert!(!batching.should_defer(0, task(0), false));
        assert!(batching.should_defer(1, task(0), false));
        batching.on_flush(8, false);
        for _ in 0..TOLERATED_SINGLES {
            assert!(batching.should_defer(0, task(0), false));
            batching.on_flush(1, false);
        }
        assert!(batching.should_defer(0, task(0), false));
        batching.on_flush(1, false);
        batching.on_runtime_turn();
        assert!(!batching.should_defer(0, task(0), false));
    }

    #[test]
    fn with_one_batch_per_task_tasks_do_not_wait_for_each_other() {
        let mut batching = Batching::default();
        let tasks: Vec<_> = (0..32).map(task).collect();
        let mut deferred = 0;
        for _ in 0..100 {
            for task in &tasks {
                if batching.should_defer(1, *task, true) {
                    batching.on_deferred(*task);
                    deferred += 1;
                    assert!(
                        !batching.should_defer_flush(1, true),
                        "the rest of the wave is queued"
                    );
                    batching.on_flush(1, true);
                }
            }
            batching.on_runtime_turn();
        }
        assert!(deferred <= 3200 / PROBE_INTERVAL, "{deferred} deferred");
    }

    #[test]
    fn with_one_batch_per_task_the_wave_of_a_task_is_batched() {
        let mut batching = Batching::default();
        let (ours, other) = (task(0), task(1));
        for _ in 0..20 {
            let mut queued = 0;
            for _ in 0..16 {
                if batching.should_defer(0, ours, true) {
                    batching.on_deferred(ours);
                    queued += 1;
                }
            }
            batching.on_flush(queued, true);
            batching.on_runtime_turn();
        }
        let waits = (0..16).filter(|_| batching.should_defer(0, ours, true));
        assert_eq!(waits.count(), 16);
        assert!(!batching.should_defer(0, other, true));
    }
}
