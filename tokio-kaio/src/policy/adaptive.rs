//! [`Adaptive`]: the advisor of contexts, made of the policies beside it.

use super::batching::Batching;
use super::inline_completion::InlineCompletionDetector;
use super::{
    FileHistory, NowaitAttempt, NowaitResult, Observation, OpInfo, PolicyConfig, Refusal,
    SubmitAdvisor, SubmitPlan, TaskId, TimingLevel,
};
use crate::SubmitPolicy;
use crate::backend::{MAX_BATCH, Notify};

/// Most requests in one system call by default. Larger batches leave the device idle for longer while
/// they are put together, and save little CPU: batches of 16 instead of 32 gave 4 to 12 % more reads a
/// second on a disk, at the same CPU.
const DEFAULT_MAX_BATCH: usize = 16;

/// Learns batching, inline completion and blocking from the requests of a context.
#[derive(Debug)]
pub(crate) struct Adaptive {
    config: PolicyConfig,
    batching: Batching,
    inline_completion: InlineCompletionDetector,
    /// Before the driver task has run, nobody would flush the queue or look for completions that were
    /// not signalled.
    driver_runs: bool,
    several_workers: bool,
}

/// What a submission is used for, besides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sample {
    None,
    /// It is measured closely.
    ThreadUsage,
    /// It probes whether `RWF_NOWAIT` is still refused.
    NowaitProbe,
}

impl Sample {
    /// One submission in 256 for either use. Spread by the golden ratio, so that the samples fall on
    /// each of several files that take turns.
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
    /// Submits without a signal from the start.
    #[cfg(all(test, kaio_loom))]
    pub(crate) fn suppress_signals(&mut self) {
        self.inline_completion = InlineCompletionDetector::always();
    }

    #[inline(always)]
    fn completes_inline(&self) -> bool {
        self.driver_runs && self.inline_completion.completes_inline()
    }

    /// Whether only requests of one task are batched: where requests complete inline and there are
    /// several workers. A flush for many tasks would wake them all on one worker, which wakes another
    /// to steal them. A system call for each request costs less than that.
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
            inline_completion: InlineCompletionDetector::default(),
            driver_runs: false,
            several_workers: false,
        }
    }

    #[inline(always)]
    fn plan(&self, op: &OpInfo, file: Option<&FileHistory>, submit_seq: u32) -> SubmitPlan {
        let probe = Sample::of(submit_seq) == Sample::NowaitProbe;
        match file {
            Some(file) => file.plan(op, self.config.policy, probe),
            None if self.config.policy == SubmitPolicy::Offload && !op.is_poll => {
                SubmitPlan::OFFLOAD
            }
            None => SubmitPlan::INLINE,
        }
    }

    #[inline(always)]
    fn timing(&self, file: Option<&FileHistory>, submit_seq: u32) -> TimingLevel {
        let due = Sample::of(submit_seq) == Sample::ThreadUsage;
        if file.is_some_and(|file| file.wants_thread_usage(self.config.policy, due)) {
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

    fn defer_flush(&mut self, queued: usize) -> bool {
        let per_task = self.batches_per_task();
        self.batching.should_defer_flush(queued, per_task)
    }

    fn max_batch(&self) -> usize {
        match self.config.max_batch {
            Some(limit) => limit,
            None if self.completes_inline() => MAX_BATCH, // a device would be idle anyway
            None => DEFAULT_MAX_BATCH,
        }
    }

    fn flush_full_batch(&self) -> bool {
        // A device should not wait for the rest. Where requests complete inline, a flush wakes their
        // tasks, the current one among them, which costs least from the driver task.
        !self.completes_inline()
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
            Observation::DriverPolled { several_workers } => {
                self.driver_runs = true;
                self.several_workers = several_workers;
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
