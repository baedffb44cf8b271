//! [`CompletionWaker`]: reaps when the eventfd is signalled.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::{Arc, Weak};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::config::ContextTypes;
use crate::driver::Driver;
use crate::sync::DriverWaker;
use crate::sync::thread::{self, ThreadId};

/// Waits for the eventfd of a context, as a [`Waker`].
///
/// It reaps where tokio's I/O driver finds the signal, and wakes the futures from there: no task stands
/// between a completion and its future, which would cost a turn of the runtime.
pub(crate) struct CompletionWaker<T: ContextTypes> {
    driver: Weak<Driver<T>>,
    affinity: ThreadAffinity,
    driver_waker: Arc<DriverWaker>,
}

/// Where a waker may access its context.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ThreadAffinity {
    /// The context is `Send + Sync`.
    Any,
    /// Only on the thread that made the context, which it can't leave unless it is `Send + Sync`.
    Only(ThreadId),
}

impl<T: ContextTypes> CompletionWaker<T> {
    /// For a context that any thread may use.
    pub(crate) fn for_any_thread(driver: &Arc<Driver<T>>) -> Arc<CompletionWaker<T>>
    where
        Driver<T>: Send + Sync,
    {
        CompletionWaker::new(driver, ThreadAffinity::Any)
    }

    /// For a context that may be bound to the current thread.
    pub(crate) fn for_this_thread(driver: &Arc<Driver<T>>) -> Arc<CompletionWaker<T>> {
        CompletionWaker::new(driver, ThreadAffinity::Only(thread::current().id()))
    }

    fn new(driver: &Arc<Driver<T>>, affinity: ThreadAffinity) -> Arc<CompletionWaker<T>> {
        Arc::new(CompletionWaker {
            driver: Arc::downgrade(driver),
            affinity,
            driver_waker: Arc::clone(&driver.driver_waker),
        })
    }

    /// Waits for the first signal.
    pub(crate) fn arm(self: &Arc<Self>) {
        self.on_signal();
    }

    fn on_signal(self: &Arc<Self>) {
        let may_reap = match self.affinity {
            ThreadAffinity::Any => true,
            ThreadAffinity::Only(home) => home == thread::current().id(),
        };
        if !may_reap {
            self.driver_waker.wake_for_signal();
        } else if let Some(driver) = self.driver.upgrade() {
            if let Ok(driver) = driver.enter() {
                driver.on_eventfd(&self.waker());
            }
        }
    }
}

/// As a waker. By hand because [`std::task::Wake`] requires types that are `Send + Sync + 'static`.
///
/// A waker can be anywhere at any time, and the context behind `driver` need not bear that. It is
/// reached only in [`CompletionWaker::on_signal`]: by upgrading `driver`, so while the context lives, and
/// where `affinity` allows it. `Any` is made for `Send + Sync` contexts only. A context that is neither
/// stays on its thread, with all that use it. Dropping the `Weak` elsewhere accesses nothing but its
/// atomic counts, or frees memory whose content is gone; `affinity` and `driver_waker` are `Send +
/// Sync`. The types of a context hold nothing that a waker could outlive: the lock is made from nothing,
/// by `INIT`, and backend and advisor are `'static`.
impl<T: ContextTypes> CompletionWaker<T> {
    const VTABLE: &'static RawWakerVTable = &RawWakerVTable::new(
        Self::clone_raw,
        Self::wake_raw,
        Self::wake_by_ref_raw,
        Self::drop_raw,
    );

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        let data = Arc::into_raw(Arc::clone(self)).cast();
        // SAFETY: the functions of the table take `data` for the `Arc` that it is, count references as
        // `RawWakerVTable` requires, and may be called on any thread: see above.
        unsafe { Waker::new(data, Self::VTABLE) }
    }

    /// # Safety
    ///
    /// `data` is that of a waker made by [`CompletionWaker::waker`], which counts as one reference.
    unsafe fn borrow_raw(data: *const ()) -> ManuallyDrop<Arc<Self>> {
        // SAFETY: the caller's promise; the reference stays the waker's.
        ManuallyDrop::new(unsafe { Arc::from_raw(data.cast()) })
    }

    unsafe fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: called for such a waker.
        let waker = unsafe { Self::borrow_raw(data) };
        RawWaker::new(Arc::into_raw(Arc::clone(&waker)).cast(), Self::VTABLE)
    }

    unsafe fn wake_raw(data: *const ()) {
        // SAFETY: called for such a waker; `wake` consumes it, with the reference that it counts as.
        let waker = unsafe { Arc::<Self>::from_raw(data.cast()) };
        waker.on_signal();
    }

    unsafe fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: called for such a waker.
        let waker = unsafe { Self::borrow_raw(data) };
        waker.on_signal();
    }

    unsafe fn drop_raw(data: *const ()) {
        // SAFETY: called once for each such waker, with the reference that it counts as.
        drop(unsafe { Arc::<Self>::from_raw(data.cast()) });
    }
}
