//! [`Reaper`]: what the kernel's signal sets off.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

use super::shared::Shared;
use crate::request::Flavour;
use crate::sync::thread::{self, ThreadId};
use crate::sync::{AtomicBool, AtomicWaker, contain};

/// What waits for a context's eventfd, as a [`Waker`].
///
/// It reaps right where tokio's I/O driver finds the signal, and wakes the futures from there: no
/// task stands between the event and the future, which would cost a turn of the runtime.
pub(crate) struct Reaper<F: Flavour> {
    shared: Weak<Shared<F>>,
    reach: Reach,
    bell: Arc<Bell>,
}

/// Where a reaper may touch its context.
enum Reach {
    /// It is `Send + Sync`.
    Anywhere,
    /// Only on the thread that made it, which it can't leave unless it is `Send + Sync`.
    Home(ThreadId),
}

/// Wakes the driver.
#[derive(Debug)]
pub(super) struct Bell {
    driver: AtomicWaker,
    /// A pause of the driver's is under way.
    pausing: AtomicBool,
    /// A signal came on a thread that may not reap, and was left to the driver.
    signalled: AtomicBool,
}

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
            bell: Arc::new(Bell::new()),
        }
    }

    pub(super) fn register_driver(&self, waker: &Waker) {
        self.bell.driver.register(waker);
    }

    pub(super) fn wake_driver(&self) {
        self.bell.wake_driver();
    }

    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Wakes the driver after `pause`, or after the pause that is under way. On a thread of its
    /// own: the runtime may have no timer, and all of its blocking threads may wait for this.
    pub(super) fn wake_driver_after(&self, pause: Duration) {
        if cfg!(kaio_loom) {
            thread::yield_now(); // a model has no time, and the threads are its own
            return self.wake_driver();
        }
        if self.bell.pausing.swap(true, Ordering::Acquire) {
            return;
        }
        let bell = Arc::clone(&self.bell);
        let thread = std::thread::Builder::new().name("kaio-pause".into());
        let started = thread.spawn(move || {
            std::thread::sleep(pause);
            bell.pausing.store(false, Ordering::Release);
            bell.driver.wake();
        });
        if started.is_err() {
            // No thread to be had: other tasks go first, then the driver looks again.
            self.bell.pausing.store(false, Ordering::Release);
            self.wake_driver();
        }
    }

    /// The driver is no more to be woken.
    pub(super) fn forget_driver(&self) {
        drop(self.bell.driver.take());
    }

    /// Whether a signal was left to the driver since it last asked.
    pub(super) fn take_signal(&self) -> bool {
        self.bell.signalled.swap(false, Ordering::Acquire)
    }

    /// The kernel has signalled.
    fn ring(self: &Arc<Self>) {
        let may_reap_here = match self.reach {
            Reach::Anywhere => true,
            Reach::Home(home) => home == thread::current().id(),
        };
        if !may_reap_here {
            self.bell.signalled.store(true, Ordering::Release);
            self.wake_driver();
        } else if let Some(shared) = self.shared.upgrade() {
            shared.signalled(&self.waker());
        }
    }
}

impl Bell {
    pub(super) fn new() -> Bell {
        Bell {
            driver: AtomicWaker::new(),
            pausing: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
        }
    }

    pub(super) fn wake_driver(&self) {
        contain(|| self.driver.wake());
    }
}

/// As a waker. By hand because [`std::task::Wake`] wants types that are `Send + Sync + 'static`.
///
/// A waker can be anywhere at any time, and the context behind `shared` need not bear that. It is
/// reached only through [`Reaper::ring`]: by upgrading `shared`, so while the context lives, and
/// where `reach` allows it. `Anywhere` is made for `Send + Sync` contexts only. A context that is
/// neither has stayed on its home thread, with all that use it. Dropping the `Weak` elsewhere
/// touches nothing but its atomic counts, or frees memory whose content is gone; `reach` and
/// `bell` are `Send + Sync`. And the types of a flavour can't hold anything that a waker could
/// outlive: their values are made from nothing, by `INIT`, `new` and `default`.
impl<F: Flavour> Reaper<F> {
    const VTABLE: &'static RawWakerVTable = &RawWakerVTable::new(
        Self::clone_raw,
        Self::wake_raw,
        Self::wake_by_ref_raw,
        Self::drop_raw,
    );

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        let data = Arc::into_raw(Arc::clone(self)).cast();
        // SAFETY: the functions of the table take `data` for the `Arc` that it is, counted as
        // `RawWakerVTable` wants it, and may be called on any thread: see above.
        unsafe { Waker::new(data, Self::VTABLE) }
    }

    /// # Safety
    ///
    /// `data` is that of a waker made by [`Reaper::waker`], which counts as one reference.
    unsafe fn borrow_raw(data: *const ()) -> ManuallyDrop<Arc<Self>> {
        // SAFETY: the caller's promise; the count stays the waker's.
        ManuallyDrop::new(unsafe { Arc::from_raw(data.cast()) })
    }

    unsafe fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: called for a waker of ours.
        let reaper = unsafe { Self::borrow_raw(data) };
        RawWaker::new(Arc::into_raw(Arc::clone(&reaper)).cast(), Self::VTABLE)
    }

    unsafe fn wake_raw(data: *const ()) {
        // SAFETY: called for a waker of ours, which `wake` consumes with the reference that it
        // counts as.
        let reaper = unsafe { Arc::<Self>::from_raw(data.cast()) };
        reaper.ring();
    }

    unsafe fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: called for a waker of ours.
        let reaper = unsafe { Self::borrow_raw(data) };
        reaper.ring();
    }

    unsafe fn drop_raw(data: *const ()) {
        // SAFETY: called once for each waker of ours, with the reference that it counts as.
        drop(unsafe { Arc::<Self>::from_raw(data.cast()) });
    }
}
