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
use super::teardown::Remains;
use crate::request::{
    Batch, Flavour, Memory, Outcome, Payload, Polled, Released, Table, Ticket, submit,
};
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
    /// Whether the driver has been polled: before that, nobody would flush the queue.
    driven: bool,
    /// The driver was woken to flush and has not run yet.
    flush_requested: bool,
    /// Calls of `io_submit` that are being made outside the lock. The kernel context outlives
    /// them.
    submitting: usize,
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

/// What a context has of the system's.
struct Live<K> {
    kernel: K,
    signal: Option<EventFd>,
    gone: watch::Sender<()>,
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct Aftermath<K> {
    released: ArrayVec<Released, { REAP_BATCH + 4 }>,
    /// For the rare change that releases more.
    overflow: Vec<Released>,
    wake_driver: bool,
    /// The queue is to be flushed here and now.
    flush: bool,
    /// A reap left events in the ring.
    more: bool,
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
}

/// Where an `io_submit` goes. Counted in [`State::submitting`] while it is in use.
struct Route<K: Kernel> {
    port: K::Port,
    eventfd: Option<i32>,
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
                table: Table::new(),
                limits,
                batching: Batching::default(),
                driven: false,
                flush_requested: false,
                submitting: 0,
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
        let mut flush = aftermath.flush;
        while self.follow_up(&mut aftermath) {
            let mut state = self.state.lock();
            state.reap(&mut aftermath);
            state.end_if_due(&mut aftermath);
            flush |= aftermath.flush;
        }
        (result, flush)
    }

    /// Returns whether the ring has more.
    fn follow_up(&self, aftermath: &mut Aftermath<F::Kernel>) -> bool {
        for released in aftermath.released.drain(..) {
            released.free();
        }
        for released in mem::take(&mut aftermath.overflow) {
            released.free();
        }
        if mem::take(&mut aftermath.wake_driver) {
            self.reaper.wake_driver();
        }
        if let Some(remains) = aftermath.remains.take() {
            remains.bury();
        }
        mem::take(&mut aftermath.more)
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
        } = launched;
        let mut refused = None;
        let sent = route.submit::<F>(std::slice::from_mut(&mut iocb), |_, errno| {
            refused = Some(errno);
        });
        let keep_open = (sent == 0).then(|| descriptor.hold());
        self.with(|state, aftermath| {
            state.submitting -= 1;
            if let Some(errno) = refused {
                state.refuse(iocb.data, errno, aftermath);
            }
            let reaped = state.reap(aftermath);
            match keep_open {
                Some(Ok(file)) => state.put_back([(iocb, file)], reaped, aftermath),
                Some(Err(_)) => state.refuse(iocb.data, libc::EAGAIN, aftermath),
                None => {}
            }
            state.table.collect(ticket)
        })
    }

    /// Submits what is queued, as far as there are slots.
    pub(super) fn flush(&self) {
        let mut batch = Batch::new(self.limits.max_batch);
        while let (Some(route), _) = self.locked(|state, _| state.launch_queued(&mut batch)) {
            let mut refused = ArrayVec::<(u64, i32), MAX_BATCH>::new();
            let sent = route.submit::<F>(batch.iocbs(), |tag, errno| refused.push((tag, errno)));
            batch.advance(sent);
            let stalled = !batch.is_empty();
            let (progress, _) = self.locked(|state, aftermath| {
                state.submitting -= 1;
                for (tag, errno) in refused {
                    state.refuse(tag, errno, aftermath);
                }
                let reaped = state.reap(aftermath);
                state.put_back(std::iter::from_fn(|| batch.pop()), reaped, aftermath);
                reaped
            });
            if stalled && !progress {
                return; // the next event makes room
            }
        }
    }

    /// Looks whether a request is done; if not, has `waker` woken when it is.
    pub(super) fn poll(
        &self,
        ticket: Ticket<F>,
        waker: &Waker,
    ) -> Result<(Outcome, Memory), Ticket<F>> {
        let (result, wants_waker) = self.with(|state, aftermath| {
            if !matches!(state.table.poll(&ticket, waker), Polled::Done) {
                state.reap(aftermath);
            }
            match state.table.poll(&ticket, waker) {
                Polled::Done => (state.table.collect(ticket), false),
                Polled::Waiting => (Err(ticket), false),
                Polled::WantsWaker => (Err(ticket), true),
            }
        });
        match result {
            // A waker's own code runs in its clone: not under the lock.
            Err(ticket) if wants_waker => {
                let waker = waker.clone();
                self.with(|state, aftermath| {
                    let unused = state.table.rewake(&ticket, waker);
                    aftermath.push(Released::unused(unused));
                    state.table.collect(ticket)
                })
            }
            result => result,
        }
    }

    /// The future of `ticket` is dropped. Gives the memory that its buffer gets back.
    pub(super) fn withdraw(&self, ticket: Ticket<F>) -> Memory {
        self.with(|state, aftermath| {
            state.reap(aftermath); // it may be done, and its memory free
            let (memory, released) = state.table.withdraw(ticket);
            aftermath.push(released);
            memory
        })
    }

    /// The kernel has signalled. `waker` is called for the next signal.
    pub(super) fn signalled(&self, waker: &Waker) {
        self.with(|state, aftermath| {
            state.arm(waker); // before the reap: what comes after it signals again
            state.reap(aftermath);
            state.batching.turned();
        });
    }

    /// The driver runs. `signal`: the kernel's signal was left to it, and this is the waker for
    /// the next one. Returns whether the context has ended.
    pub(super) fn drive(&self, signal: Option<&Waker>) -> bool {
        let (queued, gone) = self.with(|state, aftermath| {
            state.driven = true;
            state.flush_requested = false;
            if let Some(waker) = signal {
                state.arm(waker);
            }
            state.reap(aftermath);
            state.batching.turned();
            let gone = matches!(state.phase, Phase::Gone);
            (state.table.queued() > 0, gone)
        });
        if queued {
            self.flush();
        }
        gone
    }

    /// No new requests from now on; the context ends when the last one is done.
    pub(super) fn stop(&self) {
        self.with(|state, aftermath| state.stop(aftermath));
    }

    /// Ends the context at once: nobody drives it any more.
    pub(super) fn orphan(&self) {
        self.with(|state, aftermath| state.orphan(aftermath));
    }

    /// Closes when everything has been given back to the system.
    pub(super) fn watch_gone(&self) -> watch::Receiver<()> {
        self.gone.clone()
    }

    /// Slots that are free, if the context is open.
    pub(super) fn free_slots(&self) -> Option<usize> {
        self.with(|state, aftermath| {
            state.reap(aftermath);
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
        let (ticket, iocb) = self.table.launch(payload, waker);
        match self.route() {
            Some(route) => Admitted::Launched(Launched {
                ticket,
                iocb,
                route,
            }),
            None => unreachable!("the context is open"),
        }
    }

    /// Where to submit; counts as submitting until the caller takes that back.
    fn route(&mut self) -> Option<Route<F::Kernel>> {
        let live = self.phase.live()?;
        self.submitting += 1;
        Some(Route {
            port: live.kernel.port(),
            eventfd: live.signal.as_ref().map(|signal| signal.as_raw_fd()),
        })
    }

    fn launch_queued(&mut self, batch: &mut Batch) -> Option<Route<F::Kernel>> {
        self.flush_requested = false;
        if self.table.queued() == 0 || self.phase.live().is_none() {
            return None;
        }
        self.batching.flushed(self.table.queued());
        self.table.launch_queued(batch, self.limits.slots);
        if batch.is_empty() {
            return None;
        }
        self.route()
    }

    /// Takes events out of the ring, as many as one reap takes. Returns whether there were any.
    fn reap(&mut self, aftermath: &mut Aftermath<F::Kernel>) -> bool {
        let Some(live) = self.phase.live() else {
            return false;
        };
        let mut events = Events::new();
        live.kernel.reap(&mut events);
        if events.is_empty() {
            return false;
        }
        for event in &events {
            let outcome = Outcome::Completed(event.res);
            aftermath.push(self.table.complete(event.data, outcome));
        }
        aftermath.more |= events.is_full();
        self.request_flush(aftermath);
        true
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
        if self.phase.live().is_none() {
            return; // they are no longer the table's
        }
        let requests: Vec<_> = requests.into_iter().collect();
        let room_to_come = reaped || self.table.in_flight() > requests.len();
        for (iocb, file) in requests {
            if room_to_come {
                aftermath.push(self.table.requeue(iocb, file));
            } else {
                self.refuse(iocb.data, libc::EAGAIN, aftermath);
            }
        }
        if reaped {
            self.request_flush(aftermath);
        }
    }

    fn arm(&self, waker: &Waker) {
        if let Phase::Open(live) | Phase::Stopping(live) = &self.phase {
            if let Some(signal) = &live.signal {
                signal.arm(&mut Context::from_waker(waker));
            }
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

    fn orphan(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        self.phase = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) | Phase::Stopping(live) => {
                let (kept, released) = self.table.orphan();
                released.into_iter().for_each(|r| aftermath.push(r));
                Phase::Orphaned(live, kept)
            }
            other => other,
        };
    }

    /// Takes the context down if nothing stands in the way.
    fn end_if_due(&mut self, aftermath: &mut Aftermath<F::Kernel>) {
        let idle = self.table.in_flight() == 0 && self.table.queued() == 0;
        let due = match &self.phase {
            Phase::Open(_) | Phase::Gone => false,
            Phase::Stopping(_) => idle && self.submitting == 0,
            Phase::Orphaned(..) => self.submitting == 0,
        };
        if !due {
            return;
        }
        let (live, memory) = match mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Open(live) | Phase::Stopping(live) => (live, Vec::new()),
            Phase::Orphaned(live, memory) => (live, memory),
            Phase::Gone => return,
        };
        aftermath.remains = Some(Remains {
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
            overflow: Vec::new(),
            wake_driver: false,
            flush: false,
            more: false,
            remains: None,
        }
    }

    fn push(&mut self, released: Released) {
        if let Err(full) = self.released.try_push(released) {
            self.overflow.push(full.element());
        }
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
