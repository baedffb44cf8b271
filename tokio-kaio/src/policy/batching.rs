//! [`Batching`]: whether a request is submitted at once or deferred, to share a system call.
//!
//! Why: a request that is submitted alone costs a system call. Requests that are queued until the
//! driver task runs share one, at the price of a switch to that task, which pays only where others
//! follow. Figures: 0.06 to 0.09 system calls a read at depth 32, against 1 without (docs/performance.md).

use std::mem;
use std::ptr;
use std::task::Waker;

/// Predicts whether more requests follow in the same turn of the runtime, from the last turns.
///
/// - *Not batching*: requests are submitted at once. A second request in a turn, while the first is
///   in flight, starts batching. Where requests complete inline, none is ever seen in flight, so now
///   and then a probe is deferred, to see whether others follow. Probes become rarer while none do.
/// - *Batching*: requests are deferred until the flush. A flush of a single request ends it, or
///   several such flushes in a row where there were batches before.
///
/// With `per_task`, only requests of the same task are batched: see
/// [`Adaptive`](super::Adaptive).
#[derive(Debug, Default)]
pub(super) struct Batching {
    batching: bool,
    /// Requests submitted at once since the last turn.
    this_turn: u32,
    /// Requests submitted at once since the last probe.
    since_probe: u32,
    /// Probes so far. Wraps.
    probes: u32,
    /// Probes in a row that no other request followed.
    failed_probes: u32,
    /// Requests in the last flush.
    last_flush: usize,
    /// Flushes since the last one that was deferred.
    since_deferred_flush: u32,
    /// Task of the last deferred request.
    last_task: TaskId,
    /// One task deferred two requests in a row since the last flush.
    same_task: bool,
    /// Flushes of a single request that do not end batching yet.
    tolerated_singles: u32,
}

/// A task, by data and vtable of its waker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskId(usize, usize);

impl TaskId {
    pub(crate) fn of(waker: &Waker) -> TaskId {
        TaskId(waker.data().addr(), ptr::from_ref(waker.vtable()).addr())
    }
}

/// About one request in this many is a probe. The interval varies: in waves of a length that divides a
/// fixed one, every probe would be the last of its wave.
const PROBE_INTERVAL: u32 = 61;
const PROBE_JITTER: u32 = 8;

/// A failed probe doubles the interval, this many times at most.
const MAX_DOUBLINGS: u32 = 2;

/// One in this many flushes that seem complete is deferred, to see whether it was.
const DEFERRED_FLUSH_INTERVAL: u32 = 16;

/// Flushes of a single request in a row that do not end batching: with several workers, the driver
/// may run just when the tasks of another worker have not.
const TOLERATED_SINGLES: u32 = 3;

impl Batching {
    /// Whether to defer a new request of `task`, with `in_flight` requests submitted already.
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

    /// Whether to defer a flush of `queued` requests, because tasks that are ready may not have run
    /// yet: there is one request alone, or fewer than half of the last flush.
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

    /// A request of `task` was queued.
    pub(super) fn on_deferred(&mut self, task: TaskId) {
        self.same_task |= mem::replace(&mut self.last_task, task) == task;
    }

    /// The queue is flushed, with `requests` in it.
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

    /// The tasks that were ready have run.
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
