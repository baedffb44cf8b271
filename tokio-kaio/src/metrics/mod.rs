//! [`Metrics`]: what a context has done.

mod counters;
#[cfg(feature = "metrics")]
mod facade;
mod histogram;

#[cfg(feature = "metrics")]
pub(crate) use facade::describe;

pub(crate) use counters::{Counters, ReapSource, SLOW_SUBMIT, SubmitCounters};
pub use histogram::LatencyHistogram;

use std::time::Duration;

/// What a context has done since it was made, and is doing now: a snapshot, from
/// [`GenericAioContextHandle::metrics`](crate::GenericAioContextHandle::metrics).
///
/// Counters only grow. Each request counts once, however often it had to be submitted. The numbers
/// are of one moment, but for a context with
/// [shards](crate::AioContextBuilder::shards), whose numbers are added up one shard after another,
/// and for what the threads of the blocking pool are just doing.
///
/// What keeps a program from getting what it expects of asynchronous I/O is in
/// [`nowait_refusals`](Metrics::nowait_refusals), [`offloads`](Metrics::offloads),
/// [`slow_submits`](Metrics::slow_submits), [`found_full`](Metrics::found_full) and
/// [`ring`](Metrics::ring).
///
/// # Rates and averages
///
/// [`since`](Metrics::since) gives what has happened between two snapshots; then
///
/// - operations a second: `completed` by the time between them;
/// - requests a call: [`mean_batch`](Metrics::mean_batch);
/// - time of a call on the runtime's threads: [`mean_submit`](Metrics::mean_submit). Many calls that
///   wait for less than a millisecond each are seen here, not in
///   [`slow_submits`](Metrics::slow_submits);
/// - share of a thread that goes into such calls: `submit_time` by the time between, where all are
///   timed.
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
/// // What comes from here on, apart from what was before.
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
    /// [thread pool](crate::Backend::ThreadPool).
    pub submitted: u64,
    /// Of these, the ones that are done, whatever they came to.
    pub completed: u64,
    /// Requests that ended with an errno: of its event, or because the kernel did not take them.
    /// An `EAGAIN` to a `NOWAIT` of the caller's own is one.
    pub failed: u64,

    /// Completions that matched no request in flight: duplicates, or made up. The kernel is not known to
    /// post any; each is ignored.
    pub unmatched_completions: u64,

    /// Requests that wait to be submitted, for a slot or to share a system call, now.
    pub queued: usize,
    /// Requests that the kernel has now, or that are on their way to it.
    pub in_flight: usize,
    /// Of those in flight, the ones that no future waits for: it was dropped.
    pub abandoned_in_flight: usize,
    /// Of those in flight, the ones that wait for a thread of the blocking pool.
    pub waiting_for_thread: usize,

    /// Futures that were dropped when the kernel had their request.
    pub abandoned: u64,
    /// Requests that found no free slot, and waited or failed.
    pub found_full: u64,

    /// Calls of `io_submit`, on whatever thread; of the thread-pool backend, transfers and syncs.
    pub batches: u64,
    /// Calls by the number of requests that they took: 1, 2, up to 4, 8, 16, 32, 64. Each call is in
    /// one of them: 3 requests count for *up to 4* alone.
    pub batch_sizes: [u64; 7],

    /// Events by what found them.
    pub reaped: Reaped,
    /// Whether events are taken out of a ring in user memory. `false`: by `io_getevents`, a system
    /// call for each look, because the kernel maps no such ring (gVisor); or the backend is the
    /// thread pool, which has none.
    pub ring: bool,

    /// Submissions with `RWF_NOWAIT` that the kernel refused (`EAGAIN`, `EOPNOTSUPP`), or served in
    /// part, under [`SubmitPolicy::NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst).
    pub nowait_refusals: u64,
    /// Requests that were given to the blocking pool: all, if the backend is the thread pool.
    pub offloads: u64,
    /// Submissions that took longer than a millisecond, on a thread of the runtime.
    pub slow_submits: u64,
    /// The same on threads of the blocking pool, where they hold up nobody. Of the thread-pool
    /// backend, whole transfers and syncs.
    pub slow_offloads: u64,

    /// Time that threads of the runtime spent inside `io_submit`, in
    /// [`timed_submits`](Metrics::timed_submits) calls.
    pub submit_time: Duration,
    /// Calls that were timed: all but those to where requests have long been done when the call
    /// returned, as on tmpfs. Of those, 1 in 251. None on threads of the blocking pool.
    pub timed_submits: u64,

    /// How long operations took, from the first poll of their future to their event: all since the
    /// context was made. Where that is
    /// [switched on](crate::AioContextBuilder::measure_latency).
    pub latency: Option<LatencyHistogram>,
}

/// Events that were taken from the kernel, by what made the context look for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// A submission had just returned: they were done inside of it, or just then.
    pub after_submit: u64,
    /// The kernel had signalled.
    pub by_signal: u64,
    /// A future was polled.
    pub by_poll: u64,
    /// The background task ran.
    pub by_driver: u64,
    /// A future was dropped, a slot was looked for, or there were more than one look takes.
    pub otherwise: u64,
}

impl Reaped {
    /// With names for the paths.
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
    /// What has happened since `earlier`, an older snapshot of the same context. What is a state, not
    /// a counter (`queued`, `in_flight`, `abandoned_in_flight`, `waiting_for_thread`, `ring`), is that
    /// of `self`.
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

    /// How many requests a call took, on average. `None`: there was no call. A little less than it was
    /// where attempts were refused ([`nowait_refusals`](Metrics::nowait_refusals)): what was refused is
    /// in two calls, and counts once.
    pub fn mean_batch(&self) -> Option<f64> {
        (self.batches > 0).then(|| self.submitted as f64 / self.batches as f64)
    }

    /// How long a call took on a thread of the runtime, on average. `None`: none was timed.
    pub fn mean_submit(&self) -> Option<Duration> {
        let nanos = self
            .submit_time
            .as_nanos()
            .checked_div(self.timed_submits.into())?;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    /// Adds those of another shard.
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

    /// All that only grows, but for times.
    fn counters(&mut self) -> impl Iterator<Item = &mut u64> {
        let reaped = &mut self.reaped;
        [
            &mut self.submitted,
            &mut self.completed,
            &mut self.failed,
            &mut self.unmatched_completions,
            &mut self.abandoned,
            &mut self.found_full,
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
