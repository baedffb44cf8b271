//! [`Drains`]: futures that wait for the requests that were on a file when they started.

use std::collections::HashSet;
use std::task::Waker;

use super::slot::SlotKey;
use super::slots::Slots;
use crate::op::FileId;

/// The unfinished drains. A finished drain is removed at once, even if it was not polled since.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    drains: Vec<Drain>,
    last_id: u64,
}

#[derive(Debug)]
struct Drain {
    id: u64,
    /// The requests that the drain still waits for.
    pending: HashSet<SlotKey>,
    waker: Option<Waker>,
}

impl Drains {
    /// Starts a drain of the requests on `file` that are queued, held or in flight, including abandoned
    /// requests. Returns its id, or `None` if there are no such requests.
    pub(crate) fn start(&mut self, file: FileId, slots: &Slots) -> Option<u64> {
        let of_file = slots.iter().filter(|(_, slot)| {
            (slot.is_waiting() || slot.is_in_flight()) && slot.file_id.may_be(file)
        });
        let pending: HashSet<_> = of_file.map(|(key, _)| key).collect();
        if pending.is_empty() {
            return None;
        }
        self.last_id += 1;
        self.drains.push(Drain {
            id: self.last_id,
            pending,
            waker: None,
        });
        Some(self.last_id)
    }

    /// Returns whether drain `id` is done, and a waker for the caller to drop. If the drain is not done,
    /// `waker` is woken when it is.
    pub(crate) fn poll(&mut self, id: u64, waker: Waker) -> (bool, Option<Waker>) {
        match self.drains.iter_mut().find(|drain| drain.id == id) {
            Some(drain) => (false, drain.waker.replace(waker)),
            None => (true, Some(waker)),
        }
    }

    /// Removes drain `id`. Returns its waker, for the caller to drop.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Waker> {
        let position = self.drains.iter().position(|drain| drain.id == id)?;
        self.drains.swap_remove(position).waker
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.drains.is_empty()
    }

    /// Removes a request from the drains that wait for it, because it is neither waiting nor in flight any
    /// more. Passes the wakers of the drains that are now done to `wake`.
    #[cold]
    pub(crate) fn on_request_done(&mut self, key: SlotKey, mut wake: impl FnMut(Option<Waker>)) {
        self.drains.retain_mut(|drain| {
            let done = drain.pending.remove(&key) && drain.pending.is_empty();
            if done {
                wake(drain.waker.take());
            }
            !done
        });
    }

    /// Finishes all drains. Passes their wakers to `wake`.
    pub(crate) fn finish_all(&mut self, mut wake: impl FnMut(Option<Waker>)) {
        for drain in self.drains.drain(..) {
            wake(drain.waker);
        }
    }
}
