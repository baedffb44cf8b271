//! [`NoopLock`]: the lock of a context that stays on one thread.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

/// A lock for one thread: it costs a flag, and refuses to be taken twice.
///
/// Neither `Send` nor `Sync`, and so is everything behind it. Made by [`RawMutex::INIT`].
pub struct NoopLock {
    taken: Cell<bool>,
    _one_thread: PhantomData<*mut ()>,
}

// SAFETY: the flag is true exactly between `lock` and `unlock`, and the type is neither `Send` nor
// `Sync`, so that no other thread looks at it.
unsafe impl RawMutex for NoopLock {
    #[allow(clippy::declare_interior_mutable_const)] // how `RawMutex` wants it
    const INIT: NoopLock = NoopLock {
        taken: Cell::new(false),
        _one_thread: PhantomData,
    };

    type GuardMarker = GuardNoSend;

    /// # Panics
    ///
    /// If the lock is taken: waiting for oneself would never end.
    fn lock(&self) {
        assert!(
            self.try_lock(),
            "a NoopLock was taken twice: the operation was started from within another one"
        );
    }

    fn try_lock(&self) -> bool {
        !self.taken.replace(true)
    }

    unsafe fn unlock(&self) {
        self.taken.set(false);
    }
}

impl fmt::Debug for NoopLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoopLock")
            .field("taken", &self.taken.get())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_free_again_after_the_guard() {
        let lock = lock_api::Mutex::<NoopLock, i32>::new(1);
        *lock.lock() += 1;
        assert_eq!(*lock.lock(), 2);
    }

    #[test]
    #[should_panic = "taken twice"]
    fn it_refuses_to_be_taken_twice() {
        let lock = lock_api::Mutex::<NoopLock, i32>::new(1);
        let _first = lock.lock();
        let _second = lock.lock();
    }
}
