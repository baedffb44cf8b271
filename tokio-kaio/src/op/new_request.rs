//! [`NewRequest`]: a request on its way to the driver.

use std::task::Waker;

use super::{FileRef, IoBuffer, IoOp};
use crate::backend::{Notify, Sqe};
use crate::policy::{OpClass, SubmitTiming, TaskId, TimingLevel};

/// A new request. The buffer and the waker stay here until a slot takes them.
pub(crate) struct NewRequest<'a> {
    pub(crate) op: &'a IoOp,
    pub(crate) buffer: &'a mut IoBuffer,
    pub(crate) file: FileRef<'a>,
    /// The waker, until a slot takes it. After the submission: a waker to drop, if any.
    pub(crate) waker: Option<Waker>,
    pub(crate) task: TaskId,
    /// Once launched: the entry to submit. `class` is the class of requests that learns from it.
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
        let task = TaskId::of(&waker);
        NewRequest::of_task(op, buffer, file, waker, task)
    }

    /// Like [`NewRequest::new`], with a waker that is not the waker of `task` itself.
    #[inline(always)]
    pub(crate) fn of_task(
        op: &'a IoOp,
        buffer: &'a mut IoBuffer,
        file: FileRef<'a>,
        waker: Waker,
        task: TaskId,
    ) -> NewRequest<'a> {
        NewRequest {
            op,
            buffer,
            file,
            task,
            waker: Some(waker),
            sqe: None,
            class: None,
            permit: SubmitPermit::default(),
        }
    }
}

/// Permission to submit without the lock. The driver counts permits in use, to keep the backend alive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SubmitPermit {
    pub(crate) notify: Notify,
    pub(crate) timing: TimingLevel,
    /// Some of the requests [wait](crate::backend::OpCode::waits).
    pub(crate) has_waits: bool,
    /// The driver's `reap_seq` when the permit was given.
    pub(crate) reap_seq: u32,
}

impl NewRequest<'_> {
    /// Records the timing of the submission in the history of the file.
    #[cold]
    pub(crate) fn observe(&self, timing: &SubmitTiming) {
        if let Some(file) = self.file.open_file() {
            let history = file.history();
            history.observe_submit(self.class, timing.observation);
        }
    }
}
