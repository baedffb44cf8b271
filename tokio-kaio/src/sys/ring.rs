//! The completion ring, reaped in user space.
//!
//! The kernel writes an event, then `tail`; user space reads `tail`, copies the events before it,
//! then writes `head`. Both count modulo the ring's size. The kernel refills its own count of free
//! slots from `head`, so nothing else is owed to it.

use super::Events;
use super::abi::IoEvent;

/// The words of a ring that its two sides share. [`super::aio::MappedRing`] is the real one; the
/// loom model has another.
pub(crate) trait RingMemory {
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

/// Moves events that have arrived to `events`, as many as fit. One consumer at a time: the caller
/// has the only reference.
pub(crate) fn consume<R: RingMemory>(ring: &mut R, events: &mut Events) {
    let capacity = ring.capacity();
    let (first, tail) = (ring.head(), ring.tail());
    // Indices out of range are none that this kernel interface makes. Taking nothing then is
    // safe; the caller's requests stay owned.
    if first >= capacity || tail >= capacity {
        return;
    }
    let mut head = first;
    while head != tail && !events.is_full() {
        events.push(ring.event(head));
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

    struct Fixed {
        capacity: u32,
        head: Cell<u32>,
        tail: u32,
    }

    impl RingMemory for Fixed {
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
                res: 0,
                res2: 0,
            }
        }
    }

    fn taken(capacity: u32, head: u32, tail: u32) -> (Vec<u64>, u32) {
        let mut ring = Fixed {
            capacity,
            head: Cell::new(head),
            tail,
        };
        let mut events = Events::new();
        consume(&mut ring, &mut events);
        (events.iter().map(|e| e.data).collect(), ring.head.get())
    }

    #[test]
    fn an_empty_ring_gives_nothing() {
        assert_eq!(taken(126, 7, 7), (vec![], 7));
    }

    #[test]
    fn indices_wrap_at_the_capacity() {
        assert_eq!(taken(8, 6, 2), (vec![6, 7, 0, 1], 2));
        assert_eq!(taken(8, 6, 0), (vec![6, 7], 0));
    }

    #[test]
    fn no_more_is_taken_than_fits() {
        let (events, head) = taken(126, 100, 99);
        assert_eq!(events.len(), super::super::REAP_BATCH);
        assert_eq!(head, 100 + 64 - 126);
    }

    #[test]
    fn indices_out_of_range_give_nothing() {
        assert_eq!(taken(8, 9, 2), (vec![], 9));
        assert_eq!(taken(8, 2, 8), (vec![], 2));
    }
}

/// How to run: see [`crate::sync`].
#[cfg(all(test, kaio_loom))]
mod loom_models {
    use super::super::ModelRing;
    use super::*;
    use loom::thread;
    use std::sync::Arc;

    /// Event number `n`; each word of it tells.
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
        let told = (event.obj, event.res, event.res2);
        assert_eq!(told, (!n, n as i64, -(n as i64)), "torn");
        n
    }

    fn hand_over(capacity: u32, first: u32, count: u64) {
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
                let mut events = Events::new();
                ring.consume(&mut events);
                if events.is_empty() {
                    thread::yield_now();
                }
                taken.extend(events.iter().map(number));
            }
            assert!(taken.iter().copied().eq(1..=count), "{taken:?}");
            kernel.join().unwrap();
        });
    }

    #[test]
    fn every_event_is_taken_once_in_order_and_whole() {
        hand_over(8, 0, 3);
    }

    #[test]
    fn the_same_where_the_ring_wraps() {
        hand_over(4, 2, 3);
    }

    #[test]
    fn the_same_where_the_kernel_waits_for_room() {
        hand_over(3, 1, 4);
    }

    #[test]
    fn no_event_is_overwritten_before_it_is_taken() {
        loom::model(|| {
            let ring = ModelRing::new(3, 0);
            assert!(ring.post(event(1)) && ring.post(event(2)) && !ring.post(event(0)));
            let kernel = {
                let ring = Arc::clone(&ring);
                // The second of these would be where the first event is.
                thread::spawn(move || (3..=4).take_while(|n| ring.post(event(*n))).count())
            };
            let mut early = Events::new();
            ring.consume(&mut early);
            let posted = kernel.join().unwrap();
            let mut late = Events::new();
            ring.consume(&mut late);
            let taken = early.iter().chain(&late).map(number);
            assert!(taken.eq(1..=2 + posted as u64));
        });
    }

    #[test]
    fn what_was_posted_before_a_look_is_there() {
        loom::model(|| {
            let ring = ModelRing::new(4, 3);
            let kernel = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || assert!(ring.post(event(1)) && ring.post(event(2))))
            };
            let mut early = Events::new();
            ring.consume(&mut early);
            kernel.join().unwrap();
            let mut late = Events::new();
            ring.consume(&mut late);
            let taken: Vec<_> = early.iter().chain(&late).map(number).collect();
            assert_eq!(taken, [1, 2]);
        });
    }
}
