//! [`LatencyHistogram`]: the latencies of requests.

use std::fmt;
use std::time::Duration;

/// A histogram of the latencies of requests.
///
/// Each power of two of nanoseconds has 8 buckets, so a duration read from it is at most an eighth too
/// long.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AioContextBuilder, File};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// let (context, handle) = AioContextBuilder::new(8).measure_latency(true).build()?;
/// let file = File::create(path, false).await?;
/// for _ in 0..3 {
///     file.sync_data(&handle).await?;
/// }
/// let latency = handle.metrics().latency.unwrap();
/// assert_eq!(latency.count(), 3);
/// assert!(latency.percentile(50.0) <= latency.percentile(99.0));
/// assert!(latency.percentile(100.0) == Some(latency.max()));
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// By [`bucket`].
    buckets: Box<[u64; BUCKETS]>,
    sum: Duration,
    max: Duration,
}

/// Buckets per power of two.
const PARTS: usize = 8;
/// Powers of two of nanoseconds that have buckets. Durations from some 18 minutes on are in the last
/// bucket.
const POWERS: usize = 40;
const BUCKETS: usize = PARTS * (POWERS - 2);

impl LatencyHistogram {
    pub(crate) fn new() -> LatencyHistogram {
        LatencyHistogram {
            buckets: Box::new([0; BUCKETS]),
            sum: Duration::ZERO,
            max: Duration::ZERO,
        }
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.sum = self.sum.saturating_add(took);
        self.max = self.max.max(took);
    }

    pub(crate) fn add(&mut self, other: &LatencyHistogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&*other.buckets) {
            *sum += count;
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Returns the latencies that were recorded since `earlier`, an older snapshot of the same context.
    /// [`max`](LatencyHistogram::max) is no longer exact then, but a bound like those of
    /// [`buckets`](LatencyHistogram::buckets).
    #[must_use]
    pub fn since(&self, earlier: &LatencyHistogram) -> LatencyHistogram {
        let mut since = self.clone();
        for (count, earlier) in since.buckets.iter_mut().zip(&*earlier.buckets) {
            *count = count.saturating_sub(*earlier);
        }
        since.sum = self.sum.saturating_sub(earlier.sum);
        since.max = since
            .buckets()
            .last()
            .map_or(Duration::ZERO, |(bound, _)| bound.min(self.max));
        since
    }

    /// Number of requests.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The average. `None` if there was no request.
    pub fn mean(&self) -> Option<Duration> {
        let nanos = self.sum.as_nanos().checked_div(self.count().into())?;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    /// The longest duration, exactly.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The duration that `percent` (0 to 100) of the requests did not exceed. It is the bound of a bucket:
    /// at most an eighth too long, and at most [`max`](LatencyHistogram::max). `None` if there was no
    /// request.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let count = self.count();
        let wanted = ((percent * count as f64 / 100.0).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let found = self.buckets().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        found.map(|(bound, _)| bound.min(self.max))
    }

    /// The buckets that are not empty, shortest first. Each has a bound that its durations do not exceed,
    /// and their number.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let counts = self.buckets.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (Duration::from_nanos(bound(bucket)), *count))
    }
}

impl fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatencyHistogram")
            .field("count", &self.count())
            .field("p50", &self.percentile(50.0))
            .field("p99", &self.percentile(99.0))
            .field("max", &self.max)
            .finish()
    }
}

/// The bucket of a duration. Values below 2 × [`PARTS`] have a bucket each.
fn bucket(nanos: u64) -> usize {
    if nanos < 2 * PARTS as u64 {
        return nanos as usize;
    }
    let power = nanos.ilog2() as usize;
    let part = (nanos >> (power - 3)) as usize - PARTS;
    (PARTS * (power - 2) + part).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn bound(bucket: usize) -> u64 {
    if bucket < 2 * PARTS {
        return bucket as u64;
    }
    let (power, part) = (bucket / PARTS + 2, (bucket % PARTS + PARTS) as u64);
    ((part + 1) << (power - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_holds_it() {
        let values = (0..5000).chain((12..39).flat_map(|power| {
            let base = 1_u64 << power;
            [base - 1, base, base + 1, base + base / 3, base + base / 2]
        }));
        for nanos in values {
            let bucket = bucket(nanos);
            assert!(nanos <= bound(bucket), "{nanos}");
            assert!(bucket == 0 || nanos > bound(bucket - 1), "{nanos}");
            assert!(bound(bucket) <= nanos + nanos / 8, "{nanos}");
        }
    }

    #[test]
    fn values_beyond_the_range_are_in_the_last_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        let mut latencies = LatencyHistogram::new();
        latencies.record(Duration::MAX);
        assert_eq!((latencies.count(), latencies.max()), (1, Duration::MAX));
    }

    #[test]
    fn since_subtracts_the_earlier_histogram() {
        let mut latencies = LatencyHistogram::new();
        assert_eq!(latencies.mean(), None);
        latencies.record(Duration::from_millis(30));
        let earlier = latencies.clone();
        for micros in [10, 20, 30] {
            latencies.record(Duration::from_micros(micros));
        }
        let since = latencies.since(&earlier);
        assert_eq!((since.count(), latencies.count()), (3, 4));
        assert_eq!(since.mean(), Some(Duration::from_micros(20)));
        let max = since.max();
        assert!(
            max >= Duration::from_micros(30) && max <= Duration::from_micros(34),
            "{max:?}"
        );
        assert_eq!(latencies.since(&latencies).max(), Duration::ZERO);
        assert_eq!(latencies.since(&latencies).percentile(50.0), None);
    }

    #[test]
    fn percentiles_cover_recorded_and_added_values() {
        let (mut latencies, mut others) = (LatencyHistogram::new(), LatencyHistogram::new());
        assert_eq!(latencies.percentile(50.0), None);
        for micros in 1..=50 {
            latencies.record(Duration::from_micros(micros));
            others.record(Duration::from_micros(50 + micros));
        }
        latencies.add(&others);
        assert_eq!(latencies.count(), 100);
        for percent in 1..=100_u64 {
            let exact = Duration::from_micros(percent);
            let bound = latencies.percentile(percent as f64).unwrap();
            assert!(
                bound >= exact && bound <= exact + exact / 8,
                "{percent}: {bound:?}"
            );
        }
        assert_eq!(latencies.percentile(0.0), latencies.percentile(1.0));
        assert_eq!(latencies.percentile(100.0), Some(latencies.max()));
    }
}
