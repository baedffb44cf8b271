//! [`OpOptions`]: priority, time limit and group of a handle's operations.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::op_timer::{OpTimer, with_clock_of};
use crate::group::GroupMember;
use crate::sync::OwnThread;

/// Options of all operations of a handle.
#[derive(Clone, Debug)]
pub(crate) struct OpOptions {
    /// `IOPRIO_*`. 0: the priority of the submitting thread.
    pub(super) priority: u16,
    /// An operation may not start at its first poll: there is a deadline or a group. One flag, because every
    /// operation looks at it.
    may_not_start: bool,
    time_limit: TimeLimit,
    group: Option<Arc<GroupMember>>,
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
        may_not_start: false,
        time_limit: TimeLimit::None,
        group: None,
    };

    pub(super) fn set_time_limit(&mut self, limit: TimeLimit) {
        self.time_limit = limit;
        self.update();
    }

    pub(super) fn set_group(&mut self, group: Option<Arc<GroupMember>>) {
        self.group = group;
        self.update();
    }

    fn update(&mut self) {
        let has_deadline = matches!(self.time_limit, TimeLimit::Deadline(_));
        self.may_not_start = has_deadline || self.group.is_some();
    }

    #[inline(always)]
    pub(super) fn may_not_start(&self) -> bool {
        self.may_not_start
    }

    #[inline(always)]
    pub(super) fn time_limit(&self) -> &TimeLimit {
        &self.time_limit
    }

    #[inline]
    pub(super) fn group(&self) -> Option<&Arc<GroupMember>> {
        self.group.as_ref()
    }

    #[inline(always)]
    pub(super) fn has_time_limit(&self) -> bool {
        !matches!(self.time_limit, TimeLimit::None)
    }
}

impl TimeLimit {
    /// Returns whether the deadline has already passed for an operation that starts now, by the clock of the
    /// [timer](TimeLimit::timer).
    pub(super) fn has_passed(&self, own_thread: Option<&OwnThread>) -> bool {
        match *self {
            TimeLimit::Deadline(deadline) => {
                with_clock_of(own_thread, || Instant::now() >= deadline)
            }
            TimeLimit::None | TimeLimit::Timeout(_) => false,
        }
    }

    /// Returns the deadline of an operation that starts now, by the clock of the [timer](TimeLimit::timer).
    pub(super) fn deadline_by_clock_of(&self, own_thread: Option<&OwnThread>) -> Option<Instant> {
        match self {
            TimeLimit::None => None,
            limit => with_clock_of(own_thread, || limit.deadline()),
        }
    }

    /// Returns the deadline of an operation that starts now, by the clock of the current runtime.
    fn deadline(&self) -> Option<Instant> {
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
