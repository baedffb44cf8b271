//! [`Options`]: what a handle adds to its operations.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// What all operations have that are made with a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// `IOPRIO_*`; 0: that of the thread that submits it.
    pub(super) priority: u16,
    pub(super) limit: Limit,
}

/// How long an operation may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    None,
    Within(Duration),
    At(Instant),
}

impl Options {
    /// Of a handle as it comes.
    pub(super) const NONE: &Options = &Options {
        priority: 0,
        limit: Limit::None,
    };

    #[inline(always)]
    pub(super) fn is_limited(&self) -> bool {
        !matches!(self.limit, Limit::None)
    }
}

impl Limit {
    /// Whether an operation that starts now is late already.
    #[inline(always)]
    pub(super) fn has_passed(&self) -> bool {
        match *self {
            Limit::At(time) => Instant::now() >= time,
            Limit::None | Limit::Within(_) => false,
        }
    }

    /// When an operation that starts now has no more time. `None`: never.
    pub(super) fn end(&self) -> Option<Instant> {
        match *self {
            Limit::None => None,
            Limit::Within(time) => Instant::now().checked_add(time),
            Limit::At(time) => Some(time),
        }
    }

    /// What is ready when an operation that starts now has no more time.
    pub(super) fn timer(&self) -> Option<Pin<Box<Sleep>>> {
        self.end().map(|end| Box::pin(sleep_until(end)))
    }
}
