//! [`Adaptive`]: the default advisor, which combines the policies of this module.

use super::batching::Batching;
use super::early_flush::EarlyFlush;
use super::inline_completion::InlineCompletionDetector;
use super::{
    Direction, FileHistory, NowaitAttempt, NowaitResult, Observation, OpInfo, PolicyConfig,
    PollOrder, Refusal, SubmitAdvisor, SubmitPlan, TaskId, TimingLevel,
};
use crate::SubmitPolicy;
use crate::backend::Notify;

/// Learns from the requests of a context whether to batch them, whether they complete inline, and whether
/// their submission blocks.
#[derive(Debug)]
pub(crate) struct Adaptive {
    config: PolicyConfig,
    batching: Batching,
    early_flush: EarlyFlush,
    inline_completion: InlineCompletionDetector,
    /// The driver task has been polled. Before that, no task would flush the queue or reap completions that
    /// are not signalled.
    driver_runs: bool,
    several_workers: bool,
}

/// What else a submission is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sample {
    None,
    /// The thread usage of the submission is measured.
    ThreadUsage,
    /// The submission probes whether `RWF_NOWAIT` is still refused.
    NowaitProbe,
}

impl Sample {
    /// Selects one submission in 256 for each use. The selection is spread by the golden ratio, so that each
    /// of several files that take turns gets samples.
    #[inline(always)]
    fn of(submit_seq: u32) -> Sample {
        match submit_seq.wrapping_mul(0x9e37_79b9) >> 24 {
            0 => Sample::ThreadUsage,
            1 => Sample::NowaitProbe,
            _ => Sample::None,
        }
    }
}

impl Adaptive {
    /// Submits without signals from the start.
    #[cfg(all(test, kaio_loom))]
    pub(crate) fn suppress_signals(&mut self) {
        self.inline_completion = InlineCompletionDetector::always();
    }

    #[inline(always)]
    fn completes_inline(&self) -> bool {
        #[cfg(feature = "simulation")]
        if self.config.simulated {
            return false; // else requests that do not would be found by a thread that waits
        }
        self.driver_runs && self.inline_completion.completes_inline()
    }

    /// Returns whether only requests of the same task are batched: if requests complete inline, and there
    /// are several workers. A flush for many tasks would wake all of them on one worker, and another worker
    /// would be woken to steal them, which costs more than a system call for each request.
    #[inline(always)]
    fn batches_per_task(&self) -> bool {
        self.several_workers && self.completes_inline()
    }
}

impl SubmitAdvisor for Adaptive {
    fn new(config: PolicyConfig) -> Adaptive {
        Adaptive {
            config,
            batching: Batching::default(),
            early_flush: EarlyFlush::new(config.max_batch),
            inline_completion: InlineCompletionDetector::default(),
            driver_runs: false,
            several_workers: false,
        }
    }

    #[inline(always)]
    fn plan(
        &self,
        op: &OpInfo,
        file: Option<&FileHistory>,
        submit_seq: u32,
        in_flight: usize,
    ) -> SubmitPlan {
        #[cfg(feature = "simulation")]
        if self.config.simulated {
            return SubmitPlan::INLINE;
        }
        let probe = || Sample::of(submit_seq) == Sample::NowaitProbe;
        if cfg!(feature = "io-uring") && self.config.nonblocking_submit {
            return match file {
                Some(file) if in_flight > 0 && op.direction == Some(Direction::Write) => {
                    file.plan_nonblocking(op, self.config.policy, probe())
                }
                _ => SubmitPlan::INLINE,
            };
        }
        match file {
            Some(file) => file.plan(op, self.config.policy, probe()),
            None if self.config.policy == SubmitPolicy::Offload && !op.is_poll => {
                SubmitPlan::OFFLOAD
            }
            None => SubmitPlan::INLINE,
        }
    }

    #[inline(always)]
    fn timing(&self, file: Option<&FileHistory>, submit_seq: u32) -> TimingLevel {
        #[cfg(feature = "simulation")]
        if self.config.simulated {
            return TimingLevel::Off;
        }
        let due = Sample::of(submit_seq) == Sample::ThreadUsage;
        let may_block = || !(cfg!(feature = "io-uring") && self.config.nonblocking_submit);
        let wants_usage = |file: &FileHistory| file.wants_thread_usage(self.config.policy, due);
        if file.is_some_and(wants_usage) && may_block() {
            return TimingLevel::ThreadUsage;
        }
        match self.completes_inline() {
            true => TimingLevel::Off,
            false => TimingLevel::Clock,
        }
    }

    #[inline(always)]
    fn notify(&self) -> Notify {
        match self.completes_inline() {
            true => Notify::Suppress,
            false => Notify::Signal,
        }
    }

    #[inline(always)]
    fn defer(&mut self, in_flight: usize, task: TaskId) -> bool {
        self.driver_runs && {
            let per_task = self.batches_per_task();
            self.batching.should_defer(in_flight, task, per_task)
        }
    }

    fn defer_flush(&mut self, queued: usize, order: PollOrder) -> bool {
        if order != PollOrder::Early {
            return false;
        }
        let per_task = self.batches_per_task();
        self.batching.should_defer_flush(queued, per_task)
    }

    fn max_batch(&self, in_flight: usize) -> usize {
        let to_device = !self.inline_completion.last_completed_inline();
        self.early_flush.max_batch(in_flight, to_device)
    }

    fn is_flush_due(&self, queued: usize, in_flight: usize) -> bool {
        // If requests complete inline, the flush wakes their tasks, including the current one, which is
        // cheapest on the driver task.
        let to_device = !self.inline_completion.last_completed_inline();
        !self.completes_inline() && self.early_flush.is_due(queued, in_flight, to_device)
    }

    fn on_nowait_result(
        &mut self,
        op: &OpInfo,
        file: &FileHistory,
        attempt: NowaitAttempt,
        result: NowaitResult,
    ) -> Option<Refusal> {
        file.on_nowait_result(op, attempt, result)
    }

    #[inline(always)]
    fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::DriverPolled { order } => {
                self.driver_runs = true;
                self.several_workers = order != PollOrder::Fair;
            }
            Observation::Queued { task } => self.batching.on_deferred(task),
            Observation::Flushed { queued } => {
                let per_task = self.batches_per_task();
                self.batching.on_flush(queued, per_task);
            }
            Observation::Submitted {
                requests,
                notify,
                all_completed,
            } => {
                let suppressed = notify == Notify::Suppress;
                self.inline_completion
                    .on_submitted(requests, suppressed, all_completed);
            }
            Observation::RuntimeTurned => self.batching.on_runtime_turn(),
        }
    }
}
