//! [`RangeLock`]: who may write to which bytes of a file, in the order of arrival.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sync::contain;

/// A fair lock on byte ranges. It is for writes that read a block, change a part and write it back: nobody
/// else may change the block in between.
///
/// A holder may go when no earlier one has some of its range. So those that don't overlap go together,
/// and nobody is overtaken for ever.
#[derive(Debug, Default)]
pub(super) struct RangeLock(Mutex<Holders>);

#[derive(Debug, Default)]
struct Holders {
    last_number: u64,
    /// By their numbers: oldest first.
    all: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    number: u64,
    range: Range<u64>,
    /// Earlier holders of some of its range.
    blocked_by: usize,
    waker: Option<Waker>,
}

/// A range that is locked, or waits for earlier ones. Released when it is dropped.
#[derive(Debug)]
pub(super) struct RangeLockGuard {
    lock: Arc<RangeLock>,
    number: u64,
}

impl RangeLock {
    /// Queues for `range`, which is not empty.
    pub(super) fn lock(self: &Arc<Self>, range: Range<u64>) -> RangeLockGuard {
        let mut holders = self.holders();
        holders.last_number += 1;
        let number = holders.last_number;
        let earlier = holders.all.iter().filter(|holder| holder.overlaps(&range));
        let blocked_by = earlier.count();
        holders.all.push(Holder {
            number,
            range,
            blocked_by,
            waker: None,
        });
        RangeLockGuard {
            lock: Arc::clone(self),
            number,
        }
    }

    /// Nothing panics while it is held.
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RangeLockGuard {
    /// Waits until no earlier one has some of the range.
    ///
    /// # Cancel safety
    ///
    /// The guard keeps its place.
    pub(super) async fn acquire(&self) {
        poll_fn(|cx| self.poll_acquire(cx)).await;
    }

    fn poll_acquire(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone(); // its clone and drop are code of others: not under the lock
        let mut holders = self.lock.holders();
        let position = holders.position(self.number);
        let holder = &mut holders.all[position];
        if holder.blocked_by == 0 {
            return Poll::Ready(());
        }
        let unneeded = holder.waker.replace(waker);
        drop(holders);
        drop(unneeded);
        Poll::Pending
    }
}

impl Drop for RangeLockGuard {
    fn drop(&mut self) {
        let mut holders = self.lock.holders();
        let position = holders.position(self.number);
        let released = holders.all.remove(position);
        let mut next = Vec::new();
        for holder in &mut holders.all[position..] {
            if holder.overlaps(&released.range) {
                holder.blocked_by -= 1;
                if holder.blocked_by == 0 {
                    next.extend(holder.waker.take());
                }
            }
        }
        drop(holders);
        contain(|| drop(released.waker));
        for waker in next {
            contain(|| waker.wake());
        }
    }
}

impl Holders {
    fn position(&self, number: u64) -> usize {
        self.all.partition_point(|holder| holder.number < number)
    }
}

impl Holder {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    fn may_go(guard: &RangeLockGuard) -> bool {
        let cx = Context::from_waker(Waker::noop());
        guard.poll_acquire(&cx).is_ready()
    }

    #[test]
    fn ranges_that_do_not_overlap_are_held_together() {
        let lock = Arc::new(RangeLock::default());
        let guards = [0..10, 10..20, 30..31].map(|range| lock.lock(range));
        assert!(guards.iter().all(may_go));
    }

    #[test]
    fn a_range_is_acquired_when_no_earlier_one_overlaps() {
        let lock = Arc::new(RangeLock::default());
        let (first, second) = (lock.lock(0..10), lock.lock(20..30));
        let both = lock.lock(9..21);
        let behind = lock.lock(15..16);
        let distant = lock.lock(30..40);
        assert!(may_go(&first) && may_go(&second) && may_go(&distant));
        drop(second);
        assert!(!may_go(&both), "the first one blocks it");
        drop(first);
        assert!(may_go(&both));
        assert!(!may_go(&behind), "it is behind the one that waited");
        drop(both);
        assert!(may_go(&behind));
    }

    #[test]
    fn a_guard_that_is_dropped_while_it_waits_blocks_nobody() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let waits = lock.lock(0..20);
        let last = lock.lock(15..30);
        assert!(!may_go(&waits) && !may_go(&last));
        drop(waits);
        assert!(may_go(&last));
        drop((first, last));
        assert!(lock.holders().all.is_empty());
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_holders_that_may_go_are_woken() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let counts = [(); 3].map(|()| Arc::new(Count(AtomicUsize::new(0))));
        let ranges = [0..5, 5..10, 0..10];
        let waiting = ranges.map(|range| lock.lock(range));
        for (guard, count) in waiting.iter().zip(&counts) {
            let waker = Waker::from(Arc::clone(count));
            assert!(
                guard
                    .poll_acquire(&Context::from_waker(&waker))
                    .is_pending()
            );
        }
        let woken = || {
            counts
                .each_ref()
                .map(|count| count.0.load(Ordering::Relaxed))
        };
        drop(first);
        assert_eq!(woken(), [1, 1, 0]);
        let [a, b, c] = waiting;
        drop(b);
        assert_eq!(woken(), [1, 1, 0]);
        drop(a);
        assert_eq!(woken(), [1, 1, 1]);
        assert!(may_go(&c));
    }
}
