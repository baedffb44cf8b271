//! How a new request comes into a context: to the kernel at once, into the queue, to the pool, or not
//! at all.

use std::mem;
use std::sync::Arc;
use std::task::Waker;

use super::aftermath::Aftermath;
use super::counts::Look;
use super::descriptor::Descriptor;
use super::route::Route;
use super::state::{Phase, State, Turn};
use crate::request::{Flavour, Memory, OpenFile, Order, Payload, Ticket, Way, With};
use crate::sys::abi::Iocb;
use crate::trace::Notice;
use crate::{AioCommandError, Backend, SubmitPolicy};

/// A new request. Changed in place: it is large to move.
pub(super) struct Arrival {
    /// Without its memory when the table has taken it in.
    pub(super) payload: Payload,
    /// For the table. Still here if that does not want it yet.
    pub(super) waker: Option<Waker>,
    /// Blank; for the kernel, where it goes there now.
    pub(super) iocb: Iocb,
}

impl Arrival {
    #[inline(always)]
    pub(super) fn new(payload: Payload, waker: Waker) -> Arrival {
        Arrival {
            payload,
            waker: Some(waker),
            iocb: Iocb::default(),
        }
    }

    /// The table has taken it in: of what it owned, only the waker may be left.
    #[inline(always)]
    pub(super) fn taken(self) {
        debug_assert!(matches!(self.payload.memory(), Memory::None));
        let Arrival { payload, waker, .. } = self;
        mem::forget(payload); // owns nothing
        drop(waker);
    }
}

/// What a new request goes to the kernel with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// There may be more to come that it could wait for.
    Unknown,
    /// It is the first of several that come together.
    First,
    /// Another one of them. Those before it have been launched, with this number, and not submitted.
    Further(u32),
}

/// What became of a new request.
pub(super) enum Admitted<F: Flavour> {
    /// Goes to the kernel now: [`Shared::send`](super::shared::Shared::send).
    Launched(Ticket<F>, Route),
    Queued(Ticket<F>),
    /// Has to wait, and wants something that keeps its descriptor open meanwhile.
    WantsFile,
    Refused(AioCommandError),
    /// There is no free slot, and it may not wait.
    Full,
}

impl<F: Flavour> State<F> {
    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        arrival: &mut Arrival,
        descriptor: &Descriptor<'_>,
        may_wait: bool,
        together: Company,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Admitted<F> {
        if self.free_slots() == 0 {
            self.table.make_ready(1); // before there are others to be woken
            self.reap(Look::Other, aftermath);
        }
        if !matches!(self.phase, Phase::Open(_)) {
            return Admitted::Refused(AioCommandError::AioStopped);
        }
        let full = self.free_slots() == 0;
        if full && !may_wait {
            return Admitted::Full;
        }
        if full {
            self.counts.found_full += 1;
            let slots = self.limits.slots;
            aftermath.notices.push(|| Notice::FoundFull { slots });
        }
        if full && !self.limits.waits {
            return Admitted::Refused(AioCommandError::CapacityExceeded);
        }
        let file = descriptor.file();
        // A descriptor that nothing keeps open once the future is forgotten can't wait for
        // company.
        let alone = together == Company::Unknown;
        let company = alone && !full && self.driven && file.is_some() && {
            let apart = self.tasks_are_apart();
            let in_flight = self.table.in_flight();
            let waker = arrival.waker.as_ref().unwrap_or(Waker::noop());
            self.batching.should_wait(in_flight, waker, apart)
        };
        if full || company || self.table.is_to_stay_behind(arrival.payload.order(), file) {
            return match file {
                Some(file) => self.queue(arrival, file, full, aftermath),
                None => Admitted::WantsFile,
            };
        }
        let turn = self.turn();
        let way = self.way_of(file, arrival.payload.order(), turn);
        if matches!(way, Way::Pool) {
            return match file {
                Some(file) => self.queue_for_pool(arrival, file, aftermath),
                None => Admitted::WantsFile,
            };
        }
        // Nobody knows when a poll is done.
        let quiet = self.may_be_quiet() && !arrival.payload.order().is_poll();
        let Arrival { payload, iocb, .. } = arrival;
        let with = match together {
            Company::Further(launch) => With::Launch(launch),
            Company::Unknown | Company::First => With::Nothing,
        };
        let ticket = self
            .table
            .launch(payload, descriptor.fd(), file, way, with, iocb);
        let closely =
            file.is_some_and(|file| file.is_to_be_watched(self.limits.policy, turn == Turn::Watch));
        Admitted::Launched(ticket, self.route(quiet, closely))
    }

    /// Takes in a request that goes from the pool, now if none is queued: it is not to get ahead of
    /// those.
    #[inline(never)]
    fn queue_for_pool(
        &mut self,
        arrival: &mut Arrival,
        file: &Arc<OpenFile>,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Admitted<F> {
        if self.table.launchable() > 0 {
            return self.queue(arrival, file, false, aftermath);
        }
        let (payload, waker) = (&mut arrival.payload, arrival.waker.take());
        let (ticket, parcel) = self.table.launch_pooled(payload, Arc::clone(file), waker);
        self.offload_unattempted(parcel, aftermath);
        Admitted::Queued(ticket)
    }

    /// Takes in a request that waits, for a slot or for company.
    #[inline(never)]
    fn queue(
        &mut self,
        arrival: &mut Arrival,
        file: &Arc<OpenFile>,
        full: bool,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Admitted<F> {
        let (payload, waker) = (&mut arrival.payload, arrival.waker.take());
        self.batching
            .queued(waker.as_ref().unwrap_or(Waker::noop()));
        let ticket = self.table.enqueue(payload, Arc::clone(file), waker);
        // A device should not wait for the rest. But where requests are done at once, a flush
        // wakes their tasks, this one among them, which costs least from the driver's.
        let at_once = self.may_be_quiet();
        if self.table.launchable() >= self.batch_limit() && !full && !at_once {
            aftermath.flush = true;
        } else {
            self.request_flush(aftermath);
        }
        Admitted::Queued(ticket)
    }

    /// How a new request goes to the kernel if it goes now.
    #[inline]
    fn way_of(&self, file: Option<&Arc<OpenFile>>, order: &Order, turn: Turn) -> Way {
        let policy = self.limits.policy;
        match (self.limits.backend, file) {
            (Backend::ThreadPool, _) => Way::Pool,
            (_, Some(file)) => file.way(order, policy, turn == Turn::Probe),
            // One that goes to the pool wants a file that can be held.
            (_, None) if policy == SubmitPolicy::Offload && !order.is_poll() => Way::Pool,
            (_, None) => Way::Inline,
        }
    }
}
