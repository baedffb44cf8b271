//! [`Permit`]: the permission of one request of a group to be in flight. [`HeldPermit`]: one that is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::sync::{AtomicWaker, contain};

/// The permit of one request, from its first wait to its end. It is also the waker that the driver wakes when
/// the request is done.
///
/// ```text
/// Waiting → Offered → Held → Returned
///    ▲         └─────► Lapsed          the future was not polled in time
///    └───────────────────┘             the future was polled
/// ```
///
/// A future that is dropped before its permit is `Held` cancels it (*→ Returned*).
#[derive(Debug)]
pub(crate) struct Permit {
    source: Arc<dyn PermitSource>,
    state: AtomicU8,
    /// Number of bytes that the request moves at most.
    pub(super) bytes: u64,
    /// The request is an append, which must not overtake earlier ones.
    pub(super) appends: bool,
    /// Position in the queue. Under the lock of the scheduler, as the four below.
    pub(super) position: AtomicU64,
    /// When the wait began, in nanoseconds since the epoch of the group.
    pub(super) waits_since: AtomicU64,
    /// How long it took, in nanoseconds.
    pub(super) waited: AtomicU64,
    /// The limits of the group were charged.
    pub(super) is_charged: AtomicBool,
    /// How many offers have lapsed.
    pub(super) lapses: AtomicU32,
    /// The task of the operation.
    task: AtomicWaker,
}

/// The state of a permit. Only the future of the operation takes `Offered` to `Held`, without the lock of the
/// scheduler. All changes from `Waiting` and `Lapsed`, and to `Lapsed`, are made under the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum PermitState {
    /// In the queue.
    Waiting,
    /// The future takes it at its next poll.
    Offered,
    /// The request has it.
    Held,
    /// It was offered, and given to another request.
    Lapsed,
    Returned,
}

/// Where permits come from, and go back to.
pub(super) trait PermitSource: std::fmt::Debug + Send + Sync {
    /// The permit is held now.
    fn on_held(&self, permit: &Permit);

    /// The permit is not offered, and its task has been registered. Queues it again if it has lapsed.
    fn wait(&self, permit: &Arc<Permit>);

    /// A held permit comes back.
    fn give_back(&self, permit: &Permit);

    /// The operation no longer wants the permit, which is not held.
    fn cancel(&self, permit: &Arc<Permit>);

    /// The request of the permit, an append, has been admitted.
    fn on_admitted(&self, permit: &Permit);
}

impl Permit {
    pub(super) fn new(source: Arc<dyn PermitSource>, bytes: u64, appends: bool) -> Arc<Permit> {
        Arc::new(Permit {
            source,
            state: AtomicU8::new(PermitState::Waiting as u8),
            bytes,
            appends,
            position: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            is_charged: AtomicBool::new(false),
            lapses: AtomicU32::new(0),
            task: AtomicWaker::new(),
        })
    }

    pub(super) fn is(&self, state: PermitState) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    /// Returns whether the permit waits in the queue for the first time.
    pub(crate) fn is_behind_others(&self) -> bool {
        self.is(PermitState::Waiting) && !self.was_offered()
    }

    /// Returns whether the permit has been offered before, after a wait. Its flow was charged then.
    pub(super) fn was_offered(&self) -> bool {
        self.waited.load(Ordering::Relaxed) != 0
    }

    /// Changes the state, if it is `from`. Returns whether it was.
    pub(super) fn change(&self, from: PermitState, to: PermitState) -> bool {
        let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
        self.state
            .compare_exchange(from as u8, to as u8, done, failed)
            .is_ok()
    }

    /// Sets the task that is woken when the permit is offered, and when the request is done.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Takes the permit if it is offered. Otherwise `waker` is woken when it is.
    pub(crate) fn poll(self: &Arc<Self>, waker: &Waker) -> Option<HeldPermit> {
        self.register(waker); // before the check, so that a later offer wakes it
        if !self.change(PermitState::Offered, PermitState::Held) {
            self.source.wait(self);
            if !self.change(PermitState::Offered, PermitState::Held) {
                return None;
            }
        }
        self.source.on_held(self);
        Some(HeldPermit(Arc::clone(self)))
    }

    /// Leaves the queue, or refuses the offer. Does nothing if the permit is held.
    pub(crate) fn cancel(self: &Arc<Self>) {
        self.source.cancel(self);
    }

    /// Notes that the request has been admitted to the driver.
    pub(crate) fn on_admitted(&self) {
        if self.appends {
            self.source.on_admitted(self);
        }
    }

    /// Returns how long the request waited for its turn.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code))]
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    fn give_back(&self) {
        if self.change(PermitState::Held, PermitState::Returned) {
            self.source.give_back(self);
        }
    }

    /// Wakes the task of the operation. Contains its panics.
    pub(super) fn wake_task(&self) {
        contain(|| self.task.wake());
    }
}

/// Wakes the task of the operation when its request is done. The permit goes back first: the task may not poll
/// the future soon, or ever.
impl Wake for Permit {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.give_back();
        self.wake_task();
    }
}

/// A permit in use. Goes back when it is dropped, unless it has gone back before.
#[derive(Debug)]
pub(crate) struct HeldPermit(Arc<Permit>);

impl Drop for HeldPermit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}
