//! [`Prefetch`]: how far row groups are fetched ahead.

/// How far the row groups of Parquet files are fetched ahead, while others are decoded.
///
/// ```
/// use kaio_datafusion::{KaioFiles, Prefetch};
///
/// let prefetch = Prefetch::default().with_row_groups(1).with_memory(64 << 20);
/// let files = KaioFiles::new().with_prefetch(prefetch);
/// # assert_eq!(files.metrics().prefetch.row_groups, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    pub(crate) row_groups: usize,
    pub(crate) memory: u64,
}

impl Prefetch {
    /// Switches prefetching off: row groups are read when they are needed.
    pub const fn off() -> Prefetch {
        Prefetch {
            row_groups: 0,
            memory: 0,
        }
    }

    /// Sets how many row groups each reader fetches ahead. Zero switches prefetching off. 2 by default.
    ///
    /// A reader is a partition of a scan, so a query has as many as `target_partitions`.
    #[must_use = "this returns the changed settings"]
    pub const fn with_row_groups(mut self, row_groups: usize) -> Prefetch {
        self.row_groups = row_groups;
        self
    }

    /// Sets how many bytes may be in flight, or fetched and not yet used, for all readers of a
    /// [`KaioFiles`](crate::KaioFiles) together. 128 MiB by default.
    ///
    /// A reader never waits for this memory: what does not fit is read when it is needed.
    #[must_use = "this returns the changed settings"]
    pub const fn with_memory(mut self, bytes: u64) -> Prefetch {
        self.memory = bytes;
        self
    }

    pub(crate) fn is_off(&self) -> bool {
        self.row_groups == 0 || self.memory == 0
    }
}

impl Default for Prefetch {
    fn default() -> Prefetch {
        Prefetch {
            row_groups: 2,
            memory: 128 << 20,
        }
    }
}
