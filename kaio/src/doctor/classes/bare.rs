//! [`Bare`]: submissions without a flag, and the [`Verdict`] on them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio_kaio::SubmitPolicy;

use super::share::{median, percent, share};
use super::subject::Subject;
use super::watch::watch;
use super::{Class, Effort, Result, Target};

/// A class blocks if at least this share of its submissions slept, or if more of its time went by
/// inside of them, unless it is done then.
const MOST: f64 = 0.5;

/// It is done inline only if at least this share of its time goes by inside. Where less does, another
/// thread was quick enough to have it done by the time that somebody looked, as a loop device's is.
const MUCH: f64 = 0.25;

/// What single submissions without a flag did, under [`SubmitPolicy::Inline`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bare {
    /// Submissions that were watched.
    pub seen: u64,
    /// The thread gave up its CPU by itself while it submitted.
    pub slept: u64,
    /// Requests that were done when the submission returned, without that.
    pub done: u64,
    /// Time in `io_submit`, of all of them together.
    pub inside: Duration,
    /// Time until they were done.
    pub total: Duration,
    /// The median time of one.
    pub median: Duration,
}

/// What a submission does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It returns, and the request is done later.
    Async,
    /// The request is done when it returns.
    Inline,
    /// Its thread sleeps inside.
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

impl Bare {
    /// Makes requests of a class, and looks at each.
    ///
    /// # Errors
    ///
    /// Where there can be no such file or context, or a request fails.
    pub async fn measure(target: &Target, class: Class, effort: Effort) -> Result<Bare> {
        let mut subject = Subject::new(target, class, effort, SubmitPolicy::Inline).await?;
        let mut bare = Bare::default();
        let mut times = vec![];
        for i in effort.requests(class) {
            subject.prepare(i).await?;
            let handle = subject.handle();
            let watched = watch(&handle, subject.request(i, false)).await;
            watched.result?;
            // One in 61 waits a moment for company instead of being submitted where it is polled.
            if watched.submitted {
                bare.seen += 1;
                bare.slept += u64::from(watched.slept);
                bare.done += u64::from(watched.done && !watched.slept);
                bare.inside += watched.inside;
                bare.total += watched.time;
                times.push(watched.time);
            }
        }
        subject.close().await;
        bare.median = median(times);
        Ok(bare)
    }

    /// The part of the requests' time in which their thread was in `io_submit`, 0 to 1.
    pub fn share_inside(&self) -> f64 {
        share(self.inside, self.total)
    }

    /// The part of the submissions that slept, 0 to 1.
    pub fn share_slept(&self) -> f64 {
        self.of_all(self.slept)
    }

    /// What most of the submissions did.
    pub fn verdict(&self) -> Verdict {
        if self.share_slept() >= MOST {
            Verdict::Blocks
        } else if self.of_all(self.done) >= MOST && self.share_inside() >= MUCH {
            Verdict::Inline
        } else if self.share_inside() > MOST {
            Verdict::Blocks
        } else {
            Verdict::Async
        }
    }

    /// The share of the submissions that slept, as text, where that is not told by the verdict.
    pub fn exceptions(&self) -> String {
        match self.share_slept() {
            0.01..MOST => format!(" ({} slept)", percent(self.slept, self.seen)),
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
        let bare = Bare {
            seen: 100,
            slept,
            done,
            inside: inside * MS,
            total: 100 * MS,
            median: MS,
        };
        bare.verdict()
    }

    #[test]
    fn it_blocks_if_half_slept_or_most_of_the_time_is_inside_and_it_is_not_done_then() {
        assert_eq!(verdict(50, 0, 10), Verdict::Blocks);
        assert_eq!(verdict(0, 0, 51), Verdict::Blocks);
        assert_eq!(verdict(0, 50, 99), Verdict::Inline);
        assert_eq!(verdict(49, 49, 50), Verdict::Async);
    }

    #[test]
    fn what_another_thread_has_done_meanwhile_is_not_inline() {
        assert_eq!(verdict(0, 100, 25), Verdict::Inline);
        assert_eq!(verdict(0, 100, 12), Verdict::Async);
    }
}
