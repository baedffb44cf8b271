//! Reaps the completion ring in user space.
//!
//! The kernel writes an event, then `tail`. User space reads `tail`, copies the events before it,
//! then writes `head`. Both indices wrap at the capacity of the ring. The kernel finds out from
//! `head` how many events were taken; nothing else has to be reported to it.

use super::aio_abi::IoEvent;
use crate::backend::{Completion, Completions};

/// The words of a ring that the kernel and user space share. [`MappedRing`](super::MappedRing) is
/// the real one; tests have another.
pub(super) trait RingMemory {
    /// Number of events that fit. Constant.
    fn capacity(&self) -> u32;
    /// Relaxed: only the consumer writes it.
    fn head(&self) -> u32;
    /// Acquire: the events before it are visible afterwards.
    fn tail(&self) -> u32;
    /// Release: the events before it have been copied.
    fn set_head(&self, head: u32);
    /// The event at `index`, which is below the capacity and in `head..tail`.
    fn event(&self, index: u32) -> IoEvent;
}

/// Moves events that have arrived to `completions`, as many as fit, and shows each to `on_event`.
/// One consumer at a time: the caller has the only reference.
#[inline]
pub(super) fn reap<R: RingMemory>(
    ring: &mut R,
    completions: &mut Completions,
    mut on_event: impl FnMut(&IoEvent),
) {
    let capacity = ring.capacity();
    let (first, tail) = (ring.head(), ring.tail());
    // A kernel never writes indices out of range. Taking nothing then is safe: the requests stay in
    // flight.
    if first >= capacity || tail >= capacity {
        return;
    }
    let mut head = first;
    while head != tail && !completions.is_full() {
        let event = ring.event(head);
        on_event(&event);
        completions.push(Completion {
            user_data: event.data,
            result: event.res,
        });
        head += 1;
        if head == capacity {
            head = 0;
        }
    }
    if head != first {
        ring.set_head(head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct FixedRing {
        capacity: u32,
        head: Cell<u32>,
        tail: u32,
    }

    impl RingMemory for FixedRing {
        fn capacity(&self) -> u32 {
            self.capacity
        }
        fn head(&self) -> u32 {
            self.head.get()
        }
        fn tail(&self) -> u32 {
            self.tail
        }
        fn set_head(&self, head: u32) {
            self.head.set(head);
        }
        fn event(&self, index: u32) -> IoEvent {
            assert!(index < self.capacity);
            IoEvent {
                data: index.into(),
                obj: 0,
                res: -i64::from(index),
                res2: 0,
            }
        }
    }

    /// The completions that a reap takes, and the `head` that it leaves.
    fn reaped(capacity: u32, head: u32, tail: u32) -> (Vec<u64>, u32) {
        let mut ring = FixedRing {
            capacity,
            head: Cell::new(head),
            tail,
        };
        let mut completions = Completions::new();
        let mut shown = Vec::new();
        reap(&mut ring, &mut completions, |event| shown.push(event.data));
        let user_data: Vec<_> = completions.iter().map(|c| c.user_data).collect();
        assert_eq!(user_data, shown);
        assert!(
            completions
                .iter()
                .all(|c| c.result == -(c.user_data as i64))
        );
        (user_data, ring.head.get())
    }

    #[test]
    fn an_empty_ring_gives_nothing() {
        assert_eq!(reaped(126, 7, 7), (vec![], 7));
    }

    #[test]
    fn indices_wrap_at_the_capacity() {
        assert_eq!(reaped(8, 6, 2), (vec![6, 7, 0, 1], 2));
        assert_eq!(reaped(8, 6, 0), (vec![6, 7], 0));
    }

    #[test]
    fn no_more_is_taken_than_fits() {
        let (completions, head) = reaped(126, 100, 99);
        assert_eq!(completions.len(), crate::backend::REAP_BATCH);
        assert_eq!(head, 100 + 64 - 126);
    }

    #[test]
    fn indices_out_of_range_give_nothing() {
        assert_eq!(reaped(8, 9, 2), (vec![], 9));
        assert_eq!(reaped(8, 2, 8), (vec![], 2));
    }
}

/// How to run: see [`crate::sync`].
#[cfg(all(test, kaio_loom))]
mod loom_models {
    use super::super::ModelRing;
    use super::*;
    use loom::thread;
    use std::sync::Arc;

    /// Event number `n`, which shows in each of its words.
    fn event(n: u64) -> IoEvent {
        IoEvent {
            data: n,
            obj: !n,
            res: n as i64,
            res2: -(n as i64),
        }
    }

    fn number(event: &IoEvent) -> u64 {
        let n = event.data;
        let others = (event.obj, event.res, event.res2);
        assert_eq!(others, (!n, n as i64, -(n as i64)), "torn");
        n
    }

    /// Numbers of the events that a reap takes.
    fn reap_numbers(ring: &Arc<ModelRing>) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut completions = Completions::new();
        reap(&mut Arc::clone(ring), &mut completions, |event| {
            numbers.push(number(event));
        });
        assert!(
            completions
                .iter()
                .map(|c| c.user_data)
                .eq(numbers.iter().copied())
        );
        numbers
    }

    fn pass_through(capacity: u32, first: u32, count: u64) {
        loom::model(move || {
            let ring = ModelRing::new(capacity, first);
            let kernel = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    for n in 1..=count {
                        while !ring.post(event(n)) {
                            thread::yield_now();
                        }
                    }
                })
            };
            let mut taken = Vec::new();
            while taken.len() < count as usize {
                let numbers = reap_numbers(&ring);
                if numbers.is_empty() {
                    thread::yield_now();
                }
                taken.extend(numbers);
            }
            assert!(taken.iter().copied().eq(1..=count), "{taken:?}");
            kernel.join().unwrap();
        });
    }

    #[test]
    fn every_event_is_taken_once_in_order_and_whole() {
        pass_through(8, 0, 3);
    }

    #[test]
    fn every_event_is_taken_where_the_ring_wraps() {
        pass_through(4, 2, 3);
    }

    #[test]
    fn every_event_is_taken_where_the_kernel_waits_for_room() {
        pass_through(3, 1, 4);
    }

    #[test]
    fn no_event_is_overwritten_before_it_is_taken() {
        loom::model(|| {
            let ring = ModelRing::new(3, 0);
            assert!(ring.post(event(1)) && ring.post(event(2)) && !ring.post(event(0)));
            let kernel = {
                let ring = Arc::clone(&ring);
                // The second one would overwrite the first event.
                thread::spawn(move || (3..=4).take_while(|n| ring.post(event(*n))).count())
            };
            let mut taken = reap_numbers(&ring);
            let posted = kernel.join().unwrap();
            taken.extend(reap_numbers(&ring));
            assert!(taken.into_iter().eq(1..=2 + posted as u64));
        });
    }

    #[test]
    fn events_posted_before_a_reap_are_taken() {
        loom::model(|| {
            let ring = ModelRing::new(4, 3);
            let kernel = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || assert!(ring.post(event(1)) && ring.post(event(2))))
            };
            let mut taken = reap_numbers(&ring);
            kernel.join().unwrap();
            taken.extend(reap_numbers(&ring));
            assert_eq!(taken, [1, 2]);
        });
    }
}
