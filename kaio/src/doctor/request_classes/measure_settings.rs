//! [`MeasureSettings`]: the number and size of the requests.

use std::time::{Duration, Instant};

use super::RequestClass;

/// The number and size of the requests, and the time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasureSettings {
    /// Bytes per request; a multiple of the alignment of offset, length and memory.
    pub block: u64,
    /// Requests per class.
    pub requests: u64,
    /// Requests of the classes that take longer; at most `requests`.
    pub few: u64,
    /// Time after which no further request of a class is issued. `None`: no limit.
    pub limit: Option<Duration>,
}

/// The settings of `docs/file-systems.md`.
impl Default for MeasureSettings {
    fn default() -> MeasureSettings {
        MeasureSettings {
            block: 4096,
            requests: 1024,
            few: 128,
            limit: None,
        }
    }
}

impl MeasureSettings {
    /// Requests that are issued even after the time limit: fewer mean nothing.
    const MIN_REQUESTS: u64 = 8;

    /// Iterates over the numbers of the requests of a class, until the time limit.
    pub(super) fn requests(self, class: RequestClass) -> impl Iterator<Item = u64> {
        let began = Instant::now();
        (0..class.requests(self)).take_while(move |made| !self.is_over(*made, began))
    }

    /// Whether the time limit is reached, after `made` requests since `began`.
    fn is_over(self, made: u64, began: Instant) -> bool {
        made >= MeasureSettings::MIN_REQUESTS
            && self.limit.is_some_and(|limit| began.elapsed() >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_limit_applies_after_the_minimum_number_of_requests() {
        let settings = MeasureSettings {
            limit: Some(Duration::ZERO),
            ..MeasureSettings::default()
        };
        let began = Instant::now();
        assert!(!settings.is_over(MeasureSettings::MIN_REQUESTS - 1, began));
        assert!(settings.is_over(MeasureSettings::MIN_REQUESTS, began));
        assert!(!MeasureSettings::default().is_over(u64::MAX, began));
    }
}
