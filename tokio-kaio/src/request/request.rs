//! [`Request`] and the states of its life.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::{PhantomData, PhantomPinned};
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use arrayvec::ArrayVec;
use intrusive_collections::DefaultLinkOps;
use lock_api::RawMutex;

use super::open_file::{Class, KnownAs, OpenFile};
use super::{Memory, Order, Way};
use crate::sync::contain;
use crate::sys::REAP_BATCH;
use crate::sys::abi::{self, Iocb, RWF_NOWAIT};

/// One operation between its future and the kernel.
///
/// Nameable so that a [`generic_aio_context`](crate::generic_aio_context) can be built over a link
/// and an adapter of one's own: see [`IntrusiveAdapter`](crate::IntrusiveAdapter). Only contexts
/// make requests.
pub struct Request<M: RawMutex, L: DefaultLinkOps + Default> {
    /// Where the request hangs in its context's queue.
    pub link: L,
    /// Reached through [`Table`](super::Table) alone, which is behind the context's lock.
    pub(super) life: UnsafeCell<Life>,
    lock: PhantomData<fn() -> M>,
    /// The table looks at a request while it is in the queue, which has it as a `Box`: that must not
    /// mean that nobody else does.
    _shared: PhantomPinned,
}

impl<M: RawMutex, L: DefaultLinkOps + Default> Request<M, L> {
    pub(super) fn new() -> Request<M, L> {
        Request {
            link: L::default(),
            life: UnsafeCell::new(Life {
                state: State::Ready,
                due: None,
                since: None,
            }),
            lock: PhantomData,
            _shared: PhantomPinned,
        }
    }
}

impl<M: RawMutex, L: DefaultLinkOps + Default> fmt::Debug for Request<M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

/// What there is to know of a request.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) state: State,
    /// In flight, or abandoned there: what its event sets off. Beside the state, which is moved about
    /// with every change, so that those pay for it that need it.
    pub(super) due: Option<Due>,
    /// When it came in, if latencies are asked for.
    pub(super) since: Option<Instant>,
}

/// Where a request is in its life; each state owns what it needs. In flight it is from the moment
/// when it is on its way to the kernel: one that goes from the pool, because its file wants that or
/// because the kernel has refused an attempt (`again`), is so already while it waits for a thread.
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
        order: Order,
        memory: Memory,
        /// Open, whatever becomes of the future and the caller's file.
        file: Arc<OpenFile>,
        standing: Standing,
        waker: Option<Waker>,
    },
    /// The kernel has it, and a future waits.
    InFlight {
        memory: Memory,
        flight: Flight,
        /// `None` while its own task submits it.
        waker: Option<Waker>,
    },
    /// The kernel has it, and nobody waits.
    Abandoned { memory: Memory, flight: Flight },
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

/// Which launch took a request to the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) launch: u32,
    pub(super) file: KnownAs,
    /// No signal will tell that it is done, and it was not when its submission returned.
    pub(super) overlooked: bool,
    /// It goes from the pool, where it may still be found, and taken back.
    pub(super) pooled: bool,
}

impl Flight {
    #[inline(always)]
    pub(super) fn of(launch: u32, file: KnownAs) -> Flight {
        Flight {
            launch,
            file,
            overlooked: false,
            pooled: false,
        }
    }
}

/// Whether a queued request has to let others go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As far as is known, it has not.
    Free,
    /// It is an append, and another one of its file is out: it is among those that are held back.
    Behind,
    /// It is an append, and its turn.
    Next,
}

/// What the event of a request sets off.
#[derive(Debug)]
pub(super) enum Due {
    /// It is submitted once more, if the kernel refuses this attempt because it would have to wait.
    Again(Again),
    /// The next append to this file has its turn.
    NextAppend(Arc<OpenFile>),
}

impl Due {
    pub(super) fn into_file(self) -> Arc<OpenFile> {
        match self {
            Due::Again(again) => again.file,
            Due::NextAppend(file) => file,
        }
    }
}

/// A request that was submitted with `RWF_NOWAIT`, as it is without.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) order: Order,
    pub(super) file: Arc<OpenFile>,
    /// What it was when it was submitted.
    pub(super) class: Class,
    /// See [`Way::Probe`](super::Way::Probe).
    pub(super) probe: bool,
}

impl Again {
    /// For a request that goes out in this way. Has it carry the flag.
    #[inline]
    pub(super) fn of(
        order: &Order,
        file: &Arc<OpenFile>,
        way: Way,
        iocb: &mut Iocb,
    ) -> Option<Again> {
        let probe = match way {
            Way::Inline | Way::Pool => return None,
            Way::NoWait => false,
            Way::Probe => true,
        };
        let class = file.class(order)?;
        iocb.rw_flags |= RWF_NOWAIT;
        Some(Again {
            order: *order,
            file: Arc::clone(file),
            class,
            probe,
        })
    }
}

/// Why an attempt is not all that there is to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It would have had to wait.
    WouldWait,
    /// The kernel does not know `RWF_NOWAIT` for this file.
    FlagUnknown,
    /// It may not know another flag, which the caller has set.
    SomeFlagUnknown,
    /// For the rest of it, it would have had to wait; or the file ends there.
    Short,
}

impl Refusal {
    /// Whether the kernel does not know a flag.
    pub(crate) fn is_unknown_flag(self) -> bool {
        matches!(self, Refusal::FlagUnknown | Refusal::SomeFlagUnknown)
    }
}

impl Again {
    /// Whether `outcome`, that of the attempt, is none of the request.
    pub(super) fn refusal(&self, outcome: Outcome) -> Option<Refusal> {
        /// Those that every kernel with `RWF_NOWAIT` knows.
        const OLD: i32 = abi::RWF_HIPRI | abi::RWF_DSYNC | abi::RWF_SYNC | abi::RWF_APPEND;
        const WOULD_WAIT: i64 = -(libc::EAGAIN as i64);
        // Of a buffered write on ext4.
        const UNKNOWN: i64 = -(libc::EOPNOTSUPP as i64);
        // What is cut off because of the flag ends with a page of the page cache. So a file that ends
        // within one, as most do, has no request made twice.
        const PAGE: u64 = 4096;
        let order = &self.order;
        match outcome {
            Outcome::Completed(WOULD_WAIT) => Some(Refusal::WouldWait),
            Outcome::Completed(UNKNOWN) | Outcome::Refused(libc::EOPNOTSUPP) => {
                let is_plain = order.rw_flags & !OLD == 0;
                Some(match is_plain {
                    true => Refusal::FlagUnknown,
                    false => Refusal::SomeFlagUnknown,
                })
            }
            Outcome::Completed(res @ 1..) if (res as u64) < order.nbytes => {
                let end = (order.offset as u64).wrapping_add(res as u64);
                let is_cut = end % PAGE == 0 && !self.would_append_twice();
                is_cut.then_some(Refusal::Short)
            }
            _ => None,
        }
    }
}

impl Again {
    /// Whether the kernel appends what the request writes, wherever it was meant to go. Requests that are
    /// known to append ([`Order::appends`]) are not attempted.
    fn would_append_twice(&self) -> bool {
        self.order.opcode == abi::IOCB_CMD_PWRITE && self.file.has_append_flag()
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

/// What changes of state set free: woken, and dropped, when the lock is no longer held.
#[derive(Debug)]
pub(crate) struct Released {
    /// To be woken.
    wakes: ArrayVec<Waker, { REAP_BATCH + 4 }>,
    /// What comes more rarely.
    rest: Vec<Freed>,
}

#[derive(Debug)]
enum Freed {
    Wake(Waker),
    #[allow(dead_code, reason = "dropped, not looked at")]
    Drop(Option<Waker>, Memory, Option<Arc<OpenFile>>),
}

impl Released {
    pub(crate) fn new() -> Released {
        Released {
            wakes: ArrayVec::new(),
            rest: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wakes.is_empty() && self.rest.is_empty()
    }

    pub(crate) fn wake(&mut self, waker: Option<Waker>) {
        let Some(waker) = waker else { return };
        if let Err(full) = self.wakes.try_push(waker) {
            self.rest.push(Freed::Wake(full.element()));
        }
    }

    /// These are only to be dropped, which may run code of the caller's too.
    pub(crate) fn drop(
        &mut self,
        waker: Option<Waker>,
        memory: Memory,
        file: Option<Arc<OpenFile>>,
    ) {
        self.rest.push(Freed::Drop(waker, memory, file));
    }

    /// A reference to a file, which mostly is not the last one.
    pub(super) fn drop_file(&mut self, file: Arc<OpenFile>) {
        if Arc::strong_count(&file) == 1 {
            self.drop(None, Memory::None, Some(file));
        }
    }

    /// Wakes and drops. Runs code of the callers' wakers: not to be called under a lock. One that
    /// panics harms none of those that come after it.
    pub(crate) fn free(&mut self) {
        let mut wakes = self.wakes.drain(..);
        while wakes.len() > 0 {
            contain(|| wakes.by_ref().for_each(Waker::wake));
        }
        drop(wakes);
        for freed in self.rest.drain(..) {
            contain(|| match freed {
                Freed::Wake(waker) => waker.wake(),
                Freed::Drop(..) => drop(freed),
            });
        }
    }
}
