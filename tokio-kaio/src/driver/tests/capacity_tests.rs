//! Slots: who has one, who waits for one, and when one is free again.

use super::driver_fixture::*;

#[test]
fn a_slot_is_free_after_the_completion_and_not_before() {
    let fixture = Fixture::new(config(2));
    let mut ops = fixture.start([1, 2]);
    assert_eq!(fixture.free_capacity(), Some(0));
    drop(ops.remove(0));
    assert_eq!(fixture.free_capacity(), Some(0), "dropped");
    assert_eq!(fixture.backend.in_flight(), [1, 2]);
    fixture.backend.complete(1);
    assert_eq!(fixture.free_capacity(), Some(1), "completed");
    fixture.backend.complete(2);
    assert_eq!(fixture.free_capacity(), Some(2), "completed, not polled");
    assert_eq!(ops.remove(0).result(), Ok(0));
    fixture.assert_idle();
}

#[test]
fn a_forgotten_operation_gives_its_slot_back() {
    let fixture = Fixture::new(config(1));
    std::mem::forget(fixture.start([1]));
    assert_eq!(fixture.free_capacity(), Some(0));
    fixture.backend.complete(1);
    assert_eq!(fixture.free_capacity(), Some(1));
}

#[test]
fn requests_that_wait_for_a_slot_are_submitted_in_order() {
    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start(0..5);
    assert_eq!(fixture.backend.in_flight(), [0]);
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 2, 3, 4]);
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
}

#[test]
fn before_the_driver_task_was_polled_no_request_waits_for_it() {
    let fixture = Fixture::new(config(2));
    let ops = fixture.start(0..5);
    for round in [[0, 1].as_slice(), &[2, 3], &[4]] {
        assert_eq!(fixture.backend.in_flight(), round);
        round
            .iter()
            .for_each(|&label| fixture.backend.complete(label));
        fixture.signal();
    }
    for op in ops {
        assert_eq!(op.result(), Ok(0));
    }
}

#[test]
fn a_full_context_that_does_not_wait_refuses_requests() {
    let mut config = config(2);
    config.wait_for_slot = false;
    let fixture = Fixture::adaptive(config);
    let mut driver_task = fixture.running_driver_task();
    let ops = fixture.start([1, 2]);
    let full = Err("full".into());
    assert_eq!(fixture.op(3).result(), full);
    assert_eq!(fixture.census(), census(1, 1, 2), "queued requests count");
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.op(3).result(), full);
    fixture.backend.complete(1);
    assert!(fixture.op(3).poll().is_pending(), "the completion is seen");
    drop(ops);
}
