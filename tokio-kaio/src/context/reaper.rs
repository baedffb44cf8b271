//! [`Reaper`]: what the kernel's signal sets off.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::shared::Shared;
use crate::request::Flavour;
use atomic_waker::AtomicWaker;
use tokio::runtime::Handle;

/// The waker that waits for a context's eventfd.
///
/// It reaps right where tokio's I/O driver finds the signal, and wakes the futures from there: no
/// task stands between the event and the future, which would cost a turn of the runtime.
pub(crate) struct Reaper<F: Flavour> {
    shared: Weak<Shared<F>>,
    reach: Reach,
    /// The driver's task.
    driver: AtomicWaker,
    /// A pause of the driver's is under way.
    pausing: AtomicBool,
    /// A signal came on a thread that may not reap, and was left to the driver.
    left_to_driver: AtomicBool,
}

/// Where a reaper may touch its context.
enum Reach {
    /// It is `Send + Sync`.
    Anywhere,
    /// Only on the thread that made it, which it can't leave unless it is `Send + Sync`.
    Home(ThreadId),
}

// SAFETY: a waker must be `Send + Sync`; the context behind `shared` need not be. It is reached
// only by upgrading `shared` in `wake_by_ref`, after `reach` has allowed it: `Anywhere` is made
// for `Send + Sync` contexts only, and a context that is neither has stayed on its home thread,
// with all that use it. Dropping the `Weak` elsewhere touches nothing but its atomic counts, or
// frees memory whose content is gone. The other fields are `Send + Sync`.
unsafe impl<F: Flavour> Send for Reaper<F> {}
// SAFETY: as above.
unsafe impl<F: Flavour> Sync for Reaper<F> {}

impl<F: Flavour> Reaper<F> {
    /// For a context that any thread may use.
    pub(crate) fn anywhere(shared: Weak<Shared<F>>) -> Reaper<F>
    where
        Shared<F>: Send + Sync,
    {
        Reaper::new(shared, Reach::Anywhere)
    }

    /// For a context that may be bound to this thread.
    pub(crate) fn at_home(shared: Weak<Shared<F>>) -> Reaper<F> {
        Reaper::new(shared, Reach::Home(thread::current().id()))
    }

    fn new(shared: Weak<Shared<F>>, reach: Reach) -> Reaper<F> {
        Reaper {
            shared,
            reach,
            driver: AtomicWaker::new(),
            pausing: AtomicBool::new(false),
            left_to_driver: AtomicBool::new(false),
        }
    }

    pub(super) fn register_driver(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    pub(super) fn wake_driver(&self) {
        self.driver.wake();
    }

    /// Whether a signal was left to the driver since it last asked.
    pub(super) fn take_signal(&self) -> bool {
        self.left_to_driver.swap(false, Ordering::Acquire)
    }

    fn may_reap_here(&self) -> bool {
        match self.reach {
            Reach::Anywhere => true,
            Reach::Home(home) => home == thread::current().id(),
        }
    }
}

impl<F: Flavour + 'static> Reaper<F> {
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Wakes the driver after `pause`, or after the pause that is under way. Needs no timer of the
    /// runtime's, which may have none.
    pub(super) fn wake_driver_after(self: &Arc<Self>, pause: Duration) {
        let Ok(runtime) = Handle::try_current() else {
            return self.wake_driver(); // no way to sleep here: other tasks go first
        };
        if self.pausing.swap(true, Ordering::Acquire) {
            return;
        }
        let reaper = Arc::clone(self);
        runtime.spawn_blocking(move || {
            thread::sleep(pause);
            reaper.pausing.store(false, Ordering::Release);
            reaper.wake_driver();
        });
    }
}

impl<F: Flavour + 'static> Wake for Reaper<F> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.may_reap_here() {
            self.left_to_driver.store(true, Ordering::Release);
            self.wake_driver();
        } else if let Some(shared) = self.shared.upgrade() {
            shared.signalled(&self.waker());
        }
    }
}
