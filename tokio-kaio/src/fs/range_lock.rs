//! [`RangeLock`]: a fair lock on byte ranges of a file.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sync::contain;

/// A fair lock on byte ranges. Writes that read a block, change a part of it and write it back hold the
/// range of their blocks, so that no other write changes a block in between.
///
/// An entry acquires its range when no earlier entry overlaps it. So ranges that don't overlap are held
/// together, and no entry starves.
#[derive(Debug, Default)]
pub(super) struct RangeLock(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    last_number: u64,
    /// Sorted by number: oldest first.
    all: Vec<Entry>,
}

/// A range that is held or waited for.
#[derive(Debug)]
struct Entry {
    number: u64,
    range: Range<u64>,
    /// Number of earlier entries that overlap this one. 0: the range is held.
    blocked_by: usize,
    waker: Option<Waker>,
}

/// An entry of a [`RangeLock`], held or waiting. Dropping the guard removes the entry.
#[derive(Debug)]
pub(super) struct RangeLockGuard {
    lock: Arc<RangeLock>,
    number: u64,
}

impl RangeLock {
    /// Adds an entry for `range`, which is not empty. [`RangeLockGuard::acquire`] waits for it.
    pub(super) fn lock(self: &Arc<Self>, range: Range<u64>) -> RangeLockGuard {
        let mut entries = self.entries();
        entries.last_number += 1;
        let number = entries.last_number;
        let earlier = entries.all.iter().filter(|entry| entry.overlaps(&range));
        let blocked_by = earlier.count();
        entries.all.push(Entry {
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

    /// No code that can panic runs while the mutex is held, so the entries are always consistent.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RangeLockGuard {
    /// Waits until no earlier entry overlaps this one.
    ///
    /// # Cancel safety
    ///
    /// The guard keeps its position.
    pub(super) async fn acquire(&self) {
        poll_fn(|cx| self.poll_acquire(cx)).await;
    }

    /// If the clone or drop of a waker panics, the entry stays as it was or has the new waker. The caller
    /// drops the guard when it unwinds, which removes the entry.
    fn poll_acquire(&self, cx: &Context<'_>) -> Poll<()> {
        // Clone and drop of a waker are foreign code: they run when the mutex is not held.
        let waker = cx.waker().clone();
        let mut entries = self.lock.entries();
        let position = entries.position(self.number);
        let entry = &mut entries.all[position];
        if entry.blocked_by == 0 {
            return Poll::Ready(());
        }
        let replaced = entry.waker.replace(waker);
        drop(entries);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for RangeLockGuard {
    fn drop(&mut self) {
        let mut entries = self.lock.entries();
        let position = entries.position(self.number);
        let released = entries.all.remove(position);
        let mut to_wake = Vec::new();
        for entry in &mut entries.all[position..] {
            if entry.overlaps(&released.range) {
                entry.blocked_by -= 1;
                if entry.blocked_by == 0 {
                    to_wake.extend(entry.waker.take());
                }
            }
        }
        drop(entries);
        // A panic of one waker must not keep the others from being woken.
        contain(|| drop(released.waker));
        for waker in to_wake {
            contain(|| waker.wake());
        }
    }
}

impl Entries {
    fn position(&self, number: u64) -> usize {
        self.all.partition_point(|entry| entry.number < number)
    }
}

impl Entry {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    fn is_held(guard: &RangeLockGuard) -> bool {
        let cx = Context::from_waker(Waker::noop());
        guard.poll_acquire(&cx).is_ready()
    }

    fn poll_with(guard: &RangeLockGuard, waker: &Waker) -> Poll<()> {
        guard.poll_acquire(&Context::from_waker(waker))
    }

    #[test]
    fn ranges_that_do_not_overlap_are_held_together() {
        let lock = Arc::new(RangeLock::default());
        let guards = [0..10, 10..20, 30..31].map(|range| lock.lock(range));
        assert!(guards.iter().all(is_held));
    }

    #[test]
    fn a_range_is_acquired_when_no_earlier_one_overlaps() {
        let lock = Arc::new(RangeLock::default());
        let (first, second) = (lock.lock(0..10), lock.lock(20..30));
        let both = lock.lock(9..21);
        let behind = lock.lock(15..16);
        let distant = lock.lock(30..40);
        assert!(is_held(&first) && is_held(&second) && is_held(&distant));
        drop(second);
        assert!(!is_held(&both), "the first one blocks it");
        drop(first);
        assert!(is_held(&both));
        assert!(!is_held(&behind), "the one that waited longer blocks it");
        drop(both);
        assert!(is_held(&behind));
    }

    #[test]
    fn a_guard_that_is_dropped_while_it_waits_blocks_nobody() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let waiting = lock.lock(0..20);
        let last = lock.lock(15..30);
        assert!(!is_held(&waiting) && !is_held(&last));
        drop(waiting);
        assert!(is_held(&last));
        drop((first, last));
        assert!(lock.entries().all.is_empty());
    }

    #[test]
    fn a_cancelled_acquire_leaves_no_entry_behind() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let mut waiting = Box::pin({
            let lock = Arc::clone(&lock);
            async move {
                let guard = lock.lock(5..20);
                guard.acquire().await;
            }
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        let last = lock.lock(15..30);
        assert!(!is_held(&last));
        drop(waiting);
        assert!(is_held(&last));
        drop((first, last));
        assert!(lock.entries().all.is_empty());
    }

    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_guards_that_acquire_their_range_are_woken() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let counts = [(); 3].map(|()| Arc::new(WakeCount::default()));
        let ranges = [0..5, 5..10, 0..10];
        let waiting = ranges.map(|range| lock.lock(range));
        for (guard, count) in waiting.iter().zip(&counts) {
            assert!(poll_with(guard, &Waker::from(Arc::clone(count))).is_pending());
        }
        let wakes = || {
            counts
                .each_ref()
                .map(|count| count.0.load(Ordering::Relaxed))
        };
        drop(first);
        assert_eq!(wakes(), [1, 1, 0]);
        let [a, b, c] = waiting;
        drop(b);
        assert_eq!(wakes(), [1, 1, 0]);
        drop(a);
        assert_eq!(wakes(), [1, 1, 1]);
        assert!(is_held(&c));
    }

    /// A waker that panics when it is woken, and when its last clone is dropped.
    struct PanickingWaker;

    impl Wake for PanickingWaker {
        fn wake(self: Arc<Self>) {
            panic!("this waker panics when it is woken");
        }
    }

    impl Drop for PanickingWaker {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("this waker panics when it is dropped");
            }
        }
    }

    /// Polls with a waker whose last clone the lock keeps.
    fn leave_panicking_waker(guard: &RangeLockGuard) {
        assert!(poll_with(guard, &Waker::from(Arc::new(PanickingWaker))).is_pending());
    }

    #[test]
    fn a_replaced_waker_that_panics_when_dropped_leaves_the_new_waker_in_place() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let waiting = lock.lock(0..10);
        leave_panicking_waker(&waiting);
        let count = Arc::new(WakeCount::default());
        let waker = Waker::from(Arc::clone(&count));
        let polled = catch_unwind(AssertUnwindSafe(|| poll_with(&waiting, &waker)));
        assert!(polled.is_err(), "the dropped waker panics");
        drop(first);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(is_held(&waiting));
        drop(waiting);
        assert!(lock.entries().all.is_empty());
    }

    #[test]
    fn a_guard_whose_waker_panics_when_dropped_is_removed() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let waiting = lock.lock(0..20);
        leave_panicking_waker(&waiting);
        let last = lock.lock(15..30);
        drop(waiting);
        assert!(is_held(&last));
        drop((first, last));
        assert!(lock.entries().all.is_empty());
    }

    #[test]
    fn a_waker_that_panics_when_woken_does_not_keep_others_from_being_woken() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.lock(0..10);
        let (panicking, other) = (lock.lock(0..5), lock.lock(5..10));
        leave_panicking_waker(&panicking);
        let count = Arc::new(WakeCount::default());
        assert!(poll_with(&other, &Waker::from(Arc::clone(&count))).is_pending());
        drop(first);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(is_held(&panicking) && is_held(&other));
        drop((panicking, other));
        assert!(lock.entries().all.is_empty());
    }
}
