//! [`Deferred`]: effects of a change under the lock of a driver, which take place after it.

use std::mem::{self, ManuallyDrop};
use std::sync::Arc;
use std::task::Waker;

use arrayvec::ArrayVec;

use crate::backend::{IoBackend, REAP_BATCH};
use crate::op::{IoBuffer, OpenFile};
use crate::sync::contain;
use crate::teardown::Teardown;
use crate::trace::TraceEvents;

/// Mostly nothing, and cheap then. Wakers are woken and values of callers dropped here, because that
/// runs their code, which may come back to the context, and may panic.
pub(crate) struct Deferred<B: IoBackend> {
    wakers: ArrayVec<Waker, { REAP_BATCH + 4 }>,
    /// What is rarer.
    rest: Vec<Effect>,
    pub(crate) events: TraceEvents,
    pub(crate) teardown: Option<Box<Teardown<B>>>,
    pub(crate) wake_driver: bool,
    /// The driver task has to look again after a pause.
    pub(crate) retry_later: bool,
    /// The queue has to be flushed by the current thread.
    pub(crate) flush: bool,
    /// The offload pool has new entries.
    pub(crate) dispatch: bool,
    /// A reap was full: more completions may have arrived.
    pub(crate) more_completions: bool,
}

enum Effect {
    Wake(Waker),
    DropWaker(#[allow(dead_code, reason = "dropped, not read")] Waker),
    DropBuffer(#[allow(dead_code, reason = "dropped, not read")] IoBuffer),
    DropFile(#[allow(dead_code, reason = "dropped, not read")] Arc<OpenFile>),
}

impl<B: IoBackend> Deferred<B> {
    /// Not to be dropped: nothing is left after the driver has carried it out, and to drop it would
    /// cost every request.
    #[inline(always)]
    pub(crate) fn new() -> ManuallyDrop<Deferred<B>> {
        ManuallyDrop::new(Deferred {
            wakers: ArrayVec::new(),
            rest: Vec::new(),
            events: TraceEvents::new(),
            teardown: None,
            wake_driver: false,
            retry_later: false,
            flush: false,
            dispatch: false,
            more_completions: false,
        })
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        let flags = self.wake_driver | self.retry_later | self.flush;
        !(flags | self.dispatch | self.more_completions)
            && self.wakers.is_empty()
            && self.rest.is_empty()
            && self.events.is_empty()
            && self.teardown.is_none()
    }

    #[inline]
    pub(crate) fn wake(&mut self, waker: Option<Waker>) {
        let Some(waker) = waker else { return };
        if let Err(full) = self.wakers.try_push(waker) {
            self.rest.push(Effect::Wake(full.element()));
        }
    }

    pub(crate) fn drop_waker(&mut self, waker: Option<Waker>) {
        self.rest.extend(waker.map(Effect::DropWaker));
    }

    pub(crate) fn drop_buffer(&mut self, buffer: IoBuffer) {
        if !matches!(buffer, IoBuffer::None) {
            self.rest.push(Effect::DropBuffer(buffer));
        }
    }

    /// Drops a reference to a file. Mostly it is not the last one.
    #[inline]
    pub(crate) fn drop_file(&mut self, file: Option<Arc<OpenFile>>) {
        if let Some(file) = file {
            if Arc::strong_count(&file) == 1 {
                self.rest.push(Effect::DropFile(file));
            }
        }
    }

    /// Wakes and drops. A panic in one of these affects none of the others.
    pub(crate) fn release(&mut self) {
        let mut wakers = self.wakers.drain(..);
        while wakers.len() > 0 {
            contain(|| wakers.by_ref().for_each(Waker::wake));
        }
        drop(wakers);
        for effect in mem::take(&mut self.rest) {
            contain(|| match effect {
                Effect::Wake(waker) => waker.wake(),
                dropped => drop(dropped),
            });
        }
    }
}
