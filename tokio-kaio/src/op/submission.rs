//! [`SubmissionEntry`]: an entry for the offload pool.

use std::sync::Arc;

use super::OpenFile;
use crate::backend::Sqe;
use crate::policy::OpClass;

/// An entry for the offload pool, with the file, which keeps the descriptor open.
#[derive(Debug)]
pub(crate) struct SubmissionEntry {
    pub(crate) sqe: Sqe,
    pub(crate) file: Arc<OpenFile>,
    /// The class of requests that learns from the submission. See
    /// [`SubmitPlan::class`](crate::policy::SubmitPlan).
    pub(crate) class: Option<OpClass>,
    /// The request was already submitted once, with `RWF_NOWAIT`, and counted as submitted.
    pub(crate) resubmitted: bool,
}

impl SubmissionEntry {
    pub(crate) fn new(sqe: Sqe, file: Arc<OpenFile>, class: Option<OpClass>) -> SubmissionEntry {
        SubmissionEntry {
            sqe,
            file,
            class,
            resubmitted: false,
        }
    }
}
