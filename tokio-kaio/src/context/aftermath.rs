//! [`Aftermath`]: what a change under the lock leaves to be done after it.

use super::teardown::Remains;
use crate::request::Released;
use crate::sys::Kernel;
use crate::trace::Notices;

/// What is to be done once the lock is released. Mostly nothing, and cheap then.
pub(super) struct Aftermath<K: Kernel> {
    pub(super) released: Released,
    pub(super) notices: Notices,
    pub(super) remains: Option<Box<Remains<K>>>,
    pub(super) wake_driver: bool,
    /// The driver is to look again after a pause.
    pub(super) try_again: bool,
    /// The queue is to be flushed here and now.
    pub(super) flush: bool,
    /// The pool has work to take.
    pub(super) dispatch: bool,
    /// A reap left events in the ring.
    pub(super) more: bool,
}

impl<K: Kernel> Aftermath<K> {
    pub(super) fn new() -> Aftermath<K> {
        Aftermath {
            released: Released::new(),
            notices: Notices::new(),
            remains: None,
            wake_driver: false,
            try_again: false,
            flush: false,
            dispatch: false,
            more: false,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        let woken = self.wake_driver | self.try_again;
        let quiet = !(woken | self.flush | self.dispatch | self.more);
        quiet && self.notices.is_empty() && self.released.is_empty() && self.remains.is_none()
    }
}
