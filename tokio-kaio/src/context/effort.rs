//! What a submission costs the thread that makes it.

use std::time::{Duration, Instant};

use crate::request::Stay;
use crate::sys::{self, ThreadUsage};

/// A submission that takes longer is slow: no task should keep a worker for that long.
pub(super) const SLOW: Duration = Duration::from_millis(1);

/// Looks at a thread while it submits.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    usage: Option<ThreadUsage>,
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) time: Duration,
    stay: Stay,
}

impl Watch {
    /// Sees how long it takes. Costs twice a look at the clock.
    pub(super) fn by_the_clock() -> Watch {
        Watch {
            began: Instant::now(),
            usage: None,
        }
    }

    /// Sees whether the thread sleeps, too, and for how long it runs. Costs two system calls.
    pub(super) fn closely() -> Watch {
        Watch {
            usage: sys::thread_usage().ok(),
            ..Watch::by_the_clock()
        }
    }

    pub(super) fn stop(self) -> Effort {
        let time = self.began.elapsed();
        let stay = match self.usage {
            None if time >= SLOW => Stay::Long,
            None => Stay::Short,
            Some(before) => sys::thread_usage().map_or(Stay::Short, |now| before.until(now)),
        };
        Effort { time, stay }
    }
}

impl ThreadUsage {
    /// What the thread did between two looks. That others were let run in its place says nothing.
    fn until(self, later: ThreadUsage) -> Stay {
        let waited = later.sleeps != self.sleeps || later.cpu.saturating_sub(self.cpu) >= SLOW;
        match waited {
            true => Stay::Waited,
            false => Stay::Short,
        }
    }
}

impl Effort {
    /// By the clock, whatever the reason.
    pub(super) fn is_slow(&self) -> bool {
        self.time >= SLOW
    }

    pub(super) fn stay(&self) -> Stay {
        self.stay
    }
}
