//! How a context ends: stopped, or left by its driver, with requests in every state.

use std::thread;

use super::rig::{Rig, limits, outcome};
use crate::LockedBuf;

#[test]
fn a_stopped_context_turns_away_those_that_wait_for_a_slot() {
    let rig = Rig::new(limits(2));
    let mut driver = rig.driven();
    let mut ops = rig.started(0..2);
    assert!(driver.poll().is_pending());
    ops.extend(rig.started(2..5));
    for op in &ops {
        op.woken(); // so far
    }

    rig.shared.stop();
    let woken: Vec<_> = ops.iter().map(|op| op.woken()).collect();
    assert_eq!(woken, [0, 0, 1, 1, 1]);
    for op in ops.split_off(2) {
        assert_eq!(outcome(op.ready()), Err("stopped".into()));
    }
    assert_eq!(outcome(rig.op(9).ready()), Err("stopped".into()));
    assert_eq!(rig.shared.free_slots(), None);
    assert!(!rig.shared.has_ended(), "two are in flight");

    rig.kernel.complete(0);
    rig.kernel.complete(1);
    rig.signal();
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.wait_until_gone();
    rig.assert_idle();
    driver.ready().unwrap();
}

#[test]
fn a_stopped_context_serves_those_that_have_a_slot() {
    let rig = Rig::new(limits(4));
    let mut driver = rig.driven();
    let ops = rig.started(0..4);
    assert_eq!(rig.kernel.in_flight(), [0], "the others are queued");
    rig.shared.stop();
    assert!(driver.poll().is_pending());
    assert_eq!(rig.serve_all(&mut driver), [0, 1, 2, 3]);
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.wait_until_gone();
}

#[test]
fn an_idle_context_ends_when_it_is_stopped() {
    let rig = Rig::new(limits(4));
    let driver = rig.driven();
    rig.shared.stop();
    assert_eq!(driver.woken(), 1);
    rig.wait_until_gone();
    driver.ready().unwrap();
    rig.shared.stop();
    rig.shared.orphan();
    rig.signal();
    assert_eq!(outcome(rig.op(1).ready()), Err("stopped".into()));
}

#[test]
fn a_stopped_context_waits_for_abandoned_requests() {
    let rig = Rig::new(limits(4));
    let mut driver = rig.driven();
    drop(rig.started([1]));
    rig.shared.stop();
    assert!(driver.poll().is_pending());
    assert!(!rig.shared.has_ended());
    rig.kernel.complete(1);
    rig.signal();
    rig.wait_until_gone();
    driver.ready().unwrap();
}

#[test]
fn dropping_what_is_queued_lets_a_stopped_context_end() {
    let rig = Rig::new(limits(4));
    let mut driver = rig.driven();
    let mut ops = rig.started([1, 2]);
    rig.shared.stop();
    rig.kernel.complete(1);
    assert_eq!(outcome(ops.remove(0).ready()), Ok(0));
    assert!(!rig.shared.has_ended());
    drop(ops);
    rig.wait_until_gone();
    assert!(driver.poll().is_ready());
}

#[test]
fn without_its_driver_a_context_ends_at_once_whatever_its_requests_are_at() {
    let rig = Rig::new(limits(4));
    let driver = rig.driven();
    let mut ops = rig.started(0..2);
    let mut abandoned = rig.started([2]);
    rig.shared.flush();
    let done = ops.remove(1);
    rig.kernel.complete_with(1, 11);
    rig.signal();
    ops.extend(rig.started([3, 4, 5]));
    assert_eq!(rig.kernel.in_flight(), [0, 2]);
    drop(abandoned.remove(0));
    for op in &ops {
        op.woken(); // so far
    }

    drop(driver);
    for op in ops {
        assert_eq!(op.woken(), 1);
        assert_eq!(outcome(op.ready()), Err("stopped".into()));
    }
    assert_eq!(outcome(done.ready()), Ok(11), "it was done before");
    assert_eq!(outcome(rig.op(9).ready()), Err("stopped".into()));
    rig.wait_until_gone();
    rig.assert_idle();
}

#[test]
fn memory_that_the_kernel_may_touch_outlives_the_context() {
    let rig = Rig::new(limits(4));
    let driver = rig.driver();
    let buffer = || {
        let mut buffer = LockedBuf::with_size(4096).unwrap();
        buffer.as_mut().fill(1);
        buffer
    };
    let (mut filled, mut dropped, mut queued, mut sent) = (buffer(), buffer(), buffer(), buffer());
    let filled_at = filled.as_ref().as_ptr();
    let queued_at = queued.as_ref().as_ptr();
    let sent_at = sent.as_ref().as_ptr();
    let held = rig.kernel.hold_destroy();

    let mut fill = rig.read(0, &mut filled);
    assert!(fill.poll().is_pending());
    let mut send = rig.write(1, &sent);
    assert!(send.poll().is_pending());
    let mut drop_this = rig.read(2, &mut dropped);
    assert!(drop_this.poll().is_pending());
    drop(drop_this);
    let _last_slot = rig.started([3]);
    let mut wait = rig.read(4, &mut queued);
    assert!(wait.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [0, 1, 2, 3]);

    drop(driver);
    rig.kernel.wait_for_destroy();
    assert_eq!(outcome(fill.ready()), Err("stopped".into()));
    assert_eq!(outcome(send.ready()), Err("stopped".into()));
    assert_eq!(outcome(wait.ready()), Err("stopped".into()));
    assert_ne!(filled.as_ref().as_ptr(), filled_at, "the kernel has it");
    assert_eq!(queued.as_ref().as_ptr(), queued_at, "it never had this one");
    sent.as_mut()[0] = 2;
    assert_ne!(sent.as_ref().as_ptr(), sent_at, "the kernel reads it");
    assert!(!rig.is_gone());

    drop(held); // fills what the reads have
    rig.wait_until_gone();
    assert!(filled.as_ref().iter().all(|&byte| byte == 0), "new memory");
    assert!(dropped.as_ref().iter().all(|&byte| byte == 0), "new memory");
    assert!(queued.as_ref().iter().all(|&byte| byte == 1), "as it was");
}

#[test]
fn a_dropped_read_never_shows_what_the_kernel_writes_later() {
    let rig = Rig::new(limits(4));
    let mut buffer = LockedBuf::with_size(4096).unwrap();
    buffer.as_mut().fill(1);
    let old = buffer.as_ref().as_ptr();
    let mut read = rig.read(0, &mut buffer);
    assert!(read.poll().is_pending());
    drop(read);
    assert_eq!(buffer.size(), 4096);
    assert_ne!(buffer.as_ref().as_ptr(), old);
    rig.kernel.complete(0);
    rig.signal();
    assert!(buffer.as_ref().iter().all(|&byte| byte == 0));
    rig.assert_idle();
}

#[test]
fn a_dropped_read_that_is_done_keeps_its_memory() {
    let rig = Rig::new(limits(4));
    let mut buffer = LockedBuf::with_size(4096).unwrap();
    let old = buffer.as_ref().as_ptr();
    let mut read = rig.read(0, &mut buffer);
    assert!(read.poll().is_pending());
    rig.kernel.complete(0); // not signalled yet
    drop(read);
    assert_eq!(buffer.as_ref().as_ptr(), old);
    let filled = |&byte: &u8| byte == super::fake::FILE_BYTE;
    assert!(buffer.as_ref().iter().all(filled));
    rig.assert_idle();
}

#[test]
fn a_context_that_ends_waits_for_a_submission_that_is_being_made() {
    let rig = Rig::sync(limits(4));
    let driver = rig.driver();
    thread::scope(|scope| {
        let held = rig.kernel.hold_submits();
        let submitting = scope.spawn(|| outcome(rig.op(1).ready()));
        rig.kernel.wait_for_submit();
        drop(driver);
        assert_eq!(rig.shared.free_slots(), None);
        assert!(!rig.shared.has_ended());
        assert!(!rig.is_gone());

        drop(held);
        // The fake kernel asserts that it is not destroyed under the call.
        assert_eq!(submitting.join().unwrap(), Err("stopped".into()));
    });
    rig.wait_until_gone();
    rig.assert_idle();
}

#[test]
fn a_context_that_ends_waits_for_a_batch_that_is_being_submitted() {
    let rig = Rig::sync(limits(4));
    let driver = rig.driven();
    let ops = rig.started(0..3);
    rig.kernel.refuse(2, libc::EBADF);
    thread::scope(|scope| {
        let held = rig.kernel.hold_submits();
        let flushing = scope.spawn(|| rig.shared.flush());
        rig.kernel.wait_for_submit();
        drop(driver);
        assert!(!rig.shared.has_ended());
        for op in ops {
            assert_eq!(outcome(op.ready()), Err("stopped".into()));
        }
        drop(held);
        flushing.join().unwrap();
    });
    rig.wait_until_gone();
    rig.assert_idle();
}

#[test]
fn a_stopped_context_waits_for_a_submission_that_is_being_made() {
    let rig = Rig::sync(limits(4));
    let _driver = rig.driver();
    rig.kernel.complete_inline();
    thread::scope(|scope| {
        let held = rig.kernel.hold_returns();
        let submitting = scope.spawn(|| outcome(rig.op(1).ready()));
        rig.kernel.wait_for_calls(1);
        rig.shared.stop();
        assert_eq!(rig.shared.census().1, 0, "its event was taken");
        assert!(!rig.shared.has_ended());
        drop(held);
        assert_eq!(submitting.join().unwrap(), Ok(0));
    });
    rig.wait_until_gone();
}

#[test]
fn the_last_handle_takes_the_context_with_it() {
    let rig = Rig::new(limits(4));
    drop(rig.started([1]));
    let mut gone = rig.shared.watch_gone();
    let kernel = rig.kernel.clone();
    let held = kernel.hold_destroy();
    drop(rig);
    kernel.wait_for_destroy();
    drop(held);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    runtime.block_on(async { while gone.changed().await.is_ok() {} });
    assert!(kernel.is_destroyed());
}

#[test]
fn a_kernel_that_gives_no_more_events_is_an_error_to_all_that_wait() {
    let rig = Rig::new(limits(2));
    let mut driver = rig.driven();
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let mut read = rig.read(1, &mut buffer);
    assert!(read.poll().is_pending());
    let mut others = rig.started([2, 3]);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [1, 2], "3 waits for a slot");

    let held = rig.kernel.hold_destroy();
    rig.kernel.fail_reaps(libc::EPERM);
    // Where all slots are taken, a new request looks for events first.
    assert_eq!(outcome(rig.op(4).ready()), Err("stopped".into()));
    assert_eq!(outcome(read.ready()), Err("result 1".into()));
    assert_eq!(outcome(others.remove(0).ready()), Err("result 1".into()));
    assert_eq!(outcome(others.remove(0).ready()), Err("stopped".into()));
    rig.kernel.wait_for_destroy();
    assert!(buffer.as_ref().iter().all(|&byte| byte == 0));
    drop(held);
    rig.wait_until_gone();
    rig.assert_idle();
}
