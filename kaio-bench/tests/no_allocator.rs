//! A binary that does not install the allocator gets no figure for allocations instead of a wrong one.

use kaio_bench::counting;

#[test]
fn allocations_are_unknown_without_the_allocator() {
    let counts = counting::start().counts();
    assert_eq!(counts.allocations, None);
    assert!(counts.calls.is_some());
}
