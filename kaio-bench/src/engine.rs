//! [`Engine`]: one way to read and write a disk.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Workload;

/// What engines and measurements fail with.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The error of an engine that this machine has no place for: it lacks something, or forbids it. That
/// is no fault of the engine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Unavailable {}

/// One way to read and write a disk.
pub trait Engine {
    /// Its name, on the command line and in tables: `kaio/current-thread`, `bare`.
    fn name(&self) -> &str;

    /// Sets up everything that a run of `workload` needs, so that a run itself does nothing but
    /// transfers: runtime, context, file, buffers.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from running here; [`Unavailable`] if that is the machine.
    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>>;
}

/// An engine that is ready to run one workload.
pub trait Prepared {
    /// Makes `transfers` transfers, or a few more: whole waves, the same number for each task.
    /// Each of them is checked to have moved all of its bytes.
    ///
    /// # Errors
    ///
    /// The first transfer that fails.
    fn run(&mut self, run: &Run) -> Result<Tally>;
}

/// What one run is to do.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Least transfers, in all.
    pub transfers: usize,
    /// Seed of random offsets.
    pub seed: u64,
    /// Whether latencies are taken: it costs two looks at the clock for each transfer or wave.
    pub latencies: bool,
}

/// What one run has done, or one task of it.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Transfers made.
    pub transfers: u64,
    /// Nanoseconds from the start of what a task waits for to its end: of each transfer for
    /// tasks, of each whole wave for waves. Empty unless asked for.
    pub latencies: Latencies,
}

/// Takes the time, if it is to be taken.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Option<Histogram<u64>>,
}

impl Latencies {
    /// `wanted`: whether anything is to be recorded.
    pub fn new(wanted: bool) -> Latencies {
        let histogram = wanted.then(|| {
            // 1 ns to 10 s and more. Two digits: each task has a histogram, and with three, those
            // of 128 tasks would be megabytes to go through the caches.
            Histogram::new_with_bounds(1, 10_000_000_000, 2).expect("valid bounds")
        });
        Latencies { histogram }
    }

    /// The start of something.
    #[inline]
    pub fn start(&self) -> Option<Instant> {
        self.histogram.as_ref().map(|_| Instant::now())
    }

    /// The end of what started at `start`.
    #[inline]
    pub fn stop(&mut self, start: Option<Instant>) {
        if let (Some(histogram), Some(start)) = (&mut self.histogram, start) {
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            histogram.saturating_record(nanos.max(1));
        }
    }

    /// Adds another task's.
    pub fn merge(&mut self, other: &Latencies) {
        if let (Some(ours), Some(theirs)) = (&mut self.histogram, &other.histogram) {
            ours.add(theirs).expect("the same bounds");
        }
    }

    /// The latency that `share` (0 to 1) of the transfers did not exceed. `None`: none was
    /// recorded.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let histogram = self.histogram.as_ref().filter(|h| !h.is_empty())?;
        Some(Duration::from_nanos(histogram.value_at_quantile(share)))
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new(run: &Run) -> Tally {
        Tally {
            transfers: 0,
            latencies: Latencies::new(run.latencies),
        }
    }

    /// Adds another task's.
    pub fn merge(&mut self, other: &Tally) {
        self.transfers += other.transfers;
        self.latencies.merge(&other.latencies);
    }
}
