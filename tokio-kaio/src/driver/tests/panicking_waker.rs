//! [`PanickingWaker`]: a waker whose functions panic on demand.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{RawWaker, RawWakerVTable, Waker};

#[derive(Clone, Default)]
pub(super) struct PanickingWaker(Arc<Calls>);

#[derive(Default)]
struct Calls {
    /// Clones until one panics, counting that one. 0: none does.
    clones_to_panic: AtomicUsize,
    panics_in_wake: AtomicBool,
    panics_in_drop: AtomicBool,
    wakes: AtomicUsize,
}

impl PanickingWaker {
    pub(super) fn new() -> PanickingWaker {
        PanickingWaker::default()
    }

    /// Its clone panics after `successes` clones that do not, once.
    pub(super) fn panic_in_clone_after(&self, successes: usize) {
        self.0.clones_to_panic.store(successes + 1, Relaxed);
    }

    pub(super) fn panic_in_wake(&self) {
        self.0.panics_in_wake.store(true, Relaxed);
    }

    /// Each drop panics, except during a panic, which would abort the process.
    pub(super) fn panic_in_drop(&self) {
        self.0.panics_in_drop.store(true, Relaxed);
    }

    /// Nothing panics from now on.
    pub(super) fn behave(&self) {
        self.0.clones_to_panic.store(0, Relaxed);
        self.0.panics_in_wake.store(false, Relaxed);
        self.0.panics_in_drop.store(false, Relaxed);
    }

    /// A waker. It is forgotten rather than dropped, since its drop may panic.
    pub(super) fn waker(&self) -> ManuallyDrop<Waker> {
        let data = Arc::as_ptr(&self.0).cast();
        // SAFETY: the functions of the table take `data` for a reference to `Calls`, and count it as
        // `RawWakerVTable` requires. This waker does not count: it is never dropped, and used while
        // `self` lives.
        ManuallyDrop::new(unsafe { Waker::new(data, &VTABLE) })
    }

    /// Number of wakers that exist.
    pub(super) fn wakers(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    pub(super) fn wakes(&self) -> usize {
        self.0.wakes.load(Relaxed)
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, release);

unsafe fn clone(data: *const ()) -> RawWaker {
    let calls = data.cast::<Calls>();
    // SAFETY: the caller is a waker, whose `Calls` exist.
    let clones_to_panic = unsafe { &(*calls).clones_to_panic };
    if clones_to_panic.load(Relaxed) > 0 && clones_to_panic.fetch_sub(1, Relaxed) == 1 {
        panic_quietly();
    }
    // SAFETY: as above; `data` is that of an `Arc`.
    unsafe { Arc::increment_strong_count(calls) };
    RawWaker::new(data, &VTABLE)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the caller is a waker, which this consumes.
    let calls = unsafe { Arc::from_raw(data.cast::<Calls>()) };
    woken(&calls);
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the caller is a waker, whose `Calls` exist.
    woken(unsafe { &*data.cast::<Calls>() });
}

fn woken(calls: &Calls) {
    calls.wakes.fetch_add(1, Relaxed);
    if calls.panics_in_wake.load(Relaxed) {
        panic_quietly();
    }
}

unsafe fn release(data: *const ()) {
    // SAFETY: the caller is a waker, for the last time.
    let calls = unsafe { Arc::from_raw(data.cast::<Calls>()) };
    let panics = calls.panics_in_drop.load(Relaxed) && !std::thread::panicking();
    drop(calls);
    if panics {
        panic_quietly();
    }
}

/// Without the panic hook, which would print each one.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("a waker panics"))
}

/// Asserts that `call` panics.
pub(super) fn assert_panics<R>(call: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
}
