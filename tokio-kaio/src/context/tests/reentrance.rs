//! No code of the caller's runs under a context's lock: wakers that go back into the context they
//! are called from. The lock here panics where it is taken twice.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::Weak;
use std::task::{RawWaker, RawWakerVTable, Wake, Waker};

use super::rig::{Local, Rig, limits, outcome};
use crate::context::shared::Shared;

thread_local! {
    static ACTS: Cell<Acts> = const { Cell::new(Acts { clones: 0, wakes: 0, drops: 0 }) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acts {
    clones: usize,
    wakes: usize,
    drops: usize,
}

/// What the wakers of this thread were asked for since this was last called.
fn acts() -> (usize, usize, usize) {
    let Acts {
        clones,
        wakes,
        drops,
    } = ACTS.replace(Acts {
        clones: 0,
        wakes: 0,
        drops: 0,
    });
    (clones, wakes, drops)
}

fn count(act: impl FnOnce(&mut Acts)) {
    let mut acts = ACTS.get();
    act(&mut acts);
    ACTS.set(acts);
}

type Target = Weak<Shared<Local>>;

/// A waker that takes the context's lock whenever it is cloned, woken or dropped. For one thread.
fn intruder(rig: &Rig) -> Waker {
    let target: Target = Arc::downgrade(&rig.shared);
    // SAFETY: the functions keep the contract, on the one thread that these tests use.
    unsafe { Waker::from_raw(raw(target)) }
}

fn raw(target: Target) -> RawWaker {
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, release);
    RawWaker::new(target.into_raw().cast(), &TABLE)
}

/// # Safety
///
/// `data` is of [`raw`], and its waker exists.
unsafe fn target(data: *const ()) -> ManuallyDrop<Target> {
    // SAFETY: `into_raw` made it; it stays counted.
    ManuallyDrop::new(unsafe { Weak::from_raw(data.cast()) })
}

fn intrude(target: &Target) {
    if let Some(shared) = target.upgrade() {
        shared.free_slots();
    }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: the caller is a waker.
    let target = unsafe { target(data) };
    count(|acts| acts.clones += 1);
    intrude(&target);
    raw(Weak::clone(&target))
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the caller is a waker.
    let target = ManuallyDrop::into_inner(unsafe { target(data) });
    count(|acts| acts.wakes += 1);
    intrude(&target);
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the caller is a waker.
    let target = unsafe { target(data) };
    count(|acts| acts.wakes += 1);
    intrude(&target);
}

unsafe fn release(data: *const ()) {
    // SAFETY: the caller is a waker, for the last time.
    let target = ManuallyDrop::into_inner(unsafe { target(data) });
    count(|acts| acts.drops += 1);
    intrude(&target);
}

#[test]
fn a_waker_is_cloned_and_woken_outside_the_lock() {
    let rig = Rig::new(limits(4));
    let waker = intruder(&rig);
    let mut op = rig.op(1);
    assert!(op.poll_with(&waker).is_pending());
    assert_eq!(acts(), (1, 0, 0));
    rig.kernel.complete(1);
    rig.signal();
    assert_eq!(acts(), (0, 1, 0));
    assert_eq!(outcome(op.ready()), Ok(0));
}

#[test]
fn a_waker_that_is_replaced_is_dropped_outside_the_lock() {
    let rig = Rig::new(limits(1));
    let (waker, other) = (intruder(&rig), Waker::noop());
    let mut in_flight = rig.op(1);
    let mut queued = rig.op(2);
    for op in [&mut in_flight, &mut queued] {
        assert!(op.poll_with(&waker).is_pending());
        acts();
        assert!(op.poll_with(other).is_pending());
        assert_eq!(acts(), (0, 0, 1));
        assert!(op.poll_with(&waker).is_pending());
        assert_eq!(acts(), (1, 0, 0));
    }
}

#[test]
fn the_waker_of_a_dropped_operation_is_dropped_outside_the_lock() {
    let rig = Rig::new(limits(1));
    let waker = intruder(&rig);
    let mut in_flight = rig.op(1);
    let mut queued = rig.op(2);
    assert!(in_flight.poll_with(&waker).is_pending());
    assert!(queued.poll_with(&waker).is_pending());
    acts();
    drop(queued);
    assert_eq!(acts(), (0, 0, 1));
    drop(in_flight);
    assert_eq!(acts(), (0, 0, 1));
}

#[test]
fn the_waker_of_a_refused_operation_is_dropped_outside_the_lock() {
    let rig = Rig::new(limits(1));
    let waker = intruder(&rig);
    rig.kernel.refuse(1, libc::EBADF);
    assert!(rig.op(1).poll_with(&waker).is_ready());
    rig.shared.stop();
    assert!(rig.op(2).poll_with(&waker).is_ready());
    let (clones, wakes, drops) = acts();
    assert_eq!((clones, wakes + drops), (2, 2), "all are given back");
}

#[test]
fn those_that_a_stop_turns_away_are_woken_outside_the_lock() {
    let rig = Rig::new(limits(1));
    let waker = intruder(&rig);
    let mut ops = [rig.op(1), rig.op(2), rig.op(3)];
    for op in &mut ops {
        assert!(op.poll_with(&waker).is_pending());
    }
    acts();
    rig.shared.stop();
    assert_eq!(acts(), (0, 2, 0));
}

#[test]
fn those_that_lose_their_driver_are_woken_outside_the_lock() {
    let rig = Rig::new(limits(1));
    let waker = intruder(&rig);
    let mut driver = rig.driver();
    assert!(driver.poll_with(&waker).is_pending());
    let mut ops = [rig.op(1), rig.op(2), rig.op(3)];
    for op in &mut ops {
        assert!(op.poll_with(&waker).is_pending());
    }
    acts();
    drop(driver);
    assert_eq!(acts(), (0, 4, 0), "the driver's own is one");
}

#[test]
fn the_drivers_waker_is_woken_outside_the_lock() {
    let rig = Rig::new(limits(4));
    let waker = intruder(&rig);
    let mut driver = rig.driver();
    assert!(driver.poll_with(&waker).is_pending());
    assert_eq!(acts(), (1, 0, 0));
    let _ops = rig.started(0..4);
    assert_eq!(acts(), (0, 1, 0));
    assert!(driver.poll_with(&waker).is_pending());
    assert_eq!(rig.kernel.in_flight(), [0, 1, 2, 3]);
}

/// Drops what it holds when it is woken.
struct Executioner(RefCell<Option<Box<dyn std::any::Any>>>);

// SAFETY: used on one thread.
unsafe impl Send for Executioner {}
// SAFETY: as above.
unsafe impl Sync for Executioner {}

impl Wake for Executioner {
    fn wake(self: Arc<Self>) {
        drop(self.0.take());
    }
}

#[test]
fn a_waker_may_drop_other_operations_of_its_context() {
    let rig: &'static Rig = Box::leak(Box::new(Rig::new(limits(2))));
    let mut victims = rig.started([1]);
    let mut op = rig.op(0);
    let executioner = Arc::new(Executioner(RefCell::new(None)));
    let waker = Waker::from(Arc::clone(&executioner));
    assert!(op.poll_with(&waker).is_pending());
    victims.extend(rig.started([2, 3]));
    executioner.0.replace(Some(Box::new(victims)));

    rig.kernel.complete(0);
    rig.signal();
    assert!(executioner.0.borrow().is_none(), "woken");
    assert_eq!(outcome(op.ready()), Ok(0));
    assert_eq!(rig.kernel.in_flight(), [1], "2 and 3 had not gone out");
    rig.kernel.complete(1);
    rig.signal();
    rig.assert_idle();
    rig.shared.orphan();
    rig.wait_until_gone();
}

#[test]
fn a_waker_may_drop_the_driver() {
    let rig = Rig::new(limits(2));
    let executioner = Arc::new(Executioner(RefCell::new(Some(Box::new(rig.driven())))));
    let waker = Waker::from(Arc::clone(&executioner));
    let mut op = rig.op(0);
    assert!(op.poll_with(&waker).is_pending());
    let others = rig.started([1, 2, 3]);
    rig.kernel.complete(0);
    rig.signal();
    assert_eq!(outcome(op.ready()), Ok(0));
    for other in others {
        assert_eq!(outcome(other.ready()), Err("stopped".into()));
    }
    rig.wait_until_gone();
}
