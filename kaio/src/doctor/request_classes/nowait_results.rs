//! [`NowaitResults`]: the results of requests with `NOWAIT`.

use std::fmt;

use rustix::io::Errno;
use serde::Serialize;
use tokio_kaio::SubmitPolicy;

use super::percent::percent;
use super::request_runner::RequestRunner;
use super::timed_request::time_request;
use super::{MeasureSettings, MeasureTarget, RequestClass, Result};

/// The results of requests with `NOWAIT`. A refused request is repeated without the flag, as under
/// [`SubmitPolicy::NoWaitFirst`], so that the file is in the state that the next request needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NowaitResults {
    /// Requests that succeeded.
    pub taken: u64,
    /// The part of `taken` whose submission slept nevertheless.
    pub slept: u64,
    /// Requests that were refused because they would block: `EAGAIN`.
    pub would_wait: u64,
    /// Requests that failed because the file system does not support the flag: `EOPNOTSUPP`.
    pub unknown: u64,
}

impl NowaitResults {
    /// Issues requests of a class with `NOWAIT`. A flush takes no flags, so the result is empty.
    ///
    /// # Errors
    ///
    /// The file or the context can't be created, or a request fails with another error.
    pub async fn measure(
        target: &MeasureTarget,
        class: RequestClass,
        settings: MeasureSettings,
    ) -> Result<NowaitResults> {
        const WOULD_WAIT: i32 = Errno::AGAIN.raw_os_error();
        const UNKNOWN: i32 = Errno::OPNOTSUPP.raw_os_error();
        let mut results = NowaitResults::default();
        if class == RequestClass::Sync {
            return Ok(results);
        }
        let mut runner = RequestRunner::new(target, class, settings, SubmitPolicy::Inline).await?;
        for i in settings.requests(class) {
            runner.prepare(i).await?;
            let handle = runner.handle();
            let timed = time_request(&handle, runner.request(i, true)).await;
            match timed.result {
                Ok(()) => {
                    results.taken += 1;
                    results.slept += u64::from(timed.submitted && timed.slept);
                    continue;
                }
                Err(error) => match error.raw_os_error() {
                    Some(WOULD_WAIT) => results.would_wait += 1,
                    Some(UNKNOWN) => results.unknown += 1,
                    _ => return Err(error.into()),
                },
            }
            runner.request(i, false).await?;
        }
        runner.close().await;
        Ok(results)
    }

    /// The number of requests.
    pub fn all(&self) -> u64 {
        self.taken + self.would_wait + self.unknown
    }
}

impl fmt::Display for NowaitResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        let answers = [
            (self.taken - self.slept, "taken"),
            (self.slept, "taken, but slept"),
            (self.would_wait, "`EAGAIN`"),
            (self.unknown, "`EOPNOTSUPP`"),
        ];
        let answers: Vec<_> = answers
            .into_iter()
            .filter(|&(n, _)| n > 0)
            .map(|(n, answer)| match n == all {
                true => answer.to_owned(),
                false => format!("{answer} {}", percent(n, all)),
            })
            .collect();
        match answers.is_empty() {
            true => f.write_str("–"),
            false => f.write_str(&answers.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_shown_if_results_differ() {
        let mut results = NowaitResults::default();
        assert_eq!(results.to_string(), "–");
        results.taken = 97;
        assert_eq!(results.to_string(), "taken");
        results.would_wait = 3;
        assert_eq!(results.to_string(), "taken 97 %, `EAGAIN` 3 %");
    }
}
