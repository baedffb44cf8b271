//! [`Spread`]: a median and quartiles.

use serde::{Deserialize, Serialize};

/// The middle of some values, and the middle half of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Lower quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub q3: f64,
}

impl Spread {
    /// That of `values`. `None` where there are none, or one that is no number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Spread {
            q1: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            q3: quantile(&values, 0.75),
        })
    }

    /// That of `ours` divided by `theirs`, pair by pair.
    pub fn of_ratios(
        ours: impl IntoIterator<Item = f64>,
        theirs: impl IntoIterator<Item = f64>,
    ) -> Option<Spread> {
        Spread::of(ours.into_iter().zip(theirs).map(|(a, b)| a / b))
    }
}

/// The value that `share` of the sorted `values` are below; between two of them, the share of each.
fn quantile(values: &[f64], share: f64) -> f64 {
    let place = share * (values.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    let weight = place - low as f64;
    values[low] * (1.0 - weight) + values[high] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_one_in_the_middle() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (2.0, 3.0, 4.0));
    }

    #[test]
    fn the_median_of_an_even_number_is_half_way() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (1.75, 2.5, 3.25));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The ratio of the medians would be 4.
        let spread = Spread::of_ratios([10.0, 20.0, 30.0], [5.0, 10.0, 1.0]).unwrap();
        assert_eq!(spread.median, 2.0);
        let spread = Spread::of_ratios([2.0, 4.0], [1.0, 2.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (2.0, 2.0, 2.0));
    }

    #[test]
    fn there_is_no_median_of_nothing_nor_of_what_is_no_number() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of_ratios([1.0], [0.0]), None);
    }
}
