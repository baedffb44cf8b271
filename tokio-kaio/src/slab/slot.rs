//! [`Slot`]: one request, from its admission until its future has the result.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::op::{FileId, IoBuffer, IoOp, OpenFile, Outcome};
use crate::policy::SubmitPlan;

/// Names a slot for the future of its request. A key is worthless once the slot is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Result of an admission.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission {
    /// In flight; the caller submits [`NewRequest::sqe`](crate::op::NewRequest).
    Launched(SlotKey),
    /// In the queue, or waiting for a blocking thread.
    Queued(SlotKey),
    /// It has to wait, and needs a duplicate of its descriptor for that.
    NeedsFile,
    /// No slot is free, and it is not to wait here.
    Full,
    /// No slot is free, and requests of this context don't wait.
    CapacityExceeded,
    /// The context takes no more requests.
    Stopped,
}

/// Where a request is in its life.
///
/// ```text
///          ┌────────────────── abandoned ──────────────────┐
///          ▼                                               │
///  Free ──► Queued ──► InFlight ──► Completed ──► Free     │
///    │       │  ▲ ▲       ▲ │                              │
///    │       │  │ └─NoRoom┼─┤                              │
///    │       │  Held      │ └► Abandoned ──► Free          │
///    │       │  ▲         │                                │
///    └───────┼──┴─────────┘                                │
///            └─────────────────────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Available for the next request.
    Free,
    /// Waits to be submitted, in the queue.
    Queued,
    /// Waits behind another append to its file; not in the queue.
    Held,
    /// Submitted, or on its way to the kernel (a request that waits for a blocking thread, too), and
    /// a future waits.
    InFlight,
    /// The same, and nobody waits: the slot owns the memory until the completion.
    Abandoned,
    /// The kernel is done with it; its future has not been polled since.
    Completed(Outcome),
}

/// A slot and what it owns. The fields have a meaning in the states that are named with them, and are
/// empty in all others.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: SlotState,
    /// Of the slot's key. Changes when the slot is freed.
    pub(crate) generation: u32,
    /// Of the `user_data`. Changes with every submission, so that a completion of an earlier one is
    /// never taken for that of a later one.
    pub(crate) attempt: u32,
    /// All states except `Free`.
    pub(crate) op: IoOp,
    pub(crate) file_id: FileId,
    pub(crate) buffer: IoBuffer,
    /// Keeps the descriptor open. `None`: of a descriptor that was borrowed and submitted at once.
    pub(crate) file: Option<Arc<OpenFile>>,
    /// `Queued`, `Held`, `InFlight`: who waits. `None` while its own task submits or polls it.
    pub(crate) waker: Option<Waker>,
    /// In flight: how it was submitted.
    pub(crate) plan: SubmitPlan,
    /// `Queued` or in flight: it has the append turn of its file.
    pub(crate) has_append_turn: bool,
    /// In flight: its completion is not signalled, and was not found after the submission.
    pub(crate) unsignalled: bool,
    /// When it was admitted, if latencies are measured.
    pub(crate) admitted_at: Option<Instant>,
    /// Neighbours in the queue, or the next free slot.
    pub(crate) previous: u32,
    pub(crate) next: u32,
}

/// No slot.
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

    /// Whether it waits to be submitted.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, SlotState::Queued | SlotState::Held)
    }

    #[inline]
    pub(crate) fn user_data(&self, index: u32) -> u64 {
        u64::from(self.attempt) << 32 | u64::from(index)
    }
}
