//! [`OpOptions`]: priority and time limit of a handle's operations.

use std::time::Duration;

use tokio::time::Instant;

use super::op_timer::OpTimer;
use crate::sync::OwnThread;

/// Options of all operations of a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpOptions {
    /// `IOPRIO_*`. 0: the priority of the submitting thread.
    pub(super) priority: u16,
    pub(super) time_limit: TimeLimit,
}

/// How long an operation may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum TimeLimit {
    None,
    Timeout(Duration),
    Deadline(Instant),
}

impl OpOptions {
    /// Options of a new handle.
    pub(super) const NONE: &OpOptions = &OpOptions {
        priority: 0,
        time_limit: TimeLimit::None,
    };

    #[inline(always)]
    pub(super) fn has_time_limit(&self) -> bool {
        !matches!(self.time_limit, TimeLimit::None)
    }
}

impl TimeLimit {
    /// Returns whether the deadline has already passed for an operation that starts now.
    #[inline(always)]
    pub(super) fn has_passed(&self) -> bool {
        match *self {
            TimeLimit::Deadline(deadline) => Instant::now() >= deadline,
            TimeLimit::None | TimeLimit::Timeout(_) => false,
        }
    }

    /// Returns the deadline of an operation that starts now.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match *self {
            TimeLimit::None => None,
            TimeLimit::Timeout(timeout) => Instant::now().checked_add(timeout),
            TimeLimit::Deadline(deadline) => Some(deadline),
        }
    }

    /// Returns a timer that fires at the deadline of an operation that starts now. See [`OpTimer::start`].
    pub(super) fn timer(&self, own_thread: Option<&OwnThread>) -> Option<OpTimer> {
        OpTimer::start(|| self.deadline(), own_thread)
    }
}
