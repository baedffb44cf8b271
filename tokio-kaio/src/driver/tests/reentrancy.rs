//! No code of callers runs under the lock of a context: wakers that call back into their context. The
//! lock panics if it is taken twice.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Weak};
use std::task::{RawWaker, RawWakerVTable, Wake, Waker};

use super::driver_fixture::*;
use crate::driver::Driver;

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(Calls { clones: 0, wakes: 0, drops: 0 }) };
}

/// Calls of the reentrant wakers of this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calls {
    clones: usize,
    wakes: usize,
    drops: usize,
}

const NO_CALLS: Calls = Calls {
    clones: 0,
    wakes: 0,
    drops: 0,
};
const A_CLONE: Calls = Calls {
    clones: 1,
    ..NO_CALLS
};
const A_WAKE: Calls = Calls {
    wakes: 1,
    ..NO_CALLS
};
const A_DROP: Calls = Calls {
    drops: 1,
    ..NO_CALLS
};

/// The calls since this was last called.
fn take_calls() -> Calls {
    CALLS.replace(NO_CALLS)
}

fn count(call: impl FnOnce(&mut Calls)) {
    let mut calls = CALLS.get();
    call(&mut calls);
    CALLS.set(calls);
}

type Target = Weak<Driver<LocalTypes>>;

/// A waker that takes the context's lock whenever it is cloned, woken or dropped. For one thread.
fn reentrant_waker(fixture: &Fixture) -> Waker {
    let target: Target = Arc::downgrade(&fixture.driver);
    // SAFETY: the functions keep the contract, on the one thread that these tests use.
    unsafe { Waker::from_raw(raw(target)) }
}

fn raw(target: Target) -> RawWaker {
    static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, release);
    RawWaker::new(target.into_raw().cast(), &VTABLE)
}

/// # Safety
///
/// `data` is of [`raw`], and its waker exists.
unsafe fn target(data: *const ()) -> ManuallyDrop<Target> {
    // SAFETY: `into_raw` made it; it stays counted.
    ManuallyDrop::new(unsafe { Weak::from_raw(data.cast()) })
}

fn enter_and_lock(target: &Target) {
    if let Some(driver) = target.upgrade() {
        driver.enter().unwrap().free_capacity();
    }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: the caller is a waker.
    let target = unsafe { target(data) };
    count(|calls| calls.clones += 1);
    enter_and_lock(&target);
    raw(Weak::clone(&target))
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the caller is a waker, which this consumes.
    let target = ManuallyDrop::into_inner(unsafe { target(data) });
    count(|calls| calls.wakes += 1);
    enter_and_lock(&target);
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the caller is a waker.
    let target = unsafe { target(data) };
    count(|calls| calls.wakes += 1);
    enter_and_lock(&target);
}

unsafe fn release(data: *const ()) {
    // SAFETY: the caller is a waker, for the last time.
    let target = ManuallyDrop::into_inner(unsafe { target(data) });
    count(|calls| calls.drops += 1);
    enter_and_lock(&target);
}

#[test]
fn a_waker_is_cloned_and_woken_outside_the_lock() {
    let fixture = Fixture::new(config(4));
    let waker = reentrant_waker(&fixture);
    let mut op = fixture.op(1);
    assert!(op.poll_with(&waker).is_pending());
    assert_eq!(take_calls(), A_CLONE);
    fixture.backend.complete(1);
    fixture.signal();
    assert_eq!(take_calls(), A_WAKE);
    assert_eq!(op.result(), Ok(0));
}

#[test]
fn a_replaced_waker_is_dropped_outside_the_lock() {
    let fixture = Fixture::new(config(1));
    let (waker, other) = (reentrant_waker(&fixture), Waker::noop());
    let mut in_flight = fixture.op(1);
    let mut queued = fixture.op(2);
    for op in [&mut in_flight, &mut queued] {
        assert!(op.poll_with(&waker).is_pending());
        take_calls();
        assert!(op.poll_with(other).is_pending());
        assert_eq!(take_calls(), A_DROP);
        assert!(op.poll_with(&waker).is_pending());
        assert_eq!(take_calls(), A_CLONE);
    }
}

#[test]
fn the_waker_of_a_dropped_operation_is_dropped_outside_the_lock() {
    let fixture = Fixture::new(config(1));
    let waker = reentrant_waker(&fixture);
    let mut in_flight = fixture.op(1);
    let mut queued = fixture.op(2);
    assert!(in_flight.poll_with(&waker).is_pending());
    assert!(queued.poll_with(&waker).is_pending());
    take_calls();
    drop(queued);
    assert_eq!(take_calls(), A_DROP);
    drop(in_flight);
    assert_eq!(take_calls(), A_DROP);
}

#[test]
fn the_waker_of_a_refused_operation_is_dropped_outside_the_lock() {
    let fixture = Fixture::new(config(1));
    let waker = reentrant_waker(&fixture);
    fixture.backend.refuse(1, libc::EBADF);
    assert!(fixture.op(1).poll_with(&waker).is_ready());
    fixture.stop();
    assert!(fixture.op(2).poll_with(&waker).is_ready());
    let calls = take_calls();
    assert_eq!((calls.clones, calls.wakes + calls.drops), (2, 2));
}

#[test]
fn requests_that_a_stop_turns_away_are_woken_outside_the_lock() {
    let fixture = Fixture::new(config(1));
    let waker = reentrant_waker(&fixture);
    let mut ops = [fixture.op(1), fixture.op(2), fixture.op(3)];
    for op in &mut ops {
        assert!(op.poll_with(&waker).is_pending());
    }
    take_calls();
    fixture.stop();
    let wakes = 2;
    assert_eq!(take_calls(), Calls { wakes, ..NO_CALLS });
}

#[test]
fn requests_that_lose_their_driver_task_are_woken_outside_the_lock() {
    let fixture = Fixture::new(config(1));
    let waker = reentrant_waker(&fixture);
    let mut driver_task = fixture.driver_task();
    assert!(driver_task.poll_with(&waker).is_pending());
    let mut ops = [fixture.op(1), fixture.op(2), fixture.op(3)];
    for op in &mut ops {
        assert!(op.poll_with(&waker).is_pending());
    }
    take_calls();
    drop(driver_task);
    let wakes = 4; // one of them is the driver task's
    assert_eq!(take_calls(), Calls { wakes, ..NO_CALLS });
}

#[test]
fn the_driver_task_is_woken_outside_the_lock() {
    let fixture = Fixture::new(config(1));
    let waker = reentrant_waker(&fixture);
    let mut driver_task = fixture.driver_task();
    assert!(driver_task.poll_with(&waker).is_pending());
    assert_eq!(take_calls(), A_CLONE);
    let _ops = fixture.start(0..2);
    fixture.backend.complete(0);
    fixture.signal();
    assert_eq!(take_calls(), A_WAKE);
    assert!(driver_task.poll_with(&waker).is_pending());
    assert_eq!(fixture.backend.in_flight(), [1]);
}

#[test]
fn wakers_of_drains_are_cloned_woken_and_dropped_outside_the_lock() {
    let fixture = Fixture::new(config(2));
    let waker = reentrant_waker(&fixture);
    let _op = fixture.start([1]);
    let file = fixture.file.id();
    let [completed, abandoned] = [(); 2].map(|()| fixture.entered().start_drain(file).unwrap());
    for drain in [completed, abandoned] {
        assert!(!fixture.entered().poll_drain(drain, &waker));
        assert_eq!(take_calls(), A_CLONE);
    }
    assert!(!fixture.entered().poll_drain(completed, &waker));
    assert_eq!(take_calls().drops, 1);
    fixture.entered().end_drain(abandoned);
    assert_eq!(take_calls(), A_DROP);
    fixture.backend.complete(1);
    fixture.signal();
    assert_eq!(take_calls(), A_WAKE);
    assert!(fixture.entered().poll_drain(completed, &waker));
}

/// Drops what it holds when it is woken.
struct DropOnWake(RefCell<Option<Box<dyn Any>>>);

// SAFETY: used on one thread.
unsafe impl Send for DropOnWake {}
// SAFETY: as above.
unsafe impl Sync for DropOnWake {}

impl Wake for DropOnWake {
    fn wake(self: Arc<Self>) {
        drop(self.0.take());
    }
}

#[test]
fn a_waker_may_drop_other_operations_of_its_context() {
    let fixture: &'static Fixture = Box::leak(Box::new(Fixture::new(config(2))));
    let mut dropped = fixture.start([1]);
    let mut op = fixture.op(0);
    let drop_on_wake = Arc::new(DropOnWake(RefCell::new(None)));
    let waker = Waker::from(Arc::clone(&drop_on_wake));
    assert!(op.poll_with(&waker).is_pending());
    dropped.extend(fixture.start([2]));
    drop_on_wake.0.replace(Some(Box::new(dropped)));

    fixture.backend.complete(0);
    fixture.signal();
    assert!(drop_on_wake.0.borrow().is_none(), "woken");
    assert_eq!(op.result(), Ok(0));
    let in_flight = fixture.backend.in_flight();
    assert_eq!(in_flight, [1], "2 was not submitted");
    fixture.backend.complete(1);
    fixture.signal();
    fixture.assert_idle();
    fixture.orphan();
    fixture.wait_until_gone();
}

#[test]
fn a_waker_may_drop_the_driver_task() {
    let fixture = Fixture::new(config(2));
    let driver_task = Box::new(fixture.running_driver_task());
    let drop_on_wake = Arc::new(DropOnWake(RefCell::new(Some(driver_task))));
    let waker = Waker::from(Arc::clone(&drop_on_wake));
    let mut op = fixture.op(0);
    assert!(op.poll_with(&waker).is_pending());
    let others = fixture.start([1, 2, 3]);
    fixture.backend.complete(0);
    fixture.signal();
    assert_eq!(op.result(), Ok(0));
    for other in others {
        assert_eq!(other.result(), stopped());
    }
    fixture.wait_until_gone();
}
