//! [`TokenBucket`]: a rate limit, shared by threads, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A token bucket, as the *generic cell rate algorithm* (ITU-T I.371): instead of tokens it keeps the time at
/// which the amounts so far would have passed at exactly the rate.
///
/// The bucket lets an amount pass while that time is less than [`BURST`] ahead. An amount larger than the burst
/// passes too, and delays the next one. So the rate holds on average for amounts of any size. Callers that check
/// at the same time may both pass; the next one waits longer.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Amount per second. 0: no limit.
    rate: AtomicU64,
    /// The time, in [`TICKS`] since the caller's epoch.
    paid_until: AtomicU64,
}

/// What passes at once after a pause, in time at the rate. Also how late a timer may be without a loss: tokio's
/// has a resolution of one millisecond, and a busy machine delays it.
pub(super) const BURST: Duration = Duration::from_millis(50);

/// Ticks per second. Nanoseconds are too coarse: 4096 bytes at 10 GB/s take 409.6 of them. 64 bits of ticks last
/// 36 years.
const TICKS: u64 = 16_000_000_000;

const BURST_TICKS: u64 = ticks(BURST);

/// Converts the time since the epoch.
const fn ticks(time: Duration) -> u64 {
    let ticks = time.as_nanos() * (TICKS / 1_000_000_000) as u128;
    if ticks > u64::MAX as u128 {
        u64::MAX
    } else {
        ticks as u64
    }
}

impl TokenBucket {
    pub(super) const fn unlimited() -> TokenBucket {
        TokenBucket {
            rate: AtomicU64::new(0),
            paid_until: AtomicU64::new(0),
        }
    }

    /// The limit per second. 0: none.
    pub(super) fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Sets the limit. A new bucket starts empty, so that the rate holds from the start. A debt is converted to
    /// the new rate.
    pub(super) fn set_rate(&self, rate: u64, now: Duration) {
        let now = ticks(now);
        let before = self.rate.swap(rate, Ordering::Relaxed);
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_until| {
                let ahead = match (before, rate) {
                    (_, 0) => 0,
                    (0, _) => BURST_TICKS,
                    _ => scaled(paid_until.saturating_sub(now), before, rate),
                };
                Some(now.saturating_add(ahead))
            });
    }

    /// Returns how long an amount has to wait. 0: it passes now.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        if self.rate() == 0 {
            return Duration::ZERO;
        }
        let paid_until = self.paid_until.load(Ordering::Relaxed);
        let wait = paid_until
            .saturating_sub(BURST_TICKS)
            .saturating_sub(ticks(now));
        Duration::from_nanos(wait.div_ceil(TICKS / 1_000_000_000))
    }

    /// Takes an amount, whether it passes or not.
    pub(super) fn charge(&self, amount: u64, now: Duration) {
        loop {
            let rate = self.rate();
            self.charge_at(rate, amount, now);
            if self.rate() == rate {
                return;
            }
            // `set_rate` may have converted the debt before this amount was added at the old rate, which may be
            // a debt of years at the new one. If it has converted this amount too, less is owed than should be.
            self.refund_at(rate, amount);
        }
    }

    fn charge_at(&self, rate: u64, amount: u64, now: Duration) {
        if rate == 0 {
            return;
        }
        let (now, time) = (ticks(now), scaled(amount, TICKS, rate));
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_until| {
                Some(paid_until.max(now).saturating_add(time))
            });
    }

    /// Returns an amount that was charged and not used.
    pub(super) fn refund(&self, amount: u64) {
        self.refund_at(self.rate(), amount);
    }

    fn refund_at(&self, rate: u64, amount: u64) {
        if rate == 0 {
            return;
        }
        let time = scaled(amount, TICKS, rate);
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_until| {
                Some(paid_until.saturating_sub(time))
            });
    }
}

/// `value * numerator / denominator`, at most `u64::MAX`.
fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limited(rate: u64) -> TokenBucket {
        let bucket = TokenBucket::unlimited();
        bucket.set_rate(rate, Duration::ZERO);
        bucket
    }

    /// Passes amounts of `size` as early as possible, `late` after that, until `end`. Returns the sum.
    fn passed(
        bucket: &TokenBucket,
        size: u64,
        late: Duration,
        start: Duration,
        end: Duration,
    ) -> u64 {
        let (mut now, mut sum) = (start, 0);
        loop {
            let wait = bucket.wait(now);
            if wait > Duration::ZERO {
                now += wait + late;
            }
            if now >= end {
                return sum;
            }
            bucket.charge(size, now);
            sum += size;
        }
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let bucket = TokenBucket::unlimited();
        bucket.charge(u64::MAX, Duration::ZERO);
        assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_limit_that_is_lifted_while_others_are_charged_leaves_no_long_debt() {
        let bucket = TokenBucket::unlimited();
        let done = std::sync::atomic::AtomicBool::new(false);
        let started = std::sync::Barrier::new(2);
        let rounds = if cfg!(miri) { 20 } else { 100_000 };
        // A charge at the old rate is undone a moment later.
        let is_paid = || {
            (0..5000).any(|_| {
                let is_paid = bucket.wait(SECOND) < SECOND;
                if !is_paid {
                    std::thread::sleep(Duration::from_millis(1));
                }
                is_paid
            })
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                started.wait();
                while !done.load(Ordering::Relaxed) {
                    bucket.charge(1 << 30, SECOND);
                }
            });
            started.wait();
            let all_paid = (0..rounds).all(|_| {
                bucket.set_rate(1, SECOND);
                bucket.set_rate(u64::MAX, SECOND);
                is_paid()
            });
            done.store(true, Ordering::Relaxed);
            assert!(all_paid, "{:?} to wait", bucket.wait(SECOND));
        });
    }

    #[test]
    fn the_rate_holds_for_amounts_of_any_size() {
        for rate in [1 << 20, 123_456_789, 10_000_000_000] {
            for size in [512, 4096, 65536, 1 << 20] {
                let steps = if cfg!(miri) { 200 } else { 5000 };
                let time = Duration::from_secs_f64((size * steps) as f64 / rate as f64);
                let sum = passed(&limited(rate), size, Duration::ZERO, Duration::ZERO, time);
                assert!(
                    sum.abs_diff(size * steps) <= 2 * size,
                    "{rate}, {size}: {sum}"
                );
            }
        }
    }

    #[test]
    fn a_late_timer_loses_nothing_within_a_burst() {
        let late = BURST - Duration::from_millis(1);
        let sum = passed(&limited(1000), 1, late, Duration::ZERO, SECOND * 10);
        assert!((9900..=10_100).contains(&sum), "{sum}");
    }

    #[test]
    fn after_a_pause_one_burst_passes_at_once() {
        let bucket = limited(1000);
        let start = SECOND * 5;
        let sum = passed(
            &bucket,
            1,
            Duration::ZERO,
            start,
            start + Duration::from_nanos(1),
        );
        assert!((50..=51).contains(&sum), "{sum}");
    }

    #[test]
    fn a_new_limit_has_no_burst() {
        let bucket = limited(1000);
        let sum = passed(
            &bucket,
            1,
            Duration::ZERO,
            Duration::ZERO,
            Duration::from_micros(900),
        );
        assert_eq!(sum, 1);
    }

    #[test]
    fn a_debt_is_converted_to_a_new_rate_and_gone_without_one() {
        let bucket = limited(100);
        bucket.charge(1000, Duration::ZERO); // ten seconds
        let before = bucket.wait(Duration::ZERO);
        bucket.set_rate(1000, Duration::ZERO);
        let after = bucket.wait(Duration::ZERO);
        assert!(after < before / 9, "{before:?}, {after:?}");
        bucket.set_rate(0, Duration::ZERO);
        assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO);
        bucket.set_rate(10, Duration::ZERO);
        assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO, "no old debt");
    }

    #[test]
    fn what_is_refunded_can_pass_again() {
        let bucket = limited(1000);
        bucket.charge(1000, Duration::ZERO);
        bucket.refund(1000);
        assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn extreme_values_do_not_overflow() {
        for rate in [1, u64::MAX] {
            let bucket = limited(rate);
            bucket.charge(u64::MAX, Duration::MAX);
            bucket.charge(u64::MAX, Duration::ZERO);
            let _ = bucket.wait(Duration::ZERO);
            bucket.set_rate(u64::MAX - rate + 1, Duration::MAX);
            bucket.refund(u64::MAX);
        }
    }
}
