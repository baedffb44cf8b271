//! [`OpOptions`]: what a handle adds to its operations.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Options of all operations that are made with a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpOptions {
    /// `IOPRIO_*`; 0: that of the submitting thread.
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
    /// Of a new handle.
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
    /// Whether the deadline of an operation that starts now has passed already.
    #[inline(always)]
    pub(super) fn has_passed(&self) -> bool {
        match *self {
            TimeLimit::Deadline(deadline) => Instant::now() >= deadline,
            TimeLimit::None | TimeLimit::Timeout(_) => false,
        }
    }

    /// When an operation that starts now has to end.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match *self {
            TimeLimit::None => None,
            TimeLimit::Timeout(timeout) => Instant::now().checked_add(timeout),
            TimeLimit::Deadline(deadline) => Some(deadline),
        }
    }

    /// Resolves then.
    pub(super) fn timer(&self) -> Option<Pin<Box<Sleep>>> {
        self.deadline()
            .map(|deadline| Box::pin(sleep_until(deadline)))
    }
}
