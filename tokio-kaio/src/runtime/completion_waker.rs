//! [`CompletionWaker`]: reaps completions when the eventfd is signalled.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::{Arc, Weak};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::config::ContextTypes;
use crate::driver::Driver;
use crate::sync::DriverWaker;
use crate::sync::thread::{self, ThreadId};

/// A [`Waker`] registered for the eventfd of a context.
///
/// When tokio's I/O driver wakes it, it reaps and wakes the futures on that thread. A task between the
/// eventfd and the futures would cost another turn of the runtime.
pub(crate) struct CompletionWaker<T: ContextTypes> {
    driver: Weak<Driver<T>>,
    affinity: ThreadAffinity,
    driver_waker: Arc<DriverWaker>,
}

/// The threads on which a waker may access its context.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ThreadAffinity {
    /// The context is `Send + Sync`.
    Any,
    /// Only the thread that created the context. A context that is not `Send + Sync` can't leave it.
    Only(ThreadId),
}

impl<T: ContextTypes> CompletionWaker<T> {
    /// Creates the waker of a context that any thread may use.
    pub(crate) fn for_any_thread(driver: &Arc<Driver<T>>) -> Arc<CompletionWaker<T>>
    where
        Driver<T>: Send + Sync,
    {
        CompletionWaker::new(driver, ThreadAffinity::Any)
    }

    /// Creates the waker of a context that may be bound to the current thread.
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

    /// Arms the eventfd for the first signal.
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

/// The waker's vtable, written by hand because [`std::task::Wake`] requires `Send + Sync + 'static`.
///
/// A waker may be used and dropped on any thread and at any time, but the driver need not be `Send`, `Sync`
/// or `'static`. This is sound:
///
/// - *Access.* Only [`CompletionWaker::on_signal`] accesses the driver. It upgrades `driver`, so the driver
///   is alive, and it runs on a thread that `affinity` allows. `Any` is used only if the driver is `Send +
///   Sync`. A driver that is not `Send + Sync` never leaves the thread that created it, nor do its users.
/// - *Drop.* Dropping the `Weak` on another thread touches only the atomic counts, or frees memory whose
///   contents were dropped. `affinity` and `driver_waker` are `Send + Sync`.
/// - *Lifetime.* A waker may outlive the lifetimes in `T`, but the driver holds no borrowed data: the lock is
///   created by `INIT`, from nothing, and backend and advisor are `'static`.
impl<T: ContextTypes> CompletionWaker<T> {
    const VTABLE: &'static RawWakerVTable = &RawWakerVTable::new(
        Self::clone_raw,
        Self::wake_raw,
        Self::wake_by_ref_raw,
        Self::drop_raw,
    );

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        let data = Arc::into_raw(Arc::clone(self)).cast();
        // SAFETY: `data` is an `Arc<Self>`, which the functions of the table expect. They count references
        // as `RawWakerVTable` requires, and may be called on any thread (see above).
        unsafe { Waker::new(data, Self::VTABLE) }
    }

    /// # Safety
    ///
    /// `data` must be the data of a waker from [`CompletionWaker::waker`], which owns one reference.
    unsafe fn borrow_raw(data: *const ()) -> ManuallyDrop<Arc<Self>> {
        // SAFETY: by the caller's promise. `ManuallyDrop` leaves the reference with the waker.
        ManuallyDrop::new(unsafe { Arc::from_raw(data.cast()) })
    }

    unsafe fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: called only through `VTABLE`, with the data of such a waker.
        let waker = unsafe { Self::borrow_raw(data) };
        RawWaker::new(Arc::into_raw(Arc::clone(&waker)).cast(), Self::VTABLE)
    }

    unsafe fn wake_raw(data: *const ()) {
        // SAFETY: called only through `VTABLE`. `wake` consumes the waker, whose reference moves here.
        let waker = unsafe { Arc::<Self>::from_raw(data.cast()) };
        waker.on_signal();
    }

    unsafe fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: called only through `VTABLE`, with the data of such a waker.
        let waker = unsafe { Self::borrow_raw(data) };
        waker.on_signal();
    }

    unsafe fn drop_raw(data: *const ()) {
        // SAFETY: called only through `VTABLE`, once for each waker, whose reference moves here.
        drop(unsafe { Arc::<Self>::from_raw(data.cast()) });
    }
}
