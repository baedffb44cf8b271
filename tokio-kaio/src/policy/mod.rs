//! Submit policy: on which path and when requests are submitted.
//!
//! The driver asks a [`SubmitAdvisor`]. An advisor makes requests cheaper or keeps the runtime's
//! threads from blocking; whether a request completes, and with which result, does not depend on it.
//! [`Adaptive`] learns from what happened to earlier requests. [`Plain`] always gives the same answer;
//! the test suite passes with it (`--cfg kaio_plain_policy`), which shows that no optimisation carries
//! correctness.
//!
//! To add a policy, add a file with its state, its reason and its figure, and ask it from
//! [`Adaptive`].

mod adaptive;
mod append_order;
mod batching;
mod file_history;
mod inline_completion;
mod nowait;
mod submit_policy;
mod submit_timing;

pub(crate) use adaptive::Adaptive;
pub(crate) use append_order::AppendOrder;
pub(crate) use batching::TaskId;
pub(crate) use file_history::FileHistory;
pub(crate) use nowait::{NowaitResult, Refusal};
pub use submit_policy::SubmitPolicy;
pub(crate) use submit_timing::{SubmitObservation, SubmitTimer, SubmitTiming, TimingLevel};

use crate::backend::Notify;

/// The advisor of contexts.
#[cfg(not(kaio_plain_policy))]
pub(crate) type DefaultAdvisor = Adaptive;
/// The advisor of contexts.
#[cfg(kaio_plain_policy)]
pub(crate) type DefaultAdvisor = Plain;

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
    fn defer_flush(&mut self, queued: usize) -> bool;

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
    /// The driver task runs. `several_workers`: its runtime has more than one thread.
    DriverPolled { several_workers: bool },
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

/// Configuration of an advisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyConfig {
    /// Default policy, for files without one.
    pub(crate) policy: SubmitPolicy,
    /// Most requests in one system call, if configured: 1 to
    /// [`MAX_BATCH`](crate::backend::MAX_BATCH).
    pub(crate) max_batch: Option<usize>,
}

/// An operation, as far as policy depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpInfo {
    /// `None`: it moves no data.
    pub(crate) direction: Option<Direction>,
    pub(crate) is_poll: bool,
    /// It writes to the end of the file, wherever that is.
    pub(crate) appends: bool,
    /// `RWF_*`, as the caller set them.
    pub(crate) rw_flags: i32,
    pub(crate) offset: u64,
    pub(crate) nbytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Operations on a file that the kernel is likely to treat alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpClass {
    Read,
    /// A write within the data that the file is known to have.
    Overwrite,
    /// A write beyond the data that the file is known to have.
    Extend,
    /// A write to the end of the file.
    Append,
}

/// How a request is submitted. The class is fixed here, when the request is admitted: its completion
/// may change what the file is known to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmitPlan {
    pub(crate) path: SubmitPath,
    /// What to learn about. `None`: nothing.
    pub(crate) class: Option<OpClass>,
}

impl SubmitPlan {
    pub(crate) const INLINE: SubmitPlan = SubmitPlan {
        path: SubmitPath::Inline,
        class: None,
    };

    pub(crate) const OFFLOAD: SubmitPlan = SubmitPlan {
        path: SubmitPath::Offload,
        class: None,
    };

    /// The attempt with `RWF_NOWAIT`, if it is one.
    #[inline]
    pub(crate) fn nowait(&self) -> Option<NowaitAttempt> {
        let probe = match self.path {
            SubmitPath::Nowait => false,
            SubmitPath::NowaitProbe => true,
            SubmitPath::Inline | SubmitPath::Offload => return None,
        };
        let class = self.class?;
        Some(NowaitAttempt { class, probe })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubmitPath {
    /// On the current thread, which may block.
    Inline,
    /// On the current thread, with `RWF_NOWAIT`. Offloaded if the kernel refuses it.
    Nowait,
    /// The same, to find out whether the kernel still refuses such requests.
    NowaitProbe,
    /// On a thread of the blocking pool.
    Offload,
}

/// A submission with `RWF_NOWAIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NowaitAttempt {
    pub(crate) class: OpClass,
    /// See [`SubmitPath::NowaitProbe`].
    pub(crate) probe: bool,
}

/// No policy: submits each request at once, on the current thread, and learns nothing.
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
            max_batch: config.max_batch.unwrap_or(crate::backend::MAX_BATCH),
        }
    }

    fn plan(&self, _: &OpInfo, _: Option<&FileHistory>, _: u32) -> SubmitPlan {
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

    fn defer_flush(&mut self, _: usize) -> bool {
        false
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn flush_full_batch(&self) -> bool {
        true
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
