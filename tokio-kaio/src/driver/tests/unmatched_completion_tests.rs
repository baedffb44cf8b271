//! Completions that match no request in flight: duplicates, and made-up ones.

use super::driver_fixture::*;

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
