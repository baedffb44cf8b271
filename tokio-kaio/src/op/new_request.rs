//! [`NewRequest`]: a request on its way to the driver.

use std::task::Waker;

use super::{FileRef, IoBuffer, IoOp};
use crate::backend::{Notify, Sqe};
use crate::policy::{OpClass, SubmitTiming, TaskId, TimingLevel};

/// A new request. What it owns stays with the caller until a slot takes it.
pub(crate) struct NewRequest<'a> {
    pub(crate) op: &'a IoOp,
    pub(crate) buffer: &'a mut IoBuffer,
    pub(crate) file: FileRef<'a>,
    /// Still here if no slot needs it yet.
    pub(crate) waker: Option<Waker>,
    pub(crate) task: TaskId,
    /// Of a request that is launched: the entry to submit, and what to learn from its submission.
    pub(crate) sqe: Option<Sqe>,
    pub(crate) class: Option<OpClass>,
    pub(crate) permit: SubmitPermit,
}

impl<'a> NewRequest<'a> {
    #[inline(always)]
    pub(crate) fn new(
        op: &'a IoOp,
        buffer: &'a mut IoBuffer,
        file: FileRef<'a>,
        waker: Waker,
    ) -> NewRequest<'a> {
        NewRequest {
            op,
            buffer,
            file,
            task: TaskId::of(&waker),
            waker: Some(waker),
            sqe: None,
            class: None,
            permit: SubmitPermit::default(),
        }
    }
}

/// Permission to submit without the lock. The driver counts it, which keeps the backend alive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SubmitPermit {
    pub(crate) notify: Notify,
    pub(crate) timing: TimingLevel,
    pub(crate) has_polls: bool,
    /// Number of the last reap when the submission was decided on.
    pub(crate) reap_seq: u32,
}

impl NewRequest<'_> {
    /// Its file learns from the submission.
    #[cold]
    pub(crate) fn observe(&self, timing: &SubmitTiming) {
        if let Some(file) = self.file.open_file() {
            let history = file.history();
            history.observe_submit(self.class, timing.observation);
        }
    }
}
