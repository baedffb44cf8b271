//! [`Core`]: the state of a context behind its lock.

use std::sync::Arc;
use std::task::{Context, Waker};

use crate::backend::{Capabilities, IoBackend};
use crate::config::{ContextConfig, ContextTypes};
use crate::deferred::Deferred;
use crate::metrics::{Counters, ReapSource};
use crate::offload::OffloadPool;
use crate::op::{FileId, IoBuffer, Outcome};
use crate::policy::{SubmitAdvisor, TimingLevel};
use crate::slab::{AppendOrder, Drains, Slots};
use crate::teardown::Live;
use crate::{LatencyHistogram, Metrics};

pub(super) struct Core<T: ContextTypes> {
    pub(super) phase: Phase<T::Backend>,
    pub(super) slots: Slots,
    pub(super) append_order: AppendOrder<FileId>,
    pub(super) drains: Drains,
    pub(super) advisor: T::Advisor,
    pub(super) config: ContextConfig,
    pub(super) capabilities: Capabilities,
    /// Cancels requests.
    pub(super) submitter: <T::Backend as IoBackend>::Submitter,
    pub(super) offload: Arc<OffloadPool<T::Backend>>,
    /// The driver task has been polled. Until then, only the current thread can flush the queue.
    pub(super) driver_runs: bool,
    /// The driver task was woken to flush, and has not run yet.
    pub(super) flush_requested: bool,
    /// Number of submissions in progress, without the lock. The backend outlives them.
    pub(super) submitting: usize,
    /// Number of submissions so far. Wraps.
    pub(super) submit_seq: u32,
    /// Properties of the next submission, collected from the requests launched for it.
    pub(super) next_timing: TimingLevel,
    pub(super) next_has_waits: bool,
    /// Number of reaps that found completions. Wraps.
    pub(super) reap_seq: u32,
    /// [`Core::reap_seq`] when the offload pool last returned requests that the kernel had no room for.
    pub(super) no_room_at: u32,
    pub(super) counters: Counters,
    pub(super) latency: Option<LatencyHistogram>,
}

/// The phase of a context. See the diagram in [`shutdown`](super::shutdown).
pub(super) enum Phase<B> {
    Open(Live<B>),
    /// No new requests are admitted. The context ends when the last request is done.
    Stopping(Live<B>),
    /// Completions are no longer reaped. The context ends when no submission is in progress. The kernel
    /// may still use the memory.
    Orphaned(Live<B>, Vec<IoBuffer>),
    Gone,
}

impl<B> Phase<B> {
    /// The backend and eventfd, if requests can still be submitted and reaped.
    pub(super) fn live(&mut self) -> Option<&mut Live<B>> {
        match self {
            Phase::Open(live) | Phase::Stopping(live) => Some(live),
            Phase::Orphaned(..) | Phase::Gone => None,
        }
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Phase::Open(_))
    }
}

impl<T: ContextTypes> Core<T> {
    pub(super) fn new(
        config: ContextConfig,
        live: Live<T::Backend>,
        submitter: <T::Backend as IoBackend>::Submitter,
        offload: Arc<OffloadPool<T::Backend>>,
    ) -> Core<T> {
        let capabilities = live.backend.capabilities();
        Core {
            phase: Phase::Open(live),
            slots: Slots::new(config.capacity, config.measure_latency),
            append_order: AppendOrder::default(),
            drains: Drains::default(),
            advisor: T::Advisor::new(config.policy),
            config,
            capabilities,
            submitter,
            offload,
            driver_runs: false,
            flush_requested: false,
            submitting: 0,
            submit_seq: 0,
            next_timing: TimingLevel::Off,
            next_has_waits: false,
            reap_seq: 0,
            no_room_at: 0,
            counters: Counters {
                user_ring: capabilities.user_ring,
                ..Counters::default()
            },
            latency: config.measure_latency.then(LatencyHistogram::new),
        }
    }

    /// Returns the number of requests that wait to be submitted: queued or held.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.slots.queued() + self.append_order.len()
    }

    #[inline]
    pub(super) fn free_capacity(&self) -> usize {
        let taken = self.slots.in_flight() + self.waiting();
        self.config.capacity.saturating_sub(taken)
    }

    /// Requests a flush of the queue, if it is not empty and fewer than `capacity` requests are in flight.
    pub(super) fn request_flush(&mut self, deferred: &mut Deferred<T::Backend>) {
        if self.slots.queued() == 0 || self.slots.in_flight() >= self.config.capacity {
            return;
        }
        if !self.driver_runs {
            deferred.flush = true;
        } else if !std::mem::replace(&mut self.flush_requested, true) {
            deferred.wake_driver = true;
        }
    }

    /// Arms the eventfd: its next signal wakes `waker`. Ends the context if the runtime of the eventfd is
    /// gone, so that no signal will come.
    pub(super) fn arm(&mut self, waker: &Waker, deferred: &mut Deferred<T::Backend>) {
        let eventfd = self.phase.live().and_then(|live| live.eventfd.as_ref());
        if eventfd.is_some_and(|eventfd| !eventfd.arm(&mut Context::from_waker(waker))) {
            self.reap(ReapSource::Signal, deferred);
            self.orphan(Outcome::Stopped, deferred);
        }
    }

    pub(super) fn metrics(&self) -> Metrics {
        let (waiting_for_thread, offloaded) = self.offload.counters();
        Metrics {
            queued: self.waiting(),
            in_flight: self.slots.in_flight(),
            abandoned_in_flight: self.slots.abandoned(),
            waiting_for_thread,
            latency: self.latency.clone(),
            ..self.counters.metrics(&offloaded)
        }
    }
}
