//! [`SubmitStats`]: how submissions without `NOWAIT` behave, and the [`Verdict`].

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio_kaio::SubmitPolicy;

use super::percent::{median, percent, share};
use super::request_runner::RequestRunner;
use super::timed_request::time_request;
use super::{MeasureSettings, MeasureTarget, RequestClass, Result};

/// A class blocks if at least this share of its submissions slept, or if more than this share of its time
/// was spent in `io_submit`, unless the requests were complete then.
const BLOCKING_SHARE: f64 = 0.5;

/// A class is inline only if at least this share of its time was spent in `io_submit`. Below, another
/// thread, such as that of a loop device, completed the requests before they were first checked.
const INLINE_SHARE: f64 = 0.25;

/// How single submissions behave under [`SubmitPolicy::Inline`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubmitStats {
    /// Submissions that were observed.
    pub seen: u64,
    /// Submissions during which the thread slept.
    pub slept: u64,
    /// Requests that were complete when the submission returned, without a sleep.
    pub done: u64,
    /// Total time in `io_submit`.
    pub inside: Duration,
    /// Total time until the requests were complete.
    pub total: Duration,
    /// The median time of a request.
    pub median: Duration,
}

/// How a submission behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// `io_submit` returns, and the request completes later.
    Async,
    /// The request is complete when `io_submit` returns.
    Inline,
    /// The thread blocks in `io_submit`.
    Blocks,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Async => "async",
            Verdict::Inline => "inline",
            Verdict::Blocks => "blocks",
        })
    }
}

impl SubmitStats {
    /// Issues requests of a class, and observes each submission.
    ///
    /// # Errors
    ///
    /// The file or the context can't be created, or a request fails.
    pub async fn measure(
        target: &MeasureTarget,
        class: RequestClass,
        settings: MeasureSettings,
    ) -> Result<SubmitStats> {
        let mut runner = RequestRunner::new(target, class, settings, SubmitPolicy::Inline).await?;
        let mut stats = SubmitStats::default();
        let mut times = vec![];
        for i in settings.requests(class) {
            runner.prepare(i).await?;
            let handle = runner.handle();
            let timed = time_request(&handle, runner.request(i, false)).await;
            timed.result?;
            // One request in 61 is deferred for batching, and not submitted by its first poll.
            if timed.submitted {
                stats.seen += 1;
                stats.slept += u64::from(timed.slept);
                stats.done += u64::from(timed.done && !timed.slept);
                stats.inside += timed.inside;
                stats.total += timed.time;
                times.push(timed.time);
            }
        }
        runner.close().await;
        stats.median = median(times);
        Ok(stats)
    }

    /// The share of the requests' time that the thread spent in `io_submit`, 0 to 1.
    pub fn share_inside(&self) -> f64 {
        share(self.inside, self.total)
    }

    /// The share of the submissions that slept, 0 to 1.
    pub fn share_slept(&self) -> f64 {
        self.of_all(self.slept)
    }

    /// How most submissions behave.
    pub fn verdict(&self) -> Verdict {
        if self.share_slept() >= BLOCKING_SHARE {
            Verdict::Blocks
        } else if self.of_all(self.done) >= BLOCKING_SHARE && self.share_inside() >= INLINE_SHARE {
            Verdict::Inline
        } else if self.share_inside() > BLOCKING_SHARE {
            Verdict::Blocks
        } else {
            Verdict::Async
        }
    }

    /// The share of the submissions that slept, as text, unless it follows from the verdict.
    pub fn exceptions(&self) -> String {
        match self.share_slept() {
            0.01..BLOCKING_SHARE => format!(" ({} slept)", percent(self.slept, self.seen)),
            _ => String::new(),
        }
    }

    fn of_all(&self, n: u64) -> f64 {
        n as f64 / self.seen.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn verdict(slept: u64, done: u64, inside: u32) -> Verdict {
        let stats = SubmitStats {
            seen: 100,
            slept,
            done,
            inside: inside * MS,
            total: 100 * MS,
            median: MS,
        };
        stats.verdict()
    }

    #[test]
    fn it_blocks_if_half_slept_or_most_time_is_in_io_submit_without_completion() {
        assert_eq!(verdict(50, 0, 10), Verdict::Blocks);
        assert_eq!(verdict(0, 0, 51), Verdict::Blocks);
        assert_eq!(verdict(0, 50, 99), Verdict::Inline);
        assert_eq!(verdict(49, 49, 50), Verdict::Async);
    }

    #[test]
    fn a_request_that_another_thread_completes_is_not_inline() {
        assert_eq!(verdict(0, 100, 25), Verdict::Inline);
        assert_eq!(verdict(0, 100, 12), Verdict::Async);
    }
}
