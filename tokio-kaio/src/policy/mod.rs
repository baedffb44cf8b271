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
mod plain;
mod submit_advisor;
mod submit_plan;
mod submit_policy;
mod submit_timing;

pub(crate) use adaptive::Adaptive;
pub(crate) use append_order::AppendOrder;
pub(crate) use batching::TaskId;
pub(crate) use file_history::FileHistory;
pub(crate) use nowait::{NowaitResult, Refusal};
#[cfg_attr(
    not(any(test, kaio_plain_policy)),
    allow(unused_imports, reason = "for tests")
)]
pub(crate) use plain::Plain;
pub(crate) use submit_advisor::{Observation, PolicyConfig, PollOrder, SubmitAdvisor};
pub(crate) use submit_plan::{Direction, NowaitAttempt, OpClass, OpInfo, SubmitPath, SubmitPlan};
pub use submit_policy::SubmitPolicy;
pub(crate) use submit_timing::{SubmitObservation, SubmitTimer, SubmitTiming, TimingLevel};

/// The advisor of contexts.
#[cfg(not(kaio_plain_policy))]
pub(crate) type DefaultAdvisor = Adaptive;
/// The advisor of contexts.
#[cfg(kaio_plain_policy)]
pub(crate) type DefaultAdvisor = Plain;
