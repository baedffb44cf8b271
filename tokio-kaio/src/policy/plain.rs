//! [`Plain`]: an advisor without any policy, for tests.

use super::{
    FileHistory, NowaitAttempt, NowaitResult, Observation, OpInfo, PolicyConfig, PollOrder,
    Refusal, SubmitAdvisor, SubmitPlan, TaskId, TimingLevel,
};
use crate::backend::{MAX_BATCH, Notify};

/// Submits each request at once, on the current thread, and learns nothing.
#[derive(Debug)]
#[cfg_attr(
    not(any(test, kaio_plain_policy)),
    allow(dead_code, reason = "for tests")
)]
pub(crate) struct Plain {
    max_batch: usize,
}

impl SubmitAdvisor for Plain {
    fn new(config: PolicyConfig) -> Plain {
        Plain {
            max_batch: config.max_batch.unwrap_or(MAX_BATCH),
        }
    }

    fn plan(&self, _: &OpInfo, _: Option<&FileHistory>, _: u32, _: usize) -> SubmitPlan {
        SubmitPlan::INLINE
    }

    fn timing(&self, _: Option<&FileHistory>, _: u32) -> TimingLevel {
        TimingLevel::Clock
    }

    fn notify(&self) -> Notify {
        Notify::Signal
    }

    fn defer(&mut self, _: usize, _: TaskId) -> bool {
        false
    }

    fn defer_flush(&mut self, _: usize, _: PollOrder) -> bool {
        false
    }

    fn max_batch(&self, _: usize) -> usize {
        self.max_batch
    }

    fn is_flush_due(&self, queued: usize, _: usize) -> bool {
        queued >= self.max_batch
    }

    fn on_nowait_result(
        &mut self,
        _: &OpInfo,
        _: &FileHistory,
        _: NowaitAttempt,
        _: NowaitResult,
    ) -> Option<Refusal> {
        None
    }

    fn observe(&mut self, _: Observation) {}
}
