//! [`ScanProgress`]: whether prefetching pays in a scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kaio_files_metrics::{PrefetchCounters, count};
use crate::read_order::Step;

/// Unused bytes that do not count.
const NEGLIGIBLE: u64 = 8 << 20;

/// What the readers of a scan, of all partitions and files, have read so far.
#[derive(Debug)]
pub(crate) struct ScanProgress {
    counters: Arc<PrefetchCounters>,
    predicted: AtomicU64,
    other: AtomicU64,
    used: AtomicU64,
    unused: AtomicU64,
}

impl ScanProgress {
    pub(crate) fn new(counters: Arc<PrefetchCounters>) -> ScanProgress {
        ScanProgress {
            counters,
            predicted: AtomicU64::new(0),
            other: AtomicU64::new(0),
            used: AtomicU64::new(0),
            unused: AtomicU64::new(0),
        }
    }

    /// The counters of all scans.
    pub(crate) fn counters(&self) -> &PrefetchCounters {
        &self.counters
    }

    pub(crate) fn stepped(&self, step: Step) {
        match step {
            Step::Predicted => count(&self.predicted, 1),
            Step::Other => count(&self.other, 1),
            Step::First | Step::Same => {}
        }
    }

    pub(crate) fn used(&self, bytes: u64) {
        count(&self.used, bytes);
        count(&self.counters.bytes_used, bytes);
    }

    pub(crate) fn unused(&self, bytes: u64) {
        count(&self.unused, bytes);
        count(&self.counters.bytes_unused, bytes);
    }

    /// Whether row groups were read one after another, rather than by leaps.
    pub(crate) fn is_sequential(&self) -> bool {
        self.predicted.load(Ordering::Relaxed) > self.other.load(Ordering::Relaxed)
    }

    /// Whether enough of the fetched bytes are used: two thirds.
    pub(crate) fn is_worthwhile(&self) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        self.unused.load(Ordering::Relaxed) <= NEGLIGIBLE.max(used / 2)
    }
}
