//! Shares, as numbers and as text, and medians.

use std::time::Duration;

/// The part that `part` is of `whole`; of nothing, none.
pub(super) fn share(part: Duration, whole: Duration) -> f64 {
    match whole.is_zero() {
        true => 0.0,
        false => part.as_secs_f64() / whole.as_secs_f64(),
    }
}

/// The median; of none, zero.
pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// `n` of `all`, in words that tell a few from none, and most from all.
pub fn percent(n: u64, all: u64) -> String {
    match n {
        0 => "0".to_owned(),
        n if n == all => "100 %".to_owned(),
        n => percent_of(n as f64 / all as f64),
    }
}

/// A share of 0 to 1, neither of which is said to be reached.
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
    fn a_few_are_not_none_and_most_are_not_all() {
        assert_eq!(percent(0, 1000), "0");
        assert_eq!(percent(1, 1000), "< 1 %");
        assert_eq!(percent(500, 1000), "50 %");
        assert_eq!(percent(999, 1000), "> 99 %");
        assert_eq!(percent(1000, 1000), "100 %");
    }

    #[test]
    fn nothing_has_no_share_and_no_median() {
        assert_eq!(share(Duration::ZERO, Duration::ZERO), 0.0);
        assert_eq!(median(vec![]), Duration::ZERO);
    }
}
