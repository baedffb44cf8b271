//! [`SubmitTimer`]: measures whether a submission blocks its thread.
//!
//! Why: only measurement shows where `RWF_NOWAIT` is refused although the submission would not have
//! blocked (XFS), or where a file system without the flag blocks. Time alone does not tell: another
//! thread may have been scheduled meanwhile. Two `getrusage` calls do; they cost about 0.4 µs, so they
//! are made for one submission in 256, and after one that took long by the clock.

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
    /// Also sleeps and CPU time of the thread: two system calls.
    ThreadUsage,
}

/// What a submission did to the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubmitObservation {
    /// It did not block, as far as was measured.
    NotBlocked,
    /// It took long by the clock. The thread may have blocked, or been preempted.
    Slow,
    /// It put the thread to sleep, or used its CPU for long.
    Blocked,
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct SubmitTimer {
    start: Instant,
    usage: Option<ThreadUsage>,
}

/// A measured submission.
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

/// Whether the thread blocked between two measurements. Preemption does not count.
fn has_blocked(before: ThreadUsage, after: ThreadUsage) -> bool {
    after.sleeps != before.sleeps || after.cpu.saturating_sub(before.cpu) >= SLOW_SUBMIT
}

impl SubmitTiming {
    /// Whether there is something to learn, at this level.
    #[inline]
    pub(crate) fn is_news(&self, level: TimingLevel) -> bool {
        level == TimingLevel::ThreadUsage || self.observation != SubmitObservation::NotBlocked
    }

    /// Whether it took long by the clock, whatever the reason.
    pub(crate) fn is_slow(&self) -> bool {
        self.time >= SLOW_SUBMIT
    }
}
