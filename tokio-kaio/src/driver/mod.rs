//! The driver: admits, submits, completes and cancels requests. It contains no policy.
//!
//! # The life of a request
//!
//! ```text
//!   future              Core (under the lock)                  backend
//!   ──────              ─────────────────────                  ───────
//!   admit ────────────► slot: Free → InFlight
//!     │                            └──► Queued ─┐ driver task,
//!     │                                         │ or a full batch
//!   submit_one ───────────────────────────────┐ └─ flush ────► submit
//!     │                                       └──────────────► submit
//!     │                 finish_submit ◄─ result of the submission
//!     │                 reap ◄──────────────────────────────── completion
//!     │                 slot: InFlight → Completed
//!   poll ─────────────► slot: Completed → Free
//!     ▼                            │
//!   result, buffer      future woken, after the lock
//!
//!   abandon ──────────► slot: InFlight → Abandoned; reap: Abandoned → Free
//! ```
//!
//! 1. *Admit* ([`submit`]). The future of an operation passes an [`IoOp`](crate::op::IoOp) and an
//!    [`IoBuffer`](crate::op::IoBuffer), and a slot takes the buffer. The request is launched at once or
//!    queued. It is queued if no slot is free, if the policy expects more requests to share its system
//!    call, or behind another append to the same file. A request that may block goes to the
//!    [`OffloadPool`].
//! 2. *Submit*, without the lock. The task that launched the request submits it, or the driver task
//!    ([`DriverTask`](crate::runtime::DriverTask)) if it was queued, or a thread of the blocking pool. A
//!    [`SubmitPermit`](crate::op::SubmitPermit) keeps the backend alive. `finish_submit` handles the
//!    result, except for the pool, which returns the entries that failed.
//! 3. *Complete* ([`complete`]). Completions are reaped after each submission, when the eventfd is
//!    signalled ([`CompletionWaker`](crate::runtime::CompletionWaker)), when a future is polled, and by
//!    the driver task. The `user_data` of a completion identifies its slot. A completion that matches no
//!    request in flight is counted and ignored.
//! 4. *Poll*. The future takes the result and the buffer. The slot becomes free.
//!
//! Dropping a future *abandons* its request ([`abandon`]). A request that waits is withdrawn, except a
//! write that waits for a blocking thread. Otherwise the slot keeps the memory until the completion.
//!
//! A closed or dropped context ends ([`shutdown`]) when its last request is done. A context ends at once
//! if its driver task or its runtime is gone, or if reaping fails.
//!
//! # Entry points
//!
//! Futures call [`Entered::admit`] and [`Entered::submit_one`], [`Entered::poll`],
//! [`Entered::abandon`]. The eventfd calls [`Entered::on_eventfd`]. The driver task calls
//! [`Entered::drive`].
//!
//! # The locking rule
//!
//! The mutable state is in [`Core`](core::Core), behind one lock. Callers' code never runs under the
//! lock: wakers are cloned before it is taken; wakers are woken, and wakers, buffers and files dropped,
//! after it is released ([`Deferred`]). State changes are complete before callers' code runs, in case
//! that code panics. No system call that may block is made under the lock. The offload pool has its own
//! lock, which may be taken while this one is held, but not the other way round.
//!
//! A forked child must not take any lock: another thread of the parent may have held it at the fork.
//! [`Driver::enter`] checks which process this is, and is the only access to the lock.

mod abandon;
mod complete;
mod core;
mod shutdown;
mod submit;
#[cfg(test)]
mod tests;

use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use lock_api::{Mutex, MutexGuard};
use tokio::runtime::Handle;

use crate::Metrics;
use crate::backend::IoBackend;
use crate::config::{ContextConfig, ContextTypes};
use crate::deferred::Deferred;
use crate::metrics::ReapSource;
use crate::offload::{OffloadConfig, OffloadPool};
use crate::policy::{Observation, PollOrder, SubmitAdvisor};
use crate::slab::{Drains, Slots};
use crate::sync::{DriverWaker, EventFd, watch};
use crate::sys::Process;
use crate::teardown::Live;

/// The driver of one context, shared by its handles, futures, waker and task.
pub(crate) struct Driver<T: ContextTypes> {
    core: Mutex<T::Lock, core::Core<T>>,
    submitter: <T::Backend as IoBackend>::Submitter,
    pub(crate) offload: Arc<OffloadPool<T::Backend>>,
    pub(crate) driver_waker: Arc<DriverWaker>,
    gone: watch::Receiver<()>,
    owner: Process,
    pub(crate) config: ContextConfig,
}

/// A driver that is known to be used in the process that created it.
pub(crate) struct Entered<'d, T: ContextTypes>(&'d Driver<T>);

impl<T: ContextTypes> Clone for Entered<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ContextTypes> Copy for Entered<'_, T> {}

/// Error: this process is a `fork(2)` child of the process that created the context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkedChild;

/// Time after which requests that the kernel had no room for are submitted again, unless a completion
/// has made room before.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(10);

/// What the driver task does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriveResult {
    /// Let the ready tasks run, then drive again: they may queue more requests.
    Yield,
    /// Wait to be woken.
    Idle,
    /// Requests are in flight whose completions will not be signalled: reap again soon.
    Unsignalled,
    /// The context has ended.
    Gone,
}

impl<T: ContextTypes> Driver<T> {
    pub(crate) fn new(
        backend: T::Backend,
        eventfd: Option<EventFd>,
        config: ContextConfig,
        runtime: Option<Handle>,
        offload: OffloadConfig,
    ) -> Arc<Driver<T>> {
        let (gone, watch_gone) = watch::channel(());
        let driver_waker = Arc::new(DriverWaker::new());
        let fd = eventfd.as_ref().map(|eventfd| eventfd.as_raw_fd());
        let submitter = backend.submitter(fd);
        let pool_waker = Arc::clone(&driver_waker);
        let offload = OffloadPool::new(submitter.clone(), fd, pool_waker, runtime, offload);
        let live = Live {
            backend,
            eventfd,
            gone,
        };
        let core = core::Core::new(config, live, submitter.clone(), Arc::clone(&offload));
        Arc::new(Driver {
            core: Mutex::new(core),
            submitter,
            offload,
            driver_waker,
            gone: watch_gone,
            owner: Process::current(),
            config,
        })
    }

    /// Gives access to the lock. Fails in a forked child.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Result<Entered<'_, T>, ForkedChild> {
        match self.owner == Process::current() {
            true => Ok(Entered(self)),
            false => Err(ForkedChild),
        }
    }

    /// Returns a channel that closes when all resources of the context have been released.
    pub(crate) fn gone(&self) -> watch::Receiver<()> {
        self.gone.clone()
    }
}

impl<T: ContextTypes> std::ops::Deref for Entered<'_, T> {
    type Target = Driver<T>;

    #[inline(always)]
    fn deref(&self) -> &Driver<T> {
        self.0
    }
}

impl<'d, T: ContextTypes> Entered<'d, T> {
    pub(crate) fn get(&self) -> &'d Driver<T> {
        self.0
    }

    #[inline(always)]
    fn lock(&self) -> MutexGuard<'_, T::Lock, core::Core<T>> {
        self.core.lock()
    }

    /// Runs `change` under the lock, then carries out the effects that it deferred.
    #[inline(always)]
    fn with<R>(
        &self,
        change: impl FnOnce(&mut core::Core<T>, &mut Deferred<T::Backend>) -> R,
    ) -> R {
        let mut deferred = Deferred::new();
        let result = self.locked(&mut deferred, change);
        self.conclude(&mut deferred);
        result
    }

    /// Runs `change` under the lock. The caller must call [`Entered::follow_up`] afterwards.
    #[inline(always)]
    fn locked<R>(
        &self,
        deferred: &mut Deferred<T::Backend>,
        change: impl FnOnce(&mut core::Core<T>, &mut Deferred<T::Backend>) -> R,
    ) -> R {
        let mut core = self.lock();
        let result = change(&mut core, deferred);
        core.end_if_due(deferred);
        result
    }

    /// Carries out the deferred effects.
    #[inline(always)]
    fn conclude(&self, deferred: &mut Deferred<T::Backend>) {
        if !deferred.is_empty() && self.follow_up(deferred) {
            self.flush();
        }
    }

    /// Carries out the deferred effects, except a flush. Returns whether a flush is due.
    #[inline(never)]
    fn follow_up(&self, deferred: &mut Deferred<T::Backend>) -> bool {
        loop {
            deferred.release();
            deferred.events.emit();
            if let Some(teardown) = deferred.teardown.take() {
                teardown.start();
            }
            if mem::take(&mut deferred.dispatch) {
                self.offload.dispatch();
            }
            // After the futures: the driver task submits the requests that their tasks will queue.
            if mem::take(&mut deferred.wake_driver) {
                self.driver_waker.wake();
            }
            if mem::take(&mut deferred.retry_later) {
                self.driver_waker.wake_after(NO_ROOM_PAUSE);
            }
            if !mem::take(&mut deferred.more_completions) {
                return mem::take(&mut deferred.flush);
            }
            self.locked(deferred, |core, deferred| {
                core.reap(ReapSource::Other, deferred)
            });
        }
    }

    /// Handles a signal of the eventfd. `waker` will be woken by the next signal.
    pub(crate) fn on_eventfd(&self, waker: &Waker) {
        self.with(|core, deferred| {
            core.arm(waker, deferred); // before the reap, so that a later completion signals
            core.reap(ReapSource::Signal, deferred);
            core.advisor.observe(Observation::RuntimeTurned);
        });
    }

    /// Runs the driver task. If a signal was passed to it, `signal` is the waker for the next signal.
    pub(crate) fn drive(&self, signal: Option<&Waker>, order: PollOrder) -> DriveResult {
        let (queued, defer) = self.with(|core, deferred| {
            core.driver_runs = true;
            core.advisor.observe(Observation::DriverPolled { order });
            if let Some(waker) = signal {
                core.arm(waker, deferred);
            }
            core.reap(ReapSource::DriverTask, deferred);
            let queued = core.slots.queued();
            let defer = queued > 0 && core.advisor.defer_flush(queued, order);
            core.flush_requested = defer; // `Yield` polls the task again
            if !defer {
                core.advisor.observe(Observation::RuntimeTurned);
            }
            (queued > 0, defer)
        });
        if defer {
            return DriveResult::Yield;
        }
        if queued {
            self.flush();
        }
        let core = self.lock();
        match core.phase {
            core::Phase::Gone => DriveResult::Gone,
            _ if core.slots.unsignalled() > 0 => DriveResult::Unsignalled,
            _ => DriveResult::Idle,
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.with(|core, deferred| {
            core.reap_all(ReapSource::Other, deferred);
            core.metrics()
        })
    }

    /// Returns the number of free slots, or `None` if the context is not open.
    pub(crate) fn free_capacity(&self) -> Option<usize> {
        self.with(|core, deferred| {
            core.reap_all(ReapSource::Other, deferred);
            core.phase.is_open().then(|| core.free_capacity())
        })
    }

    /// Reaps, then runs `change` on the slots and the drains under the lock.
    pub(crate) fn with_slots<R>(
        &self,
        source: ReapSource,
        change: impl FnOnce(&mut Slots, &mut Drains) -> R,
    ) -> R {
        self.with(|core, deferred| {
            core.reap_all(source, deferred);
            change(&mut core.slots, &mut core.drains)
        })
    }
}
