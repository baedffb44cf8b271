//! [`SubmitTimer`]: measures whether a submission blocks its thread.
//!
//! Why: only a measurement shows that the kernel refuses `RWF_NOWAIT` although the submission would not
//! block (XFS), or that submissions block on a file system without the flag. Wall time alone is not enough,
//! because the thread may have been preempted. Two `getrusage` calls are enough, but cost about 0.4 µs. So
//! threads of the runtime make them for one submission in 256, and for the submission after a slow one.
//! Threads of the blocking pool make them for every submission.

use std::time::{Duration, Instant};

use crate::metrics::SLOW_SUBMIT;
use crate::sys::{self, ThreadUsage};

/// How closely a submission is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimingLevel {
    /// Not at all.
    #[default]
    Off,
    /// Wall time: two reads of the clock.
    Clock,
    /// Also sleeps and CPU time of the thread, with two system calls.
    ThreadUsage,
}

/// Whether a submission blocked the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubmitObservation {
    /// It did not block, as far as measured.
    NotBlocked,
    /// It was slow by the clock. The thread may have blocked, or been preempted.
    Slow,
    /// It put the thread to sleep, or used much CPU time.
    Blocked,
}

/// A measurement in progress.
#[derive(Debug)]
pub(crate) struct SubmitTimer {
    start: Instant,
    usage: Option<ThreadUsage>,
}

/// The result of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmitTiming {
    pub(crate) time: Duration,
    pub(crate) observation: SubmitObservation,
}

impl SubmitTimer {
    #[inline]
    pub(crate) fn start(level: TimingLevel) -> Option<SubmitTimer> {
        match level {
            TimingLevel::Off => None,
            TimingLevel::Clock => Some(SubmitTimer {
                start: Instant::now(),
                usage: None,
            }),
            TimingLevel::ThreadUsage => Some(SubmitTimer {
                usage: sys::thread_usage().ok(),
                start: Instant::now(),
            }),
        }
    }

    pub(crate) fn stop(self) -> SubmitTiming {
        let time = self.start.elapsed();
        let observation = match self.usage {
            None if time >= SLOW_SUBMIT => SubmitObservation::Slow,
            None => SubmitObservation::NotBlocked,
            Some(before) => match sys::thread_usage() {
                Ok(after) if has_blocked(before, after) => SubmitObservation::Blocked,
                _ => SubmitObservation::NotBlocked,
            },
        };
        SubmitTiming { time, observation }
    }
}

/// Returns whether the thread blocked between `before` and `after`. Preemption does not count.
fn has_blocked(before: ThreadUsage, after: ThreadUsage) -> bool {
    after.sleeps != before.sleeps || after.cpu.saturating_sub(before.cpu) >= SLOW_SUBMIT
}

impl SubmitTiming {
    /// Returns whether files can learn from this result of a measurement at `level`.
    #[inline]
    pub(crate) fn is_informative(&self, level: TimingLevel) -> bool {
        level == TimingLevel::ThreadUsage || self.observation != SubmitObservation::NotBlocked
    }

    /// Returns whether the submission was slow by the clock, for any reason.
    pub(crate) fn is_slow(&self) -> bool {
        self.time >= SLOW_SUBMIT
    }
}
