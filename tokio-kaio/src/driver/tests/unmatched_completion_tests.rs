//! Completions that match no request in flight, duplicates and made-up ones: they complete no other
//! operation, are counted, and leave memory with its owner.

use std::thread;

use super::core_invariants::check;
use super::driver_fixture::*;
use crate::backend::fake::{FILE_BYTE, FakeBackend};
use crate::config::ContextTypes;
use crate::{BufferPool, LockedBuf, SubmitPolicy};

const EAGAIN: i64 = -(libc::EAGAIN as i64);

/// `user_data` of another submission of the same slot.
fn of_attempt(user_data: u64, difference: i32) -> u64 {
    let attempt = ((user_data >> 32) as u32).wrapping_add_signed(difference);
    u64::from(attempt) << 32 | u64::from(user_data as u32)
}

/// Posts completions that match nothing, and checks that each is counted and nothing else changes.
fn post_unmatched<T: ContextTypes<Backend = FakeBackend>>(fixture: &Fixture<T>, all: &[u64]) {
    for &user_data in all {
        let before = (fixture.metrics().unmatched_completions, fixture.census());
        for result in [0, 16, EAGAIN, -i64::from(libc::EIO)] {
            fixture.backend.post(user_data, result);
        }
        fixture.signal();
        let after = (fixture.metrics().unmatched_completions, fixture.census());
        assert_eq!(after, (before.0 + 4, before.1), "{user_data:#x}");
        check(fixture);
    }
}

/// `user_data` that match no submission, for a request in flight that has `user_data`.
fn made_up(user_data: u64) -> Vec<u64> {
    let other_attempts = [-2, -1, 1, 2, i32::MAX].map(|by| of_attempt(user_data, by));
    let other_slots = [1, 7, 0xffff, 0xffff_fffe, 0xffff_ffff].map(|by| user_data ^ by);
    let random = [u64::MAX, u64::MAX / 3, 1 << 63, 0xdead_beef_dead_beef];
    [&other_attempts[..], &other_slots, &random].concat()
}

#[test]
fn duplicate_completions_and_those_of_no_request_are_counted_and_ignored() {
    let fixture = Fixture::new(config(4));
    let mut ops = fixture.start([1, 2]);
    let first = fixture.backend.entry(1).user_data;
    fixture.backend.post(0, 0);
    fixture.backend.complete_with(1, 10);
    fixture.backend.post(first, 11);
    fixture.backend.post(0, 0);
    fixture.signal();
    assert_eq!(ops[0].take_wakes(), 1);
    assert_eq!(fixture.free_capacity(), Some(3));
    assert_eq!(ops.remove(0).result(), Ok(10));

    fixture.backend.post(first, 12);
    fixture.signal();
    assert_eq!(fixture.free_capacity(), Some(3));
    fixture.backend.complete_with(2, 20);
    assert_eq!(ops.remove(0).result(), Ok(20));
    assert_eq!(fixture.metrics().unmatched_completions, 4);
    fixture.assert_idle();
}

#[test]
fn while_a_read_is_in_flight_completions_with_another_user_data_leave_it_its_memory() {
    let fixture = Fixture::new(config(1));
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let address = buffer.as_ptr();
    let mut read = fixture.read(1, &mut buffer);
    assert!(read.poll().is_pending());
    let request = fixture.backend.request(1);
    post_unmatched(&fixture, &made_up(request.entry.user_data));
    assert!(read.poll().is_pending());
    assert_eq!(read.take_wakes(), 0);
    assert_eq!(request.memory, [(address.expose_provenance() as u64, 16)]);
    fixture.backend.complete(1);
    assert_eq!(read.result(), Ok(16));
    assert_eq!(buffer.as_ptr(), address);
    assert_eq!(*buffer, [FILE_BYTE; 16]);
    fixture.assert_idle();
}

#[test]
fn a_duplicate_does_not_complete_the_request_that_has_the_slot_next() {
    let fixture = Fixture::new(config(1));
    let op = fixture.start([1]).remove(0);
    let earlier = fixture.backend.entry(1).user_data;
    fixture.backend.complete(1);
    assert_eq!(op.result(), Ok(0));
    post_unmatched(&fixture, &[earlier]); // while the slot is free

    let mut buffer = LockedBuf::with_size(16).unwrap();
    let mut read = fixture.read(2, &mut buffer);
    assert!(read.poll().is_pending());
    let current = fixture.backend.entry(2).user_data;
    assert_eq!(current as u32, earlier as u32, "the same slot");
    post_unmatched(&fixture, &[earlier]);
    assert!(read.poll().is_pending());
    fixture.backend.complete(2);
    assert_eq!(read.result(), Ok(16));
    assert_eq!(*buffer, [FILE_BYTE; 16]);
    post_unmatched(&fixture, &[earlier, current]);
    fixture.assert_idle();
}

#[test]
fn a_duplicate_does_not_change_the_result_of_a_completed_request() {
    let fixture = Fixture::new(config(2));
    let mut ops = fixture.start([1, 2]);
    let user_data = fixture.backend.entry(1).user_data;
    fixture.backend.complete_with(1, 10);
    fixture.signal();
    post_unmatched(&fixture, &[user_data]);
    assert_eq!(ops.remove(0).result(), Ok(10));
    fixture.backend.complete_with(2, 20);
    assert_eq!(ops.remove(0).result(), Ok(20));
    fixture.assert_idle();
}

#[test]
fn a_queued_request_is_not_completed() {
    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.running_driver_task();
    let first = fixture.start([1]).remove(0);
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let mut queued = fixture.read(2, &mut buffer);
    assert!(queued.poll().is_pending());
    let in_flight = fixture.backend.entry(1).user_data;
    let mut all = made_up(in_flight);
    // Each slot with each of its first attempts, except the one in flight.
    for (index, attempt) in (0..4).flat_map(|index| (0..4).map(move |attempt| (index, attempt))) {
        all.push(attempt << 32 | index);
    }
    all.retain(|&user_data| user_data != in_flight);
    post_unmatched(&fixture, &all);
    assert!(queued.poll().is_pending());
    assert_eq!(fixture.complete_all(&mut driver_task), [1, 2]);
    assert_eq!(first.result(), Ok(0));
    assert_eq!(queued.result(), Ok(16));
    assert_eq!(*buffer, [FILE_BYTE; 16]);
    fixture.assert_idle();
}

#[test]
fn a_request_that_was_put_back_is_not_completed_by_its_failed_submission() {
    let fixture = Fixture::new(config(2));
    let mut driver_task = fixture.running_driver_task();
    let mut ops = fixture.start([1]);
    // The submission that finds no room has the user data of the next attempt of the second slot.
    fixture.signal();
    fixture.backend.take_at_most([0]);
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let mut read = fixture.read(2, &mut buffer);
    assert!(read.poll().is_pending());
    assert_eq!(fixture.census(), census(1, 1, 2));
    let put_back = {
        let entered = fixture.entered();
        let core = entered.lock();
        let index = core.slots.queue()[0];
        let (_, slot) = core.slots.iter().nth(index as usize).unwrap();
        slot.user_data(index)
    };
    assert!(put_back >> 32 > 0, "it was submitted");
    post_unmatched(&fixture, &[put_back]);
    assert!(read.poll().is_pending());
    assert_eq!(fixture.complete_all(&mut driver_task), [1, 2]);
    assert_eq!(ops.remove(0).result(), Ok(0));
    assert_eq!(read.result(), Ok(16));
    assert_eq!(*buffer, [FILE_BYTE; 16]);
    fixture.assert_idle();
}

#[test]
fn a_held_append_is_not_completed() {
    let fixture = Fixture::new(config(4));
    let mut driver_task = fixture.running_driver_task();
    let mut appends = [1, 2].map(|label| fixture.append(&fixture.file, label));
    for append in &mut appends {
        assert!(append.poll().is_pending());
    }
    let _ = driver_task.poll();
    let in_flight = fixture.backend.entry(1).user_data;
    let all: Vec<_> = (0..4).filter(|&index| index != in_flight as u32).collect();
    let all: Vec<_> = all.into_iter().map(u64::from).collect();
    post_unmatched(&fixture, &all);
    post_unmatched(&fixture, &made_up(in_flight));
    assert_eq!(fixture.complete_all(&mut driver_task), [1, 2]);
    for append in appends {
        assert_eq!(append.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn a_completion_of_the_refused_attempt_does_not_complete_the_offloaded_request() {
    let fixture = Fixture::<SyncTypes<crate::policy::Adaptive>>::sync(config_with_policy(
        1,
        SubmitPolicy::NoWaitFirst,
    ));
    let mut buffer = LockedBuf::with_size(16).unwrap();
    let mut read = fixture.read(1, &mut buffer);
    assert!(read.poll().is_pending());
    let attempt = fixture.backend.entry(1).user_data;
    fixture.backend.complete_with(1, EAGAIN);
    thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let submission = scope.spawn(|| fixture.signal());
        fixture.backend.wait_for_submit();
        post_unmatched(&fixture, &[attempt]); // during the submission by the pool
        drop(held);
        submission.join().unwrap();
    });
    let offloaded = fixture.backend.entry(1).user_data;
    assert_eq!(offloaded as u32, attempt as u32, "the same slot");
    post_unmatched(&fixture, &[attempt]);
    post_unmatched(&fixture, &made_up(offloaded));
    assert!(read.poll().is_pending());
    assert_eq!(fixture.metrics().nowait_refusals, 1);
    fixture.backend.complete(1);
    assert_eq!(read.result(), Ok(16));
    assert_eq!(*buffer, [FILE_BYTE; 16]);
    fixture.assert_idle();
}

#[test]
fn an_abandoned_request_keeps_its_memory_until_its_own_completion() {
    let fixture = Fixture::new(config(1));
    let pool = BufferPool::new(1, 16).unwrap();
    let mut buffer = pool.try_get().unwrap();
    let mut read = fixture.read(1, &mut buffer);
    assert!(read.poll().is_pending());
    let user_data = fixture.backend.entry(1).user_data;
    drop(read);
    drop(buffer);
    post_unmatched(&fixture, &made_up(user_data));
    assert_eq!(pool.available(), 0, "the kernel has the memory");
    assert_eq!(fixture.free_capacity(), Some(0));
    fixture.backend.complete(1); // asserts that the memory is still there
    fixture.signal();
    assert_eq!((pool.available(), fixture.free_capacity()), (1, Some(1)));
    post_unmatched(&fixture, &[user_data]);
    assert_eq!((pool.available(), fixture.free_capacity()), (1, Some(1)));
    fixture.assert_idle();
}

#[test]
fn refusals_after_the_end_of_a_context_are_no_unmatched_completions() {
    let fixture = Fixture::<SyncTypes>::sync(config(1));
    fixture.backend.refuse(1, libc::EBADF);
    thread::scope(|scope| {
        let held = fixture.backend.hold_submits();
        let submission = scope.spawn(|| fixture.op(1).result());
        fixture.backend.wait_for_submit();
        fixture.orphan();
        drop(held);
        assert_eq!(submission.join().unwrap(), stopped());
    });
    assert_eq!(fixture.metrics().unmatched_completions, 0);
    fixture.wait_until_gone();
}
