//! [`GroupMetrics`]: a snapshot of the counters of a group.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A snapshot of the counters of a group since it was made, over all contexts, and of its current state. From
/// [`IoGroup::metrics`](crate::IoGroup::metrics).
///
/// An operation that takes several requests (a short transfer that is resumed, more than 1024 buffers) counts
/// as several.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{File, IoGroup, LockedBuf, ReadFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 4096])?;
/// let (context, handle) = aio_context(8, true)?;
/// let group = IoGroup::new("compaction");
/// let file = File::open(path, false).await?;
/// let mut buffer = LockedBuf::with_size(4096)?;
/// file.read_at(&handle.with_group(&group), 0, &mut buffer, 4096, ReadFlags::empty()).await?;
/// let metrics = group.metrics();
/// assert_eq!((metrics.requests, metrics.bytes, metrics.waiting), (1, 4096, 0));
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMetrics {
    /// Requests that have had their turn.
    pub requests: u64,
    /// Bytes that these requests asked for. A read at the end of a file moves fewer.
    pub bytes: u64,
    /// Requests that have had their turn and are not done: they wait for a slot, or are in flight.
    pub in_flight: u64,
    /// Requests that wait for their turn now.
    pub waiting: u64,
    /// Requests that had to wait for their turn.
    pub waited: u64,
    /// How long these requests waited, together. Divided by [`waited`](GroupMetrics::waited) it is the mean of
    /// those that waited.
    pub time_waited: Duration,
}

/// The counters of a group.
#[derive(Debug, Default)]
pub(super) struct GroupCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    waited: AtomicU64,
    nanoseconds_waited: AtomicU64,
}

impl GroupCounters {
    /// A request has had its turn.
    pub(super) fn start(&self, bytes: u64) {
        add(&self.requests, 1);
        add(&self.bytes, bytes);
        add(&self.in_flight, 1);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn start_wait(&self) {
        add(&self.waiting, 1);
    }

    pub(super) fn end_wait(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn add_wait(&self, nanoseconds: u64) {
        add(&self.waited, 1);
        add(&self.nanoseconds_waited, nanoseconds);
    }

    pub(super) fn snapshot(&self) -> GroupMetrics {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GroupMetrics {
            requests: load(&self.requests),
            bytes: load(&self.bytes),
            in_flight: load(&self.in_flight),
            waiting: load(&self.waiting),
            waited: load(&self.waited),
            time_waited: Duration::from_nanos(load(&self.nanoseconds_waited)),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
