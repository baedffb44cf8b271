//! Submit policy: decides when, and on which thread, requests are submitted.
//!
//! The driver calls a [`SubmitAdvisor`]. An advisor makes requests cheaper, or keeps threads of the runtime
//! from blocking. As long as it keeps the contract of the trait, it does not change whether a
//! request completes, or with which result. [`Adaptive`] learns
//! from earlier requests. [`Plain`] always gives the same answers. The test suite passes with `Plain`
//! (`--cfg kaio_plain_policy`), which shows that correctness does not depend on any optimisation.
//!
//! To add a policy, add a file with its state, its reason and a measured figure, and call it from
//! [`Adaptive`].

mod adaptive;
mod batching;
mod early_flush;
mod file_history;
mod inline_completion;
mod nowait;
mod plain;
mod submit_advisor;
mod submit_plan;
mod submit_policy;
mod submit_timing;

pub(crate) use adaptive::Adaptive;
pub(crate) use batching::TaskId;
pub(crate) use file_history::{FileHistory, MAX_MERGED_WRITE};
pub(crate) use nowait::{NowaitResult, Refusal};
#[cfg_attr(
    not(any(test, kaio_plain_policy)),
    allow(unused_imports, reason = "for tests")
)]
pub(crate) use plain::Plain;
pub(crate) use submit_advisor::{Observation, PolicyConfig, PollOrder, SubmitAdvisor};
pub(crate) use submit_plan::{Direction, NowaitAttempt, OpClass, OpInfo, SubmitPath, SubmitPlan};
pub use submit_policy::SubmitPolicy;
#[cfg(all(test, not(kaio_loom)))]
pub(crate) use submit_timing::MAX_TRACER_STOPS;
pub(crate) use submit_timing::{SubmitObservation, SubmitTimer, SubmitTiming, TimingLevel};

/// The advisor that contexts use.
#[cfg(not(kaio_plain_policy))]
pub(crate) type DefaultAdvisor = Adaptive;
/// The advisor that contexts use.
#[cfg(kaio_plain_policy)]
pub(crate) type DefaultAdvisor = Plain;
