//! [`Request`] and the states of its life.

use std::cell::UnsafeCell;
use std::fmt;
use std::fs::File;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::task::Waker;

use intrusive_collections::DefaultLinkOps;
use lock_api::RawMutex;

use super::Memory;
use crate::sync::contain;
use crate::sys::abi::Iocb;

/// One operation between its future and the kernel.
///
/// Nameable so that a [`generic_aio_context`](crate::generic_aio_context) can be built over a link
/// and an adapter of one's own: see [`IntrusiveAdapter`](crate::IntrusiveAdapter). Only contexts
/// make requests.
pub struct Request<M: RawMutex, L: DefaultLinkOps + Default> {
    /// Where the request hangs in one of its context's lists.
    pub link: L,
    /// Reached through [`Table`](super::Table) alone, which is behind the context's lock.
    pub(super) state: UnsafeCell<State>,
    lock: PhantomData<fn() -> M>,
}

impl<M: RawMutex, L: DefaultLinkOps + Default> Request<M, L> {
    pub(super) fn new() -> Request<M, L> {
        Request {
            link: L::default(),
            state: UnsafeCell::new(State::Ready),
            lock: PhantomData,
        }
    }
}

impl<M: RawMutex, L: DefaultLinkOps + Default> fmt::Debug for Request<M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

/// Where a request is in its life; each state owns what it needs.
///
/// ```text
///            ┌─────────────── withdrawn ───────────────┐
///            ▼                                         │
///  Ready ──► Queued ──► InFlight ──► Done ──► Ready    │
///    │          │  ▲       ▲ │                         │
///    │          │  └ EAGAIN┼─┤                         │
///    └──────────┼──────────┘ └► Abandoned ──► Ready    │
///               └──────────────────────────────────────┘
/// ```
#[derive(Debug)]
pub(super) enum State {
    /// Free for the next operation.
    Ready,
    /// Waits to go to the kernel.
    Queued {
        iocb: Iocb,
        memory: Memory,
        /// Keeps the descriptor in `iocb` open, whatever becomes of the future and the caller's
        /// file.
        file: Arc<File>,
        waker: Option<Waker>,
    },
    /// The kernel has it, and a future waits. `quiet`: its event comes without a signal.
    InFlight {
        memory: Memory,
        quiet: bool,
        /// `None` while its own task submits it.
        waker: Option<Waker>,
    },
    /// The kernel has it, and nobody waits.
    Abandoned { memory: Memory, quiet: bool },
    /// The kernel is done with it, and a future has yet to look.
    Done { outcome: Outcome, memory: Memory },
}

impl State {
    /// Leaves `Ready` behind.
    pub(super) fn take(&mut self) -> State {
        mem::replace(self, State::Ready)
    }

    /// Puts a state where `Ready` is, which owns nothing to be dropped.
    pub(super) fn fill(&mut self, state: State) {
        let ready = mem::replace(self, state);
        debug_assert!(matches!(ready, State::Ready));
        mem::forget(ready);
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// `res` of its event: bytes moved, or an errno negated.
    Completed(i64),
    /// `io_submit` refused it with this errno.
    Refused(i32),
    /// The context stopped first.
    Stopped,
    /// The kernel took it, and can no longer be asked what came of it, with this errno.
    Unknown(i32),
}

/// What a change of state set free: dropped, and woken, when the lock is no longer held.
#[derive(Debug, Default)]
pub(crate) struct Released {
    /// To be woken.
    pub(crate) wake: Option<Waker>,
    /// Only to be dropped, which may run code of the caller's too.
    pub(crate) unused: Option<Waker>,
    pub(crate) memory: Option<Memory>,
    pub(crate) file: Option<Arc<File>>,
}

impl Released {
    /// Wakes and drops. Runs code of the callers' wakers: not to be called under a lock. One that
    /// panics harms none of those that come after it.
    pub(crate) fn free(self) {
        contain(|| {
            if let Some(waker) = self.wake {
                waker.wake();
            }
            drop((self.unused, self.memory, self.file));
        });
    }
}
