//! [`Run`]: what came of requests under a policy.

use std::time::{Duration, Instant};

use tokio_kaio::SubmitPolicy;

use super::share::{median, share};
use super::subject::Subject;
use super::{Class, Effort, Result, Target};

/// What came of requests under a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// How many there were.
    pub requests: u64,
    /// Attempts with `NOWAIT` that the kernel refused.
    pub refused: u64,
    /// Requests that were given to the blocking pool.
    pub offloaded: u64,
    /// Submissions that held up the runtime's thread for more than a millisecond.
    pub slow: u64,
    /// The runtime's thread, in `io_submit`.
    pub inside: Duration,
    /// Time until requests were done.
    pub total: Duration,
    /// The median time of one.
    pub median: Duration,
}

impl Run {
    /// Makes requests of a class under `policy`.
    ///
    /// # Errors
    ///
    /// Where there can be no such file or context, or a request fails.
    pub async fn measure(
        target: &Target,
        class: Class,
        effort: Effort,
        policy: SubmitPolicy,
    ) -> Result<Run> {
        let mut subject = Subject::new(target, class, effort, policy).await?;
        let mut times = vec![];
        let mut run = Run::default();
        for i in effort.requests(class) {
            subject.prepare(i).await?;
            let before = subject.handle().metrics();
            let began = Instant::now();
            subject.request(i, false).await?;
            times.push(began.elapsed());
            let after = subject.handle().metrics();
            run.requests += 1;
            run.refused += after.nowait_refusals - before.nowait_refusals;
            run.offloaded += after.offloads - before.offloads;
            run.slow += after.slow_submits - before.slow_submits;
            run.inside += after.submit_time - before.submit_time;
        }
        subject.close().await;
        run.total = times.iter().sum();
        run.median = median(times);
        Ok(run)
    }

    /// The part of the requests' time in which the runtime's thread was in `io_submit`, 0 to 1.
    pub fn share_inside(&self) -> f64 {
        share(self.inside, self.total)
    }
}
