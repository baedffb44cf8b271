//! Requests that are submitted by the offload pool.

use std::thread;

use super::core_invariants::check;
use super::driver_fixture::*;
use crate::LockedBuf;
use crate::SubmitPolicy;
use crate::offload::OffloadConfig;
use crate::policy::Adaptive;

#[test]
fn offloaded_requests_without_room_wait_for_the_next_completion() {
    let fixture = Fixture::adaptive(config_with_policy(8, SubmitPolicy::Offload));
    let mut driver_task = fixture.running_driver_task();
    let first = fixture.start([0]);
    fixture.signal(); // a new turn of the runtime: the next request is not deferred
    fixture.backend.set_room(1);
    let second = fixture.start([1]);
    assert_eq!(driver_task.take_wakes(), 1, "in place of the signal");
    fixture.backend.calls();
    fixture.signal();
    assert_eq!(fixture.backend.calls(), [], "nothing has made room");
    assert_eq!(fixture.backend.in_flight(), [0]);
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1]);
    for op in first.into_iter().chain(second) {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn room_that_is_made_during_an_offloaded_submission_is_not_missed() {
    let fixture =
        Fixture::<SyncTypes<Adaptive>>::sync(config_with_policy(4, SubmitPolicy::Offload));
    let mut driver_task = fixture.running_driver_task();
    let first = fixture.start([0]);
    fixture.signal(); // a new turn of the runtime: the next request is not deferred
    fixture.backend.take_at_most([0, 0]);
    let second = thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let submission = scope.spawn(|| fixture.start([1]));
        fixture.backend.wait_for_submit();
        fixture.backend.complete(0);
        fixture.signal();
        drop(held);
        submission.join().unwrap()
    });
    fixture.signal();
    assert!(driver_task.poll().is_pending());
    for op in &second {
        assert_eq!(op.take_wakes(), 0, "it is submitted once more");
    }
    fixture.signal();
    for (op, expected) in first
        .into_iter()
        .chain(second)
        .zip([Ok(0), submit_error(libc::EAGAIN)])
    {
        assert_eq!(op.result(), expected);
    }
    fixture.assert_idle();
}

#[test]
fn a_refused_attempt_counts_as_completed_whatever_the_pool_does_with_its_request() {
    let fixture = Fixture::adaptive(config_with_policy(8, SubmitPolicy::NoWaitFirst));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start([0]);
    fixture.backend.refuse(0, libc::EBADF); // from now on
    fixture.backend.complete_with(0, -i64::from(libc::EAGAIN));
    fixture.signal();
    assert!(driver_task.poll().is_pending());
    for op in ops {
        assert_eq!(op.result(), submit_error(libc::EBADF));
    }
    let metrics = fixture.metrics();
    assert_eq!(metrics.nowait_refusals, 1);
    assert_eq!(
        (metrics.submitted, metrics.completed, metrics.failed),
        (1, 1, 1)
    );
    fixture.assert_idle();
}

/// Runs `test` with a context of two slots, whose only pool thread is busy with a request. Returns the
/// labels that complete then.
fn with_busy_pool(test: impl FnOnce(&Fixture<SyncTypes<Adaptive>>)) -> Vec<i64> {
    let config = config_with_policy(2, SubmitPolicy::Offload);
    let offload = OffloadConfig {
        max_threads: 1,
        ..OffloadConfig::FOR_TESTS
    };
    let fixture = Fixture::<SyncTypes<Adaptive>>::sync_with_offload(config, offload);
    let mut driver_task = fixture.driver_task();
    let other = thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let submission = scope.spawn(|| fixture.start([1]));
        fixture.backend.wait_for_submit();
        test(&fixture);
        check(&fixture);
        drop(held);
        submission.join().unwrap()
    });
    let completed = fixture.complete_all(&mut driver_task);
    for op in other {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
    check(&fixture);
    assert_eq!(fixture.free_capacity(), Some(2));
    completed
}

#[test]
fn a_read_that_waits_for_a_thread_is_never_submitted_if_it_is_dropped() {
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let address = buffer.as_ptr();
    let completed = with_busy_pool(|fixture| {
        let mut read = fixture.read(2, &mut buffer);
        assert!(read.poll().is_pending());
        assert_eq!(fixture.metrics().waiting_for_thread, 1);
        drop(read);
        assert_eq!(fixture.metrics().waiting_for_thread, 0);
        assert_eq!(fixture.free_capacity(), Some(1));
    });
    assert_eq!(completed, [1]);
    assert_eq!(buffer.as_ptr(), address, "it keeps its memory");
    assert_eq!(*buffer, [0; 16]);
}

#[test]
fn a_read_that_was_taken_back_from_the_pool_makes_room_for_a_queued_request() {
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let completed = with_busy_pool(|fixture| {
        let mut read = fixture.read(2, &mut buffer);
        assert!(read.poll().is_pending());
        let mut waiting = fixture.op(3);
        assert!(waiting.poll().is_pending());
        assert_eq!(fixture.census().waiting, 1);
        drop(read);
        assert_eq!(fixture.census().waiting, 0, "it waits for a thread now");
    });
    assert_eq!(completed, [1, 3], "a write lands though it is dropped");
}

#[test]
fn a_write_that_waits_for_a_thread_lands_though_it_was_dropped() {
    let buffer = LockedBuf::with_size(16).unwrap();
    let completed = with_busy_pool(|fixture| {
        let mut write = fixture.write(2, &buffer);
        assert!(write.poll().is_pending());
        drop(write);
        assert_eq!(fixture.metrics().waiting_for_thread, 1);
    });
    assert_eq!(completed, [1, 2]);
}
