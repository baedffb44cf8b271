//! [`Engine`]: an implementation of file I/O that can be measured.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::{SteadyPart, Workload};

/// Result of engines and measurements.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The error of an engine that can't run on this machine: the kernel or file system lacks a feature,
/// or forbids it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Unavailable {}

/// An implementation of file I/O that can be measured.
pub trait Engine {
    /// Name on the command line and in tables: `kaio/current-thread`, `bare`.
    fn name(&self) -> &str;

    /// Sets up everything that a run of `workload` needs (runtime, context, file, buffers), so that
    /// the run itself consists of transfers only.
    ///
    /// # Errors
    ///
    /// Errors of the setup; [`Unavailable`] if this machine does not support the engine.
    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>>;

    /// Whether the engine respects [`Workload::files`], and [`Workload::contexts`] up to this number. 0 by
    /// default: it respects neither.
    fn max_contexts(&self) -> usize {
        0
    }
}

/// An engine prepared for one workload.
pub trait Prepared {
    /// Performs at least `run.transfers` transfers, rounded up to whole waves or to the same number for
    /// each task. Checks that each one transfers all of its bytes.
    ///
    /// # Errors
    ///
    /// The first failed transfer.
    fn run(&mut self, run: &Run) -> Result<RunStats>;

    /// The part of the last run to be measured, if it is not the whole run. `None` by default.
    fn steady_part(&self) -> Option<SteadyPart> {
        None
    }
}

/// Parameters of one run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Minimum number of transfers, in total.
    pub transfers: usize,
    /// Seed of the random offsets.
    pub seed: u64,
    /// Whether to record latencies, which costs two clock reads for each transfer or wave.
    pub latencies: bool,
}

/// Statistics of one run, or of one of its tasks.
#[derive(Clone, Debug)]
pub struct RunStats {
    /// Transfers completed.
    pub transfers: u64,
    /// Latencies, of each transfer for tasks and of each whole wave for waves. Empty unless
    /// [`Run::latencies`] is set.
    pub latencies: Latencies,
}

/// Records latencies in a histogram, if enabled.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Option<Histogram<u64>>,
}

impl Latencies {
    /// Creates a recorder. Unless `enabled`, it records nothing.
    pub fn new(enabled: bool) -> Latencies {
        let histogram = enabled.then(|| {
            // 1 ns to 10 s; longer ones saturate. Two significant digits: each task has its own
            // histogram, and with three digits those of 128 tasks would take megabytes of cache.
            Histogram::new_with_bounds(1, 10_000_000_000, 2).expect("valid bounds")
        });
        Latencies { histogram }
    }

    /// Returns the start time, if enabled.
    #[inline]
    pub fn start(&self) -> Option<Instant> {
        self.histogram.as_ref().map(|_| Instant::now())
    }

    /// Records the time since `start`.
    #[inline]
    pub fn stop(&mut self, start: Option<Instant>) {
        if let (Some(histogram), Some(start)) = (&mut self.histogram, start) {
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            histogram.saturating_record(nanos.max(1));
        }
    }

    /// Adds those of another task.
    pub fn merge(&mut self, other: &Latencies) {
        if let (Some(ours), Some(theirs)) = (&mut self.histogram, &other.histogram) {
            ours.add(theirs).expect("the same bounds");
        }
    }

    /// The given quantile (0 to 1). `None` if nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let histogram = self.histogram.as_ref().filter(|h| !h.is_empty())?;
        Some(Duration::from_nanos(histogram.value_at_quantile(quantile)))
    }
}

impl RunStats {
    /// Creates empty statistics.
    pub fn new(run: &Run) -> RunStats {
        RunStats {
            transfers: 0,
            latencies: Latencies::new(run.latencies),
        }
    }

    /// Adds those of another task.
    pub fn merge(&mut self, other: &RunStats) {
        self.transfers += other.transfers;
        self.latencies.merge(&other.latencies);
    }
}
