//! [`SubmissionEntry`]: a request on its way to the offload pool.

use std::sync::Arc;

use super::OpenFile;
use crate::backend::Sqe;
use crate::policy::OpClass;

/// An entry for the offload pool, with what keeps its descriptor open.
#[derive(Debug)]
pub(crate) struct SubmissionEntry {
    pub(crate) sqe: Sqe,
    pub(crate) file: Arc<OpenFile>,
    /// What its submission teaches about the file; see [`SubmitPlan::class`](crate::policy::SubmitPlan).
    pub(crate) class: Option<OpClass>,
    /// The kernel took it before, with `RWF_NOWAIT`, and it was counted then.
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
