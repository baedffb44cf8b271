//! [`WorkCounts`]: what the workloads have done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The workloads, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Workload {
    Blocks,
    Cancellation,
    Streams,
    Ranges,
    Unaligned,
    Groups,
    StagedFiles,
    Contexts,
    FullFileSystem,
    BrokenDevice,
}

impl Workload {
    pub(crate) const ALL: [Workload; 10] = [
        Workload::Blocks,
        Workload::Cancellation,
        Workload::Streams,
        Workload::Ranges,
        Workload::Unaligned,
        Workload::Groups,
        Workload::StagedFiles,
        Workload::Contexts,
        Workload::FullFileSystem,
        Workload::BrokenDevice,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Blocks => "blocks",
            Workload::Cancellation => "cancellation",
            Workload::Streams => "streams and growing files",
            Workload::Ranges => "ranges",
            Workload::Unaligned => "unaligned",
            Workload::Groups => "groups",
            Workload::StagedFiles => "staged files",
            Workload::Contexts => "contexts",
            Workload::FullFileSystem => "full file system",
            Workload::BrokenDevice => "device with EIO",
        }
    }
}

/// The counts of one workload.
#[derive(Debug, Default)]
pub(crate) struct WorkCount {
    operations: AtomicU64,
    verified: AtomicU64,
    cancelled: AtomicU64,
    errors: AtomicU64,
}

impl WorkCount {
    /// Counts an operation that has completed.
    pub(crate) fn done(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an operation that has read this number of bytes, which were right.
    pub(crate) fn verified(&self, bytes: usize) {
        self.done();
        self.verified.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts an operation that was dropped, or has passed its deadline.
    pub(crate) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an error that was expected.
    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Operations, bytes verified, operations cancelled, expected errors.
    pub(crate) fn values(&self) -> [u64; 4] {
        let counts = [
            &self.operations,
            &self.verified,
            &self.cancelled,
            &self.errors,
        ];
        counts.map(|count| count.load(Ordering::Relaxed))
    }
}

/// The counts of all workloads.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkCounts(Arc<[WorkCount; Workload::ALL.len()]>);

impl WorkCounts {
    pub(crate) fn of(&self, workload: Workload) -> &WorkCount {
        &self.0[workload as usize]
    }

    pub(crate) fn operations(&self) -> u64 {
        self.0.iter().map(|count| count.values()[0]).sum()
    }
}
