//! [`StoreMetrics`]: how the objects of a store were read and written.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_kaio::{Backend, Metrics};

/// How the objects of a store were read and written so far. Clones of a store have the same counters.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreMetrics {
    /// Ranges and chunks that were read with direct I/O, and their bytes.
    pub direct: Transfers,
    /// Those that were in the page cache, and were copied from there without a thread.
    pub cached: Transfers,
    /// Those that were read through the page cache on the blocking pool: small objects, and files without
    /// direct I/O.
    pub blocking: Transfers,
    /// Direct reads that failed, and were repeated through the page cache.
    pub direct_failures: u64,
    /// Requests for objects that are no regular files, such as FIFOs. `LocalFileSystem` has served them.
    pub delegated: u64,
    /// Writes with direct I/O, and their bytes.
    pub direct_writes: Transfers,
    /// Writes through the page cache, and their bytes.
    pub blocking_writes: Transfers,
    /// Files that were opened for reads.
    pub descriptors_opened: u64,
    /// Reads of files that were open already.
    pub descriptors_reused: u64,
    /// Files that are open now.
    pub descriptors_kept: usize,
    /// The backend that runs the direct reads and writes. `None` before the first of them, and if
    /// [`context_error`](StoreMetrics::context_error) says why there is none.
    pub backend: Option<Backend>,
    /// The counters of the AIO context. All stores that were given no other context share it, and so these.
    pub aio: Option<Metrics>,
    /// Why the AIO context could not be made, so that everything is read and written through the page cache.
    pub context_error: Option<String>,
}

/// Number of transfers, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfers {
    /// Number of transfers.
    pub count: u64,
    /// Their bytes together, as the caller sees them: without those between merged ranges.
    pub bytes: u64,
}

/// A few lines for people. Their form may change.
impl fmt::Display for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.context_error, self.backend) {
            (Some(error), _) => writeln!(f, "no direct I/O: {error}")?,
            (None, Some(Backend::ThreadPool)) => writeln!(f, "backend: threads")?,
            (None, Some(_)) => writeln!(f, "backend: kernel AIO")?,
            (None, None) => writeln!(f, "backend: not used yet")?,
        }
        writeln!(
            f,
            "direct reads: {}, failed: {}",
            self.direct, self.direct_failures
        )?;
        writeln!(f, "reads from the page cache: {}", self.cached)?;
        writeln!(f, "reads on threads: {}", self.blocking)?;
        writeln!(f, "direct writes: {}", self.direct_writes)?;
        writeln!(f, "writes on threads: {}", self.blocking_writes)?;
        write!(
            f,
            "files opened: {}, reused: {}, open: {}",
            self.descriptors_opened, self.descriptors_reused, self.descriptors_kept
        )
    }
}

impl fmt::Display for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.count, self.bytes)
    }
}

/// Counts transfers.
#[derive(Debug, Default)]
pub(crate) struct TransferCounter {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl TransferCounter {
    pub(crate) fn add(&self, bytes: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Transfers {
        Transfers {
            count: self.count.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
