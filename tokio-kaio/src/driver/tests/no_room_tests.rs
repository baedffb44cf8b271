//! A backend without room: requests are queued again, in order, or fail if no completion is due.

use std::thread;

use super::driver_fixture::*;
use crate::LockedBuf;
use crate::backend::SubmitError;
use crate::policy::Adaptive;

const NO_ROOM: Result<usize, SubmitError> = Err(SubmitError::NoRoom);

#[test]
fn requests_without_room_are_submitted_in_order_after_the_next_completion() {
    let fixture = Fixture::adaptive(config(16));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..6);
    fixture.backend.calls();

    fixture.backend.set_room(3);
    assert!(driver_task.poll().is_pending());
    let calls = [call(1..6, Ok(2)), call(3..6, NO_ROOM)];
    assert_eq!(fixture.backend.calls(), calls);

    ops.extend(fixture.start([6]));
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.calls().last(), Some(&call(3..7, NO_ROOM)));
    assert!(ops.iter_mut().all(|op| op.poll().is_pending()));

    fixture.backend.complete(1);
    fixture.signal();
    assert!(driver_task.poll().is_pending());
    assert_eq!(
        fixture.backend.calls(),
        [call(3..7, Ok(1)), call(4..7, NO_ROOM)]
    );
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 2, 3, 4, 5, 6]);
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn a_single_request_without_room_waits_for_the_next_completion() {
    let fixture = Fixture::new(config(4));
    let mut ops = fixture.start([1]);
    fixture.backend.take_at_most([0]);
    ops.extend(fixture.start([2]));
    assert_eq!(fixture.backend.in_flight(), [1]);
    assert_eq!(fixture.free_capacity(), Some(2), "it has its slot");

    fixture.backend.complete(1);
    fixture.signal();
    assert_eq!(fixture.backend.in_flight(), [2]);
    fixture.backend.complete(2);
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
}

#[test]
fn the_rest_of_a_write_without_room_is_written_once() {
    let fixture = Fixture::new(config(4));
    let buffer = LockedBuf::with_size(16_384).unwrap();
    let other = fixture.start([1]);
    let mut op = fixture.write_exact(10_000, &buffer, 12_288);
    assert!(op.poll().is_pending());
    fixture.backend.complete_with(10_000, 4096);
    fixture.backend.take_at_most([0]);
    assert!(op.poll().is_pending());
    assert_eq!(fixture.census().waiting, 1, "it waits for room");
    fixture.backend.complete(1);
    fixture.signal();
    assert_eq!(fixture.backend.entry(14_096).len, 8192);
    fixture.backend.complete(14_096);
    assert_eq!(op.result(), Ok(12_288));
    for op in other {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn a_request_without_room_fails_if_nothing_is_in_flight() {
    let fixture = Fixture::new(config(4));
    fixture.backend.set_room(0);
    assert_eq!(fixture.op(1).result(), submit_error(libc::EAGAIN));
    fixture.assert_idle();
    fixture.backend.set_room(1);
    let op = fixture.start([2]).remove(0);
    fixture.backend.complete(2);
    assert_eq!(op.result(), Ok(0), "the context goes on");
}

#[test]
fn each_request_of_a_batch_without_room_fails_if_nothing_is_in_flight() {
    let fixture = Fixture::adaptive(config(4));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..4);
    fixture.backend.complete(0);
    fixture.backend.set_room(0);
    assert!(driver_task.poll().is_pending());
    assert_eq!(ops.remove(0).result(), Ok(0));
    for op in ops {
        assert_eq!(op.take_wakes(), 1);
        assert_eq!(op.result(), submit_error(libc::EAGAIN));
    }
    fixture.assert_idle();
}

#[test]
fn requests_behind_one_that_fails_without_room_are_submitted() {
    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..3);
    fixture.backend.take_at_most([0]);
    fixture.backend.complete(0);
    fixture.signal();
    let _ = driver_task.poll();
    let _ = driver_task.poll();
    assert_eq!(fixture.backend.in_flight(), [2]);
    assert_eq!(ops.remove(1).result(), submit_error(libc::EAGAIN));
}

#[test]
fn requests_behind_one_that_fails_without_room_do_not_need_the_driver_task() {
    let fixture = Fixture::new(config(1));
    let mut ops = fixture.start(0..3);
    fixture.backend.take_at_most([0]);
    fixture.backend.complete(0);
    fixture.signal();
    assert_eq!(ops.remove(1).result(), submit_error(libc::EAGAIN));
    assert_eq!(fixture.backend.in_flight(), [2]);
}

#[test]
fn room_that_is_made_during_a_submission_is_not_missed() {
    let fixture = Fixture::<SyncTypes<Adaptive>>::sync(config(4));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..2);
    fixture.backend.take_at_most([0]);
    thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let flush = scope.spawn(|| fixture.flush());
        fixture.backend.wait_for_submit();
        fixture.backend.complete(0);
        fixture.signal();
        assert_eq!(ops.remove(0).result(), Ok(0));
        drop(held);
        flush.join().unwrap();
    });
    let _ = driver_task.poll();
    assert_eq!(fixture.backend.in_flight(), [1]);
    fixture.backend.complete(1);
    assert_eq!(ops.remove(0).result(), Ok(0));
}
