//! Tests that must not depend on whether a thread sleeps: a page fault or a lock of the allocator may put any
//! thread to sleep.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static IS_UNKNOWN: Cell<bool> = const { Cell::new(false) };
}

/// Until it is dropped, [`thread_usage`](super::thread_usage) of this thread fails.
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
