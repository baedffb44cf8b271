//! [`ModelRing`]: a completion ring in ordinary memory, for tests and loom models.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(kaio_loom)]
use loom::{cell::UnsafeCell, sync::atomic::AtomicU32};
#[cfg(not(kaio_loom))]
use {cell::UnsafeCell, std::sync::atomic::AtomicU32};

use super::aio_abi::IoEvent;
use super::ring::{self, RingMemory};
use crate::backend::{Completion, Completions};

/// A completion ring to which a test [posts](ModelRing::post) events, as the kernel does.
#[derive(Debug)]
pub(crate) struct ModelRing {
    head: AtomicU32,
    tail: AtomicU32,
    events: Vec<UnsafeCell<IoEvent>>,
}

// SAFETY: `post` writes events outside `head..tail`, `ring::reap` reads those within; under loom
// the cells check that.
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
    /// An empty ring that starts at `first`. It holds `capacity - 1` events.
    pub(crate) fn new(capacity: u32, first: u32) -> Arc<ModelRing> {
        Arc::new(ModelRing {
            head: AtomicU32::new(first),
            tail: AtomicU32::new(first),
            events: (0..capacity).map(|_| UnsafeCell::new(BLANK)).collect(),
        })
    }

    /// Posts as the kernel does: first the event, then the tail. Returns whether there was room. One
    /// thread at a time.
    pub(super) fn post(&self, event: IoEvent) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        let next = (tail + 1) % self.capacity();
        // The kernel uses a relaxed load on which the write depends. Rust has no weaker name for
        // that than Acquire.
        if next == self.head.load(Ordering::Acquire) {
            return false;
        }
        // SAFETY: one thread posts at a time. The slot is outside `head..tail`, so the consumer does
        // not read it.
        self.events[tail as usize].with_mut(|slot| unsafe { *slot = event });
        self.tail.store(next, Ordering::Release);
        true
    }

    /// The same for an event of no known iocb.
    pub(crate) fn post_completion(&self, completion: Completion) -> bool {
        self.post(IoEvent {
            data: completion.user_data,
            obj: 0,
            res: completion.result,
            res2: 0,
        })
    }

    /// Reaps with the code under test. One thread at a time.
    pub(crate) fn reap(self: &Arc<ModelRing>, completions: &mut Completions) {
        ring::reap(&mut Arc::clone(self), completions, |_| {});
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
        // SAFETY: the caller has read a `tail` past `index`, so the event was written, and is not
        // overwritten before `set_head`.
        self.events[index as usize].with(|slot| unsafe { *slot })
    }
}

impl ModelRing {
    fn capacity(&self) -> u32 {
        self.events.len() as u32
    }
}

/// The standard library's cell, with the interface of loom's.
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
