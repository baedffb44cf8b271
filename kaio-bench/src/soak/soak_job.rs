//! [`SoakJob`]: one workload in one turn.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use fastrand::Rng;
use tokio_kaio::{AioContextHandle, Backend, BufferPool};

use crate::work_counts::{WorkCount, WorkCounts, Workload};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A block that every file system accepts for direct I/O.
pub(crate) const BLOCK: usize = 4096;

/// A workload in one turn: its context, directory and end.
#[derive(Clone, Debug)]
pub(crate) struct SoakJob {
    pub(crate) handle: AioContextHandle,
    pub(crate) backend: Backend,
    /// Buffers of four blocks, registered with the context.
    pub(crate) pool: BufferPool,
    /// A directory for this job.
    pub(crate) dir: PathBuf,
    pub(crate) random: Rng,
    pub(crate) end: Instant,
    pub(crate) workload: Workload,
    pub(crate) counts: WorkCounts,
}

impl SoakJob {
    /// Whether the turn is not over.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    pub(crate) fn count(&self) -> &WorkCount {
        self.counts.of(self.workload)
    }
}
