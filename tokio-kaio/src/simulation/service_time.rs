//! [`Latency`] and [`Bandwidth`]: how long a simulated disk takes for a request.

use std::time::Duration;

use super::seeded_rng::SeededRng;

/// The distribution of the time that a simulated disk takes for a request, without the transfer of its data.
///
/// The default is no time at all. Times follow from the seed of the disk, and are the same on every machine.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio_kaio::simulation::Latency;
///
/// // Half of the requests take up to 80 µs, 99 % up to 200 µs, and the slowest takes 5 ms.
/// let flash = Latency::percentiles(&[
///     (0.0, Duration::from_micros(60)),
///     (50.0, Duration::from_micros(80)),
///     (99.0, Duration::from_micros(200)),
///     (100.0, Duration::from_millis(5)),
/// ]);
/// # let _ = flash;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency(Distribution);

/// The distribution of the rate at which a simulated disk transfers data, over requests.
///
/// The requests of a disk share the bandwidth: while one transfers its data, others wait.
///
/// # Examples
///
/// ```
/// use tokio_kaio::simulation::Bandwidth;
///
/// let flash = Bandwidth::uniform(1_500_000_000, 2_000_000_000);
/// # let _ = flash;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Bandwidth {
    /// Bytes a second.
    slowest: u64,
    fastest: u64,
}

/// Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
enum Distribution {
    #[default]
    None,
    Constant(u64),
    Uniform {
        min: u64,
        max: u64,
    },
    /// `min` plus an exponential distribution of this mean.
    Exponential {
        min: u64,
        mean: u64,
    },
    /// Parts of 2³², with times. Ascending. Times between two are linear.
    Percentiles(Box<[(u64, u64)]>),
}

impl Latency {
    /// Every request takes `time`.
    pub const fn constant(time: Duration) -> Latency {
        Latency(Distribution::Constant(nanos(time)))
    }

    /// Times from `min` to `max`, all equally probable.
    ///
    /// # Panics
    ///
    /// If `min` is more than `max`.
    pub const fn uniform(min: Duration, max: Duration) -> Latency {
        let (min, max) = (nanos(min), nanos(max));
        assert!(min <= max, "the smallest latency is more than the largest");
        Latency(Distribution::Uniform { min, max })
    }

    /// `min`, and beyond it an exponential distribution of mean `mean`: many short times, and few long ones.
    pub const fn exponential(min: Duration, mean: Duration) -> Latency {
        let (min, mean) = (nanos(min), nanos(mean));
        Latency(Distribution::Exponential { min, mean })
    }

    /// A measured distribution: percentiles, from 0 to 100, with their times. Between two of them, times are
    /// linear.
    ///
    /// # Panics
    ///
    /// If the first percentile is not 0, the last one is not 100, or percentiles or times do not ascend.
    pub fn percentiles(points: &[(f64, Duration)]) -> Latency {
        let ends = (points.first(), points.last());
        let (Some(first), Some(last)) = ends else {
            panic!("a distribution of latencies needs percentiles 0 and 100");
        };
        assert!(
            first.0 == 0.0 && last.0 == 100.0,
            "the percentiles are from {} to {}, not from 0 to 100",
            first.0,
            last.0
        );
        let ascend = points
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        assert!(ascend, "percentiles and their latencies must ascend");
        let part = |percent: f64| (percent / 100.0 * (1u64 << 32) as f64) as u64;
        let points = points
            .iter()
            .map(|&(percent, time)| (part(percent), nanos(time)));
        Latency(Distribution::Percentiles(points.collect()))
    }

    /// The time of a request.
    pub(super) fn sample(&self, rng: &mut SeededRng) -> Duration {
        let nanos = match &self.0 {
            Distribution::None => 0,
            &Distribution::Constant(time) => time,
            &Distribution::Uniform { min, max } => min + rng.below((max - min).saturating_add(1)),
            &Distribution::Exponential { min, mean } => {
                let beyond = (u128::from(exponential(rng)) * u128::from(mean)) >> 32;
                min.saturating_add(beyond.try_into().unwrap_or(u64::MAX))
            }
            Distribution::Percentiles(points) => {
                let part = rng.next() >> 32;
                let above = points.partition_point(|point| point.0 <= part);
                let ((from, low), (to, high)) = (points[above - 1], points[above]);
                let beyond = u128::from(high - low) * u128::from(part - from);
                low + (beyond / u128::from(to - from)) as u64
            }
        };
        Duration::from_nanos(nanos)
    }
}

impl Bandwidth {
    /// Every request transfers `bytes_per_second`.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub const fn constant(bytes_per_second: u64) -> Bandwidth {
        Bandwidth::uniform(bytes_per_second, bytes_per_second)
    }

    /// Rates from `slowest` to `fastest`, in bytes a second, all equally probable.
    ///
    /// # Panics
    ///
    /// If `slowest` is 0, or more than `fastest`.
    pub const fn uniform(slowest: u64, fastest: u64) -> Bandwidth {
        assert!(slowest > 0, "a bandwidth of 0 transfers nothing");
        assert!(
            slowest <= fastest,
            "the slowest bandwidth is more than the fastest"
        );
        Bandwidth { slowest, fastest }
    }

    /// The time of the transfer of `bytes`.
    pub(super) fn sample(&self, bytes: u64, rng: &mut SeededRng) -> Duration {
        let rate = match self.fastest - self.slowest {
            0 => self.slowest,
            range => self.slowest + rng.below(range.saturating_add(1)),
        };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}

/// Nanoseconds. Five hundred years at most.
const fn nanos(time: Duration) -> u64 {
    let nanos = time.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// Exponentially distributed with mean 1, times 2³².
///
/// By von Neumann's method ("Various techniques used in connection with random digits", 1951), which only
/// compares numbers: a logarithm may differ between C libraries.
fn exponential(rng: &mut SeededRng) -> u64 {
    let mut whole = 0;
    loop {
        let first = rng.next() >> 32;
        let mut last = first;
        let mut is_odd = true;
        loop {
            let next = rng.next() >> 32;
            if next >= last {
                break;
            }
            last = next;
            is_odd = !is_odd;
        }
        if is_odd {
            return (whole << 32) + first;
        }
        whole += 1;
    }
}
