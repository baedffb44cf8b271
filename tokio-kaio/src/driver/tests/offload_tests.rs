//! Requests that are submitted by the offload pool.

use std::thread;

use super::driver_fixture::*;
use crate::SubmitPolicy;
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
