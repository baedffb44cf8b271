//! Groups: shares and limits of requests. A scheduler beside the driver, which knows nothing of it.
//!
//! An operation of a handle with a group gets a [`Permit`] for each of its requests before it takes its buffer
//! and before its request is admitted. A context has as many permits as its *depth*, by default as many as
//! slots. While permits are left, every request gets one at once. Otherwise requests wait in a [`FairQueue`],
//! and a permit that is returned goes to the next request by virtual time. The public documentation calls this the
//! *turn* of a request.
//!
//! # Who has a permit
//!
//! The permit belongs to the request, not to the future. Whichever comes first returns it:
//!
//! - the waker that the driver wakes when the request completes: the [`Permit`] itself is that waker, and passes
//!   the wake on to the task. So a future that is not polled, or was forgotten, holds no permit;
//! - the request's memory ([`IoBuffer::Grouped`](crate::op::IoBuffer)), which the slot drops when an abandoned
//!   request completes;
//! - the future, when it takes the memory from the driver: the request has completed, or was withdrawn.
//!
//! # Why nothing deadlocks
//!
//! A request waits for a permit before it is admitted, and never after. What an admitted request waits for (a
//! slot, the append before it, a blocking thread, the kernel) is released by requests that were admitted before
//! it, and by the kernel. So admitted requests end, and every permit in use is returned. Locks on ranges of a
//! file are taken before permits, and no holder of a permit waits for one.
//!
//! A permit that is offered to a waiting request is taken by the next poll of its future. The future may never
//! be polled: it was forgotten, or its task waits for another operation first. Such an offer lapses after some
//! 20 ms (see [`GroupScheduler`]), the permit goes to the next request, and the first request is offered another
//! permit once its future is polled. That offer lasts longer. If all lasted for the same time, tasks that are
//! slower than that, on a busy runtime, would pass a permit around without using it.
//!
//! # Locks
//!
//! The scheduler has a lock of its own, which is never held while the driver's is taken, nor while wakers are
//! woken or dropped. A forked child does not take it ([`GroupMember`] checks).

mod fair_queue;
#[cfg(feature = "metrics")]
mod group_facade;
mod group_member;
mod group_metrics;
mod group_scheduler;
mod io_group;
mod pacer;
mod permit;
mod token_bucket;

#[cfg(feature = "metrics")]
pub(crate) use group_facade::describe;
pub(crate) use group_member::{ContextGroups, GroupMember};
pub use group_metrics::GroupMetrics;
pub(crate) use group_scheduler::RuntimeSource;
pub use io_group::IoGroup;
pub(crate) use permit::{HeldPermit, Permit};
