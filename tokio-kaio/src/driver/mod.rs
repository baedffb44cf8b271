//! The driver: takes requests in, submits them, completes them, cancels them. No policy.
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
//! 1. *Admit* ([`submit`]). The future of an operation brings an [`IoOp`](crate::op::IoOp) and an
//!    [`IoBuffer`](crate::op::IoBuffer). A slot takes the buffer. The request is launched at once, or
//!    queued: because no slot is free, because the policy expects other requests to share the system
//!    call with, or behind another append to the same file. What may block is given to the
//!    [`OffloadPool`].
//! 2. *Submit*. Outside the lock, by the task that launched the request, by the driver task
//!    ([`task`]) for the queue, or by a blocking thread. A `SubmitPermit` keeps the backend alive.
//!    [`finish_submit`](core::Core) deals with the result, whoever submitted.
//! 3. *Complete* ([`complete`]). The backend's completions are reaped after each submission, when the
//!    eventfd is signalled ([`completion_waker`]), when a future is polled, and by the driver task. A
//!    completion names its slot by `user_data`; one that matches no request in flight is counted, and
//!    ignored.
//! 4. *Poll*. The future takes the result, and the buffer goes back. The slot is free.
//!
//! A future that is dropped *abandons* its request ([`abandon`]). If the request was not submitted, it
//! never is (except an offloaded write). If it was, the slot keeps the memory until the completion.
//!
//! The context ends ([`shutdown`]) when it was closed or dropped and the last request is done, or at
//! once when its driver task or its runtime is gone.
//!
//! # Entry points
//!
//! Futures call [`Entered::admit`] and [`Entered::submit_one`], [`Entered::poll`],
//! [`Entered::abandon`]. The eventfd calls [`Entered::on_eventfd`]. The driver task calls
//! [`Entered::drive`].
//!
//! # The locking rule
//!
//! Everything that changes is in [`Core`](core::Core), behind one lock. No code of callers runs under
//! it: wakers are cloned before and woken or dropped after, as are buffers and files ([`deferred`]). A
//! state is changed before code of callers runs, so that a panic there finds nothing half done. No
//! system call that may block is made under it. The offload pool has a lock of its own, which may be
//! taken under this one, never the other way round.
//!
//! A forked child may not take any lock, which another thread of the parent may have held at the fork.
//! [`Driver::enter`] asks whose process this is, and is the only way to the lock.

mod abandon;
mod complete;
mod completion_waker;
mod core;
mod deferred;
mod drains;
mod shutdown;
mod slot;
mod slots;
mod submit;
mod task;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Waker;

use lock_api::{Mutex, MutexGuard, RawMutex};
use tokio::runtime::Handle;

use crate::backend::{AnyBackend, IoBackend};
use crate::metrics::ReapSource;
use crate::offload::{OffloadConfig, OffloadPool};
use crate::policy::{DefaultAdvisor, Observation, PolicyConfig, SubmitAdvisor};
use crate::sync::{DriverWaker, EventFd, watch};
use crate::sys::Process;
use crate::teardown::Live;
use crate::{Backend, Metrics};
use deferred::Deferred;

pub(crate) use complete::RequestProgress;
pub(crate) use completion_waker::CompletionWaker;
pub(crate) use shutdown::Unfinished;
pub(crate) use slot::SlotKey;
pub(crate) use submit::{Admission, NewRequest};
pub(crate) use task::{DriverTask, PollOrder};

/// Type parameters of a driver, under one name.
pub(crate) trait ContextTypes {
    type Lock: RawMutex;
    type Backend: IoBackend;
    type Advisor: SubmitAdvisor;
}

/// The types of a context with lock `M`. Never made.
pub(crate) struct Types<M, B = AnyBackend, P = DefaultAdvisor>(PhantomData<(M, B, P)>);

impl<M, B, P> ContextTypes for Types<M, B, P>
where
    M: RawMutex,
    B: IoBackend,
    P: SubmitAdvisor,
{
    type Lock = M;
    type Backend = B;
    type Advisor = P;
}

/// Configuration of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextConfig {
    /// Most requests in flight: the slots of a context.
    pub(crate) capacity: usize,
    /// Whether a request waits for a free slot.
    pub(crate) wait_for_slot: bool,
    pub(crate) policy: PolicyConfig,
    pub(crate) backend: Backend,
    pub(crate) measure_latency: bool,
}

/// The driver of one context, shared by its handles, futures, waker and task.
pub(crate) struct Driver<T: ContextTypes> {
    core: Mutex<T::Lock, core::Core<T>>,
    submitter: <T::Backend as IoBackend>::Submitter,
    offload: Arc<OffloadPool<T::Backend>>,
    driver_waker: Arc<DriverWaker>,
    gone: watch::Receiver<()>,
    owner: Process,
    pub(crate) config: ContextConfig,
}

/// A driver in the process that made it.
pub(crate) struct Entered<'d, T: ContextTypes>(&'d Driver<T>);

impl<T: ContextTypes> Clone for Entered<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ContextTypes> Copy for Entered<'_, T> {}

/// The process is a child, by `fork(2)`, of the one that made the context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkedChild;

/// What the driver task does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DriveResult {
    /// Let the tasks that are ready run, then drive again: more requests may come.
    Yield,
    /// Wait to be woken.
    Idle,
    /// Requests are in flight whose completions are not signalled: look again soon.
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
        let (sender, gone) = watch::channel(());
        let driver_waker = Arc::new(DriverWaker::new());
        let fd = eventfd.as_ref().map(|eventfd| eventfd.as_raw_fd());
        let submitter = backend.submitter(fd);
        let pool_waker = Arc::clone(&driver_waker);
        let offload = OffloadPool::new(submitter.clone(), fd, pool_waker, runtime, offload);
        let live = Live {
            backend,
            eventfd,
            gone: sender,
        };
        let core = core::Core::new(config, live, submitter.clone(), Arc::clone(&offload));
        Arc::new(Driver {
            core: Mutex::new(core),
            submitter,
            offload,
            driver_waker,
            gone,
            owner: Process::current(),
            config,
        })
    }

    /// The way to the lock.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Result<Entered<'_, T>, ForkedChild> {
        match self.owner == Process::current() {
            true => Ok(Entered(self)),
            false => Err(ForkedChild),
        }
    }

    /// Closes when everything has been given back to the system.
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
}

impl<T: ContextTypes> Entered<'_, T> {
    #[inline(always)]
    fn lock(&self) -> MutexGuard<'_, T::Lock, core::Core<T>> {
        self.core.lock()
    }

    /// Makes a change under the lock, then what it deferred.
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

    /// Makes a change under the lock; [`Entered::follow_up`] is to be called.
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

    /// Carries out what was deferred.
    #[inline(always)]
    fn conclude(&self, deferred: &mut Deferred<T::Backend>) {
        if !deferred.is_empty() && self.follow_up(deferred) {
            self.flush();
        }
    }

    /// Carries out what was deferred, except a flush. Returns whether that is due.
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
            // After the futures: it submits what their tasks are about to queue.
            if mem::take(&mut deferred.wake_driver) {
                self.driver_waker.wake();
            }
            if mem::take(&mut deferred.retry_later) {
                self.driver_waker.wake_after(task::LONGEST_PAUSE);
            }
            if !mem::take(&mut deferred.more_completions) {
                return mem::take(&mut deferred.flush);
            }
            self.locked(deferred, |core, deferred| {
                core.reap(ReapSource::Other, deferred)
            });
        }
    }

    /// The eventfd was signalled. `waker` is called for the next signal.
    fn on_eventfd(&self, waker: &Waker) {
        self.with(|core, deferred| {
            core.arm(waker, deferred); // before the reap: later completions signal again
            core.reap(ReapSource::Signal, deferred);
            core.advisor.observe(Observation::RuntimeTurned);
        });
    }

    /// The driver task runs. `signal`: a signal was left to it, and this is the waker for the next one.
    fn drive(&self, signal: Option<&Waker>, order: PollOrder) -> DriveResult {
        let (queued, defer) = self.with(|core, deferred| {
            core.driver_runs = true;
            let several_workers = order != PollOrder::Fair;
            core.advisor
                .observe(Observation::DriverPolled { several_workers });
            if let Some(waker) = signal {
                core.arm(waker, deferred);
            }
            core.reap(ReapSource::DriverTask, deferred);
            let queued = core.slots.queued();
            let may_defer = order == PollOrder::Early && queued > 0;
            let defer = may_defer && core.advisor.defer_flush(queued);
            core.flush_requested = defer; // the task goes on
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

    /// Slots that are free. `None`: the context is not open.
    pub(crate) fn free_capacity(&self) -> Option<usize> {
        self.with(|core, deferred| {
            core.reap_all(ReapSource::Other, deferred);
            core.phase.is_open().then(|| core.free_capacity())
        })
    }
}
