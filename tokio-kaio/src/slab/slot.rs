//! [`Slot`]: one request, from its admission until its future has the result.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::op::{FileId, IoBuffer, IoOp, OpenFile, Outcome};
use crate::policy::SubmitPlan;

/// Identifies a slot for the future of its request. A key is invalid once its slot has been freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Result of an admission.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission {
    /// The request is in flight. The caller must submit [`NewRequest::sqe`](crate::op::NewRequest).
    Launched(SlotKey),
    /// The request is queued, held behind another append, or waits for a blocking thread.
    Queued(SlotKey),
    /// The request has to wait, and needs a duplicate of its borrowed descriptor for that time.
    NeedsFile,
    /// No slot is free, and the request may not wait here: another shard may have a slot.
    Full,
    /// No slot is free, and the context is configured not to let requests wait.
    CapacityExceeded,
    /// The context admits no more requests.
    Stopped,
}

/// The state of a request.
///
/// ```text
/// Free         → Queued, Held, InFlight   admitted
/// Held         → Queued                   the append before it is done
/// Queued       → InFlight                 launched
/// InFlight     → Queued                   the kernel has no room
/// InFlight     → Completed                completion
/// Queued, Held → Completed                the context stops
/// Completed    → Free                     the future has taken the result, or is dropped
///
/// the future is dropped:
/// Queued, Held → Free
/// InFlight     → Abandoned                … or Free, if withdrawn from the offload pool
/// Abandoned    → Free                     completion; or the kernel has no room
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Available for the next request.
    Free,
    /// In the queue, waiting to be submitted.
    Queued,
    /// Waits behind another append to its file. Not in the queue.
    Held,
    /// Submitted, or about to be: by the current thread, or by a thread of the blocking pool. A future
    /// waits for the request.
    InFlight,
    /// In flight, and its future is gone. The slot owns the memory until the completion.
    Abandoned,
    /// The outcome is known, and the future has not taken it yet. After [`Outcome::Stopped`] or
    /// [`Outcome::Lost`], the kernel may still use the memory, which the driver keeps.
    Completed(Outcome),
}

/// A slot. The docs of a field name the states in which it is used. In all other states the field is
/// empty or meaningless.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: SlotState,
    /// Part of the slot's key. Changes when the slot is freed.
    pub(crate) generation: u32,
    /// Part of the `user_data`. Changes with every submission, so that the completion of an earlier
    /// submission is not mistaken for the completion of a later one.
    pub(crate) attempt: u32,
    /// All states except `Free`.
    pub(crate) op: IoOp,
    pub(crate) file_id: FileId,
    pub(crate) buffer: IoBuffer,
    /// `Queued`, `Held`, `InFlight`, `Abandoned`: keeps the descriptor open. `None` if the request is
    /// submitted at once, without `RWF_NOWAIT`, unless the kernel has no room for it: then it is set.
    pub(crate) file: Option<Arc<OpenFile>>,
    /// `Queued`, `Held`, `InFlight`: wakes the task that waits. `None` while that task submits or polls the
    /// request.
    pub(crate) waker: Option<Waker>,
    /// `InFlight`, `Abandoned`: how the request was submitted.
    pub(crate) plan: SubmitPlan,
    /// `Queued`, `InFlight`, `Abandoned`: the request has the append turn of its file.
    pub(crate) has_append_turn: bool,
    /// `InFlight`, `Abandoned`: submitted without a signal, and not completed by the end of the submission.
    pub(crate) unsignalled: bool,
    /// All states except `Free`: time of the admission, if latencies are measured.
    pub(crate) admitted_at: Option<Instant>,
    /// `Queued`: neighbours in the queue. `Free`: `next` is the next free slot.
    pub(crate) previous: u32,
    pub(crate) next: u32,
}

/// Index that stands for "no slot".
pub(crate) const NO_SLOT: u32 = u32::MAX;

impl Slot {
    pub(crate) fn free() -> Slot {
        Slot {
            state: SlotState::Free,
            generation: 0,
            attempt: 0,
            op: IoOp::new(crate::backend::OpCode::Fsync),
            file_id: FileId::borrowed(-1),
            buffer: IoBuffer::None,
            file: None,
            waker: None,
            plan: SubmitPlan::INLINE,
            has_append_turn: false,
            unsignalled: false,
            admitted_at: None,
            previous: NO_SLOT,
            next: NO_SLOT,
        }
    }

    #[inline]
    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(self.state, SlotState::InFlight | SlotState::Abandoned)
    }

    /// Returns whether the request waits to be submitted.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, SlotState::Queued | SlotState::Held)
    }

    #[inline]
    pub(crate) fn user_data(&self, index: u32) -> u64 {
        u64::from(self.attempt) << 32 | u64::from(index)
    }
}
