//! [`IoGroup`]: a name, a weight and limits for requests that belong together.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::group_metrics::{GroupCounters, GroupMetrics};
use super::token_bucket::TokenBucket;
use crate::sys::Process;

/// Requests that belong together, such as those of a compaction or of a tenant, with a share of each context
/// and limits. Cheap to clone; clones are the same group.
///
/// [`with_group`](crate::GenericAioContextHandle::with_group) returns a handle whose operations belong to the
/// group. While several groups of a context have requests waiting, they share its slots in proportion to their
/// weights. What a group leaves, the others use, and each gets some. **Operations of handles without a group
/// are not scheduled**: they take slots as they come, before the requests that wait for their turn.
///
/// # Shares
///
/// A group of weight 400 gets four times as much as one of weight 100. What counts is the *cost* of a request:
/// its bytes and 16 KiB. The constant stands for what a request costs whatever its size. On most SSDs and
/// volumes the bandwidth divided by the operations per second is 6 to 40 KiB, so that many bytes take as long as
/// one more operation. Reads and writes cost the same; a sync costs 16 KiB. Polls are not scheduled.
///
/// Shares hold within a context. Groups of different contexts do not know of each other. By default a context
/// schedules a request only when all slots are taken.
/// [`AioContextBuilder::group_depth`](crate::AioContextBuilder::group_depth) keeps fewer requests of groups in
/// the device, which keeps its queue short for those that are urgent.
///
/// The order is that of start-time fair queueing with depth, SFQ(D): W. Jin, J. Chase, J. Kaur, *Interposed
/// proportional sharing for a storage service utility*, SIGMETRICS 2004. Requests of one group go in the order
/// in which they were made.
///
/// # Limits
///
/// [`max_bandwidth`](Self::with_max_bandwidth) and [`max_iops`](Self::with_max_iops) limit the group over all
/// contexts together. They are token buckets: after a pause, 50 ms' worth passes at once. A request larger than
/// that passes whole, and delays the next one. A limit needs tokio's timer.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AlignedBuf, File, IoGroup, ReadFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 16384])?;
/// let (context, handle) = aio_context(64, true)?;
/// let queries = handle.with_group(&IoGroup::new("queries").with_weight(800));
/// let compaction = IoGroup::new("compaction").with_max_bandwidth(200 << 20);
/// let background = handle.with_group(&compaction);
/// let file = File::open(path, false).await?;
/// let (mut row, mut run) = (AlignedBuf::new(4096)?, AlignedBuf::new(16384)?);
/// let flags = ReadFlags::empty();
/// tokio::try_join!(
///     file.read_at(&background, 0, &mut run, 16384, flags),
///     file.read_at(&queries, 8192, &mut row, 4096, flags),
/// )?;
/// compaction.set_max_bandwidth(0); // nobody is waiting any more
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct IoGroup(Arc<Inner>);

struct Inner {
    name: Box<str>,
    weight: AtomicU32,
    bandwidth: TokenBucket,
    iops: TokenBucket,
    counters: GroupCounters,
    epoch: Instant,
    /// The process that made the group. The lock below must not be taken in its forked children.
    owner: Process,
    /// The schedulers in which the group has requests.
    watchers: Mutex<Vec<Weak<dyn LimitWatcher>>>,
}

/// What wants to know that a weight or a limit has changed.
pub(super) trait LimitWatcher: Send + Sync {
    fn on_limits_changed(&self);
}

/// The weight of a group for which none was set, as that of `io.weight` of cgroup v2.
const DEFAULT_WEIGHT: u32 = 100;

const MAX_WEIGHT: u32 = 10_000;

/// The cost of a request of no bytes, in bytes. [`IoGroup`] gives the reason.
const REQUEST_COST: u64 = 16 << 10;

impl IoGroup {
    /// Creates a group with the weight 100 and without limits. The name appears in metrics and traces. Two
    /// groups of the same name are two groups.
    pub fn new(name: impl Into<String>) -> IoGroup {
        let name: String = name.into();
        IoGroup(Arc::new(Inner {
            name: name.into(),
            weight: AtomicU32::new(DEFAULT_WEIGHT),
            bandwidth: TokenBucket::unlimited(),
            iops: TokenBucket::unlimited(),
            counters: GroupCounters::default(),
            epoch: Instant::now(),
            owner: Process::current(),
            watchers: Mutex::new(Vec::new()),
        }))
    }

    /// Sets the weight, as [`set_weight`](Self::set_weight) does, and returns the group.
    pub fn with_weight(self, weight: u32) -> IoGroup {
        self.set_weight(weight);
        self
    }

    /// Sets the limit of bytes, as [`set_max_bandwidth`](Self::set_max_bandwidth) does, and returns the group.
    pub fn with_max_bandwidth(self, bytes_per_second: u64) -> IoGroup {
        self.set_max_bandwidth(bytes_per_second);
        self
    }

    /// Sets the limit of requests, as [`set_max_iops`](Self::set_max_iops) does, and returns the group.
    pub fn with_max_iops(self, requests_per_second: u64) -> IoGroup {
        self.set_max_iops(requests_per_second);
        self
    }

    /// Sets the weight: 1 to 10,000, as `io.weight` of cgroup v2
    /// ([cgroup-v2](https://docs.kernel.org/admin-guide/cgroup-v2.html)); other values are clamped. It applies
    /// from the next request that gets its turn, also to those that wait.
    pub fn set_weight(&self, weight: u32) {
        let weight = weight.clamp(1, MAX_WEIGHT);
        self.0.weight.store(weight, Ordering::Relaxed);
    }

    /// Sets the most bytes per second that requests of the group ask for, over all contexts together. 0:
    /// no limit. It applies at once, also to requests that wait.
    ///
    /// # Examples
    ///
    /// ```
    /// let backup = tokio_kaio::IoGroup::new("backup").with_max_bandwidth(50_000_000);
    /// assert_eq!(backup.max_bandwidth(), Some(50_000_000));
    /// backup.set_max_bandwidth(0);
    /// assert_eq!(backup.max_bandwidth(), None);
    /// ```
    pub fn set_max_bandwidth(&self, bytes_per_second: u64) {
        self.0.bandwidth.set_rate(bytes_per_second, self.now());
        self.notify_watchers();
    }

    /// Sets the most requests per second, over all contexts together. 0: no limit. It applies at once, also
    /// to requests that wait.
    pub fn set_max_iops(&self, requests_per_second: u64) {
        self.0.iops.set_rate(requests_per_second, self.now());
        self.notify_watchers();
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The weight.
    pub fn weight(&self) -> u32 {
        self.0.weight.load(Ordering::Relaxed)
    }

    /// The limit of bytes per second, if there is one.
    pub fn max_bandwidth(&self) -> Option<u64> {
        Some(self.0.bandwidth.rate()).filter(|&rate| rate > 0)
    }

    /// The limit of requests per second, if there is one.
    pub fn max_iops(&self) -> Option<u64> {
        Some(self.0.iops.rate()).filter(|&rate| rate > 0)
    }

    /// Returns a snapshot of the counters. Takes no lock.
    pub fn metrics(&self) -> GroupMetrics {
        self.0.counters.snapshot()
    }

    pub(super) fn counters(&self) -> &GroupCounters {
        &self.0.counters
    }

    /// Returns the time since the group was made.
    pub(super) fn now(&self) -> Duration {
        self.0.epoch.elapsed()
    }

    pub(super) fn is(&self, other: &IoGroup) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_limited(&self) -> bool {
        self.0.bandwidth.rate() != 0 || self.0.iops.rate() != 0
    }

    /// Returns how long the limits hold the next request back.
    pub(super) fn limit_wait(&self) -> Duration {
        if !self.is_limited() {
            return Duration::ZERO;
        }
        let now = self.now();
        self.0.bandwidth.wait(now).max(self.0.iops.wait(now))
    }

    /// Charges the limits for a request of `bytes`. Returns whether there are any.
    pub(super) fn charge_limits(&self, bytes: u64) -> bool {
        let is_limited = self.is_limited();
        if is_limited {
            let now = self.now();
            self.0.bandwidth.charge(bytes, now);
            self.0.iops.charge(1, now);
        }
        is_limited
    }

    /// Takes back the charge for a request of `bytes` that was not made.
    pub(super) fn refund_limits(&self, bytes: u64) {
        self.0.bandwidth.refund(bytes);
        self.0.iops.refund(1);
    }

    /// Calls `watcher` when a limit changes. Not in a forked child: there, waiting requests notice a change when
    /// the pacer looks, within a second.
    pub(super) fn add_watcher(&self, watcher: Weak<dyn LimitWatcher>) {
        if self.0.owner != Process::current() {
            return;
        }
        let mut watchers = self.0.watchers.lock();
        watchers.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&watcher));
        watchers.push(watcher);
    }

    /// Holds the lock until the result is dropped.
    #[cfg(all(test, not(kaio_loom)))]
    pub(crate) fn hold_lock(&self) -> impl Sized + '_ {
        self.0.watchers.lock()
    }

    fn notify_watchers(&self) {
        if self.0.owner != Process::current() {
            return; // another thread of the parent may have held the lock at the fork
        }
        let watchers: Vec<_> = self.0.watchers.lock().clone();
        for watcher in watchers.iter().flat_map(Weak::upgrade) {
            watcher.on_limits_changed();
        }
    }
}

/// The cost of a request of `bytes`.
pub(super) fn cost(bytes: u64) -> u64 {
    bytes.saturating_add(REQUEST_COST)
}

impl fmt::Debug for IoGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoGroup")
            .field("name", &self.name())
            .field("weight", &self.weight())
            .field("max_bandwidth", &self.max_bandwidth())
            .field("max_iops", &self.max_iops())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_cgroups() {
        let group = IoGroup::new("a");
        assert_eq!(group.weight(), 100);
        assert_eq!(group.clone().with_weight(0).weight(), 1);
        group.set_weight(u32::MAX);
        assert_eq!(group.weight(), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn both_limits_hold_requests_back() {
        let group = IoGroup::new("a").with_max_bandwidth(1000).with_max_iops(1);
        assert_eq!(group.limit_wait(), Duration::ZERO);
        group.charge_limits(100_000);
        let by_bandwidth = group.limit_wait();
        assert!(by_bandwidth > Duration::from_secs(90), "{by_bandwidth:?}");
        group.set_max_bandwidth(0);
        let by_iops = group.limit_wait();
        assert!(
            by_iops > Duration::ZERO && by_iops <= Duration::from_secs(1),
            "{by_iops:?}"
        );
        group.set_max_iops(0);
        assert_eq!(group.limit_wait(), Duration::ZERO);
        assert_eq!((group.max_bandwidth(), group.max_iops()), (None, None));
    }
}
