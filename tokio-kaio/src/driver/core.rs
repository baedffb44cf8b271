//! [`Core`]: what a context has behind its one lock.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::deferred::Deferred;
use super::drains::Drains;
use super::slots::Slots;
use super::{ContextConfig, ContextTypes};
use crate::backend::{Capabilities, IoBackend};
use crate::metrics::{Counters, ReapSource};
use crate::offload::OffloadPool;
use crate::op::{FileId, IoBuffer, Outcome};
use crate::policy::{AppendOrder, SubmitAdvisor, TimingLevel};
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
    /// To cancel polls.
    pub(super) submitter: <T::Backend as IoBackend>::Submitter,
    pub(super) offload: Arc<OffloadPool<T::Backend>>,
    /// The driver task has been polled: before that, nobody would flush the queue.
    pub(super) driver_runs: bool,
    /// The driver task was woken to flush, and has not run yet.
    pub(super) flush_requested: bool,
    /// Submissions under way, outside the lock. The backend outlives them.
    pub(super) submitting: usize,
    /// Submissions so far. Wraps.
    pub(super) submit_seq: u32,
    /// For the next submission, from the requests that were launched for it.
    pub(super) next_timing: TimingLevel,
    pub(super) next_has_polls: bool,
    /// Reaps that found completions. Wraps.
    pub(super) reap_seq: u32,
    /// [`Core::reap_seq`] when the offload pool last returned requests that there was no room for.
    pub(super) no_room_at: u32,
    pub(super) counters: Counters,
    pub(super) latency: Option<LatencyHistogram>,
}

/// How far a context is from its end.
pub(super) enum Phase<B> {
    Open(Live<B>),
    /// No new requests. Ends when the last one is done.
    Stopping(Live<B>),
    /// The driver task is gone. Ends when no submission is under way; the kernel may still use the
    /// memory.
    Orphaned(Live<B>, Vec<IoBuffer>),
    Gone,
}

impl<B> Phase<B> {
    /// What can still submit and complete.
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
            next_has_polls: false,
            reap_seq: 0,
            no_room_at: 0,
            counters: Counters {
                user_ring: capabilities.user_ring,
                ..Counters::default()
            },
            latency: config.measure_latency.then(LatencyHistogram::new),
        }
    }

    /// Requests that wait to be submitted.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.slots.queued() + self.append_order.len()
    }

    #[inline]
    pub(super) fn free_capacity(&self) -> usize {
        let taken = self.slots.in_flight() + self.waiting();
        self.config.capacity.saturating_sub(taken)
    }

    /// Has the queue flushed, if there is room in flight.
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

    /// Has the next signal of the eventfd call `waker`. If there will be none, because the runtime of
    /// the eventfd is gone, the context ends.
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
