//! [`Drains`]: futures that wait for the requests that a file had at some time.

use std::collections::HashSet;
use std::task::Waker;

use super::deferred::Deferred;
use super::slot::SlotKey;
use super::slots::Slots;
use super::{ContextTypes, Entered};
use crate::backend::IoBackend;
use crate::metrics::ReapSource;
use crate::op::FileId;
use crate::sync::contain;

/// Drains under way. One that is done is not in it, even if nobody has asked yet.
#[derive(Debug, Default)]
pub(super) struct Drains {
    drains: Vec<Drain>,
    last_id: u64,
}

#[derive(Debug)]
struct Drain {
    id: u64,
    /// The requests that it waits for.
    pending: HashSet<SlotKey>,
    waker: Option<Waker>,
}

impl Drains {
    /// Starts to wait for the requests on `file` that are queued or in flight, abandoned ones included.
    /// `None`: there are none.
    pub(super) fn start(&mut self, file: FileId, slots: &Slots) -> Option<u64> {
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

    /// Whether drain `id` is done. If not, `waker` is woken when it is. Returns the waker that is not
    /// needed.
    pub(super) fn poll(&mut self, id: u64, waker: Waker) -> (bool, Option<Waker>) {
        match self.drains.iter_mut().find(|drain| drain.id == id) {
            Some(drain) => (false, drain.waker.replace(waker)),
            None => (true, Some(waker)),
        }
    }

    /// Nobody waits for drain `id` any more.
    pub(super) fn remove(&mut self, id: u64) -> Option<Waker> {
        let position = self.drains.iter().position(|drain| drain.id == id)?;
        self.drains.swap_remove(position).waker
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.drains.is_empty()
    }

    /// A request is neither queued nor in flight any more.
    #[cold]
    pub(super) fn on_request_done<B: IoBackend>(
        &mut self,
        key: SlotKey,
        deferred: &mut Deferred<B>,
    ) {
        self.drains.retain_mut(|drain| {
            let done = drain.pending.remove(&key) && drain.pending.is_empty();
            if done {
                deferred.wake(drain.waker.take());
            }
            !done
        });
    }

    /// No request is.
    pub(super) fn finish_all<B: IoBackend>(&mut self, deferred: &mut Deferred<B>) {
        for drain in self.drains.drain(..) {
            deferred.wake(drain.waker);
        }
    }
}

impl<T: ContextTypes> Entered<'_, T> {
    /// Starts to wait for the requests on `file`. `None`: there are none.
    pub(crate) fn start_drain(&self, file: FileId) -> Option<u64> {
        self.with(|core, deferred| {
            core.reap_all(ReapSource::Other, deferred);
            core.drains.start(file, &core.slots)
        })
    }

    /// Whether drain `id` is done; if not, `waker` is woken when it is.
    pub(crate) fn poll_drain(&self, id: u64, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (done, unneeded) = self.with(|core, deferred| {
            core.reap_all(ReapSource::Poll, deferred);
            core.drains.poll(id, waker)
        });
        contain(|| drop(unneeded));
        done
    }

    /// Nobody waits for drain `id` any more.
    pub(crate) fn end_drain(&self, id: u64) {
        let unneeded = self.with(|core, _| core.drains.remove(id));
        contain(|| drop(unneeded));
    }
}
