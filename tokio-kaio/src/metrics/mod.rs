//! [`Metrics`]: a snapshot of a context's counters.

mod counters;
#[cfg(feature = "metrics")]
mod facade;
mod histogram;
mod text;

#[cfg(feature = "metrics")]
pub(crate) use facade::describe;

pub(crate) use counters::{Counters, ReapSource, SLOW_SUBMIT, SubmitCounters};
pub use histogram::LatencyHistogram;

use std::time::Duration;

/// A snapshot of a context's counters since it was made, and of its current state. From
/// [`GenericAioContextHandle::metrics`](crate::GenericAioContextHandle::metrics).
///
/// Counters only grow. Each request counts once, however often it is submitted. All numbers are of one
/// moment, with two exceptions: [shards](crate::AioContextBuilder::shards) are added up one after
/// another, and threads of the blocking pool count after each submission.
///
/// Look at [`nowait_refusals`](Metrics::nowait_refusals), [`offloads`](Metrics::offloads),
/// [`slow_submits`](Metrics::slow_submits), [`found_full`](Metrics::found_full) and
/// [`ring`](Metrics::ring) if asynchronous I/O performs worse than expected. The repository's
/// `docs/observability.md` says what to do about each.
///
/// # Rates and averages
///
/// [`since`](Metrics::since) returns the difference of two snapshots. From the difference,
///
/// - operations per second are `completed` divided by the time between the snapshots;
/// - requests per call are [`mean_batch`](Metrics::mean_batch);
/// - the time of a call on the runtime's threads is [`mean_submit`](Metrics::mean_submit). It shows many
///   calls that block for less than a millisecond each, which are not in
///   [`slow_submits`](Metrics::slow_submits);
/// - the share of a thread spent in calls is `submit_time` divided by the time between the snapshots,
///   where all calls are timed.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AioContextBuilder, File, LockedBuf, ReadFlags};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data");
/// # std::fs::write(&path, [0; 8192])?;
/// let (context, handle) = AioContextBuilder::new(8).measure_latency(true).build()?;
/// let file = File::open(path, false).await?;
/// let mut buffer = LockedBuf::with_size(4096)?;
/// for block in 0..2 {
///     file.read_at(&handle, block * 4096, &mut buffer, 4096, ReadFlags::empty()).await?;
/// }
/// let metrics = handle.metrics();
/// assert_eq!((metrics.submitted, metrics.completed, metrics.failed), (2, 2, 0));
/// assert_eq!((metrics.queued, metrics.in_flight), (0, 0));
/// if let Some(latency) = &metrics.latency {
///     println!("median {:?}, longest {:?}", latency.percentile(50.0), latency.max());
/// }
/// // The counters from here on.
/// let before = metrics;
/// file.read_at(&handle, 0, &mut buffer, 4096, ReadFlags::empty()).await?;
/// assert_eq!(handle.metrics().since(&before).completed, 1);
/// context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Requests that the kernel took, or a thread of the
    /// [thread-pool backend](crate::Backend::ThreadPool).
    pub submitted: u64,
    /// Submitted requests that completed, with success or an errno.
    pub completed: u64,
    /// Requests that ended with an errno: in their completion, or because the kernel did not take them.
    /// `EAGAIN` counts if the caller set the flag `NOWAIT`, and if the library did and the future is dropped, so
    /// that the request is not made again. So does an attempt of the library's own that is made again in another
    /// way: with `DONTCACHE`, which tmpfs refuses, for the edges of an unaligned write.
    pub failed: u64,

    /// Completions that matched no request in flight, and were ignored. The kernel is not known to post
    /// any.
    pub unmatched_completions: u64,

    /// Requests that wait now to be submitted: for a slot, for another append, or to share a system call.
    pub queued: usize,
    /// Requests in flight now: in the kernel, on their way to it, or offloaded.
    pub in_flight: usize,
    /// Requests in flight now whose future was dropped or timed out.
    pub abandoned_in_flight: usize,
    /// Requests in flight now that wait for a thread of the blocking pool.
    pub waiting_for_thread: usize,

    /// Requests whose future was dropped or timed out while they were in flight.
    pub abandoned: u64,
    /// Requests that found no free slot, and waited or failed.
    pub found_full: u64,
    /// Times a [`FileWriter`](crate::FileWriter) was dropped that had not flushed its bytes, or not returned an
    /// error: data may be missing from a file.
    pub unfinished_writers: u64,

    /// Calls of `io_submit`, or `io_uring_enter`, on any thread; and calls of `pwritev2` that the blocking pool
    /// made for small writes that extend a file. With the thread-pool backend: transfers and syncs.
    pub batches: u64,
    /// Calls by the number of requests that they took: up to 1, 2, 4, 8, 16, 32, 64. Each call counts
    /// once: a call with 3 requests only in *up to 4*.
    pub batch_sizes: [u64; 7],

    /// Reaped completions, by cause of the reap.
    pub reaped: Reaped,
    /// Whether completions are read from a ring in user memory. `false` if the kernel maps no such ring
    /// (gVisor), so that each reap takes an `io_getevents` call, and with the thread-pool backend.
    pub ring: bool,

    /// Submissions with `RWF_NOWAIT` that the kernel refused (`EAGAIN`, `EOPNOTSUPP`) or served in part,
    /// under [`SubmitPolicy::NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst).
    pub nowait_refusals: u64,
    /// Requests that were offloaded to the blocking pool. With the thread-pool backend: all.
    pub offloads: u64,
    /// Submissions that took longer than a millisecond, on a thread of the runtime.
    pub slow_submits: u64,
    /// Submissions that took longer than a millisecond on a thread of the blocking pool, where they block
    /// no task. With the thread-pool backend: transfers and syncs.
    pub slow_offloads: u64,

    /// Time that threads of the runtime spent inside `io_submit`, in the
    /// [`timed_submits`](Metrics::timed_submits) calls.
    pub submit_time: Duration,
    /// Calls of `io_submit` that were timed, on threads of the runtime: all, except where requests
    /// complete inside their submission, as on tmpfs. There, at most about 1 call in 256.
    pub timed_submits: u64,

    /// Latencies of all requests, from the time when they were made to their completion. Includes the
    /// wait for a slot. `None` unless they are
    /// [measured](crate::AioContextBuilder::measure_latency).
    pub latency: Option<LatencyHistogram>,
}

/// Numbers of reaped completions, by cause of the reap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// A submission returned: the requests completed inside it, or just then.
    pub after_submit: u64,
    /// The kernel signalled the eventfd.
    pub by_signal: u64,
    /// A future was polled.
    pub by_poll: u64,
    /// The background task ran.
    pub by_driver: u64,
    /// Anything else: a future was dropped, a slot was needed, or there were more than one reap takes.
    pub otherwise: u64,
}

impl Reaped {
    /// The numbers, with the names of the causes.
    #[cfg(feature = "metrics")]
    fn by_path(&self) -> [(&'static str, u64); 5] {
        [
            ("submit", self.after_submit),
            ("signal", self.by_signal),
            ("poll", self.by_poll),
            ("driver", self.by_driver),
            ("other", self.otherwise),
        ]
    }
}

impl Metrics {
    /// Returns the difference to `earlier`, an older snapshot of the same context. Fields that are a state
    /// and not a counter (`queued`, `in_flight`, `abandoned_in_flight`, `waiting_for_thread`, `ring`) are
    /// those of `self`.
    #[must_use]
    pub fn since(&self, earlier: &Metrics) -> Metrics {
        let (mut since, mut earlier) = (self.clone(), earlier.clone());
        for (now, before) in since.counters().zip(earlier.counters()) {
            *now = now.saturating_sub(*before);
        }
        since.submit_time = self.submit_time.saturating_sub(earlier.submit_time);
        if let (Some(now), Some(before)) = (&self.latency, &earlier.latency) {
            since.latency = Some(now.since(before));
        }
        since
    }

    /// Average number of requests per call. `None` if there was no call. A little too low where attempts
    /// were refused ([`nowait_refusals`](Metrics::nowait_refusals)): a refused request is in two calls, and
    /// counts once.
    pub fn mean_batch(&self) -> Option<f64> {
        (self.batches > 0).then(|| self.submitted as f64 / self.batches as f64)
    }

    /// Average time of a call on a thread of the runtime. `None` if no call was timed.
    pub fn mean_submit(&self) -> Option<Duration> {
        let nanos = self
            .submit_time
            .as_nanos()
            .checked_div(self.timed_submits.into())?;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    /// Adds the metrics of another shard.
    pub(crate) fn add(&mut self, mut other: Metrics) {
        for (sum, count) in self.counters().zip(other.counters()) {
            *sum += *count;
        }
        self.queued += other.queued;
        self.in_flight += other.in_flight;
        self.abandoned_in_flight += other.abandoned_in_flight;
        self.waiting_for_thread += other.waiting_for_thread;
        self.ring &= other.ring;
        self.submit_time += other.submit_time;
        match (&mut self.latency, other.latency) {
            (Some(sum), Some(latency)) => sum.add(&latency),
            (none, latency) => *none = latency,
        }
    }

    /// The counters, except times.
    fn counters(&mut self) -> impl Iterator<Item = &mut u64> {
        let reaped = &mut self.reaped;
        [
            &mut self.submitted,
            &mut self.completed,
            &mut self.failed,
            &mut self.unmatched_completions,
            &mut self.abandoned,
            &mut self.found_full,
            &mut self.unfinished_writers,
            &mut self.batches,
            &mut self.nowait_refusals,
            &mut self.offloads,
            &mut self.slow_submits,
            &mut self.slow_offloads,
            &mut self.timed_submits,
            &mut reaped.after_submit,
            &mut reaped.by_signal,
            &mut reaped.by_poll,
            &mut reaped.by_driver,
            &mut reaped.otherwise,
        ]
        .into_iter()
        .chain(&mut self.batch_sizes)
    }
}
