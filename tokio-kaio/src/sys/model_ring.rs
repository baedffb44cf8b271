//! A completion ring in ordinary memory, with the kernel's side of it: for tests and loom models.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(kaio_loom)]
use loom::{cell::UnsafeCell, sync::atomic::AtomicU32};
#[cfg(not(kaio_loom))]
use {cell::UnsafeCell, std::sync::atomic::AtomicU32};

use super::Events;
use super::abi::IoEvent;
use super::ring::{self, RingMemory};

/// Where a test plays the kernel: it [posts](ModelRing::post) events, one thread at a time.
#[derive(Debug)]
pub(crate) struct ModelRing {
    head: AtomicU32,
    tail: AtomicU32,
    events: Vec<UnsafeCell<IoEvent>>,
}

// SAFETY: the events are shared as a ring is, see `post` and `ring::consume`; under loom their
// cells check that.
unsafe impl Send for ModelRing {}
// SAFETY: as above.
unsafe impl Sync for ModelRing {}

const BLANK: IoEvent = IoEvent {
    data: 0,
    obj: 0,
    res: 0,
    res2: 0,
};

impl ModelRing {
    /// An empty ring of `capacity` words for events, of which one stays free, that starts at
    /// `first`.
    pub(crate) fn new(capacity: u32, first: u32) -> Arc<ModelRing> {
        Arc::new(ModelRing {
            head: AtomicU32::new(first),
            tail: AtomicU32::new(first),
            events: (0..capacity).map(|_| UnsafeCell::new(BLANK)).collect(),
        })
    }

    /// The kernel's side: the event, then the tail. Returns whether there was room.
    pub(crate) fn post(&self, event: IoEvent) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        let next = (tail + 1) % self.capacity();
        // The kernel's is a relaxed load on which the write depends; this language has no weaker
        // name for that.
        if next == self.head.load(Ordering::Acquire) {
            return false;
        }
        // SAFETY: posted by one thread at a time, and not yet, or no longer, in `head..tail`,
        // which is what the other side may look at.
        self.events[tail as usize].with_mut(|slot| unsafe { *slot = event });
        self.tail.store(next, Ordering::Release);
        true
    }

    /// User space's side: the code under test.
    pub(crate) fn consume(self: &Arc<ModelRing>, events: &mut Events) {
        ring::consume(&mut Arc::clone(self), events);
    }
}

impl RingMemory for Arc<ModelRing> {
    fn capacity(&self) -> u32 {
        ModelRing::capacity(self)
    }

    fn head(&self) -> u32 {
        self.head.load(Ordering::Relaxed)
    }

    fn tail(&self) -> u32 {
        self.tail.load(Ordering::Acquire)
    }

    fn set_head(&self, head: u32) {
        self.head.store(head, Ordering::Release);
    }

    fn event(&self, index: u32) -> IoEvent {
        // SAFETY: the caller has seen `tail` past it.
        self.events[index as usize].with(|slot| unsafe { *slot })
    }
}

impl ModelRing {
    fn capacity(&self) -> u32 {
        self.events.len() as u32
    }
}

/// The standard library's cell with the manners of loom's.
#[cfg(not(kaio_loom))]
mod cell {
    #[derive(Debug)]
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        pub(super) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
            look(self.0.get())
        }

        pub(super) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
            change(self.0.get())
        }
    }
}
