//! [`RateLimiter`]: limits the transfer rate, for `--limit`.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Limits the bytes per second. Callers are served in FIFO order: each waits until the bytes of the
/// previous callers have had their time.
#[derive(Debug)]
pub(super) struct RateLimiter {
    bytes_per_second: u64,
    /// The time at which the bytes so far are within the rate.
    free_at: Cell<Option<Instant>>,
}

impl RateLimiter {
    pub(super) fn new(bytes_per_second: u64) -> RateLimiter {
        RateLimiter {
            bytes_per_second,
            free_at: Cell::new(None),
        }
    }

    /// Waits until `bytes` may be transferred.
    pub(super) async fn take(&self, bytes: u64) {
        let now = Instant::now();
        // Unused time is lost, so there are no bursts.
        let starts = self.free_at.get().map_or(now, |at| at.max(now));
        let time = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let ends = time.ok().and_then(|time| starts.checked_add(time));
        self.free_at.set(Some(ends.unwrap_or(starts)));
        sleep_until(starts).await;
    }

    /// The size of chunks, at most `most`, at which about ten are transferred per second. A multiple of
    /// `alignment`, as `most` is.
    pub(super) fn chunk_size(&self, most: u64, alignment: u64) -> u64 {
        let tenth = (self.bytes_per_second / 10).next_multiple_of(alignment);
        tenth.clamp(alignment, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_caller_waits_for_the_previous_ones() {
        let limit = RateLimiter::new(1000);
        let start = Instant::now();
        for taken in 0..5 {
            limit.take(500).await;
            assert_eq!(start.elapsed().as_millis(), taken * 500);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unused_time_is_not_credited() {
        let limit = RateLimiter::new(1000);
        limit.take(500).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        limit.take(500).await;
        limit.take(500).await;
        assert_eq!(start.elapsed().as_millis(), 500);
    }

    #[test]
    fn chunks_get_smaller_with_the_rate() {
        assert_eq!(RateLimiter::new(1 << 40).chunk_size(1 << 20, 4096), 1 << 20);
        assert_eq!(RateLimiter::new(100_000).chunk_size(1 << 20, 4096), 12288);
        assert_eq!(RateLimiter::new(1).chunk_size(1 << 20, 4096), 4096);
    }
}
