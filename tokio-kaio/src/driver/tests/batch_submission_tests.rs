//! Requests that share a system call: batches, and what becomes of each member.

use super::driver_fixture::*;
use crate::backend::SubmitError;
use crate::backend::fake::Call;
use crate::policy::SubmitAdvisor;
use crate::runtime::DriverTask;

fn sizes(calls: &[Call]) -> Vec<usize> {
    calls.iter().map(|call| call.labels.len()).collect()
}

#[test]
fn a_submission_that_took_a_part_is_continued_where_it_stopped() {
    let fixture = Fixture::adaptive(config(8));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..6);
    assert_eq!(fixture.backend.calls(), [call([0], Ok(1))]);

    fixture.backend.take_at_most([2, 1]);
    assert!(driver_task.poll().is_pending());
    assert_eq!(
        fixture.backend.calls(),
        [call(1..6, Ok(2)), call(3..6, Ok(1)), call(4..6, Ok(2))]
    );
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 2, 3, 4, 5]);
    for op in ops {
        assert_eq!(op.take_wakes(), 1);
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn a_request_of_a_batch_that_is_refused_fails_alone() {
    let fixture = Fixture::adaptive(config(8));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..6);
    fixture.backend.calls();

    fixture.backend.refuse(3, libc::EBADF);
    fixture.backend.refuse(5, libc::EINVAL);
    assert!(driver_task.poll().is_pending());
    let refused = |errno| Err(SubmitError::Refused(errno));
    assert_eq!(
        fixture.backend.calls(),
        [
            call(1..6, Ok(2)),
            call(3..6, refused(libc::EBADF)),
            call(4..6, Ok(1)),
            call([5], refused(libc::EINVAL))
        ]
    );
    let wakes: Vec<_> = ops.iter().map(|op| op.take_wakes()).collect();
    assert_eq!(wakes, [0, 0, 0, 1, 0, 1]);
    assert_eq!(fixture.free_capacity(), Some(4), "their slots are free");

    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 2, 4]);
    let results: Vec<_> = ops.into_iter().map(|op| op.result()).collect();
    let (ebadf, einval) = (submit_error(libc::EBADF), submit_error(libc::EINVAL));
    assert_eq!(results, [Ok(0), Ok(0), Ok(0), ebadf, Ok(0), einval]);
    fixture.assert_idle();
}

#[test]
fn no_batch_is_larger_than_its_limit() {
    let fixture = Fixture::adaptive(config_with_max_batch(8, 3));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..18);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight().len(), 8);
    let all: Vec<_> = (0..18).collect();
    assert_eq!(fixture.complete_all(&mut driver_task), all);
    let calls = fixture.backend.calls();
    assert!(calls.iter().all(|call| call.labels.len() <= 3), "{calls:?}");
    let submitted = calls.iter().flat_map(|call| call.labels.clone());
    assert!(submitted.eq(all), "{calls:?}");
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
}

#[test]
fn requests_that_waited_for_slots_share_a_call_with_any_policy() {
    let fixture = Fixture::new(config_with_max_batch(4, 3));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..4);
    let waiting = fixture.start(4..8);
    fixture.backend.calls();
    (0..4).for_each(|label| fixture.backend.complete(label));
    fixture.signal();
    let _ = driver_task.poll();
    let submitted: Vec<_> = fixture.backend.calls();
    assert_eq!(submitted.last(), Some(&call([7], Ok(1))));
    assert!(submitted.contains(&call(4..7, Ok(3))), "{submitted:?}");
    assert_eq!(fixture.complete_all(&mut driver_task), [4, 5, 6, 7]);
    for op in ops.into_iter().chain(waiting) {
        assert_eq!(op.result(), Ok(0));
    }
}

#[test]
fn a_full_batch_does_not_wait_for_the_driver_task() {
    let fixture = Fixture::adaptive(config_with_max_batch(8, 3));
    let _driver_task = fixture.running_driver_task();
    let _ops = fixture.start(0..4);
    assert_eq!(
        fixture.backend.calls(),
        [call([0], Ok(1)), call([1, 2, 3], Ok(3))]
    );
}

#[test]
fn one_request_at_a_time_is_never_deferred() {
    let fixture = Fixture::adaptive(config(8));
    let mut driver_task = fixture.running_driver_task();
    for label in 0..40 {
        let mut op = fixture.op(label);
        assert!(op.poll().is_pending());
        assert_eq!(fixture.backend.calls(), [call([label], Ok(1))]);
        assert_eq!(driver_task.take_wakes(), 0);
        fixture.backend.complete(label);
        fixture.signal();
        assert_eq!(op.result(), Ok(0));
    }
    assert!(driver_task.poll().is_pending());
}

#[test]
fn waves_of_requests_are_batched_from_the_second_wave_on() {
    let fixture = Fixture::adaptive(config(64));
    let mut driver_task = fixture.running_driver_task();
    let mut wave = |size| {
        let ops = fixture.start(0..size);
        assert!(driver_task.poll().is_pending());
        let calls = fixture.backend.calls();
        fixture.complete_all(&mut driver_task);
        ops.into_iter()
            .for_each(|op| assert_eq!(op.result(), Ok(0)));
        sizes(&calls)
    };
    assert_eq!(wave(8), [1, 7]);
    assert_eq!(wave(8), [8]);
    assert_eq!(wave(32), [32]);
    assert_eq!(wave(40), [32, 8]);
    assert_eq!(wave(40), [32, 8]);
    assert_eq!(wave(2), [2]);
    assert_eq!(wave(1), [1]);
    assert_eq!(wave(1), [1]);
}

#[test]
fn waves_of_one_request_more_than_a_batch_take_two_calls() {
    let fixture = Fixture::adaptive(config_with_max_batch(16, 3));
    let mut driver_task = fixture.running_driver_task();
    fixture.backend.complete_inline();
    let mut calls = 0;
    for wave in 0..40 {
        let mut ops: Vec<_> = (0..4).map(|n| fixture.op(wave * 4 + n)).collect();
        for op in &mut ops {
            let _ = op.poll();
        }
        let _ = driver_task.poll();
        calls = fixture.backend.calls().len();
    }
    assert_eq!(calls, 2, "in the last wave");
}

/// Polls `size` operations and the driver task, then completes them. Returns the sizes of the batches.
fn wave<P: SubmitAdvisor>(
    fixture: &Fixture<LocalTypes<P>>,
    driver_task: &mut Task<'_, LocalTypes<P>, DriverTask<LocalTypes<P>>>,
    size: i64,
) -> Vec<usize> {
    let mut ops: Vec<_> = (0..size).map(|label| fixture.op(label)).collect();
    let polls: Vec<_> = ops.iter_mut().map(|op| op.poll()).collect();
    let _ = driver_task.poll();
    let calls = fixture.backend.calls();
    fixture.complete_all(driver_task);
    for (op, poll) in ops.into_iter().zip(polls) {
        if poll.is_pending() {
            assert_eq!(op.result(), Ok(0));
        }
    }
    sizes(&calls)
}

#[test]
fn by_default_an_idle_device_gets_small_batches_first() {
    let fixture = Fixture::adaptive(config_with_default_batches(64));
    let mut driver_task = fixture.running_driver_task();
    let mut wave = |size| wave(&fixture, &mut driver_task, size);
    assert_eq!(wave(32), [1, 2, 3, 6, 12, 8]);
    assert_eq!(wave(32), [2, 2, 4, 8, 16]);
    assert_eq!(wave(40), [2, 2, 4, 8, 16, 8]);
    assert_eq!(wave(64), [2, 2, 4, 8, 16, 32]);
    assert_eq!(wave(5), [2, 2, 1]);
    assert_eq!(wave(32), [2, 2, 4, 8, 16]);
    assert_eq!(wave(1), [1]);
}

#[test]
fn by_default_requests_that_complete_inline_share_one_call() {
    let fixture = Fixture::adaptive(config_with_default_batches(64));
    let mut driver_task = fixture.running_driver_task();
    fixture.backend.complete_inline();
    let waves: Vec<_> = (0..40)
        .map(|_| wave(&fixture, &mut driver_task, 32))
        .collect();
    assert_eq!(waves.last(), Some(&vec![32]), "{waves:?}");
}

#[test]
fn by_default_requests_that_waited_for_slots_start_in_batches_of_16() {
    let fixture = Fixture::adaptive(config_with_default_batches(64));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..128);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight().len(), 64);
    fixture.backend.calls();
    (0..64).for_each(|label| fixture.backend.complete(label));
    fixture.signal();
    assert!(driver_task.poll().is_pending());
    assert_eq!(sizes(&fixture.backend.calls()), [16, 16, 32]);
    fixture.complete_all(&mut driver_task);
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}
