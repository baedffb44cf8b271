//! Computes and formats shares, and computes medians.

use std::time::Duration;

/// `part` divided by `whole`; 0 if `whole` is zero.
pub(super) fn share(part: Duration, whole: Duration) -> f64 {
    match whole.is_zero() {
        true => 0.0,
        false => part.as_secs_f64() / whole.as_secs_f64(),
    }
}

/// The median; zero if there are no times.
pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Formats `n` of `all` as a percentage. Only 0 is "0", and only all is "100 %".
pub fn percent(n: u64, all: u64) -> String {
    match n {
        0 => "0".to_owned(),
        n if n == all => "100 %".to_owned(),
        n => percent_of(n as f64 / all as f64),
    }
}

/// Formats a share between 0 and 1. The result is never "0 %" or "100 %".
pub fn percent_of(share: f64) -> String {
    match share * 100.0 {
        ..1.0 => "< 1 %".to_owned(),
        percent @ ..99.0 => format!("{percent:.0} %"),
        _ => "> 99 %".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_is_not_zero_and_most_is_not_all() {
        assert_eq!(percent(0, 1000), "0");
        assert_eq!(percent(1, 1000), "< 1 %");
        assert_eq!(percent(500, 1000), "50 %");
        assert_eq!(percent(999, 1000), "> 99 %");
        assert_eq!(percent(1000, 1000), "100 %");
    }

    #[test]
    fn no_times_have_a_share_and_median_of_zero() {
        assert_eq!(share(Duration::ZERO, Duration::ZERO), 0.0);
        assert_eq!(median(vec![]), Duration::ZERO);
    }
}
