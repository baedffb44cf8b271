//! [`UnknownUsage`]: makes `thread_usage` fail on this thread, for tests that must not depend on whether the
//! thread sleeps. A page fault or a lock of the allocator may put any thread to sleep.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static IS_UNKNOWN: Cell<bool> = const { Cell::new(false) };
}

/// Makes [`thread_usage`](super::thread_usage) fail on this thread until dropped.
pub(crate) struct UnknownUsage(PhantomData<*const ()>);

impl UnknownUsage {
    pub(crate) fn new() -> UnknownUsage {
        IS_UNKNOWN.set(true);
        UnknownUsage(PhantomData)
    }
}

impl Drop for UnknownUsage {
    fn drop(&mut self) {
        IS_UNKNOWN.set(false);
    }
}

pub(super) fn is_usage_unknown() -> bool {
    IS_UNKNOWN.get()
}
