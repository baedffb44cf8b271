//! [`Aftermath`]: what a change under the lock leaves to be done after it.

use arrayvec::ArrayVec;

use super::teardown::Remains;
use crate::request::Released;
use crate::sys::REAP_BATCH;

/// What is to be done once the lock is released. Mostly nothing, and cheap then.
pub(super) struct Aftermath<K> {
    pub(super) released: ArrayVec<Released, { REAP_BATCH + 4 }>,
    pub(super) rare: Option<Box<Rare<K>>>,
    pub(super) wake_driver: bool,
    /// The queue is to be flushed here and now.
    pub(super) flush: bool,
    /// A reap left events in the ring.
    pub(super) more: bool,
}

/// What few changes leave to be done.
pub(super) struct Rare<K> {
    /// More than fits into [`Aftermath::released`].
    pub(super) released: Vec<Released>,
    pub(super) remains: Option<Remains<K>>,
}

impl<K> Aftermath<K> {
    pub(super) fn new() -> Aftermath<K> {
        Aftermath {
            released: ArrayVec::new(),
            rare: None,
            wake_driver: false,
            flush: false,
            more: false,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        let quiet = !(self.wake_driver | self.flush | self.more);
        quiet && self.released.is_empty() && self.rare.is_none()
    }

    pub(super) fn push(&mut self, released: Released) {
        if let Err(full) = self.released.try_push(released) {
            self.rare().released.push(full.element());
        }
    }

    #[cold]
    pub(super) fn rare(&mut self) -> &mut Rare<K> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                released: Vec::new(),
                remains: None,
            })
        })
    }
}
