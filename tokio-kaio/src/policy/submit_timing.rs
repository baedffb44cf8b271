//! [`SubmitTimer`]: measures whether a submission blocks its thread.
//!
//! Why: only a measurement shows that the kernel refuses `RWF_NOWAIT` although the submission would not
//! block (XFS), or that submissions block on a file system without the flag. Wall time alone is not enough,
//! because the thread may have been preempted. Two `getrusage` calls are enough, but cost about 0.4 µs. So
//! threads of the runtime make them for one submission in 256, and for the submission after a slow one.
//! Threads of the blocking pool make them for every submission.
//!
//! A tracer, such as `strace`, stops the thread when it enters and when it leaves a system call, and the
//! kernel counts each stop as a sleep. `getrusage` never blocks. So if the thread has slept, and a further
//! `getrusage` shows another sleep, a tracer stops it at system calls, and those stops are subtracted. Without
//! that, `strace -f` made the reads of a disk go to the blocking pool: every read at depth 1, and half of them
//! at depth 32.

use std::io;
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
                Ok(after) if has_blocked(before, after, sys::thread_usage) => {
                    SubmitObservation::Blocked
                }
                _ => SubmitObservation::NotBlocked,
            },
        };
        SubmitTiming { time, observation }
    }
}

/// Number of times that a tracer stops a thread for a system call.
const STOPS_PER_CALL: i64 = 2;
/// Number of system calls from one `getrusage` to the next whose stops are counted: the submission, the end of
/// the first `getrusage` and the start of the second.
const TRACED_CALLS: i64 = 2;
/// Maximum stops by a tracer from one `getrusage` to the next. A thread that sleeps more often has blocked.
pub(crate) const MAX_TRACER_STOPS: i64 = TRACED_CALLS * STOPS_PER_CALL;

/// Returns whether the thread blocked between `before` and `after`. Neither preemption nor the stops of a
/// tracer count. `usage` returns the usage of the thread, and never blocks.
fn has_blocked(
    before: ThreadUsage,
    after: ThreadUsage,
    usage: impl FnOnce() -> io::Result<ThreadUsage>,
) -> bool {
    let sleeps = after.sleeps - before.sleeps;
    let has_slept = sleeps != 0 && {
        let is_stopped = usage().is_ok_and(|again| again.sleeps != after.sleeps);
        !is_stopped || sleeps > MAX_TRACER_STOPS
    };
    has_slept || after.cpu.saturating_sub(before.cpu) >= SLOW_SUBMIT
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

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(sleeps: i64, cpu: Duration) -> ThreadUsage {
        ThreadUsage { sleeps, cpu }
    }

    /// Whether a submission with this many sleeps blocked, if a further `getrusage` sleeps `again` times.
    fn blocked(sleeps: i64, again: i64) -> bool {
        let [before, after, later] =
            [10, 10 + sleeps, 10 + sleeps + again].map(|sleeps| usage(sleeps, Duration::ZERO));
        has_blocked(before, after, || Ok(later))
    }

    #[test]
    fn a_sleep_is_a_block() {
        assert!(!blocked(0, 0));
        assert!(blocked(1, 0) && blocked(4, 0));
    }

    #[test]
    fn the_stops_of_a_tracer_are_no_sleeps() {
        for stops in 1..=4 {
            assert!(!blocked(stops, 2) && !blocked(stops, 1), "{stops}");
        }
        assert!(blocked(5, 2), "slept during the submission");
    }

    #[test]
    fn without_a_further_measurement_a_sleep_is_a_block() {
        let [before, after] = [0, 1].map(|sleeps| usage(sleeps, Duration::ZERO));
        let unknown = || Err(io::ErrorKind::Unsupported.into());
        assert!(has_blocked(before, after, unknown));
    }

    #[test]
    fn much_cpu_time_is_a_block_also_under_a_tracer() {
        let [before, after] = [Duration::ZERO, SLOW_SUBMIT].map(|cpu| usage(0, cpu));
        assert!(has_blocked(before, after, || Ok(after)));
        let stopped = usage(4, SLOW_SUBMIT);
        assert!(has_blocked(before, stopped, || Ok(usage(6, SLOW_SUBMIT))));
    }
}
