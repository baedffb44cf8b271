//! Single requests: submitted, completed, refused; their descriptors and wakers.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::driver_fixture::*;
use crate::backend::REAP_BATCH;
use crate::op::FileRef;

#[test]
fn a_single_request_is_submitted_in_its_first_poll_and_completed_by_the_signal() {
    let fixture = Fixture::new(config(4));
    let mut driver_task = fixture.running_driver_task();
    let mut op = fixture.op(7);
    assert!(op.poll().is_pending());
    assert_eq!(fixture.backend.calls(), [call([7], Ok(1))]);
    assert_eq!(driver_task.take_wakes(), 0);

    fixture.backend.complete(7);
    assert_eq!(op.take_wakes(), 0);
    fixture.signal();
    assert_eq!(op.take_wakes(), 1);
    assert_eq!(op.result(), Ok(0));
    fixture.assert_idle();
    assert!(driver_task.poll().is_pending());
}

#[test]
fn an_operation_that_is_polled_finds_its_completion_without_a_signal() {
    let fixture = Fixture::new(config(4));
    let mut op = fixture.op(1);
    assert!(op.poll().is_pending());
    fixture.backend.complete_with(1, 512);
    assert_eq!(op.result(), Ok(512));
}

#[test]
fn a_request_that_completes_during_its_submission_is_ready_in_its_first_poll() {
    let fixture = Fixture::new(config(4));
    fixture.backend.complete_inline();
    assert_eq!(fixture.op(1).result(), Ok(0));
    fixture.assert_idle();
}

#[test]
fn an_errno_in_a_completion_fails_only_its_operation() {
    let fixture = Fixture::new(config(4));
    let mut driver_task = fixture.driver_task();
    let mut ops = fixture.start([1, 2]);
    fixture.backend.complete_with(1, -i64::from(libc::EIO));
    fixture.backend.complete_with(2, 8);
    assert_eq!(ops.remove(0).result(), completed_with(libc::EIO));
    assert_eq!(ops.remove(0).result(), Ok(8));
    assert!(driver_task.poll().is_pending());
}

#[test]
fn a_result_that_is_no_errno_is_reported_as_eio() {
    let fixture = Fixture::new(config(4));
    let mut ops = fixture.start([1]);
    fixture.backend.complete_with(1, i64::MIN);
    assert_eq!(ops.remove(0).result(), completed_with(libc::EIO));
}

#[test]
fn a_single_request_that_is_refused_fails_in_its_first_poll() {
    let fixture = Fixture::new(config(1));
    fixture.backend.refuse(1, libc::EOPNOTSUPP);
    assert_eq!(fixture.op(1).result(), submit_error(libc::EOPNOTSUPP));
    assert_eq!(fixture.free_capacity(), Some(1));
    fixture.assert_idle();
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn a_request_that_waits_for_room_has_its_own_descriptor() {
    let fixture = Fixture::new(config(4));
    let _first = fixture.start([1]);
    let callers = tempfile::NamedTempFile::new().unwrap();
    let fd = callers.as_raw_fd();
    fixture.backend.take_at_most([0]);
    let mut op = fixture.op_on(FileRef::Borrowed(fd), 2);
    assert!(op.poll().is_pending());
    let path = callers.into_temp_path(); // closes it, which is allowed once the future is forgotten

    fixture.backend.complete(1);
    fixture.signal();
    let submitted_on = fixture.backend.entry(2).fd;
    assert_ne!(submitted_on, fd, "that may be another file by now");
    assert_eq!(fixture.backend.file(2), &*path);
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn a_request_that_waits_for_a_slot_has_its_own_descriptor() {
    let fixture = Fixture::new(config(1));
    let _first = fixture.start([1]);
    let callers = tempfile::NamedTempFile::new().unwrap();
    let fd = callers.as_raw_fd();
    let mut op = fixture.op_on(FileRef::Borrowed(fd), 2);
    assert!(op.poll().is_pending());
    let path = callers.into_temp_path();

    fixture.backend.complete(1);
    fixture.signal();
    assert_ne!(fixture.backend.entry(2).fd, fd);
    assert_eq!(fixture.backend.file(2), &*path);
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn a_request_that_had_to_wait_until_its_descriptor_was_duplicated_is_on_an_open_one() {
    let fixture = Fixture::new(config(1));
    let first = fixture.start([1]).remove(0);
    let callers = tempfile::NamedTempFile::new().unwrap();
    // A slot is free when the descriptor has just been duplicated because there was none.
    fixture.backend.complete_after_reap(1);
    let mut op = fixture.op_on(FileRef::Borrowed(callers.as_raw_fd()), 2);
    assert!(op.poll().is_pending());
    assert_eq!(fixture.backend.file(2), callers.path());
    fixture.backend.complete(2);
    for op in [first, op] {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn a_closed_descriptor_that_would_have_to_wait_is_ebadf() {
    let fixture = Fixture::new(config(1));
    let _first = fixture.start([1]);
    for fd in [-1, i32::MAX] {
        let op = fixture.op_on(FileRef::Borrowed(fd), 2);
        assert_eq!(op.result(), submit_error(libc::EBADF));
    }
    assert_eq!(fixture.census(), census(0, 1, 1));
}

#[test]
fn one_signal_delivers_all_completions_however_many() {
    let fixture = Fixture::new(config(256));
    let count = 3 * REAP_BATCH as i64 + 3;
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..count);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight().len(), count as usize);
    (0..count).for_each(|label| fixture.backend.complete_with(label, label));
    fixture.signal();
    for (op, label) in ops.into_iter().zip(0..) {
        assert_eq!(op.take_wakes(), 1);
        assert_eq!(op.result(), Ok(label));
    }
    fixture.assert_idle();
}

#[test]
fn the_waker_of_the_last_poll_is_woken() {
    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start([1, 2]);
    let others = [fixture.op(0), fixture.op(0)];
    for (op, other) in ops.iter_mut().zip(&others) {
        assert!(op.poll_with(&other.waker()).is_pending());
        assert!(op.poll_with(&other.waker()).is_pending());
    }
    fixture.complete_all(&mut driver_task);
    for (op, other) in ops.iter().zip(&others) {
        assert_eq!((op.take_wakes(), other.take_wakes()), (0, 1));
    }
}

#[test]
fn a_queued_request_that_is_dropped_is_never_submitted() {
    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start(0..4);
    let references = Arc::strong_count(&fixture.file);
    drop(ops.remove(2));
    assert_eq!(Arc::strong_count(&fixture.file), references - 1);
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 3]);
}

#[test]
fn a_queued_request_keeps_its_file_open() {
    let fixture = Fixture::new(config(1));
    let before = Arc::strong_count(&fixture.file);
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start([0, 1]);
    assert_eq!(Arc::strong_count(&fixture.file), before + 1);
    std::mem::forget(ops.remove(1));
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1]);
    assert_eq!(Arc::strong_count(&fixture.file), before);
}
