//! [`Line`]: who may write to which bytes of a file, in the order of their arrival.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sync::contain;

/// Those that write to a file block by block, though they have less than a block to write: each
/// reads what it leaves as it is, which nobody else may change before it has written that back.
///
/// One may go when none that came before it has some of its range. So those that are apart go
/// together, and nobody is overtaken for ever.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// The number of the latest one.
    latest: u64,
    /// By their numbers: oldest first.
    all: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    range: Range<u64>,
    /// How many before it have some of its range.
    before: usize,
    waker: Option<Waker>,
}

/// A place in a [`Line`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    line: Arc<Line>,
    number: u64,
}

impl Line {
    /// The last place in line for `range`, which is not empty.
    pub(crate) fn enter(self: &Arc<Self>, range: Range<u64>) -> Place {
        let mut places = self.lock();
        places.latest += 1;
        let number = places.latest;
        let before = places.all.iter().filter(|held| held.meets(&range));
        let before = before.count();
        places.all.push(Held {
            number,
            range,
            before,
            waker: None,
        });
        Place {
            line: Arc::clone(self),
            number,
        }
    }

    /// Nothing panics while holding it.
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until nobody is before this one.
    ///
    /// # Cancel safety
    ///
    /// The place stays where it is.
    pub(crate) async fn turn(&self) {
        poll_fn(|cx| self.poll_turn(cx)).await;
    }

    fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone(); // which, like its drop, is code of others: not under the lock
        let mut places = self.line.lock();
        let position = places.position(self.number);
        let held = &mut places.all[position];
        if held.before == 0 {
            return Poll::Ready(());
        }
        let unused = held.waker.replace(waker);
        drop(places);
        drop(unused);
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.line.lock();
        let position = places.position(self.number);
        let gone = places.all.remove(position);
        let mut next = Vec::new();
        for held in &mut places.all[position..] {
            if held.meets(&gone.range) {
                held.before -= 1;
                if held.before == 0 {
                    next.extend(held.waker.take());
                }
            }
        }
        drop(places);
        contain(|| drop(gone.waker));
        for waker in next {
            contain(|| waker.wake());
        }
    }
}

impl Places {
    fn position(&self, number: u64) -> usize {
        self.all.partition_point(|held| held.number < number)
    }
}

impl Held {
    fn meets(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    fn may_go(place: &Place) -> bool {
        let cx = Context::from_waker(Waker::noop());
        place.poll_turn(&cx).is_ready()
    }

    #[test]
    fn those_that_are_apart_go_together() {
        let line = Arc::new(Line::default());
        let places = [0..10, 10..20, 30..31].map(|range| line.enter(range));
        assert!(places.iter().all(may_go));
    }

    #[test]
    fn one_goes_when_none_before_it_is_in_its_way() {
        let line = Arc::new(Line::default());
        let (first, second) = (line.enter(0..10), line.enter(20..30));
        let both = line.enter(9..21);
        let behind = line.enter(15..16);
        let apart = line.enter(30..40);
        assert!(may_go(&first) && may_go(&second) && may_go(&apart));
        drop(second);
        assert!(!may_go(&both), "the first one is before it");
        drop(first);
        assert!(may_go(&both));
        assert!(!may_go(&behind), "it came after the one that waited");
        drop(both);
        assert!(may_go(&behind));
    }

    #[test]
    fn one_that_gives_up_is_in_nobodys_way() {
        let line = Arc::new(Line::default());
        let first = line.enter(0..10);
        let waits = line.enter(0..20);
        let last = line.enter(15..30);
        assert!(!may_go(&waits) && !may_go(&last));
        drop(waits);
        assert!(may_go(&last));
        drop((first, last));
        assert!(line.lock().all.is_empty());
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_those_are_woken_that_may_go() {
        let line = Arc::new(Line::default());
        let first = line.enter(0..10);
        let counts = [(); 3].map(|()| Arc::new(Count(AtomicUsize::new(0))));
        let ranges = [0..5, 5..10, 0..10];
        let waiting = ranges.map(|range| line.enter(range));
        for (place, count) in waiting.iter().zip(&counts) {
            let waker = Waker::from(Arc::clone(count));
            assert!(place.poll_turn(&Context::from_waker(&waker)).is_pending());
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
