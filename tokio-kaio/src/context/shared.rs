//! What the parts of a context share: its state behind the one lock, and who may do what with it.
//!
//! Three parties change it: futures that submit, wait and are dropped
//! ([`Operation`](super::operation::Operation)), the kernel's signal ([`Reaper`]), and the driver
//! task that submits what futures have queued ([`Driver`](super::driver::Driver)). Each change is
//! made under the lock by [`Shared::with`]; what it sets free is woken and dropped after the lock.

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::slice;
use std::sync::{Arc, Weak};
use std::task::Waker;

use arrayvec::ArrayVec;
use lock_api::Mutex;

use super::admission::{Admitted, Arrival, Company};
use super::aftermath::Aftermath;
use super::counts::Look;
use super::descriptor::Descriptor;
use super::driver::{LONGEST_PAUSE, Turn};
use super::effort::{Effort, Watch};
use super::pool::{Pool, Threads};
use super::reaper::Reaper;
use super::route::Route;
use super::state::{Driven, Limits, Phase, State};
use super::teardown::Remains;
use crate::request::{Batch, Flavour, Lease, Memory, Order, Outcome, Parcel, Ticket, submit};
use crate::sync::{EventFd, watch};
use crate::sys::abi::Iocb;
use crate::sys::{Kernel, MAX_BATCH};
use crate::{Metrics, trace};

pub(crate) struct Shared<F: Flavour> {
    state: Mutex<F::Lock, State<F>>,
    pub(super) reaper: Arc<Reaper<F>>,
    gone: watch::Receiver<()>,
    port: <F::Kernel as Kernel>::Port,
    /// What the kernel signals; open as long as the kernel context is.
    eventfd: Option<RawFd>,
    pool: Arc<Pool<F::Kernel>>,
    pub(super) limits: Limits,
}

/// Batches that one flush submits at most.
const MOST_BATCHES: usize = 8;

impl<F: Flavour> Shared<F> {
    pub(crate) fn new(
        kernel: F::Kernel,
        signal: Option<EventFd>,
        limits: Limits,
        threads: Threads,
        reaper: impl FnOnce(Weak<Shared<F>>) -> Reaper<F>,
    ) -> Arc<Shared<F>> {
        let (gone, watch_gone) = watch::channel(());
        Arc::new_cyclic(|weak| {
            let reaper = reaper(Weak::clone(weak));
            let eventfd = signal.as_ref().map(|signal| signal.as_raw_fd());
            let port = kernel.port();
            let pool = Pool::new(port.clone(), eventfd, reaper.bell(), threads);
            let state = State::new(limits, kernel, signal, gone, Arc::clone(&pool));
            Shared {
                state: Mutex::new(state),
                reaper: Arc::new(reaper),
                gone: watch_gone,
                port,
                eventfd,
                pool,
                limits,
            }
        })
    }

    /// Makes a change under the lock, then does what follows from it.
    pub(super) fn with<R>(
        &self,
        change: impl FnOnce(&mut State<F>, &mut Aftermath<F::Kernel>) -> R,
    ) -> R {
        let mut aftermath = Aftermath::new();
        let result = self.locked(&mut aftermath, change);
        if aftermath.is_nothing() {
            mem::forget(aftermath); // owns nothing
        } else {
            self.conclude(&mut aftermath);
        }
        result
    }

    /// Makes a change under the lock; [`Shared::follow_up`] is to be called.
    fn locked<R>(
        &self,
        aftermath: &mut Aftermath<F::Kernel>,
        change: impl FnOnce(&mut State<F>, &mut Aftermath<F::Kernel>) -> R,
    ) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state, aftermath);
        state.end_if_due(aftermath);
        result
    }

    /// Does what follows from a change that was made under the lock.
    fn conclude(&self, aftermath: &mut Aftermath<F::Kernel>) {
        if self.follow_up(aftermath) {
            self.flush();
        }
    }

    /// Does what follows from a change, but for a flush. Returns whether that is due.
    fn follow_up(&self, aftermath: &mut Aftermath<F::Kernel>) -> bool {
        loop {
            aftermath.released.free();
            aftermath.notices.tell();
            if let Some(remains) = aftermath.remains.take() {
                Remains::bury(*remains);
            }
            if mem::take(&mut aftermath.dispatch) {
                self.pool.dispatch();
            }
            // After the futures: it submits what their tasks are about to queue.
            if mem::take(&mut aftermath.wake_driver) {
                self.reaper.wake_driver();
            }
            if mem::take(&mut aftermath.try_again) {
                self.reaper.wake_driver_after(LONGEST_PAUSE);
            }
            if !mem::take(&mut aftermath.more) {
                return aftermath.flush;
            }
            let look = Look::Other;
            self.locked(aftermath, |state, aftermath| state.reap(look, aftermath));
        }
    }

    // The two that each request goes through are spelled out: what a closure takes along costs as
    // much as what it does.

    /// Takes in a new request. `may_wait`: there is no other context that it could go to.
    #[inline(always)]
    pub(super) fn admit(
        &self,
        arrival: &mut Arrival,
        descriptor: &Descriptor<'_>,
        may_wait: bool,
    ) -> Admitted<F> {
        let mut aftermath = Aftermath::new();
        let mut state = self.state.lock();
        let company = Company::Unknown;
        let admitted = state.admit(arrival, descriptor, may_wait, company, &mut aftermath);
        state.end_if_due(&mut aftermath);
        drop(state);
        if aftermath.is_nothing() {
            mem::forget(aftermath); // owns nothing
        } else {
            self.conclude(&mut aftermath);
        }
        admitted
    }

    /// Hands a launched request to the kernel. `Ok`: it is done already.
    pub(super) fn send(
        &self,
        ticket: Ticket<F>,
        route: &Route,
        arrival: &mut Arrival,
        descriptor: &Descriptor<'_>,
    ) -> Result<(Outcome, Memory), Ticket<F>> {
        let Arrival { iocb, waker, .. } = arrival;
        let mut refused = None;
        let (sent, effort) = self.submit(route, slice::from_mut(iocb), |_, errno| {
            refused = Some(errno);
        });
        if let Some(stay) = route.is_news(effort.as_ref()) {
            descriptor.submitted(&Order::of(iocb), stay);
        }
        let keep_open = (sent == 0).then(|| descriptor.hold());
        let mut aftermath = Aftermath::new();
        let mut state = self.state.lock();
        state.submitting -= 1;
        let taken = sent - usize::from(refused.is_some());
        state.counts.submissions.made(taken, effort.as_ref());
        if let Some(errno) = refused {
            state.refuse(iocb.data, errno, &mut aftermath);
        }
        let reaped = state.reaped_since(route, &mut aftermath);
        match keep_open {
            None => {}
            Some(Ok(file)) => state.put_back([Parcel::new(*iocb, file)], reaped, &mut aftermath),
            Some(Err(_)) => state.refuse(iocb.data, libc::EAGAIN, &mut aftermath),
        }
        if taken > 0 {
            state.sent(slice::from_ref(iocb), route, &mut aftermath);
        }
        if !matches!(state.phase, Phase::Open(_)) {
            state.cancel_strays(slice::from_ref(iocb));
        }
        let looked = state.table.collect(ticket);
        if let Err(ticket) = &looked {
            // Where it is done, its own task needs no waking.
            let wanted = waker.take();
            *waker = wanted.and_then(|waker| state.table.rewake(ticket, waker));
        }
        state.end_if_due(&mut aftermath);
        drop(state);
        if aftermath.is_nothing() {
            mem::forget(aftermath); // owns nothing
        } else {
            self.conclude(&mut aftermath);
        }
        tell_if_slow(taken, effort.as_ref());
        looked
    }

    /// See [`submit`]. Tells what it did to the thread, too, if that was looked at.
    #[inline(always)]
    pub(super) fn submit(
        &self,
        route: &Route,
        iocbs: &mut [Iocb],
        refused: impl FnMut(u64, i32),
    ) -> (usize, Option<Effort>) {
        let watch = route.watch();
        let eventfd = self.eventfd.filter(|_| !route.quiet);
        #[allow(unsafe_code)]
        // SAFETY: iocbs reach this point right from the table's launch, once. The kernel context
        // outlives the call: a route counts in `State::submitting`, and `try_to_end`, the only
        // place that gives the kernel away, waits for that to be 0. (Nothing between the launch
        // and the end of this call runs code of others that could panic.)
        let sent = unsafe { submit::<F::Kernel>(&self.port, eventfd, iocbs, refused) };
        (sent, watch.map(Watch::stop))
    }

    /// Submits what is queued, as far as there are slots. Leaves it to the driver where others keep
    /// queueing: it is their task's poll, or the driver's, that goes on here.
    pub(super) fn flush(&self) {
        let mut batch = Batch::new();
        loop {
            for _ in 0..MOST_BATCHES {
                if !self.flush_batch(&mut batch) {
                    return;
                }
            }
            let mut aftermath = Aftermath::new();
            self.locked(&mut aftermath, |state, aftermath| {
                state.request_flush(aftermath)
            });
            if !self.follow_up(&mut aftermath) {
                return;
            }
        }
    }

    /// Returns whether there may be another batch to submit.
    fn flush_batch(&self, batch: &mut Batch) -> bool {
        let mut aftermath = Aftermath::new();
        let launch =
            |state: &mut State<F>, aftermath: &mut _| state.launch_queued(batch, aftermath);
        let Some(route) = self.locked(&mut aftermath, launch) else {
            self.follow_up(&mut aftermath);
            return false;
        };
        let mut refused = ArrayVec::<(u64, i32), MAX_BATCH>::new();
        let refuse = |tag, errno| refused.push((tag, errno));
        let (sent, effort) = self.submit(&route, batch.iocbs(), refuse);
        if let Some(stay) = route.is_news(effort.as_ref()) {
            batch.submitted(stay);
        }
        let stalled = sent < batch.iocbs().len();
        let (progress, more) = self.locked(&mut aftermath, |state, aftermath| {
            state.submitting -= 1;
            let taken = sent - refused.len();
            state.counts.submissions.made(taken, effort.as_ref());
            for (tag, errno) in refused {
                state.refuse(tag, errno, aftermath);
            }
            let reaped = state.reaped_since(&route, aftermath);
            let unsent = std::iter::from_fn(|| batch.pop_unsent(sent));
            state.put_back(unsent, reaped, aftermath);
            state.sent(batch.iocbs(), &route, aftermath);
            if batch.has_polls() {
                state.cancel_strays(batch.iocbs());
            }
            (!stalled || reaped, state.table.launchable() > 0)
        });
        tell_if_slow(batch.len(), effort.as_ref());
        batch.clear();
        // Where the kernel has no room, the next event makes some, or time does.
        self.follow_up(&mut aftermath) || progress && more
    }

    /// What has come of a request, if that is known.
    #[inline(always)]
    pub(super) fn collect(&self, ticket: Ticket<F>) -> Result<(Outcome, Memory), Ticket<F>> {
        self.state.lock().table.collect(ticket)
    }

    /// Looks whether a request is done; if not, has `waker` woken when it is. `lease`, for its memory, is
    /// given back.
    #[inline(always)]
    pub(super) fn look<'l>(
        &self,
        ticket: Ticket<F>,
        lease: Lease<'l>,
        waker: &Waker,
    ) -> (Result<(Outcome, Memory), Ticket<F>>, Lease<'l>) {
        let (looked, wakes, _unused) = self.with(|state, aftermath| {
            let set = state.table.mute(&ticket); // this is the task that it would wake
            state.reap(Look::Poll, aftermath);
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
                let mut unwatched = Unwatched(self, Some((ticket, lease)));
                let waker = waker.clone();
                let Some((ticket, lease)) = unwatched.1.take() else {
                    unreachable!("it was just put there");
                };
                let (looked, _unused) = self.with(|state, _| {
                    let unused = state.table.rewake(&ticket, waker);
                    (state.table.collect(ticket), unused)
                });
                (looked, lease)
            }
            looked => (looked, lease),
        }
    }

    /// The future of `ticket` is dropped. Gives the memory that its buffer gets back.
    pub(super) fn withdraw(&self, ticket: Ticket<F>) -> Memory {
        self.with(|state, aftermath| {
            state.reap_all(Look::Other, aftermath); // it may be done, and its memory free
            state.withdraw(ticket, aftermath)
        })
    }

    /// The kernel has signalled. `waker` is called for the next signal.
    pub(super) fn signalled(&self, waker: &Waker) {
        self.with(|state, aftermath| {
            state.arm(waker, aftermath); // before the reap: what comes after it signals again
            state.reap(Look::Signal, aftermath);
            state.batching.turned();
        });
    }

    /// The driver runs. `signal`: the kernel's signal was left to it, and this is the waker for
    /// the next one.
    pub(super) fn drive(&self, signal: Option<&Waker>, turn: Turn) -> Driven {
        let (queued, early) = self.with(|state, aftermath| {
            state.driven = true;
            state.several_workers = turn != Turn::Fair;
            if let Some(waker) = signal {
                state.arm(waker, aftermath);
            }
            state.reap(Look::Driver, aftermath);
            let queued = state.table.launchable();
            let apart = state.tasks_are_apart();
            let early = turn == Turn::Early && queued > 0 && state.batching.is_early(queued, apart);
            state.flush_requested = early; // it goes on
            if !early {
                state.batching.turned();
            }
            (queued > 0, early)
        });
        if early {
            return Driven::Early;
        }
        if queued {
            self.flush();
        }
        let state = self.state.lock();
        match state.phase {
            Phase::Gone => Driven::Gone,
            _ if state.table.overlooked() > 0 => Driven::Unsignalled,
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

    /// Whether what the kernel has of it still comes back.
    pub(super) fn is_live(&self) -> bool {
        self.state.lock().phase.live().is_some()
    }

    /// Closes when everything has been given back to the system.
    pub(super) fn watch_gone(&self) -> watch::Receiver<()> {
        self.gone.clone()
    }

    /// Requests that are queued, that are in flight, and that have a future.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, usize, usize) {
        let table = &mut self.state.lock().table;
        (table.queued(), table.in_flight(), table.claimed())
    }

    /// From now on all requests go out without a signal.
    #[cfg(all(test, kaio_loom))]
    pub(super) fn go_quiet(&self) {
        self.state.lock().signalling = super::signalling::Signalling::always_quiet();
    }

    /// Whether the kernel context was given away to be destroyed.
    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Gone)
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.with(|state, aftermath| {
            state.reap_all(Look::Other, aftermath);
            state.metrics()
        })
    }

    /// Slots that are free, if the context is open.
    pub(super) fn free_slots(&self) -> Option<usize> {
        self.with(|state, aftermath| {
            state.reap_all(Look::Other, aftermath);
            matches!(state.phase, Phase::Open(_)).then(|| state.free_slots())
        })
    }
}

/// A request whose future is lost if a waker's own code panics: it is withdrawn then, as if that had been
/// dropped.
struct Unwatched<'a, 'l, F: Flavour>(&'a Shared<F>, Option<(Ticket<F>, Lease<'l>)>);

impl<F: Flavour> Drop for Unwatched<'_, '_, F> {
    fn drop(&mut self) {
        if let Some((ticket, lease)) = self.1.take() {
            drop(lease.settle(self.0.withdraw(ticket)));
        }
    }
}

impl<F: Flavour> Drop for Shared<F> {
    fn drop(&mut self) {
        self.orphan();
    }
}

/// To be called when no lock is held.
#[inline(always)]
pub(super) fn tell_if_slow(requests: usize, effort: Option<&Effort>) {
    if let Some(effort) = effort.filter(|effort| effort.is_slow()) {
        trace::slow_submit(requests, effort.time, false);
    }
}
