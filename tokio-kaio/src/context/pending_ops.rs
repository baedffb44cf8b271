//! [`PendingOps`]: the unfinished operations of a batch, and which of them to poll.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use super::op_future::OpFuture;
use crate::config::ContextTypes;
use crate::driver::Driver;
use crate::metrics::ReapSource;
use crate::slab::{SlotKey, Slots};

/// Indices of operations. Operations that their context submits in order are in one queue.
///
/// If all operations were polled whenever one completes, a large batch on few slots would take time that is
/// quadratic in its size.
pub(super) struct PendingOps<'a, T: ContextTypes> {
    queues: Vec<ShardQueue<'a, T>>,
    /// Index of the queue to which the last operation was added.
    last: usize,
}

/// The operations of one context that are not appends, or its appends to one file, which also wait for each
/// other.
struct ShardQueue<'a, T: ContextTypes> {
    driver: &'a Driver<T>,
    appends_to: Option<RawFd>,
    queue: PendingQueue,
}

/// Operations whose requests leave the submission queue in the order in which they entered it.
///
/// There is one exception. A request that the kernel had no room for goes back to the front of the queue, and
/// requests that entered the queue later may be in flight then. Completions of these later requests are
/// noticed at the latest when the earlier request completes.
#[derive(Debug, Default)]
pub(super) struct PendingQueue {
    /// Not checked yet.
    new: Vec<usize>,
    /// In flight when last checked.
    in_flight: Vec<usize>,
    /// Waiting, queued or held, when last checked.
    queued: VecDeque<usize>,
}

impl<'a, T: ContextTypes> PendingOps<'a, T> {
    pub(super) fn new() -> PendingOps<'a, T> {
        PendingOps {
            queues: Vec::new(),
            last: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.queue.is_empty())
    }

    /// Adds `op`, the operation with this `index`, which has to wait.
    pub(super) fn push(&mut self, index: usize, op: &OpFuture<'a, 'a, T>) {
        let (driver, appends_to) = (op.driver(), op.appends_to());
        let is_its = |queue: &ShardQueue<'a, T>| {
            ptr::eq(queue.driver, driver) && queue.appends_to == appends_to
        };
        if !self.queues.get(self.last).is_some_and(is_its) {
            let found = self.queues.iter().position(is_its);
            self.last = found.unwrap_or(self.queues.len());
        }
        if self.last == self.queues.len() {
            self.queues.push(ShardQueue {
                driver,
                appends_to,
                queue: PendingQueue::default(),
            });
        }
        self.queues[self.last].queue.new.push(index);
    }

    /// Moves the operations to poll to `done`: completed operations, and operations for which `key` returns
    /// `None`.
    pub(super) fn take_completed(
        &mut self,
        key: impl Fn(usize) -> Option<SlotKey>,
        done: &mut VecDeque<usize>,
    ) {
        for ShardQueue { driver, queue, .. } in &mut self.queues {
            match driver.enter() {
                _ if queue.is_empty() => {}
                Ok(driver) => {
                    // A context that stops ends waiting requests in another order.
                    let ask_all = !driver.is_open();
                    driver.with_slots(ReapSource::Poll, |slots, _| {
                        let progress = |index| progress_of(key(index), slots);
                        queue.update(ask_all, progress, done);
                    });
                }
                Err(_) => done.extend(mem::take(queue).into_indices()),
            }
        }
    }

    /// Moves all operations to `done`.
    pub(super) fn take_all(&mut self, done: &mut VecDeque<usize>) {
        for queue in &mut self.queues {
            done.extend(mem::take(&mut queue.queue).into_indices());
        }
    }
}

/// The progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestProgress {
    Queued,
    InFlight,
    Completed,
}

fn progress_of(key: Option<SlotKey>, slots: &mut Slots) -> RequestProgress {
    match key.and_then(|key| slots.get(key)) {
        Some(slot) if slot.is_waiting() => RequestProgress::Queued,
        Some(slot) if slot.is_in_flight() => RequestProgress::InFlight,
        _ => RequestProgress::Completed,
    }
}

impl PendingQueue {
    fn is_empty(&self) -> bool {
        self.new.is_empty() && self.in_flight.is_empty() && self.queued.is_empty()
    }

    fn into_indices(self) -> impl Iterator<Item = usize> {
        let submitted = self.in_flight.into_iter();
        submitted.chain(self.queued).chain(self.new)
    }

    /// Moves completed operations to `done`. Unless `all` is true, checks the queued operations only up to
    /// the first that is still queued: the operations behind it are queued too.
    pub(super) fn update(
        &mut self,
        all: bool,
        mut progress: impl FnMut(usize) -> RequestProgress,
        done: &mut VecDeque<usize>,
    ) {
        let PendingQueue {
            new,
            in_flight,
            queued,
        } = self;
        in_flight.retain(|&index| {
            let completed = progress(index) == RequestProgress::Completed;
            if completed {
                done.push_back(index);
            }
            !completed
        });
        if all {
            new.splice(..0, queued.drain(..));
        }
        while let Some(&index) = queued.front() {
            match progress(index) {
                RequestProgress::Queued => break,
                RequestProgress::InFlight => in_flight.push(index),
                RequestProgress::Completed => done.push_back(index),
            }
            queued.pop_front();
        }
        for index in new.drain(..) {
            match progress(index) {
                RequestProgress::Queued => queued.push_back(index),
                RequestProgress::InFlight => in_flight.push(index),
                RequestProgress::Completed => done.push_back(index),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SLOTS: usize = 8;

    /// Completes `count` operations on [`SLOTS`] slots, the youngest in flight first, with an update after
    /// each. Returns the number of checks.
    fn updates(count: usize) -> usize {
        let mut queue = PendingQueue::default();
        queue.new.extend(0..count);
        let mut in_flight: BTreeSet<_> = (0..SLOTS).collect();
        let (mut submitted, mut updates) = (SLOTS, 0);
        let mut done = VecDeque::new();
        while let Some(completed) = in_flight.pop_last() {
            let before = done.len();
            let progress = |index| {
                updates += 1;
                match index {
                    _ if index >= submitted => RequestProgress::Queued,
                    _ if in_flight.contains(&index) => RequestProgress::InFlight,
                    _ => RequestProgress::Completed,
                }
            };
            queue.update(false, progress, &mut done);
            assert!(done.iter().skip(before).eq([&completed]));
            in_flight.extend((submitted < count).then_some(submitted));
            submitted += 1;
        }
        assert!(queue.is_empty());
        assert_eq!(BTreeSet::from_iter(done), (0..count).collect());
        updates
    }

    #[test]
    fn checks_per_operation_do_not_grow_with_the_batch() {
        let counts = if cfg!(miri) { [20, 160] } else { [1000, 8000] };
        for count in counts {
            let each = updates(count) / count;
            assert!(each <= SLOTS + 2, "{each} checks per operation of {count}");
        }
    }

    #[test]
    fn all_operations_are_checked_if_they_may_complete_in_any_order() {
        let mut queue = PendingQueue::default();
        queue.new.extend(0..5);
        let mut done = VecDeque::new();
        queue.update(false, |_| RequestProgress::Queued, &mut done);
        let stopped = |index| match index {
            4 | 2 => RequestProgress::Completed,
            0 => RequestProgress::InFlight,
            _ => RequestProgress::Queued,
        };
        queue.update(true, stopped, &mut done);
        assert_eq!(done, [2, 4]);
        assert_eq!(
            (queue.in_flight, queue.queued),
            (vec![0], VecDeque::from([1, 3]))
        );
    }
}
