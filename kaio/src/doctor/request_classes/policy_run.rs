//! [`PolicyRun`]: the results of requests under a submit policy.

use std::time::{Duration, Instant};

use tokio_kaio::SubmitPolicy;

use super::percent::{median, share};
use super::request_runner::RequestRunner;
use super::{MeasureSettings, MeasureTarget, RequestClass, Result};

/// The results of requests under a submit policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRun {
    /// The number of requests.
    pub requests: u64,
    /// Attempts with `NOWAIT` that the kernel refused.
    pub refused: u64,
    /// Requests that were offloaded to the blocking pool.
    pub offloaded: u64,
    /// Submissions that blocked the runtime's thread for more than a millisecond.
    pub slow: u64,
    /// Time that the runtime's thread spent in `io_submit`.
    pub inside: Duration,
    /// The sum of the times until the requests were complete.
    pub total: Duration,
    /// The median time of a request.
    pub median: Duration,
}

impl PolicyRun {
    /// Issues requests of a class under `policy`.
    ///
    /// # Errors
    ///
    /// The file or the context can't be created, or a request fails.
    pub async fn measure(
        target: &MeasureTarget,
        class: RequestClass,
        settings: MeasureSettings,
        policy: SubmitPolicy,
    ) -> Result<PolicyRun> {
        let mut runner = RequestRunner::new(target, class, settings, policy).await?;
        let mut times = vec![];
        let mut run = PolicyRun::default();
        for i in settings.requests(class) {
            runner.prepare(i).await?;
            let before = runner.handle().metrics();
            let began = Instant::now();
            runner.request(i, false).await?;
            times.push(began.elapsed());
            let after = runner.handle().metrics();
            run.requests += 1;
            run.refused += after.nowait_refusals - before.nowait_refusals;
            run.offloaded += after.offloads - before.offloads;
            run.slow += after.slow_submits - before.slow_submits;
            run.inside += after.submit_time - before.submit_time;
        }
        runner.close().await;
        run.total = times.iter().sum();
        run.median = median(times);
        Ok(run)
    }

    /// The share of the requests' time that the runtime's thread spent in `io_submit`, 0 to 1.
    pub fn share_inside(&self) -> f64 {
        share(self.inside, self.total)
    }
}
