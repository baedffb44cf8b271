//! What a submission costs the thread that makes it.

use std::time::{Duration, Instant};

use crate::request::Stay;
use crate::sys;

/// A submission that takes longer is slow: no task should keep a worker for that long.
pub(super) const SLOW: Duration = Duration::from_millis(1);

/// Looks at a thread while it submits.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    slept: Option<i64>,
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) time: Duration,
    slept: bool,
}

impl Watch {
    /// Sees how long it takes. Costs twice a look at the clock.
    pub(super) fn by_the_clock() -> Watch {
        Watch {
            began: Instant::now(),
            slept: None,
        }
    }

    /// Sees whether the thread sleeps, too. Costs two system calls.
    pub(super) fn closely() -> Watch {
        Watch {
            slept: sys::times_slept().ok(),
            ..Watch::by_the_clock()
        }
    }

    pub(super) fn stop(self) -> Effort {
        Effort {
            time: self.began.elapsed(),
            slept: self
                .slept
                .is_some_and(|before| sys::times_slept().is_ok_and(|now| now != before)),
        }
    }
}

impl Effort {
    pub(super) fn is_slow(&self) -> bool {
        self.time >= SLOW
    }

    pub(super) fn stay(&self) -> Stay {
        match self.slept {
            true => Stay::Asleep,
            false if self.is_slow() => Stay::Slow,
            false => Stay::Short,
        }
    }
}
