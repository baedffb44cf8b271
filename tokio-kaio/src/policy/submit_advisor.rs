//! [`SubmitAdvisor`]: what the driver asks and reports.

use super::{
    FileHistory, NowaitAttempt, NowaitResult, OpInfo, Refusal, SubmitPlan, SubmitPolicy, TaskId,
    TimingLevel,
};
use crate::backend::Notify;

/// Decides how requests are submitted. Called under the context's lock: it must not block, wake, or run
/// code of callers.
pub(crate) trait SubmitAdvisor: Send + 'static {
    fn new(config: PolicyConfig) -> Self;

    /// How to submit a request now. `file`: its history, of a file that the context knows.
    /// `submit_seq`: number of the submission.
    fn plan(&self, op: &OpInfo, file: Option<&FileHistory>, submit_seq: u32) -> SubmitPlan;

    /// How closely to measure the submission that [`plan`](SubmitAdvisor::plan) was asked about.
    fn timing(&self, file: Option<&FileHistory>, submit_seq: u32) -> TimingLevel;

    /// Whether the kernel should signal the completions of the next submission. Completions that are
    /// not signalled are found by the reap after the submission, or by the driver task, which then
    /// looks again and again.
    fn notify(&self) -> Notify;

    /// Whether to queue a new request of `task` until the driver task flushes the queue, so that it
    /// shares a system call with others. `in_flight`: requests submitted already.
    fn defer(&mut self, in_flight: usize, task: TaskId) -> bool;

    /// Whether the driver task should let the tasks that are ready run before it flushes `queued`
    /// requests.
    fn defer_flush(&mut self, queued: usize, order: PollOrder) -> bool;

    /// Most requests in one system call.
    fn max_batch(&self) -> usize;

    /// Whether the task that fills a batch submits it, instead of the driver task.
    fn flush_full_batch(&self) -> bool;

    /// Why a request has to be submitted again, without `RWF_NOWAIT`. `None`: `result` is its result.
    fn on_nowait_result(
        &mut self,
        op: &OpInfo,
        file: &FileHistory,
        attempt: NowaitAttempt,
        result: NowaitResult,
    ) -> Option<Refusal>;

    fn observe(&mut self, observation: Observation);
}

/// What an advisor learns from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Observation {
    /// The driver task runs.
    DriverPolled { order: PollOrder },
    /// A request of this task was queued.
    Queued { task: TaskId },
    /// The queue is flushed, with this many requests in it.
    Flushed { queued: usize },
    /// The kernel took a submission, and its completions were reaped.
    Submitted {
        requests: usize,
        notify: Notify,
        /// None of them is in flight any more.
        all_completed: bool,
    },
    /// The tasks that were ready have run.
    RuntimeTurned,
}

/// Whether the tasks that were ready have run when the driver task is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollOrder {
    /// Maybe not: a worker of the multi-threaded runtime first polls the task that was woken last.
    Early,
    /// They have: the driver task has let them run first.
    Late,
    /// They always have: the queue of the runtime is first in, first out.
    Fair,
}

/// Configuration of an advisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyConfig {
    /// Default policy, for files without one.
    pub(crate) policy: SubmitPolicy,
    /// Most requests in one system call, if configured: 1 to
    /// [`MAX_BATCH`](crate::backend::MAX_BATCH).
    pub(crate) max_batch: Option<usize>,
}
