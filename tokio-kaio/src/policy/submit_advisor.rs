//! [`SubmitAdvisor`]: the interface between the driver and a policy.

use super::{
    FileHistory, NowaitAttempt, NowaitResult, OpInfo, Refusal, SubmitPlan, SubmitPolicy, TaskId,
    TimingLevel,
};
use crate::backend::Notify;

/// Decides how requests are submitted. Called under the driver's lock, so it must not block, wake tasks, or
/// run callers' code.
pub(crate) trait SubmitAdvisor: Send + 'static {
    fn new(config: PolicyConfig) -> Self;

    /// Returns how to submit a request now. `file` is `None` if the request is on a borrowed descriptor.
    /// `submit_seq` is the number of the submission, `in_flight` the number of requests in flight.
    fn plan(
        &self,
        op: &OpInfo,
        file: Option<&FileHistory>,
        submit_seq: u32,
        in_flight: usize,
    ) -> SubmitPlan;

    /// Returns how closely to measure the submission for which [`plan`](SubmitAdvisor::plan) was called.
    fn timing(&self, file: Option<&FileHistory>, submit_seq: u32) -> TimingLevel;

    /// Returns whether the kernel should signal the completions of the next submission. Completions that are
    /// not signalled are found by the reap after the submission, or by the driver task, which then reaps
    /// repeatedly.
    fn notify(&self) -> Notify;

    /// Returns whether to queue a new request of `task` until the driver task flushes the queue, so that
    /// the request shares a system call with others. `in_flight` is the number of requests in flight.
    fn defer(&mut self, in_flight: usize, task: TaskId) -> bool;

    /// Returns whether the driver task should let the ready tasks run before it flushes `queued` requests.
    /// True for [`PollOrder::Early`] only: otherwise the queue might never be flushed.
    fn defer_flush(&mut self, queued: usize, order: PollOrder) -> bool;

    /// Returns the most requests to submit with one system call, at least 1, while `in_flight` requests are
    /// in flight.
    fn max_batch(&self, in_flight: usize) -> usize;

    /// Returns whether the task that has just queued a request submits the queue, instead of the driver task.
    /// `queued` requests are in the queue, and `in_flight` requests in flight.
    fn is_flush_due(&self, queued: usize, in_flight: usize) -> bool;

    /// Returns why a request has to be submitted again without `RWF_NOWAIT`, or `None` if `result` is the
    /// result of the request. Every result that exists only because of the flag has to be named: otherwise
    /// the caller gets it.
    fn on_nowait_result(
        &mut self,
        op: &OpInfo,
        file: &FileHistory,
        attempt: NowaitAttempt,
        result: NowaitResult,
    ) -> Option<Refusal>;

    fn observe(&mut self, observation: Observation);
}

/// An event that an advisor learns from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Observation {
    /// The driver task was polled.
    DriverPolled { order: PollOrder },
    /// A request of `task` was queued.
    Queued { task: TaskId },
    /// The queue, which has `queued` requests, is being flushed.
    Flushed { queued: usize },
    /// The kernel took at least one request of a submission, and completions were reaped afterwards.
    Submitted {
        requests: usize,
        notify: Notify,
        /// None of the requests is in flight any more.
        all_completed: bool,
    },
    /// The ready tasks have run.
    RuntimeTurned,
}

/// Whether the ready tasks have run when the driver task is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollOrder {
    /// Maybe not: a worker of the multi-threaded runtime first polls the task that was woken last.
    Early,
    /// They have: the driver task has yielded to them.
    Late,
    /// They always have: the run queue of the runtime is first in, first out.
    Fair,
}

/// Configuration of an advisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyConfig {
    /// Default policy, for files that have none.
    pub(crate) policy: SubmitPolicy,
    /// Submitting never blocks, so no policy is needed against that.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    pub(crate) nonblocking_submit: bool,
    /// The disk is simulated: nothing may depend on a clock or on a measurement.
    #[cfg(feature = "simulation")]
    pub(crate) simulated: bool,
    /// Most requests to submit with one system call, if configured: 1 to
    /// [`MAX_BATCH`](crate::backend::MAX_BATCH).
    pub(crate) max_batch: Option<usize>,
}
