//! [`SteadyWindow`]: measures the part of a run in which all tasks are active.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bench_report::Sample;
use crate::counting::{self, Counts};
use crate::rusage::ResourceUsage;

/// Measures a run from one transfer to a later one. So the time to start and to end tasks does not count, which
/// with 100,000 tasks would be most of the run.
///
/// The tasks of a run share it. It costs each transfer one atomic addition.
#[derive(Debug, Default)]
pub struct SteadyWindow {
    /// Transfers that were started in this run.
    started: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    marks: Mutex<[Option<Mark>; 2]>,
    is_missed: AtomicBool,
}

/// The measured part of a run.
#[derive(Clone, Debug)]
pub struct SteadyPart {
    /// Time and CPU time.
    pub sample: Sample,
    /// System calls and allocations per transfer, if they were counted.
    pub counts: Option<Counts>,
}

#[derive(Clone, Debug)]
struct Mark {
    time: Instant,
    usage: ResourceUsage,
    counts: Option<Counts>,
}

impl Mark {
    fn now() -> Mark {
        Mark {
            counts: counting::counts_if_on(),
            usage: ResourceUsage::now(),
            time: Instant::now(),
        }
    }
}

impl SteadyWindow {
    /// Prepares for a run. The window opens when transfer `first` is started, and closes when transfer `last`
    /// is; both count from 0.
    pub fn prepare(&self, first: u64, last: u64) {
        self.started.store(0, Ordering::Relaxed);
        self.first.store(first, Ordering::Relaxed);
        self.last.store(last, Ordering::Relaxed);
        self.is_missed.store(false, Ordering::Relaxed);
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) = [None, None];
    }

    /// Records that a transfer is started.
    #[inline]
    pub fn on_transfer(&self) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let is_first = number == self.first.load(Ordering::Relaxed);
        if is_first || number == self.last.load(Ordering::Relaxed) {
            self.mark(usize::from(!is_first));
        }
    }

    #[cold]
    fn mark(&self, index: usize) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        match index == 0 || marks[0].is_some() {
            true => marks[index] = Some(Mark::now()),
            false => self.is_missed.store(true, Ordering::Relaxed),
        }
    }

    /// Returns whether the window was closed before it was open: the thread that opens it was preempted until
    /// the others had made all transfers of the window.
    pub fn is_missed(&self) -> bool {
        self.is_missed.load(Ordering::Relaxed)
    }

    /// Returns the measured part. `None` if the run has not reached both ends of the window, or the window
    /// [was missed](SteadyWindow::is_missed).
    pub fn part(&self) -> Option<SteadyPart> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let [Some(opened), Some(closed)] = &*marks else {
            return None;
        };
        let transfers = self.last.load(Ordering::Relaxed) - self.first.load(Ordering::Relaxed);
        let (before, after) = (opened.usage, closed.usage);
        let nanos = |time: Duration| time.as_nanos() as f64;
        let counts = opened.counts.as_ref().zip(closed.counts.as_ref());
        Some(SteadyPart {
            sample: Sample {
                transfers,
                wall_ns: nanos(closed.time - opened.time),
                user_ns: nanos(after.user.saturating_sub(before.user)),
                system_ns: nanos(after.system.saturating_sub(before.system)),
                busy_ns: None,
                voluntary: after.voluntary_switches - before.voluntary_switches,
                involuntary: after.involuntary_switches - before.involuntary_switches,
            },
            counts: counts.map(|(before, after)| after.per_operation(before, transfers as f64)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_measures_from_its_first_to_its_last_transfer() {
        let window = SteadyWindow::default();
        window.prepare(2, 6);
        for _ in 0..6 {
            assert!(window.part().is_none());
            window.on_transfer();
        }
        window.on_transfer();
        assert_eq!(window.part().unwrap().sample.transfers, 4);
        window.prepare(0, 1);
        assert!(window.part().is_none(), "of the next run");
    }

    #[test]
    fn a_window_that_is_closed_before_it_is_open_has_no_part() {
        let window = SteadyWindow::default();
        window.prepare(0, 1);
        window.mark(1);
        window.mark(0); // of a thread that was preempted
        assert!(window.is_missed() && window.part().is_none());
        window.prepare(0, 1);
        assert!(!window.is_missed());
    }
}
