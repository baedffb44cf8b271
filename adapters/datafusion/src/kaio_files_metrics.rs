//! [`KaioFilesMetrics`]: how files were read and written.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use kaio_object_store::StoreMetrics;

/// How the files of a [`KaioFiles`](crate::KaioFiles) were read and written so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct KaioFilesMetrics {
    /// Reads and writes of the store.
    pub store: StoreMetrics,
    /// Row groups that were fetched ahead.
    pub prefetch: PrefetchMetrics,
}

/// Row groups of Parquet files that were fetched ahead, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefetchMetrics {
    /// Row groups of which column chunks were fetched ahead.
    pub row_groups: u64,
    /// Those of which at least one column chunk was used.
    pub row_groups_used: u64,
    /// Files whose first row group was fetched ahead, while another file was decoded.
    pub files: u64,
    /// Bytes that were fetched ahead.
    pub bytes: u64,
    /// Bytes that were used.
    pub bytes_used: u64,
    /// Bytes that were fetched and dropped unused.
    pub bytes_unused: u64,
    /// Reads that had to wait for a prefetch, because it was not done yet.
    pub waits: u64,
    /// Prefetches that failed. Their data was read again when it was needed.
    pub failed: u64,
    /// Prefetches that were not made, because their memory was not available.
    pub refused: u64,
    /// Bytes of memory that prefetches use now: in flight, or not yet used.
    pub memory: u64,
}

/// A few lines for people. Their form may change.
impl fmt::Display for KaioFilesMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.store)?;
        write!(f, "{}", self.prefetch)
    }
}

/// Two lines for people. Their form may change.
impl fmt::Display for PrefetchMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "row groups fetched ahead: {} ({} bytes), used: {} ({} bytes), across files: {}",
            self.row_groups, self.bytes, self.row_groups_used, self.bytes_used, self.files
        )?;
        write!(
            f,
            "prefetches waited for: {}, failed: {}, without memory: {}, unused bytes: {}",
            self.waits, self.failed, self.refused, self.bytes_unused
        )
    }
}

/// Counts prefetches.
#[derive(Debug, Default)]
pub(crate) struct PrefetchCounters {
    pub(crate) row_groups: AtomicU64,
    pub(crate) row_groups_used: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bytes_used: AtomicU64,
    pub(crate) bytes_unused: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl PrefetchCounters {
    pub(crate) fn read(&self, memory: u64) -> PrefetchMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PrefetchMetrics {
            row_groups: read(&self.row_groups),
            row_groups_used: read(&self.row_groups_used),
            files: read(&self.files),
            bytes: read(&self.bytes),
            bytes_used: read(&self.bytes_used),
            bytes_unused: read(&self.bytes_unused),
            waits: read(&self.waits),
            failed: read(&self.failed),
            refused: read(&self.refused),
            memory,
        }
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
