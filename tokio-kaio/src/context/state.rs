//! What a context has behind its one lock, and every way in which it changes.

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Waker};

use super::aftermath::Aftermath;
use super::batching::Batching;
use super::counts::{Counts, Look};
use super::pool::Pool;
use super::route::Route;
use super::signalling::Signalling;
use super::still_out::StillOut;
use super::teardown::Remains;
use crate::request::{
    Batch, Flavour, Landing, Memory, OpenFile, Order, Outcome, Parcel, Table, Ticket, Way,
};
use crate::sync::{EventFd, watch};
use crate::sys::abi::Iocb;
use crate::sys::{Events, FixedIocb, Kernel, MAX_BATCH};
use crate::trace::Notice;
use crate::{Backend, SubmitPolicy};

/// Most requests that go to the kernel in one call, unless told. With more, the device is idle for
/// longer while they are put together, and the CPU that is saved is little.
const DEFAULT_MAX_BATCH: usize = 16;

/// What a launch is used for, to learn of the files in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Nothing,
    /// It is watched closely.
    Watch,
    /// It tries whether `RWF_NOWAIT` is still refused.
    Probe,
}

/// What a context is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most requests in flight.
    pub(crate) slots: usize,
    /// Whether a request waits for a free slot.
    pub(crate) waits: bool,
    /// Most requests that go to the kernel in one call, if that was chosen: 1 to [`MAX_BATCH`].
    pub(crate) max_batch: Option<usize>,
    /// Of the files that have none of their own.
    pub(crate) policy: SubmitPolicy,
    pub(crate) backend: Backend,
    pub(crate) measure_latency: bool,
}

pub(super) struct State<F: Flavour> {
    pub(super) phase: Phase<F::Kernel>,
    pub(super) table: Table<F>,
    pub(super) limits: Limits,
    pub(super) batching: Batching,
    pub(super) signalling: Signalling,
    /// Whether the driver has been polled: before that, nobody would flush the queue.
    pub(super) driven: bool,
    /// The driver's runtime has several workers.
    pub(super) several_workers: bool,
    /// The driver was woken to flush and has not run yet.
    pub(super) flush_requested: bool,
    /// Calls of `io_submit` that are being made outside the lock. The kernel context outlives
    /// them.
    pub(super) submitting: usize,
    /// Reaps that found events. Wraps.
    pub(super) reaps: u32,
    /// Where requests go that would have to wait in their submission.
    pub(super) pool: Arc<Pool<F::Kernel>>,
    /// [`State::reaps`] when the pool last gave back requests for which there was no room.
    pub(super) no_room_at: u32,
    pub(super) counts: Counts,
    /// Events are taken out of a ring in user memory.
    pub(super) ring: bool,
}

/// How far a context is from its end.
pub(super) enum Phase<K> {
    Open(Live<K>),
    /// No new requests. Ends when the last one is done.
    Stopping(Live<K>),
    /// The driver is gone. Ends when no `io_submit` runs; the kernel may still use the memory.
    Orphaned(Live<K>, Vec<Memory>),
    Gone,
}

/// What a context has of the system's.
pub(super) struct Live<K> {
    pub(super) kernel: K,
    pub(super) signal: Option<EventFd>,
    pub(super) gone: watch::Sender<()>,
}

/// What the driver has to know of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    /// There is something to flush, and more to come if the tasks that are ready run first.
    Early,
    /// It will be woken.
    Quiescent,
    /// There are requests in flight of whose end no signal will tell: look again soon.
    Unsignalled,
    /// The context has ended.
    Gone,
}

impl<F: Flavour> State<F> {
    pub(super) fn new(
        limits: Limits,
        kernel: F::Kernel,
        signal: Option<EventFd>,
        gone: watch::Sender<()>,
        pool: Arc<Pool<F::Kernel>>,
    ) -> State<F> {
        State {
            ring: kernel.has_ring(),
            phase: Phase::Open(Live {
                kernel,
                signal,
                gone,
            }),
            table: Table::new(limits.slots, limits.measure_latency),
            limits,
            batching: Batching::default(),
            signalling: Signalling::default(),
            driven: false,
            several_workers: false,
            flush_requested: false,
            submitting: 0,
            reaps: 0,
            pool,
            no_room_at: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn free_slots(&self) -> usize {
        let taken = self.table.in_flight() + self.table.queued();
        self.limits.slots.saturating_sub(taken)
    }

    pub(super) fn still_out(&mut self) -> StillOut {
        StillOut {
            queued: self.table.queued(),
            in_flight: self.table.in_flight(),
            abandoned: self.table.abandoned(),
            descriptors: self.table.files_in_flight(),
        }
    }

    /// What the next launch is to be used for, besides: one in 256 for either. Spread by the golden
    /// ratio, so that they fall on each of several files that take turns.
    #[inline]
    pub(super) fn turn(&self) -> Turn {
        match self.table.latest_launch().wrapping_mul(0x9e37_79b9) >> 24 {
            0 => Turn::Watch,
            1 => Turn::Probe,
            _ => Turn::Nothing,
        }
    }

    /// As [`State::offload`], for one that the kernel has not refused.
    #[inline(never)]
    pub(super) fn offload_unattempted(
        &mut self,
        parcel: Parcel,
        aftermath: &mut Aftermath<F::Kernel>,
    ) {
        aftermath.notices.push(|| Notice::Offloaded {
            fd: parcel.file.as_raw_fd(),
            order: Order::of(&parcel.iocb),
        });
        self.offload(parcel, aftermath);
    }

    /// Has the pool submit a request that is in flight by the table's account.
    #[cold]
    fn offload(&mut self, parcel: Parcel, aftermath: &mut Aftermath<F::Kernel>) {
        let tag = parcel.iocb.data;
        match self.pool.push(parcel) {
            Ok(()) => {
                self.counts.offloads += 1;
                aftermath.dispatch = true;
            }
            Err(errno) => self.refuse(tag, errno, aftermath),
        }
    }

    /// For a submission while the context lives; counts as submitting until the caller takes that back.
    /// `closely`: see [`Route::closely`].
    pub(super) fn route(&mut self, quiet: bool, closely: bool) -> Route {
        self.submitting += 1;
        Route {
            quiet,
            closely,
            launch: self.table.latest_launch(),
            reaps: self.reaps,
        }
    }

    /// Whether the next requests may go out without a signal. Only where a driver runs, which
    /// finds those for which that was a mistake.
    pub(super) fn may_be_quiet(&self) -> bool {
        self.driven && self.signalling.may_be_quiet()
    }

    /// Most requests that go to the kernel in one call now. Unless told, a device gets work to do
    /// while the rest is put together; one that is done with it at once is idle anyway.
    pub(super) fn batch_limit(&self) -> usize {
        match self.limits.max_batch {
            Some(limit) => limit,
            None if self.may_be_quiet() => MAX_BATCH,
            None => DEFAULT_MAX_BATCH,
        }
    }

    /// Whether tasks do better each on its own: where requests are done at once and there are
    /// several workers. A flush of what many tasks have queued wakes them all on one worker, which
    /// wakes another to steal them. A call for each request costs less than that.
    pub(super) fn tasks_are_apart(&self) -> bool {
        self.several_workers && self.may_be_quiet()
    }

    /// `iocbs` went to the kernel, and what was done by then has been reaped, or as much of it as
    /// one reap takes.
    #[inline(always)]
    pub(super) fn sent(
        &mut self,
        iocbs: &[Iocb],
        route: &Route,
        aftermath: &mut Aftermath<F::Kernel>,
    ) {
        if aftermath.more && self.table.is_any_left(iocbs, route.launch) {
            self.reap_all(Look::Submission, aftermath); // those of other threads came first
        }
        let any_left = if route.quiet {
            self.table.overlook(iocbs, route.launch)
        } else {
            self.table.is_any_left(iocbs, route.launch)
        };
        self.signalling
            .submitted(iocbs.len(), route.quiet, !any_left);
        aftermath.wake_driver |= route.quiet && any_left;
    }

    /// `None`: there is nothing to submit here. What goes from the pool has gone there.
    pub(super) fn launch_queued(
        &mut self,
        batch: &mut Batch,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Option<Route> {
        self.flush_requested = false;
        if self.table.launchable() == 0 || self.phase.live().is_none() {
            return None;
        }
        let quiet = self.may_be_quiet();
        let apart = self.tasks_are_apart();
        self.batching.flushed(self.table.launchable(), apart);
        let limit = self.batch_limit();
        let Limits {
            policy, backend, ..
        } = self.limits;
        let turn = self.turn();
        let mut closely = false;
        let way = |file: &OpenFile, order: &Order| {
            if backend == Backend::ThreadPool {
                return Way::Pool;
            }
            closely |= file.is_to_be_watched(policy, turn == Turn::Watch);
            file.way(order, policy, turn == Turn::Probe)
        };
        let mut pooled = Vec::new();
        let slots = self.limits.slots;
        self.table
            .launch_queued(batch, limit, slots, way, &mut pooled);
        for parcel in pooled {
            self.offload_unattempted(parcel, aftermath);
        }
        if batch.is_empty() {
            return None;
        }
        Some(self.route(quiet && !batch.has_polls(), closely))
    }

    /// Takes events out of the ring, as many as one reap takes. Returns whether there were any.
    pub(super) fn reap(&mut self, look: Look, aftermath: &mut Aftermath<F::Kernel>) -> bool {
        if self.pool.has_returned() {
            self.take_returned(aftermath);
        }
        let Some(live) = self.phase.live() else {
            return false;
        };
        let mut events = Events::new();
        if let Err(error) = live.kernel.reap(&mut events) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.orphan(Outcome::Unknown(errno), aftermath);
            return false;
        }
        if events.is_empty() {
            return false;
        }
        self.counts.reaped[look as usize] += events.len() as u64;
        for event in &events {
            self.complete(event.data, Outcome::Completed(event.res), aftermath);
        }
        self.reaps = self.reaps.wrapping_add(1);
        aftermath.more |= events.is_full();
        self.request_flush(aftermath);
        true
    }

    /// Takes all events out of the ring.
    pub(super) fn reap_all(&mut self, look: Look, aftermath: &mut Aftermath<F::Kernel>) {
        while self.reap(look, aftermath) && mem::take(&mut aftermath.more) {}
    }

    /// See [`Table::complete`]; what the kernel would not wait for goes to the pool.
    #[inline(always)]
    fn complete(&mut self, tag: u64, outcome: Outcome, aftermath: &mut Aftermath<F::Kernel>) {
        let counts = &mut self.counts;
        match self.table.complete(tag, outcome, &mut aftermath.released) {
            Landing::Done => match outcome {
                Outcome::Completed(res) => {
                    counts.completed += 1;
                    counts.failed += u64::from(res < 0);
                }
                Outcome::Refused(_) => counts.failed += 1,
                Outcome::Stopped | Outcome::Unknown(_) => {}
            },
            Landing::Again(parcel, refusal) => {
                counts.nowait_refusals += 1;
                aftermath.notices.push(|| Notice::Refused {
                    fd: parcel.iocb.fildes as RawFd,
                    order: Order::of(&parcel.iocb),
                    unknown: refusal.is_unknown_flag(),
                });
                self.offload(parcel, aftermath);
            }
            Landing::Nothing => {}
        }
    }

    /// Takes in what the pool could not submit.
    #[cold]
    fn take_returned(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        let returned = self.pool.take_returned();
        self.counts.completed += returned.counted; // refused, and that is all
        for (tag, errno) in returned.refused {
            self.refuse(tag, errno, aftermath);
        }
        for tag in returned.stopped {
            self.complete(tag, Outcome::Stopped, aftermath);
            self.request_flush(aftermath);
        }
        if !returned.unsent.is_empty() {
            // Events that were taken during the call have made room; others may have been taken
            // before it, which costs one more call.
            let reaped = mem::replace(&mut self.no_room_at, self.reaps) != self.reaps;
            self.put_back(returned.unsent, reaped, aftermath);
        }
    }

    /// Reaps after a call; returns whether events were taken since it was decided on, here or by
    /// others.
    pub(super) fn reaped_since(
        &mut self,
        route: &Route,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> bool {
        self.reap(Look::Submission, aftermath);
        self.reaps != route.reaps
    }

    /// The future of `ticket` is dropped.
    pub(super) fn withdraw(
        &mut self,
        ticket: Ticket<F>,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Memory {
        let recalled = self
            .table
            .pooled(&ticket)
            .and_then(|tag| self.pool.recall(tag));
        if let Some(parcel) = recalled {
            self.counts.completed += u64::from(parcel.counted); // refused, and that is all
            aftermath
                .released
                .drop(None, Memory::None, Some(parcel.file));
            let memory = self.table.recalled(ticket, &mut aftermath.released);
            self.request_flush(aftermath); // a slot is free
            return memory;
        }
        if let (Some(poll), Some(live)) = (self.table.poll_in_flight(&ticket), self.phase.live()) {
            // Its event is to come, which sets the slot free.
            F::Kernel::cancel(&live.kernel.port(), poll);
        }
        let before = self.table.abandoned();
        let memory = self.table.withdraw(ticket, &mut aftermath.released);
        self.counts.abandoned += (self.table.abandoned() - before) as u64;
        memory
    }

    /// Requests were submitted outside the lock. Those polls among them that were given up meanwhile
    /// could not be cancelled then.
    pub(super) fn cancel_strays(&mut self, iocbs: &[Iocb]) {
        let open = matches!(self.phase, Phase::Open(_));
        let Some(live) = self.phase.live() else {
            return;
        };
        for iocb in iocbs.iter().filter(|iocb| Order::of(iocb).is_poll()) {
            if let Some(poll) = self.table.stray_poll(iocb.data, !open) {
                F::Kernel::cancel(&live.kernel.port(), poll);
            }
        }
    }

    /// Has what is queued submitted, if there are slots for it.
    pub(super) fn request_flush(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        if self.table.launchable() == 0 || self.table.in_flight() >= self.limits.slots {
            return;
        }
        if !self.driven {
            aftermath.flush = true;
        } else if !mem::replace(&mut self.flush_requested, true) {
            aftermath.wake_driver = true;
        }
    }

    /// The kernel has refused a request that was in flight by the table's account.
    pub(super) fn refuse(&mut self, tag: u64, errno: i32, aftermath: &mut Aftermath<F::Kernel>) {
        self.complete(tag, Outcome::Refused(errno), aftermath);
        self.request_flush(aftermath);
    }

    /// The kernel has no room for these, last first. They wait for the next event, and not for long:
    /// it may be that of a poll that never ends, while what was short was memory. Where none is to
    /// come at all, they fail. `reaped`: events were just taken, which has made room.
    pub(super) fn put_back(
        &mut self,
        requests: impl IntoIterator<Item = Parcel>,
        reaped: bool,
        aftermath: &mut Aftermath<F::Kernel>,
    ) {
        let ended = self.phase.live().is_none(); // they are no longer the table's then
        let requests: Vec<_> = requests.into_iter().collect();
        let room_to_come = reaped || self.table.in_flight() > requests.len();
        for parcel in requests {
            if room_to_come && !ended {
                aftermath.try_again |= !reaped;
                self.table.requeue(parcel, &mut aftermath.released);
                continue;
            }
            let Parcel { iocb, file, .. } = parcel;
            aftermath.released.drop(None, Memory::None, Some(file));
            if !ended {
                self.refuse(iocb.data, libc::EAGAIN, aftermath);
            }
        }
        if reaped {
            self.request_flush(aftermath);
        }
    }

    /// Has the kernel's next signal call `waker`. Where there will be none, because the runtime of
    /// the eventfd has gone, that is the context's end.
    pub(super) fn arm(&mut self, waker: &Waker, aftermath: &mut Aftermath<F::Kernel>) {
        let signal = self.phase.live().and_then(|live| live.signal.as_ref());
        if signal.is_some_and(|signal| !signal.arm(&mut Context::from_waker(waker))) {
            self.reap(Look::Signal, aftermath);
            self.orphan(Outcome::Stopped, aftermath);
        }
    }

    pub(super) fn stop(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        self.phase = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) => Phase::Stopping(live),
            other => other,
        };
        if let Some(live) = self.phase.live() {
            let port = live.kernel.port();
            let cancel = |poll: &FixedIocb| {
                F::Kernel::cancel(&port, poll);
            };
            self.table.stop_polls(cancel, &mut aftermath.released);
        }
        self.table
            .turn_away(self.limits.slots, &mut aftermath.released);
        self.reap(Look::Other, aftermath);
        self.request_flush(aftermath);
    }

    /// Ends the context at once; `outcome` is for the requests that are not done.
    pub(super) fn orphan(&mut self, outcome: Outcome, aftermath: &mut Aftermath<F::Kernel>) {
        self.phase = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) | Phase::Stopping(live) => {
                let kept = self.table.orphan(outcome, &mut aftermath.released);
                Phase::Orphaned(live, kept)
            }
            other => other,
        };
    }

    /// Takes the context down if it is to end and nothing stands in the way.
    #[inline]
    pub(super) fn end_if_due(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        if !matches!(self.phase, Phase::Open(_)) {
            self.try_to_end(aftermath);
        }
    }

    #[cold]
    fn try_to_end(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        if self.submitting > 0 {
            return;
        }
        let idle = self.table.in_flight() == 0 && self.table.queued() == 0;
        let (live, memory) = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Stopping(live) if idle => (live, Vec::new()),
            Phase::Orphaned(live, memory) => (live, memory),
            phase => {
                self.phase = phase;
                return;
            }
        };
        aftermath.remains = Some(Box::new(Remains {
            kernel: live.kernel,
            pool: Arc::clone(&self.pool),
            memory,
            signal: live.signal,
            gone: live.gone,
        }));
        aftermath.wake_driver = true;
    }
}

impl<K> Phase<K> {
    /// What can still submit and complete.
    pub(super) fn live(&mut self) -> Option<&mut Live<K>> {
        match self {
            Phase::Open(live) | Phase::Stopping(live) => Some(live),
            Phase::Orphaned(..) | Phase::Gone => None,
        }
    }
}
