//! [`WriteSignal`]: the waker of the writes of a [`FileWriter`](super::FileWriter).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use atomic_waker::AtomicWaker;

/// Wakes the task of a writer when one of its writes may have completed, and remembers that.
///
/// So a call that accepts a few bytes polls the writes in flight only if one may have completed, and still
/// reports an error at once.
#[derive(Debug, Default)]
pub(super) struct WriteSignal {
    may_be_complete: AtomicBool,
    task: AtomicWaker,
}

impl WriteSignal {
    /// Sets the task to wake. Has to be called before the writes are polled.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Returns whether a write may have completed since the last call.
    pub(super) fn take(&self) -> bool {
        // The load is cheaper, and mostly there is nothing.
        self.may_be_complete.load(Ordering::Relaxed)
            && self.may_be_complete.swap(false, Ordering::Acquire)
    }
}

impl Wake for WriteSignal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.may_be_complete.store(true, Ordering::Release);
        self.task.wake();
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
