//! [`WriteSignal`]: the waker of the writes of a [`FileWriter`](super::FileWriter).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// Wakes the task of a writer when one of its writes may have completed, and remembers that.
///
/// So a call that accepts a few bytes polls the writes in flight only if one may have completed, and still
/// reports an error at once.
#[derive(Debug, Default)]
pub(super) struct WriteSignal {
    may_be_complete: AtomicBool,
    /// Not an `AtomicWaker`: it never wakes again after a waker whose `clone` or `drop` has panicked.
    task: Mutex<Option<Waker>>,
}

impl WriteSignal {
    /// Sets the task to wake. Has to be called before the writes are polled.
    pub(super) fn register(&self, task: &Waker) {
        let is_same = |known: &Waker| known.will_wake(task);
        if self.task().as_ref().is_some_and(is_same) {
            return;
        }
        // Clone and drop of a waker are foreign code: they run when the mutex is not held.
        let task = task.clone();
        let replaced = self.task().replace(task);
        drop(replaced);
    }

    /// Returns whether a write may have completed since the last call.
    pub(super) fn take(&self) -> bool {
        // The load is cheaper, and mostly there is nothing.
        self.may_be_complete.load(Ordering::Relaxed)
            && self.may_be_complete.swap(false, Ordering::Acquire)
    }

    /// No foreign code runs while the mutex is held.
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for WriteSignal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.may_be_complete.store(true, Ordering::Release);
        let task = self.task().take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_remembered_until_it_is_taken() {
        let signal = Arc::new(WriteSignal::default());
        assert!(!signal.take());
        Waker::from(Arc::clone(&signal)).wake();
        assert!(signal.take() && !signal.take());
    }
}
