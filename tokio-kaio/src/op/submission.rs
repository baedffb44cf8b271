//! [`SubmissionEntry`]: an entry for the offload pool.

use std::sync::Arc;

use super::OpenFile;
use crate::backend::{OpCode, Sqe};
use crate::policy::{MAX_MERGED_WRITE, OpClass};
use crate::sys::abi;

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
    /// The offload pool may merge the write with adjacent ones.
    pub(crate) merges: bool,
}

impl SubmissionEntry {
    /// Returns whether the entry is a write that extends its file and may be merged with adjacent writes:
    /// a small plain write without flags other than those of durability, at the priority of the thread.
    pub(crate) fn is_mergeable(&self) -> bool {
        let Sqe {
            opcode,
            priority,
            len,
            rw_flags,
            ..
        } = self.sqe;
        self.class == Some(OpClass::Extend)
            && (opcode, priority) == (OpCode::Write, 0)
            && (1..=MAX_MERGED_WRITE).contains(&len)
            && rw_flags & !(abi::RWF_DSYNC | abi::RWF_SYNC) == 0
    }

    pub(crate) fn new(sqe: Sqe, file: Arc<OpenFile>, class: Option<OpClass>) -> SubmissionEntry {
        SubmissionEntry {
            sqe,
            file,
            class,
            resubmitted: false,
            merges: false,
        }
    }
}
