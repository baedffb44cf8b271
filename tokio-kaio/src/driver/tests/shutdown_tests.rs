//! The end of a context, with requests in every state: stopped, or orphaned by its driver task.

use std::thread;

use super::driver_fixture::*;
use crate::LockedBuf;
use crate::backend::OpCode;
use crate::backend::fake::FILE_BYTE;
use crate::policy::Adaptive;
use crate::teardown::wait_until_gone;

const WAITS: [OpCode; 2] = [OpCode::Poll, OpCode::Open];

#[test]
fn a_stopped_context_turns_away_requests_that_wait_for_a_slot() {
    let fixture = Fixture::new(config(2));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..2);
    assert!(driver_task.poll().is_pending());
    ops.extend(fixture.start(2..5));
    for op in &ops {
        op.take_wakes();
    }

    fixture.stop();
    let wakes: Vec<_> = ops.iter().map(|op| op.take_wakes()).collect();
    assert_eq!(wakes, [0, 0, 1, 1, 1]);
    for op in ops.split_off(2) {
        assert_eq!(op.result(), stopped());
    }
    assert_eq!(fixture.op(9).result(), stopped());
    assert_eq!(fixture.free_capacity(), None);
    assert!(!fixture.has_ended(), "two are in flight");

    fixture.backend.complete(0);
    fixture.backend.complete(1);
    fixture.signal();
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.wait_until_gone();
    fixture.assert_idle();
    driver_task.ready().unwrap();
}

#[test]
fn a_stopped_context_submits_requests_that_have_a_slot() {
    let fixture = Fixture::adaptive(config(4));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..4);
    assert_eq!(fixture.backend.in_flight(), [0], "the others are queued");
    fixture.stop();
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 2, 3]);
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.wait_until_gone();
}

#[test]
fn an_idle_context_ends_when_it_is_stopped() {
    let fixture = Fixture::new(config(4));
    let driver_task = fixture.running_driver_task();
    fixture.stop();
    assert_eq!(driver_task.take_wakes(), 1);
    fixture.wait_until_gone();
    driver_task.ready().unwrap();
    fixture.stop();
    fixture.orphan();
    fixture.signal();
    assert_eq!(fixture.op(1).result(), stopped());
}

#[test]
fn a_stopped_context_waits_for_abandoned_requests() {
    let fixture = Fixture::new(config(4));
    let mut driver_task = fixture.running_driver_task();
    drop(fixture.start([1]));
    fixture.stop();
    assert!(driver_task.poll().is_pending());
    assert!(!fixture.has_ended());
    fixture.backend.complete(1);
    fixture.signal();
    fixture.wait_until_gone();
    driver_task.ready().unwrap();
}

#[test]
fn a_stopped_context_ends_when_its_last_queued_request_is_dropped() {
    let fixture = Fixture::adaptive(config(4));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start([1, 2]);
    fixture.stop();
    fixture.backend.complete(1);
    assert_eq!(ops.remove(0).result(), Ok(0));
    assert!(!fixture.has_ended());
    drop(ops);
    fixture.wait_until_gone();
    assert!(driver_task.poll().is_ready());
}

#[test]
fn without_its_driver_task_a_context_ends_at_once_in_whatever_state_its_requests_are() {
    let fixture = Fixture::adaptive(config(4));
    let driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..2);
    let mut abandoned = fixture.start([2]);
    fixture.flush();
    let completed = ops.remove(1);
    fixture.backend.complete_with(1, 11);
    fixture.signal();
    ops.extend(fixture.start([3, 4, 5]));
    assert_eq!(fixture.backend.in_flight(), [0, 2]);
    drop(abandoned.remove(0));
    for op in &ops {
        op.take_wakes();
    }

    drop(driver_task);
    for op in ops {
        assert_eq!(op.take_wakes(), 1);
        assert_eq!(op.result(), stopped());
    }
    assert_eq!(completed.result(), Ok(11), "it completed before");
    assert_eq!(fixture.op(9).result(), stopped());
    fixture.wait_until_gone();
    fixture.assert_idle();
}

#[test]
fn memory_that_the_kernel_may_use_outlives_the_context() {
    let fixture = Fixture::new(config(4));
    let driver_task = fixture.driver_task();
    let buffer = || {
        let mut buffer = LockedBuf::with_size(4096).unwrap();
        buffer.as_mut().fill(1);
        buffer
    };
    let (mut read, mut dropped, mut queued, mut written) = (buffer(), buffer(), buffer(), buffer());
    let [read_at, queued_at, written_at] =
        [&read, &queued, &written].map(|buffer| buffer.as_ref().as_ptr());
    let held = fixture.backend.hold_drop();

    let mut read_op = fixture.read(0, &mut read);
    assert!(read_op.poll().is_pending());
    let mut write_op = fixture.write(1, &written);
    assert!(write_op.poll().is_pending());
    let mut dropped_op = fixture.read(2, &mut dropped);
    assert!(dropped_op.poll().is_pending());
    drop(dropped_op);
    let _last_slot = fixture.start([3]);
    let mut queued_op = fixture.read(4, &mut queued);
    assert!(queued_op.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [0, 1, 2, 3]);

    drop(driver_task);
    fixture.backend.wait_for_drop();
    assert_eq!(read_op.result(), stopped());
    assert_eq!(write_op.result(), stopped());
    assert_eq!(queued_op.result(), stopped());
    assert_ne!(read.as_ref().as_ptr(), read_at, "the kernel has it");
    assert_eq!(queued.as_ref().as_ptr(), queued_at, "never submitted");
    written.as_mut()[0] = 2;
    assert_ne!(written.as_ref().as_ptr(), written_at, "the kernel reads it");
    assert!(!fixture.is_gone());

    drop(held); // fills the memory of the reads
    fixture.wait_until_gone();
    assert!(read.as_ref().iter().all(|&byte| byte == 0), "new memory");
    assert!(dropped.as_ref().iter().all(|&byte| byte == 0), "new memory");
    assert!(queued.as_ref().iter().all(|&byte| byte == 1), "as it was");
    assert_eq!(fixture.backend.in_flight_at_drop(), Some(vec![0, 1, 2, 3]));
}

#[test]
fn a_dropped_read_never_shows_what_the_kernel_writes_later() {
    let fixture = Fixture::new(config(4));
    let mut buffer = LockedBuf::with_size(4096).unwrap();
    buffer.as_mut().fill(1);
    let old = buffer.as_ref().as_ptr();
    let mut read = fixture.read(0, &mut buffer);
    assert!(read.poll().is_pending());
    drop(read);
    assert_eq!(buffer.size(), 4096);
    assert_ne!(buffer.as_ref().as_ptr(), old);
    fixture.backend.complete(0);
    fixture.signal();
    assert!(buffer.as_ref().iter().all(|&byte| byte == 0));
    fixture.assert_idle();
}

#[test]
fn a_read_that_has_completed_keeps_its_memory_when_it_is_dropped() {
    let fixture = Fixture::new(config(4));
    let mut buffer = LockedBuf::with_size(4096).unwrap();
    let old = buffer.as_ref().as_ptr();
    let mut read = fixture.read(0, &mut buffer);
    assert!(read.poll().is_pending());
    fixture.backend.complete(0); // not signalled yet
    drop(read);
    assert_eq!(buffer.as_ref().as_ptr(), old);
    assert!(buffer.as_ref().iter().all(|&byte| byte == FILE_BYTE));
    fixture.assert_idle();
}

#[test]
fn a_context_without_its_driver_task_waits_for_a_submission_under_way() {
    let fixture = Fixture::<SyncTypes>::sync(config(4));
    let driver_task = fixture.driver_task();
    thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let submission = scope.spawn(|| fixture.op(1).result());
        fixture.backend.wait_for_submit();
        drop(driver_task);
        assert_eq!(fixture.free_capacity(), None);
        assert!(!fixture.has_ended());
        assert!(!fixture.is_gone());

        drop(held);
        // The fake backend asserts that it is not dropped during the call.
        assert_eq!(submission.join().unwrap(), stopped());
    });
    fixture.wait_until_gone();
    fixture.assert_idle();
}

#[test]
fn a_context_without_its_driver_task_waits_for_a_batch_under_way() {
    let fixture = Fixture::<SyncTypes<Adaptive>>::sync(config(4));
    let driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..3);
    fixture.backend.refuse(2, libc::EBADF);
    thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let flush = scope.spawn(|| fixture.flush());
        fixture.backend.wait_for_submit();
        drop(driver_task);
        assert!(!fixture.has_ended());
        for op in ops {
            assert_eq!(op.result(), stopped());
        }
        drop(held);
        flush.join().unwrap();
    });
    fixture.wait_until_gone();
    fixture.assert_idle();
}

#[test]
fn a_stopped_context_cancels_what_might_never_complete() {
    for opcode in WAITS {
        let fixture = Fixture::<SyncTypes>::sync(config(1));
        let mut driver_task = fixture.driver_task();
        let mut in_flight = fixture.wait_op(opcode, 1);
        assert!(in_flight.poll().is_pending());
        let mut queued = fixture.wait_op(opcode, 2);
        assert!(queued.poll().is_pending());
        fixture.stop();
        assert_eq!(fixture.backend.in_flight(), [], "{opcode:?}");
        fixture.signal();
        assert!(in_flight.result().is_err());
        assert_eq!(queued.result(), stopped());
        let _ = driver_task.poll();
        fixture.wait_until_gone();
        fixture.assert_idle();
    }
}

/// The backend can't cancel it yet when its future is dropped.
#[test]
fn what_might_never_complete_is_cancelled_if_it_was_abandoned_or_stopped_during_its_submission() {
    for opcode in WAITS {
        for is_abandoned in [true, false] {
            let fixture = Fixture::<SyncTypes>::sync(config(1));
            let _driver_task = fixture.running_driver_task();
            let first = fixture.start([0]);
            let mut op = Some(fixture.wait_op(opcode, 1));
            assert!(op.as_mut().unwrap().poll().is_pending(), "queued");
            fixture.backend.complete(0);
            thread::scope(|scope| {
                let held = fixture.backend.hold_submits();
                let submission = scope.spawn(|| {
                    fixture.signal();
                    fixture.flush();
                });
                fixture.backend.wait_for_submit();
                match is_abandoned {
                    true => drop(op.take()),
                    false => fixture.stop(),
                }
                drop(held);
                submission.join().unwrap();
            });
            assert_eq!(fixture.backend.in_flight(), [], "{opcode:?}");
            fixture.signal();
            assert!(op.is_none_or(|op| op.result().is_err()));
            drop(first);
            fixture.assert_idle();
        }
    }
}

#[test]
fn a_stopped_context_waits_for_a_submission_under_way() {
    let fixture = Fixture::<SyncTypes>::sync(config(4));
    let _driver_task = fixture.driver_task();
    fixture.backend.complete_inline();
    thread::scope(|scope| {
        let held = fixture.backend.hold_returns();
        let submission = scope.spawn(|| fixture.op(1).result());
        fixture.backend.wait_for_calls(1);
        fixture.stop();
        assert_eq!(fixture.census().in_flight, 0, "its completion was reaped");
        assert!(!fixture.has_ended());
        drop(held);
        assert_eq!(submission.join().unwrap(), Ok(0));
    });
    fixture.wait_until_gone();
}

#[test]
fn a_context_ends_with_its_last_handle() {
    let fixture = Fixture::new(config(4));
    drop(fixture.start([1]));
    let gone = fixture.driver.gone();
    let backend = fixture.backend.clone();
    let held = backend.hold_drop();
    drop(fixture);
    backend.wait_for_drop();
    drop(held);
    block_on(wait_until_gone(gone));
    assert!(backend.is_dropped());
}

#[test]
fn when_completions_cannot_be_fetched_all_operations_fail() {
    let fixture = Fixture::new(config(2));
    let mut driver_task = fixture.running_driver_task();
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let mut read = fixture.read(1, &mut buffer);
    assert!(read.poll().is_pending());
    let mut others = fixture.start([2, 3]);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [1, 2], "3 waits for a slot");

    let held = fixture.backend.hold_drop();
    fixture.backend.fail_reaps(libc::EPERM);
    // If all slots are taken, a new request reaps first.
    assert_eq!(fixture.op(4).result(), stopped());
    assert_eq!(read.result(), completed_with(libc::EPERM));
    assert_eq!(others.remove(0).result(), completed_with(libc::EPERM));
    assert_eq!(others.remove(0).result(), stopped());
    fixture.backend.wait_for_drop();
    assert!(buffer.as_ref().iter().all(|&byte| byte == 0));
    drop(held);
    fixture.wait_until_gone();
    fixture.assert_idle();
}
