//! [`Limit`]: `--limit`.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// No more than so many bytes a second. Lanes take turns: each waits until those before it have had
/// their time.
#[derive(Debug)]
pub(super) struct Limit {
    bytes_per_second: u64,
    /// When the bytes that were taken so far have had their time.
    free_at: Cell<Option<Instant>>,
}

impl Limit {
    pub(super) fn new(bytes_per_second: u64) -> Limit {
        Limit {
            bytes_per_second,
            free_at: Cell::new(None),
        }
    }

    /// Waits until `bytes` may be moved.
    pub(super) async fn take(&self, bytes: u64) {
        let now = Instant::now();
        // What was not used meanwhile is lost: no bursts.
        let starts = self.free_at.get().map_or(now, |at| at.max(now));
        let time = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let ends = time.ok().and_then(|time| starts.checked_add(time));
        self.free_at.set(Some(ends.unwrap_or(starts)));
        sleep_until(starts).await;
    }

    /// Of pieces of at most `most` bytes, a multiple of `grain`, the size of which there are some
    /// every second.
    pub(super) fn piece(&self, most: u64, grain: u64) -> u64 {
        let tenth = (self.bytes_per_second / 10).next_multiple_of(grain);
        tenth.clamp(grain, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_waits_for_the_time_of_those_before_it() {
        let limit = Limit::new(1000);
        let start = Instant::now();
        for taken in 0..5 {
            limit.take(500).await;
            assert_eq!(start.elapsed().as_millis(), taken * 500);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_was_not_used_is_no_credit() {
        let limit = Limit::new(1000);
        limit.take(500).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        limit.take(500).await;
        limit.take(500).await;
        assert_eq!(start.elapsed().as_millis(), 500);
    }

    #[test]
    fn pieces_get_smaller_with_the_rate() {
        assert_eq!(Limit::new(1 << 40).piece(1 << 20, 4096), 1 << 20);
        assert_eq!(Limit::new(100_000).piece(1 << 20, 4096), 12288);
        assert_eq!(Limit::new(1).piece(1 << 20, 4096), 4096);
    }
}
