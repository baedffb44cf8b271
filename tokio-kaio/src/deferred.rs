//! [`Deferred`]: effects of a change under the driver's lock, carried out after the lock is released.

use std::mem::{self, ManuallyDrop};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;

use arrayvec::ArrayVec;

use crate::backend::{AfterReap, IoBackend, REAP_BATCH};
use crate::op::{IoBuffer, OpenFile};
use crate::sync::contain;
use crate::teardown::Teardown;
use crate::trace::TraceEvents;

/// Effects that the driver carries out after it has released its lock. Usually empty, which is cheap.
///
/// Waking wakers and dropping wakers, buffers and files runs callers' code. That code may use the context
/// again, and may panic.
pub(crate) struct Deferred<B: IoBackend> {
    wakers: ArrayVec<Waker, { REAP_BATCH + 4 }>,
    /// Less frequent effects, and wakers for which `wakers` has no room.
    rest: Vec<Effect>,
    pub(crate) events: TraceEvents,
    pub(crate) teardown: Option<Box<Teardown<B>>>,
    pub(crate) wake_driver: bool,
    /// The driver task must be woken after a pause, to retry a submission.
    pub(crate) retry_later: bool,
    /// The current thread must flush the queue.
    pub(crate) flush: bool,
    /// The offload pool has new entries.
    pub(crate) dispatch: bool,
    /// The last reap was full: there may be more completions.
    pub(crate) more_completions: bool,
}

enum Effect {
    Wake(Waker),
    DropWaker(#[allow(dead_code, reason = "dropped, not read")] Waker),
    DropBuffer(#[allow(dead_code, reason = "dropped, not read")] IoBuffer),
    DropFile(#[allow(dead_code, reason = "dropped, not read")] OpenFile),
    Close(#[allow(dead_code, reason = "dropped, not read")] Vec<OwnedFd>),
}

impl<B: IoBackend> Deferred<B> {
    /// `ManuallyDrop`, because dropping would cost every request, and nothing is left to drop after the
    /// driver has carried out the effects.
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

    /// Drops a reference to a file: at once, unless it is the last one.
    #[inline]
    pub(crate) fn drop_file(&mut self, file: Option<Arc<OpenFile>>) {
        // Not the count: another thread may drop its reference between the check and the drop.
        if let Some(last) = file.and_then(Arc::into_inner) {
            self.rest.push(Effect::DropFile(last));
        }
    }

    /// Does the work that a reap has left, after the lock.
    #[inline(always)]
    pub(crate) fn after_reap(&mut self, AfterReap { reap_later, unused }: AfterReap) {
        self.retry_later |= reap_later;
        if !unused.is_empty() {
            self.rest.push(Effect::Close(unused));
        }
    }

    /// Wakes the wakers, and drops what was deferred. A panic in one of them does not affect the others.
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
