//! The state of a context behind its one lock, and every way in which it changes.
//!
//! Three parties change it: futures that submit, wait and are dropped
//! ([`Operation`](super::operation::Operation)), the kernel's signal ([`Reaper`]), and the driver
//! task that submits what futures have queued ([`Driver`](super::driver::Driver)). Each change is
//! made under the lock by [`Shared::with`]; what it sets free is woken and dropped after the lock.

use std::fs::File;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::{Context, Waker};

use arrayvec::ArrayVec;
use lock_api::Mutex;
use tokio::sync::watch;

use super::batching::Batching;
use super::descriptor::Descriptor;
use super::reaper::Reaper;
use super::signalling::Signalling;
use super::teardown::Remains;
use crate::request::{Batch, Flavour, Memory, Outcome, Payload, Released, Table, Ticket, submit};
use crate::sys::abi::Iocb;
use crate::sys::{Events, Kernel, MAX_BATCH, REAP_BATCH};
use crate::{AioCommandError, EventFd};

/// What a context is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most requests in flight.
    pub(crate) slots: usize,
    /// Whether a request waits for a free slot.
    pub(crate) waits: bool,
    /// Most requests that go to the kernel in one call.
    pub(crate) max_batch: usize,
}

pub(crate) struct Shared<F: Flavour> {
    state: Mutex<F::Lock, State<F>>,
    pub(super) reaper: Arc<Reaper<F>>,
    gone: watch::Receiver<()>,
    pub(super) limits: Limits,
}

struct State<F: Flavour> {
    phase: Phase<F::Kernel>,
    table: Table<F>,
    limits: Limits,
    batching: Batching,
    signalling: Signalling,
    /// Whether the driver has been polled: before that, nobody would flush the queue.
    driven: bool,
    /// The driver was woken to flush and has not run yet.
    flush_requested: bool,
    /// Calls of `io_submit` that are being made outside the lock. The kernel context outlives
    /// them.
    submitting: usize,
    /// Reaps that found events. Wraps.
    reaps: u64,
}

/// How far a context is from its end.
enum Phase<K> {
    Open(Live<K>),
    /// No new requests. Ends when the last one is done.
    Stopping(Live<K>),
    /// The driver is gone. Ends when no `io_submit` runs; the kernel may still use the memory.
    Orphaned(Live<K>, Vec<Memory>),
    Gone,
}

/// Batches that one flush submits at most.
const MOST_BATCHES: usize = 8;

/// What a context has of the system's.
struct Live<K> {
    kernel: K,
    signal: Option<EventFd>,
    gone: watch::Sender<()>,
}

/// What is to be done once the lock is released. Mostly nothing, and cheap then.
struct Aftermath<K> {
    released: ArrayVec<Released, { REAP_BATCH + 4 }>,
    rare: Option<Box<Rare<K>>>,
    wake_driver: bool,
    /// The queue is to be flushed here and now.
    flush: bool,
    /// A reap left events in the ring.
    more: bool,
}

/// What few changes leave to be done.
struct Rare<K> {
    /// More than fits into [`Aftermath::released`].
    released: Vec<Released>,
    remains: Option<Remains<K>>,
}

/// What became of a new request.
pub(super) enum Admitted<F: Flavour> {
    /// Goes to the kernel now: [`Shared::send`].
    Launched(Launched<F>),
    Queued(Ticket<F>),
    /// Has to wait, and wants something that keeps its descriptor open meanwhile.
    WantsFile(Payload, Waker),
    Refused(AioCommandError, Memory, Waker),
}

/// A request that the table has in flight and the kernel does not have yet.
pub(super) struct Launched<F: Flavour> {
    ticket: Ticket<F>,
    iocb: Iocb,
    route: Route<F::Kernel>,
    /// For the table, unless the request is done at once: its own task needs no waking then.
    waker: Waker,
}

/// Where an `io_submit` goes. Counted in [`State::submitting`] while it is in use.
struct Route<K: Kernel> {
    port: K::Port,
    /// `None`: the requests go out quietly.
    eventfd: Option<i32>,
    quiet: bool,
    /// [`State::reaps`] when the call was decided on.
    reaps: u64,
}

/// What the driver has to know of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    /// It will be woken.
    Quiescent,
    /// There are requests in flight of whose end no signal will tell: look again soon.
    Unsignalled,
    /// The context has ended.
    Gone,
}

impl<F: Flavour> Shared<F> {
    pub(crate) fn new(
        kernel: F::Kernel,
        signal: Option<EventFd>,
        limits: Limits,
        reaper: impl FnOnce(std::sync::Weak<Shared<F>>) -> Reaper<F>,
    ) -> Arc<Shared<F>> {
        let (gone, watch_gone) = watch::channel(());
        Arc::new_cyclic(|weak| Shared {
            state: Mutex::new(State {
                phase: Phase::Open(Live {
                    kernel,
                    signal,
                    gone,
                }),
                table: Table::new(limits.slots),
                limits,
                batching: Batching::default(),
                signalling: Signalling::default(),
                driven: false,
                flush_requested: false,
                submitting: 0,
                reaps: 0,
            }),
            reaper: Arc::new(reaper(weak.clone())),
            gone: watch_gone,
            limits,
        })
    }

    /// Makes a change under the lock, then does what follows from it.
    fn with<R>(&self, change: impl FnOnce(&mut State<F>, &mut Aftermath<F::Kernel>) -> R) -> R {
        let (result, flush) = self.locked(change);
        if flush {
            self.flush();
        }
        result
    }

    /// As [`Shared::with`], but leaves a due flush to the caller: the second value.
    fn locked<R>(
        &self,
        change: impl FnOnce(&mut State<F>, &mut Aftermath<F::Kernel>) -> R,
    ) -> (R, bool) {
        let mut aftermath = Aftermath::new();
        let result = {
            let mut state = self.state.lock();
            let result = change(&mut state, &mut aftermath);
            state.end_if_due(&mut aftermath);
            result
        };
        let flush = if aftermath.is_nothing() {
            mem::forget(aftermath); // owns nothing
            false
        } else {
            self.follow_up(aftermath)
        };
        (result, flush)
    }

    /// Returns whether the queue is to be flushed.
    fn follow_up(&self, mut aftermath: Aftermath<F::Kernel>) -> bool {
        loop {
            aftermath.released.drain(..).for_each(Released::free);
            if let Some(rare) = aftermath.rare.take() {
                rare.released.into_iter().for_each(Released::free);
                rare.remains.into_iter().for_each(Remains::bury);
            }
            // After the futures: it submits what their tasks are about to queue.
            if mem::take(&mut aftermath.wake_driver) {
                self.reaper.wake_driver();
            }
            if !mem::take(&mut aftermath.more) {
                return aftermath.flush;
            }
            let mut state = self.state.lock();
            state.reap(&mut aftermath);
            state.end_if_due(&mut aftermath);
        }
    }

    /// Takes in a new request; `waker` is woken when it is done.
    pub(super) fn admit(
        &self,
        payload: Payload,
        descriptor: &Descriptor<'_>,
        waker: Waker,
    ) -> Admitted<F> {
        self.with(|state, aftermath| state.admit(payload, descriptor, waker, aftermath))
    }

    /// Hands a launched request to the kernel. `Ok`: it is done already.
    pub(super) fn send(
        &self,
        launched: Launched<F>,
        descriptor: &Descriptor<'_>,
    ) -> Result<(Outcome, Memory), Ticket<F>> {
        let Launched {
            ticket,
            mut iocb,
            route,
            waker,
        } = launched;
        let mut refused = None;
        let sent = route.submit::<F>(std::slice::from_mut(&mut iocb), |_, errno| {
            refused = Some(errno);
        });
        let keep_open = (sent == 0).then(|| descriptor.hold());
        let (looked, _unused) = self.with(|state, aftermath| {
            state.submitting -= 1;
            if let Some(errno) = refused {
                state.refuse(iocb.data, errno, aftermath);
            }
            let reaped = state.reaped_since(&route, aftermath);
            match keep_open {
                Some(Ok(file)) => state.put_back([(iocb, file)], reaped, aftermath),
                Some(Err(_)) => state.refuse(iocb.data, libc::EAGAIN, aftermath),
                None => {}
            }
            let looked = state.table.collect(ticket);
            if refused.is_none() {
                state.sent(sent, route.quiet, looked.is_ok(), aftermath);
            }
            let unused = match &looked {
                Ok(_) => Some(waker),
                Err(ticket) => state.table.rewake(ticket, waker),
            };
            (looked, unused)
        });
        looked
    }

    /// Submits what is queued, as far as there are slots. Leaves it to the driver where others keep
    /// queueing: it is their task's poll, or the driver's, that goes on here.
    pub(super) fn flush(&self) {
        let mut batch = Batch::new(self.limits.max_batch);
        loop {
            for _ in 0..MOST_BATCHES {
                if !self.flush_batch(&mut batch) {
                    return;
                }
            }
            let ((), flush_here) = self.locked(|state, aftermath| state.request_flush(aftermath));
            if !flush_here {
                return;
            }
        }
    }

    /// Returns whether there may be another batch to submit.
    fn flush_batch(&self, batch: &mut Batch) -> bool {
        let (Some(route), _) = self.locked(|state, _| state.launch_queued(batch)) else {
            return false;
        };
        let mut refused = ArrayVec::<(u64, i32), MAX_BATCH>::new();
        let sent = route.submit::<F>(batch.iocbs(), |tag, errno| refused.push((tag, errno)));
        batch.advance(sent);
        let taken = sent - refused.len();
        let stalled = !batch.is_empty();
        let (progress, flush_here) = self.locked(|state, aftermath| {
            state.submitting -= 1;
            for (tag, errno) in refused {
                state.refuse(tag, errno, aftermath);
            }
            let reaped = state.reaped_since(&route, aftermath);
            state.put_back(std::iter::from_fn(|| batch.pop()), reaped, aftermath);
            let all_done = state.table.in_flight() == 0;
            state.sent(taken, route.quiet, all_done, aftermath);
            reaped
        });
        // Where the kernel has no room, the next event makes some.
        !stalled || progress || flush_here
    }

    /// Looks whether a request is done; if not, has `waker` woken when it is.
    pub(super) fn poll(
        &self,
        ticket: Ticket<F>,
        waker: &Waker,
    ) -> Result<(Outcome, Memory), Ticket<F>> {
        let (looked, wakes, _unused) = self.with(|state, aftermath| {
            let ticket = match state.table.collect(ticket) {
                Ok(done) => return (Ok(done), true, None),
                Err(ticket) => ticket,
            };
            let set = state.table.mute(&ticket); // this is the task that it would wake
            state.reap(aftermath);
            match (state.table.collect(ticket), set) {
                (Err(ticket), Some(set)) if set.will_wake(waker) => {
                    let unused = state.table.rewake(&ticket, set);
                    (Err(ticket), true, unused)
                }
                (looked, unused) => (looked, false, unused),
            }
        });
        match looked {
            // A waker's own code runs in its clone: not under the lock.
            Err(ticket) if !wakes => {
                let waker = waker.clone();
                let (looked, _unused) = self.with(|state, _| {
                    let unused = state.table.rewake(&ticket, waker);
                    (state.table.collect(ticket), unused)
                });
                looked
            }
            looked => looked,
        }
    }

    /// The future of `ticket` is dropped. Gives the memory that its buffer gets back.
    pub(super) fn withdraw(&self, ticket: Ticket<F>) -> Memory {
        self.with(|state, aftermath| {
            state.reap_all(aftermath); // it may be done, and its memory free
            let (memory, released) = state.table.withdraw(ticket);
            aftermath.push(released);
            memory
        })
    }

    /// The kernel has signalled. `waker` is called for the next signal.
    pub(super) fn signalled(&self, waker: &Waker) {
        self.with(|state, aftermath| {
            state.arm(waker, aftermath); // before the reap: what comes after it signals again
            state.reap(aftermath);
            state.batching.turned();
        });
    }

    /// The driver runs. `signal`: the kernel's signal was left to it, and this is the waker for
    /// the next one.
    pub(super) fn drive(&self, signal: Option<&Waker>) -> Driven {
        let queued = self.with(|state, aftermath| {
            state.driven = true;
            state.flush_requested = false;
            if let Some(waker) = signal {
                state.arm(waker, aftermath);
            }
            state.reap(aftermath);
            state.batching.turned();
            state.table.queued() > 0
        });
        if queued {
            self.flush();
        }
        let state = self.state.lock();
        match state.phase {
            Phase::Gone => Driven::Gone,
            _ if state.table.quiet() > 0 => Driven::Unsignalled,
            _ => Driven::Quiescent,
        }
    }

    /// No new requests from now on; the context ends when the last one is done.
    pub(super) fn stop(&self) {
        self.with(|state, aftermath| state.stop(aftermath));
    }

    /// Ends the context at once: nobody drives it any more.
    pub(super) fn orphan(&self) {
        self.with(|state, aftermath| state.orphan(Outcome::Stopped, aftermath));
    }

    /// Closes when everything has been given back to the system.
    pub(super) fn watch_gone(&self) -> watch::Receiver<()> {
        self.gone.clone()
    }

    /// Slots that are free, if the context is open.
    pub(super) fn free_slots(&self) -> Option<usize> {
        self.with(|state, aftermath| {
            state.reap_all(aftermath);
            matches!(state.phase, Phase::Open(_)).then(|| state.free_slots())
        })
    }
}

impl<F: Flavour> Drop for Shared<F> {
    fn drop(&mut self) {
        self.orphan();
    }
}

impl<F: Flavour> State<F> {
    fn free_slots(&self) -> usize {
        let taken = self.table.in_flight() + self.table.queued();
        self.limits.slots.saturating_sub(taken)
    }

    fn admit(
        &mut self,
        payload: Payload,
        descriptor: &Descriptor<'_>,
        waker: Waker,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Admitted<F> {
        if !matches!(self.phase, Phase::Open(_)) {
            return Admitted::Refused(AioCommandError::AioStopped, payload.into_memory(), waker);
        }
        if self.free_slots() == 0 {
            self.reap(aftermath);
        }
        let full = self.free_slots() == 0;
        if full && !self.limits.waits {
            let error = AioCommandError::CapacityExceeded;
            return Admitted::Refused(error, payload.into_memory(), waker);
        }
        // A descriptor that nothing keeps open once the future is forgotten can't wait for
        // company.
        let company = !full
            && self.driven
            && descriptor.file().is_some()
            && self.batching.should_wait(self.table.in_flight());
        if full || company {
            let Some(file) = descriptor.file() else {
                return Admitted::WantsFile(payload, waker);
            };
            let ticket = self.table.enqueue(payload, Arc::clone(file), waker);
            if self.table.queued() >= self.limits.max_batch && !full {
                aftermath.flush = true;
            } else {
                self.request_flush(aftermath);
            }
            return Admitted::Queued(ticket);
        }
        let quiet = self.may_be_quiet();
        let (ticket, iocb) = self.table.launch(payload, quiet);
        match self.route(quiet) {
            Some(route) => Admitted::Launched(Launched {
                ticket,
                iocb,
                route,
                waker,
            }),
            None => unreachable!("the context is open"),
        }
    }

    /// Where to submit; counts as submitting until the caller takes that back.
    fn route(&mut self, quiet: bool) -> Option<Route<F::Kernel>> {
        let live = self.phase.live()?;
        self.submitting += 1;
        let signal = live.signal.as_ref().filter(|_| !quiet);
        Some(Route {
            port: live.kernel.port(),
            eventfd: signal.map(|signal| signal.as_raw_fd()),
            quiet,
            reaps: self.reaps,
        })
    }

    /// Whether the next requests may go out without a signal. Only where a driver runs, which
    /// finds those for which that was a mistake.
    fn may_be_quiet(&self) -> bool {
        self.driven && self.signalling.may_be_quiet()
    }

    /// `requests` went to the kernel, and a reap has found that they are all done, or not.
    fn sent(
        &mut self,
        requests: usize,
        quiet: bool,
        all_done: bool,
        aftermath: &mut Aftermath<F::Kernel>,
    ) {
        self.signalling.submitted(requests, quiet, all_done);
        aftermath.wake_driver |= self.table.quiet() > 0;
    }

    fn launch_queued(&mut self, batch: &mut Batch) -> Option<Route<F::Kernel>> {
        self.flush_requested = false;
        if self.table.queued() == 0 || self.phase.live().is_none() {
            return None;
        }
        self.batching.flushed(self.table.queued());
        let quiet = self.may_be_quiet();
        self.table.launch_queued(batch, self.limits.slots, quiet);
        if batch.is_empty() {
            return None;
        }
        self.route(quiet)
    }

    /// Takes events out of the ring, as many as one reap takes. Returns whether there were any.
    fn reap(&mut self, aftermath: &mut Aftermath<F::Kernel>) -> bool {
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
        for event in &events {
            let outcome = Outcome::Completed(event.res);
            aftermath.push(self.table.complete(event.data, outcome));
        }
        self.reaps = self.reaps.wrapping_add(1);
        aftermath.more |= events.is_full();
        self.request_flush(aftermath);
        true
    }

    /// Takes all events out of the ring.
    fn reap_all(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        while self.reap(aftermath) && mem::take(&mut aftermath.more) {}
    }

    /// Reaps after a call; returns whether events were taken since it was decided on, here or by
    /// others.
    fn reaped_since(
        &mut self,
        route: &Route<F::Kernel>,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> bool {
        self.reap(aftermath);
        self.reaps != route.reaps
    }

    /// Has what is queued submitted, if there are slots for it.
    fn request_flush(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        if self.table.queued() == 0 || self.table.in_flight() >= self.limits.slots {
            return;
        }
        if !self.driven {
            aftermath.flush = true;
        } else if !mem::replace(&mut self.flush_requested, true) {
            aftermath.wake_driver = true;
        }
    }

    /// The kernel has refused a request that was in flight by the table's account.
    fn refuse(&mut self, tag: u64, errno: i32, aftermath: &mut Aftermath<F::Kernel>) {
        aftermath.push(self.table.complete(tag, Outcome::Refused(errno)));
        self.request_flush(aftermath);
    }

    /// The kernel has no room for these, last first. They wait for the next event; where none is
    /// to come, they fail. `reaped`: events were just taken, which has made room.
    fn put_back(
        &mut self,
        requests: impl IntoIterator<Item = (Iocb, Arc<File>)>,
        reaped: bool,
        aftermath: &mut Aftermath<F::Kernel>,
    ) {
        let ended = self.phase.live().is_none(); // they are no longer the table's then
        let requests: Vec<_> = requests.into_iter().collect();
        let room_to_come = reaped || self.table.in_flight() > requests.len();
        for (iocb, file) in requests {
            if room_to_come && !ended {
                aftermath.push(self.table.requeue(iocb, file));
                continue;
            }
            aftermath.push(Released {
                file: Some(file),
                ..Released::default()
            });
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
    fn arm(&mut self, waker: &Waker, aftermath: &mut Aftermath<F::Kernel>) {
        let signal = self.phase.live().and_then(|live| live.signal.as_ref());
        if signal.is_some_and(|signal| !signal.arm(&mut Context::from_waker(waker))) {
            self.reap(aftermath);
            self.orphan(Outcome::Stopped, aftermath);
        }
    }

    fn stop(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        self.phase = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) => Phase::Stopping(live),
            other => other,
        };
        for released in self.table.turn_away(self.limits.slots) {
            aftermath.push(released);
        }
        self.reap(aftermath);
        self.request_flush(aftermath);
    }

    /// Ends the context at once; `outcome` is for the requests that are not done.
    fn orphan(&mut self, outcome: Outcome, aftermath: &mut Aftermath<F::Kernel>) {
        self.phase = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) | Phase::Stopping(live) => {
                let (kept, released) = self.table.orphan(outcome);
                released.into_iter().for_each(|r| aftermath.push(r));
                Phase::Orphaned(live, kept)
            }
            other => other,
        };
    }

    /// Takes the context down if it is to end and nothing stands in the way.
    #[inline]
    fn end_if_due(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
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
        aftermath.rare().remains = Some(Remains {
            kernel: live.kernel,
            memory,
            signal: live.signal,
            gone: live.gone,
        });
        aftermath.wake_driver = true;
    }
}

impl<K> Phase<K> {
    /// What can still submit and complete.
    fn live(&mut self) -> Option<&mut Live<K>> {
        match self {
            Phase::Open(live) | Phase::Stopping(live) => Some(live),
            Phase::Orphaned(..) | Phase::Gone => None,
        }
    }
}

impl<K> Aftermath<K> {
    fn new() -> Aftermath<K> {
        Aftermath {
            released: ArrayVec::new(),
            rare: None,
            wake_driver: false,
            flush: false,
            more: false,
        }
    }

    fn is_nothing(&self) -> bool {
        let quiet = !(self.wake_driver | self.flush | self.more);
        quiet && self.released.is_empty() && self.rare.is_none()
    }

    fn push(&mut self, released: Released) {
        if let Err(full) = self.released.try_push(released) {
            self.rare().released.push(full.element());
        }
    }

    #[cold]
    fn rare(&mut self) -> &mut Rare<K> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                released: Vec::new(),
                remains: None,
            })
        })
    }
}

impl<K: Kernel> Route<K> {
    /// See [`submit`].
    #[allow(unsafe_code)]
    fn submit<F: Flavour<Kernel = K>>(
        &self,
        iocbs: &mut [Iocb],
        refused: impl FnMut(u64, i32),
    ) -> usize {
        // SAFETY: iocbs reach this point right from the table's launch, once. The kernel context
        // outlives the call: a route counts in `State::submitting`, and `end_if_due`, the only
        // place that gives the kernel away, waits for that to be 0.
        unsafe { submit::<K>(&self.port, self.eventfd, iocbs, refused) }
    }
}
