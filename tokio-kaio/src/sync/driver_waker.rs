//! [`DriverWaker`]: wakes the driver task of a context, now or after a pause.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::{AtomicBool, AtomicWaker, contain};

/// Wakes the driver task. Shared by everything that has work for the task.
#[derive(Debug)]
pub(crate) struct DriverWaker {
    task: AtomicWaker,
    /// A pause is in progress.
    pausing: AtomicBool,
    /// The eventfd was signalled on a thread that must not reap.
    signalled: AtomicBool,
}

impl DriverWaker {
    pub(crate) fn new() -> DriverWaker {
        DriverWaker {
            task: AtomicWaker::new(),
            pausing: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
        }
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Stops waking the driver task.
    pub(crate) fn unregister(&self) {
        drop(self.task.take());
    }

    pub(crate) fn wake(&self) {
        contain(|| self.task.wake());
    }

    /// Wakes the task after `pause`, or after the pause in progress. Uses a new thread: the runtime may
    /// have no timer, and all of its blocking threads may be waiting for the task.
    pub(crate) fn wake_after(self: &Arc<Self>, pause: Duration) {
        if cfg!(kaio_loom) {
            super::thread::yield_now(); // a model has no time, and only its own threads
            return self.wake();
        }
        if self.pausing.swap(true, Ordering::Acquire) {
            return;
        }
        let waker = Arc::clone(self);
        let thread = std::thread::Builder::new().name("kaio-pause".into());
        let started = thread.spawn(move || {
            std::thread::sleep(pause);
            waker.pausing.store(false, Ordering::Release);
            waker.wake();
        });
        if started.is_err() {
            // No thread is available. Wake the driver task now: other tasks that are ready run first.
            self.pausing.store(false, Ordering::Release);
            self.wake();
        }
    }

    /// Passes a signal of the eventfd to the driver task.
    pub(crate) fn wake_for_signal(&self) {
        self.signalled.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether a signal was passed to the driver task since the last call.
    pub(crate) fn take_signal(&self) -> bool {
        self.signalled.swap(false, Ordering::Acquire)
    }
}
