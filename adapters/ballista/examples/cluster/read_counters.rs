//! [`ReadCounters`]: how an executor has read files.

use std::fmt;

use kaio_datafusion::KaioFiles;
use kaio_object_store::Transfers;
use serde::{Deserialize, Serialize};
use tokio_kaio::Backend;

use crate::Result;
use crate::held_tasks::Hold;

/// A few of the counters of [`KaioFiles::metrics`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadCounters {
    tasks: u64,
    backend: String,
    direct: Reads,
    cached: Reads,
    blocking: Reads,
    direct_failures: u64,
    /// Requests of the AIO context, and the system calls that submitted them.
    aio_requests: u64,
    aio_submits: u64,
    row_groups_ahead: u64,
    row_groups_used: u64,
}

/// Number of reads, and their bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Reads {
    count: u64,
    bytes: u64,
}

impl From<Transfers> for Reads {
    fn from(reads: Transfers) -> Reads {
        let Transfers { count, bytes, .. } = reads;
        Reads { count, bytes }
    }
}

impl ReadCounters {
    pub(crate) fn new(files: &KaioFiles, hold: &Hold) -> ReadCounters {
        let metrics = files.metrics();
        let store = metrics.store;
        let backend = match (store.context_error, store.backend) {
            (Some(error), _) => format!("no direct I/O ({error})"),
            (None, Some(Backend::ThreadPool)) => "threads".to_owned(),
            (None, Some(_)) => "kernel AIO".to_owned(),
            (None, None) => "no direct read".to_owned(),
        };
        let aio = store.aio.unwrap_or_default();
        ReadCounters {
            tasks: hold.finished_tasks(),
            backend,
            direct: store.direct.into(),
            cached: store.cached.into(),
            blocking: store.blocking.into(),
            direct_failures: store.direct_failures,
            aio_requests: aio.completed,
            aio_submits: aio.batches,
            row_groups_ahead: metrics.prefetch.row_groups,
            row_groups_used: metrics.prefetch.row_groups_used,
        }
    }
}

impl fmt::Display for ReadCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tasks; {}: {} direct reads ({}), {} requests in {} submissions; \
             {} reads from the page cache ({}), {} on threads ({}); {} row groups ahead, {} of them used",
            self.tasks,
            self.backend,
            self.direct.count,
            Megabytes(self.direct.bytes),
            self.aio_requests,
            self.aio_submits,
            self.cached.count,
            Megabytes(self.cached.bytes),
            self.blocking.count,
            Megabytes(self.blocking.bytes),
            self.row_groups_ahead,
            self.row_groups_used,
        )?;
        if self.direct_failures > 0 {
            write!(f, "; {} direct reads failed", self.direct_failures)?;
        }
        Ok(())
    }
}

/// Fails if the executors have not read through the store, or none of them directly although `cold` files had
/// to be.
pub(crate) fn check<'a>(
    counters: impl Iterator<Item = &'a ReadCounters>,
    cold: bool,
) -> Result<()> {
    let (mut reads, mut direct) = (0, 0);
    for counters in counters {
        reads += counters.direct.count + counters.cached.count + counters.blocking.count;
        direct += counters.direct.count;
    }
    if reads == 0 {
        return Err("the executors have read nothing through the store".into());
    }
    if cold && direct == 0 {
        return Err(
            "files were not in the page cache, but no executor has read with direct I/O".into(),
        );
    }
    Ok(())
}

/// `1.5 MB`.
struct Megabytes(u64);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB", self.0 as f64 / 1e6)
    }
}
