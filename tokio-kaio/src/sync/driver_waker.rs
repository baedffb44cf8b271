//! [`DriverWaker`]: wakes the driver task of a context, now or after a pause.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::{AtomicBool, AtomicWaker, OwnThread, contain};

/// Wakes the driver task. Shared by everything that has work for the task.
#[derive(Debug)]
pub(crate) struct DriverWaker {
    task: AtomicWaker,
    /// A pause is in progress.
    pausing: AtomicBool,
    /// The eventfd was signalled on a thread that must not reap.
    signalled: AtomicBool,
    /// The thread that runs the task, if the context has one of its own.
    own_thread: OnceLock<OwnThread>,
}

/// Resolution of tokio's timers. Shorter pauses take a thread.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

impl DriverWaker {
    pub(crate) fn new() -> DriverWaker {
        DriverWaker {
            task: AtomicWaker::new(),
            pausing: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
            own_thread: OnceLock::new(),
        }
    }

    /// Sets the thread that will run the driver task. Called once, before the task is first polled.
    pub(crate) fn set_own_thread(&self, thread: OwnThread) {
        let _ = self.own_thread.set(thread);
    }

    /// Returns the thread that runs the driver task, if the context has one of its own.
    #[inline]
    pub(crate) fn own_thread(&self) -> Option<&OwnThread> {
        self.own_thread.get()
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

    /// Wakes the task after `pause`, or after the pause in progress. Uses a timer of the context's own
    /// thread, or a new thread: another runtime may have no timer, and all of its blocking threads may be
    /// waiting for the task.
    pub(crate) fn wake_after(self: &Arc<Self>, pause: Duration) {
        if cfg!(kaio_loom) {
            super::thread::yield_now(); // a model has no time, and only its own threads
            return self.wake();
        }
        if self.pausing.swap(true, Ordering::Acquire) {
            return;
        }
        if pause >= TIMER_RESOLUTION && self.wake_by_timer(pause) {
            return;
        }
        let waker = Arc::clone(self);
        let thread = std::thread::Builder::new().name("kaio-pause".into());
        let started = thread.spawn(move || {
            std::thread::sleep(pause);
            waker.end_pause();
        });
        if started.is_err() && !self.wake_by_timer(pause) {
            // No thread is available. Wake the driver task now: other tasks that are ready run first.
            self.end_pause();
        }
    }

    /// Ends the pause by a timer of the context's own thread. Returns `false` if it has no such thread.
    fn wake_by_timer(self: &Arc<Self>, pause: Duration) -> bool {
        let Some(runtime) = self.own_thread().and_then(OwnThread::runtime) else {
            return false;
        };
        let waker = Arc::clone(self);
        runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            waker.end_pause();
        });
        true
    }

    fn end_pause(&self) {
        self.pausing.store(false, Ordering::Release);
        self.wake();
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
