//! How requests go out and come back: batches, slots, and what the kernel refuses.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;

use super::fake::Call;
use super::rig::{Rig, limits, outcome};
use crate::context::descriptor::Descriptor;
use crate::context::state::Limits;
use crate::sys::REAP_BATCH;
use crate::{LockedBuf, SubmitPolicy};

fn call(labels: impl IntoIterator<Item = i64>, answer: Result<usize, i32>) -> Call {
    Call {
        labels: labels.into_iter().collect(),
        answer,
    }
}

fn sizes(calls: &[Call]) -> Vec<usize> {
    calls.iter().map(|call| call.labels.len()).collect()
}

#[test]
fn a_lone_request_goes_out_in_its_first_poll_and_comes_back_by_the_signal() {
    let rig = Rig::new(limits(4));
    let mut driver = rig.driven();
    let mut op = rig.op(7);
    assert!(op.poll().is_pending());
    assert_eq!(rig.kernel.calls(), [call([7], Ok(1))]);
    assert_eq!(driver.woken(), 0);

    rig.kernel.complete(7);
    assert_eq!(op.woken(), 0);
    rig.signal();
    assert_eq!(op.woken(), 1);
    assert_eq!(outcome(op.ready()), Ok(0));
    rig.assert_idle();
    assert!(driver.poll().is_pending());
}

#[test]
fn an_operation_finds_its_event_without_a_signal() {
    let rig = Rig::new(limits(4));
    let mut op = rig.op(1);
    assert!(op.poll().is_pending());
    rig.kernel.complete_with(1, 512);
    assert_eq!(outcome(op.ready()), Ok(512));
}

#[test]
fn a_request_that_completes_inside_the_call_is_ready_in_its_first_poll() {
    let rig = Rig::new(limits(4));
    rig.kernel.complete_inline();
    assert_eq!(outcome(rig.op(1).ready()), Ok(0));
    rig.assert_idle();
}

#[test]
fn an_errno_in_the_event_is_the_operations_alone() {
    let rig = Rig::new(limits(4));
    let mut ops = rig.started([1, 2]);
    rig.kernel.complete_with(1, -i64::from(libc::EIO));
    rig.kernel.complete_with(2, 8);
    assert_eq!(outcome(ops.remove(0).ready()), Err("result 5".into()));
    assert_eq!(outcome(ops.remove(0).ready()), Ok(8));
}

#[test]
fn an_outlandish_result_is_an_error() {
    let rig = Rig::new(limits(4));
    let mut ops = rig.started([1]);
    rig.kernel.complete_with(1, i64::MIN);
    assert_eq!(outcome(ops.remove(0).ready()), Err("result 5".into()));
}

#[test]
fn a_short_submit_is_resumed_where_it_stopped() {
    let rig = Rig::new(limits(8));
    let mut driver = rig.driven();
    let ops = rig.started(0..6);
    assert_eq!(rig.kernel.calls(), [call([0], Ok(1))]);

    rig.kernel.take_at_most([2, 1]);
    assert!(driver.poll().is_pending());
    assert_eq!(
        rig.kernel.calls(),
        [call(1..6, Ok(2)), call(3..6, Ok(1)), call(4..6, Ok(2))]
    );
    assert_eq!(rig.serve_all(&mut driver), [0, 1, 2, 3, 4, 5]);
    for op in ops {
        assert_eq!(op.woken(), 1);
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.assert_idle();
}

#[test]
fn a_refused_request_fails_alone() {
    let rig = Rig::new(limits(8));
    let mut driver = rig.driven();
    let ops = rig.started(0..6);
    rig.kernel.calls();

    rig.kernel.refuse(3, libc::EBADF);
    rig.kernel.refuse(5, libc::EINVAL);
    assert!(driver.poll().is_pending());
    assert_eq!(
        rig.kernel.calls(),
        [
            call(1..6, Ok(2)),
            call(3..6, Err(libc::EBADF)),
            call(4..6, Ok(1)),
            call([5], Err(libc::EINVAL))
        ]
    );
    let woken: Vec<_> = ops.iter().map(|op| op.woken()).collect();
    assert_eq!(woken, [0, 0, 0, 1, 0, 1]);
    assert_eq!(rig.shared.free_slots(), Some(4), "theirs are free");

    assert_eq!(rig.serve_all(&mut driver), [0, 1, 2, 4]);
    let outcomes: Vec<_> = ops.into_iter().map(|op| outcome(op.ready())).collect();
    let (bad, wrong) = (Err("submit 9".into()), Err("submit 22".into()));
    assert_eq!(outcomes, [Ok(0), Ok(0), Ok(0), bad, Ok(0), wrong]);
    rig.assert_idle();
}

#[test]
fn a_lone_request_that_is_refused_fails_in_its_first_poll() {
    let rig = Rig::new(limits(1));
    rig.kernel.refuse(1, libc::EOPNOTSUPP);
    assert_eq!(outcome(rig.op(1).ready()), Err("submit 95".into()));
    assert_eq!(rig.shared.free_slots(), Some(1));
    rig.assert_idle();
}

#[test]
fn what_the_kernel_has_no_room_for_goes_out_in_order_after_the_next_event() {
    let rig = Rig::new(limits(16));
    let mut driver = rig.driven();
    let mut ops = rig.started(0..6);
    rig.kernel.calls();

    rig.kernel.set_room(3);
    assert!(driver.poll().is_pending());
    let calls = [call(1..6, Ok(2)), call(3..6, Err(libc::EAGAIN))];
    assert_eq!(rig.kernel.calls(), calls);

    ops.extend(rig.started([6]));
    assert!(driver.poll().is_pending());
    assert_eq!(
        rig.kernel.calls().last(),
        Some(&call(3..7, Err(libc::EAGAIN)))
    );
    assert!(ops.iter_mut().all(|op| op.poll().is_pending()));

    rig.kernel.complete(1);
    rig.signal();
    assert!(driver.poll().is_pending());
    assert_eq!(
        rig.kernel.calls(),
        [call(3..7, Ok(1)), call(4..7, Err(libc::EAGAIN))]
    );
    assert_eq!(rig.serve_all(&mut driver), [0, 2, 3, 4, 5, 6]);
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.assert_idle();
}

#[test]
fn a_lone_request_that_the_kernel_has_no_room_for_waits_for_the_next_event() {
    let rig = Rig::new(limits(4));
    let mut ops = rig.started([1]);
    rig.kernel.take_at_most([0]);
    ops.extend(rig.started([2]));
    assert_eq!(rig.kernel.in_flight(), [1]);
    assert_eq!(rig.shared.free_slots(), Some(2), "it has its slot");

    rig.kernel.complete(1);
    rig.signal();
    assert_eq!(rig.kernel.in_flight(), [2]);
    rig.kernel.complete(2);
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
}

#[test]
fn what_is_left_of_a_write_that_the_kernel_has_no_room_for_is_written_and_no_more() {
    let rig = Rig::new(limits(4));
    let buffer = LockedBuf::with_size(16_384).unwrap();
    let other = rig.started([1]);
    let mut op = rig.write_all(10_000, &buffer, 12_288);
    assert!(op.poll().is_pending());
    rig.kernel.complete_with(10_000, 4096);
    rig.kernel.take_at_most([0]);
    assert!(op.poll().is_pending());
    assert_eq!(rig.shared.census().0, 1, "it waits for room");
    rig.kernel.complete(1);
    rig.signal();
    assert_eq!(rig.kernel.iocb(14_096).nbytes, 8192);
    rig.kernel.complete(14_096);
    assert_eq!(outcome(op.ready()), Ok(12_288));
    other.into_iter().for_each(|op| drop(op.ready()));
    rig.assert_idle();
}

#[test]
fn no_room_though_nothing_is_in_flight_is_an_error() {
    let rig = Rig::new(limits(4));
    rig.kernel.set_room(0);
    assert_eq!(outcome(rig.op(1).ready()), Err("submit 11".into()));
    rig.assert_idle();
    rig.kernel.set_room(1);
    let op = rig.started([2]).remove(0);
    rig.kernel.complete(2);
    assert_eq!(outcome(op.ready()), Ok(0), "the context goes on");
}

#[test]
fn no_room_for_a_batch_though_nothing_is_in_flight_is_an_error_to_each() {
    let rig = Rig::new(limits(4));
    let mut driver = rig.driven();
    let mut ops = rig.started(0..4);
    rig.kernel.complete(0);
    rig.kernel.set_room(0);
    assert!(driver.poll().is_pending());
    assert_eq!(outcome(ops.remove(0).ready()), Ok(0));
    for op in ops {
        assert_eq!(op.woken(), 1);
        assert_eq!(outcome(op.ready()), Err("submit 11".into()));
    }
    rig.assert_idle();
}

#[test]
fn those_behind_a_request_that_fails_for_want_of_room_are_tried_too() {
    let rig = Rig::new(limits(1));
    let mut driver = rig.driven();
    let mut ops = rig.started(0..3);
    rig.kernel.take_at_most([0]);
    rig.kernel.complete(0);
    rig.signal();
    let _ = driver.poll();
    let _ = driver.poll();
    assert_eq!(rig.kernel.in_flight(), [2]);
    assert_eq!(outcome(ops.remove(1).ready()), Err("submit 11".into()));
}

#[test]
fn the_same_before_the_driver_was_ever_polled() {
    let rig = Rig::new(limits(1));
    let mut ops = rig.started(0..3);
    rig.kernel.take_at_most([0]);
    rig.kernel.complete(0);
    rig.signal();
    assert_eq!(outcome(ops.remove(1).ready()), Err("submit 11".into()));
    assert_eq!(rig.kernel.in_flight(), [2]);
}

#[test]
fn room_that_was_made_during_the_call_is_not_missed() {
    let rig = Rig::sync(limits(4));
    let mut driver = rig.driven();
    let mut ops = rig.started(0..2);
    rig.kernel.take_at_most([0]);
    thread::scope(|scope| {
        let held = rig.kernel.hold_submits();
        let flushing = scope.spawn(|| rig.shared.flush());
        rig.kernel.wait_for_submit();
        rig.kernel.complete(0);
        rig.signal();
        assert_eq!(outcome(ops.remove(0).ready()), Ok(0));
        drop(held);
        flushing.join().unwrap();
    });
    let _ = driver.poll();
    assert_eq!(rig.kernel.in_flight(), [1]);
    rig.kernel.complete(1);
    assert_eq!(outcome(ops.remove(0).ready()), Ok(0));
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn a_request_that_goes_out_later_is_on_a_descriptor_of_its_own() {
    let rig = Rig::new(limits(4));
    let _first = rig.started([1]);
    let callers = tempfile::NamedTempFile::new().unwrap();
    let number = callers.as_raw_fd();
    rig.kernel.take_at_most([0]);
    let mut op = rig.on(Descriptor::Borrowed(number), 2);
    assert!(op.poll().is_pending());
    let path = callers.into_temp_path(); // closes it, as one may after forgetting the future

    rig.kernel.complete(1);
    rig.signal();
    let sent_on = rig.kernel.iocb(2).fildes as i32;
    assert_ne!(sent_on, number, "by now it may be another file's number");
    assert_eq!(rig.kernel.file(2), &*path);
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn a_request_that_waits_for_a_slot_is_on_a_descriptor_of_its_own() {
    let rig = Rig::new(limits(1));
    let _first = rig.started([1]);
    let callers = tempfile::NamedTempFile::new().unwrap();
    let number = callers.as_raw_fd();
    let mut op = rig.on(Descriptor::Borrowed(number), 2);
    assert!(op.poll().is_pending());
    let path = callers.into_temp_path();

    rig.kernel.complete(1);
    rig.signal();
    assert_ne!(rig.kernel.iocb(2).fildes as i32, number);
    assert_eq!(rig.kernel.file(2), &*path);
}

#[test]
fn a_closed_descriptor_that_would_have_to_wait_is_ebadf() {
    let rig = Rig::new(limits(1));
    let _first = rig.started([1]);
    for fd in [-1, i32::MAX] {
        let op = rig.on(Descriptor::Borrowed(fd), 2);
        assert_eq!(outcome(op.ready()), Err("submit 9".into()));
    }
    assert_eq!(rig.shared.census(), (0, 1, 1));
}

#[test]
fn events_of_no_request_and_second_events_are_ignored() {
    let rig = Rig::new(limits(4));
    let mut ops = rig.started([1, 2]);
    let first = rig.kernel.iocb(1).data;
    rig.kernel.post(0);
    rig.kernel.complete_with(1, 10);
    rig.kernel.post(first);
    rig.kernel.post(0);
    rig.signal();
    assert_eq!(ops[0].woken(), 1);
    assert_eq!(rig.shared.free_slots(), Some(3));
    assert_eq!(outcome(ops.remove(0).ready()), Ok(10));

    rig.kernel.post(first);
    rig.signal();
    assert_eq!(rig.shared.free_slots(), Some(3));
    rig.kernel.complete_with(2, 20);
    assert_eq!(outcome(ops.remove(0).ready()), Ok(20));
    rig.assert_idle();
}

#[test]
fn one_signal_takes_all_events_however_many() {
    let rig = Rig::new(limits(256));
    let count = 3 * REAP_BATCH as i64 + 3;
    let mut driver = rig.driven();
    let ops = rig.started(0..count);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight().len(), count as usize);
    (0..count).for_each(|label| rig.kernel.complete_with(label, label));
    rig.signal();
    for (op, label) in ops.into_iter().zip(0..) {
        assert_eq!(op.woken(), 1);
        assert_eq!(outcome(op.ready()), Ok(label));
    }
    rig.assert_idle();
}

#[test]
fn from_the_pool_too_what_there_is_no_room_for_waits_for_the_next_event() {
    let rig = Rig::new(Limits {
        policy: SubmitPolicy::Offload,
        ..limits(8)
    });
    let mut driver = rig.driven();
    let first = rig.started([0]);
    rig.kernel.set_room(1);
    let second = rig.started([1]);
    assert_eq!(driver.woken(), 1, "in place of the signal");
    rig.signal();
    assert_eq!(driver.woken(), 0, "nothing has made room");
    assert_eq!(rig.kernel.in_flight(), [0]);
    assert_eq!(rig.serve_all(&mut driver), [0, 1]);
    for op in first.into_iter().chain(second) {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.assert_idle();
}

#[test]
fn room_that_was_made_during_a_call_of_the_pools_is_not_missed() {
    let rig = Rig::sync(Limits {
        policy: SubmitPolicy::Offload,
        ..limits(4)
    });
    let mut driver = rig.driven();
    let first = rig.started([0]);
    rig.kernel.take_at_most([0, 0]);
    let second = thread::scope(|scope| {
        let held = rig.kernel.hold_submits();
        let ops = rig.started([1]);
        let flushing = scope.spawn(|| rig.shared.flush());
        rig.kernel.wait_for_submit();
        rig.kernel.complete(0);
        rig.signal();
        drop(held);
        flushing.join().unwrap();
        ops
    });
    rig.signal();
    assert!(driver.poll().is_pending());
    for op in &second {
        assert_eq!(op.woken(), 0, "it is tried once more");
    }
    rig.signal();
    let no_room = Err(format!("submit {}", libc::EAGAIN));
    for (op, expected) in first.into_iter().chain(second).zip([Ok(0), no_room]) {
        assert_eq!(outcome(op.ready()), expected);
    }
    rig.assert_idle();
}

#[test]
fn an_attempt_counts_as_done_whatever_becomes_of_its_request_in_the_pool() {
    let rig = Rig::new(Limits {
        policy: SubmitPolicy::NoWaitFirst,
        ..limits(8)
    });
    let mut driver = rig.driven();
    let ops = rig.started([0]);
    rig.kernel.refuse(0, libc::EBADF); // from now on
    rig.kernel.complete_with(0, -i64::from(libc::EAGAIN));
    rig.signal();
    assert!(driver.poll().is_pending());
    for op in ops {
        let refused = Err(format!("submit {}", libc::EBADF));
        assert_eq!(outcome(op.ready()), refused);
    }
    let metrics = rig.shared.metrics();
    assert_eq!(metrics.nowait_refusals, 1);
    assert_eq!(
        (metrics.submitted, metrics.completed, metrics.failed),
        (1, 1, 1)
    );
    rig.assert_idle();
}

#[test]
fn a_slot_is_free_after_the_event_not_before() {
    let rig = Rig::new(limits(2));
    let mut ops = rig.started([1, 2]);
    assert_eq!(rig.shared.free_slots(), Some(0));
    drop(ops.remove(0));
    assert_eq!(rig.shared.free_slots(), Some(0), "dropped");
    assert_eq!(rig.kernel.in_flight(), [1, 2]);
    rig.kernel.complete(1);
    assert_eq!(rig.shared.free_slots(), Some(1), "done");
    rig.kernel.complete(2);
    assert_eq!(
        rig.shared.free_slots(),
        Some(2),
        "done, and not yet looked at"
    );
    assert_eq!(outcome(ops.remove(0).ready()), Ok(0));
    rig.assert_idle();
}

#[test]
fn a_forgotten_operation_gives_its_slot_back() {
    let rig = Rig::new(limits(1));
    std::mem::forget(rig.started([1]));
    assert_eq!(rig.shared.free_slots(), Some(0));
    rig.kernel.complete(1);
    assert_eq!(rig.shared.free_slots(), Some(1));
}

#[test]
fn those_that_wait_for_a_slot_go_in_the_order_in_which_they_came() {
    let rig = Rig::new(limits(1));
    let mut driver = rig.driven();
    let ops = rig.started(0..5);
    assert_eq!(rig.kernel.in_flight(), [0]);
    assert_eq!(rig.serve_all(&mut driver), [0, 1, 2, 3, 4]);
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
}

#[test]
fn without_waiting_a_full_context_says_so() {
    let rig = Rig::new(Limits {
        waits: false,
        ..limits(2)
    });
    let mut driver = rig.driven();
    let ops = rig.started([1, 2]);
    assert_eq!(outcome(rig.op(3).ready()), Err("full".into()));
    assert_eq!(rig.shared.census(), (1, 1, 2), "queued ones count");
    assert!(driver.poll().is_pending());
    assert_eq!(outcome(rig.op(3).ready()), Err("full".into()));
    rig.kernel.complete(1);
    assert!(rig.op(3).poll().is_pending(), "the event is seen in time");
    drop(ops);
}

#[test]
fn a_request_that_is_dropped_in_the_queue_never_reaches_the_kernel() {
    let rig = Rig::new(limits(1));
    let mut driver = rig.driven();
    let mut ops = rig.started(0..4);
    let holders = Arc::strong_count(&rig.file);
    drop(ops.remove(2));
    assert_eq!(Arc::strong_count(&rig.file), holders - 1);
    assert_eq!(rig.serve_all(&mut driver), [0, 1, 3]);
}

#[test]
fn a_queued_request_keeps_its_file_open_until_it_is_sent() {
    let rig = Rig::new(limits(1));
    let before = Arc::strong_count(&rig.file);
    let mut driver = rig.driven();
    let mut ops = rig.started([0, 1]);
    assert_eq!(Arc::strong_count(&rig.file), before + 1);
    std::mem::forget(ops.remove(1));
    assert_eq!(rig.serve_all(&mut driver), [0, 1]);
    assert_eq!(Arc::strong_count(&rig.file), before);
}

#[test]
fn no_batch_is_larger_than_its_cap() {
    let rig = Rig::new(Limits {
        max_batch: Some(3),
        ..limits(8)
    });
    let mut driver = rig.driven();
    let ops = rig.started(0..18);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight().len(), 8);
    assert_eq!(rig.serve_all(&mut driver), (0..18).collect::<Vec<_>>());
    let calls = rig.kernel.calls();
    assert!(calls.iter().all(|call| call.labels.len() <= 3), "{calls:?}");
    let sent = calls.iter().flat_map(|call| call.labels.clone());
    assert!(sent.eq(0..18), "{calls:?}");
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
}

#[test]
fn a_full_batch_does_not_wait_for_the_driver() {
    let rig = Rig::new(Limits {
        max_batch: Some(3),
        ..limits(8)
    });
    let _driver = rig.driven();
    let _ops = rig.started(0..4);
    assert_eq!(
        rig.kernel.calls(),
        [call([0], Ok(1)), call([1, 2, 3], Ok(3))]
    );
}

#[test]
fn one_request_at_a_time_never_waits_for_company() {
    let rig = Rig::new(limits(8));
    let mut driver = rig.driven();
    for label in 0..40 {
        let mut op = rig.op(label);
        assert!(op.poll().is_pending());
        assert_eq!(rig.kernel.calls(), [call([label], Ok(1))]);
        assert_eq!(driver.woken(), 0);
        rig.kernel.complete(label);
        rig.signal();
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    assert!(driver.poll().is_pending());
}

#[test]
fn waves_of_requests_go_out_together_from_the_second_on() {
    let rig = Rig::new(limits(64));
    let mut driver = rig.driven();
    let mut wave = |size| {
        let ops = rig.started(0..size);
        assert!(driver.poll().is_pending());
        let calls = rig.kernel.calls();
        rig.serve_all(&mut driver);
        ops.into_iter()
            .for_each(|op| assert_eq!(outcome(op.ready()), Ok(0)));
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
fn before_the_driver_was_polled_nothing_waits_for_it() {
    let rig = Rig::new(limits(2));
    let ops = rig.started(0..5);
    assert_eq!(rig.kernel.in_flight(), [0, 1]);
    for round in [[0, 1].as_slice(), &[2, 3], &[4]] {
        assert_eq!(rig.kernel.in_flight(), round);
        round.iter().for_each(|label| rig.kernel.complete(*label));
        rig.signal();
    }
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let rig = Rig::new(limits(1));
    let mut driver = rig.driven();
    let mut ops = rig.started([1, 2]);
    let others = [rig.op(0), rig.op(0)];
    for (op, other) in ops.iter_mut().zip(&others) {
        assert!(op.poll_with(&other.waker()).is_pending());
        assert!(op.poll_with(&other.waker()).is_pending());
    }
    rig.serve_all(&mut driver);
    let woken = |task: &[_]| -> Vec<usize> { task.iter().map(super::rig::Task::woken).collect() };
    assert_eq!(woken(&ops), [0, 0]);
    assert_eq!(woken(&others), [1, 1]);
}

#[test]
fn waves_of_one_more_than_a_batch_go_out_in_two_calls() {
    let rig = Rig::new(Limits {
        max_batch: Some(3),
        ..limits(16)
    });
    let mut driver = rig.driven();
    rig.kernel.complete_inline();
    let mut calls = 0;
    for wave in 0..40 {
        let mut ops: Vec<_> = (0..4).map(|n| rig.op(wave * 4 + n)).collect();
        for op in &mut ops {
            let _ = op.poll();
        }
        let _ = driver.poll();
        calls = rig.kernel.calls().len();
    }
    assert_eq!(calls, 2, "in the last wave");
}
